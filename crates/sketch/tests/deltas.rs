//! Deltas from anybody: the committed fuzz corpus, replayed by every test run, and damaged deltas.
//!
//! The corpus follows from seeds; after the encoder has changed it is written anew by
//! `MIRADOR_WRITE_CORPUS=1 cargo test -p mirador-sketch --test deltas`.

#[path = "deltas/laws.rs"]
mod laws;

use std::fs;
use std::path::{Path, PathBuf};

use mirador_otlp::{Limits, Request, Signal};
use mirador_sketch::{Config, Dimension, Tap};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use proptest::prelude::*;
use prost::Message;

/// Files of the corpus.
const FILES: u64 = 24;

fn mix(seed: u64) -> u64 {
    let mixed = (seed ^ (seed >> 30)).wrapping_add(1).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB)
}

fn text(key: &str, value: String) -> KeyValue {
    let value = Some(AnyValue { value: Some(Value::StringValue(value)) });
    KeyValue { key: key.into(), value, ..KeyValue::default() }
}

/// A delta that a tap has made of a few spans.
fn delta(seed: u64) -> Vec<u8> {
    let spans = (1..=seed % 7 + 1).map(|at| {
        let random = mix(seed * 100 + at);
        Span {
            trace_id: u128::from(random | 1).to_be_bytes().into(),
            span_id: (random | 1).to_be_bytes().into(),
            name: format!("GET /{}", random % 3),
            kind: (random % 6) as i32,
            start_time_unix_nano: 1_000,
            end_time_unix_nano: 1_000 + (mix(random) >> (random % 60)),
            attributes: vec![text("zone", format!("z{}", random % 2))],
            ..Span::default()
        }
    });
    let resource = Resource { attributes: vec![text("service.name", format!("s{}", seed % 4))], ..Resource::default() };
    let scope_spans = vec![ScopeSpans { spans: spans.collect(), ..ScopeSpans::default() }];
    let message = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans { resource: Some(resource), scope_spans, ..ResourceSpans::default() }],
    };
    let request = Request::parse(Signal::Traces, message.encode_to_vec().into(), &Limits::default())
        .expect("an encoded message is valid");
    let dimensions = vec![Dimension { name: "zone".into(), default: None }];
    let config = Config { dimensions, aggregation_cardinality_limit: 3, ..Config::default() };
    let mut tap = Tap::new(&config, 1);
    tap.observe(&request, 5);
    let window = tap.close(10).expect("spans were counted");
    window.split(|_| 0).remove(0).1.encode_to_vec()
}

/// A third of the corpus is as made, a third has bytes changed, a third is cut off.
fn file(index: u64) -> Vec<u8> {
    let mut bytes = delta(index);
    match index % 3 {
        1 => (0..3).for_each(|at| {
            let random = mix(index * 10 + at);
            let place = random as usize % bytes.len();
            bytes[place] = (random >> 32) as u8;
        }),
        2 => bytes.truncate(mix(index) as usize % bytes.len()),
        _ => {}
    }
    bytes
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus/delta")
}

#[test]
fn the_committed_corpus_is_what_the_seeds_give_and_obeys_the_laws() {
    let writes = std::env::var_os("MIRADOR_WRITE_CORPUS").is_some();
    for index in 0..FILES {
        let (path, data) = (folder().join(format!("delta-{index:02}")), file(index));
        if writes {
            fs::create_dir_all(folder()).expect("a folder can be made");
            fs::write(&path, &data).expect("a file can be written");
        }
        assert!(fs::read(&path).is_ok_and(|committed| committed == data), "{} is stale", path.display());
    }
    // Crashes that were found stand beside the files that follow from seeds.
    for entry in fs::read_dir(folder()).expect("the corpus is committed") {
        laws::delta(&fs::read(entry.expect("an entry can be read").path()).expect("a corpus file can be read"));
    }
}

#[test]
fn a_delta_that_is_cut_off_anywhere_obeys_the_laws() {
    let bytes = delta(6);
    (0..=bytes.len()).for_each(|end| laws::delta(&bytes[..end]));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_deltas_obey_the_laws(seed in 0..1_000_u64, changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8)) {
        let mut bytes = delta(seed);
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        laws::delta(&bytes);
    }

    #[test]
    fn any_bytes_obey_the_laws(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        laws::delta(&bytes);
    }
}
