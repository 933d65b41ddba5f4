//! What waits for its other side, and what is remembered, as bytes: the next process pairs on where this one ended.
//!
//! Written at the end of a drain only. Edges that were paired since the last flush live in memory, so a file from
//! before a kill would pair some of them again. Never: does IO, reads a clock. Invariant: ages, not times: the time
//! between two processes does not count, because nothing arrives in it.

use std::sync::Arc;

use prost::Message;

use super::half::{Dimensions, Half, Key, Measure, Side, Via};

/// The kind of the snapshot file.
pub const KIND: &str = "servicegraph";
/// The version of the payload.
pub const VERSION: u16 = 1;

/// What one shard leaves behind.
#[derive(Debug, Default)]
pub struct Remains {
    /// Halves that wait, with their age in nanoseconds.
    pub waiting: Vec<(u64, Half)>,
    /// Clients that were answered, with the age of the first answer.
    pub answered: Vec<(u64, Half)>,
    /// Fingerprints that are remembered.
    pub seen: Generations,
}

/// Fingerprints of two generations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Generations {
    /// Of the younger generation.
    pub young: Vec<u64>,
    /// Of the older one.
    pub old: Vec<u64>,
    /// The age of the younger generation, in nanoseconds.
    pub age: u64,
}

/// What all shards leave behind.
#[derive(Debug)]
pub struct Inheritance {
    /// When it was written, in Unix nanoseconds.
    pub written_unix_nano: u64,
    /// By the shards of the process that wrote it.
    pub shards: Vec<Remains>,
}

#[derive(Clone, PartialEq, Message)]
struct Everything {
    #[prost(uint64, tag = "1")]
    written: u64,
    /// Names of the configured dimensions, in the order of the values.
    #[prost(string, repeated, tag = "2")]
    dimensions: Vec<String>,
    #[prost(message, repeated, tag = "3")]
    shards: Vec<OfShard>,
}

#[derive(Clone, PartialEq, Message)]
struct OfShard {
    #[prost(message, repeated, tag = "1")]
    waiting: Vec<OfHalf>,
    #[prost(message, repeated, tag = "2")]
    answered: Vec<OfHalf>,
    #[prost(fixed64, repeated, tag = "3")]
    young: Vec<u64>,
    #[prost(fixed64, repeated, tag = "4")]
    old: Vec<u64>,
    #[prost(uint64, tag = "5")]
    age: u64,
}

#[derive(Clone, PartialEq, Message)]
struct OfHalf {
    #[prost(uint64, tag = "1")]
    age: u64,
    #[prost(bytes = "vec", tag = "2")]
    key_trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    key_span_id: Vec<u8>,
    #[prost(bool, tag = "4")]
    is_client: bool,
    /// 0 parent, 1 parent beside links, 2 link.
    #[prost(uint32, tag = "5")]
    via: u32,
    #[prost(bool, tag = "6")]
    is_messaging: bool,
    #[prost(bool, tag = "7")]
    is_failed: bool,
    #[prost(string, tag = "8")]
    service: String,
    #[prost(uint64, tag = "9")]
    nanos: u64,
    #[prost(fixed64, tag = "10")]
    end: u64,
    #[prost(bytes = "vec", tag = "11")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "12")]
    span_id: Vec<u8>,
    #[prost(message, repeated, tag = "13")]
    dimensions: Vec<OfText>,
    #[prost(string, optional, tag = "14")]
    peer: Option<String>,
    #[prost(string, optional, tag = "15")]
    database: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct OfText {
    #[prost(string, optional, tag = "1")]
    text: Option<String>,
}

/// Bytes that nobody can go on from.
#[derive(Debug, thiserror::Error)]
pub enum InheritError {
    /// Not what this release writes.
    #[error("its content cannot be read: {0}")]
    Decode(#[from] prost::DecodeError),
    /// The labels of the halves would not be the same.
    #[error("its spans have the dimensions {0:?}, servicegraph.dimensions has others now")]
    Dimensions(Vec<String>),
    /// An id is not as long as ids are.
    #[error("an id in it has a wrong length")]
    Id,
}

impl Inheritance {
    /// The bytes of what all shards leave behind.
    pub fn encode(self, dimensions: &[String]) -> Vec<u8> {
        let halves = |halves: &[(u64, Half)]| halves.iter().map(|(age, half)| write(*age, half)).collect();
        let shards = self.shards.into_iter().map(|Remains { waiting, answered, seen }| OfShard {
            waiting: halves(&waiting),
            answered: halves(&answered),
            young: seen.young,
            old: seen.old,
            age: seen.age,
        });
        Everything { written: self.written_unix_nano, dimensions: dimensions.to_vec(), shards: shards.collect() }
            .encode_to_vec()
    }

