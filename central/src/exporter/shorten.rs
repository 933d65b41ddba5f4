//! Brings what stands in every row of a store under a bound.
//!
//! A request carries its resource once and a store writes it into every row: without a bound a few megabytes on the
//! wire become terabytes. What goes first is what says least: the ends of long texts, then whole attributes, those that
//! stand last by name. Never: touches what fits; counts what it cuts (the store does).

use std::collections::BTreeMap;

/// Bytes of a resource in one row.
pub(super) const RESOURCE: usize = 32 << 10;
/// Bytes of the attributes of one row.
pub(super) const ATTRIBUTES: usize = 1 << 20;
/// Bytes of a single name: a service, a scope, an event.
pub(super) const NAME: usize = 4 << 10;

/// Bytes of a key of a map that has to be cut.
const KEY: usize = 256;
/// Values are cut to the first of these lengths with which the map fits.
const VALUES: [usize; 5] = [16 << 10, 4 << 10, 1 << 10, 256, 64];
/// What an entry costs besides its texts.
const ENTRY: usize = 8;

fn size(map: &BTreeMap<String, String>) -> usize {
    map.iter().map(|(key, value)| key.len() + value.len() + ENTRY).sum()
}

/// Cuts a map to `most` bytes; true when it did not fit.
pub(super) fn map(map: &mut BTreeMap<String, String>, most: usize) -> bool {
    if size(map) <= most {
        return false;
    }
    map.retain(|key, _| key.len() <= KEY);
    for cap in VALUES {
        if size(map) <= most {
            return true;
        }
        for value in map.values_mut() {
            value.truncate(value.floor_char_boundary(cap));
        }
    }
    let mut left = size(map);
    while left > most
        && let Some((key, value)) = map.pop_last()
    {
        left -= key.len() + value.len() + ENTRY;
    }
    true
}

/// The beginning of a name, cut between characters.
pub(super) fn name(text: &str) -> &str {
    &text[..text.floor_char_boundary(NAME)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn whatever_comes_fits_afterwards_and_what_fitted_is_untouched(
            entries in prop::collection::btree_map("[a-zü]{0,300}", (0..60_000_usize, "[xé]"), 0..40), most in 100..40_000_usize,
        ) {
            let whole: BTreeMap<String, String> =
                entries.into_iter().map(|(key, (length, letter))| (key, letter.repeat(length))).collect();
            let mut cut = whole.clone();
            let was_cut = map(&mut cut, most);
            prop_assert!(size(&cut) <= most);
            prop_assert_eq!(was_cut, size(&whole) > most);
            prop_assert!(was_cut || cut == whole);
            prop_assert!(cut.iter().all(|(key, value)| whole[key].starts_with(value.as_str())));
        }
    }

    #[test]
    fn short_attributes_outlive_a_long_one() {
        let mut found = BTreeMap::from([
            ("a".to_owned(), "x".repeat(1 << 20)),
            ("service.name".to_owned(), "cart".to_owned()),
            ("z".to_owned(), "last".to_owned()),
        ]);
        assert!(map(&mut found, RESOURCE));
        assert_eq!((found["a"].len(), found["service.name"].as_str(), found["z"].as_str()), (16 << 10, "cart", "last"));
        assert_eq!(name(&"é".repeat(NAME)).len(), NAME);
    }
}
