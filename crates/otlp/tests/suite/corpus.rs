//! The committed fuzz corpus, replayed by every test run.
//!
//! It follows from seeds; after the generator has changed it is written anew by
//! `MIRADOR_WRITE_CORPUS=1 cargo test -p mirador-otlp --test suite corpus`.

use std::fs;
use std::path::{Path, PathBuf};

use mirador_otlp::Signal;
use prost::Message;

use crate::draw::Draw;
use crate::{generate, laws, mutate};

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus").join(target)
}

fn files(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(folder(target)).expect("the corpus is committed");
    let paths = entries.map(|entry| entry.expect("an entry can be read").path());
    paths.map(|path| (path.clone(), fs::read(&path).expect("a corpus file can be read"))).collect()
}

#[test]
fn the_committed_corpus_obeys_the_laws() {
    for (target, least) in [("parse", 24), ("split", 12)] {
        let files = files(target);
        assert!(files.len() >= least, "{} files in {target}", files.len());
        for (path, data) in files {
            let (signal, choice, body) =
                laws::input(&data).unwrap_or_else(|| panic!("{} is too short", path.display()));
            laws::parse(signal, body);
            laws::split(signal, choice, body);
        }
    }
}

fn seed(start: u64) -> Vec<u8> {
    (0..90u64).map(|at| ((start + at).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 41) as u8).collect()
}

#[test]
fn the_committed_corpus_is_what_the_seeds_give() {
    let writes = std::env::var_os("MIRADOR_WRITE_CORPUS").is_some();
    for (target, count) in [("parse", 30u64), ("split", 15)] {
        for index in 0..count {
            let signal = Signal::ALL[(index % 3) as usize];
            let bytes = seed(index * 1_000 + target.len() as u64);
            let draw = &mut Draw::new(&bytes);
            let body = match signal {
                Signal::Traces => generate::traces(draw).encode_to_vec(),
                Signal::Metrics => generate::metrics(draw).encode_to_vec(),
                Signal::Logs => generate::logs(draw).encode_to_vec(),
            };
            let choices = seed(index + 77);
            let mut body = if index % 2 == 0 { body } else { mutate::request(signal, &body, &mut Draw::new(&choices)) };
            if index % 7 == 6 {
                body.truncate(body.len() / 2);
            }
            body.truncate(2_000);
            let data = [&[(index % 3) as u8, (index * 7) as u8][..], &body].concat();
            let path = folder(target).join(format!("{}-{index:02}", signal.as_str()));
            if writes {
                fs::write(&path, data).expect("a file can be written");
            } else {
                assert!(fs::read(&path).is_ok_and(|committed| committed == data), "{} is stale", path.display());
            }
        }
    }
}
