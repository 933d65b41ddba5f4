//! Cutting what a backend refused in two, so that poison can be told from the rest.
//!
//! Invariants: the two halves hold every item of the whole, in order, and neither is empty; what cannot be
//! cut is one item. Spans and resources are cut by copying bytes; log records of one resource are decoded,
//! which loses unknown fields, because this path is only walked by requests that were refused.

use std::sync::Arc;

use mirador_otlp::splice;
use mirador_otlp::{Limits, Request, Signal};
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::logs::v1::ResourceLogs;
use prost::Message;

use crate::series::{Series, SeriesBatch};

/// Something that may be sent in parts.
pub(super) trait Divide: Sized + Send + Sync {
    /// What is counted when it is dropped.
    fn items(&self) -> u64;
    /// Two parts that hold everything; `None` when it cannot be cut.
    fn halves(&self) -> Option<[Self; 2]>;
}

impl Divide for Request {
    fn items(&self) -> u64 {
        Self::items(self) as u64
    }

    fn halves(&self) -> Option<[Self; 2]> {
        match self.signal() {
            Signal::Traces => spans(self),
            Signal::Logs => log_resources(self).or_else(|| log_records(self)),
            // Stores take metrics as series.
            Signal::Metrics => None,
        }
    }
}

fn spans(request: &Request) -> Option<[Request; 2]> {
    let half = Divide::items(request) / 2;
    let mut before = 0;
    pair(
        Signal::Traces,
        splice::split_spans(request, 2, |_| {
            before += 1;
            usize::from(before > half)
        }),
    )
}

/// Cuts between two resources, as near to the middle of the records as possible.
fn log_resources(request: &Request) -> Option<[Request; 2]> {
    let records = |scopes: mirador_otlp::logs::ResourceLogs<'_>| -> u64 {
        scopes.scopes().map(|scope| scope.log_records().count() as u64).sum()
    };
    let all = Divide::items(request);
    let mut before = 0;
    // The cut stands in front of the first resource that lies more than half behind the middle.
    let sides: Vec<usize> = request
        .resource_logs()
        .map(|resource| {
            let own = records(resource);
            let side = usize::from(2 * before + own > all && before > 0);
            before += own;
            side
        })
        .collect();
    let mut index = 0;
    pair(
        Signal::Logs,
        splice::split_resources(request, 2, |_| {
            index += 1;
            sides.get(index - 1).copied().unwrap_or(1)
        }),
    )
}

fn log_records(request: &Request) -> Option<[Request; 2]> {
    let left = ExportLogsServiceRequest::decode(request.bytes().clone()).ok()?;
    let right = left.clone();
    let half = request.items() / 2;
    let kept = |mut whole: ExportLogsServiceRequest, wanted: fn(usize, usize) -> bool| {
        let mut index = 0;
        for scope in whole.resource_logs.iter_mut().flat_map(|resource| &mut resource.scope_logs) {
            scope.log_records.retain(|_| {
                index += 1;
                wanted(index, half)
            });
        }
        for resource in &mut whole.resource_logs {
            resource.scope_logs.retain(|scope| !scope.log_records.is_empty());
        }
        whole.resource_logs.retain(|resource: &ResourceLogs| !resource.scope_logs.is_empty());
        Request::parse(Signal::Logs, whole.encode_to_vec().into(), &Limits::default()).ok()
    };
    both(kept(left, |index, half| index <= half)?, kept(right, |index, half| index > half)?)
}

fn pair(signal: Signal, parts: Vec<splice::Part>) -> Option<[Request; 2]> {
    let [left, right] = <[splice::Part; 2]>::try_from(parts).ok()?;
    let parse = |part: splice::Part| Request::parse(signal, part.bytes, &Limits::default()).ok();
    both(parse(left)?, parse(right)?)
}

fn both(left: Request, right: Request) -> Option<[Request; 2]> {
    (left.items() > 0 && right.items() > 0).then_some([left, right])
}

impl Divide for Arc<SeriesBatch> {
    fn items(&self) -> u64 {
        self.samples() as u64
    }

    fn halves(&self) -> Option<[Self; 2]> {
        let (left, right) = match self.series.as_slice() {
            [] => return None,
            [only] => {
                let (left, right) = samples(only)?;
                (vec![left], vec![right])
            }
            many => {
                let (left, right) = many.split_at(many.len() / 2);
                (left.to_vec(), right.to_vec())
            }
        };
        Some([left, right].map(|series| Arc::new(SeriesBatch { series })))
    }
}

/// Exemplars stay with the newer samples.
fn samples(series: &Series) -> Option<(Series, Series)> {
    if series.samples.len() < 2 {
        return None;
    }
    let (older, newer) = series.samples.split_at(series.samples.len() / 2);
    let older = Series { labels: Arc::clone(&series.labels), samples: older.into(), exemplars: Vec::new() };
    let newer = Series { samples: newer.into(), ..series.clone() };
    Some((older, newer))
}
