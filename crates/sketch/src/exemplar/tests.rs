//! The laws of exemplar selection.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn exemplar(id: u64, value_nanos: u64) -> Exemplar {
    Exemplar {
        trace_id: u128::from(id / 3 + 1).to_be_bytes(),
        span_id: (id + 1).to_be_bytes(),
        value_nanos,
        time_unix_nano: 1_000 + value_nanos,
    }
}

fn any_exemplars() -> impl Strategy<Value = Vec<Exemplar>> {
    // Few ids and values, so that ties and repeats happen.
    vec((0..40_u64, 0..6_u64).prop_map(|(id, value)| exemplar(id, value)), 0..25)
}

fn merged(one: &Exemplars, other: &Exemplars) -> Exemplars {
    let mut sum = one.clone();
    sum.merge(other);
    sum
}

fn offered(candidates: &[Exemplar], places: usize) -> Reservoir {
    let mut reservoir = Reservoir::new(places);
    for one in candidates {
        reservoir.offer(one, one.priority(), places);
    }
    reservoir
}

#[test]
fn the_two_slowest_spans_are_always_kept() {
    let mut all: Vec<_> = (0..500).map(|id| exemplar(id, 10)).collect();
    all[17].value_nanos = 900;
    all[333].value_nanos = 800;
    let chosen = offered(&all, MAX_EXEMPLARS);
    assert_eq!(chosen.chosen().as_slice()[..2], [all[17], all[333]]);
    assert_eq!(chosen.chosen().as_slice().len(), MAX_EXEMPLARS);
}

#[test]
fn the_uniform_places_favour_no_position_in_the_stream() {
    let (spans, rounds) = (100, 2_000);
    let mut early = 0;
    for round in 0..rounds {
        let all: Vec<_> = (0..spans).map(|at| exemplar(round * 1_000 + at, 5)).collect();
        let reservoir = offered(&all, MAX_EXEMPLARS);
        let chosen = reservoir.chosen().as_slice();
        early += chosen.iter().filter(|one| all[..50].contains(one)).count();
    }
    let share = early as f64 / (rounds as usize * MAX_EXEMPLARS) as f64;
    assert!((0.48..0.52).contains(&share), "share of the first half is {share}");
}

#[test]
fn without_places_nothing_is_kept() {
    assert!(offered(&[exemplar(1, 1 << 60), exemplar(2, 0)], 0).chosen().is_empty());
}

proptest! {
    #[test]
    fn property_offering_one_by_one_selects_what_selecting_at_once_does(all in any_exemplars()) {
        let reservoir = offered(&all, MAX_EXEMPLARS);
        prop_assert_eq!(reservoir.chosen(), &Exemplars::select(all));
    }

    #[test]
    fn property_merge_is_associative_commutative_and_idempotent(
        a in any_exemplars(), b in any_exemplars(), c in any_exemplars(),
    ) {
        let [x, y, z] = [&a, &b, &c].map(|all| Exemplars::select(all.iter().copied()));
        prop_assert_eq!(merged(&merged(&x, &y), &z), merged(&x, &merged(&y, &z)));
        prop_assert_eq!(merged(&x, &y), merged(&y, &x));
        prop_assert_eq!(merged(&x, &x), x.clone());
        prop_assert_eq!(merged(&x, &Exemplars::default()), x.clone());
        prop_assert_eq!(merged(&x, &y), Exemplars::select([a, b].concat()));
    }

    #[test]
    fn property_limiting_a_selection_selects_what_so_many_places_would_have(
        all in any_exemplars(), places in 0..=MAX_EXEMPLARS,
    ) {
        let mut limited = Exemplars::select(all.iter().copied());
        limited.limit(places);
        let sorted = |chosen: &Exemplars| {
            let mut chosen = chosen.as_slice().to_vec();
            chosen.sort_unstable_by_key(Exemplar::ids);
            chosen
        };
        prop_assert_eq!(sorted(&limited), sorted(offered(&all, places).chosen()));
    }

    #[test]
    fn property_fewer_places_are_respected(all in any_exemplars(), places in 1..MAX_EXEMPLARS) {
        let reservoir = offered(&all, places);
        prop_assert!(reservoir.chosen().as_slice().len() <= places);
        prop_assert_eq!(reservoir.chosen().is_empty(), all.is_empty());
    }
}
