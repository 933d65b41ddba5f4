//! What is remembered, for how long, and how much of it.

use super::*;

#[test]
fn a_fingerprint_is_known_the_second_time() {
    let mut seen = Seen::new(10);
    assert!(!seen.check(7, 0));
    assert!(seen.check(7, 1));
    assert!(!seen.check(8, 1));
}

#[test]
fn a_fingerprint_is_remembered_for_one_to_two_generations() {
    let mut seen = Seen::new(10);
    assert!(!seen.check(1, 0));
    assert!(!seen.check(2, GENERATION_NANOS - 1));
    assert!(seen.check(1, GENERATION_NANOS + 5));
    assert!(seen.check(2, 2 * GENERATION_NANOS));
    assert!(!seen.check(1, 2 * GENERATION_NANOS + 5));
}

#[test]
fn after_a_long_silence_nothing_is_remembered() {
    let mut seen = Seen::new(10);
    assert!(!seen.check(1, 0));
    assert!(!seen.check(1, 2 * GENERATION_NANOS));
    assert!(seen.check(1, 2 * GENERATION_NANOS + 1));
}

#[test]
fn a_clock_that_steps_back_forgets_nothing() {
    let mut seen = Seen::new(10);
    assert!(!seen.check(1, 10 * GENERATION_NANOS));
    assert!(seen.check(1, 0));
}

#[test]
fn a_full_generation_makes_room_by_forgetting_the_older_one() {
    let mut seen = Seen::new(4);
    for fingerprint in 0..9 {
        assert!(!seen.check(fingerprint, 0));
    }
    assert!(seen.young.len() + seen.old.len() <= 8);
    assert!(seen.check(8, 0) && seen.check(5, 0));
    assert!(!seen.check(0, 0));
}

#[test]
fn a_full_table_does_not_grow_past_its_entries() {
    let table: HashTable<u128> = HashTable::with_capacity(GENERATION_ENTRIES);
    assert_eq!(table.capacity(), GENERATION_ENTRIES);
}
