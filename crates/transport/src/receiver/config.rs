//! The receiver's configuration: keys of the collector's OTLP receiver where the meaning is the same,
//! and the limits that the collector leaves open.
//!
//! Every limit has a finite default; `0s` switches a timeout off only where that is said.
//!
//! # What a peer can make the process hold
//! | what | bound | paid by |
//! |---|---|---|
//! | a request's body, compressed and decompressed | `max_recv_msg_size_mib`, `max_request_body_size` | the byte budget, before it is read |
//! | a request without its body | 4 KiB are charged for each | the byte budget |
//! | HTTP/2 windows: bytes the peer may send before a permit is asked for | `connection_memory_mib` in total | see `windows` |
//! | request headers | `max_header_list_size` × `max_concurrent_streams` a connection, until the request is routed | sized by those two keys |

use std::time::Duration;

use mirador_service::tls::ServerTls;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use super::spread::SpreadConfig;

/// The OTLP receiver: where it listens and what it accepts at most.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The two protocols. Both ports answer both protocols; the second one is for clients that expect it.
    pub protocols: Protocols,
    /// Limits on connections, on both ports.
    pub connections: Connections,
    /// How fast a body has to arrive, on both protocols.
    pub body: BodyConfig,
    /// How connections are spread over threads.
    pub spread: SpreadConfig,
}

/// The OTLP receiver's protocols.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Protocols {
    /// OTLP/gRPC.
    pub grpc: GrpcConfig,
    /// OTLP/HTTP, protobuf and JSON.
    pub http: HttpConfig,
}

/// OTLP/gRPC.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GrpcConfig {
    /// The address to listen on.
    pub endpoint: String,
    /// The largest message in MiB, both as it arrives and decompressed. A larger one is answered
    /// `RESOURCE_EXHAUSTED` without a retry hint.
    pub max_recv_msg_size_mib: u64,
    /// Calls that one connection may have open at a time.
    pub max_concurrent_streams: u32,
    /// How long connections live and how dead peers are found.
    pub keepalive: Keepalive,
    /// HTTP/2 settings.
    pub http2: Http2Config,
    /// TLS. Unset: clear text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ServerTls>,
}

impl Default for GrpcConfig {
    fn default() -> Self {
        Self {
            endpoint: "0.0.0.0:4317".to_owned(),
            max_recv_msg_size_mib: 64,
            max_concurrent_streams: 256,
            keepalive: Keepalive::default(),
            http2: Http2Config::default(),
            tls: None,
        }
    }
}

/// Keepalive settings of the gRPC port.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Keepalive {
    /// The server's side.
    pub server_parameters: ServerParameters,
}

/// The server's side of keepalive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ServerParameters {
    /// A connection without a call for this long is closed (GOAWAY first). `0s`: never.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "String")]
    pub max_connection_idle: Duration,
    /// A connection is asked to go after this long, plus or minus a tenth, so that clients spread over
    /// new replicas. `0s`: never.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "String")]
    pub max_connection_age: Duration,
    /// How long its calls may take to finish once it was asked to go.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "String")]
    pub max_connection_age_grace: Duration,
    /// A connection that is silent for this long is pinged. `0s`: never.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "String")]
    pub time: Duration,
    /// How long the answer to a ping may take before the connection is closed.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "String")]
    pub timeout: Duration,
}

impl Default for ServerParameters {
    fn default() -> Self {
        Self {
            max_connection_idle: Duration::from_mins(5),
            max_connection_age: Duration::ZERO,
            max_connection_age_grace: Duration::from_secs(10),
            time: Duration::from_mins(1),
            timeout: Duration::from_secs(20),
        }
    }
}

/// HTTP/2 settings of both ports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Http2Config {
    /// The largest initial window of a stream in bytes; never more than the connection's.
    pub stream_window: u32,
    /// The largest initial window of a connection in bytes. What a connection really gets is cut from
    /// `connections.connection_memory_mib`, at least 64 KiB.
    pub connection_window: u32,
    /// The largest frame that a peer may send, in bytes (16384 to 16777215); at most a quarter of the
    /// connection's window. Large frames save a third to two thirds of the work of large requests.
    pub max_frame_size: u32,
    /// The largest header list of a request, in bytes.
    pub max_header_list_size: u32,
    /// Streams that a peer may open and reset before they were looked at; one more ends the connection
    /// (HTTP/2 rapid reset, CVE-2023-44487).
    pub max_pending_reset_streams: usize,
    /// Streams of one connection that may break the protocol before the connection is ended.
    pub max_local_error_resets: usize,
}

