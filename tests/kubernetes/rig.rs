//! The product on loopback before a metric store that also scrapes it, as a cluster's would.

use std::time::Duration;

use anyhow::Result;
use mirador_support::backends::client::until;
use mirador_support::backends::victoriametrics::{Sample, VictoriaMetrics, query};
use mirador_support::node::Node;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Long enough for a machine that builds at the same time; a condition ends the wait much earlier.
pub(crate) const WAIT: Duration = Duration::from_secs(120);

/// A store that scrapes whom it is told to, with the labels that an operator would add.
pub(crate) struct Store {
    pub(crate) metrics: VictoriaMetrics,
    folder: TempDir,
    targets: std::sync::Mutex<Vec<Value>>,
}

impl Store {
    pub(crate) async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let targets = folder.path().join("targets.json");
        std::fs::write(&targets, "[]")?;
        let config = folder.path().join("scrape.yaml");
        let job = json!({"job_name": "mirador", "scrape_interval": "1s", "file_sd_configs": [{"files": [targets]}]});
        std::fs::write(&config, json!({"scrape_configs": [job]}).to_string())?;
        let flags =
            [format!("-promscrape.config={}", config.display()), "-promscrape.fileSDCheckInterval=1s".to_owned()];
        let metrics = VictoriaMetrics::start_with(&flags.each_ref().map(String::as_str)).await?;
        Ok(Self { metrics, folder, targets: std::sync::Mutex::default() })
    }

    /// Scrapes `node` from now on as pod `pod` of `component`.
    pub(crate) fn scrape(&self, node: &Node, component: &str, pod: &str) -> Result<()> {
        let labels = json!({"namespace": "test", "pod": pod, "app_kubernetes_io_component": component});
        let mut targets = self.targets.lock().map_err(|_| anyhow::anyhow!("a test has panicked"))?;
        targets.push(json!({"targets": [node.metrics.to_string()], "labels": labels}));
        // Whole or not at all: the store reads the file when it likes.
        let next = self.folder.path().join("next.json");
        std::fs::write(&next, serde_json::to_string(&*targets)?)?;
        Ok(std::fs::rename(next, self.folder.path().join("targets.json"))?)
    }

    /// What an expression gives now, without what is not a number.
    pub(crate) async fn ask(&self, expression: &str) -> Result<Vec<Sample>> {
        self.metrics.flush().await?;
        let mut found = query(self.metrics.url(), expression, None).await?;
        found.retain(|sample| !sample.value.is_nan());
        Ok(found)
    }

    /// Waits until an expression gives something.
    pub(crate) async fn until(&self, what: &str, expression: &str) -> Result<Vec<Sample>> {
        until(what, WAIT, async || {
            let found = self.ask(expression).await?;
            Ok((!found.is_empty()).then_some(found))
        })
        .await
    }
}

/// One destination with one owner.
pub(crate) fn owner(node: &Node) -> Value {
    json!({"resolver": {"static": {"hostnames": [node.grpc.to_string()]}}})
}

/// An isolationforest that writes into the store.
pub(crate) async fn forest(store: &Store) -> Result<Node> {
    let config = json!({
        "exporters": {"victoriametrics": {"endpoint": store.metrics.write_url()}},
        "isolationforest": {"writer": {"max_delay": "20ms"}},
    });
    Node::central("isolationforest", config).await
}

/// A spanmetrics before `forest`.
pub(crate) async fn spanmetrics(forest: &Node) -> Result<Node> {
    let config = json!({"exporters": {"metrics": owner(forest)}, "spanmetrics": {"metrics_flush_interval": "250ms"}});
    Node::central("spanmetrics", config).await
}

/// A servicegraph before `forest` that stores traces at `traces`; `graph` is its section.
pub(crate) async fn servicegraph(forest: &Node, traces: &str, graph: Value) -> Result<Node> {
    let mut section = json!({"metrics_flush_interval": "250ms", "store": {"ttl": "2s"}});
    if let (Some(section), Value::Object(graph)) = (section.as_object_mut(), graph) {
        section.extend(graph);
    }
    let config = json!({
        "exporters": {
            "otlphttp_traces": {"endpoint": traces}, "metrics": owner(forest),
            "retry_on_failure": {"max_elapsed_time": "300ms"},
        },
        "servicegraph": section,
    });
    Node::central("servicegraph", config).await
}

/// Repeats `step` until `watching` has seen what it waits for; an error of either is one of the whole.
pub(crate) async fn during<T>(
    mut step: impl AsyncFnMut() -> Result<()>,
    watching: impl Future<Output = Result<T>>,
) -> Result<T> {
    let repeated = async {
        loop {
            if let Err(error) = step().await {
                break error;
            }
        }
    };
    tokio::select! {
        error = repeated => Err(error),
        watched = watching => watched,
    }
}
