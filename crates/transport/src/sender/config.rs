//! The configuration of one destination, with the keys of the OpenTelemetry Collector's OTLP and
//! load-balancing exporters where the meaning is the same.
//!
//! Never: resolves a name or opens a connection. Every value has a default; [`Config::problems`] lists
//! everything that cannot work, not only the first.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use http::uri::Scheme;
use http::{HeaderName, HeaderValue};
use mirador_ring::Placement;
use mirador_service::backoff;
use mirador_service::duration::GoDuration;
use mirador_service::secret::Secret;
use mirador_service::tls::ClientTls;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use super::k8s::{IpFamily, K8sConfig, PortRef};

/// The port that is dialled for an owner whose name carries none.
pub const DEFAULT_PORT: u16 = 4317;

/// Headers that are not the configuration's. The sender sets `content-type`, `te`, `grpc-encoding`,
/// `grpc-timeout` and the agent's own; the HTTP/2 library sends no request with `connection`, `keep-alive`,
/// `proxy-connection`, `transfer-encoding`, `upgrade` or another `te` (RFC 9113 §8.2.2); `content-length`, `host`
/// and `http2-settings` would contradict what the frames say. `user-agent` replaces the sender's own.
const RESERVED_HEADERS: [&str; 13] = [
    "connection",
    "content-length",
    "content-type",
    "grpc-encoding",
    "grpc-timeout",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
    crate::AGENT_HEADER,
];

/// What is dialled for a hostname of [`StaticConfig`]: it with [`DEFAULT_PORT`] when it names no port.
pub fn dialled(hostname: &str) -> String {
    super::resolver::authority(hostname).map_or_else(|| hostname.to_owned(), |authority| authority.to_string())
}

/// Where one kind of data goes, who owns which part of it, and how it is sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Who the owners are. Exactly one resolver is configured. Default: `static` with `127.0.0.1:14317`.
    pub resolver: ResolverConfig,
    /// Which owner takes a key. `otel-crc32` places as the collector's load-balancing exporter does.
    pub placement: Placement,
    /// How long one attempt to send one part may take. Default 5s.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "GoDuration")]
    pub timeout: Duration,
    /// What is tried again, and for how long, before the client is told to come back.
    pub retry_on_failure: SendRetryConfig,
    /// How much may be on its way to one owner.
    pub sending_queue: QueueConfig,
    /// How bodies are compressed. Default `none`: inside a cluster the CPU is worth more than the link.
    pub compression: Compression,
    /// Headers that are added to every request. Their values are never printed.
    pub headers: BTreeMap<String, Secret>,
    /// The HTTP/2 connection to each owner.
    pub connection: ConnectionConfig,
    /// TLS towards every owner. Unset: clear text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClientTls>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            resolver: ResolverConfig {
                fixed: Some(StaticConfig { hostnames: vec!["127.0.0.1:14317".to_owned()] }),
                dns: None,
                k8s: None,
            },
            placement: Placement::default(),
            timeout: Duration::from_secs(5),
            retry_on_failure: SendRetryConfig::default(),
            sending_queue: QueueConfig::default(),
            compression: Compression::default(),
            headers: BTreeMap::new(),
            connection: ConnectionConfig::default(),
            tls: None,
        }
    }
}

/// Who the owners are; exactly one of the keys is set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ResolverConfig {
    /// A fixed list.
    #[serde(rename = "static", skip_serializing_if = "Option::is_none")]
    pub fixed: Option<StaticConfig>,
    /// The addresses behind a DNS name, looked up again and again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<DnsConfig>,
    /// The endpoints of a Kubernetes service, watched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub k8s: Option<Box<K8sConfig>>,
}

/// A fixed list of owners.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StaticConfig {
    /// `host` or `host:port`; the string as written is the ring member, port 4317 is dialled when it names none.
    pub hostnames: Vec<String>,
}

/// Owners from DNS.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DnsConfig {
    /// The name to look up (A and AAAA), for example a headless Service.
    pub hostname: String,
    /// The port of every owner. Unset: 4317 is dialled and the ring members carry no port, as in the collector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// How often the name is looked up; the time to live of an answer is not looked at, as in the collector.
    /// One empty answer changes nothing, the second in a row leaves no owner. Default 5s.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "GoDuration")]
    pub interval: Duration,
    /// How long one look-up may take. Default 1s.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "GoDuration")]
    pub timeout: Duration,
}

impl Default for DnsConfig {
    fn default() -> Self {
        Self { hostname: String::new(), port: None, interval: Duration::from_secs(5), timeout: Duration::from_secs(1) }
    }
}

/// What is tried again while the client waits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SendRetryConfig {
    /// Whether a part is sent again at all. Default true.
    pub enabled: bool,
    /// The first wait. Default 100ms: a client holds the request open meanwhile.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "GoDuration")]
    pub initial_interval: Duration,
    /// Each wait is drawn from [1 - x, 1 + x] times the interval. Default 0.5.
    pub randomization_factor: f64,
    /// By how much the interval grows. Default 1.5.
    pub multiplier: f64,
    /// The longest interval. Default 2s.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "GoDuration")]
    pub max_interval: Duration,
    /// How long a request is held open in all. Default 8s, under the 10s after which SDKs give up.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "GoDuration")]
    pub max_elapsed_time: Duration,
}

