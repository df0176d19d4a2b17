//! Looks through the bytes of heads, many at a time.
//!
//! Heads that arrive in pieces: is it worth parsing again? Parsing from the front on every piece
//! costs the square of a slow sender's bytes. This looks at each byte once, and finds what can
//! never become a head (a bare CR or LF, a control character), so that such a sender is refused at
//! once and not when its time is up.
//!
//! Heads that are here: where does the name, the value end? The only unsafe code is the comparison
//! of sixteen bytes that are there.

#![expect(unsafe_code, reason = "the processor compares sixteen bytes at once")]

use super::head::HeadError;
use crate::limits::HEAD_BYTES_MAX;
use memchr::memchr2;

/// Remembers how far one head was looked at.
#[derive(Clone, Debug)]
pub struct HeadScan {
    /// A head of this size is complete or refused; parsing says which.
    bytes_max: usize,
    /// All bytes before this one were looked at; no line feed before it ends the head.
    scanned: usize,
}

impl HeadScan {
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max: bytes_max.min(HEAD_BYTES_MAX), scanned: 0 }
    }

    /// Would parsing `bytes` (all of the head so far) give a verdict? That is so when its empty
    /// line is there, something that no head contains, or as many bytes as a head may have.
    pub fn is_complete(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() >= self.bytes_max {
            return true;
        }
        // A CR that was the last byte is looked at again, together with what follows it.
        let seen = &bytes[..self.scanned.min(bytes.len())];
        let start = seen.len() - usize::from(seen.ends_with(b"\r"));
        if has_control(&bytes[start..]) {
            return true;
        }
        let mut position = start;
        while let Some(found) = memchr2(b'\r', b'\n', &bytes[position..]) {
            let at = position + found;
            match line_end_at(bytes, at) {
                LineEnd::Bare => return true,
                LineEnd::Open => break,
                LineEnd::Whole if ends_head(bytes, at) => return true,
                LineEnd::Whole => position = at + 2,
            }
        }
        self.scanned = bytes.len();
        false
    }

    /// For the next head.
    pub fn reset(&mut self) {
        self.scanned = 0;
    }
}

/// What makes these bytes, all of them part of one head, hopeless: looked for when a head is not
/// complete.
pub(super) fn find_error(bytes: &[u8]) -> Option<HeadError> {
    let mut position = 0;
    while let Some(found) = memchr2(b'\r', b'\n', &bytes[position..]) {
        match line_end_at(bytes, position + found) {
            LineEnd::Bare => return Some(HeadError::BadLineEnd),
            LineEnd::Open => break,
            LineEnd::Whole => position += found + 2,
        }
    }
    has_control(bytes).then_some(HeadError::ControlCharacter)
}

enum LineEnd {
    /// CR without LF or LF without CR.
    Bare,
    /// CR as the last byte so far.
    Open,
    Whole,
}

/// Judges the CR or LF at `at`. An LF with its CR is never met: both are stepped over together.
fn line_end_at(bytes: &[u8], at: usize) -> LineEnd {
    match &bytes[at..] {
        [b'\r'] => LineEnd::Open,
        [b'\r', b'\n', ..] => LineEnd::Whole,
        _ => LineEnd::Bare,
    }
}

/// Is the line end at `at` the second in a row?
fn ends_head(bytes: &[u8], at: usize) -> bool {
    bytes[..at].ends_with(b"\r\n")
}

/// A control character other than tab, CR and LF. Written so that the compiler compares many bytes
/// at a time.
fn has_control(bytes: &[u8]) -> bool {
    bytes.chunks(256).any(|block| block.iter().fold(false, |found, byte| found | is_control(*byte)))
}

fn is_control(byte: u8) -> bool {
    (byte < b' ' && byte != b'\t' && byte != b'\r' && byte != b'\n') || byte == 0x7f
}

/// Where the first byte from `start` on lies that is `STOP`, less than `LEAST`, or not one of
/// ASCII's printable characters. `None`: nowhere, or within fewer than sixteen bytes in all, which
/// are no head.
#[inline]
pub(super) fn find_end<const LEAST: u8, const STOP: u8>(
    bytes: &[u8],
    start: usize,
) -> Option<usize> {
    let mut at = start;
    while let Some(block) = bytes.get(at..).and_then(|rest| rest.first_chunk()) {
        let marks = mark_ends::<LEAST, STOP>(block);
        if marks != 0 {
            return Some(at + marks.trailing_zeros() as usize);
        }
        at += BLOCK_BYTES;
    }
    // The last block overlaps the one before it; what was seen there is no end.
    let left = bytes.len().checked_sub(at).filter(|left| *left > 0)?;
    let marks = mark_ends::<LEAST, STOP>(bytes.last_chunk()?) >> (BLOCK_BYTES - left);
    (marks != 0).then(|| at + marks.trailing_zeros() as usize)
}

const BLOCK_BYTES: usize = 16;

/// A bit for each byte of the block that ends something, the first byte's the lowest.
#[cfg(target_arch = "x86_64")]
#[inline]
fn mark_ends<const LEAST: u8, const STOP: u8>(block: &[u8; BLOCK_BYTES]) -> u32 {
    use std::arch::x86_64::{
        _mm_cmpeq_epi8, _mm_cmplt_epi8, _mm_loadu_si128, _mm_movemask_epi8, _mm_or_si128,
        _mm_set1_epi8,
    };
    // SAFETY: SSE2 is part of x86_64, so the processor has these instructions. The load needs no
    // alignment and reads the sixteen bytes that `block` borrows; a shorter type would break this.
    let marks = unsafe {
        let bytes = _mm_loadu_si128(block.as_ptr().cast());
        // Bytes beyond ASCII are negative here, and so less than any.
        let is_less = _mm_cmplt_epi8(bytes, _mm_set1_epi8(LEAST.cast_signed()));
        let is_delete = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(DELETE.cast_signed()));
        let is_stop = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(STOP.cast_signed()));
        _mm_movemask_epi8(_mm_or_si128(is_less, _mm_or_si128(is_delete, is_stop)))
    };
    marks.cast_unsigned()
}

