//! Label texts of one window, each stored once in one arena.
//!
//! Invariants: equal texts have equal [`Text`]s; a `Text` is valid until the arena is dropped or
//! truncated below it; the arena stays below 4 GiB. Never: keeps a text longer than the caller cut.

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Where a text stands in the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Text {
    start: u32,
    len: u32,
}

impl Text {
    /// Stands for "no such label".
    pub(crate) const ABSENT: Self = Self { start: u32::MAX, len: 0 };
    /// The empty text, which takes no room in the arena.
    pub(crate) const EMPTY: Self = Self { start: 0, len: 0 };
}

/// The arena and the index over it.
#[derive(Debug)]
pub(crate) struct Texts {
    arena: Vec<u8>,
    index: HashTable<Text>,
    /// In order of insertion, so that the latest can be taken back.
    order: Vec<Text>,
    seed: u64,
    /// Changes whenever places become invalid.
    generation: u32,
}

impl Texts {
    /// An empty arena; `seed` keeps the index safe from chosen collisions. `generation` must differ
    /// from that of any other arena whose places may be asked for here.
    pub(crate) fn new(seed: u64, generation: u32) -> Self {
        Self { generation, arena: Vec::new(), index: HashTable::new(), order: Vec::new(), seed }
    }

    /// The hash under which `text` is found.
    #[inline]
    pub(crate) fn hash(seed: u64, text: &str) -> u64 {
        xxh3_64_with_seed(text.as_bytes(), seed)
    }

    /// True when `id` stands for `text`.
    #[inline]
    pub(crate) fn is(&self, id: Text, text: &str) -> bool {
        self.bytes(id) == text.as_bytes() && id != Text::ABSENT
    }

    /// The text of `id`; empty for `Text::ABSENT`.
    pub(crate) fn get(&self, id: Text) -> &str {
        std::str::from_utf8(self.bytes(id)).expect("only whole texts are put into the arena")
    }

    /// The text's place if it is known.
    pub(crate) fn find(&self, hash: u64, text: &str) -> Option<Text> {
        if text.is_empty() {
            return Some(Text::EMPTY);
        }
        self.index.find(hash, |id| self.bytes(*id) == text.as_bytes()).copied()
    }

    /// The text's place, stored if it is new. `None` when the arena is full.
    pub(crate) fn intern(&mut self, hash: u64, text: &str) -> Option<Text> {
        if let Some(known) = self.find(hash, text) {
            return Some(known);
        }
        let start = u32::try_from(self.arena.len()).ok()?;
        let len = u32::try_from(text.len()).ok()?;
        start.checked_add(len).filter(|end| *end < u32::MAX)?;
        self.arena.extend_from_slice(text.as_bytes());
        let id = Text { start, len };
        self.order.push(id);
        let Self { arena, index, seed, .. } = self;
        index.insert_unique(hash, id, |id| xxh3_64_with_seed(slice(arena, *id), *seed));
        Some(id)
    }

    /// How many texts are stored: a mark for `truncate`.
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    /// Forgets what was stored after the mark.
    pub(crate) fn truncate(&mut self, mark: usize) {
        self.generation = self.generation.wrapping_add(1);
        for id in self.order.split_off(mark.min(self.order.len())).into_iter().rev() {
            let hash = xxh3_64_with_seed(self.bytes(id), self.seed);
            if let Ok(entry) = self.index.find_entry(hash, |known| *known == id) {
                entry.remove();
            }
            self.arena.truncate(id.start as usize);
        }
    }

    /// Which places are valid: those taken at the same generation.
    #[inline]
    pub(crate) const fn generation(&self) -> u32 {
        self.generation
    }

    /// Bytes on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.arena.capacity() + self.index.allocation_size() + self.order.capacity() * size_of::<Text>()
    }

    #[inline]
    fn bytes(&self, id: Text) -> &[u8] {
        slice(&self.arena, id)
    }
}

#[inline]
fn slice(arena: &[u8], id: Text) -> &[u8] {
    let start = id.start as usize;
    arena.get(start..start + id.len as usize).unwrap_or_default()
}

/// `text`, cut to at most `limit` bytes on a character boundary, and whether it was cut.
#[inline]
pub(crate) fn cut(text: &str, limit: usize) -> (&str, bool) {
    if text.len() <= limit { (text, false) } else { (&text[..text.floor_char_boundary(limit)], true) }
}
