//! A request whose wire form has been checked once.

use bytes::Bytes;

use crate::error::WireError;
use crate::repeated::Repeated;
use crate::schema::Schema;
use crate::signal::Signal;
use crate::validate::{self, Checked};
use crate::{canonical, logs, metrics, traces};

/// What a request may be at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Levels of nested messages below the request; the spans of a request are at level 3, each
    /// array in a value takes 2 levels and each map 3. Values above 100, where `prost` itself stops,
    /// count as 100. Default 64.
    pub max_depth: usize,
    /// Spans, data points or log records in one request. Default 1,000,000.
    pub max_items: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_depth: 64, max_items: 1_000_000 }
    }
}

/// A request whose wire form has been checked once; every read below is infallible.
///
/// Cloning shares the bytes.
#[derive(Debug, Clone)]
pub struct Request {
    signal: Signal,
    body: Bytes,
    items: usize,
}

impl Request {
    /// Checks an `Export*ServiceRequest` of `signal` in one pass without allocating.
    ///
    /// # Errors
    /// [`WireError`] names the first byte that is wrong, or the limit that is exceeded.
    pub fn parse(signal: Signal, body: Bytes, limits: &Limits) -> Result<Self, WireError> {
        let Checked { items, pieces, .. } = validate::check(signal, &body, limits)?;
        if pieces == 0 {
            return Ok(Self { signal, body, items });
        }
        let body = Bytes::from(canonical::rewrite(Schema::request(signal), &body));
        // Checked again because a data oneof that was overridden takes its points with it.
        let Checked { items, .. } = validate::check(signal, &body, limits)?;
        Ok(Self { signal, body, items })
    }

    /// The same items in other bytes, which are known to be valid.
    pub(crate) fn with_bytes(&self, body: Bytes) -> Self {
        Self { signal: self.signal, body, items: self.items }
    }

    /// Which kind of request this is.
    pub fn signal(&self) -> Signal {
        self.signal
    }

    /// The request's bytes, as received unless singular messages came in pieces.
    pub fn bytes(&self) -> &Bytes {
        &self.body
    }

    /// Spans, data points or log records in it.
    pub fn items(&self) -> usize {
        self.items
    }

    /// The traces by resource; empty for other signals.
    pub fn resource_spans(&self) -> Repeated<'_, traces::ResourceSpans<'_>> {
        Repeated::new(self.body_if(Signal::Traces), 1)
    }

    /// The metrics by resource; empty for other signals.
    pub fn resource_metrics(&self) -> Repeated<'_, metrics::ResourceMetrics<'_>> {
        Repeated::new(self.body_if(Signal::Metrics), 1)
    }

    /// The logs by resource; empty for other signals.
    pub fn resource_logs(&self) -> Repeated<'_, logs::ResourceLogs<'_>> {
        Repeated::new(self.body_if(Signal::Logs), 1)
    }

    fn body_if(&self, signal: Signal) -> &[u8] {
        if self.signal == signal { &self.body } else { &[] }
    }
}
