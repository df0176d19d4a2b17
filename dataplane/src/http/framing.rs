//! How long is this body? Asked once per head, before anything else is done with it; pure.
//!
//! The checks follow RFC 9112 §6.3 in order. Whatever two parsers could read differently is
//! refused: the next one on the path may be the other one.

#![forbid(unsafe_code)]

use super::{
    field::{Field, FieldSet},
    head::{Lines, Version, is_token_byte, trim},
    method::Method,
    reply::decimal,
};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Framing {
    /// No body, and no bytes that could be taken for one.
    Empty,
    Length(u64),
    Chunked,
    /// Responses only: the body ends when its sender closes.
    UntilClose,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FramingError {
    #[error("both Content-Length and Transfer-Encoding are given")]
    Ambiguous,
    #[error("Transfer-Encoding is not exactly `chunked`")]
    BadCoding,
    #[error("Content-Length is not one decimal number of at most {LENGTH_DIGITS_MAX} digits")]
    BadLength,
    #[error("Transfer-Encoding is not part of HTTP/1.0")]
    CodingInHttp10,
    #[error("Transfer-Encoding is given more than once")]
    RepeatedCoding,
    #[error("Content-Length is given more than once")]
    RepeatedLength,
    #[error("a transfer coding besides `chunked` is not supported")]
    UnsupportedCoding,
}

/// Spells the field that frames a body as everybody does, where its sender did not (`CHUNKED`,
/// `007`): appends the line to `out` and returns the field whose line it replaces.
#[inline]
pub fn respell(framing: Framing, lines: &Lines, head: &[u8], out: &mut Vec<u8>) -> FieldSet {
    let field = match framing {
        Framing::Chunked => Field::TransferEncoding,
        Framing::Length(_) => Field::ContentLength,
        Framing::Empty | Framing::UntilClose => return FieldSet::default(),
    };
    let is_usual = |value: &[u8]| match framing {
        Framing::Chunked => value == CHUNKED,
        // It has digits and nothing else; only zeros in front can make it another text.
        _ => !matches!(value, [b'0', _, ..]),
    };
    if lines.find(field).is_none_or(|line| is_usual(line.value.of(head))) {
        return FieldSet::default();
    }
    let mut digits = [0; 20];
    let (name, usual) = match framing {
        Framing::Length(length) => ("Content-Length: ", decimal(length, &mut digits)),
        _ => ("Transfer-Encoding: ", CHUNKED),
    };
    for part in [name.as_bytes(), usual, b"\r\n"] {
        out.extend_from_slice(part);
    }
    FieldSet::of(&[field])
}

/// A request's body is empty unless its head says otherwise, and never lasts until the client
/// closes.
pub(super) fn of_request(
    lines: &Lines,
    head: &[u8],
    version: Version,
) -> Result<Framing, FramingError> {
    Ok(declared(lines, head, version)?.unwrap_or(Framing::Empty))
}

/// Contradictory fields are refused even where a response has no body (RFC 9112 §6.3 rule 1): they
/// would travel on.
pub(super) fn of_response(
    lines: &Lines,
    head: &[u8],
    version: Version,
    status: u16,
    request_method: Method,
) -> Result<Framing, FramingError> {
    let declared = declared(lines, head, version)?;
    let is_bodiless = request_method == Method::Head || matches!(status, 100..=199 | 204 | 304);
    Ok(if is_bodiless { Framing::Empty } else { declared.unwrap_or(Framing::UntilClose) })
}

/// What Content-Length or Transfer-Encoding say, if either is there.
#[inline]
fn declared(lines: &Lines, head: &[u8], version: Version) -> Result<Option<Framing>, FramingError> {
    if !lines.has(Field::TransferEncoding) && !lines.has(Field::ContentLength) {
        return Ok(None);
    }
    judge(lines, head, version)
}

fn judge(lines: &Lines, head: &[u8], version: Version) -> Result<Option<Framing>, FramingError> {
    match (lines.find(Field::TransferEncoding), lines.find(Field::ContentLength)) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => Err(FramingError::Ambiguous),
        (Some(_), None) if version == Version::Http10 => Err(FramingError::CodingInHttp10),
        (Some(_), None) if lines.is_repeated(Field::TransferEncoding) => {
            Err(FramingError::RepeatedCoding)
        }
        (Some(coding), None) => parse_coding(coding.value.of(head)).map(Some),
        (None, Some(_)) if lines.is_repeated(Field::ContentLength) => {
            Err(FramingError::RepeatedLength)
        }
        (None, Some(length)) => {
            let length = parse_length(length.value.of(head)).ok_or(FramingError::BadLength)?;
            Ok(Some(Framing::Length(length)))
        }
    }
}

/// Only `chunked` is relayed. A list that ends with it is sound and merely not ours to decode;
/// anything else leaves the length open.
fn parse_coding(value: &[u8]) -> Result<Framing, FramingError> {
    if value.eq_ignore_ascii_case(CHUNKED) {
        return Ok(Framing::Chunked);
    }
    let mut codings = value.rsplit(|byte| *byte == b',').map(trim);
    let ends_chunked = codings.next().is_some_and(|last| last.eq_ignore_ascii_case(CHUNKED));
    let is_sound = |coding: &[u8]| {
        !coding.is_empty()
            && coding.iter().all(|byte| is_token_byte(*byte))
            && !coding.eq_ignore_ascii_case(CHUNKED)
    };
    if ends_chunked && codings.all(is_sound) {
        Err(FramingError::UnsupportedCoding)
    } else {
        Err(FramingError::BadCoding)
    }
}

fn parse_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > LENGTH_DIGITS_MAX {
        return None;
    }
    value.iter().try_fold(0, |sum, byte| {
        let digit = byte.wrapping_sub(b'0');
        (digit < 10).then_some(sum * 10 + u64::from(digit))
    })
}

const CHUNKED: &[u8] = b"chunked";

/// So many nines fit an `i64` as well, which is what many peers count with.
const LENGTH_DIGITS_MAX: usize = 18;
