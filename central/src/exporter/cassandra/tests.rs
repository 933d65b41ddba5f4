//! Batches, and which of two outcomes wins.

use mirador_otlp::{Limits, Signal};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value};
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use proptest::prelude::*;
use prost::Message;

use super::*;

fn placed(bodies: &[usize]) -> Vec<Placed> {
    let log_records = bodies.iter().enumerate().map(|(index, &bytes)| LogRecord {
        time_unix_nano: 1_700_000_000_000_000_000 + index as u64 * 60_000_000_000,
        body: Some(AnyValue { value: Some(any_value::Value::StringValue("x".repeat(bytes))) }),
        ..LogRecord::default()
    });
    let scope_logs = vec![ScopeLogs { log_records: log_records.collect(), ..ScopeLogs::default() }];
    let resource_logs = vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }];
    let body = ExportLogsServiceRequest { resource_logs }.encode_to_vec();
    let request = Request::parse(Signal::Logs, body.into(), &Limits::default()).unwrap();
    row::read(&request, &Config::default(), Duration::from_secs(1_700_000_000)).rows
}

proptest! {
    #[test]
    fn a_batch_has_one_partition_and_stays_below_the_guard_rails(bodies in prop::collection::vec(0..20_000_usize, 0..300)) {
        let rows = placed(&bodies);
        let mut before: Vec<_> = rows.iter().map(|placed| *placed.row.id.as_bytes()).collect();
        let batches = by_partition(rows);
        for batch in &batches {
            prop_assert!(!batch.is_empty() && batch.len() <= BATCH_ROWS);
            prop_assert!(batch.iter().all(|placed| placed.row.partition() == batch[0].row.partition()));
            let bytes: usize = batch.iter().map(|placed| placed.row.estimated_bytes()).sum();
            prop_assert!(bytes <= BATCH_BYTES || batch.len() == 1, "{bytes}");
        }
        let mut after: Vec<_> = batches.iter().flatten().map(|placed| *placed.row.id.as_bytes()).collect();
        before.sort_unstable();
        after.sort_unstable();
        prop_assert_eq!(before, after, "every row is in one batch");
    }
}

#[test]
fn a_row_larger_than_a_batch_goes_alone() {
    let batches = by_partition(placed(&[60_000, 60_000]));
    assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1]);
}

#[test]
fn of_two_outcomes_the_one_that_needs_an_operator_wins_then_the_one_that_may_be_repeated() {
    let reason = || "x".to_owned();
    let ordered = [
        Ok(()),
        Err(ExportError::Drop { reason: reason() }),
        Err(ExportError::Retry { after: None, reason: reason() }),
        Err(ExportError::Fatal { reason: reason() }),
    ];
    for (low, left) in ordered.iter().enumerate() {
        for (high, right) in ordered.iter().enumerate() {
            let winner = worst(left.clone(), right.clone());
            assert_eq!(format!("{winner:?}"), format!("{:?}", ordered[low.max(high)]));
        }
    }
}
