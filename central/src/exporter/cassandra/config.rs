//! Section `exporters.cassandra`, and what of it cannot work.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::ensure;
use mirador_service::secret::Secret;
use mirador_service::tls::ClientTls;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The longest life of a row that Cassandra knows: 20 years.
const LONGEST_TTL: Duration = Duration::from_secs(20 * 365 * 24 * 3600);
/// More partitions than this a reader does not want to ask for one bucket.
const MOST_SHARDS: u16 = 64;

/// Section `exporters.cassandra`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Contact points as `host:port`; the rest of the cluster is discovered. Default `127.0.0.1:9042`.
    pub hosts: Vec<String>,
    /// User name. Default empty: no authentication.
    pub username: String,
    /// Password; write it as `${env:CASSANDRA_PASSWORD}`. Default empty.
    pub password: Secret,
    /// TLS to the nodes. The driver dials addresses, so the certificate of each node has to carry its address, or
    /// all of them the name of `server_name_override`. Default: clear text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ClientTls>,
    /// The keyspace that holds the tables. Default `otel`.
    pub keyspace: String,
    /// The datacenter whose nodes are asked, and that `manage_schema: create` replicates in. Default empty: any, and a keyspace that is created gets `SimpleStrategy`.
    pub datacenter: String,
    /// Replicas per datacenter when the keyspace is created. Default 3.
    pub replication_factor: u32,
    /// What the role does about the keyspace and the tables at its start: `create` makes what is missing, `validate`
    /// only checks and needs no right for more, `none` trusts. Only one process may create: with several, or without
    /// the right, `mirador-central schema apply` or an administrator makes them. Default `create`.
    pub manage_schema: ManageSchema,
    /// How many replicas must have a row before it is acknowledged: `local_one`, `local_quorum` or `quorum`. Default
    /// `local_quorum`.
    pub consistency: Consistency,
    /// Rows expire after this; also how far back an event time may lie. Default 168h. Has an effect on tables when
    /// they are created.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "String")]
    pub ttl: Duration,
    /// Width of a partition, in whole seconds. Raise it for quiet services, lower it for loud ones. Default 10m.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "String")]
    pub bucket_width: Duration,
    /// Partitions that one service writes side by side in a bucket. A row's shard follows from its
    /// identity, so changing this moves rows: a repeated export across the change is stored twice. 1 to 64, default 4.
    pub shards: u16,
    /// Exceptions from `shards`, by service name. Default: none.
    pub shards_by_service: BTreeMap<String, u16>,
    /// The tenant under which rows are stored. Default `default`.
    pub tenant: String,
    /// How long one write may take. Default 5s.
    #[serde(with = "mirador_service::duration")]
    #[schemars(with = "String")]
    pub timeout: Duration,
    /// Bytes under way to the cluster at once, 1 MiB or more, default 8 MiB. Cassandra stops reading a client's socket above its own limit.
    pub max_in_flight_bytes: u32,
    /// Longest body kept; longer ones are cut on a character boundary and counted. Default 64 KiB.
    pub max_body_bytes: usize,
}

/// What is done about tables at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ManageSchema {
    /// Make the keyspace and the tables when they are missing.
    Create,
    /// Refuse to become ready when a table or a column is missing.
    Validate,
    /// Look at nothing.
    None,
}

/// Consistency levels that make sense for writes of logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// One replica of the local datacenter.
    LocalOne,
    /// Most replicas of the local datacenter.
    LocalQuorum,
    /// Most replicas of all datacenters.
    Quorum,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            hosts: vec!["127.0.0.1:9042".to_owned()],
            username: String::new(),
            password: Secret::default(),
            tls: None,
            keyspace: "otel".to_owned(),
            datacenter: String::new(),
            replication_factor: 3,
            manage_schema: ManageSchema::Create,
            consistency: Consistency::LocalQuorum,
            ttl: Duration::from_secs(7 * 24 * 3600),
            bucket_width: Duration::from_secs(600),
            shards: 4,
            shards_by_service: BTreeMap::new(),
            tenant: "default".to_owned(),
            timeout: Duration::from_secs(5),
            max_in_flight_bytes: 8 << 20,
            max_body_bytes: 64 << 10,
        }
    }
}

