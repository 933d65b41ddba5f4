//! OTLP/HTTP out: any backend that takes `/v1/traces` or `/v1/logs`, VictoriaLogs and Loki among them.
//!
//! Never: follows a redirect, uses a proxy that the configuration does not name, reads an answer without a cap.

mod answer;
mod post;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mirador_otlp::Request;
use mirador_service::metrics::Registry;
use mirador_service::secret::Secret;
use mirador_service::tls::ClientTls;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ExportError, LogStore, Stored, TraceStore};
use crate::complaint::Complaint;
pub use post::{Answer, Poster};
pub(in crate::exporter) use post::{
    client, configured, http_url, kind, printable, read_capped, retry_after, shown, small,
};

/// Sections `exporters.otlphttp_traces` and `exporters.otlphttp_logs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The full URL, path included, as in `http://victorialogs:9428/insert/opentelemetry/v1/logs` (VictoriaLogs answers
    /// 200 to rows that it drops, those outside of its retention among them, and counts them as
    /// `vl_rows_dropped_total`). With
    /// `https` the server's certificate is checked against `tls.ca_file`, or against the system's. No default.
    pub endpoint: String,
    /// Headers sent with every request: credentials, tenants, `VL-Stream-Fields`. Default: none.
    pub headers: BTreeMap<String, Secret>,
    /// How bodies are compressed. Default `zstd`; `gzip` and `none` are for backends that do not know it.
    pub compression: Compression,
    /// How long one request may take, from connecting to the end of the answer. Default 5s.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "String")]
    pub timeout: Duration,
    /// Requests under way at once; more wait. Default 32.
    pub max_in_flight: usize,
    /// TLS, for an `https` endpoint. Files are read at start. Default: the system's certificates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClientTls>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            endpoint: String::new(),
            headers: BTreeMap::new(),
            compression: Compression::Zstd,
            timeout: Duration::from_secs(5),
            max_in_flight: 32,
            tls: None,
        }
    }
}

impl Config {
    /// Refuses what cannot work; `section` is the key below `exporters`.
    ///
    /// # Errors
    /// The text names the key, the value and what would be right.
    pub fn check(&self, section: &str) -> anyhow::Result<()> {
        post::checked(section, self).map(drop)
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
    section: &'static str,
    poster: Poster,
    strange: Complaint,
    warned: Complaint,
}

impl OtlpHttp {
    /// Checks the configuration; nothing is connected yet.
    ///
    /// # Errors
    /// When the URL or a header is malformed; the text names the key.
    pub fn new(section: &'static str, config: &Config, registry: &Registry) -> anyhow::Result<Self> {
        let poster = Poster::new(section, config, registry)?;
        Ok(Self { section, poster, strange: Complaint::default(), warned: Complaint::default() })
    }

    async fn send(&self, request: &Request) -> Result<(), ExportError> {
        let answer = self.poster.post(request.bytes().clone()).await?;
        let Some(partial) = answer::partial(request.signal(), &answer) else {
            // The status says that the data was taken; sending it again because of its text would store it twice.
            if let Some(times) = self.strange.due(Instant::now()) {
                let exporter = self.section;
                tracing::warn!(exporter, times, "the backend took the data with an answer that is not OTLP's");
            }
            return Ok(());
        };
        // The sender must not retry a partial success, whatever it rejects (OTLP specification, "Partial Success").
        let rejected = partial.rejected.min(request.items() as u64);
        if rejected > 0 {
            let reason = format!("{}: the backend rejected {rejected} items: {}", self.section, partial.message);
            return Err(ExportError::Partial { rejected, reason });
        }
        if !partial.message.is_empty()
            && let Some(times) = self.warned.due(Instant::now())
        {
            let (exporter, message) = (self.section, &partial.message);
            tracing::warn!(exporter, %message, times, "the backend took the data with a warning");
        }
        Ok(())
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
