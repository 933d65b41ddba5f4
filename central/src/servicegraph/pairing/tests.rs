//! Every case of the pairing table, and that no order of arrival changes an edge.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::super::config::{Config, StoreConfig};
use super::super::edge::{ConnectionType, Edge};
use super::super::half::{Half, Key, Measure, Side, Via};
use super::{Outcome, Pairing};

const TTL: u64 = 10_000_000_000;

fn config() -> Config {
    Config { store: StoreConfig { ttl: Duration::from_nanos(TTL), ..StoreConfig::default() }, ..Config::default() }
}

fn id(number: u8) -> [u8; 8] {
    [0, 0, 0, 0, 0, 0, 0, number]
}

/// A half of trace 1 with the key `span`, of a span with the id `own`.
fn half(side: Side, service: &str, span: u8, own: u8) -> Half {
    let key = Key { trace_id: [1; 16], span_id: id(span) };
    Half {
        key,
        side,
        via: Via::Parent,
        is_messaging: false,
        is_failed: false,
        service: Arc::from(service),
        measure: Measure { nanos: u64::from(own) * 1000, end_unix_nano: 5, trace_id: [1; 16], span_id: id(own) },
        dimensions: None,
        peer: None,
        database: None,
    }
}

fn client(service: &str, span: u8) -> Half {
    half(Side::Client, service, span, span)
}

fn server(service: &str, parent: u8, own: u8) -> Half {
    half(Side::Server, service, parent, own)
}

#[derive(Default)]
struct Run {
    edges: Vec<Edge>,
    unpaired: Vec<(Side, String)>,
    dropped: usize,
    duplicates: usize,
}

impl Run {
    fn take(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Edge(edge) => self.edges.push(edge),
            Outcome::Unpaired(half) => self.unpaired.push((half.side, half.service.to_string())),
            Outcome::Dropped(_) => self.dropped += 1,
            Outcome::Duplicate => self.duplicates += 1,
        }
    }

    fn sorted(mut self) -> (Vec<Edge>, Vec<(Side, String)>) {
        self.edges.sort();
        self.unpaired.sort();
        (self.edges, self.unpaired)
    }

    /// (client, server, type, failed) of every edge, sorted.
    fn names(&self) -> Vec<(String, String, &'static str, bool)> {
        let mut names: Vec<_> = self
            .edges
            .iter()
            .map(|Edge { key, .. }| {
                let names = (key.client.to_string(), key.server.to_string());
                (names.0, names.1, key.connection_type.as_str(), key.is_failed)
            })
            .collect();
        names.sort();
        names
    }
}

/// Pushes the halves one nanosecond apart, then lets everything expire.
fn run(config: &Config, halves: impl IntoIterator<Item = Half>) -> Run {
    let mut run = Run::default();
    let mut pairing = Pairing::new(config, 1);
    let mut now = 100;
    for half in halves {
        now += 1;
        pairing.push(half, now, &mut |outcome| run.take(outcome));
    }
    pairing.expire(now + TTL, &mut |outcome| run.take(outcome));
    assert!(pairing.is_empty());
    run
}

fn edge(client: &str, server: &str, connection: &'static str, failed: bool) -> (String, String, &'static str, bool) {
    (client.to_owned(), server.to_owned(), connection, failed)
}

#[test]
fn a_client_and_its_server_make_one_edge_with_both_latencies() {
    let run = run(&config(), [client("shop", 1), server("cart", 1, 2)]);
    assert_eq!(run.names(), [edge("shop", "cart", "", false)]);
    assert_eq!(run.edges[0].client.unwrap().nanos, 1000);
    assert_eq!(run.edges[0].server.unwrap().nanos, 2000);
    assert!(run.unpaired.is_empty());
}

#[test]
fn either_side_that_fails_fails_the_edge() {
    for (client_fails, server_fails) in [(true, false), (false, true), (true, true)] {
        let halves = [
            Half { is_failed: client_fails, ..client("shop", 1) },
            Half { is_failed: server_fails, ..server("cart", 1, 2) },
        ];
        assert_eq!(run(&config(), halves).names(), [edge("shop", "cart", "", true)]);
    }
}

