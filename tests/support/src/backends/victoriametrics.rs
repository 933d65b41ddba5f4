//! VictoriaMetrics on loopback, and the questions that tests ask it.
//!
//! What is written becomes visible some 100 ms after [`VictoriaMetrics::flush`]: ask with
//! [`until`](super::client::until). Retention is 100 years, so fixed timestamps are kept.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};

use anyhow::{Context as _, Result};
use serde_json::Value;
use tempfile::TempDir;

use super::server::{Ready, Server, Spec};
use super::{client, ports};

/// A running VictoriaMetrics; stop, kill and restart are [`Server`]'s.
#[derive(Debug)]
pub struct VictoriaMetrics {
    server: Server,
    url: String,
    data: Option<TempDir>,
}

/// A series with the samples that are stored for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// Labels, `__name__` among them.
    pub labels: BTreeMap<String, String>,
    /// (Unix milliseconds, value) in order of time.
    pub samples: Vec<(i64, f64)>,
}

/// A series' value at one time.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Labels, `__name__` among them unless the query dropped it.
    pub labels: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
}

impl VictoriaMetrics {
    /// Installs it when needed and starts it with data that is gone when it is dropped.
    pub async fn start() -> Result<Self> {
        Self::start_with(&[]).await
    }

    /// Like [`VictoriaMetrics::start`] with further flags (`-maxLabelsPerTimeseries=10`).
    pub async fn start_with(flags: &[&str]) -> Result<Self> {
        let data = tempfile::Builder::new().prefix("mirador-victoriametrics-").tempdir()?;
        let mut started = Self::open(data.path(), ports::free()?, flags).await?;
        started.data = Some(data);
        Ok(started)
    }

    /// Starts it on `port` with its data in `folder`, which stays.
    pub async fn open(folder: &std::path::Path, port: u16, flags: &[&str]) -> Result<Self> {
        let program = super::install_blocking("victoriametrics").await?;
        let url = format!("http://127.0.0.1:{port}");
        let mut args = vec![
            format!("-storageDataPath={}", folder.join("data").display()),
            format!("-httpListenAddr=127.0.0.1:{port}"),
            "-retentionPeriod=100y".into(),
            "-memory.allowedBytes=64MB".into(),
            "-search.latencyOffset=0s".into(),
        ];
        args.extend(flags.iter().map(ToString::to_string));
        let server = Server::start(Spec {
            name: "victoriametrics".into(),
            program,
            args,
            env: Vec::new(),
            folder: folder.into(),
            ready: Ready::Http(format!("{url}/health")),
        })
        .await?;
        Ok(Self { server, url, data: None })
    }

    /// Where it listens: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where Prometheus remote write goes.
    pub fn write_url(&self) -> String {
        format!("{}/api/v1/write", self.url)
    }

    /// Makes what was written visible to queries, soon.
    pub async fn flush(&self) -> Result<()> {
        client::text(client::client()?.get(format!("{}/internal/force_flush", self.url))).await?;
        Ok(())
    }

    /// An instant query in `MetricsQL` at a Unix time in seconds; caches are not asked.
    pub async fn query(&self, query: &str, at: f64) -> Result<Vec<Sample>> {
        self::query(&self.url, query, Some(at)).await
    }

    /// Every stored sample of the series that `selector` names (`{__name__=~".+"}` for all of them).
    pub async fn export(&self, selector: &str) -> Result<Vec<Stored>> {
        let url = format!("{}/api/v1/export", self.url);
        let lines = client::json_lines(client::client()?.post(url).form(&[("match[]", selector)])).await?;
        lines.iter().map(stored).collect()
    }

    /// One of its own metrics by its whole name and labels (`vm_rows_ignored_total{reason="nan"}`).
    pub async fn own_metric(&self, series: &str) -> Result<Option<f64>> {
        let text = client::text(client::client()?.get(format!("{}/metrics", self.url))).await?;
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        Ok(line.map(str::parse).transpose()?)
    }
}

/// An instant query in `MetricsQL` to the VictoriaMetrics at `url`, at a Unix time in seconds or now;
/// caches are not asked.
pub async fn query(url: &str, query: &str, at: Option<f64>) -> Result<Vec<Sample>> {
    let at = at.map(|at| at.to_string());
    let mut parameters = vec![("query", query), ("nocache", "1")];
    parameters.extend(at.as_deref().map(|at| ("time", at)));
    let answer = client::json(client::client()?.post(format!("{url}/api/v1/query")).form(&parameters)).await?;
    let result = answer["data"]["result"].as_array().context("no result")?;
    result.iter().map(sample).collect()
}

impl Deref for VictoriaMetrics {
    type Target = Server;
    fn deref(&self) -> &Server {
        &self.server
    }
}

impl DerefMut for VictoriaMetrics {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.server
    }
}

fn labels(metric: &Value) -> BTreeMap<String, String> {
    let pairs = metric.as_object().into_iter().flatten();
    pairs.map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
}

fn sample(result: &Value) -> Result<Sample> {
    let value = result["value"][1].as_str().context("a sample without a value")?;
    Ok(Sample { labels: labels(&result["metric"]), value: value.parse()? })
}

fn stored(line: &Value) -> Result<Stored> {
    let times = line["timestamps"].as_array().context("a series without timestamps")?;
    let values = line["values"].as_array().context("a series without values")?;
    let mut samples = Vec::with_capacity(times.len());
    for (time, value) in times.iter().zip(values) {
        // Infinities come as text, a stale marker as null.
        let value = match value {
            Value::String(text) => text.parse()?,
            Value::Null => f64::NAN,
            number => number.as_f64().context("a value that is no number")?,
        };
        samples.push((time.as_i64().context("a timestamp that is no integer")?, value));
    }
    samples.sort_by_key(|(time, _)| *time);
    Ok(Stored { labels: labels(&line["metric"]), samples })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn write(store: &VictoriaMetrics, text: &str) {
        let url = format!("{}/api/v1/import/prometheus", store.url());
        client::text(client::client().unwrap().post(url).body(text.to_owned())).await.unwrap();
        store.flush().await.unwrap();
    }

    #[tokio::test]
    async fn what_is_written_is_read_back_and_survives_a_restart_on_the_same_port() {
        let mut store = VictoriaMetrics::start().await.unwrap();
        write(&store, "calls{service=\"cart\"} 3 1700000000000\ncalls{service=\"cart\"} 5 1700000015000\n").await;
        let wait = Duration::from_secs(30);
        let read = async || Ok(store.export("calls").await?.into_iter().next());
        let found = client::until("the series", wait, read).await.unwrap();
        assert_eq!(found.samples, [(1_700_000_000_000, 3.0), (1_700_000_015_000, 5.0)]);
        assert_eq!(found.labels["service"], "cart");

        let url = store.url().to_owned();
        store.stop().await.unwrap();
        assert!(store.export("calls").await.is_err());
        store.restart().await.unwrap();
        assert_eq!(store.url(), url);
        let answer = store.query("sum(calls)", 1_700_000_016.0).await.unwrap();
        assert_eq!(answer[0].value.to_bits(), 5f64.to_bits());
        assert!(store.own_metric("vm_app_uptime_seconds").await.unwrap().is_some());
    }
}
