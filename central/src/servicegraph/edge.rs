//! An edge of the service graph: a client, a server and what both measured.
//!
//! Never: depends on which side arrived first.

use std::sync::Arc;

use super::half::{Dimensions, Half, Measure, Side};

/// The callee of a client span that nobody answered and that names no peer.
pub const UNKNOWN: &str = "unknown";
/// The caller of a root server span.
pub const USER: &str = "user";

/// The label `connection_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ConnectionType {
    /// A call between two services.
    Direct,
    /// A producer or consumer is at one end.
    MessagingSystem,
    /// The server is a database that sends no spans.
    Database,
    /// One end sends no spans.
    VirtualNode,
}

impl ConnectionType {
    /// The label's value; empty for a direct call.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "",
            Self::MessagingSystem => "messaging_system",
            Self::Database => "database",
            Self::VirtualNode => "virtual_node",
        }
    }
}

/// What makes edges one series.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EdgeKey {
    /// Service name of the caller, or `user`.
    pub client: Arc<str>,
    /// Service name of the callee, its peer name, a database's name, or `unknown`.
    pub server: Arc<str>,
    /// What connects them.
    pub connection_type: ConnectionType,
    /// Either side has status ERROR.
    pub is_failed: bool,
    /// The side that sends no spans.
    pub virtual_side: Option<Side>,
    /// The caller's dimensions.
    pub client_dimensions: Dimensions,
    /// The callee's dimensions.
    pub server_dimensions: Dimensions,
}

/// One request that went from a client to a server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge {
    /// The series that the edge belongs to.
    pub key: EdgeKey,
    /// What the client measured; `None` when it is virtual.
    pub client: Option<Measure>,
    /// What the server measured; `None` when it is virtual. Of a database: what its client measured.
    pub server: Option<Measure>,
}

impl Edge {
    /// Both sides have met.
    pub(super) fn paired(client: &Half, server: &Half) -> Self {
        let is_messaging = client.is_messaging || server.is_messaging;
        Self {
            key: EdgeKey {
                client: Arc::clone(&client.service),
                server: Arc::clone(&server.service),
                connection_type: if is_messaging { ConnectionType::MessagingSystem } else { ConnectionType::Direct },
                is_failed: client.is_failed || server.is_failed,
                virtual_side: None,
                client_dimensions: client.dimensions.clone(),
                server_dimensions: server.dimensions.clone(),
            },
            client: Some(client.measure),
            server: Some(server.measure),
        }
    }

    /// A client span that names a database is a whole edge.
    pub(super) fn database(client: Half, database: Arc<str>) -> Self {
        let measure = client.measure;
        let mut edge = Self::from_client(client, database, ConnectionType::Database, None);
        edge.server = Some(measure);
        edge
    }

    /// Nobody answered the client span.
    pub(super) fn unanswered(mut client: Half) -> Self {
        let server = client.peer.take().unwrap_or_else(|| Arc::from(UNKNOWN));
        Self::from_client(client, server, ConnectionType::VirtualNode, Some(Side::Server))
    }

    fn from_client(client: Half, server: Arc<str>, connection_type: ConnectionType, missing: Option<Side>) -> Self {
        Self {
            key: EdgeKey {
                client: client.service,
                server,
                connection_type,
                is_failed: client.is_failed,
                virtual_side: missing,
                client_dimensions: client.dimensions,
                server_dimensions: None,
            },
            client: Some(client.measure),
            server: None,
        }
    }

    /// A root server span was called from outside.
    pub(super) fn from_user(server: Half) -> Self {
        Self {
            key: EdgeKey {
                client: Arc::from(USER),
                server: server.service,
                connection_type: ConnectionType::VirtualNode,
                is_failed: server.is_failed,
                virtual_side: Some(Side::Client),
                client_dimensions: None,
                server_dimensions: server.dimensions,
            },
            client: None,
            server: Some(server.measure),
        }
    }
}
