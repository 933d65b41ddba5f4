//! TLS of listeners and of clients, by rustls, configured as the OpenTelemetry Collector's `configtls`.
//!
//! Certificates are files. They are read once when the configuration is checked, so that a wrong one stops the
//! start, and again at most every `reload_interval` when a connection is made, so that a rotated one is taken
//! without a restart; a file that cannot be read then leaves the last good one in force and is logged.
//!
//! Never: sends anything before the peer is known, unless `insecure_skip_verify` says so; prints a key.

mod material;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::{ClientConfig, ServerConfig};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::GoDuration;

/// The protocols that a peer may choose, best first (RFC 7301).
const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The oldest TLS version that is spoken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MinVersion {
    /// TLS 1.2 (RFC 5246).
    #[default]
    #[serde(rename = "1.2")]
    V12,
    /// TLS 1.3 (RFC 8446).
    #[serde(rename = "1.3")]
    V13,
}

/// TLS of a listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ServerTls {
    /// The certificate chain, PEM, leaf first.
    pub cert_file: String,
    /// The private key of the leaf, PEM.
    pub key_file: String,
    /// Certificates that sign clients, PEM. Set: a client has to show a certificate (mutual TLS).
    pub client_ca_file: String,
    /// The oldest version that a client may choose.
    pub min_version: MinVersion,
    /// How often the files are looked at again. `0s`: never.
    #[serde(with = "crate::duration")]
    #[schemars(with = "GoDuration")]
    pub reload_interval: Duration,
}

impl Default for ServerTls {
    fn default() -> Self {
        Self {
            cert_file: String::new(),
            key_file: String::new(),
            client_ca_file: String::new(),
            min_version: MinVersion::default(),
            reload_interval: RELOAD,
        }
    }
}

/// TLS towards a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ClientTls {
    /// `true`: no TLS at all, as if the section were absent.
    pub insecure: bool,
    /// `true`: any certificate is taken. For tests only: anybody in between can read and change everything.
    pub insecure_skip_verify: bool,
    /// Certificates that sign the server, PEM. Empty: those of the system.
    pub ca_file: String,
    /// Take the system's certificates beside those of `ca_file`.
    pub include_system_ca_certs_pool: bool,
    /// The certificate chain shown to the server, PEM, leaf first (mutual TLS). Set with `key_file`.
    pub cert_file: String,
    /// The private key of `cert_file`, PEM.
    pub key_file: String,
    /// The name that the server's certificate has to carry. Empty: the host that is dialled.
    pub server_name_override: String,
    /// The oldest version that the server may choose.
    pub min_version: MinVersion,
    /// How often the files are looked at again. `0s`: never.
    #[serde(with = "crate::duration")]
    #[schemars(with = "GoDuration")]
    pub reload_interval: Duration,
}

impl Default for ClientTls {
    fn default() -> Self {
        Self {
            insecure: false,
            insecure_skip_verify: false,
            ca_file: String::new(),
            include_system_ca_certs_pool: false,
            cert_file: String::new(),
            key_file: String::new(),
            server_name_override: String::new(),
            min_version: MinVersion::default(),
            reload_interval: RELOAD,
        }
    }
}

/// Certificates of a mounted secret change within a minute or two of their rotation.
const RELOAD: Duration = Duration::from_mins(1);

/// Why TLS cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {problem}")]
pub struct TlsError {
    /// The key that is wrong, below the section.
    pub key: &'static str,
    /// What is wrong with it, and what would be right.
    pub problem: String,
}

impl TlsError {
    fn new(key: &'static str, problem: impl Into<String>) -> Self {
        Self { key, problem: problem.into() }
    }
}

impl ServerTls {
    /// Reads the files and says what is wrong, one sentence each; `path` is where the section stands.
    pub fn problems(&self, path: &str) -> Vec<String> {
        material::server(self).err().map(|error| format!("{path}.{error}")).into_iter().collect()
    }
}

impl ClientTls {
    /// Reads the files and says what is wrong, one sentence each; `path` is where the section stands.
    pub fn problems(&self, path: &str) -> Vec<String> {
        if self.insecure {
            return Vec::new();
        }
        material::client(self).err().map(|error| format!("{path}.{error}")).into_iter().collect()
    }

    /// The settings of a client that lives as long as the process: files are read now and never again.
    ///
    /// # Errors
    /// When a file cannot be read or is no certificate or key; the text names the key.
    pub fn fixed(&self) -> Result<ClientConfig, TlsError> {
        material::client(self).map(|client| client.config)
    }