impl Config {
    /// Refuses what cannot work.
    ///
    /// # Errors
    /// The text names the key, the value and what would be right.
    pub fn check(&self) -> anyhow::Result<()> {
        let section = "exporters.cassandra";
        ensure!(!self.hosts.is_empty(), "{section}.hosts is empty; name at least one host:port");
        ensure!(
            self.hosts.iter().all(|host| !host.is_empty() && !host.contains(char::is_whitespace)),
            "{section}.hosts: {:?} has an entry that is no host:port",
            self.hosts
        );
        ensure!(
            self.username.is_empty() == self.password.reveal().is_empty(),
            "{section}: one of username and password is empty; set both or neither"
        );
        let keyspace = &self.keyspace;
        ensure!(
            keyspace.starts_with(|first: char| first.is_ascii_alphabetic())
                && keyspace.len() <= 48
                && keyspace.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_'),
            "{section}.keyspace: {keyspace:?} is not a name; up to 48 letters, digits and _ are right, a letter first"
        );
        ensure!(
            self.datacenter.chars().all(|letter| letter.is_ascii_alphanumeric() || "_-.".contains(letter)),
            "{section}.datacenter: {:?} is not a name; letters, digits, '_', '-' and '.' are right",
            self.datacenter
        );
        if let Some(problem) = self.tls.iter().flat_map(|tls| tls.problems("exporters.cassandra.tls")).next() {
            anyhow::bail!(problem);
        }
        ensure!(!self.tenant.is_empty(), "{section}.tenant is empty; `default` is the default");
        ensure!(self.replication_factor > 0, "{section}.replication_factor: 0 keeps nothing; 1 or more is right");
        self.check_times()?;
        self.check_sizes()
    }

    fn check_times(&self) -> anyhow::Result<()> {
        let (section, minute) = ("exporters.cassandra", Duration::from_secs(60));
        ensure!(
            (minute..=LONGEST_TTL).contains(&self.ttl),
            "{section}.ttl: {:?} is not kept by Cassandra; 1m to 175200h is right",
            self.ttl
        );
        ensure!(
            self.bucket_width >= minute && self.bucket_width.subsec_nanos() == 0,
            "{section}.bucket_width: {:?} cannot work; whole seconds, 1m or more, are right",
            self.bucket_width
        );
        ensure!(
            self.bucket_width <= self.ttl,
            "{section}.bucket_width: {:?} is longer than ttl, {:?}",
            self.bucket_width,
            self.ttl
        );
        ensure!(!self.timeout.is_zero(), "{section}.timeout: 0s leaves no time for an answer; 5s is the default");
        Ok(())
    }

    fn check_sizes(&self) -> anyhow::Result<()> {
        let section = "exporters.cassandra";
        let right = 1..=MOST_SHARDS;
        ensure!(right.contains(&self.shards), "{section}.shards: {} cannot work; 1 to 64 is right", self.shards);
        for (service, shards) in &self.shards_by_service {
            ensure!(
                right.contains(shards),
                "{section}.shards_by_service.{service}: {shards} cannot work; 1 to 64 is right"
            );
        }
        ensure!(
            (1 << 20..=1 << 30).contains(&self.max_in_flight_bytes),
            "{section}.max_in_flight_bytes: {} cannot work; 1048576 to 1073741824 is right",
            self.max_in_flight_bytes
        );
        ensure!(
            (1..=1 << 20).contains(&self.max_body_bytes),
            "{section}.max_body_bytes: {} cannot work; 1 to 1048576 is right",
            self.max_body_bytes
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests;
