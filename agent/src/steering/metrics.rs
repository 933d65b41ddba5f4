//! What steering says about itself. Counters of the kernel are carried over as they grow, so their sum
//! stays exact: attempts = redirected + passed.

use std::collections::HashMap;

use mirador_ebpf_shared::{Counters, Outcome};
use mirador_service::metrics::{Counter, Family, Gauge, Registry};
use prometheus_client::encoding::EncodeLabelSet;

/// The state and its reason.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct PodLabels {
    pod: String,
    outcome: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CallerLabels {
    caller: &'static str,
}

#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

/// Handles of every metric.
#[derive(Debug, Clone)]
pub(super) struct Meters {
    states: Family<StateLabels, Gauge>,
    attempts: Counter,
    redirected: Counter,
    passed: Family<ReasonLabels, Counter>,
    pods: Family<PodLabels, Counter>,
    callers: Family<CallerLabels, Counter>,
    pub(super) lost_identities: Counter,
    pub(super) lost_pods: Counter,
    pub(super) reattached: Counter,
    pub(super) tls_passed_on: Counter,
    tls_refused: Family<ReasonLabels, Counter>,
    pub(super) events: Counter,
    rules: Family<KindLabels, Gauge>,
}

impl Meters {
    pub(super) fn register(registry: &Registry) -> Self {
        let meters = Self {
            states: registry.gauge_family("mirador_steering_state", "1 for the state of steering that holds."),
            attempts: registry
                .counter("mirador_steering_attempts", "TCP connects of pods to a steered port, as the kernel counts them."),
            redirected: registry.counter("mirador_steering_redirected", "Connects that were sent to this agent."),
            passed: registry
                .counter_family("mirador_steering_passed", "Connects that went to their original destination, by reason."),
            pods: registry.counter_family(
                "mirador_steering_pod_connects",
                "TCP connects to a steered port by pod UID (`unknown` when its cgroup has no name that says it) and outcome.",
            ),
            callers: registry.counter_family(
                "mirador_steering_accepted",
                "Accepted connections by what is known of the caller: `pod`, `unknown` (a cgroup that is no known pod), `none` (no hook has seen it).",
            ),
            lost_identities: registry
                .counter("mirador_steering_lost_identities", "Connections whose identity the kernel had no memory for."),
            lost_pods: registry.counter(
                "mirador_steering_uncounted_pod_connects",
                "Connects of pods that have no counters of their own (`steering.identity.max_pods`).",
            ),
            reattached: registry
                .counter("mirador_steering_reattached", "Times that the programs were attached again to a new cgroup."),
            tls_passed_on: registry.counter(
                "mirador_steering_tls_passed_on",
                "Connections that began with TLS and were passed on to their original destination byte by byte.",
            ),
            tls_refused: registry.counter_family(
                "mirador_steering_tls_refused",
                "Connections that began with TLS and could not be passed on, by reason.",
            ),
            events: registry.counter("mirador_steering_events", "Rare events that the programs have reported."),
            rules: registry.gauge_family(
                "mirador_steering_rules",
                "Rules in force by what they are about, names resolved: `destination`, `pod`.",
            ),
        };
        registry.declare_labels("mirador_steering_rules", &["kind"]);
        registry.declare_labels("mirador_steering_passed", &["reason"]);
        registry.declare_labels("mirador_steering_pod_connects", &["pod", "outcome"]);
        registry.declare_labels("mirador_steering_accepted", &["caller"]);
        registry.declare_labels("mirador_steering_tls_refused", &["reason"]);
        meters
    }

    /// Sets the one state that holds.
    pub(super) fn state(&self, state: &'static str, reason: &'static str) {
        self.states.clear();
        self.states.get_or_create_owned(&StateLabels { state, reason }).set(1);
    }

