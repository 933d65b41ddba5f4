//! The hash ring of the OpenTelemetry Collector's load-balancing exporter.
//!
//! Positions are CRC-32/IEEE modulo 36,000. Every member takes 100 points: the CRC of its name
//! followed by one byte, 0 to 99. Members are placed in byte order and a point that is taken stays
//! with the first. A key belongs to the first point at or behind its position, around the circle.

const POSITIONS: u32 = 36_000;
const POINTS_PER_MEMBER: u8 = 100;

#[derive(Debug, Clone)]
pub(crate) struct Circle {
    /// Points by position: where, and which member.
    points: Vec<(u32, usize)>,
}

impl Circle {
    /// Members are sorted and distinct.
    pub(crate) fn new(members: &[String]) -> Self {
        let mut points: Vec<(u32, usize)> = Vec::with_capacity(members.len() * usize::from(POINTS_PER_MEMBER));
        for (index, member) in members.iter().enumerate() {
            let mut name = crc32fast::Hasher::new();
            name.update(member.as_bytes());
            for point in 0..POINTS_PER_MEMBER {
                let mut hasher = name.clone();
                hasher.update(&[point]);
                points.push((hasher.finalize() % POSITIONS, index));
            }
        }
        // Sorted by position, then member: what is kept of a shared position is the first member.
        points.sort_unstable();
        points.dedup_by_key(|(position, _)| *position);
        Self { points }
    }

    pub(crate) fn owner(&self, key: &[u8]) -> Option<usize> {
        let position = crc32fast::hash(key) % POSITIONS;
        let at = self.points.partition_point(|(point, _)| *point < position);
        self.points.get(at).or_else(|| self.points.first()).map(|(_, member)| *member)
    }

    /// All points, for the tests.
    #[cfg(test)]
    pub(crate) fn points(&self) -> &[(u32, usize)] {
        &self.points
    }
}
