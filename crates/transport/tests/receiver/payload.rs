//! Bodies for the tests: sound ones, and the same ones compressed.

use std::io::Write as _;

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message as _;

/// An export request of `spans` spans.
pub(crate) fn request(spans: usize) -> ExportTraceServiceRequest {
    let span = |i: usize| Span {
        trace_id: (i as u128 + 1).to_be_bytes().to_vec(),
        span_id: (i as u64 + 1).to_be_bytes().to_vec(),
        name: format!("GET /cart/{i}"),
        ..Span::default()
    };
    let scope = ScopeSpans { spans: (0..spans).map(span).collect(), ..ScopeSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![ResourceSpans { scope_spans: vec![scope], ..Default::default() }] }
}

/// The same as protobuf.
pub(crate) fn traces(spans: usize) -> Vec<u8> {
    request(spans).encode_to_vec()
}

/// A gRPC frame with a message.
pub(crate) fn frame(flag: u8, message: &[u8]) -> Bytes {
    let mut frame = vec![flag];
    frame.extend((message.len() as u32).to_be_bytes());
    frame.extend(message);
    frame.into()
}

/// `data` in an encoding of the gRPC and HTTP names.
pub(crate) fn compress(encoding: &str, data: &[u8]) -> Vec<u8> {
    let level = flate2::Compression::default();
    match encoding {
        "gzip" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(data).expect("a Vec takes everything");
            encoder.finish().expect("a Vec takes everything")
        }
        "deflate" | "zlib" => {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), level);
            encoder.write_all(data).expect("a Vec takes everything");
            encoder.finish().expect("a Vec takes everything")
        }
        "zstd" => zstd::bulk::compress(data, 3).expect("it fits"),
        "snappy" => snap::raw::Encoder::new().compress_vec(data).expect("it fits"),
        "x-snappy-framed" => {
            let mut encoder = snap::write::FrameEncoder::new(Vec::new());
            encoder.write_all(data).expect("a Vec takes everything");
            encoder.into_inner().expect("a Vec takes everything")
        }
        "lz4" => {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
            encoder.write_all(data).expect("a Vec takes everything");
            encoder.finish().expect("a Vec takes everything")
        }
        other => panic!("no encoder for {other}"),
    }
}

/// Four megabytes of empty spans: two bytes each.
pub(crate) fn empty_spans() -> Vec<u8> {
    let spans = [0x12, 0x00].repeat(2 << 20);
    let mut body = Vec::new();
    for _ in 0..2 {
        // ScopeSpans in field 2 of ResourceSpans, then ResourceSpans in field 1 of the request.
        let tag = if body.is_empty() { 0x12 } else { 0x0a };
        let inner = if body.is_empty() { spans.clone() } else { std::mem::take(&mut body) };
        body.push(tag);
        prost::encoding::encode_varint(inner.len() as u64, &mut body);
        body.extend(inner);
    }
    body
}
