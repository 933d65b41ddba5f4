//! VictoriaTraces on loopback: the real one where `MIRADOR_VICTORIATRACES_BIN` names it, and a strict
//! [`StandIn`] for its HTTP contract where it is not to be had.
//!
//! [`TraceStore`] is either of them, for tests that only need the contract.

mod body;
mod connection;
mod fault;
mod row;
mod stand_in;
#[cfg(test)]
pub(crate) mod tests;

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use tempfile::TempDir;

pub use fault::Fault;
pub use stand_in::{Limits, Seen, StandIn};

use super::jaeger::TraceQuery;
use super::ports;
use super::server::{Ready, Server, Spec};

/// Names the program.
pub const VARIABLE: &str = "MIRADOR_VICTORIATRACES_BIN";

/// Where OTLP/HTTP traces go on a VictoriaTraces.
pub const INSERT_PATH: &str = "/insert/opentelemetry/v1/traces";

/// A running VictoriaTraces; stop, kill and restart are [`Server`]'s.
#[derive(Debug)]
pub struct VictoriaTraces {
    server: Server,
    url: String,
    query: TraceQuery,
    data: Option<TempDir>,
}

impl VictoriaTraces {
    /// The program that the environment names.
    pub fn program() -> Result<Option<PathBuf>> {
        let Some(program) = std::env::var_os(VARIABLE).filter(|value| !value.is_empty()) else {
            return Ok(None);
        };
        let program = PathBuf::from(program);
        ensure!(program.is_file(), "{VARIABLE} names {}, which is no file", program.display());
        Ok(Some(program))
    }

    /// Starts it with data that is gone when it is dropped; `None` when there is none on this machine.
    pub async fn start() -> Result<Option<Self>> {
        let Some(program) = Self::program()? else {
            return Ok(None);
        };
        let data = tempfile::Builder::new().prefix("mirador-victoriatraces-").tempdir()?;
        let mut started = Self::open(program, data.path(), ports::free()?).await?;
        started.data = Some(data);
        Ok(Some(started))
    }

    /// Starts `program` on `port` with its data in `folder`, which stays.
    pub async fn open(program: PathBuf, folder: &Path, port: u16) -> Result<Self> {
        let url = format!("http://127.0.0.1:{port}");
        let server = Server::start(Spec {
            name: "victoriatraces".into(),
            program,
            args: vec![
                format!("-storageDataPath={}", folder.join("data").display()),
                format!("-httpListenAddr=127.0.0.1:{port}"),
                "-retentionPeriod=10y".into(),
                "-memory.allowedBytes=64MB".into(),
                // A span is hidden from queries for half a minute otherwise.
                "-insert.indexFlushInterval=1s".into(),
                "-search.latencyOffset=0s".into(),
            ],
            env: Vec::new(),
            folder: folder.into(),
            ready: Ready::Http(format!("{url}/health")),
        })
        .await?;
        let query = TraceQuery::new(format!("{url}/select/jaeger/api"));
        Ok(Self { server, url, query, data: None })
    }

    /// Where it listens: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What it has stored.
    pub fn query(&self) -> &TraceQuery {
        &self.query
    }
}

impl Deref for VictoriaTraces {
    type Target = Server;
    fn deref(&self) -> &Server {
        &self.server
    }
}

impl DerefMut for VictoriaTraces {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.server
    }
}

/// A trace store that keeps VictoriaTraces' contract.
#[derive(Debug)]
pub enum TraceStore {
    /// VictoriaTraces itself.
    Real(Box<VictoriaTraces>),
    /// What stands in for it.
    StandIn(StandIn),
}

impl TraceStore {
    /// The real one when this machine has it, else the stand-in.
    pub async fn start() -> Result<Self> {
        Ok(match VictoriaTraces::start().await? {
            Some(real) => Self::Real(Box::new(real)),
            None => Self::StandIn(StandIn::start().await?),
        })
    }

    /// Where it listens: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> &str {
        match self {
            Self::Real(real) => real.url(),
            Self::StandIn(stand_in) => stand_in.url(),
        }
    }

    /// Where OTLP/HTTP traces go.
    pub fn insert_url(&self) -> String {
        format!("{}{INSERT_PATH}", self.url())
    }

    /// What it has stored.
    pub fn query(&self) -> &TraceQuery {
        match self {
            Self::Real(real) => real.query(),
            Self::StandIn(stand_in) => stand_in.query(),
        }
    }

    /// Ends it; what it has stored stays.
    pub async fn stop(&mut self) -> Result<()> {
        match self {
            Self::Real(real) => real.stop().await,
            Self::StandIn(stand_in) => stand_in.stop().await,
        }
    }

    /// Starts it again on the same port and data.
    pub async fn restart(&mut self) -> Result<()> {
        match self {
            Self::Real(real) => real.restart().await,
            Self::StandIn(stand_in) => stand_in.restart().await,
        }
    }
}
