//! What an owner's answer means: taken, to be tried again, or refused for good.
//!
//! The retryable codes are those of the OTLP specification and the collector's exporter: Canceled,
//! `DeadlineExceeded`, Aborted, `OutOfRange`, Unavailable, `DataLoss`, and `ResourceExhausted` only with
//! `RetryInfo` (without it, it says that this request is too large).

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::Refusal;

/// An attempt that did not succeed.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) code: Code,
    pub(super) message: String,
    /// The wait that the owner asked for.
    pub(super) retry_after: Option<Duration>,
    /// Whether the owner itself answered; false when the connection failed or time ran out.
    pub(super) answered: bool,
}

impl Failure {
    /// A failure on the way, before or instead of an answer.
    pub(super) fn transport(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: None, answered: false }
    }

    /// The owner's own answer.
    pub(super) fn from_status(status: &Status) -> Self {
        Self {
            code: status.code(),
            message: status.message().to_owned(),
            retry_after: status.get_details_retry_info().and_then(|info| info.retry_delay),
            answered: true,
        }
    }

    /// Whether the same bytes may be sent again.
    pub(super) fn is_retryable(&self) -> bool {
        match self.code {
            Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss => true,
            Code::ResourceExhausted => self.retry_after.is_some(),
            _ => false,
        }
    }

    /// What the client is told about a part that could not be delivered. Pressure keeps a hint;
    /// permanent codes pass through as they are.
    pub(super) fn into_refusal(self, owner: &str, wait: Duration) -> Refusal {
        let retryable = self.is_retryable();
        Refusal {
            code: match self.code {
                Code::ResourceExhausted => Code::ResourceExhausted,
                code if !retryable => code,
                _ => Code::Unavailable,
            },
            message: format!("owner {owner}: {}", self.message),
            retry_after: retryable.then(|| self.retry_after.unwrap_or(wait)),
            reason: match (retryable, self.answered) {
                (false, _) => "owner_permanent",
                (true, true) => "owner_unavailable",
                (true, false) => "owner_unreachable",
            },
        }
    }
}

/// The gRPC status for an HTTP status that came without one (gRPC, "HTTP to gRPC status code mapping").
pub(super) fn from_http(status: http::StatusCode) -> Failure {
    let code = match status.as_u16() {
        400 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502 | 503 | 504 => Code::Unavailable,
        _ => Code::Unknown,
    };
    Failure { code, message: format!("HTTP status {status} without a gRPC status"), retry_after: None, answered: true }
}

/// The label of a code, as in the specification of gRPC.
pub(super) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::{ErrorDetails, RetryInfo};

    fn status(code: Code, retry: Option<Duration>) -> Status {
        let mut details = ErrorDetails::new();
        if retry.is_some() {
            details.set_retry_info(retry);
        }
        let _: &Option<RetryInfo> = &details.retry_info().cloned();
        Status::with_error_details(code, "no", details)
    }

    #[test]
    fn the_retryable_codes_are_those_of_the_specification() {
        for number in 1..=16 {
            let code = Code::from_i32(number);
            let failure = Failure::from_status(&status(code, None));
            assert_eq!(failure.is_retryable(), [1, 4, 10, 11, 14, 15].contains(&number), "{code:?}");
        }
    }

    #[test]
    fn resource_exhausted_is_retryable_only_with_retry_info() {
        let with = Failure::from_status(&status(Code::ResourceExhausted, Some(Duration::from_secs(3))));
        assert!(with.is_retryable());
        let refusal = with.into_refusal("a", Duration::from_secs(1));
        assert_eq!((refusal.code, refusal.retry_after), (Code::ResourceExhausted, Some(Duration::from_secs(3))));
        let without = Failure::from_status(&status(Code::ResourceExhausted, None));
        let refusal = without.into_refusal("a", Duration::from_secs(1));
        assert_eq!((refusal.code, refusal.retry_after), (Code::ResourceExhausted, None));
    }

    #[test]
    fn permanent_codes_pass_through_and_pressure_becomes_unavailable() {
        let bad = Failure::from_status(&status(Code::InvalidArgument, None)).into_refusal("a", Duration::ZERO);
        assert_eq!((bad.code, bad.retry_after, bad.reason), (Code::InvalidArgument, None, "owner_permanent"));
        let late = Failure::transport(Code::DeadlineExceeded, "late").into_refusal("a", Duration::from_secs(1));
        assert_eq!((late.code, late.retry_after), (Code::Unavailable, Some(Duration::from_secs(1))));
    }
}
