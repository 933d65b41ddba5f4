//! Prometheus remote write v1 out, to VictoriaMetrics (zstd) or to any Prometheus-compatible store (snappy).
//!
//! VictoriaMetrics takes the same protobuf in one zstd frame, marked by a header of its own; a server that
//! does not know it answers 400 or 415, then the block is sent again with snappy and the exporter stays there
//! (what vmagent does). Remote write 2.0 is never sent: VictoriaMetrics answers 204 to it and stores nothing.
//!
//! Never: follows redirects, retries by back-off (the wrapper `retrying` does), holds more than
//! `max_in_flight` blocks in memory.

pub mod encode;
mod post;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use mirador_service::metrics::{Counter, Labels, Registry};
use mirador_service::secret::Secret;
use mirador_service::tls::ClientTls;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, Semaphore};

use super::otlphttp::small;
use super::{ExportError, MetricStore, Stored};
use crate::series::{STALE_NAN, Series, SeriesBatch};
use post::{Answer, Poster};

/// Series from which on a block is encoded and compressed off the async workers.
const LARGE: usize = 2_000;

/// Sections `exporters.victoriametrics` and `exporters.prometheusremotewrite`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The full URL, path included: `http://victoria:8428/api/v1/write`, or for a cluster
    /// `http://vminsert:8480/insert/0/prometheus/api/v1/write`.
    pub endpoint: String,
    /// Headers sent with every request: credentials, tenants (`AccountID`, `X-Scope-OrgID`).
    pub headers: BTreeMap<String, Secret>,
    /// `victoriametrics` (zstd, falls back to snappy) or `prometheus` (snappy, exemplars).
    pub protocol: Protocol,
    /// How long one request may take.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "mirador_service::duration::GoDuration")]
    pub timeout: Duration,
    /// Bytes of one block before compression; a larger batch goes out in several requests.
    pub max_block_bytes: usize,
    /// Blocks under way at once; more wait.
    pub max_in_flight: usize,
    /// zstd level.
    pub compression_level: i32,
    /// TLS, for an `https` endpoint. Files are read at start. Default: the system's certificates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClientTls>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            endpoint: String::new(),
            headers: BTreeMap::new(),
            protocol: Protocol::Victoriametrics,
            timeout: Duration::from_secs(10),
            max_block_bytes: 8 << 20,
            max_in_flight: 8,
            compression_level: 1,
            tls: None,
        }
    }
}

/// What the other side speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// One zstd frame, no exemplars (VictoriaMetrics does not read them).
    Victoriametrics,
    /// Snappy, with exemplars.
    Prometheus,
}

/// How a block is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    /// With the header `X-VictoriaMetrics-Remote-Write-Version`.
    Zstd,
    /// With the header `X-Prometheus-Remote-Write-Version`.
    Snappy,
}

/// Writes batches to one URL.
pub struct RemoteWrite {
    section: &'static str,
    poster: Poster,
    protocol: Protocol,
    level: i32,
    max_block_bytes: usize,
    in_flight: Semaphore,
    /// The other side has shown that it does not know zstd.
    plain: AtomicBool,
    /// Kept between blocks, because a context is large.
    compressor: Mutex<Option<zstd::bulk::Compressor<'static>>>,
    meters: Meters,
}

struct Meters {
    samples: Counter,
    raw: Counter,
    splits: Counter,
    fallbacks: Counter,
    conflict: Counter,
    too_large: Counter,
    nan: Counter,
}

impl Meters {
    fn new(registry: &Registry) -> Self {
        let dropped = registry.counter_family::<Labels>(
            "mirador_victoriametrics_dropped_samples",
            "Samples that the store refused for good, and NaN, which VictoriaMetrics takes without a word and does not keep, by reason",
        );
        registry.declare_labels("mirador_victoriametrics_dropped_samples", &["reason"]);
        let reason = |reason: &str| dropped.get_or_create_owned(&vec![("reason", reason.to_owned())]);
        Self {
            samples: registry.counter("mirador_victoriametrics_samples", "Samples that the store has taken"),
            raw: registry.counter("mirador_victoriametrics_raw_bytes", "Bytes of blocks before compression"),
            splits: registry.counter(
                "mirador_victoriametrics_splits",
                "Blocks that were too large for the store and sent in halves",
            ),
            fallbacks: registry.counter(
                "mirador_victoriametrics_fallbacks",
                "Blocks that were sent again with snappy because zstd was refused",
            ),
            conflict: reason("conflict"),
            too_large: reason("too_large"),
            nan: reason("nan"),
        }
    }
}

impl RemoteWrite {
    /// Checks the configuration; nothing is connected yet. `section` is the key of the configuration, for
    /// messages.
    ///
    /// # Errors
    /// When the URL, a header or a number is wrong; the text names the key.
    pub fn new(section: &'static str, config: &Config, registry: &Registry) -> anyhow::Result<Self> {
        anyhow::ensure!(
            config.max_in_flight > 0,
            "exporters.{section}.max_in_flight: 0 sends nothing; 1 or more is right"
        );
        anyhow::ensure!(
            (64 << 10..=32 << 20).contains(&config.max_block_bytes),
            "exporters.{section}.max_block_bytes: {} is not between 65536 and 33554432 (VictoriaMetrics' -maxInsertRequestSize)",
            config.max_block_bytes
        );
        anyhow::ensure!(
            (1..=19).contains(&config.compression_level),
            "exporters.{section}.compression_level: {} is not between 1 and 19",
            config.compression_level
        );
        Ok(Self {
            section,
            poster: Poster::new(section, config, registry)?,
            protocol: config.protocol,
            level: config.compression_level,
            max_block_bytes: config.max_block_bytes,
            in_flight: Semaphore::new(config.max_in_flight),
            plain: AtomicBool::new(config.protocol == Protocol::Prometheus),
            compressor: Mutex::new(None),
            meters: Meters::new(registry),
        })
    }

