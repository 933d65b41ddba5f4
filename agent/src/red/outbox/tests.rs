//! Laws of the outbox, and a model test over random operations.

use mirador_proto::red::RedSeries;
use proptest::prelude::*;

use super::*;

fn request(services: &[&str]) -> ExportRedRequest {
    let mut strings = vec![String::new()];
    let mut series = Vec::new();
    for service in services {
        strings.push((*service).to_owned());
        series.push(RedSeries { service: strings.len() as u32 - 1, calls: 1, ..RedSeries::default() });
    }
    ExportRedRequest { strings, series, ..ExportRedRequest::default() }
}

fn outbox(limit: usize) -> Outbox {
    Outbox::new("node-1".to_owned(), 77, limit)
}

#[test]
fn a_delta_that_was_not_acknowledged_is_sent_again_byte_for_byte() {
    let mut outbox = outbox(1 << 20);
    assert!(outbox.push("a", request(&["cart"])).is_nothing());
    let first = outbox.next_to_send().unwrap();
    assert!(outbox.next_to_send().is_none(), "it is on its way");
    outbox.failed("a", first.sequence);
    let second = outbox.next_to_send().unwrap();
    assert_eq!(first, second);
    let decoded = ExportRedRequest::decode(second.bytes).unwrap();
    assert_eq!((decoded.agent_id.as_str(), decoded.epoch, decoded.sequence), ("node-1", 77, 1));
    outbox.acknowledged("a", 1);
    assert!(outbox.is_empty());
    assert_eq!(outbox.bytes(), 0);
}

#[test]
fn streams_do_not_wait_for_each_other_and_number_alone() {
    let mut outbox = outbox(1 << 20);
    for _ in 0..2 {
        outbox.push("a", request(&["cart"]));
        outbox.push("b", request(&["shop"]));
    }
    let one = outbox.next_to_send().unwrap();
    let two = outbox.next_to_send().unwrap();
    assert_eq!(one.sequence, 1);
    assert_eq!((one.stream.as_str(), two.stream.as_str(), two.sequence), ("a", "a", 2));
    let rest: Vec<_> =
        std::iter::from_fn(|| outbox.next_to_send()).map(|delta| (delta.stream, delta.sequence)).collect();
    assert_eq!(rest, [("b".to_owned(), 1), ("b".to_owned(), 2)]);
}

#[test]
fn the_oldest_unanswered_delta_bounds_how_far_the_later_ones_go_and_the_last_one_asks_for_an_answer() {
    let mut outbox = outbox(1 << 20);
    for _ in 0..SPAN + 10 {
        outbox.push("a", request(&["cart"]));
    }
    let sent: Vec<_> = std::iter::from_fn(|| outbox.next_to_send()).collect();
    assert_eq!(sent.last().unwrap().sequence, SPAN);
    let closing: Vec<_> = sent
        .iter()
        .filter(|delta| ExportRedRequest::decode(delta.bytes.clone()).unwrap().closing)
        .map(|delta| delta.sequence)
        .collect();
    assert_eq!(closing, [SPAN]);
    // Answers in another order than the deltas went: only the oldest one makes room.
    outbox.acknowledged("a", 2);
    assert!(outbox.next_to_send().is_none());
    outbox.acknowledged("a", 1);
    assert_eq!(outbox.next_to_send().unwrap().sequence, SPAN + 1);
    assert_eq!(outbox.next_to_send().unwrap().sequence, SPAN + 2);
    assert!(outbox.next_to_send().is_none());
}

#[test]
fn what_is_recalled_goes_again_in_order_and_closing_changes_nothing_else() {
    let mut outbox = outbox(1 << 20);
    outbox.push("a", request(&["cart"]));
    outbox.push("a", request(&["shop"]));
    let before: Vec<_> = std::iter::from_fn(|| outbox.next_to_send()).collect();
    outbox.recall();
    let after: Vec<_> = std::iter::from_fn(|| outbox.next_to_send()).collect();
    assert_eq!(before, after);
    let plain = ExportRedRequest::decode(before[0].bytes.clone()).unwrap();
    let closing = ExportRedRequest::decode(before[0].closing().bytes).unwrap();
    assert_eq!(closing, ExportRedRequest { closing: true, ..plain });
}

#[test]
fn the_bound_drops_the_oldest_that_is_not_on_its_way() {
    let size = {
        let mut outbox = outbox(1 << 20);
        outbox.push("a", request(&["cart"]));
        outbox.bytes()
    };
    let mut outbox = outbox(3 * size);
    for _ in 0..3 {
        assert!(outbox.push("a", request(&["cart"])).is_nothing());
    }
    assert_eq!(outbox.next_to_send().unwrap().sequence, 1);
    assert_eq!(outbox.push("a", request(&["cart"])), Lost { deltas: 1, series: 1 });
    outbox.acknowledged("a", 1);
    assert_eq!(outbox.next_to_send().unwrap().sequence, 3, "2 was dropped, 1 was on its way");
}

