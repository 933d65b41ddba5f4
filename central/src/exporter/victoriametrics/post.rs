//! One remote-write request and what its answer means, after the status table of VictoriaMetrics' clients.
//!
//! Never: shows what may be secret (query, headers) in a message; waits between attempts; only a kept-alive connection that the server had closed is tried again at
//! once, because such a request was never looked at.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use mirador_service::cause::chain;
use mirador_service::metrics::{Counter, Family, Labels, Registry};
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Response, StatusCode, Url};

use super::{Codec, Config};
use crate::exporter::ExportError;
use crate::exporter::otlphttp::{client, configured, http_url, kind, printable, read_capped, retry_after, shown};

/// How much of an answer is read for the log.
const ANSWER: usize = 1024;

/// An answer that is not an error of the path.
#[derive(Debug)]
pub(super) enum Answer {
    /// 2xx: the store has the block.
    Taken,
    /// 409: the store has other data there and will never take this.
    Conflict(String),
    /// 413: the same in smaller blocks may be taken.
    TooLarge(String),
    /// 415: the encoding is not known.
    WrongEncoding(String),
    /// 400 and the rest of 4xx: the body is not understood.
    Refused(String),
}

/// Posts blocks to one URL.
pub(super) struct Poster {
    section: &'static str,
    client: Client,
    url: Url,
    /// The URL without what may be secret.
    shown: String,
    zstd: HeaderMap,
    snappy: HeaderMap,
    requests: Family<Labels, Counter>,
    retries: Counter,
    bytes: Counter,
}

impl Poster {
    /// Checks URL and headers.
    pub(super) fn new(section: &'static str, config: &Config, registry: &Registry) -> anyhow::Result<Self> {
        let url = http_url(section, &config.endpoint, config.tls.as_ref(), "http://host:8428/api/v1/write")?;
        let given = configured(section, &config.headers)?;
        let headers = |encoding, version: &'static str, value| {
            let mut headers = given.clone();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
            headers.insert(HeaderName::from_static(version), HeaderValue::from_static(value));
            headers
        };
        let requests = registry.counter_family(
            "mirador_victoriametrics_requests",
            "Remote-write requests, by exporter and status (an HTTP code, timeout, connect or broken)",
        );
        registry.declare_labels("mirador_victoriametrics_requests", &["exporter", "status"]);
        Ok(Self {
            section,
            client: client(section, &url, config.tls.as_ref(), config.timeout)?,
            shown: shown(&url),
            url,
            zstd: headers("zstd", "x-victoriametrics-remote-write-version", "1"),
            snappy: headers("snappy", "x-prometheus-remote-write-version", "0.1.0"),
            requests,
            retries: registry.counter(
                "mirador_victoriametrics_retries",
                "Requests that were sent again at once because the store had closed an idle connection",
            ),
            bytes: registry.counter("mirador_victoriametrics_bytes", "Bytes of remote-write bodies, as on the wire"),
        })
    }

    /// Posts one block.
    ///
    /// # Errors
    /// [`ExportError::Retry`] for pressure, timeouts and server faults; [`ExportError::Fatal`] for what an
    /// operator must mend.
    pub(super) async fn post(&self, codec: Codec, body: Bytes) -> Result<Answer, ExportError> {
        let mut sent = self.attempt(codec, body.clone()).await;
        if let Err(error) = &sent
            && closed_before(error)
        {
            self.retries.inc();
            sent = self.attempt(codec, body).await;
        }
        let response = sent.map_err(|error| ExportError::Retry {
            after: None,
            reason: format!("{}: {}: {}", self.section, self.shown, chain(&error.without_url())),
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(Answer::Taken);
        }
        let after = retry_after(response.headers(), SystemTime::now());
        let said = printable(&read_capped(response, ANSWER).await);
        self.judge(status, after, &said)
    }

    async fn attempt(&self, codec: Codec, body: Bytes) -> Result<Response, reqwest::Error> {
        self.bytes.inc_by(body.len() as u64);
        let headers = match codec {
            Codec::Zstd => self.zstd.clone(),
            Codec::Snappy => self.snappy.clone(),
        };
        let result = self.client.post(self.url.clone()).headers(headers).body(body).send().await;
        let status = match &result {
            Ok(response) => response.status().as_u16().to_string(),
            Err(error) => kind(error).to_owned(),
        };
        self.requests.get_or_create(&vec![("exporter", self.section.to_owned()), ("status", status)]).inc();
        result
    }

    fn judge(&self, status: StatusCode, after: Option<Duration>, said: &str) -> Result<Answer, ExportError> {
        let reason = format!("{}: {} answered {status}: {said}", self.section, self.shown);
        match status.as_u16() {
            408 | 429 | 500..=599 => Err(ExportError::Retry { after, reason }),
            300..=399 | 401 | 403 | 404 | 405 => Err(ExportError::Fatal { reason }),
            409 => Ok(Answer::Conflict(reason)),
            413 => Ok(Answer::TooLarge(reason)),
            415 => Ok(Answer::WrongEncoding(reason)),
            _ => Ok(Answer::Refused(reason)),
        }
    }
}

/// The server hung up before it answered: the connection had been idle, or the server has just stopped.
fn closed_before(error: &reqwest::Error) -> bool {
    error.is_request() && !error.is_timeout() && !error.is_connect()
}