#[test]
fn a_root_server_is_called_by_the_user_at_once() {
    let mut pairing = Pairing::new(&config(), 1);
    let mut seen = Run::default();
    pairing.push(server("shop", 0, 1), 1, &mut |outcome| seen.take(outcome));
    assert!(pairing.is_empty());
    assert_eq!(seen.names(), [edge("user", "shop", "virtual_node", false)]);
    assert_eq!(seen.edges[0].client, None, "the missing side has no latency");
    assert_eq!(seen.edges[0].key.virtual_side, Some(Side::Client));
}

#[test]
fn an_unanswered_client_calls_its_peer_or_unknown_after_ttl_and_not_before() {
    let mut pairing = Pairing::new(&config(), 1);
    let mut seen = Run::default();
    pairing.push(client("shop", 1), 100, &mut |outcome| seen.take(outcome));
    pairing.push(Half { peer: Some(Arc::from("bank")), ..client("shop", 2) }, 100, &mut |outcome| seen.take(outcome));
    assert_eq!(pairing.poll_timeout(), Some(100 + TTL));
    pairing.expire(99 + TTL, &mut |outcome| seen.take(outcome));
    assert!(seen.edges.is_empty());
    pairing.expire(100 + TTL, &mut |outcome| seen.take(outcome));
    let expected = [edge("shop", "bank", "virtual_node", false), edge("shop", "unknown", "virtual_node", false)];
    assert_eq!(seen.names(), expected);
    assert_eq!(seen.unpaired.len(), 2);
    assert!(seen.edges.iter().all(|edge| edge.server.is_none() && edge.client.is_some()));
    assert_eq!(pairing.poll_timeout(), None);
}

#[test]
fn a_server_whose_client_never_comes_leaves_no_edge_and_is_counted() {
    let run = run(&config(), [server("cart", 9, 2)]);
    assert!(run.edges.is_empty());
    assert_eq!(run.unpaired, [(Side::Server, "cart".to_owned())]);
}

#[test]
fn without_virtual_nodes_only_real_edges_are_made() {
    let config = Config { virtual_node_peer_attributes: Vec::new(), ..config() };
    let run = run(&config, [server("shop", 0, 1), client("shop", 3), client("shop", 4), server("cart", 4, 5)]);
    assert_eq!(run.names(), [edge("shop", "cart", "", false)]);
    assert_eq!(run.unpaired.len(), 2);
}

#[test]
fn a_database_call_is_a_whole_edge_and_both_sides_carry_the_clients_latency() {
    let mut pairing = Pairing::new(&config(), 1);
    let mut seen = Run::default();
    let call = Half { database: Some(Arc::from("orders")), ..client("shop", 7) };
    pairing.push(call, 1, &mut |outcome| seen.take(outcome));
    assert!(pairing.is_empty());
    assert_eq!(seen.names(), [edge("shop", "orders", "database", false)]);
    assert_eq!(seen.edges[0].client, seen.edges[0].server);
}

#[test]
fn a_producer_or_a_consumer_makes_the_edge_a_messaging_edge() {
    let producer = || Half { is_messaging: true, ..client("shop", 1) };
    let consumer = || Half { is_messaging: true, ..server("mail", 1, 2) };
    let expected = [edge("shop", "mail", "messaging_system", false)];
    assert_eq!(run(&config(), [producer(), consumer()]).names(), expected);
    assert_eq!(run(&config(), [client("shop", 1), consumer()]).names(), expected);
    assert_eq!(run(&config(), [server("mail", 1, 2), producer()]).names(), expected);
}

#[test]
fn every_server_of_one_client_is_an_edge() {
    let run = run(&config(), [server("a", 1, 2), client("shop", 1), server("b", 1, 3), server("b", 1, 4)]);
    let expected = [edge("shop", "a", "", false), edge("shop", "b", "", false), edge("shop", "b", "", false)];
    assert_eq!(run.names(), expected);
    assert!(run.unpaired.is_empty());
}

