//! Where does an HTTP/1.1 message end? Fed with whatever arrives, in pieces of any size.
//!
//! Only as much of RFC 9112 as a well-behaved peer uses; everything else is an error, since a
//! measurement that misreads its answers is worth nothing.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, bail};
use memchr::memmem;

/// Heads are kept until they are complete; a peer that sends more than this is broken.
const HEAD_BYTES_MAX: usize = 64 * 1024;
const HEADER_LINES_MAX: usize = 100;

/// One connection's worth of messages, one after the other.
pub struct MessageReader {
    kind: Kind,
    state: State,
    /// The beginning of a head that did not come in one piece.
    head: Vec<u8>,
    message: Message,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    Request,
    /// `to_head`: answers to HEAD have no body, whatever their head says (RFC 9112 §6.3 rule 1).
    Response {
        to_head: bool,
    },
}

/// What is known of a message once it is complete.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Message {
    /// 0 for a request.
    pub status: u16,
    pub is_head_request: bool,
    /// Content only, without chunk framing.
    pub body_bytes: u64,
    pub closes: bool,
}

/// How far one piece of input brought the message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Progress {
    pub used: usize,
    /// Set when the message ended within this piece; what is left belongs to the next one.
    pub complete: Option<Message>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Head,
    /// Content of a known length that is still to come.
    Length(u64),
    Chunk(Chunk),
    UntilClose,
}

/// Within a chunked body (RFC 9112 §7.1).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Chunk {
    Size(u64),
    Extension(u64),
    SizeEnd(u64),
    Data(u64),
    DataReturn,
    DataEnd,
    /// Bytes of the current trailer line so far; an empty line ends the message.
    Trailer(u64),
    TrailerEnd(u64),
}

enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

impl MessageReader {
    pub fn new(kind: Kind) -> Self {
        Self { kind, state: State::Head, head: Vec::new(), message: Message::default() }
    }

    /// Whether the connection stands between two messages.
    pub fn is_idle(&self) -> bool {
        self.state == State::Head && self.head.is_empty()
    }

    /// # Errors
    /// When the bytes are no HTTP/1.1 message.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Progress> {
        let mut used = 0;
        if self.state == State::Head {
            let Some(head_used) = self.take_head(bytes)? else {
                return Ok(Progress { used: bytes.len(), complete: None });
            };
            used = head_used;
        }
        while used < bytes.len() && !self.is_complete() {
            used += self.take_body(&bytes[used..])?;
        }
        let complete = self.is_complete().then(|| self.finish());
        Ok(Progress { used, complete })
    }

    /// The peer closed: the end of a body without a length, or an error.
    ///
    /// # Errors
    /// When a message was cut off.
    pub fn on_close(&mut self) -> Result<Option<Message>> {
        match self.state {
            State::Head if self.head.is_empty() => Ok(None),
            State::UntilClose => {
                self.message.closes = true;
                Ok(Some(self.finish()))
            }
            _ => bail!("the peer closed in the middle of a message"),
        }
    }

    fn is_complete(&self) -> bool {
        self.state == State::Length(0)
    }

    fn finish(&mut self) -> Message {
        self.state = State::Head;
        std::mem::take(&mut self.message)
    }

    /// How many of `bytes` belong to the head, if it is complete with them.
    fn take_head(&mut self, bytes: &[u8]) -> Result<Option<usize>> {
        if self.head.is_empty() {
            // The usual case: the whole head in one piece, parsed where it lies.
            if let Some(end) = memmem::find(bytes, b"\r\n\r\n") {
                self.parse_head(&bytes[..end + 4])?;
                return Ok(Some(end + 4));
            }
            self.head.extend_from_slice(bytes);
        } else {
            let before = self.head.len();
            let searched = before.saturating_sub(3);
            self.head.extend_from_slice(bytes);
            if let Some(end) = memmem::find(&self.head[searched..], b"\r\n\r\n") {
                let head_bytes = searched + end + 4;
                let mut head = std::mem::take(&mut self.head);
                self.parse_head(&head[..head_bytes])?;
                head.clear();
                self.head = head;
                return Ok(Some(head_bytes - before));
            }
        }
        if self.head.len() > HEAD_BYTES_MAX {
            bail!("a head of more than {HEAD_BYTES_MAX} bytes");
        }
        Ok(None)
    }

    fn parse_head(&mut self, head: &[u8]) -> Result<()> {
        let mut lines = [httparse::EMPTY_HEADER; HEADER_LINES_MAX];
        let framing = match self.kind {
            Kind::Request => {
                let mut request = httparse::Request::new(&mut lines);
                request.parse(head).context("no request head")?;
                self.message.is_head_request = request.method == Some("HEAD");
                framing_of(request.headers, request.version, &mut self.message)?
                    .unwrap_or(Framing::Length(0))
            }
            Kind::Response { to_head } => {
                let mut response = httparse::Response::new(&mut lines);
                response.parse(head).context("no response head")?;
                let status = response.code.unwrap_or(0);
                self.message.status = status;
                let framing = framing_of(response.headers, response.version, &mut self.message)?;
                if to_head || matches!(status, 100..=199 | 204 | 304) {
                    Framing::Length(0)
                } else {
                    framing.unwrap_or(Framing::UntilClose)
                }
            }
        };
        self.state = match framing {
            Framing::Length(bytes) => State::Length(bytes),
            Framing::Chunked => State::Chunk(Chunk::Size(0)),
            Framing::UntilClose => State::UntilClose,
        };
        Ok(())
    }

    /// Takes one step through `bytes`, which are not empty; returns how many it used.
    fn take_body(&mut self, bytes: &[u8]) -> Result<usize> {
        match self.state {
            State::Head => Ok(0),
            State::Length(left) => {
                let taken = self.take_content(bytes, left);
                self.state = State::Length(left - taken as u64);
                Ok(taken)
            }
            State::UntilClose => Ok(self.take_content(bytes, u64::MAX)),
            State::Chunk(Chunk::Data(left)) => {
                let taken = self.take_content(bytes, left);
                let left = left - taken as u64;
                let next = if left == 0 { Chunk::DataReturn } else { Chunk::Data(left) };
                self.state = State::Chunk(next);
                Ok(taken)
            }
            State::Chunk(chunk) => {
                self.state = match next_chunk(chunk, bytes[0])? {
                    Some(chunk) => State::Chunk(chunk),
                    None => State::Length(0),
                };
                Ok(1)
            }
        }
    }

    fn take_content(&mut self, bytes: &[u8], left: u64) -> usize {
        let taken = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        self.message.body_bytes += taken as u64;
        taken
    }
}

