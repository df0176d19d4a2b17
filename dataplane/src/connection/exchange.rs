//! One request and its response, as far as a connection must remember it between events.
//!
//! Its buffers are lent by the worker for as long as the exchange lasts.

#![forbid(unsafe_code)]

use crate::{
    clock::Instant,
    dapr::CallNotes,
    engine::Chunk,
    error::Hop,
    gate::Pass,
    http::{BodyReader, Method, Version},
    limits::{PEER_RETRY_INTERVAL, PEER_RETRY_MAX, REPLAY_BYTES_MAX},
    policy::resiliency::Attempts,
    telemetry::Observed,
    upstream::{EndpointKey, Seat, UpstreamKey},
};
use std::{collections::VecDeque, mem, net::SocketAddr, time::Duration};

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

/// A server outside of Dapr, as long as it is called.
pub(crate) struct External {
    /// `http://host:port`, for error texts.
    pub base: Box<[u8]>,
    /// What of the host's addresses was not tried yet, the next one last.
    pub addresses: Vec<SocketAddr>,
    /// These are found by the host's name, each time anew.
    pub is_named: bool,
    pub port: u16,
}

/// What an exchange's pipelines want done with it.
#[derive(Default)]
pub(crate) struct Passed {
    pub uppercases_request: bool,
    /// Whoever gives the answer.
    pub uppercases_answer: bool,
    /// The app's answer alone.
    pub uppercases_app_answer: bool,
    /// Lines of the app's answer alone.
    pub app_lines: Vec<u8>,
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
    /// The server outside of Dapr that is called, if that is the target.
    pub external: Option<Box<External>>,
    /// Its place at the gate of the app, if that has one.
    pub pass: Pass,
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
    /// What its policy has made of it so far; `None`: there is none.
    pub attempts: Option<Box<Attempts>>,
    pub interim_count: u32,
    /// The request takes server-sent events and nothing else, and came from another app.
    pub wants_events: bool,
    /// The request asked for another protocol and may get it.
    pub upgrade: bool,
    /// The response's head has been forwarded.
    pub response_started: bool,
    pub response: BodyReader,
    pub encoding: Encoding,
    /// Lines that go with the answer, whoever gives it: for a browser, and of the API's pipeline.
    pub answer_lines: Vec<u8>,
    /// What pipelines want of it; `None`: nothing.
    pub passed: Option<Box<Passed>>,
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
        debug_assert!(matches!(self.pass, Pass::None), "the last exchange gave its token back");
        debug_assert!(self.observed.is_none(), "the last exchange was told of");
        // One by one: a new one would be made beside this one, and moved over it.
        let Self {
            notes,
            observed,
            url_path,
            method,
            version,
            keep_alive,
            asks_more,
            expects_continue,
            hop,
            endpoint,
            seat,
            tried,
            attempted,
            external,
            pass,
            upstream,
            upstream_reached,
            request,
            request_bytes_max,
            pending,
            replay,
            replay_count,
            retry_count,
            is_resolved_anew,
            attempts,
            interim_count,
            wants_events,
            upgrade,
            response_started,
            response,
            encoding,
            answer_lines,
            passed,
            upstream_keep_alive,
        } = self;
        (*notes, *url_path) = (buffers.notes, buffers.url_path);
        (*replay, *answer_lines) = (buffers.replay, buffers.answer_lines);
        (*observed, *external, *attempts, *passed) = (None, None, None, None);
        (*endpoint, *seat, *upstream) = (None, None, None);
        (*method, *version, *hop) = (Method::default(), Version::default(), Hop::default());
        (*keep_alive, *asks_more, *expects_continue) = (false, false, false);
        (*upstream_reached, *is_resolved_anew, *wants_events) = (false, false, false);
        (*upgrade, *response_started, *upstream_keep_alive) = (false, false, false);
        (*replay_count, *retry_count, *interim_count) = (0, 0, 0);
        (*attempted, *request_bytes_max) = (Instant::default(), None);
        (*pass, *encoding) = (Pass::default(), Encoding::default());
        request.clear();
        response.clear();
        if !pending.is_empty() || !tried.is_empty() {
            (*pending, *tried) = (VecDeque::new(), Vec::new());
        }
    }

    /// Whether the request, as far as it is here, may reach the app twice (RFC 9110 §9.2.2).
    #[inline]
    pub(crate) fn may_be_repeated(&self) -> bool {
        self.method.is_idempotent() && self.request.is_complete() && !self.upgrade
    }

    /// Room for all of the request, of which `here` bytes are here, for the attempts that its
    /// policy may want. False: there is none, or it is not for them.
    #[inline]
    pub(crate) fn take_room(&mut self, here: usize) -> bool {
        let Some(attempts) = self.attempts.as_mut().filter(|a| a.retries()) else { return false };
        let left = self.request.bytes_left().and_then(|left| usize::try_from(left).ok());
        let all = left.and_then(|left| left.checked_add(here));
        !self.upgrade && all.is_some_and(|all| attempts.kept.try_grow(all))
    }

    /// What [`Self::take_room`] was told.
    #[inline]
    pub(crate) fn has_room(&self) -> bool {
        self.attempts.as_ref().is_some_and(|attempts| attempts.kept.is_any())
    }

    /// There will be no further attempt.
    pub(crate) fn forget_request(&mut self) {
        if let Some(attempts) = &mut self.attempts {
            attempts.kept.give_back();
            self.replay.clear();
            self.replay.shrink_to(REPLAY_BYTES_MAX);
        }
    }

    /// How often and how far apart a peer that cannot be reached is tried again.
    pub(crate) fn built_in_retry(&self) -> (u32, Duration) {
        let Some(attempts) = &self.attempts else { return (PEER_RETRY_MAX, PEER_RETRY_INTERVAL) };
        attempts.built_in().map_or((0, Duration::ZERO), |retry| {
            (retry.count_max.unwrap_or(u32::MAX), retry.pause.first())
        })
    }

    /// When its policy wants to be asked.
    #[inline]
    pub(crate) fn policy_deadline(&self) -> Option<Instant> {
        self.attempts.as_ref().and_then(|attempts| attempts.deadline())
    }

    /// Takes what an idle connection should not keep.
    pub(crate) fn end(&mut self) -> Buffers {
        if self.pending.capacity() > 0 {
            self.pending = VecDeque::new();
        }
        self.attempts = None;
        if self.tried.capacity() > 0 {
            self.tried = Vec::new();
        }
        self.external = None;
        self.passed = None;
        let mut buffers = Buffers {
            notes: mem::take(&mut self.notes),
            url_path: mem::take(&mut self.url_path),
            replay: mem::take(&mut self.replay),
            answer_lines: mem::take(&mut self.answer_lines),
        };
        buffers.answer_lines.clear();
        buffers.url_path.clear();
        buffers.replay.clear();
        // A policy may have had more kept than is worth having for the next request.
        buffers.replay.shrink_to(REPLAY_BYTES_MAX);
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
    answer_lines: Vec<u8>,
}

impl Buffers {
    /// They have grown once, and so are worth keeping.
    #[inline]
    pub(crate) fn are_warm(&self) -> bool {
        self.notes.method.capacity() > 0
    }
}