impl Default for Http2Config {
    fn default() -> Self {
        Self {
            stream_window: 8 << 20,
            connection_window: 24 << 20,
            max_frame_size: 256 << 10,
            max_header_list_size: 16 << 10,
            max_pending_reset_streams: 20,
            max_local_error_resets: 1024,
        }
    }
}

/// OTLP/HTTP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// The address to listen on.
    pub endpoint: String,
    /// The largest body in bytes, both as it arrives and decompressed. A larger one is answered 400.
    pub max_request_body_size: u64,
    /// How long a request's header may take once its first byte has come.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "String")]
    pub read_header_timeout: Duration,
    /// A connection without a request for this long is closed. `0s`: never.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "String")]
    pub idle_timeout: Duration,
    /// Cross-origin requests of browsers. Off unless origins are given.
    pub cors: CorsConfig,
    /// TLS. Unset: clear text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ServerTls>,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            endpoint: "0.0.0.0:4318".to_owned(),
            max_request_body_size: 20 << 20,
            read_header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_mins(5),
            cors: CorsConfig::default(),
            tls: None,
        }
    }
}

/// Cross-origin requests of browsers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CorsConfig {
    /// Origins that may send; `*` stands for any text, once per origin. Empty: CORS is off.
    pub allowed_origins: Vec<String>,
    /// Headers that a browser may send besides the safelisted ones and `X-Requested-With`; `*`: any.
    pub allowed_headers: Vec<String>,
    /// Headers of the answer that a script may read.
    pub exposed_headers: Vec<String>,
    /// Seconds for which a browser may keep the answer to a preflight. 0: the browser's default.
    pub max_age: u32,
}

/// Limits on connections.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Connections {
    /// Connections per port. One more is accepted and closed at once, and counted: its client sees an
    /// error now and not a timeout later.
    pub max_connections: usize,
    /// Memory in MiB that all connections together may make the receiver hold before permits are asked
    /// for. Default: a quarter of the byte budget. At least 64 KiB for each connection, so it may allow
    /// fewer than `max_connections`; the effective number is logged.
    pub connection_memory_mib: Option<u64>,
}

impl Default for Connections {
    fn default() -> Self {
        Self { max_connections: 1024, connection_memory_mib: None }
    }
}

/// How fast a body has to arrive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BodyConfig {
    /// How long a whole body may take.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "String")]
    pub read_timeout: Duration,
    /// The span over which progress is measured.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "String")]
    pub progress_interval: Duration,
    /// Bytes that have to arrive in each such span; a body that trickles is given up.
    pub min_progress_bytes: u64,
}

impl Default for BodyConfig {
    fn default() -> Self {
        Self {
            read_timeout: Duration::from_mins(1),
            progress_interval: Duration::from_secs(5),
            min_progress_bytes: 4096,
        }
    }
}

