//! One protobuf POST with its answer sorted by who must act.
//!
//! Never: tries again (the wrapper `retrying` does), shows what may be secret (query, headers) in a message.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use flate2::write::GzEncoder;
use mirador_service::cause::chain;
use mirador_service::metrics::{Counter, Family, Registry};
use mirador_service::secret::Secret;
use mirador_service::tls::{self, ClientTls};
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, Url, redirect};
use tokio::sync::Semaphore;

use super::{Compression, Config};
use crate::exporter::ExportError;

/// How much of an answer is read (the Collector's client reads as much).
const ANSWER: usize = 64 * 1024;
/// A longer Retry-After is not believed.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// Bodies from this size on are compressed on a thread that may block.
const LARGE: usize = 256 * 1024;
/// Headers that the body decides.
const OURS: [&str; 5] = ["content-type", "content-encoding", "content-length", "transfer-encoding", "connection"];

/// Posts bodies to one URL.
pub struct Poster {
    section: &'static str,
    client: Client,
    url: Url,
    /// The URL without what may be secret.
    shown: String,
    headers: HeaderMap,
    compression: Compression,
    in_flight: Semaphore,
    requests: Family<Vec<(&'static str, String)>, Counter>,
    bytes: Counter,
}

/// The body of a 2xx answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// At most 64 KiB; empty when it could not be read.
    pub body: Bytes,
    /// Whether its content type is JSON.
    pub is_json: bool,
}

/// Reads `exporters.{section}.endpoint`, which has to be HTTP or HTTPS without credentials, and its `tls`.
///
/// # Errors
/// The text names the key and what would be right. `example` is shown in it.
pub(in crate::exporter) fn http_url(
    section: &str,
    endpoint: &str,
    tls: Option<&ClientTls>,
    example: &str,
) -> anyhow::Result<Url> {
    let key = format!("exporters.{section}.endpoint");
    let url = Url::parse(endpoint).with_context(|| format!("{key}: {endpoint:?} is not a URL; {example} is right"))?;
    anyhow::ensure!(
        url.username().is_empty() && url.password().is_none(),
        "{key}: the URL carries credentials; put them into exporters.{section}.headers, where they are not shown"
    );
    anyhow::ensure!(
        matches!(url.scheme(), "http" | "https"),
        "{key}: the scheme of {url} is neither http nor https; {example} is right"
    );
    let Some(tls) = tls.filter(|tls| !tls.insecure) else { return Ok(url) };
    let path = format!("exporters.{section}.tls");
    anyhow::ensure!(
        url.scheme() == "https",
        "{path}: {} is not encrypted; write https, or leave the section out",
        shown(&url)
    );
    anyhow::ensure!(
        tls.server_name_override.is_empty(),
        "{path}.server_name_override: the host of exporters.{section}.endpoint is what the certificate has to carry; put the name there"
    );
    let problems = tls.problems(&path);
    anyhow::ensure!(problems.is_empty(), "{}", problems.join("\n"));
    Ok(url)
}

impl Poster {
    /// Checks `config`; `section` is its key, for messages and labels.
    ///
    /// # Errors
    /// When the URL, a header or a limit is wrong; the text names the key.
    pub fn new(section: &'static str, config: &Config, registry: &Registry) -> anyhow::Result<Self> {
        let (url, headers) = checked(section, config)?;
        let client = client(section, &url, config.tls.as_ref(), config.timeout)?;
        let requests = registry.counter_family(
            "mirador_otlphttp_requests",
            "OTLP/HTTP requests to a backend, by exporter and status (an HTTP code, timeout, connect or broken).",
        );
        registry.declare_labels("mirador_otlphttp_requests", &["exporter", "status"]);
        Ok(Self {
            section,
            client,
            shown: shown(&url),
            url,
            headers,
            compression: config.compression,
            in_flight: Semaphore::new(config.max_in_flight),
            requests,
            bytes: registry
                .counter("mirador_otlphttp_bytes", "Bytes of OTLP/HTTP bodies sent to backends, as on the wire."),
        })
    }

