//! Chunked bodies (RFC 9112 §7.1): where does each chunk's data begin, and where does the body end?
//!
//! Framing is read byte by byte, so it may be split anywhere; data is skipped as a block. Only what
//! the grammar allows is accepted. A bare LF in here is never a line end: that is how two parsers
//! come to disagree about the next request.

#![forbid(unsafe_code)]

use super::trailer::{NominatedNames, TrailerError, TrailerReader};
use crate::limits::CHUNK_EXTENSION_BYTES_MAX;

#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ChunkError {
    #[error("a chunk's data is not followed by CRLF")]
    BadDataEnd,
    #[error("a chunk extension contains a control character")]
    BadExtension,
    #[error("a chunk's size line does not end with CRLF")]
    BadLineEnd,
    #[error("a chunk's size is not a hexadecimal number")]
    BadSize,
    #[error("the chunk extensions are too long")]
    ExtensionsTooLarge,
    #[error("a chunk's size has more than {SIZE_DIGITS_MAX} digits")]
    SizeTooLarge,
    #[error(transparent)]
    Trailer(#[from] TrailerError),
}

/// Where in a chunked body we are.
///
/// ```text
/// SizeStart ─hex─► Size ─CR─► SizeEnd ─LF─► Data ─all read─► DataEnd ─CR─► DataLineEnd ─LF─► SizeStart
///                   │            ▲  └─LF, size 0─► Trailers
///                   ├─blank─► Padding
///                   └─';'──────► Extension ─CR─► SizeEnd
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    SizeStart,
    Size,
    Padding,
    Extension,
    SizeEnd,
    Data,
    DataEnd,
    DataLineEnd,
    Trailers,
}

#[derive(Clone, Debug)]
pub(super) struct ChunkReader {
    state: State,
    /// Of the chunk: its size as far as it was read, then what is left of its data.
    left: u64,
    size_digits: u16,
    /// Of all chunks together.
    extension_bytes: u16,
    trailers: TrailerReader,
}

impl ChunkReader {
    pub(super) fn new() -> Self {
        Self {
            state: State::SizeStart,
            left: 0,
            size_digits: 0,
            extension_bytes: 0,
            trailers: TrailerReader::new(),
        }
    }

    pub(super) fn refuse_trailers(&mut self, nominated: Option<Box<NominatedNames>>) {
        self.trailers.refuse(nominated);
    }

    pub(super) fn is_complete(&self) -> bool {
        self.trailers.is_complete()
    }

    /// Reads framing up to the next data, the end of the body or the end of `bytes`; says how many
    /// bytes that were.
    pub(super) fn take_framing(&mut self, bytes: &[u8]) -> Result<usize, ChunkError> {
        let mut count = 0;
        while count < bytes.len() && self.state != State::Data && !self.is_complete() {
            self.on_byte(bytes[count])?;
            count += 1;
        }
        Ok(count)
    }

    /// How many of `bytes` are data; none unless all framing before them was taken.
    pub(super) fn take_data(&mut self, bytes: &[u8]) -> usize {
        if self.state != State::Data {
            return 0;
        }
        let count = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
        self.left -= count as u64;
        if self.left == 0 {
            self.state = State::DataEnd;
        }
        count
    }

    fn on_byte(&mut self, byte: u8) -> Result<(), ChunkError> {
        self.state = match self.state {
            State::SizeStart => {
                self.left = 0;
                self.size_digits = 0;
                self.on_digit(byte)?
            }
            State::Size => match byte {
                b'\r' => State::SizeEnd,
                b';' => State::Extension,
                b' ' | b'\t' => State::Padding,
                _ => self.on_digit(byte)?,
            },
            State::Padding => match byte {
                b';' => State::Extension,
                b' ' | b'\t' => self.on_extension_byte(State::Padding)?,
                _ => return Err(ChunkError::BadSize),
            },
            State::Extension => match byte {
                b'\r' => State::SizeEnd,
                b'\n' => return Err(ChunkError::BadLineEnd),
                b'\t' | b' '..=b'~' | 0x80.. => self.on_extension_byte(State::Extension)?,
                _ => return Err(ChunkError::BadExtension),
            },
            State::SizeEnd if byte != b'\n' => return Err(ChunkError::BadLineEnd),
            State::SizeEnd if self.left == 0 => State::Trailers,
            State::SizeEnd => State::Data,
            State::DataEnd if byte == b'\r' => State::DataLineEnd,
            State::DataLineEnd if byte == b'\n' => State::SizeStart,
            State::Data | State::DataEnd | State::DataLineEnd => {
                return Err(ChunkError::BadDataEnd);
            }
            State::Trailers => {
                self.trailers.on_byte(byte)?;
                State::Trailers
            }
        };
        Ok(())
    }

    fn on_digit(&mut self, byte: u8) -> Result<State, ChunkError> {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            _ => return Err(ChunkError::BadSize),
        };
        self.size_digits += 1;
        if usize::from(self.size_digits) > SIZE_DIGITS_MAX {
            return Err(ChunkError::SizeTooLarge);
        }
        self.left = self.left * 16 + u64::from(digit);
        Ok(State::Size)
    }

    fn on_extension_byte(&mut self, state: State) -> Result<State, ChunkError> {
        self.extension_bytes += 1;
        if usize::from(self.extension_bytes) > CHUNK_EXTENSION_BYTES_MAX {
            return Err(ChunkError::ExtensionsTooLarge);
        }
        Ok(state)
    }
}

/// The size line of a chunk that we make. `data_bytes` is not zero: that would end the body.
pub fn chunk_header(data_bytes: usize, out: &mut [u8; CHUNK_HEADER_BYTES]) -> &[u8] {
    debug_assert_ne!(data_bytes, 0);
    let mut at = out.len() - 2;
    out[at..].copy_from_slice(b"\r\n");
    let mut rest = data_bytes;
    while rest > 0 {
        at -= 1;
        out[at] = b"0123456789abcdef"[rest % 16];
        rest /= 16;
    }
    &out[at..]
}

/// What ends a chunked body that we make.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Sixteen digits and CRLF.
pub const CHUNK_HEADER_BYTES: usize = 18;

/// No sum overflows, and no peer that counts with 64-bit integers can read such a size as another
/// one.
const SIZE_DIGITS_MAX: usize = 15;

const _: () =
    assert!(CHUNK_EXTENSION_BYTES_MAX < u16::MAX as usize, "extensions are counted in u16");