    async fn write_all(&self, batch: &Arc<SeriesBatch>) -> Result<(), ExportError> {
        let with_exemplars = self.protocol == Protocol::Prometheus;
        let mut waiting = encode::blocks(batch, self.max_block_bytes, with_exemplars);
        waiting.reverse();
        let (mut rejected, mut reason) = (0, String::new());
        while let Some(range) = waiting.pop() {
            let samples: usize = batch.series[range.clone()].iter().map(|series| series.samples.len()).sum();
            match self.send(batch, range.clone()).await? {
                Answer::Taken => {
                    let swallowed = self.swallowed(&batch.series[range]);
                    self.meters.nan.inc_by(swallowed);
                    self.meters.samples.inc_by((samples as u64).saturating_sub(swallowed));
                }
                Answer::TooLarge(_) if range.len() > 1 => {
                    self.meters.splits.inc();
                    let middle = range.start + range.len() / 2;
                    waiting.extend([middle..range.end, range.start..middle]);
                }
                Answer::Conflict(said) | Answer::Refused(said) | Answer::WrongEncoding(said) => {
                    self.meters.conflict.inc_by(samples as u64);
                    (rejected, reason) = (rejected + samples as u64, said);
                }
                Answer::TooLarge(said) => {
                    self.meters.too_large.inc_by(samples as u64);
                    (rejected, reason) = (rejected + samples as u64, format!("one series is too large: {said}"));
                }
            }
        }
        if rejected == 0 { Ok(()) } else { Err(ExportError::Partial { rejected, reason }) }
    }

    /// Samples that are answered 2xx and not kept: VictoriaMetrics has no form for a NaN that is no stale marker.
    fn swallowed(&self, series: &[Series]) -> u64 {
        if self.protocol != Protocol::Victoriametrics {
            return 0;
        }
        let values = series.iter().flat_map(|series| series.samples.iter().map(|(_, value)| *value));
        values.filter(|value| value.is_nan() && value.to_bits() != STALE_NAN.to_bits()).count() as u64
    }

    /// Sends one block; the answer is `Taken`, `Conflict` or `TooLarge`.
    async fn send(&self, batch: &Arc<SeriesBatch>, range: Range<usize>) -> Result<Answer, ExportError> {
        let _place = self.in_flight.acquire().await;
        let codec = if self.plain.load(Ordering::Relaxed) { Codec::Snappy } else { Codec::Zstd };
        let answer = self.poster.post(codec, self.block(batch, range.clone(), codec).await?).await?;
        let (Answer::Refused(_) | Answer::WrongEncoding(_), Codec::Zstd) = (&answer, codec) else {
            return settled(answer);
        };
        self.meters.fallbacks.inc();
        let again = self.poster.post(Codec::Snappy, self.block(batch, range, Codec::Snappy).await?).await?;
        // A block that is refused in both forms says nothing about the encoding.
        if matches!(again, Answer::Taken) && !self.plain.swap(true, Ordering::Relaxed) {
            tracing::info!(section = self.section, "the store does not take zstd; snappy from now on");
        }
        settled(again)
    }

    async fn block(&self, batch: &Arc<SeriesBatch>, range: Range<usize>, codec: Codec) -> Result<Bytes, ExportError> {
        let with_exemplars = self.protocol == Protocol::Prometheus;
        let level = self.level;
        let kept = self.compressor.lock().await.take();
        let large = range.len() > LARGE;
        let batch = Arc::clone(batch);
        let work = move || {
            let raw = encode::write_request(&batch.series[range], with_exemplars);
            let (packed, compressor) = compress(&raw, codec, level, kept)?;
            Ok::<_, std::io::Error>((raw.len(), packed, compressor))
        };
        let worked = if large {
            tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other).flatten()
        } else {
            work()
        };
        let (raw, packed, compressor) = worked.map_err(|error| ExportError::Drop {
            reason: format!("{}: cannot compress a block: {error}", self.section),
        })?;
        if compressor.is_some() {
            *self.compressor.lock().await = compressor;
        }
        self.meters.raw.inc_by(raw as u64);
        Ok(packed)
    }
}

fn settled(answer: Answer) -> Result<Answer, ExportError> {
    match answer {
        Answer::Refused(reason) | Answer::WrongEncoding(reason) => Err(ExportError::Drop { reason }),
        settled => Ok(settled),
    }
}

type Compressor = zstd::bulk::Compressor<'static>;

fn compress(
    raw: &[u8],
    codec: Codec,
    level: i32,
    kept: Option<Compressor>,
) -> std::io::Result<(Bytes, Option<Compressor>)> {
    match codec {
        Codec::Snappy => {
            let packed = snap::raw::Encoder::new().compress_vec(raw).map_err(std::io::Error::other)?;
            Ok((small(packed), kept))
        }
        Codec::Zstd => {
            let mut compressor = kept.map_or_else(|| Compressor::new(level), Ok)?;
            let packed = compressor.compress(raw)?;
            Ok((small(packed), Some(compressor)))
        }
    }
}

impl MetricStore for RemoteWrite {
    fn write(&self, batch: Arc<SeriesBatch>) -> Stored<'_> {
        Box::pin(async move { self.write_all(&batch).await })
    }
}

#[cfg(test)]
mod tests;
