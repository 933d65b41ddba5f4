//! What a command line of `up` means.

use clap::{Args as _, FromArgMatches as _};

use super::*;

/// What a command line means; six ports that are free stand for the usual ones.
fn options(words: &[String]) -> Options {
    let command = Options::augment_args(clap::Command::new("up").no_binary_name(true));
    Options::from_arg_matches(&command.get_matches_from(words)).unwrap()
}

fn words(ports: [u16; 5]) -> Vec<String> {
    let names = ["grpc", "http", "metrics", "health", "console"];
    names.iter().zip(ports).map(|(name, port)| format!("--{name}-port={port}")).collect()
}

fn free() -> [u16; 5] {
    std::array::from_fn(|_| ports::free().unwrap())
}

#[test]
fn a_port_that_is_given_twice_is_refused_with_both_names() {
    let mut given = free();
    given[3] = given[0];
    let error = options(&words(given)).ports().unwrap_err().to_string();
    assert!(error.contains("--grpc-port and --health-port") && error.contains(&given[0].to_string()), "{error}");
}

#[test]
fn a_port_that_is_taken_is_refused_with_the_flag_that_changes_it() {
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let mut given = free();
    given[1] = taken.local_addr().unwrap().port();
    let error = options(&words(given)).ports().unwrap_err().to_string();
    assert!(error.contains("--http-port") && error.contains(&given[1].to_string()), "{error}");
}

#[test]
fn our_own_ports_keep_away_from_those_that_were_chosen() {
    let mut given = free();
    given[0] = 14317;
    let used = given;
    assert_ne!(preferred(14317, &used).unwrap(), 14317);
    let found = options(&words(free())).ports().unwrap();
    let mut all = found.all().to_vec();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), found.all().len());
}

#[test]
fn without_a_live_page_nobody_asks_for_its_port() {
    let mut given = free();
    given[4] = given[0];
    let mut words = words(given);
    words.push("--backends=real".to_owned());
    options(&words).ports().unwrap();
}

#[test]
fn an_end_of_the_reader_is_no_failure() {
    assert!(is_unread(&io::Error::from(io::ErrorKind::BrokenPipe).into()));
    assert!(!is_unread(&io::Error::from(io::ErrorKind::StorageFull).into()));
}
