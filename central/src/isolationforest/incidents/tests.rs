//! Which events become one incident, and who leads it.

use proptest::prelude::*;

use super::super::detector::{EpisodeChange, EpisodeKind};
use super::super::watch::{Change, Virtual};
use super::*;
use crate::series::{LabelSet, Labels};

const SECOND: u64 = 1_000_000_000;
const NOW: u64 = 1_700_000_000 * SECOND;

fn event(pairs: &[(&str, &str)], kind: EpisodeKind, at: u64, peak: f64) -> Event {
    let own = pairs.iter().copied().chain([("__name__", "anomaly_score")]);
    let labels = Labels::new(own.map(|(name, value)| (Box::from(name), Box::from(value))).collect::<LabelSet>());
    let episode = EpisodeChange { kind, opened_at: at, at, peak, peak_at: at, points: 1 };
    Event::of(&labels, &Change { which: Virtual::Rate, episode, reason: None })
}

fn opened(metric: &str, service: &str, at: u64, peak: f64) -> Event {
    event(&[("metric", metric), ("service_name", service)], EpisodeKind::Opened, at, peak)
}

/// Incident of each event, marked in one go.
fn marks(incidents: &mut Incidents, mut events: Vec<Event>) -> Vec<Mark> {
    incidents.mark(&mut events);
    events.into_iter().map(|event| event.incident.expect("there is room")).collect()
}

#[test]
fn episodes_of_a_service_that_overlap_are_one_incident_and_the_first_and_worst_leads() {
    let mut incidents = Incidents::default();
    let first = marks(&mut incidents, vec![opened("calls", "cart", NOW, 0.8), opened("duration", "cart", NOW, 0.9)]);
    assert_eq!(first[0].id, first[1].id);
    assert!(first.iter().all(|mark| &*mark.lead == r#"duration{service_name="cart"} rate"#), "{first:?}");
    let later = marks(
        &mut incidents,
        vec![
            opened("errors", "cart", NOW + 30 * SECOND, 0.95),
            opened("calls", "mail", NOW + 30 * SECOND, 0.95),
            event(
                &[("metric", "load"), ("job", "shop/cart"), ("instance", "1")],
                EpisodeKind::Opened,
                NOW + 30 * SECOND,
                0.9,
            ),
        ],
    );
    assert_eq!(
        (later[0].id, later[0].series, later[0].opened_at),
        (first[0].id, 4, NOW),
        "its own metrics belong to it"
    );
    assert_eq!(later[0].lead, first[0].lead, "who came later does not lead, however anomalous");
    assert_ne!(later[1].id, first[0].id, "another service");
    assert_eq!(later[2].id, first[0].id);
    assert_eq!(incidents.open(), 2);
}

#[test]
fn an_incident_is_over_some_time_after_its_episodes_have_closed() {
    let mut incidents = Incidents::default();
    let first = marks(&mut incidents, vec![opened("calls", "cart", NOW, 0.8)]);
    let ended = NOW + 600 * SECOND;
    let closed = event(&[("metric", "calls"), ("service_name", "cart")], EpisodeKind::Closed, ended, 0.8);
    assert_eq!(marks(&mut incidents, vec![closed])[0].id, first[0].id);
    assert_eq!(incidents.open(), 0);
    let soon = marks(&mut incidents, vec![opened("calls", "cart", ended + GAP_NANOS, 0.8)]);
    assert_eq!(soon[0].id, first[0].id);
    let mut again = vec![opened("calls", "cart", ended + GAP_NANOS + FORGET_NANOS + SECOND, 0.8)];
    let marked = incidents.mark(&mut again);
    assert_eq!(marked.opened, 1);
    assert_ne!(again[0].incident.as_ref().unwrap().id, first[0].id, "long after a word that never came");
    incidents.expire(u64::MAX);
    assert_eq!(incidents, Incidents::default());
}

#[test]
fn hosts_of_one_job_have_incidents_of_their_own_and_instances_of_a_service_share_one() {
    let mut incidents = Incidents::default();
    let of = |metric, instance| {
        event(&[("metric", metric), ("job", "nodes"), ("instance", instance)], EpisodeKind::Opened, NOW, 0.8)
    };
    let marks = marks(
        &mut incidents,
        vec![of("node_load1", "a"), of("node_load1", "b"), of("jvm_memory_used", "a"), of("jvm_memory_used", "b")],
    );
    assert_ne!(marks[0].id, marks[1].id);
    assert_eq!(marks[2].id, marks[3].id);
}

#[test]
fn what_ends_without_a_beginning_belongs_to_nothing() {
    let mut events = [event(&[("metric", "calls"), ("service_name", "cart")], EpisodeKind::Closed, NOW, 0.8)];
    assert_eq!(Incidents::default().mark(&mut events), Marked::default());
    assert_eq!(events[0].incident, None);
}

#[test]
fn without_room_events_are_told_without_an_incident_and_counted() {
    let mut incidents = Incidents::default();
    let mut events: Vec<Event> = (0..=MOST).map(|index| opened("calls", &format!("s{index}"), NOW, 0.8)).collect();
    let marked = incidents.mark(&mut events);
    assert_eq!(marked, Marked { opened: MOST as u64, left_out: 1 });
    assert_eq!(events.iter().filter(|event| event.incident.is_none()).count(), 1);
    let mut series: Vec<Event> = (0..=SERIES).map(|index| opened(&format!("m{index}"), "s0", NOW, 0.7)).collect();
    assert_eq!(incidents.mark(&mut series).left_out, 2, "the incident knows one series of before");
}

#[test]
fn a_long_name_is_cut_at_a_letter() {
    let mark = marks(&mut Incidents::default(), vec![opened(&"ü".repeat(600), "cart", NOW, 0.8)]).remove(0);
    assert!(mark.lead.len() <= MOST_NAME && mark.lead.ends_with('…'), "{}", mark.lead);
}

proptest! {
    #[test]
    fn incidents_go_on_from_their_snapshot(
        told in prop::collection::vec((0_u64..4, 0_u64..5, 0_u64..900, 0.7..0.95, any::<bool>()), 1..60), stop in 0_usize..60,
    ) {
        let mut whole = Incidents::default();
        let mut stopped = Incidents::default();
        let mut now = NOW;
        for (index, (service, metric, wait, peak, ends)) in told.into_iter().enumerate() {
            now += wait * SECOND;
            if index == stop {
                let mut bytes = Encoder::default();
                stopped.encode(&mut bytes);
                let mut from = Decoder(&bytes.0);
                stopped = Incidents::decode(&mut from).expect("what was written can be read");
                prop_assert!(from.0.is_empty());
                for cut in 0..bytes.0.len() {
                    prop_assert!(Incidents::decode(&mut Decoder(&bytes.0[..cut])).is_none());
                }
            }
            let kind = if ends { EpisodeKind::Closed } else { EpisodeKind::Opened };
            let (metric, service) = (format!("m{metric}"), format!("s{service}"));
            let one = || vec![event(&[("metric", &metric), ("service_name", &service)], kind, now, peak)];
            let (mut left, mut right) = (one(), one());
            prop_assert_eq!(whole.mark(&mut left), stopped.mark(&mut right));
            prop_assert_eq!(&left[0].incident, &right[0].incident);
        }
        prop_assert_eq!(whole, stopped);
    }
}
