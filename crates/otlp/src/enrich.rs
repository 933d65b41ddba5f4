//! Adds attributes to the resources of a request by splicing bytes: nothing is decoded.
//!
//! An attribute is encoded once ([`Addition`]) and copied behind the attributes that a resource has;
//! only the lengths of the resource and of its entry are written anew. Both walks are linear in the
//! resources of the request and in what is written, whatever the number of spans.
//!
//! Invariants: an attribute is added only when the resource has none of that name (an empty one
//! counts as one: to change it is not ours); of two additions with one name the first counts;
//! everything else keeps its bytes and its order; the result is a valid request with the same items.
//!
//! Never: overwrites or removes an attribute, makes a request of 2 GiB or more (it stays as it was).

use std::ops::Range;

use bytes::Bytes;

use crate::repeated::Message;
use crate::request::Request;
use crate::resource::Resource;
use crate::value::{Entry, Value};
use crate::wire::{Fields, put_header, varint_len};

/// A request is shorter than this (`Request::parse`).
const MAX_BYTES: usize = 1 << 31;

/// A string attribute in its wire form, ready to be added to resources.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Addition {
    /// The whole field of a `Resource`: key and length included.
    field: Box<[u8]>,
    /// Where the attribute's name stands in it.
    key: Range<u32>,
}

impl Addition {
    /// An attribute with a string value.
    pub fn string(key: &str, value: &str) -> Self {
        let string = 1 + varint_len(value.len()) + value.len();
        let name = 1 + varint_len(key.len()) + key.len();
        let body = name + 1 + varint_len(string) + string;
        let mut field = Vec::with_capacity(1 + varint_len(body) + body);
        put_header(&mut field, 1, body);
        put_header(&mut field, 1, key.len());
        let from = field.len();
        field.extend_from_slice(key.as_bytes());
        let key = from as u32..field.len() as u32;
        put_header(&mut field, 2, string);
        put_header(&mut field, 1, value.len());
        field.extend_from_slice(value.as_bytes());
        Self { field: field.into_boxed_slice(), key }
    }

    /// The attribute's name.
    pub fn key(&self) -> &str {
        crate::wire::text(self.key_bytes())
    }

    /// The attribute's value.
    pub fn value(&self) -> &str {
        let body = Fields::new(&self.field).find(1).map_or(&[][..], |wire| wire.bytes());
        match Entry::of(body).value() {
            Value::Str(value) => value,
            _ => "",
        }
    }

    /// Bytes that it takes on the heap, which are the bytes that it adds to a resource.
    pub fn heap_bytes(&self) -> usize {
        self.field.len()
    }

    #[inline]
    fn key_bytes(&self) -> &[u8] {
        self.field.get(self.key.start as usize..self.key.end as usize).unwrap_or_default()
    }
}

impl std::fmt::Debug for Addition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.key(), self.value())
    }
}

/// Adds to each resource the attributes that it lacks. The request itself is returned, its bytes
/// shared, when no resource lacks any.
///
/// `attributes_of` is called once per resource entry, in order; what it returns is in the order in
/// which the attributes are added. An entry without a resource gets one.
pub fn add_resource_attributes<'t, A>(request: &Request, mut attributes_of: impl FnMut(&Resource<'_>) -> A) -> Request
where
    A: IntoIterator<Item = &'t Addition>,
{
    let body = &request.bytes()[..];
    let mut plan = Plan::default();
    let mut fields = Fields::new(body);
    loop {
        let start = body.len() - fields.rest().len();
        let Some((number, wire)) = fields.next() else { break };
        if number == 1 {
            let end = body.len() - fields.rest().len();
            plan.entry(start..end, wire.bytes(), &mut attributes_of);
        }
    }
    let length = body.len() + plan.growth;
    if plan.entries.is_empty() || length >= MAX_BYTES {
        return request.clone();
    }
    request.with_bytes(plan.write(body, length))
}

/// An entry whose resource gets something.
struct Changed {
    /// The whole field of the entry.
    at: Range<usize>,
    /// Length of the entry's body.
    body: usize,
    /// The whole field of the resource inside the body; an empty range at 0 when there is none.
    resource: Range<usize>,
    /// The resource's message, at the end of `resource`.
    attributes: usize,
    /// Of [`Plan::added`].
    added: Range<usize>,
    /// Bytes of what is added.
    growth: usize,
}

