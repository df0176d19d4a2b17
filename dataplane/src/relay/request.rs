//! Downstream bytes: heads are parsed and handed to whoever answers, body bytes go on upstream.

#![forbid(unsafe_code)]

use super::Relay;
use crate::{
    connection::{Connection, ConnectionKey, Dialed, State},
    dapr::{self, Asked, external::LookupError},
    engine::{Chunk, Engine},
    error::Cause,
    http::{ChunkError, HeadError, Parsed, RequestError, parse_request},
    limits::{
        ADMIN_BODY_BYTES_MAX, ADMIN_TIMEOUT, HEAD_BYTES_MAX, HEAD_TIMEOUT, HEADER_LINES_MAX,
        PEER_HEAD_BYTES, PEER_HEADER_LINES, RELAY_HIGH_BYTES, STALL_TIMEOUT,
    },
};
use snapshot::{App, ListenerKind, wire::AdminRequest};

impl<E: Engine> Relay<E> {
    pub(super) fn on_downstream_bytes(&mut self, key: ConnectionKey, chunk: Chunk) {
        let Some(connection) = self.connections.find_mut(key) else { return };
        match &mut connection.state {
            State::Idle | State::ReadingHead => self.read_head_with(key, chunk),
            State::CollectingForControl { .. } => self.collect_for_control(key, chunk),
            State::AwaitingHost
            | State::Exchanging
            | State::Queued
            | State::Resolving { .. }
            | State::Retrying => {
                self.on_request_bytes(key, chunk);
            }
            State::Tunnel => self.tunnel_upstream(key, chunk),
            State::AwaitingControl => self.stash(key, chunk),
            State::Flushing { .. } => {}
            State::Discarding { .. } => self.discard(key, chunk),
            State::Lingering { bytes_left } => match bytes_left.checked_sub(chunk.len()) {
                Some(left) => *bytes_left = left,
                None => self.close_downstream(key),
            },
        }
    }

    /// Parses the next head from what is here, if it is whole, and starts its exchange.
    pub(super) fn read_head(&mut self, key: ConnectionKey) {
        self.read_head_with(key, Chunk::from_static(b""));
    }

    /// As [`Self::read_head`], with what has just come.
    fn read_head_with(&mut self, key: ConnectionKey, arrived: Chunk) {
        let Some(connection) = self.connections.find_mut(key) else { return };
        if !matches!(connection.state, State::Idle | State::ReadingHead) {
            return;
        }
        // A client that takes no answers gets to ask no more; `on_sent` takes up again.
        let queued = self.engine.send_queued_bytes(connection.socket);
        if queued >= RELAY_HIGH_BYTES {
            self.engine.relax_sent(connection.socket, false);
            if !arrived.is_empty() {
                connection.input.push(arrived);
            }
            return self.pause_downstream_if_full(key, queued);
        }
        let Some(app) = self.view.snapshot.apps.get(connection.app) else {
            return self.close_downstream(key);
        };
        let (bytes_max, lines_max) = head_bounds(connection.listener, app);
        let Some(chunk) = connection.input.take_with(arrived, bytes_max) else {
            return self.await_head(key);
        };
        match parse_request(&chunk, bytes_max, &mut self.request_head) {
            Ok(Parsed::Complete) if self.request_head.lines.as_slice().len() > lines_max => {
                self.refuse(key, RequestError::Head(HeadError::TooManyLines));
            }
            Ok(Parsed::Complete) => self.begin(key, chunk),
            Ok(Parsed::Partial) => {
                connection.input.push(chunk);
                connection.input.copy_out();
                self.await_head(key);
            }
            Err(error) => self.refuse(key, error),
        }
    }

    /// The clock of a head runs from its first byte and does not start anew with later ones.
    fn await_head(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.find_mut(key) else { return };
        if connection.read_closed {
            return self.close_after_flush(key, false);
        }
        if connection.state == State::Idle && !connection.input.is_empty() {
            connection.state = State::ReadingHead;
            self.set_deadline(key, Some(HEAD_TIMEOUT));
        }
    }

