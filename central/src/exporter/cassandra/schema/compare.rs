//! What stands in a cluster beside what has to: sans-IO, from rows of `system_schema`.

use std::collections::BTreeMap;

use super::{Config, TABLES, Table, life, replication, window_minutes};

/// What `system_schema` says about a keyspace.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Its replication; absent: there is no such keyspace.
    pub(super) replication: Option<BTreeMap<String, String>>,
    pub(super) tables: BTreeMap<String, FoundTable>,
}

/// What `system_schema` says about a table.
#[derive(Debug, Default)]
pub(super) struct FoundTable {
    pub(super) columns: BTreeMap<String, FoundColumn>,
    pub(super) ttl: i32,
    pub(super) compaction: BTreeMap<String, String>,
}

/// What `system_schema` says about a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FoundColumn {
    pub(super) cql: String,
    /// `partition_key`, `clustering`, `regular` or `static`.
    pub(super) kind: String,
    pub(super) position: i32,
    /// `asc`, `desc` or `none`.
    pub(super) order: String,
}

/// How a cluster differs from what is needed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Difference {
    /// What can be made: the keyspace, whole tables.
    pub(super) missing: Vec<String>,
    /// What stands in the way: tables of another shape.
    pub(super) wrong: Vec<String>,
    /// What works, and is not as the configuration says.
    pub(super) notes: Vec<String>,
}

pub(super) fn compare(config: &Config, found: &Found) -> Difference {
    let mut difference = Difference::default();
    let keyspace = &config.keyspace;
    match &found.replication {
        None => difference.missing.push(format!("keyspace {keyspace}")),
        Some(stands) => {
            // Asked by its last word: the server says `org.apache.cassandra.locator.SimpleStrategy`.
            let want = replication(config);
            let same = |(key, value): &(String, String)| {
                stands.get(key).is_some_and(|have| have == value || have.rsplit('.').next() == Some(value))
            };
            if !want.iter().all(same) {
                let want = want.map(|(key, value)| format!("{key} {value}")).join(", ");
                let have: Vec<String> = stands.iter().map(|(key, value)| format!("{key} {value}")).collect();
                difference.notes.push(format!(
                    "keyspace {keyspace} is replicated by {}, the configuration says {want}; ALTER KEYSPACE changes it",
                    have.join(", ")
                ));
            }
        }
    }
    for table in &TABLES {
        match found.tables.get(table.name) {
            None => difference.missing.push(format!("table {keyspace}.{}", table.name)),
            Some(stands) => shape(config, table, stands, &mut difference),
        }
    }
    difference
}

/// Columns and key have to be ours; a column more is nobody's harm, unless it is part of the key.
fn shape(config: &Config, table: &Table, found: &FoundTable, difference: &mut Difference) {
    let place = format!("{}.{}", config.keyspace, table.name);
    for (name, cql) in table.columns {
        match found.columns.get(*name) {
            None => difference.wrong.push(format!("{place} has no column {name} {cql}")),
            Some(column) if column.cql != *cql => {
                difference.wrong.push(format!("{place}.{name} is of type {}, {cql} is right", column.cql));
            }
            Some(_) => {}
        }
    }
    let partition = table.partition.iter().map(|name| ((*name).to_owned(), "none".to_owned()));
    let clustering = table.clustering.iter().map(|(name, order)| ((*name).to_owned(), (*order).to_owned()));
    for (kind, words, want) in [
        ("partition_key", "partition key", partition.collect::<Vec<_>>()),
        ("clustering", "clustering", clustering.collect()),
    ] {
        let mut have: Vec<(i32, String, String)> = found
            .columns
            .iter()
            .filter(|(_, column)| column.kind == kind)
            .map(|(name, column)| (column.position, name.clone(), column.order.clone()))
            .collect();
        have.sort();
        let have: Vec<(String, String)> = have.into_iter().map(|(_, name, order)| (name, order)).collect();
        if have != want {
            difference.wrong.push(format!("the {words} of {place} is {}, {} is right", listed(&have), listed(&want)));
        }
    }
    let (ttl, window) = (life(config, table), window_minutes(config).to_string());
    if u64::try_from(found.ttl).ok() != Some(ttl) {
        difference.notes.push(format!(
            "rows of {place} expire after {} s, the configuration says {ttl} s; ALTER TABLE changes it for new rows",
            found.ttl
        ));
    }
    let class = found.compaction.get("class").map_or("", |class| class.rsplit('.').next().unwrap_or(class));
    let size = found.compaction.get("compaction_window_size").map_or("", String::as_str);
    if class != "TimeWindowCompactionStrategy" || size != window {
        difference
            .notes
            .push(format!("{place} is compacted by {class} {size}, windows of {window} minutes suit its ttl"));
    }
}

fn listed(columns: &[(String, String)]) -> String {
    let words = columns.iter().map(|(name, order)| match order.as_str() {
        "none" => name.clone(),
        order => format!("{name} {order}"),
    });
    format!("({})", words.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests;