impl Config {
    /// Everything in this configuration that cannot work, one sentence each; empty when it is sound.
    ///
    /// `path` is where this configuration sits in its file, for example `receivers.otlp`.
    pub fn problems(&self, path: &str) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |sound: bool, key: &str, value: &dyn std::fmt::Display, right: &str| {
            if !sound {
                problems.push(format!("{path}.{key}: {value} is not possible; it must be {right}"));
            }
        };
        let grpc = &self.protocols.grpc;
        let http = &self.protocols.http;
        let http2 = &grpc.http2;
        check(is_address(&grpc.endpoint), "protocols.grpc.endpoint", &grpc.endpoint, "an address like 0.0.0.0:4317");
        check(is_address(&http.endpoint), "protocols.http.endpoint", &http.endpoint, "an address like 0.0.0.0:4318");
        let size = grpc.max_recv_msg_size_mib;
        check((1..=4095).contains(&size), "protocols.grpc.max_recv_msg_size_mib", &size, "between 1 and 4095");
        let size = http.max_request_body_size;
        check(
            (1..=u64::from(u32::MAX)).contains(&size),
            "protocols.http.max_request_body_size",
            &size,
            "between 1 and 4294967295",
        );
        let streams = grpc.max_concurrent_streams;
        check(streams > 0, "protocols.grpc.max_concurrent_streams", &streams, "at least 1");
        let frame = http2.max_frame_size;
        check(
            (16_384..=16_777_215).contains(&frame),
            "protocols.grpc.http2.max_frame_size",
            &frame,
            "between 16384 and 16777215",
        );
        for (key, window) in [("stream_window", http2.stream_window), ("connection_window", http2.connection_window)] {
            let key = format!("protocols.grpc.http2.{key}");
            check((65_535..=0x7fff_ffff).contains(&window), &key, &window, "between 65535 and 2147483647");
        }
        let list = http2.max_header_list_size;
        check(
            (1024..=1 << 20).contains(&list),
            "protocols.grpc.http2.max_header_list_size",
            &list,
            "between 1024 and 1048576",
        );
        let connections = self.connections.max_connections;
        check(
            (1..=1 << 20).contains(&connections),
            "connections.max_connections",
            &connections,
            "between 1 and 1048576",
        );
        let memory = self.connections.connection_memory_mib;
        check(memory != Some(0), "connections.connection_memory_mib", &0, "at least 1, or left out");
        for origin in &http.cors.allowed_origins {
            check(
                origin.matches('*').count() < 2,
                "protocols.http.cors.allowed_origins",
                origin,
                "text with one * at most",
            );
        }
        let threads = self.spread.threads;
        check(self.spread.is_possible(), "spread.threads", &threads, "0, or between 2 and 64");
        let body = &self.body;
        check(!body.read_timeout.is_zero(), "body.read_timeout", &"0s", "longer than 0s");
        check(!body.progress_interval.is_zero(), "body.progress_interval", &"0s", "longer than 0s");
        check(!http.read_header_timeout.is_zero(), "protocols.http.read_header_timeout", &"0s", "longer than 0s");
        for (protocol, tls) in [("grpc", &grpc.tls), ("http", &http.tls)] {
            problems.extend(tls.iter().flat_map(|tls| tls.problems(&format!("{path}.protocols.{protocol}.tls"))));
        }
        problems
    }
}

/// `host:port`: an address (version 6 in brackets) or a name, and a number.
fn is_address(endpoint: &str) -> bool {
    let Some((host, port)) = endpoint.rsplit_once(':') else { return false };
    let of_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let is_name = !host.is_empty() && host.bytes().all(of_name);
    port.parse::<u16>().is_ok() && (is_name || endpoint.parse::<std::net::SocketAddr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        mirador_service::config::parse(text, &|_| None).map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_sound_and_an_empty_configuration_is_the_default() {
        assert_eq!(parse("{}"), Ok(Config::default()));
        assert_eq!(Config::default().problems("receiver"), Vec::<String>::new());
    }

    #[test]
    fn the_collectors_keys_are_read_and_what_is_printed_is_read_again() {
        let text = "protocols:
  grpc:
    endpoint: 127.0.0.1:4317
    max_recv_msg_size_mib: 16
    max_concurrent_streams: 7
    keepalive: { server_parameters: { max_connection_age: 1m30s } }
  http: { max_request_body_size: 1000, cors: { allowed_origins: ['*'] } }
";
        let config = parse(text).expect("sound");
        let grpc = &config.protocols.grpc;
        assert_eq!((grpc.max_recv_msg_size_mib, grpc.max_concurrent_streams), (16, 7));
        assert_eq!(grpc.keepalive.server_parameters.max_connection_age, Duration::from_secs(90));
        assert_eq!(config.protocols.http.cors.allowed_origins, ["*"]);
        assert_eq!(parse(&mirador_service::config::render(&config)), Ok(config));
    }

    #[test]
    fn what_cannot_be_listened_on_or_let_anyone_in_is_named() {
        for sound in ["0.0.0.0:4317", "[::]:4317", "localhost:0", "node-1.example:1", "127.0.0.1:65535"] {
            assert!(is_address(sound), "{sound}");
        }
        for wrong in ["", ":4317", "4317", "a b:1", "[::1:1", "::1:1", "a:", "a:65536", "a:x", "http://a:1"] {
            let mut config = Config::default();
            config.protocols.http.endpoint = wrong.to_owned();
            let problems = config.problems("receiver");
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(
                problems[0].starts_with("receiver.protocols.http.endpoint: ") && problems[0].contains("0.0.0.0:4318")
            );
        }
        let text =
            "connections: {connection_memory_mib: 0}\nprotocols: {http: {cors: {allowed_origins: ['*.*', '*']}}}";
        let problems = parse(text).expect("it is read").problems("receiver");
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].contains("connection_memory_mib") && problems[1].contains("*.* is not possible"));
    }

    #[test]
    fn an_unknown_key_is_refused() {
        assert!(parse("protocols: { grpc: { endpoit: x } }").expect_err("unknown").contains("endpoint"));
    }
}
