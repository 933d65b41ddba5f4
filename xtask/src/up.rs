//! `cargo xtask up`: both processes on this machine, from a build of this checkout, until Ctrl-C.
//!
//! Invariants: nothing listens beyond loopback; a port that is taken is an error before anything starts;
//! Ctrl-C, SIGTERM or the end of the terminal stops the agent before central and central before its backends,
//! each with the time it needs to drain; when one of them dies, the rest is stopped and its log's end is shown.

mod config;
mod demo;
mod table;
mod view;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use mirador_support::backends::cache::Cache;
use mirador_support::backends::ports;
use mirador_support::backends::server::{Ready, Server, Spec};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::backends::hold::{self, Held};
use crate::workspace::{cargo, program, succeed};
use config::{Ports, Stores};

/// Start agent and central on this machine and say where to send OTLP and where to look.
///
/// Ctrl-C stops both, without loss. Data is kept for the next start unless --fresh is given.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Feed it: a small simulated shop sends OTLP, its payment service falters after 100 s, and the
    /// terminal shows calls, edges and anomalies.
    #[arg(long)]
    demo: bool,
    /// Visitors a second of the simulated shop.
    #[arg(long, default_value_t = 40, requires = "demo", value_parser = clap::value_parser!(u32).range(1..=5000))]
    visits: u32,
    /// Where data is kept: in one SQLite file, or in VictoriaMetrics, Cassandra and a trace store (VictoriaTraces
    /// where `MIRADOR_VICTORIATRACES_BIN` names it, else Jaeger) that are started on loopback, and built first
    /// when they are not installed.
    #[arg(long, value_enum, default_value_t = Backends::Embedded)]
    backends: Backends,
    /// With real backends: the store of the logs.
    #[arg(long, value_enum, default_value_t = LogStore::Cassandra)]
    logs: LogStore,
    /// Build and run with optimisation.
    #[arg(long)]
    release: bool,
    /// The agent's OTLP/gRPC port.
    #[arg(long, default_value_t = 4317, value_parser = port())]
    grpc_port: u16,
    /// The agent's OTLP/HTTP port.
    #[arg(long, default_value_t = 4318, value_parser = port())]
    http_port: u16,
    /// The agent's metrics port.
    #[arg(long, default_value_t = 8888, value_parser = port())]
    metrics_port: u16,
    /// The agent's health port.
    #[arg(long, default_value_t = 13133, value_parser = port())]
    health_port: u16,
    /// The port of the live page (embedded store only).
    #[arg(long, default_value_t = 14380, value_parser = port())]
    console_port: u16,
    /// The folder for configurations, logs and data; default: `state/up` in the cache.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Forget the data of earlier starts.
    #[arg(long)]
    fresh: bool,
}

/// A port that can be told to others: 0 would be any.
fn port() -> clap::builder::RangedI64ValueParser<u16> {
    clap::value_parser!(u16).range(1..)
}

/// Where data is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Backends {
    /// One SQLite file and a live page.
    Embedded,
    /// `VictoriaMetrics`, Cassandra or `VictoriaLogs`, and a trace store.
    Real,
}

/// Where logs are kept with real backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum LogStore {
    Cassandra,
    Victorialogs,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let ports = options.ports()?;
    let state = match &options.state {
        Some(state) => std::path::absolute(state)?,
        None => Cache::locate()?.root().join("state").join("up"),
    };
    fs::create_dir_all(&state).with_context(|| format!("cannot create {}", state.display()))?;
    let lock = File::create(state.join("lock")).with_context(|| format!("cannot write into {}", state.display()))?;
    ensure!(
        lock.try_lock().is_ok(),
        "another `cargo xtask up` uses {}: stop it, or choose another folder with --state",
        state.display()
    );
    if options.fresh {
        for data in ["data", "backends"] {
            fs::remove_dir_all(state.join(data)).or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            })?;
        }
    }
    // Not quietly: the first build takes minutes, and cargo shows how far it is.
    let mut build = cargo(["build", "--package", "mirador-agent", "--package", "mirador-central"]);
    if options.release {
        build.arg("--release");
    }
    note("building");
    succeed(&mut build)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(until_told(options, &state, &ports));
    // Whoever stops it while a backend is being built does not wait for the build.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// Says what is going on, to whoever still reads it.
fn note(text: &str) {
    writeln!(io::stderr(), "up: {text}").ok();
}

impl Options {
    /// Every port, free now; what is ours alone moves away when its usual place is taken.
    fn ports(&self) -> Result<Ports> {
        let mut chosen = vec![
            ("grpc", self.grpc_port),
            ("http", self.http_port),
            ("metrics", self.metrics_port),
            ("health", self.health_port),
        ];
        if self.backends == Backends::Embedded {
            chosen.push(("console", self.console_port));
        }
        for (index, (name, port)) in chosen.iter().enumerate() {
            if let Some((other, _)) = chosen[..index].iter().find(|(_, other)| other == port) {
                bail!("--{other}-port and --{name}-port are both {port}: give each a port of its own");
            }
            required(name, *port)?;
        }
        let used: Vec<u16> = chosen.iter().map(|(_, port)| *port).collect();
        Ok(Ports {
            grpc: self.grpc_port,
            http: self.http_port,
            metrics: self.metrics_port,
            health: self.health_port,
            console: self.console_port,
            central_grpc: preferred(14317, &used)?,
            central_http: preferred(14318, &used)?,
            central_metrics: preferred(18888, &used)?,
            central_health: preferred(23133, &used)?,
        })
    }
}

fn required(name: &str, port: u16) -> Result<()> {
    ensure!(
        ports::is_free(port),
        "port {port} is taken: stop what listens there, or choose another with --{name}-port"
    );
    Ok(())
}