impl Changed {
    fn new_resource(&self) -> usize {
        self.attributes + self.growth
    }

    fn new_body(&self) -> usize {
        let resource = self.new_resource();
        self.body - self.resource.len() + 1 + varint_len(resource) + resource
    }

    fn new_field(&self) -> usize {
        let body = self.new_body();
        1 + varint_len(body) + body
    }
}

#[derive(Default)]
struct Plan<'t> {
    entries: Vec<Changed>,
    added: Vec<&'t Addition>,
    growth: usize,
}

impl<'t> Plan<'t> {
    fn entry<A>(&mut self, at: Range<usize>, body: &[u8], attributes_of: &mut impl FnMut(&Resource<'_>) -> A)
    where
        A: IntoIterator<Item = &'t Addition>,
    {
        let resource = Resource::in_entry(body);
        let present = Present::of(&resource);
        let from = self.added.len();
        let mut growth = 0;
        for addition in attributes_of(&resource) {
            let key = addition.key_bytes();
            if !present.has(&resource, key) && self.added[from..].iter().all(|earlier| earlier.key_bytes() != key) {
                growth += addition.field.len();
                self.added.push(addition);
            }
        }
        if growth == 0 {
            return;
        }
        let changed = Changed {
            at,
            body: body.len(),
            resource: resource_field(body),
            attributes: resource.raw().len(),
            added: from..self.added.len(),
            growth,
        };
        // An upper bound: lengths that were written in more bytes than needed get shorter.
        self.growth = (self.growth + changed.new_field()).saturating_sub(changed.at.len());
        self.entries.push(changed);
    }

    fn write(&self, body: &[u8], length: usize) -> Bytes {
        let mut out = Vec::with_capacity(length);
        let mut from = 0;
        for entry in &self.entries {
            out.extend_from_slice(body.get(from..entry.at.start).unwrap_or_default());
            put_header(&mut out, 1, entry.new_body());
            let message = body.get(entry.at.end - entry.body..entry.at.end).unwrap_or_default();
            let (before, rest) = message.split_at_checked(entry.resource.start).unwrap_or((message, &[]));
            let (resource, after) = rest.split_at_checked(entry.resource.len()).unwrap_or((rest, &[]));
            out.extend_from_slice(before);
            put_header(&mut out, 1, entry.new_resource());
            out.extend_from_slice(resource.get(resource.len() - entry.attributes..).unwrap_or_default());
            for addition in self.added.get(entry.added.clone()).unwrap_or_default() {
                out.extend_from_slice(&addition.field);
            }
            out.extend_from_slice(after);
            from = entry.at.end;
        }
        out.extend_from_slice(body.get(from..).unwrap_or_default());
        Bytes::from(out)
    }
}

/// Where the resource's field stands in an entry's body; `0..0` when it has none.
fn resource_field(body: &[u8]) -> Range<usize> {
    let mut fields = Fields::new(body);
    loop {
        let start = body.len() - fields.rest().len();
        match fields.next() {
            Some((1, _)) => return start..body.len() - fields.rest().len(),
            Some(_) => {}
            None => return 0..0,
        }
    }
}

/// Which names a resource may have: one walk answers nearly every question about absence.
struct Present(u64);

impl Present {
    fn of(resource: &Resource<'_>) -> Self {
        Self(resource.attributes().entries().fold(0, |bits, entry| bits | Self::bit(entry.key)))
    }

    fn has(&self, resource: &Resource<'_>, key: &[u8]) -> bool {
        self.0 & Self::bit(key) != 0 && resource.attributes().entries().any(|entry| entry.key == key)
    }

    #[inline]
    fn bit(key: &[u8]) -> u64 {
        let at = |index: usize| u32::from(key.get(index).copied().unwrap_or(0));
        let mixed = (key.len() as u32).wrapping_mul(0x9E37_79B1)
            ^ at(key.len() / 2).wrapping_mul(0x85EB_CA6B)
            ^ at(key.len().wrapping_sub(2)).wrapping_mul(0xC2B2_AE35);
        1 << (mixed >> 26)
    }
}