#[test]
fn what_waits_for_an_owner_that_left_goes_to_the_owners_of_its_series() {
    let mut outbox = outbox(1 << 20);
    outbox.push("gone", request(&["cart", "shop", "cart"]));
    outbox.push("left", request(&["cart"]));
    let owner_of = |service: &str| if service == "cart" { "left".to_owned() } else { "other".to_owned() };
    let (moved, lost) = outbox.move_streams(|name| name != "gone", owner_of);
    assert_eq!((moved, lost), (1, Lost::default()));
    let mut seen = Vec::new();
    while let Some(delta) = outbox.next_to_send() {
        let decoded = ExportRedRequest::decode(delta.bytes.clone()).unwrap();
        assert_eq!(decoded.stream, delta.stream);
        seen.push((delta.stream.clone(), delta.sequence, decoded.series.len()));
        outbox.acknowledged(&delta.stream, delta.sequence);
    }
    assert_eq!(seen, [("left".to_owned(), 1, 1), ("left".to_owned(), 2, 2), ("other".to_owned(), 1, 1)]);
    outbox.push("gone", request(&["cart"]));
    assert_eq!(outbox.next_to_send().unwrap().sequence, 2, "a number is not used twice");
}

#[derive(Debug, Clone)]
enum Op {
    Push(u8, u8),
    Send,
    Ack(u8),
    Fail(u8),
    Leave(u8),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        3 => (0..3_u8, 1..4_u8).prop_map(|(stream, series)| Op::Push(stream, series)),
        4 => Just(Op::Send),
        3 => (0..3_u8).prop_map(Op::Ack),
        2 => (0..3_u8).prop_map(Op::Fail),
        1 => (0..3_u8).prop_map(Op::Leave),
    ];
    prop::collection::vec(op, 1..80)
}

const NAMES: [&str; 3] = ["a", "b", "c"];

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Series pushed = acknowledged + lost + waiting, numbers only ascend, bytes match, bound holds.
    #[test]
    fn no_series_is_lost_uncounted_and_no_number_is_used_twice(ops in ops(), limit in 40..400_usize) {
        let mut outbox = outbox(limit);
        let mut flying: BTreeMap<String, VecDeque<Delta>> = BTreeMap::new();
        let (mut pushed, mut acknowledged, mut lost) = (0, 0, 0);
        for op in ops {
            match op {
                Op::Push(stream, series) => {
                    let services = vec!["cart"; usize::from(series)];
                    pushed += services.len();
                    lost += outbox.push(NAMES[usize::from(stream)], request(&services)).series;
                }
                Op::Send => {
                    if let Some(delta) = outbox.next_to_send() {
                        let others = flying.entry(delta.stream.clone()).or_default();
                        prop_assert!(others.iter().all(|other| other.sequence != delta.sequence));
                        prop_assert!(others.iter().all(|other| other.sequence.abs_diff(delta.sequence) < SPAN));
                        others.push_back(delta);
                    }
                }
                Op::Ack(stream) => if let Some(delta) = flying.get_mut(NAMES[usize::from(stream)]).and_then(VecDeque::pop_back) {
                    acknowledged += delta.series;
                    outbox.acknowledged(&delta.stream, delta.sequence);
                },
                Op::Fail(stream) => if let Some(delta) = flying.get_mut(NAMES[usize::from(stream)]).and_then(VecDeque::pop_front) {
                    outbox.failed(&delta.stream, delta.sequence);
                },
                Op::Leave(stream) => {
                    let gone = NAMES[usize::from(stream)];
                    let stays = NAMES[(usize::from(stream) + 1) % 3];
                    lost += outbox.move_streams(|name| name != gone, |_| stays.to_owned()).1.series;
                }
            }
            let waiting: usize = outbox.streams.values().flat_map(|stream| &stream.waiting).map(|delta| delta.series).sum();
            prop_assert_eq!(pushed, acknowledged + lost + waiting);
            let bytes: usize = outbox.streams.values().flat_map(|stream| &stream.waiting).map(|delta| delta.bytes.len()).sum();
            prop_assert_eq!(bytes, outbox.bytes());
            let on_their_way: usize = flying.values().flatten().map(|delta| delta.bytes.len()).sum();
            prop_assert!(bytes <= limit + on_their_way);
        }
    }
}
