//! The encoder against a decoder that knows nothing of it.

use std::sync::Arc;

use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::series::{LabelSet, Pair, STALE_NAN};

/// `prometheus.WriteRequest` of remote write 1.0, as far as it is written.
#[derive(Clone, PartialEq, Message)]
pub(in crate::exporter) struct WriteRequest {
    #[prost(message, repeated, tag = "1")]
    pub timeseries: Vec<TimeSeries>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::exporter) struct TimeSeries {
    #[prost(message, repeated, tag = "1")]
    pub labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    pub samples: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    pub exemplars: Vec<WireExemplar>,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::exporter) struct Label {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::exporter) struct Sample {
    #[prost(double, tag = "1")]
    pub value: f64,
    #[prost(int64, tag = "2")]
    pub timestamp: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(in crate::exporter) struct WireExemplar {
    #[prost(message, repeated, tag = "1")]
    pub labels: Vec<Label>,
    #[prost(double, tag = "2")]
    pub value: f64,
    #[prost(int64, tag = "3")]
    pub timestamp: i64,
}

fn labels<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<Label> {
    pairs.into_iter().map(|(name, value)| Label { name: name.into(), value: value.into() }).collect()
}

fn expected(batch: &SeriesBatch, exemplars: bool) -> WriteRequest {
    let timeseries = batch.series.iter().map(|series| TimeSeries {
        labels: labels(series.labels.texts()),
        samples: series
            .samples
            .iter()
            .map(|(timestamp, value)| Sample { value: *value, timestamp: *timestamp })
            .collect(),
        exemplars: series
            .exemplars
            .iter()
            .filter(|_| exemplars)
            .map(|exemplar| WireExemplar {
                labels: labels(exemplar.labels.iter().map(|(name, value)| (&**name, &**value))),
                value: exemplar.value,
                timestamp: exemplar.timestamp_ms,
            })
            .collect(),
    });
    WriteRequest { timeseries: timeseries.collect() }
}

fn pairs() -> impl Strategy<Value = Vec<Pair>> {
    prop::collection::vec(("[a-z_]{1,12}", "[a-zé]{0,200}"), 0..8)
        .prop_map(|pairs| pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
}

fn series() -> impl Strategy<Value = Series> {
    let samples =
        prop::collection::vec((any::<i64>(), any::<f64>().prop_filter("comparable", |value| !value.is_nan())), 0..4);
    let exemplars = prop::collection::vec((pairs(), -1e9_f64..1e9, any::<i64>()), 0..3).prop_map(|exemplars| {
        exemplars.into_iter().map(|(labels, value, timestamp_ms)| Exemplar { labels, value, timestamp_ms }).collect()
    });
    (pairs(), samples, exemplars).prop_map(|(pairs, samples, exemplars)| Series {
        labels: Arc::new(pairs.into_iter().collect::<LabelSet>()),
        samples: samples.into(),
        exemplars,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_decodes_to_the_batch(series in prop::collection::vec(series(), 0..6), exemplars: bool) {
        let batch = SeriesBatch { series };
        let bytes = write_request(&batch.series, exemplars);
        prop_assert_eq!(bytes.capacity(), bytes.len(), "the length is known beforehand");
        prop_assert_eq!(WriteRequest::decode(bytes.as_slice()).unwrap(), expected(&batch, exemplars));
    }

    #[test]
    fn blocks_cover_the_batch_in_order_and_stay_below_the_limit(
        series in prop::collection::vec(series(), 0..12), limit in 100_usize..2000,
    ) {
        let batch = SeriesBatch { series };
        let blocks = blocks(&batch, limit, true);
        let mut next = 0;
        for block in &blocks {
            prop_assert_eq!(block.start, next);
            prop_assert!(block.len() == 1 || write_request(&batch.series[block.clone()], true).len() <= limit);
            next = block.end;
        }
        prop_assert_eq!(next, batch.series.len());
    }
}

#[test]
fn a_stale_marker_keeps_its_bits() {
    let labels: LabelSet = [(Box::from("__name__"), Box::from("up"))].into_iter().collect();
    let bytes = write_request(&[Series::sample(Arc::new(labels), 1_700_000_000_000, STALE_NAN)], false);
    let decoded = WriteRequest::decode(bytes.as_slice()).unwrap();
    assert_eq!(decoded.timeseries[0].samples[0].value.to_bits(), 0x7ff0_0000_0000_0002);
}
