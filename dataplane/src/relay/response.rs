//! Upstream bytes: the response's head is rewritten for the client, its body follows as it comes.

#![forbid(unsafe_code)]

use super::{Relay, pipeline::uppercase};
use crate::{
    connection::{Connection, ConnectionKey, Encoding, State},
    engine::{Chunk, Engine},
    error::{Cause, Hop},
    http::{
        CHUNK_HEADER_BYTES, Field, FieldSet, Framing, LAST_CHUNK, Parsed, ResponseHead, Rewrite,
        Version, chunk_header, parse_response, reply::decimal, respell, rewrite_anew,
        rewrite_in_place,
    },
    limits::{HEAD_BYTES_MAX, INTERIM_RESPONSES_MAX},
    policy::resiliency,
    upstream::{Failure, UpstreamKey, UpstreamState},
};
use snapshot::ListenerKind;

/// RFC 9110 §7.6.1, and what is between two sidecars only.
const HOP_FIELDS: FieldSet =
    FieldSet::of(&[Field::Connection, Field::HopByHop, Field::RingcarError, Field::Upgrade]);

/// An interim response has no body, so it says nothing of one (RFC 9110 §8.6, RFC 9112 §6.1).
const INTERIM_FIELDS: FieldSet = HOP_FIELDS.with(&[Field::ContentLength, Field::TransferEncoding]);

const SWITCHING_PROTOCOLS: u16 = 101;
const NO_CONTENT: u16 = 204;
const MISDIRECTED_REQUEST: u16 = 421;

impl<E: Engine> Relay<E> {
    pub(super) fn on_upstream_bytes(&mut self, key: UpstreamKey, chunk: Chunk) {
        let Some(upstream) = self.upstreams.find_mut(key) else { return };
        let UpstreamState::Busy(borrower) = upstream.state else {
            // Nobody asked: such bytes must never become the answer to somebody's next request.
            return self.close_upstream(key);
        };
        if !upstream.asked {
            // Of the request nothing has left, since the engine tells of that first. Whoever these
            // bytes were for, they are no answer to it.
            return self.upstream_lost(key, borrower, Cause::BadResponse);
        }
        upstream.answered = true;
        let Some(connection) = self.connections.find(borrower) else { return };
        if connection.state == State::Tunnel {
            return self.tunnel_downstream(borrower, chunk);
        }
        if connection.exchange.response_started {
            self.forward_body(borrower, key, chunk);
        } else {
            self.read_response_head(borrower, key, chunk);
        }
        self.note_progress(borrower);
    }

    /// Interim responses may come before the final one, in the same bytes.
    fn read_response_head(
        &mut self,
        borrower: ConnectionKey,
        key: UpstreamKey,
        mut arrived: Chunk,
    ) {
        loop {
            let Some(upstream) = self.upstreams.find_mut(key) else { return };
            let Some(connection) = self.connections.find_mut(borrower) else { return };
            let Some(chunk) = upstream.input.take_with(arrived, HEAD_BYTES_MAX) else { return };
            let method = connection.exchange.method;
            match parse_response(&chunk, HEAD_BYTES_MAX, method, &mut self.response_head) {
                Ok(Parsed::Complete) => {}
                Ok(Parsed::Partial) => {
                    upstream.input.push(chunk);
                    upstream.input.copy_out();
                    return;
                }
                Err(_) => {
                    self.note_failure(borrower, Failure::Broken);
                    return self.fail(borrower, Cause::BadResponse);
                }
            }
            match self.response_head.status {
                SWITCHING_PROTOCOLS => return self.switch_protocols(borrower, chunk),
                100..200 => {
                    let Some(rest) = self.forward_interim(borrower, chunk) else { return };
                    if rest.is_empty() {
                        return;
                    }
                    arrived = rest;
                }
                _ => return self.forward_response(borrower, key, chunk),
            }
        }
    }

