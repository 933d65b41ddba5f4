//! Cassandra on loopback: one node on JDK 11 or 17, from the class path that Maven has put together.
//!
//! The commit log is in `batch` mode: a write is on disk before it is acknowledged. With `periodic`,
//! which other set-ups use, an acknowledged row is lost when the process is killed.

use std::fs;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use super::ports;
use super::server::{Ready, Server, Spec};

/// A running Cassandra; stop, kill and restart are [`Server`]'s.
#[derive(Debug)]
pub struct Cassandra {
    server: Server,
    cql: SocketAddr,
    data: Option<TempDir>,
}

impl Cassandra {
    /// Installs it when needed and starts it with data that is gone when it is dropped.
    pub async fn start() -> Result<Self> {
        Self::start_with(&Settings::default()).await
    }

    /// Like [`Cassandra::start`], with accounts or TLS.
    pub async fn start_with(settings: &Settings) -> Result<Self> {
        let data = tempfile::Builder::new().prefix("mirador-cassandra-").tempdir()?;
        let mut started = Self::prepare(data.path(), ports::free()?, settings).await?;
        started.data = Some(data);
        Ok(started)
    }

    /// Starts it with CQL on `port` and its data in `folder`, which stays.
    pub async fn open(folder: &Path, port: u16) -> Result<Self> {
        Self::prepare(folder, port, &Settings::default()).await
    }

    async fn prepare(folder: &Path, port: u16, settings: &Settings) -> Result<Self> {
        let lib = super::install_blocking("cassandra").await?;
        let java = tokio::task::spawn_blocking(java).await??;
        let conf = folder.join("conf");
        fs::create_dir_all(&conf)?;
        fs::write(conf.join("cassandra.yaml"), yaml(folder, port, ports::free()?) + &settings.yaml())?;
        fs::write(conf.join("cassandra-rackdc.properties"), "dc=dc1\nrack=r1\n")?;
        fs::write(conf.join("logback.xml"), LOGBACK)?;
        let cql = SocketAddr::from(([127, 0, 0, 1], port));
        let server = Server::start(Spec {
            name: "cassandra".into(),
            program: java,
            args: arguments(folder, &conf, &lib),
            env: Vec::new(),
            folder: folder.into(),
            // The port is opened when the node serves; the frame that asks would have to be encrypted.
            ready: if settings.tls.is_some() { Ready::Tcp(cql) } else { Ready::Cql(cql) },
        })
        .await?;
        Ok(Self { server, cql, data: None })
    }

    /// Where CQL clients connect; the data centre is `dc1` and the only replication factor that works is 1.
    pub fn cql_addr(&self) -> SocketAddr {
        self.cql
    }
}

/// What differs from a node that takes everybody in clear text.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Accounts log in and have the rights that they were granted; the first is `cassandra`, with that password and
    /// every right, a moment after the start.
    pub accounts: bool,
    /// CQL by TLS only, and only for clients with a certificate.
    pub tls: Option<Tls>,
}

/// PEM files of a node.
#[derive(Debug, Clone)]
pub struct Tls {
    /// The node's private key (PKCS #8) and its certificate chain, in one file.
    pub key_and_chain: PathBuf,
    /// Certificates that sign clients.
    pub clients: PathBuf,
}

impl Settings {
    fn yaml(&self) -> String {
        let accounts =
            if self.accounts { "authenticator: PasswordAuthenticator\nauthorizer: CassandraAuthorizer\n" } else { "" };
        let tls = self.tls.as_ref().map_or_else(String::new, |Tls { key_and_chain, clients }| {
            format!(
                "client_encryption_options:
  enabled: true
  optional: false
  require_client_auth: true
  ssl_context_factory:
    class_name: org.apache.cassandra.security.PEMBasedSslContextFactory
  keystore: {}
  truststore: {}
",
                key_and_chain.display(),
                clients.display()
            )
        });
        accounts.to_owned() + &tls
    }
}

impl Deref for Cassandra {
    type Target = Server;
    fn deref(&self) -> &Server {
        &self.server
    }
}

impl DerefMut for Cassandra {
    fn deref_mut(&mut self) -> &mut Server {
        &mut self.server
    }
}

