//! Why a request is not taken, and what that is on each protocol: one cause, one reason label, one gRPC
//! code, one HTTP status (otel-semantics §15.2, OTLP specification "Failures").
//!
//! Never: carries a retry hint for a request that a repetition cannot help.

use std::borrow::Cow;
use std::error::Error as _;
use std::io;
use std::time::Duration;

use http::StatusCode;
use tokio_rustls::rustls;
use tonic::Code;

use crate::{Kind, Refusal};

/// When a client that met pressure may come back.
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A request that is answered with an error.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    /// The label under which it is counted.
    pub(super) reason: &'static str,
    /// The gRPC status.
    pub(super) code: Code,
    /// The HTTP status.
    pub(super) http: StatusCode,
    /// What went wrong and what would be right.
    pub(super) message: Cow<'static, str>,
    /// When to try again; only under pressure.
    pub(super) retry_after: Option<Duration>,
}

impl Fault {
    /// The request itself is at fault: HTTP 400, and `code` on gRPC.
    pub(super) fn bad(reason: &'static str, code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, code, http: StatusCode::BAD_REQUEST, message: message.into(), retry_after: None }
    }

    /// The byte budget is exhausted: come back.
    pub(super) fn memory() -> Self {
        Self {
            reason: "memory",
            code: Code::Unavailable,
            http: StatusCode::SERVICE_UNAVAILABLE,
            message: Cow::Borrowed("the memory for requests is in use; try again"),
            retry_after: Some(RETRY_AFTER),
        }
    }

    /// The body did not arrive in time. Both protocols let the client try again.
    pub(super) fn slow(reason: &'static str, message: String) -> Self {
        Self {
            reason,
            code: Code::DeadlineExceeded,
            http: StatusCode::SERVICE_UNAVAILABLE,
            message: Cow::Owned(message),
            retry_after: Some(RETRY_AFTER),
        }
    }

    /// The body cannot be read further: its chunks are none, or the connection broke under it and the answer
    /// reaches no one. What TLS cannot read (an alert, a damaged record) has the same kind of error as a chunk
    /// that is none, and is a broken connection.
    pub(super) fn unreadable(error: &hyper::Error) -> Self {
        let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
        match cause.filter(|cause| {
            matches!(cause.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData)
                && cause.get_ref().and_then(|within| within.downcast_ref::<rustls::Error>()).is_none()
        }) {
            Some(cause) => Self::bad(
                "transfer_encoding",
                Code::Internal,
                format!("the body is not chunked as HTTP/1.1 has it: {cause}"),
            ),
            None => Self::bad("client_gone", Code::Cancelled, format!("the body could not be read: {error}")),
        }
    }

    /// Larger than the limit as it arrives.
    pub(super) fn too_large(bytes: u64, limit: usize) -> Self {
        let message = format!("the body of {bytes} bytes is larger than the limit of {limit}; send smaller batches");
        Self::bad("too_large", Code::ResourceExhausted, message)
    }

    /// Larger than the limit as it arrives, length unknown.
    pub(super) fn too_large_stream(limit: usize) -> Self {
        let message = format!("the body is larger than the limit of {limit} bytes; send smaller batches");
        Self::bad("too_large", Code::ResourceExhausted, message)
    }

    /// Larger than the limit once decompressed (or re-encoded).
    pub(super) fn too_large_decompressed(limit: usize) -> Self {
        let message =
            format!("the body is larger than the limit of {limit} bytes when decompressed; send smaller batches");
        Self::bad("too_large_decompressed", Code::ResourceExhausted, message)
    }

    /// More than the whole byte budget, whoever else holds some of it.
    pub(super) fn too_large_for_memory(limit: usize) -> Self {
        let message = format!(
            "the request needs more than the {limit} bytes that all requests together may hold here; send smaller batches"
        );
        Self::bad("too_large_for_memory", Code::ResourceExhausted, message)
    }

    /// The compressed body is damaged.
    pub(super) fn corrupt(encoding: &'static str, error: impl std::fmt::Display) -> Self {
        Self::bad("encoding_corrupt", Code::Internal, format!("the body cannot be decompressed as {encoding}: {error}"))
    }

    /// This process does not take such requests.
    pub(super) fn not_configured(kind: Kind) -> Self {
        Self {
            reason: "not_configured",
            code: Code::Unimplemented,
            http: StatusCode::NOT_FOUND,
            message: Cow::Owned(format!("requests of {} are not taken here", kind.as_str())),
            retry_after: None,
        }
    }

    /// The rest of the body does not come, or cannot be found: nothing is left to wait for.
    pub(super) fn ends_body(&self) -> bool {
        matches!(self.reason, "body_timeout" | "body_stalled" | "client_gone" | "transfer_encoding")
    }

    /// The code in a `google.rpc.Status` over HTTP: a request at fault is `INVALID_ARGUMENT` there.
    pub(super) fn http_code(&self) -> Code {
        if self.http == StatusCode::BAD_REQUEST { Code::InvalidArgument } else { self.code }
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        let code = if refusal.code == Code::Ok { Code::Unknown } else { refusal.code };
        Self {
            reason: refusal.reason,
            code,
            http: http_status(code),
            message: Cow::Owned(refusal.message),
            retry_after: refusal.retry_after,
        }
    }
}

/// The collector's mapping of gRPC codes to HTTP statuses (otel-semantics §15.2).
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => StatusCode::SERVICE_UNAVAILABLE,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::InvalidArgument => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unimplemented => StatusCode::NOT_FOUND,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
