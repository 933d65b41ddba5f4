//! Traces to VictoriaTraces: OTLP/HTTP, after handling what it is known to swallow.
//!
//! VictoriaTraces answers 200 and then drops a span without a trace id, one whose start or end is outside of its
//! retention, and one whose row has too many fields, too long a name of a field or too many bytes; a span without
//! an id of its own, or one that ends before it starts, can never be read back. Such spans are mended or cut on a
//! copy, or left out, told and counted, before it sees them. A request without such spans is forwarded byte for
//! byte, and so is every span beside them.
//!
//! Not handled: flags of the server that are stricter than its defaults, except for retention, which is configured.
//!
//! Never: counts a span before the rest of its request is stored, because a retry would count it again.

mod mend;
mod row;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use mirador_otlp::Request;
use mirador_service::metrics::{Counter, Family, Registry};
use mirador_service::secret::Secret;
use mirador_service::tls::ClientTls;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::otlphttp::{self, Compression, Poster};
use super::{ExportError, Stored, TraceStore};
pub use mend::{MENDED, STARTED};

/// Section `exporters.victoriatraces`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The full URL, path included. Default
    /// `http://127.0.0.1:10428/insert/opentelemetry/v1/traces`.
    pub endpoint: String,
    /// Headers sent with every request: credentials, tenants (`AccountID`, `ProjectID`). Default: none.
    pub headers: BTreeMap<String, Secret>,
    /// How bodies are compressed. Default `zstd`.
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
    /// The server's `-retentionPeriod`, as a Go duration of at least 24h. Default 168h, which is its default of 7
    /// days. It drops older spans without a word; here they are left out, told to the sender and counted. A span
    /// that began before and ended since is kept with its start moved to this border.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "String")]
    pub retention: Duration,
    /// The server's `-futureRetention`, as a Go duration. Default 48h. Spans that end later than this from now are
    /// left out, told and counted.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "String")]
    pub future_retention: Duration,
}

impl Default for Config {
    fn default() -> Self {
        let http = otlphttp::Config::default();
        Self {
            endpoint: "http://127.0.0.1:10428/insert/opentelemetry/v1/traces".to_owned(),
            headers: http.headers,
            compression: http.compression,
            timeout: http.timeout,
            max_in_flight: http.max_in_flight,
            tls: None,
            retention: Duration::from_hours(7 * 24),
            future_retention: Duration::from_hours(48),
        }
    }
}

impl Config {
    /// Refuses what cannot work; `section` is the key below `exporters`.
    ///
    /// # Errors
    /// The text names the key, the value and what would be right.
    pub fn check(&self, section: &str) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.retention >= Duration::from_hours(24),
            "exporters.{section}.retention: {} is less than the server's least; 24h or more is right, 168h is its default",
            mirador_service::duration::format(self.retention)
        );
        self.http().check(section)
    }

    /// The keys that every OTLP/HTTP backend has.
    fn http(&self) -> otlphttp::Config {
        otlphttp::Config {
            endpoint: self.endpoint.clone(),
            headers: self.headers.clone(),
            compression: self.compression,
            timeout: self.timeout,
            max_in_flight: self.max_in_flight,
            tls: self.tls.clone(),
        }
    }

    /// The times that the server keeps.
    fn kept(&self, now_unix_nano: u64) -> RangeInclusive<u64> {
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        // 0 is no time, and the server counts in signed 64 bits.
        let first = now_unix_nano.saturating_sub(nanos(self.retention)).max(1);
        first..=now_unix_nano.saturating_add(nanos(self.future_retention)).min(i64::MAX as u64)
    }
}

/// Sends spans to one VictoriaTraces.
pub struct VictoriaTraces {
    config: Config,
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
            poster: Poster::new("victoriatraces", &config.http(), registry)?,
            config: config.clone(),
            mended: registry.counter_family(
                mended,
                "Spans whose times were mended, or whose attributes were cut, so that VictoriaTraces keeps them and can read them back, by reason.",
            ),
            left_out: registry.counter_family(
                left_out,
                "Spans without valid ids or outside of the retention, which VictoriaTraces would lose without a word and that are left out, by reason.",
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
        let now = crate::clock::unix_nano();
        let kept = self.config.kept(now);
        if mend::is_sound(request, &kept) {
            return self.poster.post(request.bytes().clone()).await.map(drop);
        }
        let mended = mend::mend(request, now, &kept)?;
        if mended.request.items() > 0 {
            self.poster.post(mended.request.bytes().clone()).await?;
        }
        let (mut rejected, mut reasons) = (0, Vec::new());
        for (fault, spans) in mended.faults {
            let family = if fault.is_mended() { &self.mended } else { &self.left_out };
            family.get_or_create(&vec![("reason", fault.as_str())]).inc_by(spans);
            if !fault.is_mended() {
                rejected += spans;
                reasons.push(format!("{spans} {}", fault.as_str()));
            }
        }
        if rejected == 0 {
            return Ok(());
        }
        let reason = format!(
            "{rejected} spans cannot be stored ({}); a trace id of 16 bytes and a span id of 8, neither all zero, and times of the last {} are right",
            reasons.join(", "),
            mirador_service::duration::format(self.config.retention),
        );
        Err(ExportError::Partial { rejected, reason })
    }
}

impl TraceStore for VictoriaTraces {
    fn store<'a>(&'a self, request: &'a Request) -> Stored<'a> {
        Box::pin(self.send(request))
    }
}
