//! An application of stock OpenTelemetry SDKs, and `telemetrygen`: senders that are not ours.
//!
//! Services as child processes on loopback: `front` (Python) asks `pricing` (Go), `pricing` asks `stock` (Python),
//! `stock` asks an SQLite database; on request `gateway` (Node) stands before them. Their telemetry is configured by
//! the standard `OTEL_*` variables and by nothing else; between them they use OTLP over gRPC and over HTTP, protobuf
//! and JSON, gzip, cumulative and delta temporality, explicit and exponential histograms, old and stable semantic
//! conventions.
//!
//! Never: goes beyond loopback; leaves a child behind.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use reqwest::Client;
use tempfile::TempDir;

use crate::backends::server::{Ready, Server, Spec};
use crate::backends::{client, install_blocking, ports};
use crate::node::Node;

/// The service before the others; it exports JSON over HTTP.
pub const GATEWAY: &str = "gateway";
/// The service that takes orders; it exports over gRPC.
pub const FRONT: &str = "front";
/// The service in the middle; its spans leave over gRPC, its metrics and log records over HTTP.
pub const PRICING: &str = "pricing";
/// The service in front of the database; it exports over HTTP.
pub const STOCK: &str = "stock";

/// Every export goes out soon, and is tried again for as long as a test may wait.
const COMMON: [(&str, &str); 10] = [
    ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
    ("OTEL_TRACES_EXPORTER", "otlp"),
    ("OTEL_METRICS_EXPORTER", "otlp"),
    ("OTEL_LOGS_EXPORTER", "otlp"),
    ("OTEL_PYTHON_LOGGING_AUTO_INSTRUMENTATION_ENABLED", "true"),
    ("OTEL_PYTHON_FLASK_EXCLUDED_URLS", "ready"),
    ("OTEL_BSP_SCHEDULE_DELAY", "200"),
    ("OTEL_BLRP_SCHEDULE_DELAY", "200"),
    ("OTEL_METRIC_EXPORT_INTERVAL", "500"),
    // What the environment says about proxies is not for loopback.
    ("NO_PROXY", "127.0.0.1"),
];

/// The services, who asks before who is asked.
#[derive(Debug)]
pub struct Application {
    services: Vec<Server>,
    folder: TempDir,
    url: String,
    client: Client,
}