    /// A head that is not to be understood: the client is told why, and nothing more is read as
    /// HTTP.
    fn refuse(&mut self, key: ConnectionKey, error: RequestError) {
        let Some(connection) = self.connections.find_mut(key) else { return };
        self.counters.requests_refused.add(1);
        // What it asked for is unknown, so what it gets is HTTP/1.1 with a body, and the end.
        connection.exchange.begin(self.spare.pop().unwrap_or_default());
        connection.exchange.asks_more = true;
        let text = error.to_string();
        self.answer_text(key, error.status(), &text);
    }

    /// A whole head is in `self.request_head`, its bytes at the start of `chunk`.
    fn begin(&mut self, key: ConnectionKey, chunk: Chunk) {
        let Some(connection) = self.connections.find_mut(key) else { return };
        let head = &self.request_head;
        let exchange = &mut connection.exchange;
        exchange.begin(self.spare.pop().unwrap_or_default());
        exchange.method = head.method;
        exchange.version = head.version;
        exchange.keep_alive = head.keep_alive && !self.draining;
        exchange.asks_more = head.keep_alive;
        exchange.expects_continue = head.expect_continue;
        exchange.request.begin(head.framing, &head.lines);
        connection.state = State::Exchanging;
        connection.deadline = None;
        if !self.observe_request(key, &chunk) {
            return;
        }
        let Some(connection) = self.connections.find(key) else { return };
        if connection.listener == ListenerKind::Peer {
            return self.call(key, chunk);
        }
        // Who does not know of a sidecar has no token for it, and no browser asks it for leave.
        let is_guarded = connection.listener == ListenerKind::Api
            && connection.target().is_none()
            && self.view.app(connection.app).guards.guards_api();
        if is_guarded && self.ask_cors(key, &chunk) {
            return self.answer_preflight(key, chunk);
        }
        let asked = self.interpret(key, &chunk);
        if is_guarded && !self.has_token(key, &chunk, asked) {
            return self.refuse_token(key, chunk);
        }
        let asked = match is_guarded {
            true => self.pass_pipeline(key, &chunk, asked),
            false => Some(asked),
        };
        let Some(asked) = asked else { return };
        match asked {
            Asked::Invoke { .. } => self.call(key, chunk),
            Asked::Local(call) => self.answer_local(key, chunk, call),
            Asked::NoTarget => self.fail_with_body(key, chunk, Cause::NoTarget),
        }
    }

    /// What a client asks for, with names in the exchange's notes.
    fn interpret(&mut self, key: ConnectionKey, bytes: &[u8]) -> Asked {
        let connection = self.connections.find_mut(key).expect("its head has just been read");
        let request = dapr::Request::of(&self.request_head, bytes);
        let Connection { listener, app, remote, exchange, .. } = connection;
        let notes = &mut exchange.notes;
        match *listener {
            ListenerKind::Inbound => dapr::interpret_inbound(&request, notes),
            ListenerKind::Public => Asked::Local(dapr::interpret_public(&request, notes)),
            ListenerKind::Api | ListenerKind::Peer => {
                let allowed = self.view.app(*app).guards.allowed();
                match remote.as_ref().and_then(|remote| remote.dialed.as_ref()) {
                    Some(Dialed::For(target)) => {
                        dapr::interpret_captured(&request, target, allowed, notes)
                    }
                    Some(Dialed::By(_)) | None => dapr::interpret_allowed(&request, allowed, notes),
                }
            }
        }
    }

    /// Takes the part of `chunk` that is this request's body; the rest is kept for the next one.
    /// `None`: the body is broken or too large, and the client was told.
    pub(super) fn take_body(&mut self, key: ConnectionKey, chunk: Chunk) -> Option<Chunk> {
        self.take_message(key, chunk, 0)
    }