/// What comes after `byte` of chunk framing; `None` is the end of the message.
fn next_chunk(chunk: Chunk, byte: u8) -> Result<Option<Chunk>> {
    let after_size = |size| if size == 0 { Chunk::Trailer(0) } else { Chunk::Data(size) };
    let next = match (chunk, byte) {
        (Chunk::Size(size), b'\r') => Chunk::SizeEnd(size),
        (Chunk::Size(size), b';' | b' ' | b'\t') => Chunk::Extension(size),
        (Chunk::Size(size), digit) => {
            let digit = char::from(digit).to_digit(16).context("a chunk size that is no number")?;
            let size = size.checked_mul(16).context("a chunk size beyond 64 bits")?;
            Chunk::Size(size + u64::from(digit))
        }
        (Chunk::Extension(size), b'\r') => Chunk::SizeEnd(size),
        (Chunk::Extension(size), _) => Chunk::Extension(size),
        (Chunk::SizeEnd(size), b'\n') => after_size(size),
        (Chunk::DataReturn, b'\r') => Chunk::DataEnd,
        (Chunk::DataEnd, b'\n') => Chunk::Size(0),
        (Chunk::Trailer(bytes), b'\r') => Chunk::TrailerEnd(bytes),
        (Chunk::Trailer(bytes), _) => Chunk::Trailer(bytes + 1),
        (Chunk::TrailerEnd(0), b'\n') => return Ok(None),
        (Chunk::TrailerEnd(_), b'\n') => Chunk::Trailer(0),
        (chunk, byte) => bail!("byte {byte:#04x} in {chunk:?} of a chunked body"),
    };
    Ok(Some(next))
}