impl Application {
    /// Starts the services, which send to `agent`.
    ///
    /// # Errors
    /// When one cannot be installed or started.
    pub async fn start(agent: &Node) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("mirador-app-").tempdir()?;
        let python = install_blocking("app-python").await?;
        let go = install_blocking("app-go").await?;
        let (grpc, http) = (format!("http://{}", agent.grpc), format!("http://{}", agent.http));
        // Python reads seconds, Go milliseconds.
        let over_grpc = [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", grpc.as_str()),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "120"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.version=1.2.3,deployment.environment.name=test"),
            ("OTEL_SEMCONV_STABILITY_OPT_IN", "http,database"),
        ];
        let over_http = [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", http.as_str()),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "120"),
            ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta"),
            ("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", "base2_exponential_bucket_histogram"),
        ];
        let over_both = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", http.as_str()),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", grpc.as_str()),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "120000"),
        ];
        let run = folder.path();
        let (stock, stock_url) = service(STOCK, python_command(&python, "stock.py"), run, &over_http, READY).await?;
        let over_both = [&over_both[..], &[("STOCK_URL", stock_url.as_str())]].concat();
        let (pricing, pricing_url) = service(PRICING, (go, Vec::new()), run, &over_both, READY).await?;
        let over_grpc = [&over_grpc[..], &[("PRICE_URL", pricing_url.as_str())]].concat();
        let (front, url) = service(FRONT, python_command(&python, "front.py"), run, &over_grpc, READY).await?;
        Ok(Self { services: vec![front, pricing, stock], folder, url, client: client::client()? })
    }

    /// As [`Self::start`], with the gateway before the others.
    ///
    /// # Errors
    /// When one cannot be installed or started.
    pub async fn start_behind_gateway(agent: &Node) -> Result<Self> {
        let mut application = Self::start(agent).await?;
        let modules = install_blocking("app-node").await?;
        let register = modules.join("@opentelemetry/auto-instrumentations-node/build/src/register.js");
        let args = ["--require".to_owned(), register.display().to_string(), script("node/gateway.js")];
        let (modules, http) = (modules.display().to_string(), format!("http://{}", agent.http));
        let env = [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", http.as_str()),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "120000"),
            ("OTEL_SEMCONV_STABILITY_OPT_IN", "http"),
            // An export may take as long as the interval, and the last one has to be let through.
            ("OTEL_METRIC_EXPORT_INTERVAL", "20000"),
            ("OTEL_METRIC_EXPORT_TIMEOUT", "20000"),
            // The others ask the clouds who they are.
            ("OTEL_NODE_RESOURCE_DETECTORS", "env,host,os,process"),
            ("NODE_PATH", modules.as_str()),
            ("FRONT_URL", application.url.as_str()),
        ];
        let command = (PathBuf::from("node"), args.into());
        // It cannot be told which requests are no order.
        let (gateway, url) = service(GATEWAY, command, application.folder.path(), &env, None).await?;
        application.services.insert(0, gateway);
        application.url = url;
        Ok(application)
    }

    /// Orders `article` and gives the status of the answer. `fine` is found (200), `broken` breaks the query of
    /// the database (502), anything else is unknown (404). `number` tells the order's log records apart.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn order(&self, article: &str, number: usize) -> Result<u16> {
        let answer = self.client.get(format!("{}/order/{article}/{number}", self.url)).send().await?;
        Ok(answer.status().as_u16())
    }

    /// Ends the services, who asks before who is asked: each flushes what it still has.
    ///
    /// # Errors
    /// When one does not end.
    pub async fn stop(&mut self) -> Result<()> {
        for service in &mut self.services {
            service.stop().await?;
        }
        Ok(())
    }

    /// The ends of the services' output, for a message.
    pub fn tails(&self) -> String {
        self.services.iter().map(|service| service.name().to_owned() + ":\n" + &service.log_tail(20) + "\n").collect()
    }
}

/// The path that answers once a service serves, and that is not instrumented.
const READY: Option<&str> = Some("/ready");

/// A program of the application.
fn script(name: &str) -> String {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../apps/").to_owned() + name
}

/// The auto-instrumented Python service `name`.
fn python_command(python: &Path, name: &str) -> (PathBuf, Vec<String>) {
    let args = vec![python.display().to_string(), script(&format!("python/{name}"))];
    (python.with_file_name("opentelemetry-instrument"), args)
}

/// Starts a service with its own variables `env`; it serves once `ready` is answered, or once it is listened.
async fn service(
    name: &str,
    (program, args): (PathBuf, Vec<String>),
    run: &Path,
    env: &[(&str, &str)],
    ready: Option<&str>,
) -> Result<(Server, String)> {
    let port = ports::free()?;
    let url = format!("http://127.0.0.1:{port}");
    let ready = match ready {
        Some(path) => Ready::Http(format!("{url}{path}")),
        None => Ready::Tcp(([127, 0, 0, 1], port).into()),
    };
    let port = port.to_string();
    let own = [("PORT", port.as_str()), ("OTEL_SERVICE_NAME", name)];
    let env = COMMON.iter().chain(env).chain(&own).copied();
    let server = Server::start(Spec {
        name: name.to_owned(),
        program,
        args,
        env: env.map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        folder: run.join(name),
        ready,
    })
    .await?;
    Ok((server, url))
}

/// Runs `telemetrygen` to its end: `words` say the signal and how much of it, the agent is `endpoint`.
///
/// # Errors
/// When it cannot be installed, or says that an export failed.
pub async fn telemetrygen(endpoint: &str, over_http: bool, words: &[&str]) -> Result<()> {
    let program = install_blocking("telemetrygen").await?;
    let mut command = Command::new(program);
    command.args(words).args(["--otlp-insecure", "--otlp-endpoint", endpoint, "--rate", "0"]);
    if over_http {
        command.arg("--otlp-http");
    }
    command.stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await?.context("cannot run telemetrygen")?;
    if !output.status.success() {
        bail!("telemetrygen {words:?} ended with {}:\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
