//! What a worker tells of one call or one span: records of fixed size, so that writing one neither
//! allocates nor formats. Whoever reads them does that, on another thread.

#![forbid(unsafe_code)]

use super::trace::{Context, SpanId};
use crate::clock::Instant;

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
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
}

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
