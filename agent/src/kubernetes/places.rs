//! What the labels and annotations of namespaces or of nodes add, by the object's name.
//!
//! Never: does IO, reads a clock, keeps an object that no rule makes anything of. Invariants: what is
//! known takes at most `limit` bytes; a list replaces everything when it is complete; an object that does
//! not fit is not known at all, rather than with what it had before.

use std::collections::HashMap;
use std::sync::Arc;

use mirador_otlp::enrich::Addition;

/// What requests read: a snapshot.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    by_name: HashMap<Arc<str>, Arc<[Addition]>>,
    /// Bytes of all of it, estimated.
    pub(super) bytes: usize,
    /// Whether a whole list has been read.
    pub(super) complete: bool,
}

impl Snapshot {
    /// Nothing; `complete` when there is nothing to wait for.
    pub(super) fn empty(complete: bool) -> Self {
        Self { complete, ..Self::default() }
    }

    /// What the object with this name adds.
    pub(super) fn attributes(&self, name: Option<&str>) -> &[Addition] {
        name.and_then(|name| self.by_name.get(name)).map_or(&[], AsRef::as_ref)
    }

    /// Objects that add something.
    pub(super) fn len(&self) -> usize {
        self.by_name.len()
    }
}

#[derive(Debug)]
struct Place {
    attributes: Arc<[Addition]>,
    /// In which list it stood last.
    list: u64,
}

/// The objects as the watch tells them.
#[derive(Debug)]
pub(super) struct Places {
    limit: usize,
    known: HashMap<Arc<str>, Place>,
    bytes: usize,
    list: u64,
    complete: bool,
    changed: bool,
    refused: u64,
}

impl Places {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, known: HashMap::new(), bytes: 0, list: 0, complete: false, changed: false, refused: 0 }
    }

    /// A list begins. What it does not name is gone when it is complete.
    pub(super) fn begin(&mut self) {
        self.list += 1;
    }

    /// An object is there, with what the rules make of it.
    pub(super) fn put(&mut self, name: &str, attributes: Vec<Addition>) {
        if let Some(place) = self.known.get_mut(name)
            && *place.attributes == *attributes
        {
            place.list = self.list;
            return;
        }
        self.remove(name);
        if attributes.is_empty() {
            return;
        }
        let bytes = bytes_of(name, &attributes);
        if self.bytes + bytes > self.limit {
            self.refused += 1;
            return;
        }
        self.bytes += bytes;
        self.changed = true;
        self.known.insert(name.into(), Place { attributes: attributes.into(), list: self.list });
    }

    pub(super) fn remove(&mut self, name: &str) {
        if let Some(place) = self.known.remove(name) {
            self.bytes -= bytes_of(name, &place.attributes);
            self.changed = true;
        }
    }

    pub(super) fn finish(&mut self) {
        let gone = self.known.iter().filter(|(_, place)| place.list != self.list).map(|(name, _)| Arc::clone(name));
        for name in gone.collect::<Vec<_>>() {
            self.remove(&name);
        }
        self.changed |= !self.complete;
        self.complete = true;
    }

    /// Objects that did not fit since it was last asked.
    pub(super) fn take_refused(&mut self) -> u64 {
        std::mem::take(&mut self.refused)
    }

    /// The snapshot for requests, when it differs from the last one.
    pub(super) fn take_snapshot(&mut self) -> Option<Snapshot> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let by_name = self.known.iter().map(|(name, place)| (Arc::clone(name), Arc::clone(&place.attributes)));
        Some(Snapshot { by_name: by_name.collect(), bytes: self.bytes, complete: self.complete })
    }
}

