//! Views equal `prost`, for requests as encoders write them and for every valid distortion of them.

use mirador_otlp::Signal;
use proptest::prelude::*;
use prost::Message;

use crate::draw::Draw;
use crate::{generate, laws, mutate};

/// A request of each signal drawn from the same bytes.
pub(crate) fn requests(bytes: &[u8]) -> [(Signal, Vec<u8>); 3] {
    [
        (Signal::Traces, generate::traces(&mut Draw::new(bytes)).encode_to_vec()),
        (Signal::Metrics, generate::metrics(&mut Draw::new(bytes)).encode_to_vec()),
        (Signal::Logs, generate::logs(&mut Draw::new(bytes)).encode_to_vec()),
    ]
}

pub(crate) fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![proptest::collection::vec(any::<u8>(), 0..300), proptest::collection::vec(any::<u8>(), 0..6_000)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_field_of_every_view_equals_prost(bytes in bytes()) {
        for (signal, body) in requests(&bytes) {
            let parsed = mirador_otlp::Request::parse(signal, body.clone().into(), &mirador_otlp::Limits::default());
            let parsed = parsed.expect("prost wrote it");
            prop_assert_eq!(parsed.bytes(), &body, "a usual request keeps its bytes");
            laws::parse(signal, &body);
        }
    }

    #[test]
    fn views_of_bent_requests_equal_prosts_decoding_of_them(bytes in bytes(), choices in bytes()) {
        for (signal, body) in requests(&bytes) {
            let bent = mutate::request(signal, &body, &mut Draw::new(&choices));
            let parsed = mirador_otlp::Request::parse(signal, bent.clone().into(), &mirador_otlp::Limits::default());
            prop_assert!(parsed.is_ok(), "a bent request is valid: {:?}", parsed);
            laws::parse(signal, &bent);
        }
    }

    #[test]
    fn bytes_that_mean_nothing_are_refused_or_read_as_prost_reads_them(signal in 0usize..3, body in proptest::collection::vec(any::<u8>(), 0..200)) {
        laws::parse(Signal::ALL[signal], &body);
    }
}
