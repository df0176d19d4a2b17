//! Where a message's body ends, however it is framed.
//!
//! A relay asks [`BodyReader::take`] how many of the bytes at hand still belong to this message,
//! and passes them on unchanged; who needs the content asks [`BodyReader::next_data`]. Never both
//! for one message.

#![forbid(unsafe_code)]

use super::{
    chunked::{ChunkError, ChunkReader},
    framing::Framing,
    head::Lines,
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

/// The sender closed before its body was complete. The recipient has to notice, so it gets no
/// proper end either.
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
    #[inline]
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Empty | Framing::Length(0) => State::Complete,
            Framing::Length(left) => State::Length { left },
            Framing::Chunked => State::Chunked(ChunkReader::new()),
            Framing::UntilClose => State::UntilClose,
        };
        Self { state, data_bytes: 0 }
    }

    /// The body of a message with this head.
    #[inline]
    pub fn of(framing: Framing, lines: &Lines) -> Self {
        let mut reader = Self::new(framing);
        if let State::Chunked(chunks) = &mut reader.state {
            chunks.refuse_trailers(lines.nominated_names());
        }
        reader
    }

    /// Becomes [`Self::of`] without being made elsewhere and moved here.
    #[inline]
    pub fn begin(&mut self, framing: Framing, lines: &Lines) {
        match framing {
            Framing::Empty | Framing::Length(0) => self.clear(),
            Framing::Length(left) => {
                self.state = State::Length { left };
                self.data_bytes = 0;
            }
            Framing::Chunked | Framing::UntilClose => *self = Self::of(framing, lines),
        }
    }

    /// Becomes the default: nothing to read.
    #[inline]
    pub fn clear(&mut self) {
        if !self.is_complete() {
            self.state = State::Complete;
        }
        self.data_bytes = 0;
    }

    /// Its length is not known before its end.
    pub fn is_chunked(&self) -> bool {
        matches!(self.state, State::Chunked(_))
    }

    /// How many of `bytes` belong to this body, its framing included. Fewer than all means that the
    /// body is complete.
    ///
    /// # Errors
    /// When the chunks are malformed, and from then on always.
    #[inline]
    pub fn take(&mut self, bytes: &[u8]) -> Result<usize, ChunkError> {
        let mut count = 0;
        while count < bytes.len() && !self.is_complete() {
            let piece = self.next_data(&bytes[count..])?;
            count += piece.framing + piece.data;
        }
        debug_assert!(count == bytes.len() || self.is_complete());
        Ok(count)
    }

    /// The next piece of content in `bytes`; to be called with the bytes after it until all are
    /// used or the body is complete.
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

    /// Bytes that are still to come; `None`: nobody has said.
    pub fn bytes_left(&self) -> Option<u64> {
        match self.state {
            State::Complete => Some(0),
            State::Length { left } => Some(left),
            State::Chunked(_) | State::Failed(_) | State::UntilClose => None,
        }
    }

    #[inline]
    pub fn is_complete(&self) -> bool {
        matches!(self.state, State::Complete)
    }

    /// Bytes of content so far, without framing.
    #[inline]
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        http::{LAST_CHUNK, TrailerError, chunk_header},
        limits::{CHUNK_EXTENSION_BYTES_MAX, TRAILER_BYTES_MAX, TRAILER_LINES_MAX},
    };

    /// What a reader makes of all bytes: how many were the body's, the content, whether it is
    /// whole.
    type Reading = Result<(usize, Vec<u8>, bool), ChunkError>;

    /// Reads content from `bytes`, which arrive in pieces of `sizes`, and relays them beside it.
    fn read(framing: Framing, bytes: &[u8], sizes: &mut dyn FnMut() -> usize) -> Reading {
        let mut reader = BodyReader::new(framing);
        let mut relay = BodyReader::new(framing);
        let (mut used, mut relayed, mut arrived) = (0, 0, 0);
        let mut content = Vec::new();
        while arrived < bytes.len() {
            arrived = (arrived + sizes()).min(bytes.len());
            let relay_step = relay.take(&bytes[relayed..arrived]);
            while used < arrived && !reader.is_complete() {
                let piece = match reader.next_data(&bytes[used..arrived]) {
                    Ok(piece) => piece,
                    Err(error) => {
                        assert_eq!(relay_step, Err(error));
                        assert_eq!(relay.take(b"1"), Err(error), "a failed body stays failed");
                        assert_eq!(relay.on_end(), Err(Truncated));
                        return Err(error);
                    }
                };
                let data_start = used + piece.framing;
                used = data_start + piece.data;
                content.extend_from_slice(&bytes[data_start..used]);
            }
            relayed += relay_step?;
            assert_eq!((relayed, relay.is_complete()), (used, reader.is_complete()));
        }
        assert_eq!(reader.data_bytes(), content.len() as u64);
        assert_eq!(relay.data_bytes(), content.len() as u64);
        Ok((used, content, reader.is_complete()))
    }

    /// Whole, byte by byte and split at each offset, with one result.
    fn read_every_way(case: &str, framing: Framing, bytes: &[u8]) -> Reading {
        let whole = read(framing, bytes, &mut || usize::MAX / 2);
        assert_eq!(read(framing, bytes, &mut || 1), whole, "{case}, byte by byte");
        for split in 1..bytes.len().min(600) {
            let mut sizes = [split].into_iter();
            let pieces = read(framing, bytes, &mut || sizes.next().unwrap_or(usize::MAX / 2));
            assert_eq!(pieces, whole, "{case}, split at {split}");
        }
        whole
    }

    #[test]
    fn refuses_malformed_chunks() {
        use ChunkError::*;
        for (case, text, error) in [
            ("no size", "\r\nabc", BadSize),
            ("no size, extension", ";a\r\nabc", BadSize),
            ("blank before the size", " 3\r\nabc\r\n", BadSize),
            ("sign", "+3\r\nabc\r\n", BadSize),
            ("minus", "-3\r\nabc\r\n", BadSize),
            ("0x", "0x3\r\nabc\r\n", BadSize),
            ("underscore", "1_0\r\n", BadSize),
            ("no digit", "g\r\n", BadSize),
            ("blank after the size", "3 \r\nabc\r\n", BadSize),
            ("blank inside the size", "3 3\r\nabc\r\n", BadSize),
            ("65 bits", "10000000000000005\r\nabcde\r\n", SizeTooLarge),
            ("16 digits", "0000000000000003\r\nabc\r\n", SizeTooLarge),
            ("bare LF after the size", "3\nabc\r\n", BadSize),
            ("bare CR after the size", "3\rabc\r\n", BadLineEnd),
            ("CR CR LF after the size", "3\r\r\nabc\r\n", BadLineEnd),
            ("bare LF in an extension", "3;a\nabc\r\n", BadLineEnd),
            ("bare CR in an extension", "3;a\rb\r\nabc\r\n", BadLineEnd),
            ("NUL in an extension", "3;\0\r\nabc\r\n", BadExtension),
            ("delete in an extension", "3;\x7f\r\nabc\r\n", BadExtension),
            ("data too long", "3\r\nabcd\r\n", BadDataEnd),
            ("data too short", "3\r\nab\r\n0\r\n", BadDataEnd),
            ("bare LF after the data", "3\r\nabc\n0\r\n\r\n", BadDataEnd),
            ("bare CR after the data", "3\r\nabc\r0\r\n\r\n", BadDataEnd),
            ("no CRLF after the data", "3\r\nabc0\r\n\r\n", BadDataEnd),
            ("bare LF after the last size", "0\n\r\n", BadSize),
            ("bare LF at the end", "0\r\n\n", TrailerError::BadName.into()),
            ("bare CR at the end", "0\r\n\rX", TrailerError::BadLineEnd.into()),
        ] {
            let reading = read_every_way(case, Framing::Chunked, text.as_bytes());
            assert_eq!(reading, Err(error), "{case}");
        }
    }

    #[test]
    fn refuses_malformed_and_forbidden_trailers() {
        use TrailerError::*;
        for (case, line, error) in [
            ("space before colon", "X : 1", BadName),
            ("no colon", "X", BadName),
            ("empty name", ": 1", BadName),
            ("obs-fold", "X: 1\r\n 2", BadName),
            ("byte above 127 in the name", "\u{e4}: 1", BadName),
            ("NUL in the value", "X: \0", BadValue),
            ("delete in the value", "X: \x7f", BadValue),
            ("bare LF", "X: 1\nY: 2", BadLineEnd),
            ("bare CR", "X: 1\rY: 2", BadLineEnd),
            ("framing", "Transfer-Encoding: chunked", Forbidden),
            ("length", "content-length: 3", Forbidden),
            ("type", "Content-Type: a/b", Forbidden),
            ("encoding", "Content-Encoding: gzip", Forbidden),
            ("long content field", "Content-And-A-Very-Long-Name-After-It: 1", Forbidden),
            ("host", "HOST: a", Forbidden),
            ("connection", "Connection: close", Forbidden),
            ("upgrade", "Upgrade: a", Forbidden),
            ("trailer", "Trailer: a", Forbidden),
            ("credentials", "Authorization: a", Forbidden),
            ("proxy credentials", "Proxy-Authorization: a", Forbidden),
            ("target", "dapr-app-id: a", Forbidden),
            ("caller", "Dapr-Caller-App-Id: a", Forbidden),
            ("any dapr field, however long", "dapr-with-a-name-longer-than-all: a", Forbidden),
            ("destination", "destination-app-id: a", Forbidden),
        ] {
            let text = format!("0\r\n{line}\r\n\r\n");
            let reading = read_every_way(case, Framing::Chunked, text.as_bytes());
            assert_eq!(reading, Err(error.into()), "{case}");
        }
    }

    #[test]
    fn bounds_extensions_and_trailers() {
        let extension = |bytes: usize| format!("0;{}\r\n\r\n", "x".repeat(bytes));
        let spread = format!("1;{}\r\na\r\n", "x".repeat(127)).repeat(200);
        let blanks = format!("0{};\r\n\r\n", " ".repeat(CHUNK_EXTENSION_BYTES_MAX + 2));
        let lines = |count: usize| format!("0\r\n{}\r\n", "X: 1\r\n".repeat(count));
        let trailer = |bytes: usize| format!("0\r\nX:{}\r\n\r\n", "x".repeat(bytes - 6));
        let too_large = Some(ChunkError::Trailer(TrailerError::TooLarge));
        let too_long = Some(ChunkError::ExtensionsTooLarge);
        for (case, text, error) in [
            ("long extension", extension(CHUNK_EXTENSION_BYTES_MAX + 1), too_long),
            ("longest extension", extension(CHUNK_EXTENSION_BYTES_MAX), None),
            ("many small extensions", spread, too_long),
            ("blanks before an extension", blanks, too_long),
            ("a trailer line too many", lines(TRAILER_LINES_MAX + 1), too_large),
            ("as many trailer lines as may be", lines(TRAILER_LINES_MAX), None),
            ("a trailer byte too many", trailer(TRAILER_BYTES_MAX + 1), too_large),
            ("as many trailer bytes as may be", trailer(TRAILER_BYTES_MAX), None),
        ] {
            let reading = read(Framing::Chunked, text.as_bytes(), &mut || 100);
            assert_eq!(reading.as_ref().err().copied(), error, "{case}");
            if error.is_none() {
                assert_eq!(reading, Ok((text.len(), vec![], true)), "{case}");
            }
        }
    }

    #[test]
    fn reads_chunked_bodies() {
        for (case, text, content) in [
            ("empty", "0\r\n\r\n", ""),
            ("zeros", "000\r\n\r\n", ""),
            ("one", "3\r\nabc\r\n0\r\n\r\n", "abc"),
            (
                "digits in both cases",
                "a\r\n0123456789\r\nB\r\n0123456789a\r\n0\r\n\r\n",
                "01234567890123456789a",
            ),
            ("zeros in front", "000000000000003\r\nabc\r\n0\r\n\r\n", "abc"),
            ("line ends as data", "4\r\n\r\n\r\n\r\n0\r\n\r\n", "\r\n\r\n"),
            ("a last chunk as data", "5\r\n0\r\n\r\n\r\n0\r\n\r\n", "0\r\n\r\n"),
            ("extensions", "3;a=b;c=\"d e\"\r\nabc\r\n0 \t;x\r\n\r\n", "abc"),
            ("empty extension", "3;\r\nabc\r\n0;\r\n\r\n", "abc"),
            ("trailers", "3\r\nabc\r\n0\r\nGrpc-Status: 0\r\nX:\r\nY: \t\u{e4} \r\n\r\n", "abc"),
            ("digest", "0\r\nContent-Digest: sha-256=:x:\r\n\r\n", ""),
            (
                "names that only begin alike",
                "0\r\nhosts: 1\r\ndapr: 1\r\nx-dapr-app-id: a\r\n\r\n",
                "",
            ),
        ] {
            let reading = read_every_way(case, Framing::Chunked, text.as_bytes());
            let want = Ok((text.len(), content.as_bytes().to_vec(), true));
            assert_eq!(reading, want, "{case}");
            let pipelined = format!("{text}GET / HTTP/1.1\r\n");
            assert_eq!(
                read_every_way(case, Framing::Chunked, pipelined.as_bytes()),
                want,
                "{case}"
            );
            for cut in 0..text.len() {
                let mut reader = BodyReader::new(Framing::Chunked);
                assert_eq!(reader.take(&text.as_bytes()[..cut]), Ok(cut), "{case}, cut at {cut}");
                assert!(!reader.is_complete(), "{case}, cut at {cut}");
                assert_eq!(reader.on_end(), Err(Truncated), "{case}, cut at {cut}");
            }
        }
    }

    #[test]
    fn reads_the_largest_chunk_size_without_overflow() {
        let mut reader = BodyReader::new(Framing::Chunked);
        let header = b"fffffffffffffff\r\n";
        assert_eq!(reader.next_data(header), Ok(Piece { framing: header.len(), data: 0 }));
        assert_eq!(reader.next_data(&[0; 4096]), Ok(Piece { framing: 0, data: 4096 }));
        assert_eq!(reader.take(&[0; 4096]), Ok(4096));
        assert_eq!((reader.data_bytes(), reader.is_complete()), (8192, false));
    }

    #[test]
    fn reads_other_framings() {
        for (case, framing, text, used, ends_well) in [
            ("nothing", Framing::Empty, "GET", 0, true),
            ("length zero", Framing::Length(0), "GET", 0, true),
            ("length", Framing::Length(3), "abcGET", 3, true),
            ("length, short", Framing::Length(3), "ab", 2, false),
            ("until close", Framing::UntilClose, "abc", 3, true),
            ("until close, at once", Framing::UntilClose, "", 0, true),
        ] {
            let mut reader = BodyReader::new(framing);
            let mut another = BodyReader::new(Framing::Length(7));
            assert_eq!(another.take(b"1234"), Ok(4));
            another.begin(framing, &Lines::default());
            assert_eq!(format!("{another:?}"), format!("{reader:?}"), "{case}");
            assert_eq!(reader.take(text.as_bytes()), Ok(used), "{case}");
            assert_eq!(reader.data_bytes(), used as u64, "{case}");
            assert_eq!(reader.on_end().is_ok(), ends_well, "{case}");
            assert_eq!(reader.is_complete(), ends_well, "{case}");
            if !text.is_empty() {
                let reading = read_every_way(case, framing, text.as_bytes());
                let is_complete = ends_well && framing != Framing::UntilClose;
                assert_eq!(reading, Ok((used, text.as_bytes()[..used].to_vec(), is_complete)));
            }
        }
    }

    #[test]
    fn what_we_chunk_can_be_read() {
        for (bytes, header) in [(1, "1\r\n"), (10, "a\r\n"), (255, "ff\r\n"), (16_384, "4000\r\n")]
        {
            let mut out = [0; 18];
            assert_eq!(chunk_header(bytes, &mut out), header.as_bytes());
            let body =
                [chunk_header(bytes, &mut out), &vec![b'x'; bytes], b"\r\n", LAST_CHUNK].concat();
            let reading = read(Framing::Chunked, &body, &mut || 1000);
            assert_eq!(reading, Ok((body.len(), vec![b'x'; bytes], true)));
        }
        let mut out = [0; 18];
        assert_eq!(chunk_header(usize::MAX, &mut out), b"ffffffffffffffff\r\n");
    }
}
