//! Where a message's body ends, however it is framed.
//!
//! A relay asks [`BodyReader::take`] how many of the bytes at hand still belong to this message, and passes them on
//! unchanged; who needs the content asks [`BodyReader::next_data`]. Never both for one message.

#![forbid(unsafe_code)]

use super::{
    chunked::{ChunkError, ChunkReader},
    framing::Framing,
};

#[derive(Clone, Debug)]
pub struct BodyReader {
    state: State,
    data_bytes: u64,
}

#[derive(Clone, Debug)]
enum State {
    Chunked(ChunkReader),
    Complete,
    /// The sender broke the rules: nothing it sends after that means anything.
    Failed(ChunkError),
    Length {
        left: u64,
    },
    UntilClose,
}

/// What comes next: `framing` bytes that are not content, then `data` bytes that are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Piece {
    pub framing: usize,
    pub data: usize,
}

/// The sender closed before its body was complete. The recipient has to notice, so it gets no proper end either.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the body ended before it was complete")]
pub struct Truncated;

impl Default for BodyReader {
    /// Nothing to read.
    fn default() -> Self {
        Self::new(Framing::Empty)
    }
}

impl BodyReader {
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Empty | Framing::Length(0) => State::Complete,
            Framing::Length(left) => State::Length { left },
            Framing::Chunked => State::Chunked(ChunkReader::new()),
            Framing::UntilClose => State::UntilClose,
        };
        Self { state, data_bytes: 0 }
    }

    /// Its length is not known before its end.
    pub fn is_chunked(&self) -> bool {
        matches!(self.state, State::Chunked(_))
    }

    /// How many of `bytes` belong to this body, its framing included. Fewer than all means that the body is complete.
    ///
    /// # Errors
    /// When the chunks are malformed, and from then on always.
    pub fn take(&mut self, bytes: &[u8]) -> Result<usize, ChunkError> {
        let mut count = 0;
        while count < bytes.len() && !self.is_complete() {
            let piece = self.next_data(&bytes[count..])?;
            count += piece.framing + piece.data;
        }
        debug_assert!(count == bytes.len() || self.is_complete());
        Ok(count)
    }

    /// The next piece of content in `bytes`; to be called with the bytes after it until all are used or the body is
    /// complete.
    ///
    /// # Errors
    /// When the chunks are malformed, and from then on always.
    pub fn next_data(&mut self, bytes: &[u8]) -> Result<Piece, ChunkError> {
        let piece = match &mut self.state {
            State::Chunked(reader) => match read_chunk(reader, bytes) {
                Ok(piece) => {
                    if reader.is_complete() {
                        self.state = State::Complete;
                    }
                    piece
                }
                Err(error) => {
                    self.state = State::Failed(error);
                    return Err(error);
                }
            },
            State::Complete => Piece { framing: 0, data: 0 },
            State::Failed(error) => return Err(*error),
            State::Length { left } => {
                let data = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left -= data as u64;
                if *left == 0 {
                    self.state = State::Complete;
                }
                Piece { framing: 0, data }
            }
            State::UntilClose => Piece { framing: 0, data: bytes.len() },
        };
        self.data_bytes += piece.data as u64;
        Ok(piece)
    }

    pub fn is_complete(&self) -> bool {
        matches!(self.state, State::Complete)
    }

    /// Bytes of content so far, without framing.
    pub fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// The sender closed its direction.
    ///
    /// # Errors
    /// When there should have been more.
    pub fn on_end(&mut self) -> Result<(), Truncated> {
        match self.state {
            State::Complete => Ok(()),
            State::UntilClose => {
                self.state = State::Complete;
                Ok(())
            }
            State::Chunked(_) | State::Failed(_) | State::Length { .. } => Err(Truncated),
        }
    }
}

fn read_chunk(reader: &mut ChunkReader, bytes: &[u8]) -> Result<Piece, ChunkError> {
    let framing = reader.take_framing(bytes)?;
    let data = reader.take_data(&bytes[framing..]);
    Ok(Piece { framing, data })
}