/// `port` when nobody has it and it is not among the `used`, which are not listened on yet; else any such.
fn preferred(port: u16, used: &[u16]) -> Result<u16> {
    if !used.contains(&port) && ports::is_free(port) {
        return Ok(port);
    }
    loop {
        let port = ports::free()?;
        if !used.contains(&port) {
            return Ok(port);
        }
    }
}

/// What runs, in the order in which it is stopped.
struct Running {
    agent: Option<Server>,
    central: Option<Server>,
    backends: Vec<Held>,
}

/// Waits for Ctrl-C, SIGTERM or the end of the terminal.
struct Told {
    interrupt: Signal,
    terminate: Signal,
    /// None where whoever started this has it ignored (`nohup`): then it stays so.
    hang_up: Option<Signal>,
}

impl Told {
    fn new() -> Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: if ignores_hang_up() { None } else { Some(signal(SignalKind::hangup())?) },
        })
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            () = heard(self.hang_up.as_mut()) => {}
        }
    }
}

async fn heard(signal: Option<&mut Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// Whether this process was started with SIGHUP ignored, as `SigIgn` of proc(5) tells it.
fn ignores_hang_up() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

async fn until_told(options: &Options, state: &Path, ports: &Ports) -> Result<()> {
    let mut told = Told::new()?;
    let mut running = Running { agent: None, central: None, backends: Vec::new() };
    let mut result = tokio::select! {
        result = serve(options, state, ports, &mut running) => result,
        () = told.wait() => Ok(()),
    };
    if let Err(error) = &result {
        if is_unread(error) {
            result = Ok(());
        } else {
            // In short; the end of its log comes last, where it is looked for.
            note(error.to_string().lines().next().unwrap_or_default().trim_end_matches(':'));
        }
    }
    note("stopping (once more to stop at once)");
    tokio::select! {
        stopped = running.stop() => result.and(stopped),
        () = told.wait() => {
            note("stopped at once; what was in flight is lost");
            result
        }
    }
}

/// Whether `error` only says that nobody reads any more (`up | head`): a wish to end, and no failure.
fn is_unread(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Writes to stdout; that nobody reads it is an error, and not a panic.
fn say(text: &str) -> Result<()> {
    let mut out = io::stdout();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Starts everything and returns only when something has gone wrong.
async fn serve(options: &Options, state: &Path, ports: &Ports, running: &mut Running) -> Result<()> {
    let stores = match options.backends {
        Backends::Embedded => Stores::Embedded(state.join("data").join("mirador.sqlite")),
        Backends::Real => real(options, state, ports, running).await?,
    };
    let profile = if options.release { "release" } else { "debug" };
    let central = config::central(ports, &stores, &state.join("data"));
    let central = start("mirador-central", &["all"], &central, profile, state, ports.central_health).await?;
    running.central = Some(central);
    let agent = config::agent(ports);
    running.agent = Some(start("mirador-agent", &["run"], &agent, profile, state, ports.health).await?);
    say(&config::greeting(ports, &stores, state))?;
    if !options.demo {
        say("Ctrl-C stops it.\n")?;
        return running.ended().await;
    }
    tokio::select! {
        ended = running.ended() => ended,
        ended = demo::run(ports, &stores, state, options.visits) => ended,
    }
}

async fn start(
    name: &str,
    verb: &[&str],
    config: &str,
    profile: &str,
    state: &Path,
    health_port: u16,
) -> Result<Server> {
    note(&format!("starting {name}"));
    let file = state.join(format!("{name}.yaml"));
    fs::write(&file, config).with_context(|| format!("cannot write {}", file.display()))?;
    // Each start has a log of its own.
    fs::remove_file(state.join(format!("{name}.log"))).ok();
    let mut args: Vec<String> = verb.iter().map(ToString::to_string).collect();
    args.extend(["--config".into(), file.display().to_string()]);
    Server::start(Spec {
        name: name.into(),
        program: program(name, profile)?,
        args,
        env: Vec::new(),
        folder: state.into(),
        ready: Ready::Http(format!("http://127.0.0.1:{health_port}/readyz")),
    })
    .await
}

/// Starts the real backends, on their usual ports where those are free.
async fn real(options: &Options, state: &Path, ports: &Ports, running: &mut Running) -> Result<Stores> {
    let logs = match options.logs {
        LogStore::Cassandra => "cassandra",
        LogStore::Victorialogs => "victorialogs",
    };
    note(&format!("starting victoriametrics, {logs} and a trace store"));
    let used = ports.all();
    let wanted = hold::Options::on(["victoriametrics", logs, "traces"], |port| preferred(port, &used))?;
    let (held, addresses) = hold::open(&wanted, &state.join("backends")).await?;
    running.backends = held;
    Ok(Stores::Real(addresses))
}

impl Running {
    /// Waits until one of the processes ends by itself; that is an error with the end of its log.
    async fn ended(&mut self) -> Result<()> {
        let ours = [&mut self.agent, &mut self.central].into_iter().flatten();
        let mut servers: Vec<&mut Server> = ours.chain(self.backends.iter_mut().map(Held::server)).collect();
        loop {
            for server in &mut servers {
                if let Some(status) = server.exited()? {
                    bail!("{} ended with {status}:\n{}", server.name(), server.log_tail(20));
                }
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Stops all of them, also when one does not end; that is the error then.
    async fn stop(&mut self) -> Result<()> {
        let ours = [&mut self.agent, &mut self.central].into_iter().flatten();
        let mut result = Ok(());
        for server in ours.chain(self.backends.iter_mut().map(Held::server)) {
            result = result.and(server.stop().await);
        }
        result
    }
}

#[cfg(test)]
mod tests;
