//! Metrics whose value is read when they are scraped. The reader is called under the registry's
//! lock, so it must neither block nor register anything.

use std::fmt;
use std::sync::Arc;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;

/// How the value is exposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ObservedKind {
    Counter,
    Gauge,
}

/// A value that is asked for at every scrape.
#[derive(Clone)]
pub(super) struct Observed {
    kind: ObservedKind,
    read: Arc<dyn Fn() -> f64 + Send + Sync>,
}

impl Observed {
    pub(super) fn new(kind: ObservedKind, read: Arc<dyn Fn() -> f64 + Send + Sync>) -> Self {
        Self { kind, read }
    }
}

impl fmt::Debug for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observed").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl EncodeMetric for Observed {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let value = (self.read)();
        match self.kind {
            ObservedKind::Counter => {
                encoder.encode_counter::<prometheus_client::encoding::NoLabelSet, f64, f64>(&value, None)
            }
            ObservedKind::Gauge => encoder.encode_gauge(&value),
        }
    }

    fn metric_type(&self) -> MetricType {
        match self.kind {
            ObservedKind::Counter => MetricType::Counter,
            ObservedKind::Gauge => MetricType::Gauge,
        }
    }
}
