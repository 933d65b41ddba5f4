//! The table against the set of living pods.

use proptest::prelude::*;
use std::collections::BTreeMap;

use super::*;

const GRACE: Duration = Duration::from_secs(120);

fn pod(uid: &str, ip: Option<u8>, started: &str) -> Pod {
    Pod {
        uid: uid.into(),
        static_uid: None,
        name: uid.into(),
        namespace: "shop".into(),
        node: "node-1".into(),
        ips: ip.map(|last| IpAddr::from([10, 0, 0, last])).into_iter().collect(),
        started: started.into(),
        ignored: false,
        attributes: Box::default(),
        containers: Box::default(),
        only_one: false,
    }
}

fn holder(table: &Table, ip: u8) -> Option<&str> {
    table.by_ip.get(&IpAddr::from([10, 0, 0, ip])).map(|pod| &*pod.uid)
}

#[test]
fn a_reused_address_belongs_to_the_youngest_pod_that_lives() {
    let start = Instant::now();
    let mut pods = Pods::new(10, usize::MAX, GRACE);
    pods.applied(pod("old", Some(1), "2026-01-01T00:00:00Z"), start);
    pods.applied(pod("new", Some(1), "2026-01-02T00:00:00Z"), start);
    assert_eq!(holder(&pods.table(), 1), Some("new"));
    // Whatever order they come in.
    pods.applied(pod("old", Some(1), "2026-01-01T00:00:01Z"), start);
    assert_eq!(holder(&pods.table(), 1), Some("new"));
    pods.deleted("new", start);
    assert_eq!(holder(&pods.table(), 1), Some("old"), "a living pod before a deleted one");
    pods.deleted("old", start + GRACE / 2);
    assert_eq!(holder(&pods.table(), 1), Some("old"), "the last one that had it");
}

#[test]
fn a_deleted_pod_is_remembered_for_the_grace_and_no_longer() {
    let start = Instant::now();
    let mut pods = Pods::new(10, usize::MAX, GRACE);
    pods.applied(pod("a", Some(1), ""), start);
    assert_eq!(pods.wake_at(), None);
    pods.deleted("a", start);
    assert_eq!(pods.wake_at(), Some(start + ADDRESS_GRACE));
    assert_eq!(holder(&pods.table(), 1), Some("a"), "its last words are on their way");
    pods.deleted("a", start + GRACE / 2);
    assert_eq!(holder(&pods.table(), 1), None, "its address may be another's by now");
    assert_eq!(pods.wake_at(), Some(start + GRACE), "the first word counts");
    pods.expire(start + GRACE.saturating_sub(Duration::from_millis(1)));
    assert_eq!(pods.table().pods, 1);
    pods.expire(start + GRACE);
    let table = pods.table();
    assert_eq!((table.pods, table.by_uid.len(), table.by_ip.len()), (0, 0, 0));
}

#[test]
fn the_bound_holds_and_deleted_pods_make_room_first() {
    let start = Instant::now();
    let mut pods = Pods::new(2, usize::MAX, GRACE);
    pods.applied(pod("a", Some(1), ""), start);
    pods.applied(pod("b", Some(2), ""), start);
    pods.applied(pod("c", Some(3), ""), start);
    assert_eq!(pods.take_changes(), Changes { added: 2, over_limit: 1, ..Changes::default() });
    pods.deleted("a", start);
    pods.applied(pod("c", Some(3), ""), start);
    let table = pods.table();
    assert_eq!((table.pods, holder(&table, 1), holder(&table, 3)), (2, None, Some("c")));
}

