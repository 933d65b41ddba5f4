//! What happens to a connection as it is accepted: who is calling is read off its socket, and one that
//! begins with TLS is passed on to where it wanted to go.
//!
//! An agent understands no TLS: the certificate is the backend's. The first such connection of a pod to a
//! destination goes through the agent byte by byte; the ones that follow are not steered at all.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aya::maps::{HashMap, MapData, SkStorage};
use mirador_ebpf_shared::{Flow, Origin};
use mirador_transport::gate::Admission;
use mirador_transport::{Caller as Attached, Gate, outgoing};
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::caller::{Caller, Directory};
use super::config::IdentityAttribute;
use super::metrics::Meters;
use super::rules::address;

/// The first byte of a TLS connection: a handshake record (RFC 8446 §5.1).
const TLS_HANDSHAKE: u8 = 0x16;
/// How long the first byte is waited for; a connection that is silent for longer is served as it is.
const FIRST_BYTE: Duration = Duration::from_secs(5);
/// How long the original destination may take to answer.
const CONNECT: Duration = Duration::from_secs(10);
/// Connections that are passed on at one time.
const MAX_TUNNELS: usize = 256;

/// The gate of an agent whose programs are attached.
#[derive(Debug)]
pub(super) struct Door {
    callers: SkStorage<MapData, Origin>,
    tls: Mutex<HashMap<MapData, Flow, u64>>,
    directory: Arc<Directory>,
    attributes: Vec<IdentityAttribute>,
    tunnels: Semaphore,
    meters: Meters,
}

impl Door {
    pub(super) fn new(
        callers: SkStorage<MapData, Origin>,
        tls: HashMap<MapData, Flow, u64>,
        directory: Arc<Directory>,
        attributes: Vec<IdentityAttribute>,
        meters: Meters,
    ) -> Self {
        Self { callers, tls: Mutex::new(tls), directory, attributes, tunnels: Semaphore::new(MAX_TUNNELS), meters }
    }

    async fn decide(&self, stream: TcpStream, peer: SocketAddr) -> Option<(TcpStream, Option<Attached>)> {
        // Not there: nobody who is steered, or a kernel that hands over no identity.
        let Ok(origin) = self.callers.get(&stream, 0) else {
            self.meters.caller("none");
            return Some((stream, None));
        };
        let identity = self.directory.identify(&origin);
        self.meters.caller(if identity.is_some() { "pod" } else { "unknown" });
        tracing::debug!(%peer, ?identity, cgroup = origin.cgroup, network_namespace = origin.namespace,
            destination = %destination(&origin), "accepted a pod's connection");
        if origin.kind == Origin::REDIRECTED && begins_with_tls(&stream).await {
            self.pass_on(stream, &origin).await;
            return None;
        }
        let caller = identity.map(|identity| Arc::new(Caller::new(&identity, &self.attributes)) as Attached);
        Some((stream, caller))
    }

    async fn pass_on(&self, mut stream: TcpStream, origin: &Origin) {
        let to = destination(origin);
        let flow = Flow { pod: origin.pod, address: origin.address, port: origin.port, padding: 0, end: 0 };
        // Should the table refuse it, the next connection comes here as well.
        self.tls.lock().unwrap_or_else(PoisonError::into_inner).insert(flow, origin.connected, 0).ok();
        let Ok(_tunnel) = self.tunnels.try_acquire() else {
            return self.meters.tls_refused("too_many");
        };
        let connected = tokio::time::timeout(CONNECT, outgoing::connect_to(to)).await;
        let Ok(Ok(mut far)) = connected else {
            tracing::debug!(%to, "a TLS connection cannot be passed on");
            return self.meters.tls_refused("unreachable");
        };
        self.meters.tls_passed_on.inc();
        // How it ends is between the two.
        copy_bidirectional(&mut stream, &mut far).await.ok();
    }
}

impl Gate for Door {
    fn admit(&self, stream: TcpStream, peer: SocketAddr) -> Admission<'_> {
        Box::pin(self.decide(stream, peer))
    }
}

fn destination(origin: &Origin) -> SocketAddr {
    SocketAddr::new(address(&origin.address), origin.port)
}

async fn begins_with_tls(stream: &TcpStream) -> bool {
    let mut first = [0_u8];
    let peeked: io::Result<usize> = match tokio::time::timeout(FIRST_BYTE, stream.peek(&mut first)).await {
        Ok(peeked) => peeked,
        Err(_) => return false,
    };
    peeked.is_ok_and(|length| length == 1) && first[0] == TLS_HANDSHAKE
}
