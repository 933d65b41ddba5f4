//! One protobuf POST with its answer sorted by who must act.

use std::io::Write;
use std::time::Duration;

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use flate2::write::GzEncoder;
use mirador_service::metrics::Registry;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use reqwest::header::{
    CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER,
};
use reqwest::{Client, Response, StatusCode, Url, redirect};
use tokio::sync::Semaphore;

use super::{Compression, Config};
use crate::exporter::ExportError;

/// How much of an answer is read (the Collector's client reads as much).
const ANSWER: usize = 64 * 1024;

/// Posts bodies to one URL.
pub struct Poster {
    section: &'static str,
    client: Client,
    url: Url,
    headers: HeaderMap,
    compression: Compression,
    in_flight: Semaphore,
    requests: Family<Vec<(&'static str, String)>, Counter>,
    bytes: Counter,
}

impl Poster {
    /// Checks `config`; `section` is its key, for messages and labels.
    ///
    /// # Errors
    /// When the URL or a header is malformed.
    pub fn new(
        section: &'static str,
        config: &Config,
        registry: &Registry,
    ) -> anyhow::Result<Self> {
        let url = Url::parse(&config.endpoint).with_context(|| {
            format!(
                "exporters.{section}.endpoint: {:?} is not a URL; http://host:port/path is right",
                config.endpoint
            )
        })?;
        anyhow::ensure!(
            matches!(url.scheme(), "http" | "https"),
            "exporters.{section}.endpoint: the scheme of {url} is not http or https"
        );
        anyhow::ensure!(
            config.max_in_flight > 0,
            "exporters.{section}.max_in_flight: 0 sends nothing; 1 or more is right"
        );
        let mut headers = HeaderMap::new();
        for (name, value) in &config.headers {
            let name = HeaderName::try_from(name).with_context(|| {
                format!("exporters.{section}.headers: {name:?} is not a header name")
            })?;
            let value = HeaderValue::try_from(value.reveal()).with_context(|| {
                format!("exporters.{section}.headers.{name}: the value has forbidden characters")
            })?;
            headers.insert(name, value);
        }
        // VictoriaTraces compares the whole value: a parameter such as a charset would be refused.
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/x-protobuf"),
        );
        let encoding = match config.compression {
            Compression::None => None,
            Compression::Gzip => Some("gzip"),
            Compression::Zstd => Some("zstd"),
        };
        if let Some(encoding) = encoding {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
        }
        let client = Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .connect_timeout(config.timeout.min(Duration::from_secs(5)))
            .timeout(config.timeout)
            .pool_idle_timeout(Duration::from_secs(30))
            .tcp_nodelay(true)
            .user_agent(concat!("mirador/", env!("CARGO_PKG_VERSION")))
            .build()
            .with_context(|| format!("exporters.{section}"))?;
        Ok(Self {
            section,
            client,
            url,
            headers,
            compression: config.compression,
            in_flight: Semaphore::new(config.max_in_flight),
            requests: registry.counter_family(
                "mirador_otlphttp_requests",
                "OTLP/HTTP requests to a backend, by exporter and status (an HTTP code, timeout, connect or broken).",
            ),
            bytes: registry.counter("mirador_otlphttp_bytes", "Bytes of OTLP/HTTP bodies sent to backends, as on the wire."),
        })
    }

    /// Posts `body` once and returns the answer's body.
    ///
    /// # Errors
    /// [`ExportError::Retry`] for pressure, timeouts and server faults, [`ExportError::Fatal`] for what an
    /// operator must mend, [`ExportError::Drop`] for what this body will never get past.
    pub async fn post(&self, body: Bytes) -> Result<Bytes, ExportError> {
        let _permit = self.in_flight.acquire().await;
        let body = self.compress(body).map_err(|error| ExportError::Drop {
            reason: format!("{}: cannot compress the body: {error}", self.section),
        })?;
        self.bytes.inc_by(body.len() as u64);
        let sent = self
            .client
            .post(self.url.clone())
            .headers(self.headers.clone())
            .body(body)
            .send()
            .await;
        let response = match sent {
            Ok(response) => response,
            Err(error) => {
                let kind = if error.is_timeout() {
                    "timeout"
                } else if error.is_connect() {
                    "connect"
                } else {
                    "broken"
                };
                self.count(kind.to_owned());
                return Err(self.broken(&error));
            }
        };
        self.count(response.status().as_u16().to_string());
        let (status, after) = (response.status(), retry_after(&response));
        let answer = match read_capped(response).await {
            Ok(answer) => answer,
            Err(error) if status.is_success() => return Err(self.broken(&error)),
            Err(_) => Bytes::new(),
        };
        if status.is_success() {
            Ok(answer)
        } else {
            Err(self.refused(status, after, &answer))
        }
    }

    fn count(&self, status: String) {
        self.requests
            .get_or_create(&vec![
                ("exporter", self.section.to_owned()),
                ("status", status),
            ])
            .inc();
    }

    fn broken(&self, error: &reqwest::Error) -> ExportError {
        ExportError::Retry {
            after: None,
            reason: format!("{}: {}: {}", self.section, self.url, chain(error)),
        }
    }

    /// The table of OTLP/HTTP (specification, "Failures"); all 5xx are retried, because a fault of the server
    /// says nothing against the data.
    fn refused(&self, status: StatusCode, after: Option<Duration>, answer: &Bytes) -> ExportError {
        let said: String = String::from_utf8_lossy(answer)
            .chars()
            .filter(|c| !c.is_control())
            .take(200)
            .collect();
        let reason = format!("{}: {} answered {status}: {said}", self.section, self.url);
        match status.as_u16() {
            408 | 429 | 500..=599 => ExportError::Retry { after, reason },
            300..=399 | 401 | 403 | 404 | 405 => ExportError::Fatal { reason },
            _ => ExportError::Drop { reason },
        }
    }

    fn compress(&self, body: Bytes) -> std::io::Result<Bytes> {
        match self.compression {
            Compression::None => Ok(body),
            Compression::Zstd => zstd::bulk::compress(&body, 1).map(Bytes::from),
            Compression::Gzip => {
                let mut encoder = GzEncoder::new(
                    Vec::with_capacity(body.len() / 4),
                    flate2::Compression::fast(),
                );
                encoder.write_all(&body)?;
                encoder.finish().map(Bytes::from)
            }
        }
    }
}

async fn read_capped(mut response: Response) -> Result<Bytes, reqwest::Error> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await? {
        let room = ANSWER - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if body.len() == ANSWER {
            break;
        }
    }
    Ok(body.freeze())
}

fn retry_after(response: &Response) -> Option<Duration> {
    let text = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    text.trim()
        .parse::<u64>()
        .ok()
        .map(|seconds| Duration::from_secs(seconds.min(300)))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