#[test]
fn a_parent_beside_links_that_never_comes_is_not_missed() {
    let beside = Half { via: Via::ParentBesideLinks, is_messaging: true, ..server("mail", 3, 9) };
    let linked = Half { via: Via::Link, is_messaging: true, ..server("mail", 1, 9) };
    let run = run(&config(), [client("shop", 1), beside, linked]);
    assert_eq!(run.names(), [edge("shop", "mail", "messaging_system", false)]);
    assert!(run.unpaired.is_empty());
}

#[test]
fn a_span_that_is_sent_again_is_counted_once_before_and_after_pairing() {
    let halves = [client("shop", 1), client("shop", 1), server("cart", 1, 2), server("cart", 1, 2), client("shop", 1)];
    let run = run(&config(), halves);
    assert_eq!(run.names(), [edge("shop", "cart", "", false)]);
    assert_eq!(run.duplicates, 3);
    assert!(run.unpaired.is_empty());
}

#[test]
fn a_duplicate_is_known_after_its_edge_has_expired() {
    let mut pairing = Pairing::new(&config(), 1);
    let mut seen = Run::default();
    for now in [1, 1 + TTL, 1 + 2 * TTL] {
        pairing.push(client("shop", 1), now, &mut |outcome| seen.take(outcome));
        pairing.push(server("shop", 0, 1), now, &mut |outcome| seen.take(outcome));
    }
    assert_eq!(seen.edges.len(), 2);
    assert_eq!(seen.duplicates, 4);
}

#[test]
fn a_full_store_drops_and_takes_the_dropped_span_when_it_is_sent_again() {
    let mut config = config();
    config.store.max_items = 2;
    let mut pairing = Pairing::new(&config, 1);
    let mut seen = Run::default();
    for span in 1..=3 {
        pairing.push(client("shop", span), 1, &mut |outcome| seen.take(outcome));
    }
    assert_eq!((seen.dropped, pairing.len()), (1, 2));
    // A server of a waiting client needs no room, and makes some.
    pairing.push(server("cart", 1, 9), 2, &mut |outcome| seen.take(outcome));
    pairing.push(client("shop", 3), 3, &mut |outcome| seen.take(outcome));
    pairing.push(server("cart", 3, 10), 4, &mut |outcome| seen.take(outcome));
    assert_eq!(seen.edges.len(), 2);
    assert_eq!((seen.dropped, seen.duplicates), (1, 0));
}

#[test]
fn expired_spans_make_room_before_a_span_is_dropped() {
    let mut config = config();
    config.store.max_items = 1;
    let mut pairing = Pairing::new(&config, 1);
    let mut seen = Run::default();
    pairing.push(client("shop", 1), 1, &mut |outcome| seen.take(outcome));
    pairing.push(client("shop", 2), 1 + TTL, &mut |outcome| seen.take(outcome));
    assert_eq!((seen.dropped, seen.unpaired.len(), pairing.len()), (0, 1, 1));
}

#[test]
fn answered_clients_are_bounded_like_waiting_ones() {
    let mut config = config();
    config.store.max_items = 3;
    let mut pairing = Pairing::new(&config, 1);
    for span in 1..=100 {
        pairing.push(client("shop", span), 1, &mut |_| ());
        pairing.push(server("cart", span, span + 100), 1, &mut |_| ());
        assert!(pairing.answered.len() <= 3 && pairing.is_empty());
    }
}

#[test]
fn a_clock_that_steps_back_expires_nothing_early() {
    let mut pairing = Pairing::new(&config(), 1);
    let mut seen = Run::default();
    pairing.push(client("shop", 1), 50, &mut |outcome| seen.take(outcome));
    pairing.push(server("cart", 1, 2), 10, &mut |outcome| seen.take(outcome));
    assert_eq!(seen.names(), [edge("shop", "cart", "", false)]);
}

#[test]
fn abandoning_counts_every_half_and_makes_no_virtual_edge() {
    let mut pairing = Pairing::new(&config(), 1);
    let mut seen = Run::default();
    pairing.push(client("shop", 1), 1, &mut |outcome| seen.take(outcome));
    pairing.push(server("cart", 2, 2), 1, &mut |outcome| seen.take(outcome));
    pairing.abandon(&mut |outcome| seen.take(outcome));
    assert!(seen.edges.is_empty() && pairing.is_empty());
    assert_eq!(seen.unpaired.len(), 2);
}

