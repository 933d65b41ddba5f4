//! The limit of time of a question.

use std::sync::mpsc;

use super::*;

/// Counts for far longer than any test runs.
const ENDLESS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";

fn store(limit: Duration) -> Store {
    Store::of(Connection::open_in_memory().unwrap(), limit)
}

fn one(connection: &Connection) -> anyhow::Result<i64> {
    Ok(connection.query_row("SELECT 1", [], |row| row.get(0))?)
}

#[tokio::test]
async fn a_question_that_never_ends_is_interrupted_and_the_next_one_is_answered() {
    let store = store(Duration::from_millis(50));
    let endless = |connection: &Connection| Ok(connection.query_row(ENDLESS, [], |row| row.get::<_, i64>(0))?);
    let error = store.ask(endless).await.unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(Unanswered::TooSlow(_))), "{error:?}");
    assert!(error.to_string().contains("console.query_timeout, 50ms"), "{error}");
    assert_eq!(store.ask(one).await.unwrap(), 1);
}

#[tokio::test]
async fn a_question_of_many_short_statements_is_interrupted_too() {
    let store = store(Duration::from_millis(50));
    let endless = |connection: &Connection| -> anyhow::Result<()> {
        loop {
            let many = ENDLESS.replace("FROM n)", "FROM n WHERE i < 20000)");
            connection.query_row(&many, [], |row| row.get::<_, i64>(0))?;
        }
    };
    let error = store.ask(endless).await.unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(Unanswered::TooSlow(_))), "{error:?}");
}

#[tokio::test]
async fn a_question_that_nobody_waits_for_ends_and_one_that_waits_too_long_is_told_so() {
    let store = store(Duration::from_millis(50));
    let (begun, begins) = mpsc::channel();
    let (end, ends) = mpsc::channel::<()>();
    let blocking = move |_: &Connection| {
        begun.send(()).unwrap();
        Ok(ends.recv()?)
    };
    let asker = store.clone();
    let question = tokio::spawn(async move { asker.ask(blocking).await });
    tokio::task::spawn_blocking(move || begins.recv().unwrap()).await.unwrap();
    question.abort();
    let error = store.ask(one).await.unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(Unanswered::Busy(_))), "{error:?}");
    end.send(()).unwrap();
    // The connection comes back although its asker is gone.
    let mut answered = store.ask(one).await;
    while answered.as_ref().is_err_and(|error| matches!(error.downcast_ref(), Some(Unanswered::Busy(_)))) {
        answered = store.ask(one).await;
    }
    assert_eq!(answered.unwrap(), 1);
}

#[tokio::test]
async fn what_a_question_itself_finds_wrong_is_told_as_it_is() {
    let error = store(Duration::from_secs(60)).ask(|_| -> anyhow::Result<()> { anyhow::bail!("no such thing") }).await;
    assert_eq!(error.unwrap_err().to_string(), "no such thing");
}
