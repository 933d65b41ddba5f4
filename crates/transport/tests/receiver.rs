//! The receiver over real sockets: every status of the specification, every bad input, every limit.

#[path = "receiver/grpc.rs"]
mod grpc;
#[path = "receiver/http.rs"]
mod http;
#[path = "receiver/limits.rs"]
mod limits;
#[path = "receiver/payload.rs"]
mod payload;
#[path = "receiver/rig.rs"]
mod rig;
#[path = "receiver/spread.rs"]
mod spread;
#[path = "receiver/tls.rs"]
mod tls;
