//! What a worker tells of one call or one span: records of fixed size, so that writing one neither
//! allocates nor formats. Whoever reads them does that, on another thread.

#![forbid(unsafe_code)]

use super::trace::{Context, SpanId};
use crate::{clock::Instant, http::RequestHead};
use std::net::SocketAddr;

/// Text within a record; what is longer is cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Text<const BYTES: usize> {
    bytes: [u8; BYTES],
    length: u16,
}

impl<const BYTES: usize> Default for Text<BYTES> {
    fn default() -> Self {
        const { assert!(BYTES <= u16::MAX as usize, "a length must fit") };
        Self { bytes: [0; BYTES], length: 0 }
    }
}

impl<const BYTES: usize> Text<BYTES> {
    pub(super) fn push(&mut self, text: &[u8]) {
        let at = usize::from(self.length);
        let count = text.len().min(BYTES - at);
        self.bytes[at..at + count].copy_from_slice(&text[..count]);
        self.length += u16::try_from(count).expect("it is within the text");
    }

    fn room(&self) -> usize {
        BYTES - usize::from(self.length)
    }

    pub(super) fn clear(&mut self) {
        self.length = 0;
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// Bytes that are no UTF-8, a character cut in two included, are shown as replacements.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }
}

/// One request to an app's API, answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ApiCall {
    pub(crate) app: u32,
    /// Verb and path, or the route.
    pub(crate) method: Text<METHOD_BYTES>,
    pub(crate) user_agent: Text<USER_AGENT_BYTES>,
    pub(crate) status: u16,
    pub(crate) response_bytes: u64,
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum SpanKind {
    /// At the caller's sidecar.
    Client,
    /// At the callee's.
    Server,
}

/// One hop of a trace that is recorded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) app: u32,
    pub(crate) kind: SpanKind,
    pub(crate) context: Context,
    /// Zero for the first one of a trace.
    pub(crate) parent: SpanId,
    pub(crate) name: Text<METHOD_BYTES>,
    pub(crate) status: u16,
    /// The status is upstream's, not a sidecar's own.
    pub(crate) is_answered: bool,
    pub(crate) asked: Asked,
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
}

/// The request of a hop that is recorded, as it came in.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Asked {
    pub(crate) verb: Text<VERB_BYTES>,
    pub(crate) target: Text<METHOD_BYTES>,
    /// Those with Dapr's prefix: a line each, the name small, a colon, the value.
    pub(crate) headers: Text<HEADERS_BYTES>,
    /// `None` over a Unix socket.
    pub(crate) client: Option<SocketAddr>,
}

impl Asked {
    pub(super) fn note(&mut self, head: &RequestHead, bytes: &[u8]) {
        self.verb.clear();
        self.verb.push(head.method_name.of(bytes));
        self.target.clear();
        self.target.push(head.target.of(bytes));
        self.headers.clear();
        self.client = None;
        for line in head.lines.iter() {
            self.note_line(line.name.of(bytes), line.value.of(bytes));
        }
    }

    /// One that has no room is left out: half a value would be another one.
    fn note_line(&mut self, name: &[u8], value: &[u8]) {
        let is_daprs = name.len() > HEADER_NAME_BYTES_MIN
            && name.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
            && !name.eq_ignore_ascii_case(TOKEN);
        if !is_daprs || name.len() + value.len() + 2 > self.headers.room() {
            return;
        }
        for byte in name {
            self.headers.push(&[byte.to_ascii_lowercase()]);
        }
        for part in [b":", value, b"\n"] {
            self.headers.push(part);
        }
    }
}

const PREFIX: &[u8] = b"dapr-";
/// daprd's rule: no shorter than its suffix for binary metadata.
const HEADER_NAME_BYTES_MIN: usize = "-bin".len();
/// Whoever reads traces is not to learn it.
const TOKEN: &[u8] = b"dapr-api-token";

/// The longest registered method has 16 bytes (RFC 3253's `BASELINE-CONTROL`).
pub(super) const VERB_BYTES: usize = 16;
/// A handful of Dapr's own and of those that an app adds to find its calls again.
pub(super) const HEADERS_BYTES: usize = 256;

/// Longer than nearly all paths of an API.
pub(super) const METHOD_BYTES: usize = 256;
pub(super) const USER_AGENT_BYTES: usize = 96;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_where_its_room_ends() {
        let mut text = Text::<5>::default();
        text.push(b"abc");
        text.push("dé".as_bytes());
        assert_eq!(text.text(), "abcd\u{fffd}");
        text.push(b"more");
        assert_eq!(text.text(), "abcd\u{fffd}");
        text.clear();
        assert_eq!(text.text(), "");
    }
}
