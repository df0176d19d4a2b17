//! One request and its response, as far as a connection must remember it between events.
//!
//! Its buffers are lent by the worker for as long as the exchange lasts.

#![forbid(unsafe_code)]

use crate::{
    clock::Instant,
    dapr::CallNotes,
    engine::Chunk,
    error::Hop,
    http::{BodyReader, Method, Version},
    telemetry::Observed,
    upstream::{EndpointKey, Seat, UpstreamKey},
};
use std::{collections::VecDeque, mem};

/// How response bytes reach the client.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Encoding {
    /// As they come.
    #[default]
    AsIs,
    /// The app ends its body by closing; the client gets chunks, and so learns whether it was
    /// whole.
    Chunked,
    /// The app sends chunks, the client speaks HTTP/1.0: content only, ended by closing.
    Unchunked,
}

#[derive(Default)]
pub(crate) struct Exchange {
    pub notes: CallNotes,
    /// What is remembered of it to be told; `None` where nothing is, or all has been.
    pub observed: Option<Box<Observed>>,
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
    /// The endpoint's place among several, which its outcome is told to. `None`: there was no
    /// choice.
    pub seat: Option<Seat>,
    /// Endpoints that did not take the request; at most ENDPOINTS_TRIED_MAX, then there is a pause.
    pub tried: Vec<EndpointKey>,
    /// When the request began to leave for `endpoint`.
    pub attempted: Instant,
    pub upstream: Option<UpstreamKey>,
    /// A connection to the endpoint was open.
    pub upstream_reached: bool,
    pub request: BodyReader,
    pub request_bytes_max: Option<u64>,
    /// Request bytes that wait for the upstream connection.
    pub pending: VecDeque<Chunk>,
    /// A copy of all that was sent, while it may have to be sent again. Empty: it cannot be.
    pub replay: Vec<u8>,
    /// How often it was sent again after it had left.
    pub replay_count: u8,
    pub retry_count: u32,
    /// Control was asked where the app is after all its addresses had turned out to be others'.
    pub is_resolved_anew: bool,
    pub interim_count: u32,
    /// The request asked for another protocol and may get it.
    pub upgrade: bool,
    /// The response's head has been forwarded.
    pub response_started: bool,
    pub response: BodyReader,
    pub encoding: Encoding,
    /// Lines for a browser that go with the answer, whoever gives it.
    pub cors: Vec<u8>,
    /// The upstream connection may be used again after this response.
    pub upstream_keep_alive: bool,
}

impl Exchange {
    /// Makes everything as it is before a request, which may use `buffers`.
    pub(crate) fn begin(&mut self, buffers: Buffers) {
        debug_assert!(
            self.upstream.is_none(),
            "the last exchange gave its upstream connection back"
        );
        debug_assert!(self.observed.is_none(), "the last exchange was told of");
        let Buffers { notes, url_path, replay, cors } = buffers;
        *self = Self { notes, url_path, replay, cors, ..Self::default() };
    }

    /// Whether the request, as far as it is here, may reach the app twice (RFC 9110 §9.2.2).
    pub(crate) fn may_be_repeated(&self) -> bool {
        self.method.is_idempotent() && self.request.is_complete() && !self.upgrade
    }

    /// Takes what an idle connection should not keep.
    pub(crate) fn end(&mut self) -> Buffers {
        self.pending = VecDeque::new();
        self.tried = Vec::new();
        let mut buffers = Buffers {
            notes: mem::take(&mut self.notes),
            url_path: mem::take(&mut self.url_path),
            replay: mem::take(&mut self.replay),
            cors: mem::take(&mut self.cors),
        };
        buffers.cors.clear();
        buffers.url_path.clear();
        buffers.replay.clear();
        buffers
    }
}

/// The growing parts of an exchange. They go from exchange to exchange, so that a warm worker
/// allocates nothing.
#[derive(Default)]
pub(crate) struct Buffers {
    notes: CallNotes,
    url_path: Vec<u8>,
    replay: Vec<u8>,
    cors: Vec<u8>,
}

impl Buffers {
    /// They have grown once, and so are worth keeping.
    pub(crate) fn are_warm(&self) -> bool {
        self.notes.method.capacity() > 0
    }
}
