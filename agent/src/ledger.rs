//! The books of one signal: received = sent + refused + dropped + in flight.
//!
//! Invariants: an entry is settled exactly once; an entry that is dropped unsettled counts as refused
//! with the reason `abandoned`, so the sum holds whatever happens to a request.

use std::sync::Arc;

use mirador_otlp::Signal;
use mirador_service::metrics::{Counter, Family, Gauge, Registry};
use prometheus_client::encoding::EncodeLabelSet;

/// The signal.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct SignalLabels {
    signal: &'static str,
}

/// The signal and why.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ReasonLabels {
    signal: &'static str,
    reason: &'static str,
}

/// The books of the three signals.
#[derive(Debug, Clone)]
pub struct Ledger {
    books: Arc<[Book; 3]>,
}

#[derive(Debug)]
struct Book {
    signal: &'static str,
    received: Counter,
    sent: Counter,
    in_flight: Gauge,
    refused: Family<ReasonLabels, Counter>,
    dropped: Family<ReasonLabels, Counter>,
    requests: Counter,
}

/// The items of one request, until they are settled.
#[derive(Debug)]
#[must_use = "an entry that is dropped counts as abandoned"]
pub struct Entry {
    books: Arc<[Book; 3]>,
    book: usize,
    items: u64,
    settled: bool,
}

impl Ledger {
    /// Registers the counters; call once per registry.
    pub fn register(registry: &Registry) -> Self {
        let received: Family<SignalLabels, Counter> =
            registry.counter_family("mirador_agent_received_items", "Items of valid requests.");
        let sent: Family<SignalLabels, Counter> =
            registry.counter_family("mirador_agent_sent_items", "Items of requests that every owner has acknowledged.");
        let refused: Family<ReasonLabels, Counter> = registry.counter_family(
            "mirador_agent_refused_items",
            "Items of requests that were answered with an error; the client still has them.",
        );
        let dropped: Family<ReasonLabels, Counter> = registry.counter_family(
            "mirador_agent_dropped_items",
            "Items that were acknowledged but not sent: left out by an owner for good, or delivered before.",
        );
        for name in ["mirador_agent_refused_items", "mirador_agent_dropped_items"] {
            registry.declare_labels(name, &["signal", "reason"]);
        }
        let requests: Family<SignalLabels, Counter> =
            registry.counter_family("mirador_agent_requests", "Valid requests.");
        let in_flight: Family<SignalLabels, Gauge> =
            registry.gauge_family("mirador_agent_in_flight_items", "Items of requests that are not answered yet.");
        let books = Signal::ALL.map(|signal| {
            let labels = SignalLabels { signal: signal.as_str() };
            Book {
                signal: signal.as_str(),
                received: received.get_or_create_owned(&labels),
                sent: sent.get_or_create_owned(&labels),
                in_flight: in_flight.get_or_create_owned(&labels),
                refused: refused.clone(),
                dropped: dropped.clone(),
                requests: requests.get_or_create_owned(&labels),
            }
        });
        Self { books: Arc::new(books) }
    }

    /// Enters the items of one request.
    pub fn enter(&self, signal: Signal, items: usize) -> Entry {
        let entry =
            Entry { books: Arc::clone(&self.books), book: signal as usize, items: items as u64, settled: false };
        let book = entry.book();
        book.requests.inc();
        book.in_flight.inc_by(items as i64);
        book.received.inc_by(items as u64);
        entry
    }
}

impl Entry {
    fn book(&self) -> &Book {
        &self.books[self.book]
    }

    /// Every owner has acknowledged; `rejected` items were left out for good.
    pub fn sent(mut self, rejected: u64) {
        let rejected = rejected.min(self.items);
        self.book().sent.inc_by(self.items - rejected);
        if rejected > 0 {
            self.count_dropped("owner_rejected", rejected);
        }
        self.close();
    }

    /// The client is told that nothing was taken.
    pub fn refused(mut self, reason: &'static str) {
        self.count_refused(reason);
        self.close();
    }

    /// Acknowledged without being sent.
    pub fn dropped(mut self, reason: &'static str) {
        self.count_dropped(reason, self.items);
        self.close();
    }

    fn count_refused(&self, reason: &'static str) {
        let book = self.book();
        book.refused.get_or_create_owned(&ReasonLabels { signal: book.signal, reason }).inc_by(self.items);
    }

    fn count_dropped(&self, reason: &'static str, items: u64) {
        let book = self.book();
        book.dropped.get_or_create_owned(&ReasonLabels { signal: book.signal, reason }).inc_by(items);
    }

    fn close(&mut self) {
        self.book().in_flight.dec_by(self.items as i64);
        self.settled = true;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if !self.settled {
            self.count_refused("abandoned");
            self.close();
        }
    }
}
