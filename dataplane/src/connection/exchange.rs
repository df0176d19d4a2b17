//! One request and its response, as far as a connection must remember it between events.
//!
//! The buffers in here keep their capacity from request to request, so that a warm connection allocates nothing.

#![forbid(unsafe_code)]

use crate::{
    clock::Instant,
    dapr::CallNotes,
    engine::Chunk,
    error::Hop,
    http::{BodyReader, Framing, Method, Version},
    upstream::{EndpointKey, UpstreamKey},
};
use std::collections::VecDeque;

/// Capacity a connection may keep in its note buffers while it is idle.
const NOTES_BYTES_KEPT: usize = 128;

/// How response bytes reach the client.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Encoding {
    /// As they come.
    #[default]
    AsIs,
    /// The app ends its body by closing; the client gets chunks, and so learns whether it was whole.
    Chunked,
    /// The app sends chunks, the client speaks HTTP/1.0: content only, ended by closing.
    Unchunked,
}

#[derive(Default)]
pub(crate) struct Exchange {
    pub notes: CallNotes,
    /// Escaped path and query as sent upstream; error texts name it.
    pub url_path: Vec<u8>,
    /// As sent upstream; daprd knows these verbs only.
    pub method: Method,
    pub version: Version,
    /// The client wants to go on after this exchange.
    pub keep_alive: bool,
    /// The client means to go on, so it may be sending already when we decide to close.
    pub asks_more: bool,
    /// The client waits for a 100 before it sends the body.
    pub expects_continue: bool,
    pub hop: Hop,
    pub endpoint: Option<EndpointKey>,
    pub upstream: Option<UpstreamKey>,
    /// A connection to the endpoint was open.
    pub upstream_reached: bool,
    pub request: BodyReader,
    pub request_bytes_max: Option<u64>,
    /// Request bytes that wait for the upstream connection.
    pub pending: VecDeque<Chunk>,
    /// A copy of all that was sent, while it may have to be sent again. Empty: not to be repeated.
    pub replay: Vec<u8>,
    pub retry_count: u32,
    pub interim_count: u32,
    /// The request asked for another protocol and may get it.
    pub upgrade: bool,
    /// The response's head has been forwarded.
    pub response_started: bool,
    pub response: BodyReader,
    pub encoding: Encoding,
    /// The upstream connection may be used again after this response.
    pub upstream_keep_alive: bool,
    pub started: Instant,
}

impl Exchange {
    /// Makes room for the next request; keeps the buffers.
    pub(crate) fn reset(&mut self, started: Instant) {
        debug_assert!(
            self.upstream.is_none(),
            "the last exchange gave its upstream connection back"
        );
        self.url_path.clear();
        self.endpoint = None;
        self.upstream_reached = false;
        self.pending.clear();
        self.replay.clear();
        self.retry_count = 0;
        self.interim_count = 0;
        self.upgrade = false;
        self.response_started = false;
        self.response = BodyReader::new(Framing::Empty);
        self.encoding = Encoding::AsIs;
        self.upstream_keep_alive = false;
        self.request_bytes_max = None;
        self.started = started;
    }

    /// Gives back what an idle connection should not keep.
    pub(crate) fn shrink(&mut self) {
        self.url_path.shrink_to(NOTES_BYTES_KEPT);
        self.pending = VecDeque::new();
        self.replay = Vec::new();
    }
}
