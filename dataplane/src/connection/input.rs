//! Received bytes that are not understood yet, kept contiguous for the parser.
//!
//! The usual head arrives in one piece and stays where the kernel put it. Anything else is copied
//! to the heap at once, so that a client that sends its head byte by byte cannot hold a receive
//! buffer.

#![forbid(unsafe_code)]

use crate::{
    engine::Chunk,
    http::HeadScan,
    limits::{HEAD_BYTES_MAX, HEADROOM_BYTES},
};

#[derive(Default)]
pub(crate) enum Input {
    #[default]
    Empty,
    /// One piece, as received. Short-lived: parsed in the same turn, or copied.
    Whole(Chunk),
    /// Bytes behind HEADROOM_BYTES of free room, and how far they were searched for the end of the
    /// head.
    Assembling { bytes: Vec<u8>, scan: HeadScan },
}

impl Input {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Empty => 0,
            Self::Whole(chunk) => chunk.len(),
            Self::Assembling { bytes, .. } => bytes.len() - HEADROOM_BYTES,
        }
    }

    #[inline]
    pub(crate) fn push(&mut self, chunk: Chunk) {
        match self {
            Self::Empty => *self = Self::Whole(chunk),
            Self::Whole(first) => {
                *self = Self::assemble(first);
                self.push(chunk);
            }
            Self::Assembling { bytes, .. } => bytes.extend_from_slice(&chunk),
        }
    }

    /// All bytes, whatever they are.
    pub(crate) fn take_all(&mut self) -> Chunk {
        match std::mem::take(self) {
            Self::Empty => Chunk::from_static(b""),
            Self::Whole(chunk) => chunk,
            Self::Assembling { bytes, .. } => Chunk::from_vec(bytes, HEADROOM_BYTES),
        }
    }

    /// Gives the receive buffer back, if there is one, by copying what it holds.
    pub(crate) fn copy_out(&mut self) {
        let Self::Whole(chunk) = self else { return };
        if !chunk.holds_slot() {
            return;
        }
        *self = Self::assemble(chunk);
    }

    fn assemble(chunk: &Chunk) -> Self {
        let mut bytes = Vec::with_capacity(HEADROOM_BYTES + 2 * chunk.len());
        bytes.resize(HEADROOM_BYTES, 0);
        bytes.extend_from_slice(chunk);
        Self::Assembling { bytes, scan: HeadScan::new(HEAD_BYTES_MAX) }
    }

    /// As [`Self::push`] and [`Self::take_for_parsing`]: the usual head goes through untouched.
    #[inline]
    pub(crate) fn take_with(&mut self, chunk: Chunk, bytes_max: usize) -> Option<Chunk> {
        if self.is_empty() && !chunk.is_empty() {
            return Some(chunk);
        }
        if !chunk.is_empty() {
            self.push(chunk);
        }
        self.take_for_parsing(bytes_max)
    }

    /// Takes all bytes for parsing when that can bring something new: a first piece always (rubbish
    /// shows early), later ones once the end of a head is among them or `bytes_max` is reached.
    #[inline]
    pub(crate) fn take_for_parsing(&mut self, bytes_max: usize) -> Option<Chunk> {
        match std::mem::take(self) {
            Self::Empty => None,
            Self::Whole(chunk) => Some(chunk),
            Self::Assembling { bytes, mut scan } => {
                let complete = scan.is_complete(&bytes[HEADROOM_BYTES..]);
                if complete || bytes.len() - HEADROOM_BYTES >= bytes_max {
                    return Some(Chunk::from_vec(bytes, HEADROOM_BYTES));
                }
                *self = Self::Assembling { bytes, scan };
                None
            }
        }
    }
}
