//! Waits of a retry.

use proptest::prelude::*;

use super::*;

fn config() -> RetryConfig {
    RetryConfig { max_elapsed_time: Duration::ZERO, ..RetryConfig::default() }
}

#[test]
fn waits_grow_by_the_multiplier_up_to_the_largest_without_jitter() {
    let config = RetryConfig { randomization_factor: 0.0, multiplier: 2.0, ..config() };
    let mut backoff = Backoff::new(&config, 1);
    let waits: Vec<_> = (0..5).map(|_| backoff.next_delay().unwrap().as_secs()).collect();
    assert_eq!(waits, [5, 10, 20, 30, 30]);
    backoff.reset();
    assert_eq!(backoff.next_delay(), Some(Duration::from_secs(5)));
}

#[test]
fn the_same_seed_gives_the_same_waits_and_another_seed_others() {
    let waits = |seed| {
        let mut backoff = Backoff::new(&config(), seed);
        (0..20).map(|_| backoff.next_wait()).collect::<Vec<_>>()
    };
    assert_eq!(waits(7), waits(7));
    assert_ne!(waits(7), waits(8));
}

#[test]
fn it_gives_up_when_the_waits_exceed_the_limit_and_stays_so() {
    let config = RetryConfig {
        randomization_factor: 0.0,
        multiplier: 1.0,
        max_elapsed_time: Duration::from_secs(12),
        ..RetryConfig::default()
    };
    let mut backoff = Backoff::new(&config, 1);
    assert!(backoff.next_delay().is_some());
    assert!(backoff.next_delay().is_some());
    assert_eq!(backoff.next_delay(), None);
    assert_eq!(backoff.next_delay(), None);
    backoff.reset();
    assert!(backoff.next_delay().is_some());
}

#[test]
fn a_wait_that_the_other_side_asks_for_is_kept_and_counts() {
    let config = RetryConfig { max_elapsed_time: Duration::from_mins(1), ..RetryConfig::default() };
    let mut backoff = Backoff::new(&config, 1);
    assert_eq!(backoff.next_delay_after(Some(Duration::from_secs(50))), Some(Duration::from_secs(50)));
    assert_eq!(backoff.next_delay_after(Some(Duration::from_secs(50))), None);
}

#[test]
fn nothing_is_retried_when_retries_are_off() {
    let config = RetryConfig { enabled: false, ..RetryConfig::default() };
    assert_eq!(Backoff::new(&config, 1).next_delay(), None);
}

#[test]
fn values_out_of_range_are_named() {
    let wrong = RetryConfig { randomization_factor: 1.5, ..RetryConfig::default() };
    assert_eq!(wrong.validate(), Err("randomization_factor: 1.5: expected 0 to 1".to_owned()));
    let wrong = RetryConfig { multiplier: 0.5, ..RetryConfig::default() };
    assert_eq!(wrong.validate(), Err("multiplier: 0.5: expected 1 or more".to_owned()));
    let wrong = RetryConfig { initial_interval: Duration::ZERO, ..RetryConfig::default() };
    assert!(wrong.validate().is_err());
    assert_eq!(RetryConfig::default().validate(), Ok(()));
}

proptest! {
    #[test]
    fn every_wait_lies_within_the_jitter_of_its_interval(
        seed: u64,
        factor in 0.0_f64..=1.0,
        multiplier in 1.0_f64..10.0,
        initial in 1_u64..60_000,
        max in 1_u64..600_000,
    ) {
        let config = RetryConfig {
            randomization_factor: factor,
            multiplier,
            initial_interval: Duration::from_millis(initial),
            max_interval: Duration::from_millis(max),
            ..config()
        };
        let mut backoff = Backoff::new(&config, seed);
        let mut interval = config.initial_interval.min(config.max_interval).as_secs_f64();
        for _ in 0..30 {
            let wait = backoff.next_wait().as_secs_f64();
            let slack = 1e-6;
            prop_assert!(wait >= interval * (1.0 - factor) - slack && wait <= interval * (1.0 + factor) + slack);
            interval = (interval * multiplier).min(config.max_interval.as_secs_f64());
        }
    }

    #[test]
    fn no_configuration_makes_it_panic(seed: u64, factor: f64, multiplier: f64, initial: u64, max: u64) {
        let config = RetryConfig {
            randomization_factor: if factor.is_nan() { 0.0 } else { factor },
            multiplier,
            initial_interval: Duration::from_nanos(initial),
            max_interval: Duration::from_nanos(max),
            ..config()
        };
        let mut backoff = Backoff::new(&config, seed);
        for _ in 0..50 {
            backoff.next_wait();
        }
    }
}
