//! The rules that hold now: what the configuration writes out, and what its names stand for.
//!
//! Names are filled in by `super::names` as the API server tells them. A name that stands for nothing yet
//! has no effect: with a list of destinations or pods to be steered that means that they are left alone.
//!
//! Never: does IO.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use kube::core::ObjectMeta;
use mirador_ebpf_shared::Rule;

use super::config::{Listed, PodsMode, SteeringConfig};
use super::rules::{Cidr, Match, ServiceName};

/// Pods that names may stand for at most: as many as the programs' table has places.
const MAX_PODS: usize = 1024;
/// The UID under which the kubelet runs a static pod; its object has another.
const STATIC_UID: &str = "kubernetes.io/config.hash";

/// The rules of one agent.
#[derive(Debug)]
pub(super) struct Scope {
    pub(super) config: SteeringConfig,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    services: BTreeMap<ServiceName, Vec<IpAddr>>,
    /// By UID; pods that no name is about are not here.
    pods: HashMap<Arc<str>, Rule>,
    /// Pods that found no place.
    refused: bool,
}

impl Scope {
    /// The rules as written.
    pub(super) fn new(config: &SteeringConfig) -> Arc<Self> {
        Arc::new(Self { config: config.clone(), known: Mutex::default() })
    }

    fn with<T>(&self, work: impl FnOnce(&mut Known) -> T) -> T {
        // Entries are replaced one by one, so a poisoned lock still holds true ones.
        work(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The addresses of a Service; none when it is gone. Says whether they are news.
    pub(super) fn set_service(&self, name: &ServiceName, addresses: Vec<IpAddr>) -> bool {
        self.with(|known| {
            let before = known.services.get(name);
            let is_news = before.map_or(!addresses.is_empty(), |before| *before != addresses);
            known.services.insert(name.clone(), addresses);
            is_news
        })
    }

    /// What names say about a pod.
    pub(super) fn set_pod(&self, pod: &ObjectMeta) {
        let rule = self.judge(pod);
        self.with(|known| {
            for uid in uids(pod) {
                match rule {
                    Some(rule) if known.pods.len() < MAX_PODS || known.pods.contains_key(uid) => {
                        known.pods.insert(uid.into(), rule);
                    }
                    Some(_) => {
                        if !std::mem::replace(&mut known.refused, true) {
                            tracing::warn!(MAX_PODS, "more pods have rules than the programs have room for");
                        }
                    }
                    None => {
                        known.pods.remove(uid);
                    }
                }
            }
        });
    }

    /// A pod is gone.
    pub(super) fn remove_pod(&self, pod: &ObjectMeta) {
        self.with(|known| {
            for uid in uids(pod) {
                known.pods.remove(uid);
            }
        });
    }

    /// Only these pods are left after a list.
    pub(super) fn retain_pods(&self, listed: &[ObjectMeta]) {
        let left: std::collections::HashSet<&str> = listed.iter().flat_map(uids).collect();
        self.with(|known| known.pods.retain(|uid, _| left.contains(&**uid)));
    }

    /// The closest that names a pod decides: labels and annotations before its namespace; leaving alone
    /// before steering.
    fn judge(&self, pod: &ObjectMeta) -> Option<Rule> {
        let rules = &self.config.pods;
        let has =
            |matches: &[Match], pairs: Option<&BTreeMap<String, String>>| matches.iter().any(|one| one.is_in(pairs));
        let (labels, annotations) = (pod.labels.as_ref(), pod.annotations.as_ref());
        let own = |pick: fn(&Listed<Match>) -> &Vec<Match>| {
            has(pick(&rules.labels), labels) || has(pick(&rules.annotations), annotations)
        };
        let namespace = pod.namespace.as_deref().unwrap_or_default();
        let around = |names: &[super::rules::Namespace]| names.iter().any(|name| name.0 == namespace);
        if own(|listed| &listed.leave) {
            Some(Rule::Leave)
        } else if own(|listed| &listed.steer) {
            Some(Rule::Steer)
        } else if around(&rules.namespaces.leave) {
            Some(Rule::Leave)
        } else {
            around(&rules.namespaces.steer).then_some(Rule::Steer)
        }
    }

    /// Every rule on destinations. What is written out as a network decides over a Service.
    pub(super) fn destinations(&self) -> Vec<(Cidr, Rule)> {
        let rules = &self.config.destinations;
        let mut found: Vec<(Cidr, Rule)> = Vec::new();
        let mut add = |cidr: Cidr, rule: Rule| {
            if !found.iter().any(|(known, _)| *known == cidr) {
                found.push((cidr, rule));
            }
        };
        rules.leave.iter().for_each(|cidr| add(*cidr, Rule::Leave));
        rules.steer.iter().for_each(|cidr| add(*cidr, Rule::Steer));
        self.with(|known| {
            for (services, rule) in [(&rules.services.leave, Rule::Leave), (&rules.services.steer, Rule::Steer)] {
                let addresses = services.iter().filter_map(|service| known.services.get(service)).flatten();
                addresses.for_each(|address| add(Cidr::of(*address), rule));
            }
        });
        found
    }

    /// Every rule on pods by UID.
    pub(super) fn pods(&self) -> HashMap<Arc<str>, Rule> {
        let mut found = self.with(|known| known.pods.clone());
        let rules = &self.config.pods;
        for (uids, rule) in [(&rules.steer, Rule::Steer), (&rules.leave, Rule::Leave)] {
            found.extend(uids.iter().map(|uid| (uid.as_str().into(), rule)));
        }
        found
    }

    /// The rules for people, one a line.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        let word = |rule: Rule| if rule == Rule::Steer { "steer" } else { "leave" };
        let mut line = |rule: &str, what: &str| {
            // A string takes everything.
            writeln!(text, "rule  {rule:<6} {what}").ok();
        };
        let ports = &self.config.ports;
        line("steer", &format!("ports {:?} as gRPC, {:?} as HTTP", ports.grpc, ports.http));
        for (cidr, rule) in self.destinations() {
            line(word(rule), &format!("destination {cidr}"));
        }
        let services = &self.config.destinations.services;
        self.with(|known| {
            for (names, rule) in [(&services.steer, Rule::Steer), (&services.leave, Rule::Leave)] {
                for name in names {
                    let addresses = known.services.get(name).filter(|found| !found.is_empty());
                    let found =
                        addresses.map_or_else(|| "it has no address now".to_owned(), |found| format!("{found:?}"));
                    line(word(rule), &format!("Service {name}: {found}"));
                }
            }
        });
        let others = if self.config.destinations.is_listed() { "leave" } else { "steer" };
        line(others, "every other destination");
        let mut pods: Vec<_> = self.pods().into_iter().collect();
        pods.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        for (uid, rule) in pods {
            line(word(rule), &format!("pod {uid}"));
        }
        line(if self.config.pods.mode == PodsMode::All { "steer" } else { "leave" }, "every other pod");
        text
    }
}

fn uids(pod: &ObjectMeta) -> impl Iterator<Item = &str> {
    let fixed = pod.annotations.as_ref().and_then(|annotations| annotations.get(STATIC_UID));
    pod.uid.as_deref().into_iter().chain(fixed.map(String::as_str)).filter(|uid| !uid.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn scope(over: Value) -> Arc<Scope> {
        Scope::new(&serde_json::from_value(over).expect("the keys are known"))
    }

    fn pod(uid: &str, namespace: &str, labels: &[(&str, &str)]) -> ObjectMeta {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        ObjectMeta {
            uid: Some(uid.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some(labels),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn a_services_addresses_are_rules_while_it_has_them_and_networks_decide_over_them() {
        let scope = scope(json!({"destinations": {"leave": ["10.0.0.9"],
            "services": {"steer": ["m/collector"], "leave": ["m/other"]}}}));
        let (collector, other): (ServiceName, ServiceName) =
            ("m/collector".to_owned().try_into().unwrap(), "m/other".to_owned().try_into().unwrap());
        assert_eq!(scope.destinations(), [("10.0.0.9".parse().unwrap(), Rule::Leave)]);
        let addresses: Vec<IpAddr> =
            vec!["10.0.0.7".parse().unwrap(), "10.0.0.9".parse().unwrap(), "fd00::7".parse().unwrap()];
        assert!(scope.set_service(&collector, addresses.clone()));
        assert!(!scope.set_service(&collector, addresses), "nothing new");
        assert!(scope.set_service(&other, vec!["10.0.0.8".parse().unwrap()]));
        let expected = [
            ("10.0.0.9".parse().unwrap(), Rule::Leave),
            ("10.0.0.8".parse().unwrap(), Rule::Leave),
            ("10.0.0.7".parse().unwrap(), Rule::Steer),
            ("fd00::7".parse().unwrap(), Rule::Steer),
        ];
        assert_eq!(scope.destinations(), expected);
        assert!(scope.set_service(&collector, Vec::new()));
        assert_eq!(scope.destinations(), expected[..2]);
        assert!(scope.text().contains("Service m/collector: it has no address now"), "{}", scope.text());
        assert!(scope.text().contains("rule  leave  every other destination"), "{}", scope.text());
    }

    #[test]
    fn the_closest_rule_decides_about_a_pod_and_leaving_alone_comes_first() {
        let scope = scope(json!({"pods": {
            "steer": ["by-uid"],
            "labels": {"leave": ["steer=no"], "steer": ["steer"]},
            "annotations": {"leave": ["quiet"]},
            "namespaces": {"leave": ["dark"], "steer": ["dark", "bright"]}}}));
        scope.set_pod(&pod("plain", "elsewhere", &[]));
        scope.set_pod(&pod("dark", "dark", &[]));
        scope.set_pod(&pod("bright", "bright", &[]));
        scope.set_pod(&pod("asks", "dark", &[("steer", "yes")]));
        scope.set_pod(&pod("refuses", "bright", &[("steer", "no")]));
        scope.set_pod(&pod("by-uid", "dark", &[("steer", "no")]));
        let mut quiet = pod("quiet", "bright", &[("steer", "yes")]);
        let annotations = [("quiet", ""), (STATIC_UID, "static")];
        quiet.annotations = Some(annotations.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
        scope.set_pod(&quiet);
        let pods = scope.pods();
        let of = |uid: &str| pods.get(uid).copied();
        assert_eq!([of("plain"), of("dark"), of("bright")], [None, Some(Rule::Leave), Some(Rule::Steer)]);
        assert_eq!([of("asks"), of("refuses")], [Some(Rule::Steer), Some(Rule::Leave)]);
        assert_eq!(
            [of("by-uid"), of("quiet"), of("static")],
            [Some(Rule::Steer), Some(Rule::Leave), Some(Rule::Leave)]
        );
        // A label that goes takes its rule along, and so does a pod.
        scope.set_pod(&pod("refuses", "elsewhere", &[]));
        scope.remove_pod(&quiet);
        assert_eq!([scope.pods().get("refuses"), scope.pods().get("static")], [None, None]);
        scope.retain_pods(&[pod("dark", "dark", &[])]);
        assert_eq!(scope.pods().len(), 2, "the one that was listed, and the one by UID");
    }

    #[test]
    fn no_more_pods_have_rules_than_there_is_room_for() {
        let scope = scope(json!({"pods": {"namespaces": {"leave": ["dark"]}}}));
        for number in 0..2 * MAX_PODS {
            scope.set_pod(&pod(&number.to_string(), "dark", &[]));
        }
        assert_eq!(scope.pods().len(), MAX_PODS);
    }
}
