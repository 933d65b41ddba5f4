//! `cargo xtask e2e`: the chart in a real cluster. Creates a kind cluster, builds and loads the images, installs
//! stores and chart, sends the shop's telemetry through an agent in the cluster, and asks the stores.
//!
//! Needs a container engine (docker), kind, kubectl and helm; where one of them is missing it says which and is
//! skipped, which is no failure. The cluster is deleted at the end, also after a failure, unless it is to be kept.
//!
//! Never: touches a cluster that it has not created, or anybody's kubeconfig.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use mirador_support::backends::{client, ports, victoriametrics};
use mirador_support::shop;

use crate::image::PROGRAMS;
use crate::workspace::{root, succeed};

const CLUSTER: &str = "mirador-e2e";
const NAMESPACE: &str = "miradorstack";
/// How long the stores may take to show what was sent.
const WAIT: Duration = Duration::from_secs(300);

/// Install the chart in a kind cluster with real stores and run the shop through it.
///
/// Without a container engine, kind, kubectl or helm it says so and does nothing.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Leave the cluster there when it is over.
    #[arg(long)]
    keep: bool,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if let Some(missing) = missing() {
        println!("SKIPPED: e2e: {missing}");
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let cluster = Cluster { kubeconfig: folder.path().join("kubeconfig"), keep: options.keep };
    cluster.create()?;
    cluster.images()?;
    cluster.install()?;
    tokio::runtime::Runtime::new()?.block_on(cluster.watch())?;
    println!("e2e: RED, edges, scores, traces and logs of the shop are in the stores");
    Ok(())
}

/// What this machine lacks, in words.
fn missing() -> Option<String> {
    let answers = |program: &str, args: &[&str]| {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if !answers("docker", &["info"]) {
        return Some("no container engine answers (`docker info` fails)".to_owned());
    }
    let tools: [(&str, &[&str]); 3] =
        [("kind", &["version"]), ("kubectl", &["version", "--client"]), ("helm", &["version"])];
    let tool = tools.iter().find(|(program, args)| !answers(program, args))?;
    Some(format!("{} is not on PATH", tool.0))
}

/// A kind cluster of ours.
struct Cluster {
    kubeconfig: std::path::PathBuf,
    keep: bool,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.keep {
            eprintln!("e2e: the cluster stays; `kind delete cluster --name {CLUSTER}` removes it");
            return;
        }
        if let Err(error) = succeed(&mut self.tool("kind", &["delete", "cluster", "--name", CLUSTER])) {
            eprintln!("e2e: {error:#}");
        }
    }
}

impl Cluster {
    fn tool(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).env("KUBECONFIG", &self.kubeconfig).current_dir(root());
        command
    }

    fn create(&self) -> Result<()> {
        succeed(&mut self.tool("kind", &["create", "cluster", "--name", CLUSTER, "--wait", "180s"]))
    }

    fn images(&self) -> Result<()> {
        for name in PROGRAMS {
            let image = format!("{name}:{}", env!("CARGO_PKG_VERSION"));
            let component = name.trim_start_matches("mirador-");
            let file = format!("{component}/Dockerfile");
            succeed(&mut self.tool("docker", &["build", "--file", &file, "--tag", &image, "."]))?;
            succeed(&mut self.tool("kind", &["load", "docker-image", "--name", CLUSTER, &image]))?;
        }
        Ok(())
    }

    fn install(&self) -> Result<()> {
        let files = Path::new("tests/kubernetes/e2e");
        let backends = files.join("backends.yaml").display().to_string();
        let values = files.join("values.yaml").display().to_string();
        succeed(&mut self.tool("kubectl", &["create", "namespace", NAMESPACE]))?;
        succeed(&mut self.tool("kubectl", &["apply", "-n", NAMESPACE, "-f", &backends]))?;
        let ready = ["wait", "--for=condition=available", "deployment", "--all", "-n", NAMESPACE, "--timeout=600s"];
        succeed(&mut self.tool("kubectl", &ready))?;
        let install = ["install", "mirador", "charts/mirador", "-n", NAMESPACE, "--values", &values];
        succeed(&mut self.tool("helm", &[&install[..], &["--wait", "--timeout", "300s"]].concat()))?;
        succeed(&mut self.tool("helm", &["test", "mirador", "-n", NAMESPACE]))
    }

    /// Forwards a free port of this machine to a port of a service; it ends with the returned guard.
    fn forward(&self, service: &str, port: u16) -> Result<Forward> {
        let local = ports::free()?;
        let (service, pair) = (format!("service/{service}"), format!("{local}:{port}"));
        let mut command = self.tool("kubectl", &["port-forward", "-n", NAMESPACE, &service, &pair]);
        let child = command.stdout(Stdio::null()).spawn().context("cannot run kubectl port-forward")?;
        Ok(Forward { child, url: format!("http://127.0.0.1:{local}") })
    }

    /// Runs the shop until the stores show all of it.
    async fn watch(&self) -> Result<()> {
        let agent = self.forward("mirador-agent", 4318)?;
        let metrics = self.forward("victoriametrics", 8428)?;
        let traces = self.forward("victoriatraces", 10428)?;
        let logs = self.forward("mirador-logs", 8888)?;
        let options =
            shop::Options { endpoint: agent.url.clone(), visits_per_second: 10, seed: 1, fault: None, run_for: None };
        let asked = async {
            for query in ["traces_span_metrics_calls_total", "traces_service_graph_request_total", "anomaly_score"] {
                client::until(query, WAIT, async || {
                    let found = victoriametrics::query(&metrics.url, query, None).await?;
                    Ok((!found.is_empty()).then_some(()))
                })
                .await?;
            }
            client::until("the services of traces", WAIT, async || {
                let request = client::client()?.get(format!("{}/select/jaeger/api/services", traces.url));
                let services = client::json(request).await?;
                let count = services["data"].as_array().map_or(0, Vec::len);
                Ok((count >= shop::SERVICES.len()).then_some(()))
            })
            .await?;
            client::until("log rows", WAIT, async || {
                let text = client::text(client::client()?.get(format!("{}/metrics", logs.url))).await?;
                let rows = text.lines().find_map(|line| line.strip_prefix("mirador_cassandra_rows_total "));
                ensure!(rows.is_some_and(|rows| rows != "0"), "no row yet");
                Ok(Some(()))
            })
            .await
        };
        tokio::select! {
            ended = shop::run(options, |_| ()) => { ended?; bail!("the shop closed") }
            asked = asked => asked,
        }
    }
}

/// A running port-forward.
struct Forward {
    child: Child,
    url: String,
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
