//! Backends that run on: one process that holds them, a file that says where they are.
//!
//! Invariant: `stop` ends only the process that the file names and that is still the one which wrote it
//! (its start time is compared, so that a reused process id is nobody's victim).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use mirador_support::backends::cache::Cache;
use mirador_support::backends::{
    Cassandra, Jaeger, Server, VictoriaLogs, VictoriaMetrics, VictoriaTraces, jaeger, ports,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// Which backends, and where.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only these: victoriametrics, victorialogs, cassandra, traces; default: all.
    names: Vec<String>,
    /// Stay in the foreground; Ctrl-C stops the backends.
    #[arg(long)]
    foreground: bool,
    /// The port of VictoriaMetrics.
    #[arg(long, default_value_t = 8428)]
    victoriametrics_port: u16,
    /// The port of VictoriaLogs.
    #[arg(long, default_value_t = 9428)]
    victorialogs_port: u16,
    /// The CQL port of Cassandra.
    #[arg(long, default_value_t = 9042)]
    cassandra_port: u16,
    /// The port of the trace store: VictoriaTraces when `MIRADOR_VICTORIATRACES_BIN` names it, else the
    /// OTLP/HTTP port of a Jaeger.
    #[arg(long, default_value_t = 10428)]
    traces_port: u16,
}

impl Options {
    /// These backends, each on the port that `choose` makes of its usual one.
    pub(crate) fn on<const N: usize>(names: [&str; N], choose: impl Fn(u16) -> Result<u16>) -> Result<Self> {
        Ok(Self {
            names: names.map(String::from).into(),
            foreground: true,
            victoriametrics_port: choose(8428)?,
            victorialogs_port: choose(9428)?,
            cassandra_port: choose(9042)?,
            traces_port: choose(10428)?,
        })
    }
}

const NAMES: [&str; 4] = ["victoriametrics", "victorialogs", "cassandra", "traces"];

/// What runs.
pub(crate) struct State {
    pid: u32,
    /// Where each backend is.
    pub(crate) addresses: BTreeMap<String, String>,
}

pub(crate) fn start(options: &Options) -> Result<()> {
    for name in &options.names {
        ensure!(NAMES.contains(&name.as_str()), "there is no backend {name} to start; there are: {}", NAMES.join(", "));
    }
    if let Some(state) = running()? {
        bail!("backends run already (process {}): `cargo xtask backends stop` ends them", state.pid);
    }
    if options.foreground { hold(options) } else { detach() }
}

