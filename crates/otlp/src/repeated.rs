//! Iterators over repeated fields of a message.
//!
//! Invariant: the slice they hold has been validated, so they never end early.

use std::marker::PhantomData;

use crate::wire::{Fields, Wire, varint};

/// A view that is read from the bytes of one message.
pub trait Message<'a>: Sized {
    /// Makes the view. The bytes belong to a request that has been validated.
    #[doc(hidden)]
    fn of(bytes: &'a [u8]) -> Self;
}

/// The messages of one repeated field, in wire order.
#[derive(Debug)]
pub struct Repeated<'a, T> {
    fields: Fields<'a>,
    number: u32,
    message: PhantomData<fn() -> T>,
}

impl<T> Clone for Repeated<'_, T> {
    fn clone(&self) -> Self {
        Self { fields: self.fields.clone(), number: self.number, message: PhantomData }
    }
}

impl<'a, T: Message<'a>> Repeated<'a, T> {
    #[inline]
    pub(crate) fn new(bytes: &'a [u8], number: u32) -> Self {
        Self { fields: Fields::new(bytes), number, message: PhantomData }
    }

    /// The same sequence from here on, leaving `self` where it is.
    #[must_use]
    pub fn iter(&self) -> Self {
        self.clone()
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.clone().raw().is_none()
    }

    /// The bytes of the next message.
    #[inline]
    fn raw(&mut self) -> Option<&'a [u8]> {
        let number = self.number;
        self.fields.find_map(|(found, wire)| (found == number).then(|| wire.bytes()))
    }
}

impl<'a, T: Message<'a>> IntoIterator for &Repeated<'a, T> {
    type Item = T;
    type IntoIter = Repeated<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'a, T: Message<'a>> Iterator for Repeated<'a, T> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        self.raw().map(T::of)
    }

    fn count(mut self) -> usize {
        let mut count = 0;
        while self.raw().is_some() {
            count += 1;
        }
        count
    }
}

/// How the numbers of a repeated numeric field stand on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Width {
    Varint,
    Fixed64,
}

/// The numbers of a repeated numeric field, packed or not, in wire order, as raw 64 bits.
#[derive(Debug, Clone)]
pub struct Numbers<'a> {
    fields: Fields<'a>,
    packed: &'a [u8],
    number: u32,
    width: Width,
}

impl<'a> Numbers<'a> {
    #[inline]
    pub(crate) fn new(bytes: &'a [u8], number: u32, width: Width) -> Self {
        Self { fields: Fields::new(bytes), packed: &[], number, width }
    }
}

impl Iterator for Numbers<'_> {
    type Item = u64;

    #[inline]
    fn next(&mut self) -> Option<u64> {
        loop {
            if !self.packed.is_empty() {
                return match self.width {
                    Width::Varint => varint(&mut self.packed),
                    Width::Fixed64 => {
                        let (bytes, rest) = self.packed.split_first_chunk()?;
                        self.packed = rest;
                        Some(u64::from_le_bytes(*bytes))
                    }
                };
            }
            match self.fields.next()? {
                (number, Wire::Len(bytes)) if number == self.number => self.packed = bytes,
                (number, wire) if number == self.number => return Some(wire.number()),
                _ => {}
            }
        }
    }
}
