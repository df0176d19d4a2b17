//! Heads that arrive in pieces: is it worth parsing again?
//!
//! Parsing from the front on every piece costs the square of a slow sender's bytes. This looks at each byte once, and
//! finds what can never become a head (a bare CR or LF, a control character), so that such a sender is refused at
//! once and not when its time is up.

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

    /// Would parsing `bytes` (all of the head so far) give a verdict? That is so when its empty line is there,
    /// something that no head contains, or as many bytes as a head may have.
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

/// What makes these bytes, all of them part of one head, hopeless: looked for when a head is not complete.
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

/// A control character other than tab, CR and LF. Written so that the compiler compares many bytes at a time.
fn has_control(bytes: &[u8]) -> bool {
    bytes.chunks(256).any(|block| block.iter().fold(false, |found, byte| found | is_control(*byte)))
}

fn is_control(byte: u8) -> bool {
    (byte < b' ' && byte != b'\t' && byte != b'\r' && byte != b'\n') || byte == 0x7f
}
