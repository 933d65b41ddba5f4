//! What a series takes in memory, all in: scoring state, labels, its place in the table. Counted by the allocator.

use std::sync::Arc;

use allocation_counter::measure;
use mirador_central::isolationforest::Config;
use mirador_central::isolationforest::pass::Shard;
use mirador_otlp::{Limits, Request, Signal};
use mirador_support::load::metrics::{Payload, STEP_NANOS};

const START: u64 = 1_700_000_000_000_000_000;
const SERIES: usize = 2_000;
/// Points of each series: enough to fill its samples and to give it a history of scores.
const POINTS: u64 = 80;

#[test]
fn a_series_takes_four_kibibytes_at_most_with_its_labels_and_its_place() {
    let mut payload = Payload::new(0, SERIES, START);
    let mut kept = None;
    let counted = measure(|| {
        let mut shard = Shard::new(Arc::new(Config::default()), 1);
        for point in 1..=POINTS {
            let body = payload.later().slice(5..);
            let request = Request::parse(Signal::Metrics, body, &Limits::default()).expect("the payload is OTLP");
            let outcome = shard.pass(&request, None, START + point * STEP_NANOS);
            assert_eq!(outcome.tally.points, SERIES as u64);
            assert!(point < POINTS || outcome.scored == SERIES as u64, "{} have a score", outcome.scored);
        }
        kept = Some(shard);
    });
    assert_eq!(kept.map(|shard| shard.series()), Some(SERIES));
    let bytes = counted.bytes_current / SERIES as i64;
    println!("a series takes {bytes} bytes");
    assert!((1_000..=4_096).contains(&bytes), "a series takes {bytes} bytes");
}
