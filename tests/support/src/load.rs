//! A load generator and a sink that cost less than what they measure.
//!
//! Requests are encoded once; for every request sent only the bytes of trace and span ids are written anew,
//! in place. The loop is closed: each connection sends its next request when the last one was answered, so
//! nothing is measured but work that was finished. The sink answers without reading what it got.
//! Both speak HTTP by hand: with a library they would cost more than an agent, and it would wait for them.

mod client;
pub mod exports;
pub mod generator;
pub mod metrics;
pub mod payload;
pub mod sink;
mod wire;

/// The protocol of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// OTLP/gRPC over cleartext HTTP/2.
    Grpc,
    /// OTLP/HTTP with protobuf over HTTP/1.1.
    Http,
}

impl std::str::FromStr for Protocol {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        match text {
            "grpc" => Ok(Self::Grpc),
            "http" => Ok(Self::Http),
            other => anyhow::bail!("{other:?} is no protocol; grpc and http are"),
        }
    }
}
