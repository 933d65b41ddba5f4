//! VictoriaLogs on loopback: a log store that speaks OTLP/HTTP, and the questions that tests ask it.

use std::ops::{Deref, DerefMut};
use std::path::Path;

use anyhow::Result;
use serde_json::Value;
use tempfile::TempDir;

use super::server::{Ready, Server, Spec};
use super::{client, ports};

/// A running VictoriaLogs; stop, kill and restart are [`Server`]'s.
#[derive(Debug)]
pub struct VictoriaLogs {
    server: Server,
    url: String,
    data: Option<TempDir>,
}

impl VictoriaLogs {
    /// Installs it when needed and starts it with data that is gone when it is dropped.
    pub async fn start() -> Result<Self> {
        let data = tempfile::Builder::new().prefix("mirador-victorialogs-").tempdir()?;
        let mut started = Self::open(data.path(), ports::free()?).await?;
        started.data = Some(data);
        Ok(started)
    }

    /// Starts it on `port` with its data in `folder`, which stays.
    pub async fn open(folder: &Path, port: u16) -> Result<Self> {
        let program = super::install_blocking("victorialogs").await?;
        let url = format!("http://127.0.0.1:{port}");
        let server = Server::start(Spec {
            name: "victorialogs".into(),
            program,
            args: vec![
                format!("-storageDataPath={}", folder.join("data").display()),
                format!("-httpListenAddr=127.0.0.1:{port}"),
                "-retentionPeriod=100y".into(),
                "-memory.allowedBytes=64MB".into(),
            ],
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

    /// Where OTLP/HTTP logs go.
    pub fn otlp_url(&self) -> String {
        format!("{}/insert/opentelemetry/v1/logs", self.url)
    }

    /// Makes what was written visible to queries.
    pub async fn flush(&self) -> Result<()> {
        client::text(client::client()?.get(format!("{}/internal/force_flush", self.url))).await?;
        Ok(())
    }

    /// The rows that a `LogsQL` query finds, one object of text fields each.
    pub async fn query(&self, query: &str) -> Result<Vec<Value>> {
        let url = format!("{}/select/logsql/query", self.url);
        client::json_lines(client::client()?.post(url).form(&[("query", query)])).await
    }
}

impl Deref for VictoriaLogs {
    type Target = Server;
    fn deref(&self) -> &Server {
        &self.server
    }
}

impl DerefMut for VictoriaLogs {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.server
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_row_is_found_by_its_fields_also_after_a_restart() {
        let mut store = VictoriaLogs::start().await.unwrap();
        let url = format!("{}/insert/jsonline?_stream_fields=service&_time_field=t&_msg_field=m", store.url());
        let row = r#"{"t":"2026-01-02T03:04:05.000000006Z","m":"paid","service":"cart","level":"info"}"#;
        client::text(client::client().unwrap().post(url).body(row)).await.unwrap();
        store.flush().await.unwrap();
        store.stop().await.unwrap();
        store.restart().await.unwrap();
        let read = async || Ok(store.query("service:cart paid").await?.into_iter().next());
        let found = client::until("the row", Duration::from_secs(30), read).await.unwrap();
        assert_eq!(found["_time"], "2026-01-02T03:04:05.000000006Z");
        assert_eq!(found["level"], "info");
    }
}
