//! The state of detectors and families as bytes, exactly: what is read back goes on as if nothing had happened.
//!
//! Little-endian, no padding, lengths before lists. Reading never panics and never trusts a length: what does not
//! fit, is not finite or is out of order is refused. The version of the format is the snapshot's
//! ([`super::super::state`]).

use super::episode::Episode;
use super::prior::{Pool, Prior};
use super::profile::Profile;
use super::sample::Sample;
use super::tail::Tail;
use super::{Detector, Said, Shape};

/// Points of one sample that are read at most.
const MOST_POINTS: usize = 1024;

/// Appends values to bytes.
#[derive(Debug, Default)]
pub(crate) struct Encoder(pub(crate) Vec<u8>);

/// Takes values from bytes.
#[derive(Debug)]
pub(crate) struct Decoder<'a>(pub(crate) &'a [u8]);

impl Encoder {
    pub(crate) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u128(&mut self, value: u128) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn f32(&mut self, value: f32) {
        self.u32(value.to_bits());
    }

    pub(crate) fn f64(&mut self, value: f64) {
        self.u64(value.to_bits());
    }

    pub(crate) fn f32s(&mut self, values: &[f32]) {
        for value in values {
            self.f32(*value);
        }
    }
}

impl<'a> Decoder<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*bytes)
    }

    /// So many bytes.
    pub(crate) fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    pub(crate) fn u128(&mut self) -> Option<u128> {
        self.take().map(u128::from_le_bytes)
    }

    pub(crate) fn f32(&mut self) -> Option<f32> {
        self.u32().map(f32::from_bits)
    }

    pub(crate) fn f64(&mut self) -> Option<f64> {
        self.u64().map(f64::from_bits)
    }

    pub(crate) fn f32s<const N: usize>(&mut self) -> Option<[f32; N]> {
        let mut values = [0.0; N];
        for value in &mut values {
            *value = self.f32()?;
        }
        Some(values)
    }
}

impl Detector {
    /// Appends the state.
    pub(crate) fn encode(&self, to: &mut Encoder) {
        to.u8(match self.shape {
            Shape::Level => 0,
            Shape::Rate => 1,
            Shape::Observed => 2,
            Shape::Ratio => 3,
        });
        to.f64(self.origin);
        to.f64(self.last_value);
        to.u64(self.last_time);
        to.f32(self.interval);
        to.u32(self.seen);
        for sample in &self.samples {
            encode_sample(sample, to);
        }
        to.f32s(&self.window);
        to.u8(self.windowed);
        self.profile.encode(to);
        self.tail.encode(to);
        self.episode.encode(to);
        to.f32(self.weight);
        to.f32(self.inverse_depth);
        to.u8(self.phase);
        to.f32s(&self.features);
        to.f32s(&self.scores);
        to.u8(u8::from(self.stale));
        self.last.encode(to);
    }

    /// Takes a state; nothing when it is not one.
    pub(crate) fn decode(from: &mut Decoder<'_>) -> Option<Self> {
        let shape = [Shape::Level, Shape::Rate, Shape::Observed, Shape::Ratio].get(usize::from(from.u8()?)).copied()?;
        let (origin, last_value, last_time) = (from.f64()?, from.f64()?, from.u64()?);
        let (interval, seen) = (from.f32()?, from.u32()?);
        let mut samples: [Sample; super::FEATURES] = Default::default();
        for sample in &mut samples {
            *sample = decode_sample(from)?;
        }
        let (mut window, windowed): ([f32; super::WINDOW], u8) = (from.f32s()?, from.u8()?);
        let (profile, tail, episode) = (Profile::decode(from)?, Tail::decode(from)?, Episode::decode(from)?);
        let (weight, inverse_depth, phase) = (from.f32()?, from.f32()?, from.u8()?);
        let (features, scores, stale) = (from.f32s()?, from.f32s()?, from.u8()? != 0);
        let last = Said::decode(from)?;
        window.iter_mut().skip(usize::from(windowed)).for_each(|value| *value = 0.0);
        let sound = usize::from(windowed) <= super::WINDOW && origin.is_finite() && weight.is_finite();
        sound.then_some(Self {
            shape,
            origin,
            last_value,
            last_time,
            interval,
            seen,
            samples,
            window,
            windowed,
            profile,
            tail,
            episode,
            weight,
            inverse_depth,
            phase,
            features,
            scores,
            stale,
            last,
        })
    }
}