    /// What [`Self::encode`] wrote.
    ///
    /// # Errors
    /// When the bytes are something else, or the configured dimensions are other ones now.
    pub fn decode(bytes: &[u8], dimensions: &[String]) -> Result<Self, InheritError> {
        let all = Everything::decode(bytes)?;
        if all.dimensions != dimensions {
            return Err(InheritError::Dimensions(all.dimensions));
        }
        let halves = |halves: Vec<OfHalf>| halves.into_iter().map(read).collect::<Result<_, _>>();
        let shard = |OfShard { waiting, answered, young, old, age }| {
            Ok(Remains {
                waiting: halves(waiting)?,
                answered: halves(answered)?,
                seen: Generations { young, old, age },
            })
        };
        let shards = all.shards.into_iter().map(shard).collect::<Result<_, InheritError>>()?;
        Ok(Self { written_unix_nano: all.written, shards })
    }

    /// Spreads it over `count` shards. Fingerprints do not tell their shard: they stay where they are when the count
    /// is the same, and go to every shard otherwise.
    pub fn spread(self, count: usize) -> Vec<Remains> {
        let mut spread: Vec<Remains> = Vec::new();
        spread.resize_with(count, Remains::default);
        let is_same = self.shards.len() == count;
        for (index, Remains { waiting, answered, seen }) in self.shards.into_iter().enumerate() {
            for (age, half) in waiting {
                spread[half.shard(count)].waiting.push((age, half));
            }
            for (age, half) in answered {
                spread[half.shard(count)].answered.push((age, half));
            }
            for shard in
                spread.iter_mut().enumerate().filter(|(at, _)| !is_same || *at == index).map(|(_, shard)| shard)
            {
                shard.seen.young.extend(&seen.young);
                shard.seen.old.extend(&seen.old);
                shard.seen.age = shard.seen.age.max(seen.age);
            }
        }
        spread
    }
}

fn write(age: u64, half: &Half) -> OfHalf {
    let text = |value: &Option<Box<str>>| OfText { text: value.as_deref().map(str::to_owned) };
    OfHalf {
        age,
        key_trace_id: half.key.trace_id.to_vec(),
        key_span_id: half.key.span_id.to_vec(),
        is_client: half.side == Side::Client,
        via: match half.via {
            Via::Parent => 0,
            Via::ParentBesideLinks => 1,
            Via::Link => 2,
        },
        is_messaging: half.is_messaging,
        is_failed: half.is_failed,
        service: half.service.as_ref().to_owned(),
        nanos: half.measure.nanos,
        end: half.measure.end_unix_nano,
        trace_id: half.measure.trace_id.to_vec(),
        span_id: half.measure.span_id.to_vec(),
        dimensions: half.dimensions.iter().flat_map(|values| values.iter().map(text)).collect(),
        peer: half.peer.as_deref().map(str::to_owned),
        database: half.database.as_deref().map(str::to_owned),
    }
}

fn read(half: OfHalf) -> Result<(u64, Half), InheritError> {
    let dimensions: Dimensions = (!half.dimensions.is_empty())
        .then(|| half.dimensions.into_iter().map(|value| value.text.map(Box::from)).collect::<Arc<[_]>>());
    let found = Half {
        key: Key { trace_id: id(&half.key_trace_id)?, span_id: id(&half.key_span_id)? },
        side: if half.is_client { Side::Client } else { Side::Server },
        via: match half.via {
            1 => Via::ParentBesideLinks,
            2 => Via::Link,
            _ => Via::Parent,
        },
        is_messaging: half.is_messaging,
        is_failed: half.is_failed,
        service: half.service.into(),
        measure: Measure {
            nanos: half.nanos,
            end_unix_nano: half.end,
            trace_id: id(&half.trace_id)?,
            span_id: id(&half.span_id)?,
        },
        dimensions,
        peer: half.peer.map(Arc::from),
        database: half.database.map(Arc::from),
    };
    Ok((half.age, found))
}

fn id<const N: usize>(bytes: &[u8]) -> Result<[u8; N], InheritError> {
    bytes.try_into().map_err(|_| InheritError::Id)
}
