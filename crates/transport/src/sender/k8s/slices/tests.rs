//! The rules by which slices become members, and that their layout plays no part.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::discovery::v1::{EndpointConditions, EndpointPort};
use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn rules() -> Rules {
    Rules {
        service: "graph".to_owned(),
        ports: Vec::new(),
        return_hostnames: true,
        ip_family: IpFamily::Ipv4,
        debounce: SECOND / 5,
        debounce_max: 2 * SECOND,
        empty_grace: 30 * SECOND,
    }
}

/// An endpoint as a `StatefulSet` has it; `state`: ready, serving, terminating.
fn endpoint(hostname: &str, address: &str, state: [Option<bool>; 3]) -> Endpoint {
    let [ready, serving, terminating] = state;
    Endpoint {
        addresses: vec![address.to_owned()],
        hostname: (!hostname.is_empty()).then(|| hostname.to_owned()),
        conditions: Some(EndpointConditions { ready, serving, terminating }),
        target_ref: Some(ObjectReference { uid: Some(format!("uid of {address}")), ..ObjectReference::default() }),
        ..Endpoint::default()
    }
}

const READY: [Option<bool>; 3] = [Some(true), Some(true), Some(false)];
const DRAINING: [Option<bool>; 3] = [Some(false), Some(true), Some(true)];
const GONE: [Option<bool>; 3] = [Some(false), Some(false), Some(true)];
const STARTING: [Option<bool>; 3] = [Some(false), Some(false), Some(false)];

fn slice(name: &str, address_type: &str, endpoints: Vec<Endpoint>) -> EndpointSlice {
    let mut slice =
        EndpointSlice { address_type: address_type.to_owned(), endpoints: Some(endpoints), ..EndpointSlice::default() };
    slice.metadata.name = Some(name.to_owned());
    slice.metadata.namespace = Some("mirador".to_owned());
    slice
}

fn with_port(mut slice: EndpointSlice, name: &str, port: i32) -> EndpointSlice {
    let port = EndpointPort { name: Some(name.to_owned()), port: Some(port), ..EndpointPort::default() };
    slice.ports.get_or_insert_default().push(port);
    slice
}

fn list(slices: &mut Slices, listed: impl IntoIterator<Item = EndpointSlice>, now: Instant) {
    slices.apply(Event::Begin, now);
    for slice in listed {
        slices.apply(Event::Listed(slice), now);
    }
    slices.apply(Event::Complete, now);
}

/// `name@address` of the members that a complete list gives.
fn members(rules: Rules, listed: impl IntoIterator<Item = EndpointSlice>) -> Vec<String> {
    let now = Instant::now();
    let mut slices = Slices::new(rules);
    list(&mut slices, listed, now);
    match slices.poll(now) {
        Some(Step::Install(members)) => members.iter().map(|of| format!("{}@{}", of.name, of.address)).collect(),
        other => panic!("a first list counts at once, not {other:?}"),
    }
}

#[test]
fn owners_are_known_by_hostname_and_dialled_at_their_address() {
    let listed = slice("a", "IPv4", vec![endpoint("graph-1", "10.0.0.2", READY), endpoint("", "10.0.0.3", READY)]);
    assert_eq!(members(rules(), [listed.clone()]), ["10.0.0.3@10.0.0.3:4317", "graph-1.graph.mirador@10.0.0.2:4317"]);
    let addresses = Rules { return_hostnames: false, ..rules() };
    assert_eq!(members(addresses, [listed]), ["10.0.0.2@10.0.0.2:4317", "10.0.0.3@10.0.0.3:4317"]);
}

#[test]
fn ports_are_found_by_name_in_each_slice_and_numbers_are_taken_as_they_are() {
    let old = with_port(slice("a", "IPv4", vec![endpoint("", "10.0.0.1", READY)]), "otlp-grpc", 4317);
    let new = with_port(slice("b", "IPv4", vec![endpoint("", "10.0.0.2", READY)]), "otlp-grpc", 14317);
    let without = slice("c", "IPv4", vec![endpoint("", "10.0.0.3", READY)]);
    let named = Rules { ports: vec![PortRef::Name("otlp-grpc".to_owned())], ..rules() };
    let expected = ["10.0.0.1:4317@10.0.0.1:4317", "10.0.0.2:14317@10.0.0.2:14317"];
    assert_eq!(members(named, [old, new, without.clone()]), expected);
    let numbers = Rules { ports: vec![PortRef::Number(9), PortRef::Number(8)], ..rules() };
    assert_eq!(members(numbers, [without]), ["10.0.0.3:8@10.0.0.3:8", "10.0.0.3:9@10.0.0.3:9"]);
}