    /// How many rules are in force.
    pub(super) fn rules(&self, destinations: usize, pods: usize) {
        for (kind, count) in [("destination", destinations), ("pod", pods)] {
            self.rules.get_or_create_owned(&KindLabels { kind }).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    pub(super) fn caller(&self, caller: &'static str) {
        self.callers.get_or_create_owned(&CallerLabels { caller }).inc();
    }

    pub(super) fn tls_refused(&self, reason: &'static str) {
        self.tls_refused.get_or_create_owned(&ReasonLabels { reason }).inc();
    }

    /// Carries over what the kernel has counted since `before`.
    pub(super) fn carry_total(&self, before: &Counters, now: &Counters) {
        let grown = |before: u64, now: u64| now.saturating_sub(before);
        self.attempts.inc_by(grown(before.attempts, now.attempts));
        self.lost_identities.inc_by(grown(before.lost_identities, now.lost_identities));
        self.lost_pods.inc_by(grown(before.lost_pods, now.lost_pods));
        for outcome in Outcome::ALL {
            let by = grown(before.outcomes[outcome as usize], now.outcomes[outcome as usize]);
            match outcome {
                Outcome::Redirected => drop(self.redirected.inc_by(by)),
                passed => {
                    self.passed.get_or_create_owned(&ReasonLabels { reason: passed.as_str() }).inc_by(by);
                }
            }
        }
    }

    fn carry_pod(&self, pod: &str, before: &Counters, now: &Counters) {
        for outcome in Outcome::ALL {
            let by = now.outcomes[outcome as usize].saturating_sub(before.outcomes[outcome as usize]);
            if by > 0 {
                let labels = PodLabels { pod: pod.to_owned(), outcome: outcome.as_str() };
                self.pods.get_or_create_owned(&labels).inc_by(by);
            }
        }
    }

    fn forget_pod(&self, pod: &str) {
        for outcome in Outcome::ALL {
            self.pods.remove(&PodLabels { pod: pod.to_owned(), outcome: outcome.as_str() });
        }
    }
}

/// What has been carried over by pod.
#[derive(Debug, Default)]
pub(super) struct Carried {
    pods: HashMap<u64, (String, Counters)>,
}

impl Carried {
    /// Carries over the counters of the pod whose cgroup is `cgroup`. The first name that is known stays.
    pub(super) fn pod(&mut self, meters: &Meters, cgroup: u64, uid: Option<&str>, now: &Counters) {
        let (name, before) =
            self.pods.entry(cgroup).or_insert_with(|| (uid.unwrap_or("unknown").to_owned(), Counters::default()));
        meters.carry_pod(name, before, now);
        *before = *now;
    }

    /// Ends the series of a pod that is gone.
    pub(super) fn forget(&mut self, meters: &Meters, cgroup: u64) {
        if let Some((name, _)) = self.pods.remove(&cgroup)
            && name != "unknown"
        {
            meters.forget_pod(&name);
        }
    }

    /// Cgroups of the pods that have series.
    pub(super) fn cgroups(&self) -> impl Iterator<Item = u64> {
        self.pods.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(redirected: u64, no_listener: u64) -> Counters {
        let mut counters = Counters { attempts: redirected + no_listener, ..Counters::default() };
        counters.outcomes[Outcome::Redirected as usize] = redirected;
        counters.outcomes[Outcome::NoListener as usize] = no_listener;
        counters
    }

    #[test]
    fn counters_of_the_kernel_are_carried_over_by_what_they_have_grown() {
        let registry = Registry::new();
        let meters = Meters::register(&registry);
        meters.carry_total(&Counters::default(), &counters(3, 1));
        meters.carry_total(&counters(3, 1), &counters(5, 1));
        let text = registry.encode();
        assert!(text.contains("mirador_steering_attempts_total 6\n"), "{text}");
        assert!(text.contains("mirador_steering_redirected_total 5\n"), "{text}");
        assert!(text.contains("mirador_steering_passed_total{reason=\"no_listener\"} 1\n"), "{text}");
    }

    #[test]
    fn a_pods_series_end_with_it() {
        let registry = Registry::new();
        let meters = Meters::register(&registry);
        let mut carried = Carried::default();
        carried.pod(&meters, 7, Some("u-1"), &counters(2, 0));
        carried.pod(&meters, 7, Some("u-1"), &counters(3, 0));
        let series = "mirador_steering_pod_connects_total{pod=\"u-1\",outcome=\"redirected\"} 3\n";
        assert!(registry.encode().contains(series), "{}", registry.encode());
        assert_eq!(carried.cgroups().collect::<Vec<_>>(), [7]);
        carried.forget(&meters, 7);
        assert!(!registry.encode().contains("u-1"), "{}", registry.encode());
    }
}
