//! The trailer section of a chunked body, byte by byte: as strict as header lines, and without any
//! field that a recipient could take for framing, routing or proof of identity.
//!
//! RFC 9110 §6.5.1 forbids senders such fields. Trailers pass through where they lie, so what must
//! not be in them is refused; a name is remembered only as far as that takes.

#![forbid(unsafe_code)]

use super::{
    field::{Field, FieldSet, has_prefix},
    head::is_token_byte,
};
use crate::limits::{CONNECTION_OPTIONS_MAX, TRAILER_BYTES_MAX, TRAILER_LINES_MAX};
use arrayvec::ArrayVec;

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TrailerError {
    #[error("a trailer line does not end with CRLF")]
    BadLineEnd,
    #[error("a trailer name is malformed")]
    BadName,
    #[error("a trailer value contains a control character")]
    BadValue,
    #[error("a field that belongs into the head is in the trailer section")]
    Forbidden,
    #[error("the trailer section is too large")]
    TooLarge,
}

/// Where in the trailer section we are.
///
/// ```text
/// LineStart ─token─► Name ─':'─► Value ─CR─► LineEnd ─LF─► LineStart
///     └──────CR─────► LastLineEnd ─LF─► Complete
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    LineStart,
    Name,
    Value,
    LineEnd,
    LastLineEnd,
    Complete,
}

#[derive(Clone, Debug)]
pub(super) struct TrailerReader {
    state: State,
    bytes: u16,
    lines: u16,
    name: [u8; NAME_BYTES],
    /// Of the whole name, of which `name` may hold only the beginning.
    name_bytes: u16,
    /// Of the whole name in small letters.
    name_hash: u32,
    /// Hashes of the names that `Connection` gave.
    nominated: Option<Box<NominatedNames>>,
}

impl TrailerReader {
    pub(super) fn new() -> Self {
        Self {
            state: State::LineStart,
            bytes: 0,
            lines: 0,
            name: [0; NAME_BYTES],
            name_bytes: 0,
            name_hash: HASH_START,
            nominated: None,
        }
    }

    /// Fields of these names concern the connection, and end with it.
    pub(super) fn refuse(&mut self, nominated: Option<Box<NominatedNames>>) {
        self.nominated = nominated;
    }

    pub(super) fn is_complete(&self) -> bool {
        self.state == State::Complete
    }

    pub(super) fn on_byte(&mut self, byte: u8) -> Result<(), TrailerError> {
        debug_assert!(!self.is_complete());
        self.bytes += 1;
        if usize::from(self.bytes) > TRAILER_BYTES_MAX {
            return Err(TrailerError::TooLarge);
        }
        self.state = match (self.state, byte) {
            (State::LineStart, b'\r') => State::LastLineEnd,
            (State::LineStart, _) => self.on_line_start(byte)?,
            (State::Name, b':') => self.on_name_end()?,
            (State::Name, _) => self.on_name_byte(byte)?,
            (State::Value, b'\r') => State::LineEnd,
            (State::Value, b'\t' | b' '..=b'~' | 0x80..) => State::Value,
            (State::LineEnd, b'\n') => State::LineStart,
            (State::LastLineEnd, b'\n') => State::Complete,
            (State::Value, b'\n') | (State::LineEnd | State::LastLineEnd, _) => {
                return Err(TrailerError::BadLineEnd);
            }
            (State::Value | State::Complete, _) => return Err(TrailerError::BadValue),
        };
        Ok(())
    }

    fn on_line_start(&mut self, byte: u8) -> Result<State, TrailerError> {
        self.lines += 1;
        if usize::from(self.lines) > TRAILER_LINES_MAX {
            return Err(TrailerError::TooLarge);
        }
        self.name_bytes = 0;
        self.name_hash = HASH_START;
        self.on_name_byte(byte)
    }

    fn on_name_byte(&mut self, byte: u8) -> Result<State, TrailerError> {
        if !is_token_byte(byte) {
            return Err(TrailerError::BadName);
        }
        if let Some(place) = self.name.get_mut(usize::from(self.name_bytes)) {
            *place = byte;
        }
        self.name_bytes += 1;
        self.name_hash = hash_byte(self.name_hash, byte);
        Ok(State::Name)
    }

    fn on_name_end(&self) -> Result<State, TrailerError> {
        let name_bytes = usize::from(self.name_bytes);
        let start = &self.name[..name_bytes.min(NAME_BYTES)];
        let is_whole = name_bytes <= NAME_BYTES;
        // RFC 9530 §2 puts digests into trailers; the other content fields say how to read what was
        // read already.
        let is_digest = is_whole && start.eq_ignore_ascii_case(b"content-digest");
        let is_forbidden = is_whole && FORBIDDEN.contains(Field::from_name(start))
            || has_prefix(start, b"dapr-")
            || has_prefix(start, b"content-") && !is_digest
            || self.nominated.as_deref().is_some_and(|names| names.contains(&self.name_hash));
        if is_forbidden { Err(TrailerError::Forbidden) } else { Ok(State::Value) }
    }
}

const _: () =
    assert!(TRAILER_BYTES_MAX < u16::MAX as usize, "a trailer's bytes are counted in u16");

/// Hashes of field names; as many as `Connection` may give.
pub(super) type NominatedNames = ArrayVec<u32, CONNECTION_OPTIONS_MAX>;

/// A field's name as one number, whatever the case. The names of one message are told apart by it;
/// who makes two of them equal has its own trailer refused.
pub(super) fn hash_name(name: &[u8]) -> u32 {
    name.iter().fold(HASH_START, |hash, byte| hash_byte(hash, *byte))
}

/// FNV-1a.
fn hash_byte(hash: u32, byte: u8) -> u32 {
    (hash ^ u32::from(byte.to_ascii_lowercase())).wrapping_mul(0x0100_0193)
}

const HASH_START: u32 = 0x811c_9dc5;

/// Longer than any name that is looked for.
const NAME_BYTES: usize = 24;

const FORBIDDEN: FieldSet = FieldSet::of(&[
    Field::Authorization,
    Field::Connection,
    Field::DestinationAppId,
    Field::Expect,
    Field::Forwarded,
    Field::HopByHop,
    Field::Host,
    Field::TransferEncoding,
    Field::Upgrade,
]);