#[test]
fn pods_take_no_more_bytes_than_they_may_and_one_that_does_not_fit_is_not_known() {
    let start = Instant::now();
    let large = |uid: &str, ip| Pod { started: "x".repeat(1000).into(), ..pod(uid, Some(ip), "") };
    let mut pods = Pods::new(10, 2 * large("a", 1).bytes(), GRACE);
    for (uid, ip) in [("a", 1), ("b", 2), ("c", 3)] {
        pods.applied(large(uid, ip), start);
    }
    assert_eq!(pods.take_changes(), Changes { added: 2, over_limit: 1, ..Changes::default() });
    pods.deleted("a", start);
    pods.applied(large("c", 3), start);
    let table = pods.table();
    assert_eq!((table.pods, holder(&table, 1), holder(&table, 3)), (2, None, Some("c")));
    // One that grows too much is not left as it was.
    let mut grown = large("c", 3);
    grown.name = "y".repeat(9000).into();
    pods.take_changes();
    pods.applied(grown, start);
    assert_eq!(pods.take_changes(), Changes { over_limit: 1, ..Changes::default() });
    assert_eq!((pods.table().pods, pods.bytes), (1, large("b", 2).bytes()));
}

#[test]
fn a_list_that_breaks_off_deletes_nothing_and_a_complete_one_what_it_lacks() {
    let start = Instant::now();
    let mut pods = Pods::new(10, usize::MAX, GRACE);
    pods.begin();
    pods.listed(pod("a", Some(1), ""), start);
    pods.listed(pod("b", Some(2), ""), start);
    pods.complete(start);
    pods.take_changes();
    pods.begin();
    pods.listed(pod("b", Some(2), ""), start);
    assert_eq!(pods.wake_at(), None);
    pods.begin();
    pods.listed(pod("b", Some(2), ""), start);
    pods.complete(start);
    assert_eq!(pods.take_changes(), Changes { deleted: 1, ..Changes::default() });
    assert_eq!(pods.table().pods, 2, "for the grace");
    pods.expire(start + GRACE);
    assert_eq!(holder(&pods.table(), 1), None);
    assert_eq!(holder(&pods.table(), 2), Some("b"));
}

#[derive(Debug, Clone)]
enum Step {
    Apply(u8, u8),
    Delete(u8),
    Relist(Vec<(u8, u8)>),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..12, 0u8..6).prop_map(|(uid, ip)| Step::Apply(uid, ip)),
        3 => (0u8..12).prop_map(Step::Delete),
        1 => proptest::collection::btree_map(0u8..12, 0u8..6, 0..8).prop_map(|pods| Step::Relist(pods.into_iter().collect())),
        1 => (0u64..200).prop_map(Step::Wait),
    ]
}

proptest! {
    /// Against the set of living pods: each is there, holds its address unless a younger one does, and
    /// nothing outlives its grace.
    #[test]
    fn living_pods_are_always_found(steps in proptest::collection::vec(step(), 0..60)) {
        let mut now = Instant::now();
        let mut pods = Pods::new(100, usize::MAX, GRACE);
        let mut living: BTreeMap<u8, u8> = BTreeMap::new();
        let make = |uid: u8, ip: u8| pod(&format!("p{uid:02}"), Some(ip), &format!("{uid:02}"));
        for step in steps {
            match step {
                Step::Apply(uid, ip) => {
                    living.insert(uid, ip);
                    pods.applied(make(uid, ip), now);
                }
                Step::Delete(uid) => {
                    living.remove(&uid);
                    pods.deleted(&format!("p{uid:02}"), now);
                }
                Step::Relist(all) => {
                    living = all.iter().copied().collect();
                    pods.begin();
                    for (uid, ip) in all {
                        pods.listed(make(uid, ip), now);
                    }
                    pods.complete(now);
                }
                Step::Wait(seconds) => {
                    now += Duration::from_secs(seconds);
                    pods.expire(now);
                }
            }
            let table = pods.table();
            for (uid, ip) in &living {
                let name = format!("p{uid:02}");
                prop_assert!(table.by_uid.contains_key(name.as_str()));
                let youngest = living.iter().filter(|(_, at)| *at == ip).map(|(uid, _)| uid).max();
                let expected = youngest.map(|uid| format!("p{uid:02}"));
                prop_assert_eq!(holder(&table, *ip), expected.as_deref());
            }
            prop_assert!(table.pods >= living.len());
            prop_assert!(pods.wake_at().is_none_or(|at| at > now && at <= now + GRACE));
        }
        pods.expire(now + GRACE);
        prop_assert_eq!(pods.table().pods, living.len());
        prop_assert_eq!(pods.bytes, pods.known.values().map(|known| known.pod.bytes()).sum::<usize>());
    }
}
