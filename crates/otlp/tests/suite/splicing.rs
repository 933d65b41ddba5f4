//! Splits and merges.

use bytes::Bytes;
use mirador_otlp::{Limits, Request, Signal, splice};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use proptest::prelude::*;
use prost::Message;

use crate::compare::Decoded;
use crate::draw::Draw;
use crate::views::{bytes, requests};
use crate::{laws, mutate};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_split_gives_each_owner_its_items_and_a_merge_gives_them_back(bytes in bytes(), choice in any::<u8>()) {
        for (signal, body) in requests(&bytes) {
            laws::split(signal, choice, &body);
        }
    }

    #[test]
    fn bent_requests_split_and_merge_alike(bytes in bytes(), choices in bytes(), choice in any::<u8>()) {
        for (signal, body) in requests(&bytes) {
            laws::split(signal, choice, &mutate::request(signal, &body, &mut Draw::new(&choices)));
        }
    }
}

/// Bytes that somebody sent as a request: a bent one, one that was cut off, or nothing that makes sense.
fn sent() -> impl Strategy<Value = (u8, Vec<u8>, Vec<u8>, prop::sample::Index)> {
    (0..4_u8, bytes(), proptest::collection::vec(any::<u8>(), 0..60), any::<prop::sample::Index>())
}

proptest! {
    /// A merge looks at bytes that nobody has checked.
    #[test]
    fn whatever_is_merged_means_what_the_bytes_one_after_the_other_mean(
        signal in 0..3_usize,
        parts in proptest::collection::vec(sent(), 0..4),
    ) {
        let signal = Signal::ALL[signal];
        let parts: Vec<Bytes> = parts
            .into_iter()
            .map(|(kind, drawn, other, cut)| {
                let (_, body) = requests(&drawn).into_iter().find(|(one, _)| *one == signal).expect("one of each");
                Bytes::from(match kind {
                    0 => other,
                    1 => body,
                    2 => mutate::request(signal, &body, &mut Draw::new(&other)),
                    _ => body[..cut.index(body.len() + 1)].to_vec(),
                })
            })
            .collect();
        let joined = parts.concat();
        let merged = splice::merge(&parts);
        prop_assert!(merged.len() <= joined.len(), "{} bytes of {}", merged.len(), joined.len());
        if let Ok(joined) = Decoded::of(signal, &joined) {
            let merged = Decoded::of(signal, &merged).expect("what decoded still decodes");
            prop_assert_eq!(laws::flat(&merged), laws::flat(&joined));
        }
    }
}

fn parse(body: impl Into<Bytes>) -> Request {
    Request::parse(Signal::Traces, body.into(), &Limits::default()).expect("the request is valid")
}

fn span(trace: u8) -> Span {
    Span { trace_id: vec![trace; 16], span_id: vec![trace; 8], name: format!("span {trace}"), ..Span::default() }
}

fn request(spans: Vec<Span>) -> ExportTraceServiceRequest {
    let scope = Some(InstrumentationScope { name: "scope".to_owned(), ..InstrumentationScope::default() });
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource { dropped_attributes_count: 3, ..Resource::default() }),
            scope_spans: vec![ScopeSpans { scope, spans, schema_url: "scope schema".to_owned() }],
            schema_url: "resource schema".to_owned(),
        }],
    }
}

fn owner(span: &mirador_otlp::traces::Span<'_>, owners: usize) -> usize {
    usize::from(span.trace_id()[0]) % owners
}

#[test]
fn a_request_with_one_owner_is_passed_on_without_a_copy() {
    let whole = parse(request(vec![span(3), span(6), span(9)]).encode_to_vec());
    let by_span = splice::split_spans(&whole, 3, |span| owner(span, 3));
    let by_resource = splice::split_resources(&whole, 3, |_| 2);
    for (parts, owner) in [(by_span, 0), (by_resource, 2)] {
        assert_eq!(parts.len(), 1);
        assert_eq!((parts[0].owner, parts[0].items), (owner, 3));
        assert_eq!(parts[0].bytes.as_ptr(), whole.bytes().as_ptr(), "the same bytes, not equal ones");
    }
}

#[test]
fn parts_are_encoded_as_prost_encodes_them() {
    let whole = parse(request(vec![span(1), span(2), span(3), span(4), span(5)]).encode_to_vec());
    let parts = splice::split_spans(&whole, 2, |span| owner(span, 2));
    for (part, spans) in parts.iter().zip([vec![span(2), span(4)], vec![span(1), span(3), span(5)]]) {
        let expected = request(spans);
        assert_eq!(ExportTraceServiceRequest::decode(&part.bytes[..]).expect("a part decodes"), expected);
        assert_eq!(part.bytes.len(), expected.encoded_len(), "lengths take no more bytes than needed");
    }
}

#[test]
fn without_spans_or_owners_or_for_another_signal_there_are_no_parts() {
    let empty = parse(request(Vec::new()).encode_to_vec());
    assert_eq!(splice::split_spans(&empty, 3, |_| 0), []);
    assert_eq!(splice::split_resources(&empty, 3, |_| 0), []);
    let whole = parse(request(vec![span(1)]).encode_to_vec());
    assert_eq!(splice::split_spans(&whole, 0, |_| 0), []);
    assert_eq!(splice::split_resources(&whole, 0, |_| 0), []);
    let logs = Request::parse(Signal::Logs, Bytes::new(), &Limits::default()).expect("an empty request is valid");
    assert_eq!(splice::split_spans(&logs, 3, |_| 0), []);
}

