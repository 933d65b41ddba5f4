//! What is measured: a process, its configuration and the load it gets.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use mirador_support::backends::{install, ports};
use serde::de::DeserializeOwned;

/// What the measured process does with spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Job {
    /// Nothing: the load goes straight to a sink.
    Idle,
    /// Receives and drops.
    Receive,
    /// Sends everything to one owner.
    Forward,
    /// Splits by trace id over three owners.
    Balance,
    /// Receives and counts RED.
    SpanMetrics,
    /// Counts RED, splits by trace id over three owners and forwards.
    Full,
}

/// One row of the table.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) name: String,
    pub(super) program: &'static str,
    pub(super) protocol: &'static str,
    pub(super) spans: usize,
    pub(super) job: Job,
    binary: PathBuf,
    memory_limit_mib: Option<u32>,
}

/// A started subject; it is ended when this is dropped.
pub(super) struct Running {
    child: Child,
    folder: tempfile::TempDir,
    pub(super) target: SocketAddr,
    pub(super) sinks: Vec<SocketAddr>,
}

/// A release binary of this workspace.
pub(super) fn binary(name: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target")), PathBuf::from);
    target.join("release").join(name)
}

/// Builds what is measured and what measures it.
pub(super) fn build() -> Result<()> {
    let status = Command::new(env!("CARGO"))
        .args(["build", "--release", "--package", "mirador-agent", "--package", "mirador-support", "--bins"])
        .status()?;
    ensure!(status.success(), "the release build failed");
    Ok(())
}

/// The load program on CPU 1; its arguments are still to be given.
pub(super) fn load() -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", "1"]).arg(binary("mirador-load"));
    command
}

/// The agent alone, for one protocol.
pub(super) fn agent(job: Job, protocol: &'static str, spans: usize, memory_limit_mib: u32) -> Subject {
    Subject {
        name: format!("{protocol}, {spans} spans"),
        program: "mirador",
        protocol,
        spans,
        job,
        binary: binary("mirador-agent"),
        memory_limit_mib: Some(memory_limit_mib),
    }
}

/// No process under test: what the load and its sinks do alone is what no subject can be asked for more than.
pub(super) fn nothing(spans: usize) -> Subject {
    Subject {
        name: format!("none: load straight to a sink, grpc, {spans} spans"),
        program: "none",
        protocol: "grpc",
        spans,
        job: Job::Idle,
        binary: PathBuf::from("sleep"),
        memory_limit_mib: None,
    }
}

/// Every subject, ours and the Collector's side by side.
pub(super) fn all(peers: bool) -> Result<Vec<Subject>> {
    let agent = binary("mirador-agent");
    let (collector, span_metrics) = if peers {
        let balancing = install::ensure("collector").context("the Collector that balances load")?;
        let metrics = install::ensure("collectorspanmetrics").context("the Collector with span metrics")?;
        (Some(balancing), Some(metrics))
    } else {
        (None, None)
    };
    let mut subjects = Vec::new();
    for protocol in ["grpc", "http"] {
        for spans in [1000, 10] {
            let mut add = |program: &'static str, job: Job, what: &str, binary: &PathBuf| {
                subjects.push(Subject {
                    name: format!("{program}: {what}, {protocol}, {spans} spans"),
                    program,
                    protocol,
                    spans,
                    job,
                    binary: binary.clone(),
                    memory_limit_mib: None,
                });
            };
            add("mirador", Job::Forward, "forward", &agent);
            if let Some(collector) = &collector {
                add("otelcol", Job::Forward, "forward", collector);
            }
            add("mirador", Job::Full, "RED + 3 owners", &agent);
            if let (Some(collector), Some(span_metrics)) = (&collector, &span_metrics) {
                add("otelcol", Job::Balance, "load balancing, 3 owners", collector);
                add("otelcol", Job::SpanMetrics, "span metrics only", span_metrics);
                add("otelcol", Job::Receive, "receive only", span_metrics);
            }
        }
    }
    Ok(subjects)
}

