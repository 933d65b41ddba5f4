//! The switch from serving to draining.

use super::*;

const GRACE: Duration = Duration::from_secs(20);

#[tokio::test(start_paused = true)]
async fn it_finishes_when_the_last_guard_is_gone() {
    let drain = Drain::new(GRACE);
    let (one, two) = (drain.guard(), drain.guard());
    let three = two.clone();
    assert_eq!(drain.in_flight(), 3);
    let finished = tokio::spawn({
        let drain = drain.clone();
        async move { drain.finished().await }
    });
    drain.start();
    drop(one);
    drop(two);
    tokio::task::yield_now().await;
    assert!(!finished.is_finished());
    drop(three);
    assert_eq!(finished.await.unwrap(), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn without_work_it_finishes_at_once_but_never_before_it_has_started() {
    let drain = Drain::new(GRACE);
    assert!(tokio::time::timeout(Duration::from_hours(1), drain.finished()).await.is_err());
    assert!(!drain.is_draining());
    drain.start();
    assert_eq!(drain.finished().await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn work_that_does_not_end_is_counted_at_the_deadline() {
    let drain = Drain::new(GRACE);
    let _stuck = (drain.guard(), drain.guard());
    drain.start();
    let deadline = drain.deadline().unwrap();
    assert_eq!(drain.finished().await, Err(Left { in_flight: 2 }));
    assert!(Instant::now() >= deadline);
}

#[tokio::test(start_paused = true)]
async fn answers_get_the_grace_period_but_the_share_of_what_comes_after_them() {
    let drain = Drain::new(GRACE);
    let stuck = drain.guard();
    drain.start();
    let begun = Instant::now();
    assert_eq!(drain.answered(4).await, 1);
    assert_eq!(Instant::now() - begun, GRACE * 3 / 4);
    drop(stuck);
    // Asked too late, it still tells what has ended.
    tokio::time::advance(GRACE).await;
    assert_eq!(drain.answered(4).await, 0);
}

#[tokio::test(start_paused = true)]
async fn starting_twice_does_not_move_the_deadline() {
    let drain = Drain::new(GRACE);
    assert_eq!(drain.deadline(), None);
    drain.start();
    let deadline = drain.deadline();
    tokio::time::advance(Duration::from_secs(5)).await;
    drain.start();
    assert_eq!(drain.deadline(), deadline);
}

#[tokio::test(start_paused = true)]
async fn everyone_who_waits_for_the_start_is_woken() {
    let drain = Drain::new(GRACE);
    let waiting: Vec<_> = (0..10)
        .map(|_| {
            let drain = drain.clone();
            tokio::spawn(async move { drain.started().await })
        })
        .collect();
    tokio::task::yield_now().await;
    drain.start();
    for task in waiting {
        task.await.unwrap();
    }
    drain.started().await;
}

#[tokio::test(start_paused = true)]
async fn work_may_begin_while_draining_and_is_waited_for() {
    let drain = Drain::new(GRACE);
    let first = drain.guard();
    drain.start();
    let follow_up = drain.guard();
    drop(first);
    let finished = tokio::spawn({
        let drain = drain.clone();
        async move { drain.finished().await }
    });
    tokio::task::yield_now().await;
    assert!(!finished.is_finished());
    drop(follow_up);
    assert_eq!(finished.await.unwrap(), Ok(()));
}

#[tokio::test]
async fn a_sigterm_starts_the_drain() {
    let drain = Drain::new(GRACE);
    let listening = tokio::spawn(signals(drain.clone()));
    // One turn registers the handler; without it the signal would end this process.
    tokio::task::yield_now().await;
    let status = std::process::Command::new("kill").args(["-TERM", &std::process::id().to_string()]).status().unwrap();
    assert!(status.success());
    drain.started().await;
    assert!(!listening.is_finished());
    listening.abort();
}

#[test]
fn the_drain_is_a_metric() {
    let (drain, registry) = (Drain::new(GRACE), Registry::new());
    drain.register_metrics(&registry);
    let _work = drain.guard();
    drain.start();
    let page = registry.encode();
    assert!(
        page.contains("\nmirador_process_draining 1.0\n") && page.contains("\nmirador_process_in_flight 1.0\n"),
        "{page}"
    );
}
