//! Why a request's bytes are refused, and at which byte.

/// A request body that is not acceptable OTLP protobuf.
///
/// Every variant but the size limits names the offset in the body at which reading stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A field or a length reaches beyond the end of its message.
    #[error("byte {offset}: a field reaches beyond the end of its message")]
    Truncated {
        /// Where the field begins.
        offset: usize,
    },
    /// A varint of more than 10 bytes, or one that does not fit 64 bits.
    #[error("byte {offset}: a varint is longer than 10 bytes or exceeds 64 bits")]
    Varint {
        /// Where the varint begins.
        offset: usize,
    },
    /// A field key with number 0, beyond 2^29 - 1, or with a wire type that does not exist.
    #[error("byte {offset}: no field key (number 1 to 536870911, wire type 0, 1, 2 or 5)")]
    Tag {
        /// Where the key begins.
        offset: usize,
    },
    /// A field that OTLP defines, in a wire type that it does not have.
    #[error("byte {offset}: field {field} has another wire type than OTLP gives it")]
    WireType {
        /// Where the field's key begins.
        offset: usize,
        /// The field's number in its message.
        field: u32,
    },
    /// A group (wire types 3 and 4). OTLP has none and we skip none.
    #[error("byte {offset}: groups are not part of OTLP")]
    Group {
        /// Where the group's key begins.
        offset: usize,
    },
    /// Messages are nested deeper than the limit.
    #[error("byte {offset}: messages are nested deeper than {limit} levels")]
    Depth {
        /// Where the message that is too deep begins.
        offset: usize,
        /// The limit in force.
        limit: usize,
    },
    /// A string field that is not UTF-8.
    #[error("byte {offset}: a string is not UTF-8")]
    Utf8 {
        /// Where the string's text begins.
        offset: usize,
    },
    /// Singular messages come in more pieces than we put together.
    #[error("byte {offset}: singular messages come in more than {limit} pieces")]
    Pieces {
        /// Where the piece that is too many begins.
        offset: usize,
        /// The limit in force.
        limit: usize,
    },
    /// More spans, data points or log records than the limit.
    #[error("more than {limit} items in one request; send smaller batches")]
    TooManyItems {
        /// The limit in force.
        limit: usize,
    },
    /// More entries of resources and scopes than we handle.
    #[error("more than {limit} resource and scope entries in one request; group items by resource and scope")]
    TooManyEntries {
        /// The limit in force.
        limit: usize,
    },
    /// A body of 2 GiB or more, protobuf's own bound.
    #[error("a body of {length} bytes; protobuf messages end at 2147483647")]
    TooLarge {
        /// The body's length in bytes.
        length: usize,
    },
}

impl WireError {
    /// A short stable word for metric labels.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Truncated { .. } => "truncated",
            Self::Varint { .. } => "varint",
            Self::Tag { .. } => "tag",
            Self::WireType { .. } => "wire_type",
            Self::Group { .. } => "group",
            Self::Depth { .. } => "depth",
            Self::Utf8 { .. } => "utf8",
            Self::Pieces { .. } => "pieces",
            Self::TooManyItems { .. } => "too_many_items",
            Self::TooManyEntries { .. } => "too_many_entries",
            Self::TooLarge { .. } => "too_large",
        }
    }
}
