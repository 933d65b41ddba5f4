//! Traces to VictoriaTraces: OTLP/HTTP, after handling what it is known to swallow.
//!
//! VictoriaTraces answers 200 and then drops a span without a trace id, one whose end (the time of its row)
//! is 0, and one that ends before it starts can never be read back. Such spans are mended on a copy, or left
//! out and counted, before it sees them. A request without such spans is forwarded byte for byte.

use mirador_otlp::{Limits, Request, Signal};
use mirador_service::metrics::Registry;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1::Span;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prost::Message;

use super::otlphttp::{self, Poster};
use super::{ExportError, Stored, TraceStore};

/// Marks a span whose times were mended; the value says what was wrong.
pub const MENDED: &str = "mirador.mended";

/// Section `exporters.victoriatraces`: the keys of OTLP/HTTP.
pub type Config = otlphttp::Config;

/// The section's defaults: the endpoint of a VictoriaTraces on this machine.
pub fn default_config() -> Config {
    Config {
        endpoint: "http://127.0.0.1:10428/insert/opentelemetry/v1/traces".to_owned(),
        ..Config::default()
    }
}

/// Sends spans to one VictoriaTraces.
pub struct VictoriaTraces {
    poster: Poster,
    mended: Family<Vec<(&'static str, &'static str)>, Counter>,
    dropped: Counter,
}

/// What is wrong with a span, if anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    NoTraceId,
    NoEnd,
    EndsBeforeStart,
}

impl VictoriaTraces {
    /// Checks the configuration; nothing is connected yet.
    ///
    /// # Errors
    /// When the URL or a header is malformed; the text names the key.
    pub fn new(config: &Config, registry: &Registry) -> anyhow::Result<Self> {
        Ok(Self {
            poster: Poster::new("victoriatraces", config, registry)?,
            mended: registry.counter_family(
                "mirador_victoriatraces_mended_spans",
                "Spans whose times were mended so that VictoriaTraces can read them back, by reason.",
            ),
            dropped: registry.counter(
                "mirador_victoriatraces_unstorable_spans",
                "Spans without a valid trace id, which VictoriaTraces would drop without a word; they are left out.",
            ),
        })
    }

    async fn send(&self, request: &Request) -> Result<(), ExportError> {
        if request.items() == 0 {
            return Ok(());
        }
        let sound = request.resource_spans().all(|resource| {
            resource.scopes().all(|scope| {
                scope.spans().all(|span| {
                    fault(
                        span.trace_id(),
                        span.start_time_unix_nano(),
                        span.end_time_unix_nano(),
                    )
                    .is_none()
                })
            })
        });
        if sound {
            return self.poster.post(request.bytes().clone()).await.map(drop);
        }
        let (mended, left_out) = self.mend(request)?;
        if mended.items() > 0 {
            self.poster.post(mended.bytes().clone()).await?;
        }
        // Counted only when the rest is stored: a retry would count again.
        self.dropped.inc_by(left_out);
        if left_out == 0 {
            return Ok(());
        }
        Err(ExportError::Partial {
            rejected: left_out,
            reason: format!(
                "{left_out} spans without a valid trace id cannot be stored; 16 bytes that are not all zero are right"
            ),
        })
    }

    fn mend(&self, request: &Request) -> Result<(Request, u64), ExportError> {
        let unreadable = |reason: String| ExportError::Drop { reason };
        let mut decoded =
            ExportTraceServiceRequest::decode(request.bytes().clone()).map_err(|error| {
                unreadable(format!(
                    "victoriatraces: cannot decode a request to mend its spans: {error}"
                ))
            })?;
        let mut left_out = 0;
        for scope in decoded
            .resource_spans
            .iter_mut()
            .flat_map(|resource| resource.scope_spans.iter_mut())
        {
            scope.spans.retain_mut(|span| {
                let Some(fault) = fault(
                    &span.trace_id,
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                ) else {
                    return true;
                };
                let kept = mend_span(span, fault);
                left_out += u64::from(!kept);
                kept
            });
        }
        for scope in decoded
            .resource_spans
            .iter()
            .flat_map(|resource| resource.scope_spans.iter())
        {
            for span in &scope.spans {
                let Some(KeyValue {
                    value:
                        Some(AnyValue {
                            value: Some(any_value::Value::StringValue(reason)),
                        }),
                    ..
                }) = span
                    .attributes
                    .iter()
                    .find(|attribute| attribute.key == MENDED)
                else {
                    continue;
                };
                let reason = if reason == "no_end_time" {
                    "no_end_time"
                } else {
                    "end_before_start"
                };
                self.mended.get_or_create(&vec![("reason", reason)]).inc();
            }
        }
        Request::parse(
            Signal::Traces,
            decoded.encode_to_vec().into(),
            &Limits::default(),
        )
        .map(|mended| (mended, left_out))
        .map_err(|error| {
            unreadable(format!(
                "victoriatraces: a mended request is not valid: {error}"
            ))
        })
    }
}

fn fault(trace_id: &[u8], start: u64, end: u64) -> Option<Fault> {
    if trace_id.len() != 16 || trace_id.iter().all(|&byte| byte == 0) {
        Some(Fault::NoTraceId)
    } else if end == 0 {
        Some(Fault::NoEnd)
    } else if end < start {
        Some(Fault::EndsBeforeStart)
    } else {
        None
    }
}

/// Gives the span a duration of zero and says so; false when nothing helps.
fn mend_span(span: &mut Span, fault: Fault) -> bool {
    let reason = match fault {
        Fault::NoTraceId => return false,
        Fault::NoEnd => "no_end_time",
        Fault::EndsBeforeStart => "end_before_start",
    };
    if span.start_time_unix_nano == 0 {
        // Without any time the span is filed under the first moment that is not 0, so that it is kept at all.
        span.start_time_unix_nano = 1;
    }
    span.end_time_unix_nano = span.start_time_unix_nano;
    span.attributes.push(KeyValue {
        key: MENDED.to_owned(),
        value: Some(AnyValue {
            value: Some(any_value::Value::StringValue(reason.to_owned())),
        }),
        ..KeyValue::default()
    });
    true
}

impl TraceStore for VictoriaTraces {
    fn store<'a>(&'a self, request: &'a Request) -> Stored<'a> {
        Box::pin(self.send(request))
    }
}