impl Prior {
    pub(crate) fn encode(&self, to: &mut Encoder) {
        for pool in [&self.shape, &self.plain] {
            encode_sample(&pool.sample, to);
            to.f32(pool.weight);
            to.u32(pool.seen);
        }
        to.f64(self.origin);
    }

    pub(crate) fn decode(from: &mut Decoder<'_>) -> Option<Self> {
        let mut pool = || {
            let sample = decode_sample(from)?;
            Some(Pool { sample, weight: from.f32().filter(|weight| weight.is_finite())?, seen: from.u32()? })
        };
        let (shape, plain) = (pool()?, pool()?);
        Some(Self { shape, plain, origin: from.f64().filter(|origin| origin.is_finite())? })
    }
}

fn encode_sample(sample: &Sample, to: &mut Encoder) {
    to.u32(sample.values().len() as u32);
    to.f32s(sample.values());
    to.f32s(sample.weights());
    to.f32s(&[sample.finest, sample.middle, sample.spread]);
}

fn decode_sample(from: &mut Decoder<'_>) -> Option<Sample> {
    let count = usize::try_from(from.u32()?).ok().filter(|count| *count <= MOST_POINTS)?;
    let mut list = || (0..count).map(|_| from.f32()).collect::<Option<Vec<f32>>>();
    let (values, weights) = (list()?, list()?);
    let [finest, middle, spread] = from.f32s()?;
    let sound = values.windows(2).all(|pair| pair[0] < pair[1])
        && values.iter().all(|value| value.is_finite())
        && weights.iter().all(|weight| weight.is_finite() && *weight > 0.0);
    sound.then(|| Sample::of(&values, &weights, [finest, middle, spread]))
}

impl Profile {
    fn encode(&self, to: &mut Encoder) {
        to.f32s(&self.means);
        to.u64(self.known);
        to.f32(self.overall);
    }

    fn decode(from: &mut Decoder<'_>) -> Option<Self> {
        Some(Self { means: from.f32s()?, known: from.u64()?, overall: from.f32()? })
    }
}

impl Tail {
    fn encode(&self, to: &mut Encoder) {
        to.f32s(&self.means);
        to.f32s(&self.weights);
        to.f32s(&self.buffer);
        to.u8(self.clusters);
        to.u8(self.buffered);
        to.f32s(&[self.middle, self.start, self.excess]);
    }

    fn decode(from: &mut Decoder<'_>) -> Option<Self> {
        let (means, weights, buffer) = (from.f32s()?, from.f32s()?, from.f32s()?);
        let (clusters, buffered, [middle, start, excess]) = (from.u8()?, from.u8()?, from.f32s()?);
        let tail = Self { means, weights, buffer, clusters, buffered, middle, start, excess };
        tail.is_sound().then_some(tail)
    }
}

impl Episode {
    fn encode(&self, to: &mut Encoder) {
        for time in [self.opened_at, self.peak_at, self.last_at] {
            to.u64(time);
        }
        to.f32(self.peak);
        to.u32(self.points);
        to.u32(self.since);
        to.u8(self.calm);
        to.u8(self.recent);
        to.u8(u8::from(self.is_open));
        to.u8(u8::from(self.is_high));
        to.u8(self.run);
        to.u64(self.habit_until);
        to.f32(self.habit_peak);
    }

    fn decode(from: &mut Decoder<'_>) -> Option<Self> {
        Some(Self {
            opened_at: from.u64()?,
            peak_at: from.u64()?,
            last_at: from.u64()?,
            peak: from.f32()?,
            points: from.u32()?,
            since: from.u32()?,
            calm: from.u8()?,
            recent: from.u8()?,
            is_open: from.u8()? != 0,
            is_high: from.u8()? != 0,
            run: from.u8()?,
            habit_until: from.u64()?,
            habit_peak: from.f32()?,
        })
    }
}

impl Said {
    fn encode(self, to: &mut Encoder) {
        to.f32(self.score.unwrap_or(f32::NAN));
        to.f32(self.surprise);
        to.u8(u8::from(self.is_anomaly));
    }

    fn decode(from: &mut Decoder<'_>) -> Option<Self> {
        let score = Some(from.f32()?).filter(|score| !score.is_nan());
        Some(Self { score, surprise: from.f32()?, is_anomaly: from.u8()? != 0 })
    }
}