    /// Returns what comes after it.
    fn forward_interim(&mut self, borrower: ConnectionKey, mut chunk: Chunk) -> Option<Chunk> {
        let connection = self.connections.find_mut(borrower)?;
        let exchange = &mut connection.exchange;
        exchange.interim_count += 1;
        if exchange.interim_count > INTERIM_RESPONSES_MAX {
            self.fail(borrower, Cause::BadResponse);
            return None;
        }
        if self.response_head.status == 100 {
            exchange.expects_continue = false;
        }
        // RFC 9110 §15.2: an HTTP/1.0 client does not know them.
        if exchange.version == Version::Http11 {
            let mut writer = self.engine.buffers().writer();
            let head = &self.response_head;
            let mut status = [0; STATUS_LINE_BYTES_MAX];
            let start_line = status_line(head, &chunk, Version::Http11, &mut status);
            let rewrite = Rewrite { start_line: &[start_line], drop: INTERIM_FIELDS, added: &[] };
            rewrite_anew(&chunk, &head.lines, &rewrite, &mut |bytes| writer.put(bytes));
            self.engine.send(connection.socket, writer.finish());
        }
        chunk.advance(self.response_head.bytes as usize);
        Some(chunk)
    }

    /// The app agreed to speak another protocol, if it was asked to.
    fn switch_protocols(&mut self, borrower: ConnectionKey, mut chunk: Chunk) {
        let Some(connection) = self.connections.find_mut(borrower) else { return };
        let Some(protocol) = self.response_head.upgrade.filter(|_| connection.exchange.upgrade)
        else {
            return self.fail(borrower, Cause::BadResponse);
        };
        self.note_answer(borrower);
        self.end_policy(borrower);
        let Some(connection) = self.connections.find_mut(borrower) else { return };
        self.lines.clear();
        self.lines.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: ");
        self.lines.extend_from_slice(protocol.of(&chunk));
        self.lines.extend_from_slice(b"\r\n");
        let head = &self.response_head;
        let mut status = [0; STATUS_LINE_BYTES_MAX];
        let start_line = status_line(head, &chunk, Version::Http11, &mut status);
        let rewrite =
            Rewrite { start_line: &[start_line], drop: HOP_FIELDS, added: &[&self.lines] };
        let mut writer = self.engine.buffers().writer();
        rewrite_anew(&chunk, &head.lines, &rewrite, &mut |bytes| writer.put(bytes));
        self.engine.send(connection.socket, writer.finish());
        chunk.advance(head.bytes as usize);
        connection.exchange.response_started = true;
        self.open_tunnel(borrower, chunk);
    }

    fn forward_response(&mut self, borrower: ConnectionKey, key: UpstreamKey, mut chunk: Chunk) {
        if self.is_misdirected(borrower, &chunk) {
            return self.misdirected(borrower);
        }
        self.note_answer(borrower);
        if self.judge_answer(borrower, &chunk) {
            return;
        }
        if self.is_lost(borrower) {
            return self.fail(borrower, Cause::NoEvents);
        }
        let head = &self.response_head;
        let Some(connection) = self.connections.find_mut(borrower) else { return };
        let date = self.date.line_at(self.unix_seconds);
        let drop = prepare(connection, head, &chunk, date, self.draining, &mut self.lines);
        if let Some(observed) = &connection.exchange.observed {
            self.lines.extend_from_slice(observed.echo(head.lines.has(Field::Traceparent)));
        }
        let mut status = [0; STATUS_LINE_BYTES_MAX];
        let start_line = status_line(head, &chunk, connection.exchange.version, &mut status);
        let rewrite = Rewrite { start_line: &[start_line], drop, added: &[&self.lines] };
        connection.exchange.response_started = true;
        let socket = connection.socket;
        match rewrite_response(&mut chunk, head, &rewrite) {
            // Head and body leave as one slice, unless the body changes its shape.
            Some(head_bytes) if connection.exchange.encoding == Encoding::AsIs => {
                return self.forward_as_is(borrower, key, chunk, head_bytes);
            }
            Some(head_bytes) => self.engine.send(socket, chunk.split_to(head_bytes)),
            None => {
                let mut writer = self.engine.buffers().writer();
                rewrite_anew(&chunk, &head.lines, &rewrite, &mut |bytes| writer.put(bytes));
                self.engine.send(socket, writer.finish());
                chunk.advance(head.bytes as usize);
            }
        }
        self.forward_body(borrower, key, chunk);
    }

    /// Whoever asks another app for events and gets an error is told in daprd's words, which some
    /// look for, and not in the app's.
    fn is_lost(&self, borrower: ConnectionKey) -> bool {
        let wants_events = |connection: &Connection| connection.exchange.wants_events;
        !matches!(self.response_head.status, 200..300)
            && self.connections.find(borrower).is_some_and(wants_events)
    }

