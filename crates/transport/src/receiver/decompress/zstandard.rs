//! zstd (RFC 8878): whole frames at once when they say how long they are, streams otherwise, over kept
//! contexts.
//!
//! A stream's window is memory that the sender chooses: at most 8 MiB as the RFC recommends for
//! interoperability (§3.1.1.1.2), and paid for as far as it can be filled.

use std::cell::RefCell;

use bytes::{Buf as _, Bytes};
use zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, ResetDirective, get_error_name};

use super::{Output, SLICE};
use crate::receiver::fault::Fault;

/// Contexts that a thread keeps.
const KEPT: usize = 2;
/// A context that grew beyond this is not kept.
const MAX_KEPT: usize = 512 << 10;
/// The largest window, as a power of two.
const WINDOW_LOG: u32 = 23;

thread_local! {
    static CONTEXTS: RefCell<Vec<DCtx<'static>>> = const { RefCell::new(Vec::new()) };
}

/// A context that goes back to its thread.
struct Context(Option<DCtx<'static>>);

impl Context {
    fn take() -> Self {
        let kept = CONTEXTS.with_borrow_mut(Vec::pop);
        Self(Some(kept.unwrap_or_else(|| {
            let mut context = DCtx::create();
            context.set_parameter(DParameter::WindowLogMax(WINDOW_LOG)).expect("the limit is one that zstd knows");
            context
        })))
    }

    fn get(&mut self) -> &mut DCtx<'static> {
        self.0.as_mut().expect("the context is taken only by drop")
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        let Some(mut context) = self.0.take() else { return };
        if context.sizeof() > MAX_KEPT || context.reset(ResetDirective::SessionOnly).is_err() {
            return;
        }
        // A thread that is ending keeps nothing.
        let _ended = CONTEXTS.try_with(|contexts| {
            let mut contexts = contexts.borrow_mut();
            if contexts.len() < KEPT {
                contexts.push(context);
            }
        });
    }
}

/// What a frame's header says (RFC 8878 §3.1.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    /// The length of its content, when this is the only frame.
    pub(super) content: Option<usize>,
    /// The window that decoding it needs.
    pub(super) window: usize,
}

/// Reads the frame header at the start of `input`; none when there is no data frame.
pub(super) fn frame(input: &[u8]) -> Option<Frame> {
    let [0x28, 0xb5, 0x2f, 0xfd, descriptor, rest @ ..] = input else { return None };
    let content = zstd::zstd_safe::get_frame_content_size(input).ok().flatten();
    let single_segment = descriptor & 0x20 != 0;
    let window = if single_segment {
        content.unwrap_or(0)
    } else {
        let byte = *rest.first()?;
        let base = 1_u64 << (10 + u32::from(byte >> 3));
        base + base / 8 * u64::from(byte & 7)
    };
    let alone = zstd::zstd_safe::find_frame_compressed_size(input).is_ok_and(|length| length == input.len());
    Some(Frame {
        content: content.filter(|_| alone).and_then(|content| usize::try_from(content).ok()),
        window: usize::try_from(window).unwrap_or(usize::MAX),
    })
}

/// Decompresses one frame of known length; the output is its own window.
pub(super) fn one_shot(input: &[u8], mut output: Output<'_>) -> Result<Bytes, Fault> {
    match Context::take().get().decompress(&mut output.buffer, input) {
        Ok(_) => output.finish(),
        Err(code) => Err(output.corrupt(get_error_name(code))),
    }
}

/// A stream of frames with what is left of its input.
pub(super) struct ZstdStream {
    input: Bytes,
    context: Context,
    /// Between two frames.
    boundary: bool,
}

impl ZstdStream {
    pub(super) fn new(input: Bytes) -> Self {
        Self { input, context: Context::take(), boundary: true }
    }

    /// See [`super::Decoder::step`].
    pub(super) fn step(&mut self, output: &mut Output<'_>) -> Result<bool, Fault> {
        if self.boundary {
            if self.input.is_empty() {
                return Ok(true);
            }
            if let Some(frame) = frame(&self.input)
                && frame.window > output.window
            {
                // Paid for by the next `grow`, before anything is written.
                output.window = frame.window.min(1 << WINDOW_LOG);
                self.boundary = false;
                return Ok(false);
            }
            self.boundary = false;
        }
        let position = output.buffer.len();
        let mut source = InBuffer::around(&self.input[..self.input.len().min(SLICE)]);
        let mut target = OutBuffer::around_pos(&mut output.buffer, position);
        let hint = self.context.get().decompress_stream(&mut target, &mut source);
        let (consumed, end) = (source.pos(), target.pos());
        let hint = hint.map_err(|code| output.corrupt(get_error_name(code)))?;
        self.input.advance(consumed);
        self.boundary = hint == 0;
        let stuck = consumed == 0 && end == position;
        if !self.boundary && stuck && self.input.is_empty() && end < output.buffer.capacity() {
            return Err(output.corrupt("it ends early"));
        }
        Ok(false)
    }
}
