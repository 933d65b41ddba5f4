//! The identity of a series: exactly the labels that leave Mirador.
//!
//! Two resources that differ only in attributes that are no labels have the same key, so their
//! numbers add up. Texts are shared (`Arc<str>`): a name that many series carry is stored once.
//!
//! Invariants: dimensions are sorted by name and have no empty value (Prometheus' data model makes
//! an empty label the same as none), so equal label sets are equal keys.

use std::sync::Arc;

use mirador_otlp::traces::{kind_name, status_name};

use crate::config::BuiltIn;

/// Label of the resource's service name.
pub const LABEL_SERVICE: &str = "service.name";
/// Label of the span's name.
pub const LABEL_SPAN_NAME: &str = "span.name";
/// Label of the span's kind, as `SPAN_KIND_SERVER`.
pub const LABEL_SPAN_KIND: &str = "span.kind";
/// Label of the span's status code, as `STATUS_CODE_ERROR`.
pub const LABEL_STATUS: &str = "status.code";
/// The only label of the overflow series; its value is `true`.
pub const LABEL_OVERFLOW: &str = "otel.metric.overflow";

/// Built-in labels that are left out (`exclude_dimensions`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Excluded(u8);

impl Excluded {
    /// The set of `labels`.
    pub fn of(labels: impl IntoIterator<Item = BuiltIn>) -> Self {
        Self(labels.into_iter().fold(0, |set, label| set | label.bit()))
    }

    /// True when `label` is left out.
    pub const fn contains(self, label: BuiltIn) -> bool {
        self.0 & label.bit() != 0
    }

    /// The labels that are left out, in the order of `BuiltIn::ALL`.
    pub fn iter(self) -> impl Iterator<Item = BuiltIn> {
        BuiltIn::ALL.into_iter().filter(move |label| self.contains(*label))
    }
}

/// The labels of one RED series.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeriesKey {
    /// `service.name`; empty when excluded and for the overflow series.
    pub service: Arc<str>,
    /// `span.name`; empty when excluded and for the overflow series.
    pub span_name: Arc<str>,
    /// Span kind as OTLP numbers it, 0 to 5; 0 when excluded.
    pub kind: i32,
    /// Status code as OTLP numbers it, 0 to 2; 0 when excluded.
    pub status: i32,
    /// Configured dimensions that the series has, as (name, non-empty value), sorted by name.
    pub dimensions: Vec<(Arc<str>, Arc<str>)>,
    /// True for the series that takes what has no series of its own.
    pub overflow: bool,
    /// Built-in labels that the sender leaves out.
    pub excluded: Excluded,
}

impl SeriesKey {
    /// The key of the overflow series: no label but `otel.metric.overflow=true`.
    pub fn overflow() -> Self {
        Self {
            service: Arc::default(),
            span_name: Arc::default(),
            kind: 0,
            status: 0,
            dimensions: Vec::new(),
            overflow: true,
            excluded: Excluded::default(),
        }
    }

    /// The labels as (OpenTelemetry name, value): built-ins first, then dimensions by name.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        let built_in = [
            (BuiltIn::ServiceName, &*self.service),
            (BuiltIn::SpanName, &*self.span_name),
            (BuiltIn::SpanKind, kind_name(self.kind)),
            (BuiltIn::StatusCode, status_name(self.status)),
        ];
        let built_in = built_in
            .into_iter()
            .filter(|(label, _)| !self.overflow && !self.excluded.contains(*label))
            .map(|(label, value)| (label.name(), value));
        let overflow = self.overflow.then_some((LABEL_OVERFLOW, "true"));
        let dimensions = self.dimensions.iter().map(|(name, value)| (&**name, &**value));
        built_in.chain(overflow).chain(dimensions)
    }
}
