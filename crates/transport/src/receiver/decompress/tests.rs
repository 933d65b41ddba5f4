//! Every encoding against its reference encoder, the limit, the budget and damage at every place.

use std::io::Write as _;

use mirador_service::memory::Budget;
use proptest::prelude::*;

use super::*;

const GZIP: Encoding = Encoding::Gzip;

fn run(encoding: Encoding, input: &[u8], limit: usize, budget: &Budget) -> Result<Bytes, Fault> {
    let mut permit = budget.try_acquire(input.len()).ok_or_else(Fault::memory)?;
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let body = runtime.block_on(decompress(encoding, Bytes::copy_from_slice(input), limit, &mut permit))?;
    assert!(permit.bytes() >= body.len(), "{} bytes are paid for with {}", body.len(), permit.bytes());
    Ok(body)
}

fn compress(encoding: Encoding, data: &[u8]) -> Vec<u8> {
    let level = flate2::Compression::default();
    match encoding {
        Encoding::Identity => data.to_vec(),
        Encoding::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
        Encoding::Zlib => {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), level);
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
        Encoding::Zstd => zstd::bulk::compress(data, 3).unwrap(),
        Encoding::Snappy => snap::raw::Encoder::new().compress_vec(data).unwrap(),
        Encoding::Lz4 => {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::new());
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
    }
}

fn snappy_framed(data: &[u8]) -> Vec<u8> {
    let mut encoder = snap::write::FrameEncoder::new(Vec::new());
    encoder.write_all(data).unwrap();
    encoder.into_inner().unwrap()
}

fn zstd_stream(data: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    for part in data.chunks(10_000) {
        encoder.write_all(part).unwrap();
        encoder.flush().unwrap();
    }
    encoder.finish().unwrap()
}

/// Data of `length` bytes that compresses about as well as spans do.
fn text(length: usize) -> Vec<u8> {
    (0..length).map(|i| b"service.name=checkout;http.route=/cart/{id};"[i * 7 % 44] ^ (i / 977) as u8).collect()
}

fn variants(data: &[u8]) -> Vec<(&'static str, Encoding, Vec<u8>)> {
    let mut two_members = compress(GZIP, &data[..data.len() / 2]);
    two_members.extend(compress(GZIP, &data[data.len() / 2..]));
    let mut two_frames = compress(Encoding::Zstd, &data[..data.len() / 2]);
    two_frames.extend(zstd_stream(&data[data.len() / 2..]));
    vec![
        ("identity", Encoding::Identity, data.to_vec()),
        ("gzip", GZIP, compress(GZIP, data)),
        ("gzip of two members", GZIP, two_members),
        ("zlib", Encoding::Zlib, compress(Encoding::Zlib, data)),
        ("zstd", Encoding::Zstd, compress(Encoding::Zstd, data)),
        ("zstd stream", Encoding::Zstd, zstd_stream(data)),
        ("zstd of two frames", Encoding::Zstd, two_frames),
        ("snappy", Encoding::Snappy, compress(Encoding::Snappy, data)),
        ("snappy framed", Encoding::Snappy, snappy_framed(data)),
        ("lz4", Encoding::Lz4, compress(Encoding::Lz4, data)),
    ]
}

#[test]
fn every_encoding_gives_back_what_was_compressed_and_pays_for_it() {
    let budget = Budget::new(256 << 20);
    for length in [0, 1, 100, 16 << 10, 100_000] {
        let data = text(length);
        for (name, encoding, input) in variants(&data) {
            let body =
                run(encoding, &input, 16 << 20, &budget).unwrap_or_else(|fault| panic!("{name} {length}: {fault:?}"));
            assert!(body == data, "{name} of {length} bytes came back different");
            assert_eq!(budget.used(), 0);
        }
    }
}

#[test]
fn a_large_zstd_frame_is_decompressed_in_slices_although_it_says_how_long_it_is() {
    let budget = Budget::new(64 << 20);
    let data = text(ONE_SHOT + 1);
    for input in [compress(Encoding::Zstd, &data), zstd_stream(&data)] {
        assert!(run(Encoding::Zstd, &input, 16 << 20, &budget).expect("it is sound") == data);
    }
    assert_eq!(budget.used(), 0);
}