#[test]
fn connection_types_are_spelled_as_the_connector_spells_them() {
    let all = [
        ConnectionType::Direct,
        ConnectionType::MessagingSystem,
        ConnectionType::Database,
        ConnectionType::VirtualNode,
    ];
    assert_eq!(all.map(ConnectionType::as_str), ["", "messaging_system", "database", "virtual_node"]);
}

/// Halves over few keys, so that fan-out, roots, databases, links and lonely spans all meet.
fn any_halves() -> impl Strategy<Value = Vec<Half>> {
    let one = (any::<bool>(), 0_u8..6, 0_u8..4, any::<bool>(), any::<bool>(), 0_u8..8);
    prop::collection::vec(one, 0..24).prop_map(|drawn| {
        let mut clients = std::collections::HashSet::new();
        let mut halves = Vec::new();
        for (index, (is_client, key, service, failed, messaging, extra)) in drawn.into_iter().enumerate() {
            let service = ["a", "b", "c", "d"][usize::from(service)];
            let half = if is_client && key > 0 {
                if !clients.insert(key) {
                    continue;
                }
                let peer = (extra == 1).then(|| Arc::from("peer"));
                let database = (extra == 2).then(|| Arc::from("db"));
                Half { peer, database, ..client(service, key) }
            } else {
                let via = [Via::Parent, Via::ParentBesideLinks, Via::Link][usize::from(extra % 3)];
                Half { via, ..server(service, key, 100 + index as u8) }
            };
            halves.push(Half { is_failed: failed, is_messaging: messaging, ..half });
        }
        halves
    })
}

proptest! {
    #[test]
    fn property_no_order_and_no_repetition_changes_the_edges(
        halves in any_halves(),
        shuffled in any::<prop::sample::Index>(),
        seed in any::<u64>(),
    ) {
        let expected = run(&config(), halves.clone()).sorted();
        let mut other = halves.clone();
        if !halves.is_empty() {
            other.push(halves[shuffled.index(halves.len())].clone());
        }
        // A Fisher-Yates shuffle from the seed.
        let mut state = seed | 1;
        for last in (1..other.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            other.swap(last, (state >> 33) as usize % (last + 1));
        }
        prop_assert_eq!(run(&config(), other).sorted(), expected);
    }

    #[test]
    fn property_the_store_never_holds_more_than_its_limit(halves in any_halves(), limit in 1_usize..6) {
        let mut config = config();
        config.store.max_items = limit;
        let mut pairing = Pairing::new(&config, 1);
        for (now, half) in halves.into_iter().enumerate() {
            pairing.push(half, now as u64, &mut |_| ());
            prop_assert!(pairing.len() <= limit && pairing.answered.len() <= limit);
        }
    }
}

/// Heap's algorithm over a case with every kind of half: all 5,040 orders.
#[test]
fn all_orders_of_seven_spans_give_the_same_edges() {
    let mut halves = vec![
        client("shop", 1),
        server("cart", 1, 11),
        server("cart", 1, 12),
        client("shop", 2),
        Half { is_messaging: true, via: Via::Link, ..server("mail", 2, 13) },
        Half { database: Some(Arc::from("orders")), ..client("cart", 3) },
        server("shop", 0, 14),
    ];
    let expected = run(&config(), halves.clone()).sorted();
    assert_eq!(expected.0.len(), 5);
    let mut counters = vec![0; halves.len()];
    let mut orders = 1;
    let mut index = 0;
    while index < halves.len() {
        if counters[index] < index {
            halves.swap(if index % 2 == 0 { 0 } else { counters[index] }, index);
            assert_eq!(run(&config(), halves.clone()).sorted(), expected);
            orders += 1;
            counters[index] += 1;
            index = 0;
        } else {
            counters[index] = 0;
            index += 1;
        }
    }
    assert_eq!(orders, 5040);
}
