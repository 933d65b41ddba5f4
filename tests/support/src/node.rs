//! Our two programs as child processes on loopback, with a generated configuration.
//!
//! The binaries are built once per test process by cargo itself, so that a test never runs a stale one.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::backends::client;
use crate::backends::ports;
use crate::backends::server::{Ready, Server, Spec};
use crate::cargo;

/// A running `mirador-agent` or `mirador-central`; stop, kill, pause and restart are [`Server`]'s.
#[derive(Debug)]
pub struct Node {
    server: Server,
    folder: TempDir,
    /// OTLP/gRPC.
    pub grpc: SocketAddr,
    /// OTLP/HTTP.
    pub http: SocketAddr,
    /// Prometheus metrics.
    pub metrics: SocketAddr,
    /// Health.
    pub health: SocketAddr,
    /// The live page of a central process with an embedded store.
    pub console: SocketAddr,
}

impl Deref for Node {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl DerefMut for Node {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.server
    }
}

impl Node {
    /// Starts an agent; `config` is laid over the ports and the short intervals that tests want.
    ///
    /// # Errors
    /// When it cannot be built, started or does not become ready.
    pub async fn agent(config: Value) -> Result<Self> {
        Self::start("mirador-agent", &["run"], config).await
    }

    /// Starts an agent that need not become ready, because it has no owner to send to.
    ///
    /// # Errors
    /// When it cannot be built, started or does not come alive.
    pub async fn lonely_agent(config: Value) -> Result<Self> {
        Self::start_until("mirador-agent", &["run"], config, "livez").await
    }

    /// Starts a central process in `role`.
    ///
    /// # Errors
    /// When it cannot be built, started or does not become ready.
    pub async fn central(role: &str, config: Value) -> Result<Self> {
        Self::start("mirador-central", &[role], config).await
    }

    /// Starts a central process that need not become ready, because its store is not there.
    ///
    /// # Errors
    /// When it cannot be built, started or does not come alive.
    pub async fn lonely_central(role: &str, config: Value) -> Result<Self> {
        Self::start_until("mirador-central", &[role], config, "livez").await
    }

    async fn start(program: &str, words: &[&str], config: Value) -> Result<Self> {
        Self::start_until(program, words, config, "readyz").await
    }

    async fn start_until(program: &str, words: &[&str], config: Value, page: &str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("mirador-node-").tempdir()?;
        let next = || -> Result<SocketAddr> { Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free()?))) };
        let (grpc, http, metrics, health, console) = (next()?, next()?, next()?, next()?, next()?);
        let mut effective = json!({
            "receiver": {"protocols": {"grpc": {"endpoint": grpc.to_string()}, "http": {"endpoint": http.to_string()}}},
            "telemetry": {"metrics": {"endpoint": metrics.to_string()}},
            "health": {"endpoint": health.to_string()},
        });
        if program == "mirador-central" {
            effective["console"] = json!({"endpoint": console.to_string()});
        }
        lay_over(&mut effective, config);
        let file = folder.path().join("config.yaml");
        std::fs::write(&file, serde_json::to_string_pretty(&effective)?)?;
        let mut args: Vec<String> = words.iter().map(ToString::to_string).collect();
        args.extend(["--config".to_owned(), file.display().to_string()]);
        let server = Server::start(Spec {
            name: program.to_owned(),
            program: binary(program)?,
            args,
            env: Vec::new(),
            folder: folder.path().to_owned(),
            ready: Ready::Http(format!("http://{health}/{page}")),
        })
        .await?;
        Ok(Self { server, folder, grpc, http, metrics, health, console })
    }

    /// Where the process was started; its embedded store and its log are there.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// The sum of a metric over all series whose labels contain every pair of `labels`; 0 when there is none.
    ///
    /// # Errors
    /// When the process does not answer.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        let text = client::text(client::client()?.get(format!("http://{}/metrics", self.metrics))).await?;
        sum(&text, name, labels)
    }

    /// Asks the JSON API of the live page.
    ///
    /// # Errors
    /// When it does not answer with success.
    pub async fn ask(&self, path: &str) -> Result<Value> {
        client::json(client::client()?.get(format!("http://{}{path}", self.console))).await
    }
}

/// The sum of a metric over all series of a page whose labels contain every pair of `labels`.
pub(crate) fn sum(page: &str, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
    let mut sum = 0.0;
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, value)) =
            line.split_once(' ').filter(|_| !line.contains('{')).or_else(|| line.rsplit_once("} "))
        else {
            continue;
        };
        let (found, pairs) = series.split_once('{').unwrap_or((series, ""));
        let wanted = labels.iter().all(|(key, value)| pairs.contains(&format!("{key}=\"{value}\"")));
        if found == name && wanted {
            let value = value.split_whitespace().next().unwrap_or_default();
            sum += value.parse::<f64>().with_context(|| line.to_owned())?;
        }
    }
    Ok(sum)
}

/// Objects are merged key by key; anything else in `over` replaces what stands in `base`.
pub(crate) fn lay_over(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                lay_over(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

/// The debug binary of this workspace, built when it is not.
///
/// # Errors
/// When the build fails.
pub fn binary(name: &str) -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let folder = BUILT.get_or_init(|| build().map_err(|error| format!("{error:#}")));
    let folder = folder.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
    let path = folder.join(name);
    ensure!(path.is_file(), "{} was not built", path.display());
    Ok(path)
}

fn build() -> Result<PathBuf> {
    // A test runs as TARGET/debug/deps/NAME: the binaries stand two levels above.
    let own = std::env::current_exe()?;
    let folder = own.parent().and_then(|deps| deps.parent()).context("a test binary has a folder")?.to_owned();
    let target = folder.parent().context("a profile has a target folder")?;
    let mut command = cargo::command();
    command
        .args(["build", "--quiet", "--package", "mirador-agent", "--package", "mirador-central", "--bins"])
        .arg("--target-dir")
        .arg(target)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    if folder.file_name().is_some_and(|name| name == "release") {
        command.arg("--release");
    }
    let output = command.output().context("cannot run cargo")?;
    ensure!(output.status.success(), "the build failed:\n{}", String::from_utf8_lossy(&output.stderr));
    Ok(folder)
}
