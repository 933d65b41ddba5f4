//! A child process that serves something: started, watched until it answers, paused, stopped, killed and
//! started again on the same ports and data.
//!
//! Invariants: the child dies with this process, however that ends (the kernel is asked for it where
//! `setpriv` exists); dropping a [`Server`] kills only the child that it has started; its output goes to a
//! file in its folder, whose end is part of every error.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, OnceLock, mpsc};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::install::tail;

/// How long a child may take to answer; Cassandra takes 20 s on a machine that builds at the same time.
const READY: Duration = Duration::from_secs(300);
/// How long a child may take to end after it was asked to.
const STOP: Duration = Duration::from_secs(60);

/// How to see that a server serves.
#[derive(Debug, Clone)]
pub enum Ready {
    /// A GET of this URL is answered with a success.
    Http(String),
    /// An OPTIONS frame of the CQL protocol is answered.
    Cql(SocketAddr),
    /// A connection is accepted.
    Tcp(SocketAddr),
}

/// What to run.
#[derive(Debug)]
pub struct Spec {
    /// A word for messages and the log's name.
    pub name: String,
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Additions to its environment.
    pub env: Vec<(String, String)>,
    /// Its working folder; the log `NAME.log` goes there.
    pub folder: PathBuf,
    /// How to see that it serves.
    pub ready: Ready,
}

/// A child process that serves something.
#[derive(Debug)]
pub struct Server {
    spec: Spec,
    child: Option<Child>,
}

impl Server {
    /// Starts the child and waits until it answers.
    pub async fn start(spec: Spec) -> Result<Self> {
        let mut server = Self { spec, child: None };
        server.restart().await?;
        Ok(server)
    }

    /// Starts the child again, on the same ports and data, after [`Server::stop`] or [`Server::kill`];
    /// a running one is stopped before.
    pub async fn restart(&mut self) -> Result<()> {
        self.launch().await?;
        self.ready().await
    }

    /// Starts the child and does not wait for it.
    pub async fn launch(&mut self) -> Result<()> {
        self.stop().await?;
        fs::create_dir_all(&self.spec.folder)?;
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let mut command = guarded(&self.spec.program);
        command.args(&self.spec.args).envs(self.spec.env.iter().map(|(k, v)| (k, v)));
        command.current_dir(&self.spec.folder).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // A group of its own: an interrupt from the terminal reaches the owner, and the owner decides.
        command.process_group(0);
        let child = spawn(command)
            .with_context(|| format!("cannot start {} ({})", self.spec.name, self.spec.program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// Waits until the child answers; an error, with the end of its log, when it ends or takes too long.
    pub async fn ready(&mut self) -> Result<()> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.exited()? {
                bail!("{} ended with {status} before it was ready\n{}", self.spec.name, self.log_tail(30));
            }
            if answers(&self.spec.ready).await {
                return Ok(());
            }
            if started.elapsed() > READY {
                bail!("{} is not ready after {} s\n{}", self.spec.name, READY.as_secs(), self.log_tail(30));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The process id while the child runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// How the child ended, when it has without being asked to.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        match &mut self.child {
            Some(child) => Ok(child.try_wait()?),
            None => Ok(None),
        }
    }

    /// Asks the child to end (SIGTERM) and waits for it; what it has stored stays.
    pub async fn stop(&mut self) -> Result<()> {
        // A paused child would never see the request to end.
        self.signal(Signal::CONT);
        self.signal(Signal::TERM);
        self.gone().await
    }

    /// Ends the child at once (SIGKILL), as a power cut would.
    pub async fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL);
        self.gone().await
    }

    /// Stops the child in its tracks (SIGSTOP): its sockets accept and never answer.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets a paused child go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Sends `signal` to the child while it runs.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.pid().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
            // It may have ended by itself since; it is not reaped yet, so the id is still its own.
            rustix::process::kill_process(pid, signal).ok();
        }
    }

    async fn gone(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        let started = Instant::now();
        while child.try_wait()?.is_none() {
            if started.elapsed() > STOP {
                child.kill()?;
                child.wait()?;
                bail!("{} did not end in {} s and was killed\n{}", self.spec.name, STOP.as_secs(), self.log_tail(30));
            }
            sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// The word for it in messages.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// The child's folder.
    pub fn folder(&self) -> &Path {
        &self.spec.folder
    }

    /// The file that has the child's output.
    pub fn log_path(&self) -> PathBuf {
        self.spec.folder.join(format!("{}.log", self.spec.name))
    }

    /// The last `lines` lines of the child's output.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = fs::read(self.log_path()).unwrap_or_default();
        tail(&String::from_utf8_lossy(&text), lines)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        if let Some(mut child) = self.child.take() {
            child.wait().ok();
        }
    }
}

/// The command for `program`, which the kernel kills when the thread that spawns it ends.
fn guarded(program: &Path) -> Command {
    static SETPRIV: OnceLock<bool> = OnceLock::new();
    let has = || Command::new("setpriv").arg("--version").output().is_ok_and(|out| out.status.success());
    if *SETPRIV.get_or_init(has) {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    }
}

type Job = (Command, mpsc::SyncSender<std::io::Result<Child>>);

/// Spawns on a thread that lives as long as the process: the kernel's promise is tied to the thread, and
/// a test's or a runtime's own thread may end long before the process does.
fn spawn(command: Command) -> Result<Child> {
    static SPAWNER: OnceLock<Mutex<mpsc::SyncSender<Job>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (send, receive) = mpsc::sync_channel::<Job>(8);
        std::thread::spawn(move || {
            for (mut command, answer) in receive {
                answer.send(command.spawn()).ok();
            }
        });
        Mutex::new(send)
    });
    let (answer, child) = mpsc::sync_channel(1);
    let send = spawner.lock().map_err(|_| anyhow::anyhow!("the spawning thread is gone"))?.clone();
    send.send((command, answer)).ok().context("the spawning thread is gone")?;
    Ok(child.recv()??)
}

async fn answers(ready: &Ready) -> bool {
    let limit = Duration::from_secs(2);
    match ready {
        Ready::Http(url) => {
            let Ok(client) = super::client::client() else {
                return false;
            };
            let question = client.get(url).timeout(limit).send().await;
            question.is_ok_and(|answer| answer.status().is_success())
        }
        Ready::Tcp(address) => {
            matches!(timeout(limit, TcpStream::connect(address)).await, Ok(Ok(_)))
        }
        Ready::Cql(address) => matches!(timeout(limit, supports_cql(*address)).await, Ok(Ok(true))),
    }
}

/// Asks for OPTIONS and looks whether SUPPORTED comes back (native protocol v4 §4.1.3, §4.2.4).
async fn supports_cql(address: SocketAddr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(&[4, 0, 0, 0, 5, 0, 0, 0, 0]).await?;
    let mut header = [0; 9];
    stream.read_exact(&mut header).await?;
    Ok(header[4] == 6)
}

#[cfg(test)]
mod tests;
