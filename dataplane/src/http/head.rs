//! What request and response heads have in common: their header lines, and the bounds and line ends
//! of the whole.
//!
//! httparse finds the parts and refuses characters that belong nowhere; it is lenient about line
//! ends, so these are checked here. A head is only ever accepted with CRLF at the end of each line
//! (RFC 9112 §2.2 lets us insist).

#![forbid(unsafe_code)]

use super::{
    field::{Field, FieldSet},
    scan,
    span::{Span, offset},
    trailer::{NominatedNames, hash_name},
};
use crate::limits::{HEAD_BYTES_MAX, HEADER_LINES_MAX};
use arrayvec::ArrayVec;

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Version {
    Http10,
    #[default]
    Http11,
}

impl Version {
    /// From httparse's minor version, which is 0 or 1.
    pub(super) fn from_minor(minor: Option<u8>) -> Self {
        if minor == Some(0) { Self::Http10 } else { Self::Http11 }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Parsed {
    Complete,
    /// More bytes are needed; nothing in the head means anything yet.
    Partial,
}

/// One header line. It begins where its name begins.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Line {
    pub name: Span,
    /// Without the optional whitespace around it.
    pub value: Span,
    /// After its CRLF, where the next line begins.
    pub end: u32,
    pub field: Field,
    /// Named in `Connection`, so it concerns this connection only. Never set on framing lines or
    /// `Host`: a sender must not be able to have them removed.
    pub nominated: bool,
}

/// The header lines of a head, in their order.
#[derive(Debug, Default)]
pub struct Lines {
    lines: ArrayVec<Line, HEADER_LINES_MAX>,
    seen: FieldSet,
    repeated: FieldSet,
    /// What `Connection` names, as [`hash_name`] has it.
    nominated: NominatedNames,
}

impl Lines {
    #[inline]
    pub fn iter(&self) -> std::slice::Iter<'_, Line> {
        self.lines.iter()
    }

    #[inline]
    pub fn as_slice(&self) -> &[Line] {
        &self.lines
    }

    /// The first line of this field.
    #[inline]
    pub fn find(&self, field: Field) -> Option<&Line> {
        if self.has(field) { self.lines.iter().find(|line| line.field == field) } else { None }
    }

    #[inline]
    pub fn has(&self, field: Field) -> bool {
        self.seen.contains(field)
    }

    /// Are there two or more lines of this field?
    #[inline]
    pub fn is_repeated(&self, field: Field) -> bool {
        self.repeated.contains(field)
    }

    /// Lines of this name are not to be passed on; something else will stand in their place.
    /// `bytes` is where the head lies.
    pub fn override_named(&mut self, name: &[u8], bytes: &[u8]) {
        for line in &mut self.lines {
            line.nominated |= line.name.of(bytes).eq_ignore_ascii_case(name);
        }
    }

    /// Also of fields that are yet to come, behind the body. `None`: there are none.
    pub(super) fn nominated_names(&self) -> Option<Box<NominatedNames>> {
        (!self.nominated.is_empty()).then(|| Box::new(self.nominated.clone()))
    }

