//! Choices drawn from a string of bytes: the same bytes make the same choices, and shorter bytes
//! simpler ones, so that a property test shrinks and a corpus can be made from seeds.

/// A source of choices; zeros when the bytes are used up.
pub(crate) struct Draw<'a> {
    bytes: &'a [u8],
}

impl<'a> Draw<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let (first, rest) = self.bytes.split_first().map_or((0, self.bytes), |(first, rest)| (*first, rest));
        self.bytes = rest;
        first
    }

    /// A number below `end`, at most 256.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end
    }

    /// True one time in `n`; false when the bytes are used up.
    pub(crate) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == n - 1
    }

    pub(crate) fn u64(&mut self) -> u64 {
        match self.below(4) {
            0 => u64::from(self.byte()),
            1 => u64::MAX - u64::from(self.byte()),
            2 => 1 << self.below(64),
            _ => u64::from_le_bytes(std::array::from_fn(|_| self.byte())),
        }
    }

    pub(crate) fn u32(&mut self) -> u32 {
        self.u64() as u32
    }

    pub(crate) fn f64(&mut self) -> f64 {
        match self.below(5) {
            0 => f64::from(self.byte()),
            1 => f64::NAN,
            2 => f64::NEG_INFINITY,
            3 => -0.0,
            _ => f64::from_bits(self.u64()),
        }
    }

    pub(crate) fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.below(3) > 0).then(|| make(self))
    }

    /// Up to `most` of what `make` makes.
    pub(crate) fn list<T>(&mut self, most: usize, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let count = self.below(most + 1);
        (0..count).map(|_| make(self)).collect()
    }

    pub(crate) fn bytes(&mut self) -> Vec<u8> {
        let length = match self.below(4) {
            0 => 0,
            1 => 16,
            2 => self.below(20),
            _ => self.below(200),
        };
        (0..length).map(|_| self.byte()).collect()
    }

    pub(crate) fn string(&mut self) -> String {
        const PLAIN: &[&str] = &[
            "",
            "service.name",
            "http.route",
            "/api/cart",
            "GET",
            "checkout",
            "host.name",
            "a",
            "key",
            "v",
            "ß",
            "日本語",
            "🦀\n\"<\u{2028}",
        ];
        let mut text = PLAIN[self.below(PLAIN.len())].to_owned();
        if self.one_in(8) {
            text = text.repeat(self.below(40));
        }
        if self.one_in(4) {
            text.push_str(&String::from_utf8_lossy(&self.bytes()));
        }
        text
    }
}