    /// Posts `body` once and returns the body of a good answer.
    ///
    /// # Errors
    /// [`ExportError::Retry`] for pressure, timeouts and server faults, [`ExportError::Fatal`] for what an
    /// operator must mend, [`ExportError::Drop`] for what this body will never get past.
    pub async fn post(&self, body: Bytes) -> Result<Answer, ExportError> {
        let _permit = self.in_flight.acquire().await;
        let body = self.compressed(body).await?;
        self.bytes.inc_by(body.len() as u64);
        let sent = self.client.post(self.url.clone()).headers(self.headers.clone()).body(body).send().await;
        let response = match sent {
            Ok(response) => response,
            Err(error) => {
                self.count(kind(&error));
                let reason = format!("{}: {}: {}", self.section, self.shown, chain(&error.without_url()));
                return Err(ExportError::Retry { after: None, reason });
            }
        };
        let status = response.status();
        self.count(status.as_str());
        let after = retry_after(response.headers(), SystemTime::now());
        let kind = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        // The status is the answer. A body that breaks off takes nothing back.
        let body = read_capped(response, ANSWER).await;
        if !status.is_success() {
            return Err(self.refused(status, after, &body));
        }
        if kind == "text/html" && !body.is_empty() {
            let reason =
                format!("{}: {} answered {status} with a web page; it takes no OTLP there", self.section, self.shown);
            return Err(ExportError::Fatal { reason });
        }
        Ok(Answer { body, is_json: kind == "application/json" })
    }

    fn count(&self, status: &str) {
        let labels = vec![("exporter", self.section.to_owned()), ("status", status.to_owned())];
        self.requests.get_or_create(&labels).inc();
    }

    /// The table of OTLP/HTTP (specification, "Failures"); all 5xx are retried, because a fault of the server
    /// says nothing against the data.
    fn refused(&self, status: StatusCode, after: Option<Duration>, answer: &Bytes) -> ExportError {
        let reason = format!("{}: {} answered {status}: {}", self.section, self.shown, printable(answer));
        match status.as_u16() {
            408 | 425 | 429 | 500..=599 => ExportError::Retry { after, reason },
            415 => ExportError::Fatal {
                reason: format!("{reason}; another exporters.{}.compression may be right", self.section),
            },
            // Redirects, credentials, paths and methods are the same for every body.
            300..=399 | 401..=407 | 410 | 421 | 426 | 431 => ExportError::Fatal { reason },
            _ => ExportError::Drop { reason },
        }
    }

    async fn compressed(&self, body: Bytes) -> Result<Bytes, ExportError> {
        let compression = self.compression;
        let compressed = match compression {
            Compression::None => return Ok(body),
            _ if body.len() < LARGE => compress(compression, &body),
            _ => tokio::task::spawn_blocking(move || compress(compression, &body))
                .await
                .unwrap_or_else(|error| Err(std::io::Error::other(error))),
        };
        compressed.map_err(|error| ExportError::Retry {
            after: None,
            reason: format!("{}: cannot compress the body: {error}", self.section),
        })
    }
}

/// Everything about a section that can be told without connecting.
pub(super) fn checked(section: &str, config: &Config) -> anyhow::Result<(Url, HeaderMap)> {
    let url = http_url(section, &config.endpoint, config.tls.as_ref(), "http://host:port/path")?;
    anyhow::ensure!(
        config.max_in_flight > 0 && config.max_in_flight <= Semaphore::MAX_PERMITS,
        "exporters.{section}.max_in_flight: {} cannot work; 1 or more is right, 32 by default",
        config.max_in_flight
    );
    anyhow::ensure!(
        !config.timeout.is_zero(),
        "exporters.{section}.timeout: 0s leaves no time for an answer; 5s is the default"
    );
    Ok((url, headers(section, config)?))
}