impl Default for SendRetryConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            initial_interval: Duration::from_millis(100),
            randomization_factor: 0.5,
            multiplier: 1.5,
            max_interval: Duration::from_secs(2),
            max_elapsed_time: Duration::from_secs(8),
        }
    }
}

/// How much may be on its way to one owner; beyond it a request is refused before any part is sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct QueueConfig {
    /// Bytes in flight to one owner, waiting parts included. Default 33554432 (32 MiB). One larger part
    /// is let through when nothing else is in flight.
    pub queue_size_bytes: u64,
    /// Requests in flight to one owner, waiting parts included. Default 1024.
    pub queue_size_requests: u64,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self { queue_size_bytes: 32 << 20, queue_size_requests: 1024 }
    }
}

/// How a body is compressed on the wire (`grpc-encoding`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// As it is.
    #[default]
    None,
    /// Deflate with a gzip frame, the fastest level.
    Gzip,
    /// Zstandard, the fastest regular level.
    Zstd,
}

impl Compression {
    /// The value of `grpc-encoding`; `None` leaves the header out.
    pub(super) fn encoding(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Gzip => Some("gzip"),
            Self::Zstd => Some("zstd"),
        }
    }
}

/// The HTTP/2 connection to an owner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ConnectionConfig {
    /// How long a connect may take before the owner counts as down. Default 2s.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "GoDuration")]
    pub connect_timeout: Duration,
    /// The longest wait between two probes of an owner that is down. Default 5s.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "GoDuration")]
    pub max_probe_interval: Duration,
    /// After this long without traffic the connection is pinged. Default 10s.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "GoDuration")]
    pub keepalive_time: Duration,
    /// How long the answer to a ping may take before the connection is given up. Default 5s.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "GoDuration")]
    pub keepalive_timeout: Duration,
}

impl Default for ConnectionConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(2),
            max_probe_interval: Duration::from_secs(5),
            keepalive_time: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(5),
        }
    }
}

impl Config {
    /// Everything in this section that cannot work; each line names the key, the value and what is right.
    pub fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.resolver.collect_problems(&mut found);
        self.retry_on_failure.collect_problems(&mut found);
        positive(&mut found, "timeout", self.timeout);
        positive(&mut found, "connection.connect_timeout", self.connection.connect_timeout);
        positive(&mut found, "connection.max_probe_interval", self.connection.max_probe_interval);
        positive(&mut found, "connection.keepalive_time", self.connection.keepalive_time);
        positive(&mut found, "connection.keepalive_timeout", self.connection.keepalive_timeout);
        if self.sending_queue.queue_size_bytes == 0 {
            found.push("sending_queue.queue_size_bytes is 0: it must be at least 1".to_owned());
        }
        if self.sending_queue.queue_size_requests == 0 {
            found.push("sending_queue.queue_size_requests is 0: it must be at least 1".to_owned());
        }
        for (name, value) in &self.headers {
            if HeaderName::try_from(name).is_err() {
                found.push(format!("headers: `{name}` is not a valid header name"));
            }
            if RESERVED_HEADERS.iter().any(|reserved| name.eq_ignore_ascii_case(reserved)) {
                found.push(format!("headers: `{name}` cannot be set: it belongs to the protocol, leave it out"));
            }
            if HeaderValue::try_from(value.reveal()).is_err() {
                found.push(format!("headers.{name}: the value is not a valid header value"));
            }
        }
        found.extend(self.tls.iter().flat_map(|tls| tls.problems("tls")));
        found
    }

    /// TLS, when it is wanted.
    pub(super) fn encryption(&self) -> Option<&ClientTls> {
        self.tls.as_ref().filter(|tls| !tls.insecure)
    }

    /// What stands in front of an owner's address.
    pub(super) fn scheme(&self) -> Scheme {
        if self.encryption().is_some() { Scheme::HTTPS } else { Scheme::HTTP }
    }
}

