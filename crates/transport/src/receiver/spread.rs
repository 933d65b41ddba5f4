//! Several listeners on one port: how they are opened, which of them the kernel gives a connection to, and
//! which thread serves it.
//!
//! The kernel chooses by the processor that a connection comes in on (a classic BPF program, which takes no
//! privileges), and by a hash of the addresses where such a program cannot be had or where it names a
//! listener that is no longer there: so no connection ever waits for one that is gone. What waits in the
//! queue of a listener that closes is reset by the kernel, as with one listener (tcp(7); a node may set
//! `net.ipv4.tcp_migrate_req` to have it moved).
//!
//! Few long connections may all come in on one processor: a thread that holds more than twice what the
//! least busy one holds hands new ones over ([`Balance`]).
//!
//! Invariant: a port that somebody else listens on is refused, as without spreading: the first socket is
//! bound before it shares its port.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};

use nix::libc::{sock_filter, sock_fprog};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::socket::{setsockopt, sockopt};
use nix::unistd::Pid;
use prometheus_client::metrics::gauge::Gauge;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::net::TcpSocket;

/// Connections that may wait to be accepted, as tokio's own listeners have it.
const BACKLOG: u32 = 1024;
/// Threads at most.
const MAX_THREADS: usize = 64;

/// `BPF_LD | BPF_W | BPF_ABS`, `BPF_JMP | BPF_JEQ | BPF_K`, `BPF_RET | BPF_K` (`linux/bpf_common.h`).
const LOAD: u16 = 0x20;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;
/// `SKF_AD_OFF + SKF_AD_CPU`: the processor that runs the program (`linux/filter.h`).
const CPU: u32 = (-0x1000_i32 + 36).cast_unsigned();
/// No listener: the kernel chooses by hash.
const ANY: u32 = u32::MAX;

/// How connections are spread over threads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SpreadConfig {
    /// Threads that accept and serve connections, each with listeners of its own on both ports and, where
    /// there are as many, on a processor of its own; a connection stays with its thread. 0: one listener a
    /// port, and the threads of the runtime share what it accepts. Default 0, otherwise 2 to 64.
    pub threads: usize,
}

impl SpreadConfig {
    /// Whether the number of threads is possible.
    pub(super) fn is_possible(&self) -> bool {
        self.threads == 0 || (2..=MAX_THREADS).contains(&self.threads)
    }
}

/// Opens as many listeners on `endpoint`. They belong to no runtime yet and do not block.
pub(super) async fn listen(endpoint: &str, count: usize) -> io::Result<Vec<TcpListener>> {
    if count < 2 {
        return Ok(vec![tokio::net::TcpListener::bind(endpoint).await?.into_std()?]);
    }
    let mut failure = None;
    for address in tokio::net::lookup_host(endpoint).await? {
        match group(address, count) {
            Ok(listeners) => return Ok(listeners),
            Err(error) => failure = Some(error),
        }
    }
    Err(failure.unwrap_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the name has no address")))
}

/// The sockets listen in their order, which is their number for the kernel.
fn group(address: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    let socket = || if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let first = socket()?;
    first.set_reuseaddr(true)?;
    first.bind(address)?;
    first.set_reuseport(true)?;
    let address = first.local_addr()?;
    let mut sockets = vec![first];
    for _ in 1..count {
        let socket = socket()?;
        socket.set_reuseaddr(true)?;
        socket.set_reuseport(true)?;
        socket.bind(address)?;
        sockets.push(socket);
    }
    let listeners: Vec<TcpListener> =
        sockets.into_iter().map(|socket| socket.listen(BACKLOG)?.into_std()).collect::<io::Result<_>>()?;
    let cpus = cpus();
    match by_cpu(&listeners[0], &cpus, count) {
        Ok(()) => tracing::debug!(%address, count, ?cpus, "connections are spread by processor"),
        Err(error) => tracing::info!(%address, %error, "connections are spread by a hash of their addresses"),
    }
    Ok(listeners)
}

/// Lets the kernel give a connection to the listener of the processor that it comes in on. It holds for the
/// whole group.
fn by_cpu(listener: &TcpListener, cpus: &[usize], count: usize) -> io::Result<()> {
    let mut program = program(cpus, count);
    let len = u16::try_from(program.len()).map_err(io::Error::other)?;
    let program = sock_fprog { len, filter: program.as_mut_ptr() };
    Ok(setsockopt(listener, sockopt::AttachReusePortCbpf, &program)?)
}

fn program(cpus: &[usize], count: usize) -> Vec<sock_filter> {
    let step = |code, jf, k| sock_filter { code, jt: 0, jf, k };
    let mut program = vec![step(LOAD, 0, CPU)];
    for (index, cpu) in cpus.iter().enumerate() {
        program.push(step(JUMP_IF_EQUAL, 1, *cpu as u32));
        program.push(step(RETURN, 0, (index % count) as u32));
    }
    program.push(step(RETURN, 0, ANY));
    program
}

/// The processors that this process may run on.
fn cpus() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else { return Vec::new() };
    (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect()
}

/// Keeps the calling thread, the `index`th of `count`, on a processor of its own when there are as many.
pub(super) fn stay(index: usize, count: usize) {
    let cpus = cpus();
    if cpus.len() < count {
        return;
    }
    let mut set = CpuSet::new();
    let pinned = set.set(cpus[index]).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
    if let Err(error) = pinned {
        tracing::debug!(%error, cpu = cpus[index], "a thread of the receiver is not kept on its processor");
    }
}

/// How many connections each thread holds.
#[derive(Debug)]
pub(super) struct Balance {
    held: Mutex<Vec<usize>>,
    gauges: Vec<Gauge>,
}

impl Balance {
    /// Threads by the gauges of what they hold.
    pub(super) fn new(gauges: Vec<Gauge>) -> Arc<Self> {
        Arc::new(Self { held: Mutex::new(vec![0; gauges.len()]), gauges })
    }

    /// The place of a connection that the kernel has given to thread `own`: there, or with the least busy
    /// one when this would hold more than twice as many.
    pub(super) fn place(self: &Arc<Self>, own: usize) -> Seat {
        self.take(|held| choose(held, own))
    }

    /// A place with thread `own`, whatever the others hold.
    pub(super) fn stay(self: &Arc<Self>, own: usize) -> Seat {
        self.take(|_| own)
    }

    fn take(self: &Arc<Self>, choose: impl FnOnce(&[usize]) -> usize) -> Seat {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let thread = choose(&held);
        held[thread] += 1;
        self.gauges[thread].inc();
        Seat { thread, balance: Arc::clone(self) }
    }
}

fn choose(held: &[usize], own: usize) -> usize {
    let least = held.iter().copied().min().unwrap_or_default();
    if held[own] == least || held[own] < 2 * least {
        return own;
    }
    held.iter().position(|number| *number == least).unwrap_or(own)
}

/// A connection's place with a thread; free again when it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) thread: usize,
    balance: Arc<Balance>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.balance.held.lock().unwrap_or_else(PoisonError::into_inner)[self.thread] -= 1;
        self.balance.gauges[self.thread].dec();
    }
}

#[cfg(test)]
mod tests;