#[test]
fn only_ready_endpoints_own_data_and_draining_ones_when_there_is_no_other() {
    let all = |first| {
        slice(
            "a",
            "IPv4",
            vec![
                endpoint("", "10.0.0.1", first),
                endpoint("", "10.0.0.2", DRAINING),
                endpoint("", "10.0.0.3", GONE),
                endpoint("", "10.0.0.4", STARTING),
            ],
        )
    };
    assert_eq!(members(rules(), [all(READY)]), ["10.0.0.1@10.0.0.1:4317"]);
    assert_eq!(members(rules(), [all(STARTING)]), ["10.0.0.2@10.0.0.2:4317"]);
    // Absent conditions: ready. `ready` of a service that publishes unready addresses says nothing.
    assert_eq!(members(rules(), [all([None, None, None])]), ["10.0.0.1@10.0.0.1:4317"]);
    let forced = [Some(true), Some(false), None];
    assert_eq!(members(rules(), [all(forced)]), ["10.0.0.2@10.0.0.2:4317"]);
    let terminating = [Some(true), Some(true), Some(true)];
    assert_eq!(members(rules(), [all(terminating)]), ["10.0.0.1@10.0.0.1:4317", "10.0.0.2@10.0.0.2:4317"]);
}

#[test]
fn an_endpoint_in_two_slices_is_one_owner_at_its_preferred_address() {
    let mut four = endpoint("", "10.0.0.1", READY);
    let mut six = endpoint("", "fd00::1", READY);
    for endpoint in [&mut four, &mut six] {
        endpoint.target_ref = Some(ObjectReference { uid: Some("one pod".to_owned()), ..ObjectReference::default() });
    }
    let listed =
        [slice("a", "IPv4", vec![four.clone()]), slice("b", "IPv6", vec![six.clone()]), slice("c", "IPv4", vec![four])];
    assert_eq!(members(rules(), listed.clone()), ["10.0.0.1@10.0.0.1:4317"]);
    let prefer = Rules { ip_family: IpFamily::Ipv6, ports: vec![PortRef::Number(4317)], ..rules() };
    assert_eq!(members(prefer, listed), ["[fd00::1]:4317@[fd00::1]:4317"]);
    assert_eq!(members(rules(), [slice("b", "IPv6", vec![six])]), ["[fd00::1]@[fd00::1]:4317"], "the only one it has");
}

#[test]
fn changes_are_taken_together_once_they_pause_and_at_the_latest_after_the_maximum() {
    let start = Instant::now();
    let mut slices = Slices::new(rules());
    list(&mut slices, [slice("a", "IPv4", vec![endpoint("g-0", "10.0.0.1", READY)])], start);
    assert!(matches!(slices.poll(start), Some(Step::Install(_))));
    let add = |slices: &mut Slices, index: u32, now| {
        let name = format!("s{index}");
        let added = slice(&name, "IPv4", vec![endpoint(&name, &format!("10.0.1.{index}"), READY)]);
        slices.apply(Event::Applied(added), now);
    };
    add(&mut slices, 1, start);
    assert_eq!(slices.poll(start + SECOND / 10), None, "a pause is awaited");
    let Some(Step::Install(members)) = slices.poll(start + SECOND / 5) else { panic!("the pause is over") };
    assert_eq!(members.len(), 2);
    let mut now = start + SECOND;
    let from = now;
    for index in 2.. {
        add(&mut slices, index, now);
        if let Some(step) = slices.poll(now) {
            assert!(matches!(step, Step::Install(members) if members.len() > 10));
            break;
        }
        now += SECOND / 10;
    }
    assert_eq!(now - from, 2 * SECOND);
    assert_eq!(slices.wake_at(), None, "nothing is left to do");
}