/// Both maps and the attributes, which they share.
fn bytes_of(name: &str, attributes: &[Addition]) -> usize {
    let heap: usize = attributes.iter().map(Addition::heap_bytes).sum();
    let entries = size_of::<(Arc<str>, Place)>() + size_of::<(Arc<str>, Arc<[Addition]>)>();
    entries + name.len() + size_of_val(attributes) + heap
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    use super::*;

    fn attributes(value: &str) -> Vec<Addition> {
        vec![Addition::string("k8s.node.labels.zone", value)]
    }

    fn zone(snapshot: &Snapshot, name: &str) -> Option<String> {
        snapshot.attributes(Some(name)).first().map(|addition| addition.value().to_owned())
    }

    #[test]
    fn an_object_that_adds_nothing_is_not_kept_and_a_name_that_is_not_known_adds_nothing() {
        let mut places = Places::new(usize::MAX);
        places.begin();
        places.put("a", Vec::new());
        places.put("b", attributes("one"));
        places.finish();
        let snapshot = places.take_snapshot().expect("it is the first one");
        assert_eq!((snapshot.len(), snapshot.complete), (1, true));
        assert_eq!(snapshot.attributes(Some("a")), []);
        assert_eq!(snapshot.attributes(None), []);
        places.put("b", attributes("one"));
        assert!(places.take_snapshot().is_none(), "nothing has changed");
        places.put("b", Vec::new());
        assert_eq!(places.take_snapshot().expect("the rule finds nothing any more").len(), 0);
    }

    #[test]
    fn what_does_not_fit_is_counted_and_is_not_known_with_what_it_had_before() {
        let room = 2 * bytes_of("a", &attributes("x"));
        let mut places = Places::new(room);
        for name in ["a", "b", "c"] {
            places.put(name, attributes("x"));
        }
        assert_eq!((places.take_refused(), places.known.len()), (1, 2));
        places.put("a", attributes(&"x".repeat(room)));
        assert_eq!((places.take_refused(), places.known.len()), (1, 1));
        places.put("c", attributes("x"));
        assert_eq!((places.take_refused(), places.known.len()), (0, 2), "there is room again");
    }

    #[derive(Debug, Clone)]
    enum Step {
        Put(u8, u8),
        Remove(u8),
        List(BTreeMap<u8, u8>, bool),
    }

    fn step() -> impl Strategy<Value = Step> {
        let list = proptest::collection::btree_map(0u8..8, 0u8..3, 0..6);
        prop_oneof![
            (0u8..8, 0u8..3).prop_map(|(name, value)| Step::Put(name, value)),
            (0u8..8).prop_map(Step::Remove),
            (list, any::<bool>()).prop_map(|(list, whole)| Step::List(list, whole)),
        ]
    }

    proptest! {
        /// Against a plain map: what was put and not removed is known, a list that breaks off removes nothing.
        #[test]
        fn what_is_there_is_known_and_nothing_else(steps in proptest::collection::vec(step(), 0..40)) {
            let mut places = Places::new(usize::MAX);
            let mut model: BTreeMap<u8, u8> = BTreeMap::new();
            let mut snapshot = Snapshot::default();
            let named = |name: u8| name.to_string();
            for step in steps {
                match step {
                    Step::Put(name, value) => {
                        places.put(&named(name), attributes(&named(value)));
                        model.insert(name, value);
                    }
                    Step::Remove(name) => {
                        places.remove(&named(name));
                        model.remove(&name);
                    }
                    Step::List(list, whole) => {
                        places.begin();
                        for (name, value) in &list {
                            places.put(&named(*name), attributes(&named(*value)));
                        }
                        if whole {
                            places.finish();
                            model = list;
                        } else {
                            model.extend(list);
                        }
                    }
                }
                snapshot = places.take_snapshot().unwrap_or(snapshot);
                prop_assert_eq!(snapshot.len(), model.len());
                for (name, value) in &model {
                    prop_assert_eq!(zone(&snapshot, &named(*name)), Some(named(*value)));
                }
                let bytes: usize = places.known.iter().map(|(name, place)| bytes_of(name, &place.attributes)).sum();
                prop_assert_eq!(snapshot.bytes, bytes);
            }
        }
    }
}