#[test]
fn an_owner_beyond_the_last_is_the_last() {
    let whole = parse(request(vec![span(1), span(2)]).encode_to_vec());
    let mut next = 0;
    let parts = splice::split_spans(&whole, 2, |_| {
        next += 7;
        next - 7
    });
    assert_eq!(parts.iter().map(|part| (part.owner, part.items)).collect::<Vec<_>>(), [(0, 1), (1, 1)]);
}

/// Appends an unknown length-delimited field 900 to a message.
fn with_unknown(mut body: Vec<u8>, text: &[u8]) -> Vec<u8> {
    body.extend([0xA2, 0x38, text.len() as u8]);
    body.extend_from_slice(text);
    body
}

fn field(number: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    prost::encoding::encode_varint(body.len() as u64, &mut out);
    out.extend_from_slice(body);
    out
}

#[test]
fn unknown_fields_of_every_level_are_in_every_part() {
    let texts: [&[u8]; 3] = [b"in the request", b"in the resource entry", b"in the scope entry"];
    let spans: Vec<u8> = [1, 2, 3]
        .iter()
        .flat_map(|trace| field(2, &with_unknown(span(*trace).encode_to_vec(), b"in a span")))
        .collect();
    let scope = field(2, &with_unknown(spans, texts[2]));
    let body = with_unknown(field(1, &with_unknown(scope, texts[1])), texts[0]);
    let occurs = |bytes: &[u8], text: &[u8]| bytes.windows(text.len()).filter(|window| *window == text).count();
    let parts = splice::split_spans(&parse(body), 3, |span| owner(span, 3));
    assert_eq!(parts.len(), 3);
    for part in &parts {
        assert!(texts.iter().all(|text| occurs(&part.bytes, text) == 1));
        assert_eq!(occurs(&part.bytes, b"in a span"), 1);
    }
    let merged = splice::merge(&parts.iter().map(|part| part.bytes.clone()).collect::<Vec<_>>());
    assert_eq!(texts.map(|text| occurs(&merged, text)), [3, 1, 1], "equal headers are written once");
    assert_eq!(occurs(&merged, b"in a span"), 3);
}

#[test]
fn a_merge_writes_adjacent_equal_headers_once_and_keeps_the_order() {
    let merged = splice::merge(&[
        request(vec![span(1)]).encode_to_vec().into(),
        request(vec![span(2), span(3)]).encode_to_vec().into(),
        request(vec![span(4)]).encode_to_vec().into(),
    ]);
    let decoded = ExportTraceServiceRequest::decode(merged).expect("a merge decodes");
    assert_eq!(decoded, request(vec![span(1), span(2), span(3), span(4)]));
}

#[test]
fn a_merge_of_other_resources_keeps_them_apart() {
    let mut other = request(vec![span(2)]);
    other.resource_spans[0].schema_url.clear();
    let merged = splice::merge(&[request(vec![span(1)]).encode_to_vec().into(), other.encode_to_vec().into()]);
    let decoded = ExportTraceServiceRequest::decode(merged).expect("a merge decodes");
    assert_eq!(decoded.resource_spans, [request(vec![span(1)]).resource_spans, other.resource_spans].concat());
}

#[test]
fn a_merge_of_nothing_is_empty_and_of_bad_bytes_their_concatenation() {
    assert!(splice::merge(&[]).is_empty());
    let good = Bytes::from(request(vec![span(1)]).encode_to_vec());
    let bad = Bytes::from_static(&[0x0A, 0x7F, 0x00]);
    assert_eq!(splice::merge(&[good.clone(), bad.clone()]), [&good[..], &bad[..]].concat());
    assert_eq!(splice::merge(std::slice::from_ref(&bad)), bad);
}

/// The property that a split with many owners, traces and scopes could lose: what is written is the
/// input plus a header per (owner, scope) that has spans, and the owner is asked once per span.
#[test]
fn the_work_of_a_split_does_not_multiply_with_owners_and_scopes() {
    let scopes: Vec<ScopeSpans> = (0..2_000u32)
        .map(|scope| ScopeSpans {
            spans: (0..4u32)
                .map(|at| Span { trace_id: (scope * 4 + at).to_be_bytes().repeat(4), ..Span::default() })
                .collect(),
            ..ScopeSpans::default()
        })
        .collect();
    let body = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans { scope_spans: scopes, ..ResourceSpans::default() }],
    }
    .encode_to_vec();
    let length = body.len();
    let whole = parse(body);
    for owners in [3, 1_000] {
        let mut asked = 0;
        let parts = splice::split_spans(&whole, owners, |span| {
            asked += 1;
            span.trace_id().iter().fold(0usize, |sum, byte| (sum * 31 + usize::from(*byte)) % 1_000_003) % owners
        });
        assert_eq!(asked, 8_000);
        let written: usize = parts.iter().map(|part| part.bytes.len()).sum();
        assert!(written <= length + 8_000 * 3 + owners * 4, "{written} bytes from {length} for {owners} owners");
    }
}