    pub(super) fn nominate(&mut self, name: &[u8]) {
        // No more options are read than there is room for.
        let _ = self.nominated.try_push(hash_name(name));
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [Line] {
        &mut self.lines
    }

    pub(super) fn clear(&mut self) {
        self.lines.clear();
        self.seen = FieldSet::default();
        self.repeated = FieldSet::default();
        self.nominated.clear();
    }

    /// Takes over what httparse found in `head`, which ends with the empty line.
    pub(super) fn fill(
        &mut self,
        headers: &[httparse::Header<'_>],
        head: &[u8],
    ) -> Result<(), HeadError> {
        // Were the empty line at the end a bare LF, this would lie inside the line end before it,
        // and fail below.
        let lines_end = head.len() - CRLF.len();
        let start_of = |index: usize| match headers.get(index) {
            Some(header) => Span::locate(header.name.as_bytes(), head).start as usize,
            None => lines_end,
        };
        let mut start = start_of(0);
        check_line_end(head, start)?;
        for (index, header) in headers.iter().enumerate() {
            let end = start_of(index + 1);
            check_line_end(head, end)?;
            let line = Line {
                name: Span::new(start, start + header.name.len()),
                value: Span::locate(header.value, head),
                end: offset(end),
                field: Field::from_name(header.name.as_bytes()),
                nominated: false,
            };
            // httparse was given room for as many as there is here.
            self.try_push(line).ok_or(HeadError::TooManyLines)?;
            start = end;
        }
        Ok(())
    }

    /// `None`: there is no room for it.
    #[inline]
    pub(super) fn try_push(&mut self, line: Line) -> Option<()> {
        if self.seen.contains(line.field) {
            self.repeated.insert(line.field);
        }
        self.seen.insert(line.field);
        self.lines.try_push(line).ok()
    }
}

impl<'a> IntoIterator for &'a Lines {
    type Item = &'a Line;
    type IntoIter = std::slice::Iter<'a, Line>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// What is wrong with a head, whichever direction it goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HeadError {
    #[error("a line does not end with CRLF")]
    BadLineEnd,
    #[error(
        "a header name is missing, has a character that is no token character, or is not followed by a colon"
    )]
    BadName,
    #[error("the start line is malformed")]
    BadStartLine,
    #[error("a header value contains a control character")]
    BadValue,
    #[error("the head contains a control character")]
    ControlCharacter,
    #[error("the head is too large")]
    TooLarge,
    #[error("the head has more than {HEADER_LINES_MAX} lines")]
    TooManyLines,
    #[error("Connection names too many options")]
    TooManyOptions,
}

impl HeadError {
    /// Of a mistake outside the start line's version, which request and response tell apart
    /// themselves.
    pub(super) fn from_httparse(error: httparse::Error) -> Self {
        match error {
            httparse::Error::HeaderName => Self::BadName,
            httparse::Error::HeaderValue => Self::BadValue,
            httparse::Error::NewLine => Self::BadLineEnd,
            httparse::Error::Status | httparse::Error::Token | httparse::Error::Version => {
                Self::BadStartLine
            }
            httparse::Error::TooManyHeaders => Self::TooManyLines,
        }
    }
}

/// The part of `bytes` that a head may lie in. Looking at no more makes the verdict independent of
/// how many bytes happened to arrive together.
pub(super) fn window(bytes: &[u8], bytes_max: usize) -> &[u8] {
    &bytes[..bytes.len().min(bytes_max).min(HEAD_BYTES_MAX)]
}

/// What a head that is not complete within `window` is: on its way, too large, or hopeless already.
pub(super) fn judge_partial(window: &[u8], bytes_max: usize) -> Result<Parsed, HeadError> {
    if let Some(error) = scan::find_error(window) {
        Err(error)
    } else if window.len() >= bytes_max.min(HEAD_BYTES_MAX) {
        Err(HeadError::TooLarge)
    } else {
        Ok(Parsed::Partial)
    }
}

fn check_line_end(head: &[u8], end: usize) -> Result<(), HeadError> {
    if head[..end].ends_with(CRLF) { Ok(()) } else { Err(HeadError::BadLineEnd) }
}

/// Without spaces and tabs at both ends, and nothing else: other parsers disagree about what else
/// is blank.
pub(super) fn trim(value: &[u8]) -> &[u8] {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = value.iter().position(|byte| !is_blank(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !is_blank(byte)).map_or(start, |last| last + 1);
    &value[start..end]
}

/// A field's name (RFC 9110 §5.1).
pub fn is_token(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|byte| is_token_byte(*byte))
}

/// A character of a token (RFC 9110 §5.6.2).
pub(super) const fn is_token_byte(byte: u8) -> bool {
    TOKEN_BYTES[byte as usize]
}

static TOKEN_BYTES: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric();
        byte += 1;
    }
    let others = b"!#$%&'*+-.^_`|~";
    let mut index = 0;
    while index < others.len() {
        table[others[index] as usize] = true;
        index += 1;
    }
    table
};

pub(super) const CRLF: &[u8] = b"\r\n";