    /// As [`Self::take_body`], with `head_bytes` of an already understood head in front, which stay
    /// in front.
    pub(super) fn take_message(
        &mut self,
        key: ConnectionKey,
        mut chunk: Chunk,
        head_bytes: usize,
    ) -> Option<Chunk> {
        let connection = self.connections.find_mut(key)?;
        let exchange = &mut connection.exchange;
        let count = match exchange.take_request(&mut chunk, head_bytes) {
            Ok(count) => count,
            Err(error) => {
                self.fail(key, bad_body(error));
                return None;
            }
        };
        let data_bytes = exchange.request.data_bytes();
        let is_too_large = exchange.request_bytes_max.is_some_and(|max| data_bytes > max);
        let message = chunk.split_to(head_bytes + count);
        // Also when the body is refused: what comes behind it is the next request.
        keep_for_later(connection, chunk);
        if is_too_large {
            self.fail(key, Cause::BodyTooLarge);
            return None;
        }
        Some(message)
    }

    fn on_request_bytes(&mut self, key: ConnectionKey, chunk: Chunk) {
        let Some(connection) = self.connections.find(key) else { return };
        if connection.exchange.request.is_complete() {
            return self.stash(key, chunk);
        }
        let Some(body) = self.take_body(key, chunk) else { return };
        self.remember_more(key, &body);
        if self.awaits_attempt(key) {
            // The next one takes it along.
            return;
        }
        self.send_upstream(key, body);
        self.note_progress(key);
    }

    /// What a client sends ahead of its next request waits, but not without bound.
    fn stash(&mut self, key: ConnectionKey, chunk: Chunk) {
        let Some(connection) = self.connections.find_mut(key) else { return };
        keep_for_later(connection, chunk);
        if connection.input.len() >= HEAD_BYTES_MAX && !connection.paused {
            connection.paused = true;
            self.engine.receive_stop(connection.socket);
            self.note_progress(key);
        }
    }

    /// The rest of a body that nobody wants, as far as it is cheaper to read it than to lose the
    /// connection.
    fn discard(&mut self, key: ConnectionKey, chunk: Chunk) {
        let received = chunk.len();
        let Some(_) = self.take_body(key, chunk) else { return };
        let Some(connection) = self.connections.find_mut(key) else { return };
        let State::Discarding { bytes_left } = &mut connection.state else { return };
        if connection.exchange.request.is_complete() {
            return self.next_request(key);
        }
        match bytes_left.checked_sub(received) {
            Some(left) => *bytes_left = left,
            None => self.close_after_flush(key, true),
        }
    }

    pub(super) fn on_downstream_closed(&mut self, key: ConnectionKey) {
        let awaits_attempt = self.awaits_attempt(key);
        let Some(connection) = self.connections.find_mut(key) else { return };
        connection.read_closed = true;
        match connection.state {
            // It may have asked more than was answered so far.
            State::Idle | State::ReadingHead if connection.input.is_empty() => {
                self.close_after_flush(key, false);
            }
            State::Idle | State::ReadingHead => self.read_head(key),
            State::Lingering { .. } | State::CollectingForControl { .. } => {
                self.close_downstream(key);
            }
            State::Discarding { .. } => self.close_after_flush(key, false),
            // A sidecar that closes its connection has lost its client; it never half-closes one.
            State::Exchanging if connection.listener == ListenerKind::Peer => self.abandon(key),
            State::Queued => self.leave_line(key),
            // A client may close its side after its request and still read the answer (RFC 9112
            // §9.6), but a request that will never be whole must not be completed.
            State::AwaitingHost | State::Exchanging | State::Resolving { .. } | State::Retrying
                if !connection.exchange.request.is_complete() =>
            {
                self.abandon(key);
            }
            // It may be gone, so the next attempt is its last one, and comes at once.
            State::Retrying if awaits_attempt => self.next_attempt(key),
            State::Tunnel => self.tunnel_downstream_closed(key),
            State::Exchanging => self.note_progress(key),
            State::AwaitingControl
            | State::AwaitingHost
            | State::Resolving { .. }
            | State::Retrying
            | State::Flushing { .. } => {}
        }
    }

    // Requests that control answers.

