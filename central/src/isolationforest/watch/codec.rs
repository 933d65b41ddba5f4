//! The state of a series as bytes.
//!
//! Never: trusts a length.

use super::{Before, Distribution, Features, Judged, Virtual, Watch};
use crate::isolationforest::detector::Detector;
use crate::isolationforest::detector::codec::{Decoder, Encoder};

/// Buckets of a histogram that are read at most.
const MOST_BUCKETS: usize = 32_768;
/// Detectors of a distribution.
const MOST_DETECTORS: usize = 5;
const ALL: [Virtual; 7] =
    [Virtual::Value, Virtual::Rate, Virtual::Mean, Virtual::P50, Virtual::P95, Virtual::P99, Virtual::ErrorRatio];

impl Watch {
    /// Appends the state.
    pub(in crate::isolationforest) fn encode(&self, to: &mut Encoder) {
        to.u64(self.seed);
        to.u64(self.last_time);
        to.u8(self.speaker.map_or(u8::MAX, |speaker| speaker as u8));
        to.f64(self.last.score);
        to.u8(u8::from(self.last.is_anomaly));
        to.u8(u8::from(self.last.warming));
        to.u8(self.last.top as u8);
        to.f32s(&self.last.surprises);
        match &self.features {
            Features::None => to.u8(0),
            Features::Level(detector) => {
                to.u8(1);
                detector.encode(to);
            }
            Features::Rate(detector, before) => {
                to.u8(2);
                before.encode(to);
                detector.encode(to);
            }
            Features::Distribution(distribution) => {
                to.u8(3);
                encode_distribution(distribution, to);
            }
        }
    }

    /// Takes a state; nothing when it is not one.
    pub(in crate::isolationforest) fn decode(from: &mut Decoder<'_>) -> Option<Self> {
        let (seed, last_time, speaker) = (from.u64()?, from.u64()?, ALL.get(usize::from(from.u8()?)).copied());
        let last = Judged {
            score: from.f64()?,
            is_anomaly: from.u8()? != 0,
            warming: from.u8()? != 0,
            top: ALL.get(usize::from(from.u8()?)).copied()?,
            reason: None,
            surprises: from.f32s()?,
            grown: 0.0,
        };
        let features = match from.u8()? {
            0 => Features::None,
            1 => Features::Level(Box::new(Detector::decode(from)?)),
            2 => {
                let before = Before::decode(from)?;
                Features::Rate(Box::new(Detector::decode(from)?), before)
            }
            3 => Features::Distribution(Box::new(decode_distribution(from)?)),
            _ => return None,
        };
        Some(Self { features, seed, last_time, last, speaker })
    }
}

impl Before {
    /// Appends the point.
    pub(in crate::isolationforest) fn encode(&self, to: &mut Encoder) {
        to.u64(self.time);
        to.u64(self.start);
        to.f64(self.count);
        to.u8(u8::from(self.sum.is_some()));
        to.f64(self.sum.unwrap_or_default());
    }

    /// Takes a point; nothing when it is not one.
    pub(in crate::isolationforest) fn decode(from: &mut Decoder<'_>) -> Option<Self> {
        let (time, start, count) = (from.u64()?, from.u64()?, from.f64()?);
        let (has_sum, sum) = (from.u8()? != 0, from.f64()?);
        Some(Self { time, start, count, sum: has_sum.then_some(sum) })
    }
}

fn encode_distribution(distribution: &Distribution, to: &mut Encoder) {
    distribution.before.encode(to);
    to.u32(distribution.bounds.len() as u32);
    for bound in &distribution.bounds {
        to.f64(*bound);
    }
    for counts in [&distribution.counts, &distribution.pending] {
        for count in counts {
            to.u64(*count);
        }
    }
    to.u8(distribution.detectors.len() as u8);
    for detector in &distribution.detectors {
        detector.encode(to);
    }
}

fn decode_distribution(from: &mut Decoder<'_>) -> Option<Distribution> {
    let before = Before::decode(from)?;
    let length = usize::try_from(from.u32()?).ok().filter(|length| *length <= MOST_BUCKETS)?;
    let bounds = (0..length).map(|_| from.f64()).collect::<Option<Vec<f64>>>()?;
    let counts = (0..length).map(|_| from.u64()).collect::<Option<Vec<u64>>>()?;
    let pending = (0..length).map(|_| from.u64()).collect::<Option<Vec<u64>>>()?;
    let detectors = usize::from(from.u8()?);
    if !(2..=MOST_DETECTORS).contains(&detectors) {
        return None;
    }
    let detectors = (0..detectors).map(|_| Detector::decode(from)).collect::<Option<Vec<_>>>()?;
    Some(Distribution { before, bounds, counts, pending, detectors })
}
