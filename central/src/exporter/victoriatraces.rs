//! Traces to VictoriaTraces: OTLP/HTTP, after handling what it is known to swallow.
//!
//! VictoriaTraces answers 200 and then drops a span without a trace id, or one whose end (the time of its row)
//! is 0; a span without an id of its own, or one that ends before it starts, can never be read back. Such
//! spans are mended on a copy, or left out and counted, before it sees them. A request without such spans is
//! forwarded byte for byte.
//!
//! Not handled: its retention, and its limits on fields and bytes of a row, which are flags of the server.
//!
//! Never: counts a span before the rest of its request is stored, because a retry would count it again.

mod mend;
#[cfg(test)]
mod tests;

use mirador_otlp::Request;
use mirador_service::metrics::{Counter, Family, Registry};

use super::otlphttp::{self, Poster};
use super::{ExportError, Stored, TraceStore};
pub use mend::MENDED;

/// Section `exporters.victoriatraces`: the keys of OTLP/HTTP.
pub type Config = otlphttp::Config;

/// The section's defaults: the endpoint of a VictoriaTraces on this machine.
pub fn default_config() -> Config {
    Config { endpoint: "http://127.0.0.1:10428/insert/opentelemetry/v1/traces".to_owned(), ..Config::default() }
}

/// Sends spans to one VictoriaTraces.
pub struct VictoriaTraces {
    poster: Poster,
    mended: Family<Vec<(&'static str, &'static str)>, Counter>,
    left_out: Family<Vec<(&'static str, &'static str)>, Counter>,
}

impl VictoriaTraces {
    /// Checks the configuration; nothing is connected yet.
    ///
    /// # Errors
    /// When the URL or a header is malformed; the text names the key.
    pub fn new(config: &Config, registry: &Registry) -> anyhow::Result<Self> {
        let (mended, left_out) = ("mirador_victoriatraces_mended_spans", "mirador_victoriatraces_unstorable_spans");
        let made = Self {
            poster: Poster::new("victoriatraces", config, registry)?,
            mended: registry.counter_family(
                mended,
                "Spans whose times were mended so that VictoriaTraces can read them back, by reason.",
            ),
            left_out: registry.counter_family(
                left_out,
                "Spans without valid ids, which VictoriaTraces would lose without a word and that are left out, by reason.",
            ),
        };
        registry.declare_labels(mended, &["reason"]);
        registry.declare_labels(left_out, &["reason"]);
        Ok(made)
    }

    async fn send(&self, request: &Request) -> Result<(), ExportError> {
        if request.items() == 0 {
            return Ok(());
        }
        if mend::is_sound(request) {
            return self.poster.post(request.bytes().clone()).await.map(drop);
        }
        let mended = mend::mend(request, super::unix_nanos())?;
        if mended.request.items() > 0 {
            self.poster.post(mended.request.bytes().clone()).await?;
        }
        let mut rejected = 0;
        for (fault, spans) in mended.faults {
            let family = if fault.is_mended() { &self.mended } else { &self.left_out };
            family.get_or_create(&vec![("reason", fault.as_str())]).inc_by(spans);
            rejected += if fault.is_mended() { 0 } else { spans };
        }
        if rejected == 0 {
            return Ok(());
        }
        let reason = format!(
            "{rejected} spans without a valid trace id and span id cannot be stored; 16 and 8 bytes that are not all zero are right"
        );
        Err(ExportError::Partial { rejected, reason })
    }
}

impl TraceStore for VictoriaTraces {
    fn store<'a>(&'a self, request: &'a Request) -> Stored<'a> {
        Box::pin(self.send(request))
    }
}
