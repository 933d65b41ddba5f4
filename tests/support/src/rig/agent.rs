//! A real agent on the rig's node.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::Result;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::NODE;
use crate::backends::client;
use crate::backends::ports;
use crate::backends::server::{Ready, Server, Spec};
use crate::node;

/// Where the agent under test is, when somebody has said so.
static FOLDER: OnceLock<PathBuf> = OnceLock::new();

/// Uses the agent in this folder from now on, as a bench does with a release build. The first call counts.
pub fn use_agent_in(folder: PathBuf) {
    FOLDER.get_or_init(|| folder);
}

/// A running agent; stop, kill, pause and restart are [`Server`]'s.
#[derive(Debug)]
pub struct Agent {
    server: Server,
    folder: TempDir,
    /// OTLP/gRPC, on every address of the node.
    pub grpc: u16,
    /// OTLP/HTTP, on every address of the node.
    pub http: u16,
    metrics: SocketAddr,
}

impl Deref for Agent {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl DerefMut for Agent {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.server
    }
}

impl Agent {
    pub(super) async fn start(
        pods: &str,
        cgroup: &Path,
        over: Value,
        whole: Value,
        owner: Option<SocketAddr>,
    ) -> Result<Self> {
        let mut steering = json!({
            "addresses": [NODE.0, NODE.1],
            "cgroup": {"pods": pods},
            // A busy machine may keep an agent from beating for a while; who tests a late one says how late.
            "heartbeat_max_age": "10s",
        });
        node::lay_over(&mut steering, over);
        let mut config = json!({"steering": steering});
        node::lay_over(&mut config, whole);
        Self::with(cgroup, &[], config, owner).await
    }

    /// An agent in `cgroup`, behind the words of another program, with `over` laid over its configuration.
    ///
    /// # Errors
    /// When it cannot be started.
    pub async fn with(cgroup: &Path, words: &[&str], over: Value, owner: Option<SocketAddr>) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("mirador-rig-").tempdir()?;
        let (grpc, http) = (ports::free()?, ports::free()?);
        let local = || -> Result<SocketAddr> { Ok((Ipv4Addr::LOCALHOST, ports::free()?).into()) };
        let (metrics, health) = (local()?, local()?);
        let exporter = owner.map(|owner| json!({"resolver": {"static": {"hostnames": [owner.to_string()]}}}));
        let mut config = json!({
            "receiver": {"protocols": {
                "grpc": {"endpoint": format!("[::]:{grpc}")},
                "http": {"endpoint": format!("[::]:{http}")},
            }},
            "telemetry": {"metrics": {"endpoint": metrics.to_string()}},
            "health": {"endpoint": health.to_string()},
            "exporters": {"traces": exporter, "metrics": null, "logs": null, "red": null},
            "shutdown_grace": "5s",
        });
        node::lay_over(&mut config, over);
        let file = folder.path().join("config.yaml");
        std::fs::write(&file, config.to_string())?;
        let program = program()?;
        let enter = "if [ -n \"$0\" ]; then echo $$ > \"$0/cgroup.procs\" || exit 3; fi; exec \"$@\"";
        let mut args = vec!["-c".to_owned(), enter.to_owned(), cgroup.display().to_string()];
        args.extend(words.iter().map(ToString::to_string));
        args.extend([program.display().to_string(), "run".into(), "--config".into(), file.display().to_string()]);
        let server = Server::start(Spec {
            name: "mirador-agent".to_owned(),
            program: "/bin/sh".into(),
            args,
            env: Vec::new(),
            folder: folder.path().to_owned(),
            ready: Ready::Http(format!("http://{health}/livez")),
        })
        .await?;
        Ok(Self { server, folder, grpc, http, metrics })
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.folder.path().join("config.yaml")
    }

    /// The sum of a metric over all series whose labels contain every pair of `labels`; 0 when there is none.
    ///
    /// # Errors
    /// When the process does not answer.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        node::sum(&self.page().await?, name, labels)
    }

    /// Everything that it says about itself.
    ///
    /// # Errors
    /// When the process does not answer.
    pub async fn page(&self) -> Result<String> {
        client::text(client::client()?.get(format!("http://{}/metrics", self.metrics))).await
    }
}

/// The agent under test: where `cargo xtask test` says, beside the program that runs us, or built now.
pub(super) fn program() -> Result<PathBuf> {
    let named = FOLDER.get().cloned().or_else(|| std::env::var_os("MIRADOR_BIN_DIR").map(PathBuf::from));
    // A test runs as TARGET/debug/deps/NAME, and a stale agent could stand two folders above it.
    let beside = std::env::current_exe()?.parent().filter(|folder| !folder.ends_with("deps")).map(Path::to_path_buf);
    let built = named.or(beside).map(|folder| folder.join("mirador-agent")).filter(|program| program.is_file());
    built.map_or_else(|| node::binary("mirador-agent"), Ok)
}
