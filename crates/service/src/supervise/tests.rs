//! Tasks that end early end the process.

use std::time::Duration;

use super::*;

fn group() -> (Supervisor, Drain, Health) {
    let (drain, health) = (Drain::new(Duration::from_secs(20)), Health::new());
    (Supervisor::new(drain.clone(), health.clone()), drain, health)
}

async fn until_drained(drain: Drain) -> anyhow::Result<()> {
    drain.started().await;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn tasks_that_end_after_the_drain_has_begun_end_well() {
    let (mut tasks, drain, health) = group();
    tasks.spawn("one", until_drained(drain.clone()));
    tasks.spawn("two", until_drained(drain.clone()));
    let run = tokio::spawn(tasks.run());
    tokio::task::yield_now().await;
    assert!(health.report().ready && !run.is_finished());
    drain.start();
    run.await.unwrap().unwrap();
    assert!(health.report().live);
}

#[tokio::test(start_paused = true)]
async fn an_early_end_drains_the_others_and_is_the_error() {
    let (mut tasks, drain, health) = group();
    tasks.spawn("steady", until_drained(drain.clone()));
    tasks.spawn("short", async { Ok(()) });
    let error = tasks.run().await.unwrap_err();
    assert_eq!(error.to_string(), "task short ended while the process was serving");
    assert!(drain.is_draining());
    assert_eq!(health.report().dead(), ["short: task short ended while the process was serving"]);
}

#[tokio::test(start_paused = true)]
async fn an_error_is_passed_on_with_its_causes() {
    let (mut tasks, _drain, _health) = group();
    tasks.spawn("store", async { Err(anyhow::anyhow!("disk full").context("cannot write")) });
    let error = tasks.run().await.unwrap_err();
    assert_eq!(error.to_string(), "task store failed: cannot write: disk full");
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_an_error_even_while_draining() {
    let (mut tasks, drain, _health) = group();
    let started = drain.clone();
    tasks.spawn("shard", async move {
        started.started().await;
        panic!("index out of range");
    });
    drain.start();
    let error = tasks.run().await.unwrap_err();
    assert_eq!(error.to_string(), "task shard panicked: index out of range");
}

#[tokio::test(start_paused = true)]
async fn tasks_that_do_not_end_in_time_are_named_and_aborted() {
    let (mut tasks, drain, _health) = group();
    let alive = std::sync::Arc::new(());
    let held = std::sync::Arc::clone(&alive);
    tasks.spawn("stuck", async move {
        std::future::pending::<()>().await;
        drop(held);
        Ok(())
    });
    drain.start();
    let error = tasks.run().await.unwrap_err();
    assert_eq!(error.to_string(), "tasks did not end within the grace period: stuck");
    while std::sync::Arc::strong_count(&alive) > 1 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_error_is_the_one_that_is_returned() {
    let (mut tasks, drain, _health) = group();
    tasks.spawn("first", async { Err(anyhow::anyhow!("first")) });
    tasks.spawn("second", async move {
        drain.started().await;
        Err(anyhow::anyhow!("second"))
    });
    assert_eq!(tasks.run().await.unwrap_err().to_string(), "task first failed: first");
}
