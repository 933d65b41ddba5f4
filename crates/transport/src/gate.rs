//! What a process may do with a connection between its accept and its first byte.
//!
//! Steering learns there who is calling, and passes on what is no OTLP at all.

use std::any::Any;
use std::fmt::Debug;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use tokio::net::TcpStream;

/// What a [`Gate`] has found out about a connection; it comes with every request of it.
pub type Caller = Arc<dyn Any + Send + Sync>;

/// A connection that goes on to be served, or `None` when the gate has dealt with it.
pub type Admission<'a> = Pin<Box<dyn Future<Output = Option<(TcpStream, Option<Caller>)>> + Send + 'a>>;

/// Sees every accepted connection. Holding it holds its place among the connections, and only a drain
/// ends that: a gate sets a bound of its own to whatever it waits for.
pub trait Gate: Debug + Send + Sync + 'static {
    /// Decides about one connection.
    fn admit(&self, stream: TcpStream, peer: SocketAddr) -> Admission<'_>;
}
