//! Liveness and readiness.

use super::*;

const MAX_AGE: Duration = Duration::from_secs(10);

fn later(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}

#[test]
fn a_process_without_components_is_live_and_ready() {
    let report = Health::new().report();
    assert!(report.live && report.ready && report.components.is_empty());
}

#[test]
fn it_is_ready_when_every_component_is_and_says_who_is_not() {
    let health = Health::new();
    let (receiver, ring) = (health.component("receiver"), health.component("ring"));
    receiver.ready(true, "ignored");
    assert_eq!(health.report().unready(), ["ring: starting"]);
    ring.ready(false, "no owner resolves");
    assert_eq!(health.report().unready(), ["ring: no owner resolves"]);
    assert!(health.report().live, "not ready is not dead");
    ring.ready(true, "");
    assert!(health.report().ready);
}

#[test]
fn a_worker_that_does_not_beat_within_its_age_is_not_live_until_it_beats_again() {
    let health = Health::new();
    let worker = health.worker("shard", MAX_AGE);
    worker.ready(true, "");
    assert!(health.report_at(later(9)).live);
    let report = health.report_at(later(11));
    assert!(!report.live && !report.ready);
    assert!(report.dead()[0].starts_with("shard: no heartbeat for 1"), "{:?}", report.dead());
    worker.beat();
    assert!(health.report().live);
}

#[test]
fn a_component_without_a_heartbeat_never_grows_too_old() {
    let health = Health::new();
    let listener = health.component("listener");
    listener.ready(true, "");
    assert!(health.report_at(later(1_000_000)).ready);
    drop(listener);
    assert!(health.report().live);
}

#[test]
fn a_worker_whose_thread_panicked_is_dead_at_once() {
    let health = Health::new();
    let worker = health.worker("shard", MAX_AGE);
    let thread = std::thread::spawn(move || {
        worker.ready(true, "");
        panic!("the worker dies");
    });
    assert!(thread.join().is_err());
    assert_eq!(health.report().dead(), ["shard: the worker ended"]);
}

#[test]
fn a_worker_that_finished_leaves_the_report_and_one_that_failed_stays_in_it() {
    let health = Health::new();
    let (done, failed) = (health.worker("done", MAX_AGE), health.worker("failed", MAX_AGE));
    done.finish();
    drop(done);
    failed.fail("the disk is gone");
    failed.beat();
    failed.finish();
    assert_eq!(health.report().dead(), ["failed: the disk is gone"]);
    assert_eq!(health.report().components.len(), 1);
}

#[test]
fn a_clone_keeps_a_worker_alive() {
    let health = Health::new();
    let worker = health.worker("shard", MAX_AGE);
    let clone = worker.clone();
    drop(worker);
    assert!(health.report().live);
    drop(clone);
    assert!(!health.report().live);
}

#[test]
fn two_components_of_one_name_do_not_hide_each_other() {
    let health = Health::new();
    let (first, second) = (health.component("link"), health.component("link"));
    assert_eq!((first.name(), second.name()), ("link", "link-2"));
    first.ready(true, "");
    assert_eq!(health.report().unready(), ["link-2: starting"]);
    second.finish();
    assert_eq!(health.component("link-2").name(), "link-2", "a finished one frees its name");
}

#[test]
fn what_lies_behind_a_connection_is_shown_and_takes_nobody_out_of_service() {
    let health = Health::new();
    let backend = health.remote("exporter/logs");
    backend.ready(false, "no owner is known");
    let report = health.report();
    assert!(report.live && report.ready && report.unready().is_empty());
    let shown = &report.components[0];
    assert_eq!((shown.ready, shown.reason.as_str()), (false, "no owner is known"));
}