/// A client of one backend: no proxy, no redirect, every request within `timeout`.
///
/// # Errors
/// When it cannot be built; the text names the section.
pub(in crate::exporter) fn client(
    section: &str,
    url: &Url,
    tls: Option<&ClientTls>,
    timeout: Duration,
) -> anyhow::Result<Client> {
    let encryption = match tls {
        _ if url.scheme() != "https" => tls::trusting_nobody(),
        Some(tls) => tls.fixed(),
        None => ClientTls::default().fixed(),
    };
    Client::builder()
        .tls_backend_preconfigured(encryption.with_context(|| format!("exporters.{section}.tls"))?)
        .no_proxy()
        .redirect(redirect::Policy::none())
        .connect_timeout(timeout.min(Duration::from_secs(5)))
        .timeout(timeout)
        .pool_idle_timeout(Duration::from_secs(30))
        .tcp_nodelay(true)
        .user_agent(concat!("mirador/", env!("CARGO_PKG_VERSION")))
        .build()
        .with_context(|| format!("exporters.{section}"))
}

/// The URL without what may be secret.
pub(in crate::exporter) fn shown(url: &Url) -> String {
    let mut shown = url.clone();
    shown.set_query(None);
    shown.into()
}

/// The label of a request without an answer.
pub(in crate::exporter) fn kind(error: &reqwest::Error) -> &'static str {
    match () {
        () if error.is_timeout() => "timeout",
        () if error.is_connect() => "connect",
        () => "broken",
    }
}

/// The headers that `exporters.{section}.headers` names; none may be one that the body decides.
///
/// # Errors
/// The text names the key and the header, never its value.
pub(in crate::exporter) fn configured(section: &str, given: &BTreeMap<String, Secret>) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in given {
        let key = format!("exporters.{section}.headers");
        let header =
            HeaderName::try_from(name).with_context(|| format!("{key}: {name:?} is not the name of a header"))?;
        anyhow::ensure!(
            !OURS.contains(&header.as_str()),
            "{key}.{name}: this header follows from the body; leave it out"
        );
        let mut value = HeaderValue::try_from(value.reveal())
            .with_context(|| format!("{key}.{name}: the value has characters that a header cannot carry"))?;
        value.set_sensitive(true);
        headers.insert(header, value);
    }
    Ok(headers)
}

fn headers(section: &str, config: &Config) -> anyhow::Result<HeaderMap> {
    let mut headers = configured(section, &config.headers)?;
    // VictoriaTraces compares the whole value: a parameter such as a charset would be refused.
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
    let encoding = match config.compression {
        Compression::None => None,
        Compression::Gzip => Some("gzip"),
        Compression::Zstd => Some("zstd"),
    };
    if let Some(encoding) = encoding {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
    }
    Ok(headers)
}

fn compress(compression: Compression, body: &[u8]) -> std::io::Result<Bytes> {
    match compression {
        Compression::None => Ok(Bytes::copy_from_slice(body)),
        Compression::Zstd => zstd::bulk::compress(body, 1).map(small),
        Compression::Gzip => {
            let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), flate2::Compression::fast());
            encoder.write_all(body)?;
            encoder.finish().map(small)
        }
    }
}

/// Without the room that the worst case would have taken: many bodies wait while a backend is slow.
pub(in crate::exporter) fn small(packed: Vec<u8>) -> Bytes {
    packed.into_boxed_slice().into()
}

/// What can be read of an answer, up to `cap` bytes.
pub(in crate::exporter) async fn read_capped(mut response: Response, cap: usize) -> Bytes {
    let mut body = BytesMut::new();
    while body.len() < cap
        && let Ok(Some(chunk)) = response.chunk().await
    {
        body.extend_from_slice(&chunk[..chunk.len().min(cap - body.len())]);
    }
    body.freeze()
}

/// Seconds, or the date at which to come back (RFC 9110 §10.2.3).
pub(in crate::exporter) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(wait.min(LONGEST_WAIT))
}

/// Foreign text for a log line and for the client: short, and without control characters.
pub(in crate::exporter) fn printable(text: &[u8]) -> String {
    let head = &text[..text.len().min(1024)];
    String::from_utf8_lossy(head).chars().filter(|letter| !letter.is_control()).take(200).collect()
}
