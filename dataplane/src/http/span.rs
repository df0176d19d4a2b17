//! A piece of a head, as offsets into the bytes that were parsed.
//!
//! Heads live in buffers that move between owners, so nothing here borrows them: a span means
//! something only together with the very bytes it was parsed from.

#![forbid(unsafe_code)]

use crate::limits::HEAD_BYTES_MAX;

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Span {
    pub start: u32,
    pub end: u32,
}

const _: () = assert!(HEAD_BYTES_MAX <= u32::MAX as usize, "offsets into a head are u32");

impl Span {
    /// Where `start..end` lies in a head; heads are shorter than `HEAD_BYTES_MAX`, so both fit.
    pub(super) fn new(start: usize, end: usize) -> Self {
        debug_assert!(start <= end && end <= HEAD_BYTES_MAX);
        Self { start: offset(start), end: offset(end) }
    }

    /// Where `part`, a subslice of `whole`, begins and ends in it.
    pub(super) fn locate(part: &[u8], whole: &[u8]) -> Self {
        let start = part.as_ptr().addr() - whole.as_ptr().addr();
        Self::new(start, start + part.len())
    }

    #[inline]
    pub fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start as usize..self.end as usize]
    }

    #[inline]
    pub fn len(self) -> usize {
        (self.end - self.start) as usize
    }

    #[inline]
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }
}

/// An offset into a head as a `u32`.
#[expect(
    clippy::cast_possible_truncation,
    reason = "parsers look at no more than HEAD_BYTES_MAX bytes, which fits"
)]
pub(super) fn offset(bytes: usize) -> u32 {
    bytes as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locates_a_part_in_the_whole() {
        let whole = b"GET /orders HTTP/1.1";
        let span = Span::locate(&whole[4..11], whole);
        assert_eq!(span, Span { start: 4, end: 11 });
        assert_eq!(span.of(whole), b"/orders");
        assert_eq!(span.len(), 7);
        assert!(!span.is_empty());
        assert!(Span::locate(&whole[20..], whole).is_empty());
    }
}
