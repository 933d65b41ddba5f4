//! What holds for any bytes whatsoever; the body of the fuzz targets and of the property tests.
//!
//! Fuzz input: the first byte chooses the signal, the second the owners of a split, the rest is the
//! request.

use bytes::Bytes;
use mirador_otlp::splice::{self, Part};
use mirador_otlp::{Limits, Request, Signal};
use prost::Message;

use crate::compare::{Decoded, equal};

/// The header of a resource entry, the header of a scope entry and an item, each encoded.
pub(crate) type Flat = (Vec<u8>, Vec<u8>, Vec<u8>);

/// Takes fuzz input apart.
pub(crate) fn input(data: &[u8]) -> Option<(Signal, u8, &[u8])> {
    match data {
        [signal, owners, body @ ..] => Some((Signal::ALL[usize::from(*signal) % 3], *owners, body)),
        _ => None,
    }
}

/// Parsing accepts what `prost` accepts, except what the crate's documentation names, and nothing
/// else; every view says what `prost` says.
pub(crate) fn parse(signal: Signal, body: &[u8]) {
    let decoded = Decoded::of(signal, body);
    match Request::parse(signal, Bytes::copy_from_slice(body), &Limits::default()) {
        Ok(request) => {
            let decoded = decoded.expect("what we accept prost accepts");
            equal(&request, &decoded);
            assert!(request.bytes().len() <= body.len(), "putting pieces together makes nothing longer");
            let again = Decoded::of(signal, request.bytes()).expect("the rewritten request decodes");
            assert_eq!(flat(&again), flat(&decoded));
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            let ours = ["group", "depth", "pieces", "too_many_items", "too_many_entries"];
            assert!(decoded.is_err() || ours.contains(&error.kind()), "prost accepts what we refuse: {error}");
        }
    }
}

/// A split gives every owner exactly its items, in order and under their headers, and merging the
/// parts gives back what was split.
pub(crate) fn split(signal: Signal, choice: u8, body: &[u8]) {
    let Ok(request) = Request::parse(signal, Bytes::copy_from_slice(body), &Limits::default()) else { return };
    let decoded = Decoded::of(signal, request.bytes()).expect("what we accept prost accepts");
    let all = flat(&decoded);
    let owners = usize::from(choice % 5) + 1;
    let salt = usize::from(choice / 5);
    if signal == Signal::Traces {
        let mut chosen = Vec::new();
        let parts = splice::split_spans(&request, owners, |span| {
            let owner =
                (salt + usize::from(span.trace_id().first().copied().unwrap_or(0)) + span.name().len()) % owners;
            chosen.push(owner);
            owner
        });
        check(signal, owners, &request, &parts, &all, &chosen);
    }
    let mut chosen = Vec::new();
    let parts = splice::split_resources(&request, owners, |resource| {
        let owner = (resource.identity() as usize).wrapping_add(salt) % owners;
        chosen.push(owner);
        owner
    });
    let chosen: Vec<usize> = entries(&decoded).into_iter().map(|entry| chosen[entry]).collect();
    check(signal, owners, &request, &parts, &all, &chosen);
    let twice = splice::merge(&[request.bytes().clone(), Bytes::copy_from_slice(body)]);
    let twice = Decoded::of(signal, &twice).expect("a merge decodes");
    assert_eq!(flat(&twice), [&all[..], &all[..]].concat());
}

/// `chosen` is the owner of each item of `all`.
fn check(signal: Signal, owners: usize, request: &Request, parts: &[Part], all: &[Flat], chosen: &[usize]) {
    assert_eq!(all.len(), chosen.len());
    assert!(parts.windows(2).all(|pair| pair[0].owner < pair[1].owner));
    assert_eq!(parts.iter().map(|part| part.items).sum::<usize>(), request.items());
    for part in parts {
        assert!(part.owner < owners);
        let reread = Request::parse(signal, part.bytes.clone(), &Limits::default()).expect("a part is a valid request");
        assert_eq!(reread.items(), part.items);
        assert!(part.items > 0);
        let decoded = Decoded::of(signal, &part.bytes).expect("a part decodes");
        let expected: Vec<&Flat> =
            all.iter().zip(chosen).filter(|(_, owner)| **owner == part.owner).map(|(item, _)| item).collect();
        // An owner that gets everything gets the original, whose metrics may have no points.
        assert_eq!(flat(&decoded).iter().collect::<Vec<_>>(), expected);
    }
    let merged = splice::merge(&parts.iter().map(|part| part.bytes.clone()).collect::<Vec<_>>());
    let mut merged = flat(&Decoded::of(signal, &merged).expect("a merge decodes"));
    let reached: Vec<usize> = parts.iter().map(|part| part.owner).collect();
    let mut split: Vec<Flat> =
        all.iter().zip(chosen).filter(|(_, owner)| reached.contains(owner)).map(|(item, _)| item.clone()).collect();
    merged.sort();
    split.sort();
    assert_eq!(merged, split);
}

macro_rules! flatten {
    ($entries:expr, $scopes:ident, $items:ident) => {
        $entries
            .iter()
            .flat_map(|entry| {
                let mut header = entry.clone();
                header.$scopes.clear();
                let header = header.encode_to_vec();
                entry.$scopes.iter().flat_map(move |scope| {
                    let mut scope_header = scope.clone();
                    scope_header.$items.clear();
                    let header = header.clone();
                    let scope_header = scope_header.encode_to_vec();
                    scope.$items.iter().map(move |item| (header.clone(), scope_header.clone(), item.encode_to_vec()))
                })
            })
            .collect()
    };
}

/// Every item (span, metric, log record) with its headers, in order.
pub(crate) fn flat(decoded: &Decoded) -> Vec<Flat> {
    match decoded {
        Decoded::Traces(request) => flatten!(request.resource_spans, scope_spans, spans),
        Decoded::Metrics(request) => flatten!(request.resource_metrics, scope_metrics, metrics),
        Decoded::Logs(request) => flatten!(request.resource_logs, scope_logs, log_records),
    }
}

/// The index of the resource entry of every item.
fn entries(decoded: &Decoded) -> Vec<usize> {
    fn repeat(counts: impl Iterator<Item = usize>) -> Vec<usize> {
        counts.enumerate().flat_map(|(entry, count)| std::iter::repeat_n(entry, count)).collect()
    }
    match decoded {
        Decoded::Traces(request) => repeat(
            request.resource_spans.iter().map(|entry| entry.scope_spans.iter().map(|scope| scope.spans.len()).sum()),
        ),
        Decoded::Metrics(request) => repeat(
            request
                .resource_metrics
                .iter()
                .map(|entry| entry.scope_metrics.iter().map(|scope| scope.metrics.len()).sum()),
        ),
        Decoded::Logs(request) => repeat(
            request
                .resource_logs
                .iter()
                .map(|entry| entry.scope_logs.iter().map(|scope| scope.log_records.len()).sum()),
        ),
    }
}
