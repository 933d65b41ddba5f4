//! The messages that cross process boundaries: our RED deltas and the OTLP types.
//!
//! The Rust code under `gen/` is generated from `proto/mirador/red/v1/red.proto` and committed, so
//! that a build needs no generator; `cargo xtask codegen --check` fails when the two differ.
//!
//! Never: holds logic. Validation of a delta lives in `mirador-sketch`, reading of OTLP bytes in
//! `mirador-otlp`.

#![forbid(unsafe_code)]

/// The RED delta service, package `mirador.red.v1`.
#[expect(
    clippy::pedantic,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    unused_qualifications,
    reason = "generated code follows its generator's style"
)]
pub mod red {
    include!("gen/mirador.red.v1.rs");
}

pub use opentelemetry_proto::tonic as otlp;

/// gRPC method path of the RED delta export.
pub const PATH_RED: &str = "/mirador.red.v1.RedService/Export";

#[cfg(test)]
mod tests {
    use super::PATH_RED;
    use super::red::red_service_server::SERVICE_NAME;

    #[test]
    fn the_method_path_is_that_of_the_generated_service() {
        assert_eq!(PATH_RED, format!("/{SERVICE_NAME}/Export"));
    }

    /// The definitions are the contract that senders other than our agent read.
    #[test]
    fn every_message_field_and_method_is_documented() {
        let mut documented = false;
        let mut named = 0;
        for line in include_str!("../mirador/red/v1/red.proto").lines().map(str::trim) {
            let is_field = line.ends_with(';') && line.contains(" = ") && !line.starts_with("syntax");
            if is_field || ["message ", "service ", "rpc "].iter().any(|kind| line.starts_with(kind)) {
                assert!(documented, "`{line}` has no comment before it");
                named += 1;
            }
            documented = line.starts_with("//");
        }
        assert!(named > 30, "{named} are found");
    }
}