#[test]
fn the_limit_is_exact_for_every_encoding() {
    let budget = Budget::new(64 << 20);
    for length in [1000, 16 << 10, 300_000] {
        let data = text(length);
        for (name, encoding, input) in variants(&data).into_iter().skip(1) {
            assert_eq!(run(encoding, &input, length, &budget).expect(name).len(), length);
            let fault = run(encoding, &input, length - 1, &budget).expect_err(name);
            assert_eq!(fault.reason, "too_large_decompressed", "{name}");
            assert_eq!(fault.retry_after, None, "a repetition cannot help");
        }
    }
    assert_eq!(budget.used(), 0);
}

#[test]
fn a_bomb_costs_no_more_than_the_limit() {
    let data = vec![0_u8; 2 << 20];
    // Both buffers of the last doubling and the window: three times the limit, never the 2 MiB.
    let budget = Budget::new(512 << 10);
    for (name, encoding, input) in variants(&data).into_iter().skip(1) {
        let fault = run(encoding, &input, 128 << 10, &budget).expect_err(name);
        assert_eq!(fault.reason, "too_large_decompressed", "{name}");
    }
    assert_eq!(budget.used(), 0);
}

#[test]
fn an_exhausted_budget_asks_to_come_back_and_one_that_is_too_small_does_not() {
    let data = text(500_000);
    let small = 200 << 10;
    for (others, reason) in [(16 << 20, "memory"), (0, "too_large_for_memory")] {
        let budget = Budget::new(small + others);
        let held = budget.try_acquire(others).expect("it is free");
        for (name, encoding, input) in variants(&data).into_iter().skip(1) {
            let fault = run(encoding, &input, 16 << 20, &budget).expect_err(name);
            assert_eq!((fault.reason, fault.retry_after.is_some()), (reason, reason == "memory"), "{name}");
            assert_eq!(fault.http.as_u16(), if reason == "memory" { 503 } else { 400 });
        }
        drop(held);
        assert_eq!(budget.used(), 0);
    }
}

#[test]
fn a_body_that_ends_early_at_any_byte_is_corrupt() {
    let budget = Budget::new(8 << 20);
    let data = text(700);
    for (name, encoding, input) in variants(&data).into_iter().skip(1) {
        for cut in 1..input.len() {
            match run(encoding, &input[..cut], 1 << 20, &budget) {
                Err(fault) => assert!(matches!(fault.reason, "encoding_corrupt"), "{name} {cut}: {}", fault.reason),
                // A cut between two members, frames or chunks leaves a whole stream behind.
                Ok(body) => assert!(data.starts_with(&body), "{name} cut at {cut}"),
            }
        }
    }
    assert_eq!(budget.used(), 0);
}

#[test]
fn a_window_above_eight_mebibytes_is_refused() {
    // Magic, descriptor without single segment, window descriptor of 16 MiB, one empty last block.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 14 << 3, 1, 0, 0];
    let budget = Budget::new(64 << 20);
    let fault = run(Encoding::Zstd, &frame, 64 << 20, &budget).expect_err("too wide");
    assert_eq!(fault.reason, "encoding_corrupt");
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 13 << 3, 1, 0, 0];
    assert!(run(Encoding::Zstd, &frame, 64 << 20, &budget).expect("8 MiB is the widest").is_empty());
}

#[test]
fn a_gzip_header_with_every_optional_field_is_skipped() {
    let mut encoder = flate2::GzBuilder::new()
        .filename("spans")
        .comment("for a test")
        .extra(vec![1, 2, 3])
        .write(Vec::new(), flate2::Compression::fast());
    encoder.write_all(b"hello").unwrap();
    let input = encoder.finish().unwrap();
    let budget = Budget::new(1 << 20);
    assert_eq!(run(GZIP, &input, 1 << 20, &budget).expect("it is sound"), &b"hello"[..]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn damage_never_panics_and_never_exceeds_the_limit(
        which in 1_usize..10,
        length in 0_usize..3_000,
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let (_, encoding, mut input) = variants(&text(length)).swap_remove(which);
        for (place, value) in flips {
            if !input.is_empty() {
                let place = place.index(input.len());
                input[place] = value;
            }
        }
        let budget = Budget::new(1 << 20);
        if let Ok(body) = run(encoding, &input, 30_000, &budget) {
            prop_assert!(body.len() <= 30_000);
        }
        prop_assert_eq!(budget.used(), 0);
    }

    #[test]
    fn noise_never_panics(which in 1_usize..10, noise in prop::collection::vec(any::<u8>(), 0..2000)) {
        let encoding = variants(b"")[which].1;
        let budget = Budget::new(1 << 20);
        drop(run(encoding, &noise, 30_000, &budget));
        prop_assert_eq!(budget.used(), 0);
    }
}