impl Subject {
    /// Starts the process on CPU 0.
    pub(super) fn start(&self) -> Result<Running> {
        let folder = tempfile::tempdir()?;
        let owners = if matches!(self.job, Job::Balance | Job::Full) { 3 } else { 1 };
        let sinks: Vec<SocketAddr> = (0..=owners).map(|_| local()).collect::<Result<_>>()?;
        let (grpc, http) = (local()?, local()?);
        let text = match self.program {
            "none" => String::new(),
            "mirador" => self.agent_config(grpc, http, &sinks)?,
            _ => self.collector_config(grpc, http, &sinks),
        };
        let config = folder.path().join("config.yaml");
        std::fs::write(&config, text)?;
        let log = File::create(folder.path().join("log"))?;
        let mut command = Command::new("taskset");
        command.args(["-c", "0"]).arg(&self.binary);
        match self.program {
            "none" => command.arg("1d"),
            "mirador" => command.args(["run", "--config"]).arg(&config),
            _ => command.arg("--config").arg(&config).env("GOMAXPROCS", "1"),
        };
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::from(log.try_clone()?))
            .stderr(Stdio::from(log))
            .spawn()
            .context("cannot run taskset; it comes with util-linux")?;
        let target = match self.protocol {
            _ if self.job == Job::Idle => sinks[0],
            "grpc" => grpc,
            _ => http,
        };
        Ok(Running { child, folder, target, sinks })
    }

    fn agent_config(&self, grpc: SocketAddr, http: SocketAddr, sinks: &[SocketAddr]) -> Result<String> {
        let (metrics, health) = (local()?, local()?);
        let (red, owners) = sinks.split_last().context("a subject has sinks")?;
        let hosts: Vec<String> = owners.iter().map(|owner| format!("\"{owner}\"")).collect();
        let red = if self.job == Job::Full {
            format!("{{ resolver: {{ static: {{ hostnames: [\"{red}\"] }} }} }}")
        } else {
            "null".to_owned()
        };
        let memory = self.memory_limit_mib.map(|mib| format!("memory: {{ limit_mib: {mib} }}\n")).unwrap_or_default();
        Ok(format!(
            "{memory}receiver:\n  protocols:\n    grpc: {{ endpoint: \"{grpc}\" }}\n    http: {{ endpoint: \"{http}\" }}\n\
             exporters:\n  traces: {{ resolver: {{ static: {{ hostnames: [{}] }} }} }}\n  red: {red}\n  metrics: null\n  logs: null\n\
             telemetry: {{ metrics: {{ endpoint: \"{metrics}\" }} }}\nhealth: {{ endpoint: \"{health}\" }}\n",
            hosts.join(", ")
        ))
    }

    fn collector_config(&self, grpc: SocketAddr, http: SocketAddr, sinks: &[SocketAddr]) -> String {
        let (_, owners) = sinks.split_last().unwrap_or((&sinks[0], sinks));
        let receivers = format!(
            "receivers:\n  otlp:\n    protocols:\n      grpc: {{ endpoint: \"{grpc}\", max_recv_msg_size_mib: 64 }}\n      http: {{ endpoint: \"{http}\" }}\n"
        );
        let telemetry = "  telemetry: { metrics: { level: none }, logs: { level: warn } }\n";
        let queue = "sending_queue: { wait_for_result: true, block_on_overflow: true, queue_size: 100 }";
        let tls = "tls: { insecure: true }, compression: none";
        match self.job {
            Job::Forward => format!(
                "{receivers}exporters:\n  otlp: {{ endpoint: \"{}\", {tls}, {queue} }}\nservice:\n{telemetry}  pipelines:\n    traces: {{ receivers: [otlp], exporters: [otlp] }}\n",
                owners[0]
            ),
            Job::Balance | Job::Full => format!(
                "{receivers}exporters:\n  loadbalancing:\n    protocol: {{ otlp: {{ {tls}, sending_queue: {{ enabled: false }} }} }}\n    resolver: {{ static: {{ hostnames: [{}] }} }}\nservice:\n{telemetry}  pipelines:\n    traces: {{ receivers: [otlp], exporters: [loadbalancing] }}\n",
                owners.iter().map(|owner| format!("\"{owner}\"")).collect::<Vec<_>>().join(", ")
            ),
            Job::SpanMetrics => format!(
                "{receivers}exporters:\n  nop: {{}}\nconnectors:\n  spanmetrics: {{ metrics_flush_interval: 15s }}\nservice:\n{telemetry}  pipelines:\n    traces: {{ receivers: [otlp], exporters: [spanmetrics] }}\n    metrics: {{ receivers: [spanmetrics], exporters: [nop] }}\n"
            ),
            Job::Receive | Job::Idle => format!(
                "{receivers}exporters:\n  nop: {{}}\nservice:\n{telemetry}  pipelines:\n    traces: {{ receivers: [otlp], exporters: [nop] }}\n"
            ),
        }
    }
}

impl Running {
    /// The process that is measured: taskset has become it.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Runs the load against it and reads the figures that the load prints.
    pub(super) fn figures<T: DeserializeOwned>(&self, load: &mut Command) -> Result<T> {
        let output = load.output().context("cannot run taskset; it comes with util-linux")?;
        ensure!(
            output.status.success(),
            "the load failed: {}\nthe measured process said: {}",
            String::from_utf8_lossy(&output.stderr),
            self.log()
        );
        serde_json::from_slice(&output.stdout).context("the load printed no figures")
    }

    /// The last lines that it wrote.
    pub(super) fn log(&self) -> String {
        let text = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is reaped.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn local() -> Result<SocketAddr> {
    Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free()?)))
}