#[test]
fn an_empty_service_keeps_its_owners_for_the_grace_period() {
    let start = Instant::now();
    let full = || slice("a", "IPv4", vec![endpoint("g-0", "10.0.0.1", READY)]);
    let mut slices = Slices::new(rules());
    list(&mut slices, [full()], start);
    assert!(matches!(slices.poll(start), Some(Step::Install(_))));
    slices.apply(Event::Deleted(full()), start);
    let settled = start + SECOND / 5;
    assert_eq!(slices.poll(settled), Some(Step::Hold));
    assert_eq!(slices.poll(settled + 29 * SECOND), None);
    // Back in time: nothing has happened.
    slices.apply(Event::Applied(full()), settled + 29 * SECOND);
    assert_eq!(slices.poll(settled + 40 * SECOND), None);
    assert_eq!(slices.wake_at(), None);
    let emptied = settled + 50 * SECOND;
    list(&mut slices, [], emptied);
    assert_eq!(slices.poll(emptied + SECOND), Some(Step::Hold));
    assert_eq!(slices.wake_at(), Some(emptied + 31 * SECOND));
    assert_eq!(slices.poll(emptied + 31 * SECOND), Some(Step::Install(Vec::new())), "and no longer");
}

#[test]
fn a_list_that_is_not_complete_changes_nothing() {
    let start = Instant::now();
    let mut slices = Slices::new(rules());
    list(&mut slices, [slice("a", "IPv4", vec![endpoint("g-0", "10.0.0.1", READY)])], start);
    assert!(slices.poll(start).is_some());
    slices.apply(Event::Begin, start);
    slices.apply(Event::Listed(slice("b", "IPv4", vec![endpoint("g-1", "10.0.0.2", READY)])), start);
    assert_eq!(slices.wake_at(), None);
    // The server went away; the next list is whole again.
    list(&mut slices, [slice("a", "IPv4", vec![endpoint("g-0", "10.0.0.9", READY)])], start);
    let Some(Step::Install(members)) = slices.poll(start + SECOND) else { panic!("the address changed") };
    assert_eq!(members[0].address, "10.0.0.9:4317");
    assert_eq!(members[0].name, "g-0.graph.mirador", "the name stays, and with it what it owns");
}

#[test]
fn more_members_than_the_bound_are_left_out_and_counted() {
    let endpoints =
        (0..1100).map(|index| endpoint("", &format!("10.1.{}.{}", index / 250, index % 250), READY)).collect();
    let now = Instant::now();
    let mut slices = Slices::new(rules());
    list(&mut slices, [slice("a", "IPv4", endpoints)], now);
    let Some(Step::Install(members)) = slices.poll(now) else { panic!("the list counts") };
    assert_eq!((members.len(), slices.tally().over_limit), (MAX_MEMBERS, 1100 - MAX_MEMBERS));
}

proptest! {
    /// However endpoints are spread over slices, repeated and ordered, the members are the same.
    #[test]
    fn members_do_not_depend_on_how_endpoints_lie_in_slices(
        pods in proptest::collection::vec((0u8..20, 0usize..4), 1..15),
        places in proptest::collection::vec(0usize..5, 30),
    ) {
        let states = [READY, DRAINING, GONE, STARTING];
        let mut unique = BTreeMap::new();
        for (index, state) in pods {
            unique.entry(index).or_insert(states[state]);
        }
        let make = |index: &u8, state: &[Option<bool>; 3]| endpoint(&format!("g-{index}"), &format!("10.0.0.{index}"), *state);
        let all: Vec<Endpoint> = unique.iter().map(|(index, state)| make(index, state)).collect();
        let mut spread = vec![Vec::new(); 5];
        for (at, endpoint) in all.iter().enumerate() {
            spread[places[at]].push(endpoint.clone());
            spread[places[29 - at]].push(endpoint.clone());
        }
        let spread = spread.into_iter().enumerate().rev().map(|(at, endpoints)| slice(&format!("s{at}"), "IPv4", endpoints));
        prop_assert_eq!(members(rules(), [slice("one", "IPv4", all)]), members(rules(), spread));
    }
}