/// The `java` of `JAVA_HOME` or `PATH`, when it is one that Cassandra 5 runs on.
fn java() -> Result<PathBuf> {
    let home = std::env::var_os("JAVA_HOME").filter(|home| !home.is_empty());
    let java = home.map_or_else(|| "java".into(), |home| PathBuf::from(home).join("bin").join("java"));
    let said = Command::new(&java).arg("-version").output();
    let said = said.with_context(|| format!("cannot run {}: install JDK 17", java.display()))?;
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    let version = major(&said);
    ensure!(
        matches!(version, Some(11 | 17)),
        "{} is not of version 11 or 17, which Cassandra 5 needs (install JDK 17 or set JAVA_HOME to it): {}",
        java.display(),
        said.lines().next().unwrap_or("it says no version")
    );
    Ok(java)
}

/// The major version in what `java -version` says: `openjdk version "17.0.15" …`.
fn major(said: &str) -> Option<u32> {
    said.split('"').nth(1)?.split('.').next()?.parse().ok()
}

fn arguments(folder: &Path, conf: &Path, lib: &Path) -> Vec<String> {
    let opens = ["java.base/java.io", "java.base/sun.nio.ch", "java.base/jdk.internal.ref"];
    let mut args: Vec<_> = opens.iter().flat_map(|of| ["--add-opens".into(), format!("{of}=ALL-UNNAMED")]).collect();
    args.extend(["-XX:+UseSerialGC", "-Xms128m", "-Xmx512m"].map(String::from));
    args.extend([
        format!("-Dcassandra.config=file://{}", conf.join("cassandra.yaml").display()),
        format!("-Dcassandra.storagedir={}", folder.display()),
        "-Dcassandra-foreground=yes".into(),
        // One node has nobody to gossip with.
        "-Dcassandra.skip_wait_for_gossip_to_settle=0".into(),
        "-Dcassandra.ring_delay_ms=100".into(),
        "-Dcassandra.superuser_setup_delay_ms=100".into(),
        "-cp".into(),
        format!("{}:{}", conf.display(), lib.join("*").display()),
        "org.apache.cassandra.service.CassandraDaemon".into(),
    ]);
    args
}

fn yaml(folder: &Path, cql: u16, storage: u16) -> String {
    let at = |name: &str| folder.join(name).display().to_string();
    format!(
        "cluster_name: mirador
partitioner: org.apache.cassandra.dht.Murmur3Partitioner
endpoint_snitch: GossipingPropertyFileSnitch
num_tokens: 1
listen_address: 127.0.0.1
rpc_address: 127.0.0.1
storage_port: {storage}
native_transport_port: {cql}
seed_provider:
  - class_name: org.apache.cassandra.locator.SimpleSeedProvider
    parameters:
      - seeds: \"127.0.0.1:{storage}\"
data_file_directories:
  - {data}
commitlog_directory: {commitlog}
saved_caches_directory: {saved}
hints_directory: {hints}
commitlog_sync: batch
auto_snapshot: false
",
        data = at("data"),
        commitlog = at("commitlog"),
        saved = at("saved_caches"),
        hints = at("hints"),
    )
}

const LOGBACK: &str = r#"<configuration>
  <appender name="STDOUT" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%-5level %date{ISO8601} %F:%L - %msg%n</pattern></encoder>
  </appender>
  <root level="INFO"><appender-ref ref="STDOUT" /></root>
</configuration>
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_java_version_is_read_from_what_java_says() {
        assert_eq!(major("openjdk version \"17.0.15\" 2025-04-15\nOpenJDK Runtime"), Some(17));
        assert_eq!(major("java version \"1.8.0_292\""), Some(1));
        assert_eq!(major("openjdk version \"25\" 2025-09-16"), Some(25));
        assert_eq!(major(""), None);
    }

    #[tokio::test]
    async fn it_answers_cql_is_killed_and_answers_again_on_the_same_port() {
        let mut cassandra = Cassandra::start().await.unwrap();
        let (address, first) = (cassandra.cql_addr(), cassandra.pid().unwrap());
        cassandra.kill().await.unwrap();
        cassandra.restart().await.unwrap();
        assert_eq!(cassandra.cql_addr(), address);
        assert_ne!(cassandra.pid().unwrap(), first);
        cassandra.stop().await.unwrap();
    }
}
