//! Heads that arrive in pieces: is it worth parsing again?
//!
//! Parsing from the front on every piece costs the square of a slow sender's bytes. This looks at
//! each byte once, and finds what can never become a head (a bare CR or LF, a control character),
//! so that such a sender is refused at once and not when its time is up.

#![forbid(unsafe_code)]

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

#[cfg(test)]
mod tests {
    use super::*;

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
