//! Reads the answer to one Export call: status, retry hint, partial success.
//!
//! Never: reads more than 64 KiB of an answer (the collector's own limit).

use bytes::{Bytes, BytesMut};
use h2::{Reason, RecvStream};
use http::{HeaderMap, Response, StatusCode};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message as _;
use tonic::{Code, Status};

use super::frame::unwrap_answer;
use super::status::{self, Failure};
use crate::{Accepted, Kind};

/// The longest answer that is read.
const MAX_ANSWER: usize = 64 << 10;

/// A part was taken, perhaps without some of its items.
pub(super) type Answer = Accepted;

/// Waits for the whole answer and says what it means.
pub(super) async fn read(kind: Kind, response: Response<RecvStream>) -> Result<Answer, Failure> {
    let http_status = response.status();
    let (head, body) = response.into_parts();
    // "Trailers-Only": an answer without a body carries its status in the headers.
    if let Some(status) = Status::from_header_map(&head.headers)
        && status.code() != Code::Ok
    {
        return Err(Failure::from_status(&status));
    }
    let (message, trailers) = collect(body).await?;
    match trailers.as_ref().or(Some(&head.headers)).and_then(Status::from_header_map) {
        Some(status) if status.code() == Code::Ok => parse(kind, &message),
        Some(status) => Err(Failure::from_status(&status)),
        None if http_status == StatusCode::OK => {
            Err(Failure::transport(Code::Unavailable, "the answer ended without a gRPC status"))
        }
        None => Err(status::from_http(http_status)),
    }
}

async fn collect(mut body: RecvStream) -> Result<(Bytes, Option<HeaderMap>), Failure> {
    let mut first = Bytes::new();
    let mut more = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = match data {
            Ok(data) => data,
            Err(error) if ends_quietly(&error) => {
                return Ok((if more.is_empty() { first } else { more.freeze() }, None));
            }
            Err(error) => return Err(broke_off(&error)),
        };
        // What was read is no longer in the window; an error means that the stream is over anyway.
        drop(body.flow_control().release_capacity(data.len()));
        if first.is_empty() {
            first = data;
        } else {
            if more.is_empty() {
                more.extend_from_slice(&first);
            }
            more.extend_from_slice(&data);
        }
        if first.len().max(more.len()) > MAX_ANSWER {
            return Err(Failure {
                answered: true,
                ..Failure::transport(Code::Internal, format!("the answer is longer than {MAX_ANSWER} bytes"))
            });
        }
    }
    let trailers = match body.trailers().await {
        Ok(trailers) => trailers,
        Err(error) if ends_quietly(&error) => None,
        Err(error) => return Err(broke_off(&error)),
    };
    Ok((if more.is_empty() { first } else { more.freeze() }, trailers))
}

/// A reset that says no more than that there is no more (RFC 9113 §8.1): what came before it counts.
fn ends_quietly(error: &h2::Error) -> bool {
    matches!(error.reason(), Some(Reason::NO_ERROR | Reason::CANCEL | Reason::STREAM_CLOSED))
}

fn broke_off(error: &h2::Error) -> Failure {
    Failure::transport(Code::Unavailable, format!("the answer broke off: {error}"))
}

/// The partial success of an OTLP answer. The three signals' messages have the same fields
/// (`partial_success = 1 { rejected_* = 1, error_message = 2 }`), so one type reads them all.
fn parse(kind: Kind, body: &[u8]) -> Result<Answer, Failure> {
    let Some(message) = unwrap_answer(body) else {
        return if body.is_empty() {
            Ok(Answer::default())
        } else {
            Err(malformed("its frame is cut off or compressed"))
        };
    };
    if message.is_empty() || kind == Kind::Red {
        return Ok(Answer::default());
    }
    let response = ExportTraceServiceResponse::decode(message).map_err(|error| malformed(&error.to_string()))?;
    Ok(response.partial_success.map_or_else(Answer::default, |partial| Answer {
        rejected_items: partial.rejected_spans.max(0) as u64,
        message: partial.error_message,
    }))
}

/// The status was OK, so the data was taken; sending it again would store it twice.
fn malformed(why: &str) -> Failure {
    Failure {
        answered: true,
        ..Failure::transport(Code::Internal, format!("the answer is not an Export response: {why}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirador_otlp::Signal;
    use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceResponse};
    use opentelemetry_proto::tonic::collector::metrics::v1::{
        ExportMetricsPartialSuccess, ExportMetricsServiceResponse,
    };

    fn framed(message: &[u8]) -> Vec<u8> {
        let mut body = vec![0];
        body.extend_from_slice(&(message.len() as u32).to_be_bytes());
        body.extend_from_slice(message);
        body
    }

    #[test]
    fn partial_success_of_every_signal_is_read() {
        let logs = ExportLogsServiceResponse {
            partial_success: Some(ExportLogsPartialSuccess {
                rejected_log_records: 3,
                error_message: "late".to_owned(),
            }),
        };
        let metrics = ExportMetricsServiceResponse {
            partial_success: Some(ExportMetricsPartialSuccess {
                rejected_data_points: 2,
                error_message: String::new(),
            }),
        };
        let answer = parse(Kind::Otlp(Signal::Logs), &framed(&logs.encode_to_vec())).unwrap();
        assert_eq!((answer.rejected_items, answer.message.as_str()), (3, "late"));
        let answer = parse(Kind::Otlp(Signal::Metrics), &framed(&metrics.encode_to_vec())).unwrap();
        assert_eq!(answer.rejected_items, 2);
    }

    #[test]
    fn an_empty_message_and_no_message_are_full_success() {
        assert_eq!(parse(Kind::Otlp(Signal::Traces), &framed(&[])).unwrap(), Answer::default());
        assert_eq!(parse(Kind::Otlp(Signal::Traces), &[]).unwrap(), Answer::default());
    }

    #[test]
    fn a_malformed_message_is_a_permanent_failure() {
        let failure = parse(Kind::Otlp(Signal::Traces), &framed(&[0xFF, 0xFF])).unwrap_err();
        assert!(!failure.is_retryable());
    }
}
