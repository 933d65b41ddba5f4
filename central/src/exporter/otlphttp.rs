//! OTLP/HTTP out: any backend that takes `/v1/traces` or `/v1/logs`, VictoriaLogs and Loki among them.
//!
//! Never: follows a redirect, uses a proxy that the configuration does not name, reads an answer without a cap.

mod post;

use std::collections::BTreeMap;
use std::time::Duration;

use mirador_otlp::{Request, Signal};
use mirador_service::metrics::Registry;
use mirador_service::secret::Secret;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceResponse;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ExportError, LogStore, Stored, TraceStore};
pub use post::Poster;

/// Sections `exporters.otlphttp_traces` and `exporters.otlphttp_logs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The full URL, path included, as in `http://victorialogs:9428/insert/opentelemetry/v1/logs`.
    pub endpoint: String,
    /// Headers sent with every request: credentials, tenants, `VL-Stream-Fields`.
    pub headers: BTreeMap<String, Secret>,
    /// How bodies are compressed.
    pub compression: Compression,
    /// How long one request may take.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "String")]
    pub timeout: Duration,
    /// Requests under way at once; more wait.
    pub max_in_flight: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            endpoint: String::new(),
            headers: BTreeMap::new(),
            compression: Compression::Zstd,
            timeout: Duration::from_secs(5),
            max_in_flight: 32,
        }
    }
}

/// Content encodings of outgoing bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// As it is.
    None,
    /// For backends that know nothing else.
    Gzip,
    /// Cheapest for both sides.
    Zstd,
}

/// Sends requests of one signal to one URL.
pub struct OtlpHttp {
    poster: Poster,
}

impl OtlpHttp {
    /// Checks the configuration; nothing is connected yet.
    ///
    /// # Errors
    /// When the URL or a header is malformed; the text names the key.
    pub fn new(
        section: &'static str,
        config: &Config,
        registry: &Registry,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            poster: Poster::new(section, config, registry)?,
        })
    }

    async fn send(&self, request: &Request) -> Result<(), ExportError> {
        let answer = self.poster.post(request.bytes().clone()).await?;
        // Backends that answer with an empty body have taken everything.
        let rejected = match request.signal() {
            Signal::Traces => ExportTraceServiceResponse::decode(answer)
                .ok()
                .and_then(|answer| answer.partial_success)
                .map(|partial| (partial.rejected_spans, partial.error_message)),
            Signal::Logs => ExportLogsServiceResponse::decode(answer)
                .ok()
                .and_then(|answer| answer.partial_success)
                .map(|partial| (partial.rejected_log_records, partial.error_message)),
            Signal::Metrics => None,
        };
        match rejected {
            Some((rejected, reason)) if rejected > 0 => Err(ExportError::Partial {
                rejected: rejected as u64,
                reason,
            }),
            _ => Ok(()),
        }
    }
}

impl TraceStore for OtlpHttp {
    fn store<'a>(&'a self, request: &'a Request) -> Stored<'a> {
        Box::pin(self.send(request))
    }
}

impl LogStore for OtlpHttp {
    fn store<'a>(&'a self, request: &'a Request) -> Stored<'a> {
        Box::pin(self.send(request))
    }
}
