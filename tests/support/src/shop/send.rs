//! OTLP/HTTP as an SDK's exporter does it: protobuf, gzip, a few retries.

use std::io::Write;
use std::time::Duration;

use anyhow::Context;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;

/// Attempts before a request is given up.
const ATTEMPTS: u32 = 5;

/// Posts OTLP to one receiver.
#[derive(Debug, Clone)]
pub struct Sender {
    client: reqwest::Client,
    base: reqwest::Url,
}

impl Sender {
    /// `endpoint` is the base URL; `/v1/{traces,metrics,logs}` is added.
    ///
    /// # Errors
    /// When it is not a URL.
    pub fn new(endpoint: &str) -> anyhow::Result<Self> {
        let base = reqwest::Url::parse(endpoint).with_context(|| format!("{endpoint:?} is not a URL"))?;
        let tls = mirador_service::tls::trusting_nobody()?;
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .timeout(Duration::from_secs(10))
            .build()?;
        Ok(Self { client, base })
    }

    /// Sends spans.
    ///
    /// # Errors
    /// When the last attempt failed.
    pub async fn traces(&self, request: &ExportTraceServiceRequest) -> anyhow::Result<()> {
        self.post("v1/traces", request.encode_to_vec()).await
    }

    /// Sends metrics.
    ///
    /// # Errors
    /// When the last attempt failed.
    pub async fn metrics(&self, request: &ExportMetricsServiceRequest) -> anyhow::Result<()> {
        self.post("v1/metrics", request.encode_to_vec()).await
    }

    /// Sends log records.
    ///
    /// # Errors
    /// When the last attempt failed.
    pub async fn logs(&self, request: &ExportLogsServiceRequest) -> anyhow::Result<()> {
        self.post("v1/logs", request.encode_to_vec()).await
    }

    async fn post(&self, path: &str, body: Vec<u8>) -> anyhow::Result<()> {
        let url = self.base.join(path)?;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&body)?;
        let body = bytes::Bytes::from(encoder.finish()?);
        let mut failure = anyhow::anyhow!("not sent");
        for attempt in 0..ATTEMPTS {
            let sent = self
                .client
                .post(url.clone())
                .header("content-type", "application/x-protobuf")
                .header("content-encoding", "gzip")
                .body(body.clone())
                .send()
                .await;
            match sent {
                Ok(response) if response.status().is_success() => return Ok(()),
                Ok(response) if matches!(response.status().as_u16(), 429 | 502 | 503 | 504) => {
                    failure = anyhow::anyhow!("{url} answered {}", response.status());
                }
                Ok(response) => anyhow::bail!("{url} answered {}", response.status()),
                Err(error) => failure = error.into(),
            }
            tokio::time::sleep(Duration::from_millis(200) * 2_u32.pow(attempt)).await;
        }
        Err(failure)
    }
}