    /// The other sidecar serves another app, and says so. No app can: its own sidecar would drop
    /// the line.
    fn is_misdirected(&self, borrower: ConnectionKey, bytes: &[u8]) -> bool {
        let head = &self.response_head;
        if head.status != MISDIRECTED_REQUEST {
            return false;
        }
        let from_peer = |connection: &Connection| connection.exchange.hop == Hop::ToPeer;
        let said = head.lines.find(Field::RingcarError).map(|line| line.value.of(bytes));
        said == Some(b"misdirected") && self.connections.find(borrower).is_some_and(from_peer)
    }

    fn forward_body(&mut self, borrower: ConnectionKey, key: UpstreamKey, chunk: Chunk) {
        let Some(connection) = self.connections.find(borrower) else { return };
        match connection.exchange.encoding {
            Encoding::AsIs => self.forward_as_is(borrower, key, chunk, 0),
            Encoding::Chunked => self.forward_chunked(borrower, key, chunk),
            Encoding::Unchunked => self.forward_unchunked(borrower, key, chunk),
        }
    }

    /// `head_bytes` of `chunk` are the rewritten head, the rest is body.
    fn forward_as_is(
        &mut self,
        borrower: ConnectionKey,
        key: UpstreamKey,
        mut chunk: Chunk,
        head_bytes: usize,
    ) {
        let Some(connection) = self.connections.find_mut(borrower) else { return };
        let exchange = &mut connection.exchange;
        match exchange.take_response(&mut chunk, head_bytes) {
            Ok(count) => {
                let message = chunk.split_to(head_bytes + count);
                // More than was announced: whatever it is, this connection cannot be trusted with
                // another request.
                exchange.upstream_keep_alive &= chunk.is_empty();
                let socket = connection.socket;
                self.engine.send(socket, message);
                self.after_body_bytes(borrower, key);
            }
            Err(_) => self.fail(borrower, Cause::BadResponse),
        }
    }

    /// The source ends its body by closing; each piece becomes a chunk.
    fn forward_chunked(&mut self, borrower: ConnectionKey, key: UpstreamKey, mut chunk: Chunk) {
        if chunk.is_empty() {
            return;
        }
        let Some(connection) = self.connections.find(borrower) else { return };
        if connection.exchange.uppercases_response() {
            uppercase(&mut chunk);
        }
        let socket = connection.socket;
        let mut header = [0; CHUNK_HEADER_BYTES];
        let mut writer = self.engine.buffers().writer();
        writer.put(chunk_header(chunk.len(), &mut header));
        self.engine.send(socket, writer.finish());
        self.engine.send(socket, chunk);
        self.engine.send(socket, Chunk::from_static(b"\r\n"));
        self.pause_upstream_if_full(key, socket);
    }

    fn forward_unchunked(&mut self, borrower: ConnectionKey, key: UpstreamKey, mut chunk: Chunk) {
        let Some(connection) = self.connections.find_mut(borrower) else { return };
        let exchange = &mut connection.exchange;
        let is_uppercase = exchange.uppercases_response();
        while !chunk.is_empty() && !exchange.response.is_complete() {
            let Ok(piece) = exchange.response.next_data(&chunk) else {
                return self.fail(borrower, Cause::BadResponse);
            };
            chunk.advance(piece.framing);
            let mut data = chunk.split_to(piece.data);
            if is_uppercase {
                uppercase(&mut data);
            }
            self.engine.send(connection.socket, data);
        }
        exchange.upstream_keep_alive &= chunk.is_empty();
        self.after_body_bytes(borrower, key);
    }

    fn after_body_bytes(&mut self, borrower: ConnectionKey, key: UpstreamKey) {
        let Some(connection) = self.connections.find(borrower) else { return };
        if connection.exchange.response.is_complete() {
            self.finish(borrower);
        } else {
            self.pause_upstream_if_full(key, connection.socket);
        }
    }

    /// The app closed. Is that how its response ends? Then it is finished; `false`: it was cut off.
    pub(super) fn finish_until_close(&mut self, borrower: ConnectionKey) -> bool {
        let Some(connection) = self.connections.find_mut(borrower) else { return true };
        let exchange = &mut connection.exchange;
        if !exchange.response_started || exchange.response.on_end().is_err() {
            return false;
        }
        exchange.upstream_keep_alive = false;
        if exchange.encoding == Encoding::Chunked {
            self.engine.send(connection.socket, Chunk::from_static(LAST_CHUNK));
        }
        self.finish(borrower);
        true
    }
}

/// Room for a status line; a longer reason phrase, which nobody reads, is cut.
const STATUS_LINE_BYTES_MAX: usize = 128;

