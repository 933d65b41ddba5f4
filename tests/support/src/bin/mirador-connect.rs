//! Opens connections one after the other and prints how long each connect(2) took, in nanoseconds, as one
//! JSON list.
//!
//! Each connection is reset as it is closed (`SO_LINGER` of zero), so that its port is free at once and any
//! number of connections can follow each other.

use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

/// Arguments in the order of the command line.
#[derive(clap::Parser)]
#[command(about = "Connects again and again and prints how long each connect took")]
struct Arguments {
    target: SocketAddr,
    count: u32,
    /// Connects before the ones that are counted.
    warm_up: u32,
}

fn main() -> anyhow::Result<()> {
    let arguments = <Arguments as clap::Parser>::parse();
    for _ in 0..arguments.warm_up {
        connect(arguments.target)?;
    }
    let took: Vec<u64> = (0..arguments.count)
        .map(|_| Ok(connect(arguments.target)?.as_nanos() as u64))
        .collect::<anyhow::Result<_>>()?;
    writeln!(std::io::stdout(), "{}", serde_json::to_string(&took)?)?;
    Ok(())
}

fn connect(target: SocketAddr) -> anyhow::Result<Duration> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_linger(Some(Duration::ZERO))?;
    let begin = Instant::now();
    socket.connect(&target.into())?;
    Ok(begin.elapsed())
}