fn framing_of(
    lines: &[httparse::Header<'_>],
    version: Option<u8>,
    message: &mut Message,
) -> Result<Option<Framing>> {
    message.closes = version == Some(0);
    let mut framing = None;
    for line in lines {
        if line.name.eq_ignore_ascii_case("content-length") {
            let text = std::str::from_utf8(line.value).unwrap_or("");
            let bytes = text.parse().with_context(|| format!("Content-Length: {text:?}"))?;
            if framing.replace(Framing::Length(bytes)).is_some() {
                bail!("two framing lines");
            }
        } else if line.name.eq_ignore_ascii_case("transfer-encoding") {
            if !line.value.eq_ignore_ascii_case(b"chunked") {
                bail!("Transfer-Encoding other than chunked");
            }
            if framing.replace(Framing::Chunked).is_some() {
                bail!("two framing lines");
            }
        } else if line.name.eq_ignore_ascii_case("connection") {
            message.closes |= line.value.eq_ignore_ascii_case(b"close");
            message.closes &= !line.value.eq_ignore_ascii_case(b"keep-alive");
        }
    }
    Ok(framing)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESPONSE: Kind = Kind::Response { to_head: false };

    /// Feeds `bytes` in pieces that end at each of `splits`, and collects the messages.
    fn read(kind: Kind, bytes: &[u8], splits: &[usize]) -> Result<Vec<Message>> {
        let mut reader = MessageReader::new(kind);
        let mut messages = Vec::new();
        let mut start = 0;
        for &end in splits.iter().chain([&bytes.len()]) {
            while start < end {
                let progress = reader.feed(&bytes[start..end])?;
                start += progress.used;
                messages.extend(progress.complete);
            }
        }
        messages.extend(reader.on_close()?);
        Ok(messages)
    }

    #[test]
    fn finds_the_end_wherever_the_pieces_end() {
        let of = |status, body_bytes, closes| Message {
            status,
            body_bytes,
            closes,
            is_head_request: false,
        };
        let cases: [(&str, Kind, &str, &[Message]); 9] = [
            ("request", Kind::Request, "GET / HTTP/1.1\r\nHost: a\r\n\r\n", &[of(0, 0, false)]),
            (
                "request with body, pipelined",
                Kind::Request,
                "POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\n\r\n",
                &[of(0, 3, false), of(0, 0, false)],
            ),
            (
                "length",
                RESPONSE,
                "HTTP/1.1 200 OK\r\ncontent-LENGTH: 4\r\n\r\nbody",
                &[of(200, 4, false)],
            ),
            (
                "chunked with extension and trailer, then another",
                RESPONSE,
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\nA\r\n\
                 0123456789\r\n0\r\nx: y\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
                &[of(200, 13, false), of(204, 0, false)],
            ),
            ("until close", RESPONSE, "HTTP/1.1 200 OK\r\n\r\nall of it", &[of(200, 9, true)]),
            (
                "close announced",
                RESPONSE,
                "HTTP/1.1 500 No\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx",
                &[of(500, 1, true)],
            ),
            (
                "HTTP/1.0",
                RESPONSE,
                "HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx",
                &[of(200, 1, true)],
            ),
            (
                "HTTP/1.0 kept alive",
                RESPONSE,
                "HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 1\r\n\r\nx",
                &[of(200, 1, false)],
            ),
            (
                "answer to HEAD",
                Kind::Response { to_head: true },
                "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n",
                &[of(200, 0, false)],
            ),
        ];
        for (case, kind, text, want) in cases {
            let bytes = text.as_bytes();
            assert_eq!(read(kind, bytes, &[]).unwrap(), want, "{case}: whole");
            let every: Vec<usize> = (1..bytes.len()).collect();
            assert_eq!(read(kind, bytes, &every).unwrap(), want, "{case}: byte by byte");
            for split in every {
                assert_eq!(read(kind, bytes, &[split]).unwrap(), want, "{case}: split at {split}");
            }
        }
    }

    #[test]
    fn refuses_what_is_no_message() {
        for (case, text) in [
            ("junk", "\x16\x03\x01\r\n\r\n"),
            ("length that is no number", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"),
            ("two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx"),
            ("cut off in the head", "HTTP/1.1 200 OK\r\nConte"),
            ("cut off in the body", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"),
            (
                "chunk without its end",
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n",
            ),
            (
                "cut off between chunks",
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n",
            ),
        ] {
            assert!(read(RESPONSE, text.as_bytes(), &[]).is_err(), "{case}");
        }
        let endless = vec![b'a'; HEAD_BYTES_MAX + 1];
        let mut reader = MessageReader::new(Kind::Request);
        assert!(reader.feed(&endless).is_err(), "a head without end");
    }
}