/// Decides how the body reaches the client and whether its connection goes on. Fills `lines` with
/// what is added, and returns what is dropped.
fn prepare(
    connection: &mut Connection,
    head: &ResponseHead,
    bytes: &[u8],
    date_line: &[u8],
    draining: bool,
    lines: &mut Vec<u8>,
) -> FieldSet {
    let is_last = connection.is_last_request();
    let exchange = &mut connection.exchange;
    let mut drop = HOP_FIELDS;
    lines.clear();
    exchange.encoding = match (head.framing, exchange.version) {
        (Framing::UntilClose, Version::Http11) => Encoding::Chunked,
        (Framing::Chunked, Version::Http10) => Encoding::Unchunked,
        _ => Encoding::AsIs,
    };
    exchange.response.begin(head.framing, &head.lines);
    exchange.upstream_keep_alive = head.keep_alive;
    let ends_by_close = exchange.encoding == Encoding::Unchunked
        || (head.framing == Framing::UntilClose && exchange.version == Version::Http10);
    // An answer that overtakes its request leaves bytes behind that nobody will read.
    let overtakes = !exchange.request.is_complete();
    exchange.keep_alive &= !(draining || ends_by_close || overtakes || is_last);
    if head.status == NO_CONTENT {
        // RFC 9110 §8.6 and RFC 9112 §6.1: it has neither, and an app that sends them confuses its
        // client.
        drop = drop.with(&[Field::ContentLength, Field::TransferEncoding]);
    }
    match exchange.encoding {
        Encoding::Chunked => lines.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        Encoding::Unchunked => drop = drop.with(&[Field::TransferEncoding]),
        Encoding::AsIs => drop = drop.union(respell(head.framing, &head.lines, bytes, lines)),
    }
    if !head.lines.has(Field::Date) {
        // RFC 9110 §6.6.1; Go's server does so for daprd.
        lines.extend_from_slice(date_line);
    }
    let is_error = !resiliency::is_success(head.status);
    if is_error && connection.listener != ListenerKind::Peer && !head.lines.has(Field::ContentType)
    {
        // As daprd's clients know it, whatever the body is; of no other answer is a type invented.
        lines.extend_from_slice(b"Content-Type: application/json\r\n");
    }
    lines.extend_from_slice(&exchange.answer_lines);
    lines.extend_from_slice(exchange.app_lines());
    match (exchange.keep_alive, exchange.version) {
        (false, _) => lines.extend_from_slice(b"Connection: close\r\n"),
        (true, Version::Http10) => lines.extend_from_slice(b"Connection: keep-alive\r\n"),
        (true, Version::Http11) => {}
    }
    drop
}

/// The status line for the client, copied, because the bytes it lies in are about to be moved.
fn status_line<'a>(
    head: &ResponseHead,
    bytes: &[u8],
    version: Version,
    line: &'a mut [u8; STATUS_LINE_BYTES_MAX],
) -> &'a [u8] {
    let whole = head.reason.end as usize + b"\r\n".len();
    let is_as_it_came = version == Version::Http11 && head.version == version;
    if is_as_it_came && !head.reason.is_empty() && whole <= line.len() {
        line[..whole].copy_from_slice(&bytes[..whole]);
        return &line[..whole];
    }
    let first: &[u8] = match version {
        Version::Http10 => b"HTTP/1.0 ",
        Version::Http11 => b"HTTP/1.1 ",
    };
    let mut digits = [0; 20];
    let status = decimal(u64::from(head.status), &mut digits);
    let reason = head.reason.of(bytes);
    let room = STATUS_LINE_BYTES_MAX - first.len() - b"200 \r\n".len();
    let mut end = 0;
    for part in [first, status, b" ", &reason[..reason.len().min(room)], b"\r\n"] {
        line[end..end + part.len()].copy_from_slice(part);
        end += part.len();
    }
    &line[..end]
}

/// In place when the head lies alone in its buffer and has room; returns how long it is now.
fn rewrite_response(
    chunk: &mut Chunk,
    head: &ResponseHead,
    rewrite: &Rewrite<'_>,
) -> Option<usize> {
    let (start, head_bytes) = (chunk.start(), head.bytes as usize);
    let buffer = chunk.unique_mut()?;
    let new_start = rewrite_in_place(buffer, start, &head.lines, head_bytes, rewrite)?;
    chunk.set_start(new_start);
    Some(start + head_bytes - new_start)
}