impl ResolverConfig {
    /// `static`, `dns` or `k8s`, as in the labels of the load-balancing metrics.
    pub fn name(&self) -> &'static str {
        match (&self.dns, &self.k8s) {
            (Some(_), _) => "dns",
            (None, Some(_)) => "k8s",
            (None, None) => "static",
        }
    }

    fn collect_problems(&self, found: &mut Vec<String>) {
        match (&self.fixed, &self.dns, &self.k8s) {
            (None, None, None) => {
                found.push(
                    "resolver names no resolver: set one of resolver.static, resolver.dns and resolver.k8s".to_owned(),
                );
            }
            (Some(fixed), None, None) => {
                if fixed.hostnames.is_empty() {
                    found.push("resolver.static.hostnames is empty: name at least one host:port".to_owned());
                }
                for (at, name) in fixed.hostnames.iter().enumerate() {
                    if fixed.hostnames[..at].contains(name) {
                        found.push(format!(
                            "resolver.static.hostnames: `{name}` stands there twice: name each owner once"
                        ));
                    }
                    if super::resolver::authority(name).is_none() {
                        found.push(format!(
                            "resolver.static.hostnames: `{name}` is not host or host:port (no scheme, IPv6 in brackets)"
                        ));
                    }
                }
            }
            (None, Some(dns), None) => {
                if dns.hostname.is_empty() {
                    found.push("resolver.dns.hostname is empty: name the host to look up".to_owned());
                } else if !is_address(&dns.hostname)
                    && dns.hostname.contains(|c: char| c == ':' || c == '/' || c.is_whitespace())
                {
                    found.push(format!(
                        "resolver.dns.hostname: `{}` is not a host name; the port is set by resolver.dns.port",
                        dns.hostname
                    ));
                }
                if dns.port == Some(0) {
                    found.push(
                        "resolver.dns.port is 0: name the port of the owners, or leave it out for 4317".to_owned(),
                    );
                }
                positive(found, "resolver.dns.interval", dns.interval);
                positive(found, "resolver.dns.timeout", dns.timeout);
            }
            (None, None, Some(k8s)) => {
                found.extend(k8s.problems().into_iter().map(|line| format!("resolver.k8s.{line}")));
            }
            _ => found.push("resolver names more than one of static, dns and k8s: set exactly one".to_owned()),
        }
    }
}

impl SendRetryConfig {
    /// The waits between the attempts of one part; its deadline ends them.
    pub(super) fn waits(&self) -> backoff::RetryConfig {
        backoff::RetryConfig {
            enabled: self.enabled,
            initial_interval: self.initial_interval,
            randomization_factor: self.randomization_factor,
            multiplier: self.multiplier,
            max_interval: self.max_interval,
            max_elapsed_time: Duration::ZERO,
        }
    }

    fn collect_problems(&self, found: &mut Vec<String>) {
        positive(found, "retry_on_failure.initial_interval", self.initial_interval);
        positive(found, "retry_on_failure.max_elapsed_time", self.max_elapsed_time);
        if self.max_interval < self.initial_interval {
            found.push("retry_on_failure.max_interval is less than initial_interval".to_owned());
        }
        if !(0.0..=1.0).contains(&self.randomization_factor) {
            found.push(format!(
                "retry_on_failure.randomization_factor is {}: it must be between 0 and 1",
                self.randomization_factor
            ));
        }
        if !(self.multiplier.is_finite() && self.multiplier >= 1.0) {
            found.push(format!("retry_on_failure.multiplier is {}: it must be at least 1", self.multiplier));
        }
    }
}

/// Whether it is an address, which needs no look-up; version 6 with or without brackets.
fn is_address(hostname: &str) -> bool {
    let bare = hostname.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    bare.map_or_else(|| hostname.parse::<IpAddr>().is_ok(), |bare| bare.parse::<Ipv6Addr>().is_ok())
}

fn positive(found: &mut Vec<String>, key: &str, value: Duration) {
    if value.is_zero() {
        found.push(format!("{key} is 0s: it must be longer"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        mirador_service::config::parse::<Config>(text, &|_| None).expect("it is read").problems()
    }

    #[test]
    fn the_defaults_are_sound() {
        assert_eq!(problems("{}"), Vec::<String>::new());
    }

    #[test]
    fn what_cannot_work_is_named_with_its_key() {
        for (text, key, part) in [
            (
                "resolver: {static: {hostnames: [a:1, b:1, a:1]}}",
                "resolver.static.hostnames",
                "`a:1` stands there twice",
            ),
            ("resolver: {static: {hostnames: []}}", "resolver.static.hostnames", "empty"),
            ("resolver: {dns: {hostname: 'central:4317'}}", "resolver.dns.hostname", "resolver.dns.port"),
            ("resolver: {dns: {hostname: 'a b'}}", "resolver.dns.hostname", "a b"),
            ("resolver: {dns: {hostname: '[fd00::1]:4317'}}", "resolver.dns.hostname", "resolver.dns.port"),
            ("resolver: {dns: {hostname: a, port: 0}}", "resolver.dns.port", "4317"),
            ("headers: {Connection: close}", "headers", "`Connection`"),
            ("headers: {grpc-timeout: 1S}", "headers", "`grpc-timeout`"),
            ("headers: {x-mirador-agent: me}", "headers", "`x-mirador-agent`"),
            ("timeout: 0s", "timeout", "0s"),
        ] {
            let found = problems(text);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert!(found[0].starts_with(key) && found[0].contains(part), "{text}: {found:?}");
        }
        for text in [
            "headers: {authorization: a, user-agent: b}",
            "resolver: {dns: {hostname: 'fd00::1'}}",
            "resolver: {dns: {hostname: '[fd00::1]'}}",
            "resolver: {dns: {hostname: 10.0.0.1}}",
        ] {
            assert_eq!(problems(text), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn a_host_without_a_port_is_dialled_on_the_default_one() {
        for (hostname, dialled_at) in [("central", "central:4317"), ("a:1", "a:1"), ("[fd00::1]", "[fd00::1]:4317")] {
            assert_eq!(dialled(hostname), dialled_at);
        }
    }
}