    /// Like [`ClientTls::fixed`], for a library that dials addresses and passes no name on: with
    /// `server_name_override` a certificate has to carry that name, without it the address.
    ///
    /// # Errors
    /// As [`ClientTls::fixed`].
    pub fn fixed_for_addresses(&self) -> Result<ClientConfig, TlsError> {
        material::client_of_addresses(self).map(|client| client.config)
    }
}

/// Decides which provider of cryptography a library gets that does not say which: the one that everything here names.
/// Two of them are compiled in (a driver brings another), and without a decision such a library would panic.
pub fn decide_provider() {
    // An error says that it has been decided.
    drop(rustls::crypto::ring::default_provider().install_default());
}

/// The settings of a client that speaks clear text only: no certificate would be good enough.
///
/// # Errors
/// Never in this build; the provider of cryptography is compiled in.
pub fn trusting_nobody() -> Result<ClientConfig, TlsError> {
    material::trusting_nobody()
}

/// What is made of files, and when it was last looked at.
#[derive(Debug)]
struct Kept<T> {
    looked: Instant,
    fingerprint: u64,
    made: Arc<T>,
}

/// The server's side of handshakes, always with the newest good certificate.
#[derive(Debug)]
pub struct Acceptor {
    tls: ServerTls,
    kept: Mutex<Kept<ServerConfig>>,
}

/// The client's side of handshakes, always with the newest good certificate.
#[derive(Debug)]
pub struct Connector {
    tls: ClientTls,
    kept: Mutex<Kept<ClientConfig>>,
}

impl Acceptor {
    /// Reads the files.
    ///
    /// # Errors
    /// When a file cannot be read or is no certificate or key; the text names the key.
    pub fn new(tls: ServerTls) -> Result<Self, TlsError> {
        let server = material::server(&tls)?;
        let kept = Kept { looked: Instant::now(), fingerprint: server.fingerprint, made: Arc::new(server.config) };
        Ok(Self { tls, kept: Mutex::new(kept) })
    }

    /// The settings for the next handshake.
    pub fn config(&self) -> Arc<ServerConfig> {
        newest(&self.kept, self.tls.reload_interval, "listener", || {
            material::server(&self.tls).map(|server| (server.fingerprint, server.config))
        })
    }
}

impl Connector {
    /// Reads the files.
    ///
    /// # Errors
    /// When a file cannot be read or is no certificate or key; the text names the key.
    pub fn new(tls: ClientTls) -> Result<Self, TlsError> {
        let (fingerprint, config) = http2_client(&tls)?;
        let kept = Kept { looked: Instant::now(), fingerprint, made: Arc::new(config) };
        Ok(Self { tls, kept: Mutex::new(kept) })
    }

    /// The settings for the next handshake.
    pub fn config(&self) -> Arc<ClientConfig> {
        newest(&self.kept, self.tls.reload_interval, "client", || http2_client(&self.tls))
    }

    /// The name that the certificate of `host` has to carry.
    ///
    /// # Errors
    /// When it is neither a DNS name nor an address.
    pub fn server_name(&self, host: &str) -> Result<rustls::pki_types::ServerName<'static>, TlsError> {
        let name = if self.tls.server_name_override.is_empty() { host } else { &self.tls.server_name_override };
        material::server_name(name)
    }
}

/// Fingerprint and settings of a client that speaks HTTP/2 only, as owners do.
fn http2_client(tls: &ClientTls) -> Result<(u64, ClientConfig), TlsError> {
    let material::Client { fingerprint, mut config } = material::client(tls)?;
    config.alpn_protocols = vec![ALPN[0].to_vec()];
    Ok((fingerprint, config))
}

fn newest<T>(
    kept: &Mutex<Kept<T>>,
    interval: Duration,
    side: &'static str,
    read: impl FnOnce() -> Result<(u64, T), TlsError>,
) -> Arc<T> {
    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    if !interval.is_zero() && kept.looked.elapsed() >= interval {
        kept.looked = Instant::now();
        match read() {
            Ok((fingerprint, made)) if fingerprint != kept.fingerprint => {
                kept.fingerprint = fingerprint;
                kept.made = Arc::new(made);
                tracing::info!(side, "TLS files have changed and are in force");
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(side, %error, "TLS files cannot be read; the last good ones stay in force"),
        }
    }
    Arc::clone(&kept.made)
}

#[cfg(test)]
mod tests;