/// Starts this program again with `--foreground` in a group of its own and waits for its word.
fn detach() -> Result<()> {
    let folder = folder()?;
    fs::create_dir_all(&folder)?;
    let log = folder.join("backends.log");
    let out = File::create(&log)?;
    let mut again = Command::new(std::env::current_exe()?);
    again.args(std::env::args_os().skip(1)).arg("--foreground").process_group(0);
    again.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
    let mut child = again.spawn().context("cannot start the process that holds the backends")?;
    loop {
        if let Some(status) = child.try_wait()? {
            bail!("the backends did not start ({status}):\n{}", fs::read_to_string(&log).unwrap_or_default().trim());
        }
        if let Some(state) = running()?.filter(|state| state.pid == child.id()) {
            show(&state.addresses);
            println!("data and logs: {} (stop with `cargo xtask backends stop`)", folder.display());
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn show(addresses: &BTreeMap<String, String>) {
    for (name, address) in addresses {
        println!("{name:<16} {address}");
    }
}

pub(crate) fn stop() -> Result<()> {
    let Some(state) = running()? else {
        println!("no backends run");
        return Ok(());
    };
    let pid = Pid::from_raw(state.pid.cast_signed()).context("a process id of zero")?;
    kill_process(pid, Signal::TERM).with_context(|| format!("cannot stop process {}", state.pid))?;
    let started = Instant::now();
    while running()?.is_some() {
        ensure!(started.elapsed() < Duration::from_secs(120), "process {} does not end", state.pid);
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("stopped");
    Ok(())
}

/// What runs now, when anything does.
pub(crate) fn running() -> Result<Option<State>> {
    let Ok(text) = fs::read_to_string(folder()?.join("state.json")) else { return Ok(None) };
    let state: Value = serde_json::from_str(&text).context("state.json of the backends is not JSON")?;
    let pid = state["pid"].as_u64().unwrap_or_default() as u32;
    if start_time(pid).is_none() || state["start_time"].as_str() != start_time(pid).as_deref() {
        return Ok(None);
    }
    let addresses = state["addresses"].as_object().into_iter().flatten();
    let addresses = addresses.map(|(name, at)| (name.clone(), at.as_str().unwrap_or_default().to_owned())).collect();
    Ok(Some(State { pid, addresses }))
}

/// When the process `pid` started, in the kernel's ticks; `None` when there is none (proc(5), field 22).
fn start_time(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; the fields after it are plain.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19).map(str::to_owned)
}

fn folder() -> Result<PathBuf> {
    Ok(Cache::locate()?.root().join("state").join("backends"))
}

#[tokio::main]
async fn hold(options: &Options) -> Result<()> {
    let folder = folder()?;
    fs::create_dir_all(&folder)?;
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let (mut held, addresses) = tokio::select! {
        started = open(options, &folder) => started?,
        _ = interrupt.recv() => bail!("interrupted while the backends started"),
        _ = terminate.recv() => bail!("stopped while the backends started"),
    };
    show(&addresses);
    let me = std::process::id();
    let state = json!({"pid": me, "start_time": start_time(me), "addresses": addresses});
    let file = folder.join("state.json");
    fs::write(&file, state.to_string())?;
    let ended = tokio::select! {
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
        which = ended(&mut held) => Some(which?),
    };
    for backend in &mut held {
        backend.server().stop().await?;
    }
    fs::remove_file(&file).ok();
    match ended {
        Some(which) => bail!("{which}"),
        None => Ok(()),
    }
}

/// A backend that is held, whichever it is.
pub(crate) enum Held {
    Metrics(VictoriaMetrics),
    Logs(VictoriaLogs),
    Cassandra(Cassandra),
    Traces(VictoriaTraces),
    Jaeger(Jaeger),
}

impl Held {
    /// The process.
    pub(crate) fn server(&mut self) -> &mut Server {
        match self {
            Self::Metrics(held) => held,
            Self::Logs(held) => held,
            Self::Cassandra(held) => held,
            Self::Traces(held) => held,
            Self::Jaeger(held) => held,
        }
    }
}

/// Waits until one of the backends ends by itself and says which.
async fn ended(held: &mut [Held]) -> Result<String> {
    loop {
        for backend in &mut *held {
            let server = backend.server();
            if let Some(status) = server.exited()? {
                return Ok(format!("{} ended with {status}\n{}", server.log_path().display(), server.log_tail(20)));
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Starts what `options` name, with data in `folder`; the map says where each is.
pub(crate) async fn open(options: &Options, folder: &Path) -> Result<(Vec<Held>, BTreeMap<String, String>)> {
    let wanted = |name: &str| options.names.is_empty() || options.names.iter().any(|wanted| wanted == name);
    let mut held = Vec::new();
    let mut addresses = BTreeMap::new();
    if wanted("victoriametrics") {
        let port = taken("victoriametrics", options.victoriametrics_port)?;
        let store = VictoriaMetrics::open(&folder.join("victoriametrics"), port, &[]).await?;
        addresses.insert("victoriametrics".into(), store.url().into());
        held.push(Held::Metrics(store));
    }
    if wanted("victorialogs") {
        let port = taken("victorialogs", options.victorialogs_port)?;
        let store = VictoriaLogs::open(&folder.join("victorialogs"), port).await?;
        addresses.insert("victorialogs".into(), store.url().into());
        held.push(Held::Logs(store));
    }
    if wanted("cassandra") {
        let port = taken("cassandra", options.cassandra_port)?;
        let store = Cassandra::open(&folder.join("cassandra"), port).await?;
        addresses.insert("cassandra".into(), store.cql_addr().to_string());
        held.push(Held::Cassandra(store));
    }
    if wanted("traces") {
        let port = taken("traces", options.traces_port)?;
        if let Some(program) = VictoriaTraces::program()? {
            let store = VictoriaTraces::open(program, &folder.join("victoriatraces"), port).await?;
            addresses.insert("victoriatraces".into(), store.url().into());
            held.push(Held::Traces(store));
        } else {
            let ports = jaeger::Ports { http: port, ..jaeger::Ports::free()? };
            let store = Jaeger::open(&folder.join("jaeger"), ports).await?;
            addresses.insert("jaeger-otlp".into(), store.otlp_url());
            addresses.insert("jaeger-query".into(), store.query().base().into());
            held.push(Held::Jaeger(store));
        }
    }
    Ok((held, addresses))
}

/// `port`, or what to do when somebody listens there.
fn taken(name: &str, port: u16) -> Result<u16> {
    ensure!(
        ports::is_free(port),
        "port {port} for {name} is taken: stop what listens there, or choose another with --{name}-port"
    );
    Ok(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_a_start_time_and_no_process_has_none() {
        assert!(start_time(std::process::id()).is_some_and(|time| time.parse::<u64>().is_ok()));
        assert_eq!(start_time(u32::MAX), None);
    }

    #[test]
    fn a_taken_port_is_answered_with_the_flag_that_changes_it() {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let error = taken("cassandra", listener.local_addr().unwrap().port()).unwrap_err().to_string();
        assert!(error.contains("--cassandra-port"), "{error}");
    }
}
