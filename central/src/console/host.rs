//! Under which names the console answers.
//!
//! A page from anywhere can have its own name resolved to this machine (DNS rebinding) and is then, for the browser,
//! of the same origin as the console. Its requests still carry that name in `Host`, which a script cannot change.
//!
//! Never: resolves a name.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::HOST;
use axum::http::uri::Authority;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::Config;

/// The names and addresses that are answered, besides loopback.
#[derive(Debug)]
pub(super) struct Hosts {
    names: Vec<String>,
    addresses: Vec<IpAddr>,
}

impl Hosts {
    /// The configured ones and the endpoint's own address.
    pub(super) fn new(config: &Config) -> Self {
        let mut hosts = Self { names: Vec::new(), addresses: vec![config.endpoint.ip()] };
        for host in &config.hosts {
            match address(host) {
                Some(address) => hosts.addresses.push(address),
                None => hosts.names.push(normal(host)),
            }
        }
        hosts
    }

    /// Whether `authority`, a host with or without a port, is one of them.
    fn answers(&self, authority: &str) -> bool {
        let host = match authority.parse::<SocketAddr>() {
            Ok(socket) => return self.has(socket.ip()),
            Err(_) => match authority.rsplit_once(':') {
                Some((host, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => host,
                _ => authority,
            },
        };
        if let Some(address) = address(host) {
            return self.has(address);
        }
        let name = normal(host);
        name == "localhost" || name.ends_with(".localhost") || self.names.contains(&name)
    }

    fn has(&self, address: IpAddr) -> bool {
        address.to_canonical().is_loopback()
            || self.addresses.iter().any(|own| !own.is_unspecified() && own.to_canonical() == address.to_canonical())
    }
}

/// An address, in brackets or not.
fn address(host: &str) -> Option<IpAddr> {
    let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    inner.parse().ok()
}

/// Names are compared without case and without the dot of the root.
fn normal(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// Whether `host` can be configured: a name or an address, without a port.
pub(super) fn is_name(host: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    address(host).is_some() || (!host.is_empty() && host.bytes().all(is_letter))
}

/// Refuses requests for other hosts with status 421.
pub(super) async fn check(State(hosts): State<Arc<Hosts>>, request: Request, next: Next) -> Response {
    // A request with more than one Host, or with one that is no text, is a trick.
    let mut given = request.headers().get_all(HOST).iter();
    let header = given.next().and_then(|value| value.to_str().ok());
    let asked = match (request.uri().authority().map(Authority::as_str), given.next()) {
        (Some(authority), None) => Some(authority),
        (None, None) => header,
        (_, Some(_)) => None,
    };
    if asked.is_some_and(|asked| hosts.answers(asked)) {
        return next.run(request).await;
    }
    let asked = asked.unwrap_or_default();
    let error = format!(
        "host {asked:?} is not answered here; use localhost or the console's address, or add the name to console.hosts"
    );
    (StatusCode::MISDIRECTED_REQUEST, Json(json!({"error": error}))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(endpoint: &str, hosts: &[&str]) -> Hosts {
        let hosts = hosts.iter().map(|&host| host.to_owned()).collect();
        Hosts::new(&Config { endpoint: endpoint.parse().unwrap(), hosts, ..Config::default() })
    }

    #[test]
    fn loopback_the_endpoint_and_configured_hosts_are_answered_with_and_without_a_port() {
        let hosts = hosts("192.0.2.7:80", &["Mirador.example", "2001:db8::1"]);
        for host in [
            "localhost",
            "LOCALHOST:14380",
            "demo.localhost:1",
            "localhost.",
            "127.0.0.1",
            "127.9.9.9:80",
            "[::1]:80",
            "[::1]",
            "[::ffff:127.0.0.1]:80",
            "192.0.2.7:80",
            "192.0.2.7",
            "mirador.example",
            "MIRADOR.example.:80",
            "[2001:db8::1]:80",
        ] {
            assert!(hosts.answers(host), "{host}");
        }
    }

    #[test]
    fn every_other_host_is_refused() {
        let hosts = hosts("0.0.0.0:80", &["mirador.example"]);
        for host in [
            "",
            "evil.example",
            "evil.example:14380",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "notlocalhost",
            "192.0.2.7",
            "0.0.0.0",
            "mirador.example.evil",
            "x.mirador.example",
            "127.0.0.1@evil.example",
            "2130706433",
        ] {
            assert!(!hosts.answers(host), "{host}");
        }
    }

    #[test]
    fn hosts_with_a_port_or_a_scheme_are_told_by_key_and_value() {
        for wrong in ["", "a.example:80", "http://a.example", "a b"] {
            let config = Config { hosts: vec![wrong.to_owned()], ..Config::default() };
            let [problem] = config.problems().try_into().unwrap();
            assert!(problem.contains("console.hosts") && problem.contains(wrong), "{problem}");
        }
        assert!(
            Config { hosts: vec!["a.example".to_owned(), "::1".to_owned()], ..Config::default() }.problems().is_empty()
        );
    }
}