#[cfg(not(target_arch = "x86_64"))]
fn mark_ends<const LEAST: u8, const STOP: u8>(block: &[u8; BLOCK_BYTES]) -> u32 {
    mark_ends_one_by_one::<LEAST, STOP>(block)
}

#[cfg(any(test, not(target_arch = "x86_64")))]
fn mark_ends_one_by_one<const LEAST: u8, const STOP: u8>(block: &[u8; BLOCK_BYTES]) -> u32 {
    let is_end = |byte: u8| byte == STOP || !(LEAST..DELETE).contains(&byte);
    let bytes = block.iter().enumerate();
    bytes.fold(0, |marks, (at, byte)| marks | u32::from(is_end(*byte)) << at)
}

pub(super) const DELETE: u8 = 0x7f;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_first_end_wherever_it_is() {
        for at in 0..40 {
            for byte in 0..=255_u8 {
                let mut bytes = [b'a'; 42];
                bytes[at] = byte;
                // What comes behind the first one must not matter.
                bytes[at + 1] = 0;
                let want = |is_end: bool| Some(if is_end { at } else { at + 1 });
                let is_end_of_name = mark_ends_one_by_one::<0x21, b':'>(&[byte; 16]) != 0;
                let is_end_of_value = mark_ends_one_by_one::<0x20, DELETE>(&[byte; 16]) != 0;
                for start in [0, at / 2, at] {
                    let of_name = find_end::<0x21, b':'>(&bytes, start);
                    assert_eq!(of_name, want(is_end_of_name), "{byte} at {at} from {start}");
                    let of_value = find_end::<0x20, DELETE>(&bytes, start);
                    assert_eq!(of_value, want(is_end_of_value), "{byte} at {at} from {start}");
                }
                assert_eq!(find_end::<0x20, DELETE>(&bytes, at + 1), Some(at + 1));
            }
        }
        let plain = [b'a'; 42];
        for (bytes, start) in [(0, 0), (15, 0), (16, 0), (16, 16), (16, 17), (42, 1), (42, 43)] {
            assert_eq!(find_end::<0x20, DELETE>(&plain[..bytes], start), None, "{bytes} {start}");
        }
    }

    /// What is looked for, said as plainly as possible: an offset after which a verdict is
    /// possible.
    fn verdict_at(bytes: &[u8]) -> Option<usize> {
        (0..=bytes.len()).find(|end| {
            let bytes = &bytes[..*end];
            let is_bare = |at: usize| match bytes[at] {
                b'\r' => bytes.get(at + 1).is_some_and(|next| *next != b'\n'),
                b'\n' => at == 0 || bytes[at - 1] != b'\r',
                byte => byte < 32 && byte != 9 || byte == 127,
            };
            (0..*end).any(is_bare) || bytes.ends_with(b"\r\n\r\n")
        })
    }

    /// Pseudo-random (xorshift), so that a failure can be repeated.
    fn next(seed: &mut u64) -> usize {
        *seed ^= *seed << 13;
        *seed ^= *seed >> 7;
        *seed ^= *seed << 17;
        (*seed >> 32) as usize
    }

    #[test]
    fn agrees_with_the_plain_definition_however_the_bytes_arrive() {
        let parts: [&[u8]; 8] =
            [b"\r\n", b"\r\n", b"\r\n", b"Host: a", b"\r", b"\n", b"\t x", b"GET / HTTP/1.1"];
        let mut seed = 0x9e37_79b9_7f4a_7c15;
        for round in 0..3000 {
            let count = next(&mut seed) % 12;
            let mut bytes = Vec::new();
            for _ in 0..count {
                bytes.extend_from_slice(parts[next(&mut seed) % parts.len()]);
            }
            let want = verdict_at(&bytes);
            let mut scan = HeadScan::new(HEAD_BYTES_MAX);
            let mut end = 0;
            while end < bytes.len() {
                end = (end + 1 + next(&mut seed) % 9).min(bytes.len());
                let is_decided = want.is_some_and(|want| want <= end);
                assert_eq!(scan.is_complete(&bytes[..end]), is_decided, "{round}: {bytes:?} {end}");
                if is_decided {
                    break;
                }
            }
        }
    }

    #[test]
    fn finds_each_control_character_wherever_it_is() {
        for byte in 0..=255u8 {
            let is_forbidden = matches!(byte, 0..=8 | 11 | 12 | 14..=31 | 127);
            for at in [0, 1, 15, 31, 32, 255, 256, 299] {
                let mut bytes = [b'a'; 300];
                bytes[at] = byte;
                assert_eq!(has_control(&bytes), is_forbidden, "{byte} at {at}");
            }
        }
    }

    #[test]
    fn a_full_buffer_gets_a_verdict_and_a_new_head_starts_over() {
        let mut scan = HeadScan::new(8);
        assert!(!scan.is_complete(b"GET /aa"));
        assert!(scan.is_complete(b"GET /aaa"));
        scan.reset();
        assert!(scan.is_complete(b"a\r\n\r\n"));
        scan.reset();
        assert!(!scan.is_complete(b"a\r\nb\r"));
        assert!(!scan.is_complete(b"a\r\nb\r\n"));
        assert!(!scan.is_complete(b"a\r\nb\r\n\r"));
    }
}