    pub(super) fn collect(&mut self, key: ConnectionKey, chunk: Chunk) {
        let Some(connection) = self.connections.find_mut(key) else { return };
        connection.state = State::CollectingForControl { body: Vec::new() };
        if connection.exchange.expects_continue && chunk.is_empty() {
            self.engine.send(connection.socket, Chunk::from_static(CONTINUE));
        }
        self.set_deadline(key, Some(STALL_TIMEOUT));
        self.collect_for_control(key, chunk);
        let collects = |state: &State| matches!(state, State::CollectingForControl { .. });
        if self.connections.find(key).is_some_and(|connection| collects(&connection.state)) {
            // Requests sent ahead may have stopped the reading; this one's body must come.
            self.resume_downstream(key);
        }
    }

    fn collect_for_control(&mut self, key: ConnectionKey, mut chunk: Chunk) {
        let Some(connection) = self.connections.find_mut(key) else { return };
        let State::CollectingForControl { body } = &mut connection.state else { return };
        let passed = connection.exchange.passed.as_ref();
        let is_uppercase = passed.is_some_and(|passed| passed.uppercases_request);
        let request = &mut connection.exchange.request;
        while !request.is_complete() && !chunk.is_empty() {
            let piece = match request.next_data(&chunk) {
                Ok(piece) => piece,
                Err(error) => return self.fail(key, bad_body(error)),
            };
            chunk.advance(piece.framing);
            let start = body.len();
            body.extend_from_slice(&chunk.split_to(piece.data));
            if is_uppercase {
                body[start..].make_ascii_uppercase();
            }
            if body.len() > ADMIN_BODY_BYTES_MAX {
                return self.fail(key, Cause::BodyTooLarge);
            }
        }
        if !request.is_complete() {
            return;
        }
        let body = std::mem::take(body);
        keep_for_later(connection, chunk);
        let name = String::from_utf8_lossy(&connection.exchange.notes.target).into_owned();
        self.ask_control(key, AdminRequest::SetMetadata { key: name, value: body });
    }

    pub(super) fn ask_control(&mut self, key: ConnectionKey, request: AdminRequest) {
        let Some(connection) = self.connections.find_mut(key) else { return };
        connection.state = State::AwaitingControl;
        let app = connection.app;
        self.control_calls.push(super::ControlCall { connection: key, app, request });
        self.set_deadline(key, Some(ADMIN_TIMEOUT));
    }

    pub(super) fn on_connection_timeout(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.find(key) else { return };
        match connection.state {
            State::AwaitingControl => self.fail(key, Cause::ControlAway),
            State::AwaitingHost | State::Resolving { .. } if self.is_out_of_time(key) => {
                self.time_out(key);
            }
            State::Resolving { .. } => self.unpark(key),
            State::AwaitingHost => self.fail(key, Cause::Lookup(LookupError::Timeout)),
            State::Retrying => self.on_pause_over(key),
            State::Exchanging | State::Queued if self.is_out_of_time(key) => self.time_out(key),
            State::Exchanging | State::Queued | State::Tunnel => self.abandon(key),
            State::Discarding { .. } => self.close_after_flush(key, true),
            State::Idle
            | State::ReadingHead
            | State::CollectingForControl { .. }
            | State::Flushing { .. }
            | State::Lingering { .. } => self.close_downstream(key),
        }
    }
}

/// A client's head grows by a few lines on its way to another sidecar. What passed the first one
/// must pass the second.
#[inline]
fn head_bounds(listener: ListenerKind, app: &App) -> (usize, usize) {
    match listener {
        ListenerKind::Peer => (HEAD_BYTES_MAX, HEADER_LINES_MAX),
        ListenerKind::Api | ListenerKind::Inbound | ListenerKind::Public => (
            (app.head_bytes_max as usize).min(HEAD_BYTES_MAX - PEER_HEAD_BYTES),
            HEADER_LINES_MAX - PEER_HEADER_LINES,
        ),
    }
}

/// RFC 9110 §15.2.1.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A body whose end cannot be found: the client is told, and the connection ends.
fn bad_body(_: ChunkError) -> Cause {
    Cause::BadRequest("the chunked body is malformed")
}

/// Bytes behind the current request. They are copied: a slow exchange must not hold a receive
/// buffer.
#[inline]
pub(super) fn keep_for_later(connection: &mut Connection, chunk: Chunk) {
    if !chunk.is_empty() {
        connection.input.push(chunk);
        connection.input.copy_out();
    }
}
