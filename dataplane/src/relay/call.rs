//! From a request that names an app to a rewritten head on its way to that app.
//!
//! Three ways lead here: our app calls an app of this data plane, our app calls one behind another sidecar, another
//! sidecar calls our app. Each decides where to, which lines go and which come, and leaves the rest to
//! [`Relay::dispatch`].

#![forbid(unsafe_code)]

use super::{Relay, View};
use crate::{
    connection::{Connection, ConnectionKey, Exchange, State},
    dapr::{
        headers::write_callee,
        method::{app_path, decode_from_peer, encode_for_peer, normalise, verb},
        target::{Named, split_id},
    },
    engine::{Chunk, Engine},
    error::{Cause, Hop},
    http::{
        Field, FieldSet, Framing, Method, RequestHead, Rewrite, rewrite_anew, rewrite_in_place,
    },
    limits::{CONNECT_TIMEOUT, RELAY_HIGH_BYTES, REPLAY_BYTES_MAX},
    route::{self, Destination, RouteError},
    upstream::{EndpointKey, Upstream, UpstreamKey, UpstreamState},
};
use std::rc::Rc;

/// Never forwarded: RFC 9110 §7.6.1, and what is between two sidecars only.
const HOP_FIELDS: &[Field] = &[
    Field::Connection,
    Field::DestinationAppId,
    Field::HopByHop,
    Field::Host,
    Field::RingcarError,
    Field::Upgrade,
];

/// A client does not get to say who it is, and its `dapr-app-id` has been understood.
const TO_PEER: FieldSet = FieldSet::of(HOP_FIELDS).with(&[
    Field::DaprAppId,
    Field::DaprCalleeAppId,
    Field::DaprCallerAppId,
    Field::DaprCallerNamespace,
]);

/// As daprd 1.18, which passes binary gRPC metadata to no HTTP app.
const LOCAL_CALL: FieldSet = TO_PEER.with(&[Field::BinarySuffixed]);

/// From a peer: it has put the caller's identity there.
const FROM_PEER: FieldSet = FieldSet::of(HOP_FIELDS).with(&[Field::BinarySuffixed]);

/// Where a call goes and how its head changes.
struct Plan {
    hop: Hop,
    endpoint: EndpointKey,
    drop: FieldSet,
}

impl<E: Engine> Relay<E> {
    /// Our app calls; the target's name and method are in the exchange's notes.
    pub(super) fn call_out(&mut self, key: ConnectionKey, chunk: Chunk) {
        let view = Rc::clone(&self.view);
        match self.plan_call_out(key, &view, &chunk) {
            Ok(plan) => self.dispatch(key, chunk, &plan),
            Err(cause) => self.fail_with_body(key, chunk, cause),
        }
    }

    fn plan_call_out(
        &mut self,
        key: ConnectionKey,
        view: &View,
        chunk: &Chunk,
    ) -> Result<Plan, Cause> {
        let connection = self.connections.find_mut(key).expect("its head has just been read");
        let exchange = &mut connection.exchange;
        let own = &view.snapshot.apps[connection.app];
        normalise(&mut exchange.notes.method).map_err(Cause::Method)?;
        let named =
            split_id(&exchange.notes.target, own.namespace.as_str()).map_err(Cause::InvalidId)?;
        let Named::App { id, namespace } = named else { return Err(Cause::External) };
        self.lines.clear();
        let found = route::find(&view.snapshot, connection.app, id, namespace);
        match found.map_err(|RouteError::NotFound| Cause::NotFound)? {
            Destination::Local { index, .. } => {
                exchange.hop = Hop::SelfCall;
                self.counters.requests_local.add(1);
                let app = &view.apps[index];
                let (endpoint, host) = app.channel.as_ref().ok_or(Cause::NoAppChannel)?;
                exchange.endpoint = Some(*endpoint);
                exchange.request_bytes_max = own.body_bytes_max;
                write_app_path(exchange)?;
                self.lines.extend_from_slice(host);
                self.finish_plan(key, chunk, Hop::SelfCall, LOCAL_CALL)
            }
            Destination::Remote { route } => {
                exchange.hop = Hop::ToPeer;
                self.counters.requests_peer.add(1);
                let address = &route.endpoints[self.next_endpoint % route.endpoints.len()].address;
                self.next_endpoint = self.next_endpoint.wrapping_add(1);
                exchange.endpoint = Some(self.endpoints.intern(address));
                exchange.request_bytes_max = own.body_bytes_max;
                encode_for_peer(&exchange.notes.method, &mut exchange.url_path);
                self.lines.extend_from_slice(b"Host: ");
                self.lines.extend_from_slice(route.id.as_str().as_bytes());
                self.lines.extend_from_slice(b"\r\n");
                self.lines.extend_from_slice(view.apps[connection.app].caller_lines.as_bytes());
                write_callee(route.id.as_str(), &exchange.notes.target, &mut self.lines);
                self.finish_plan(key, chunk, Hop::ToPeer, TO_PEER)
            }
        }
    }

    /// Another sidecar calls. It names the app it means; an address can have changed hands since it looked.
    pub(super) fn call_from_peer(&mut self, key: ConnectionKey, chunk: Chunk) {
        let view = Rc::clone(&self.view);
        match self.plan_call_from_peer(key, &view, &chunk) {
            Ok(plan) => self.dispatch(key, chunk, &plan),
            Err(cause) => self.fail_with_body(key, chunk, cause),
        }
    }

    fn plan_call_from_peer(
        &mut self,
        key: ConnectionKey,
        view: &View,
        chunk: &Chunk,
    ) -> Result<Plan, Cause> {
        let connection = self.connections.find_mut(key).expect("its head has just been read");
        let exchange = &mut connection.exchange;
        exchange.hop = Hop::InboundFromPeer;
        let head = &self.request_head;
        let target = head.lines.find(Field::DestinationAppId).ok_or(Cause::Misdirected)?;
        exchange.notes.target.clear();
        exchange.notes.target.extend_from_slice(target.value.of(chunk));
        let own = &view.snapshot.apps[connection.app];
        let named = split_id(&exchange.notes.target, own.namespace.as_str());
        let Ok(Named::App { id, namespace }) = named else { return Err(Cause::Misdirected) };
        let found = route::find(&view.snapshot, connection.app, id, namespace);
        let Ok(Destination::Local { index, .. }) = found else { return Err(Cause::Misdirected) };
        self.counters.requests_local.add(1);
        let (path, query) = split_query(head.target.of(chunk));
        exchange.notes.method.clear();
        decode_from_peer(path, &mut exchange.notes.method).map_err(|_| {
            Cause::BadRequest("the path is not in the form in which sidecars write it")
        })?;
        exchange.notes.query.clear();
        exchange.notes.query.extend_from_slice(query);
        let (endpoint, host) = view.apps[index].channel.as_ref().ok_or(Cause::NoAppChannel)?;
        exchange.endpoint = Some(*endpoint);
        write_app_path(exchange)?;
        self.lines.clear();
        self.lines.extend_from_slice(host);
        self.finish_plan(key, chunk, Hop::InboundFromPeer, FROM_PEER)
    }

    /// What all calls have in common once they know where to go.
    fn finish_plan(
        &mut self,
        key: ConnectionKey,
        chunk: &Chunk,
        hop: Hop,
        drop: FieldSet,
    ) -> Result<Plan, Cause> {
        let connection = self.connections.find_mut(key).expect("its head has just been read");
        let exchange = &mut connection.exchange;
        let head = &self.request_head;
        exchange.method = verb_of(head.method, head.method_name.of(chunk))?;
        if let (Framing::Length(bytes), Some(max)) = (head.framing, exchange.request_bytes_max)
            && bytes > max
        {
            return Err(Cause::BodyTooLarge);
        }
        push_query(exchange);
        if let Some(protocol) = head.upgrade {
            exchange.upgrade = true;
            self.lines.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: ");
            self.lines.extend_from_slice(protocol.of(chunk));
            self.lines.extend_from_slice(b"\r\n");
        }
        let endpoint = exchange.endpoint.expect("the plan named it");
        Ok(Plan { hop, endpoint, drop })
    }

    /// Rewrites the head, cuts off what belongs to the next request, and sends the rest on its way.
    fn dispatch(&mut self, key: ConnectionKey, mut chunk: Chunk, plan: &Plan) {
        let Some(connection) = self.connections.find_mut(key) else { return };
        let exchange = &mut connection.exchange;
        debug_assert_eq!(exchange.hop, plan.hop);
        let method = exchange.method.name().as_bytes();
        let start_line: [&[u8]; 4] = [method, b" ", &exchange.url_path, b" HTTP/1.1\r\n"];
        let rewrite = Rewrite { start_line: &start_line, drop: plan.drop, added: &[&self.lines] };
        let rewritten = rewrite_request(&mut chunk, &self.request_head, &rewrite);
        let head = if rewritten.is_some() {
            Chunk::from_static(b"")
        } else {
            let mut writer = self.engine.buffers().writer();
            let lines = &self.request_head.lines;
            rewrite_anew(&chunk, lines, &rewrite, &mut |bytes| writer.put(bytes));
            chunk.advance(self.request_head.bytes as usize);
            writer.finish()
        };
        let Some(rest) = self.take_message(key, chunk, rewritten.unwrap_or(0)) else { return };
        self.remember_for_replay(key, &head, &rest);
        self.start_upstream(key, plan.endpoint, head, rest);
    }

    /// A request that may be repeated is remembered, if all of it is here and small. The replay itself happens only
    /// when a pooled connection turns out to be dead.
    fn remember_for_replay(&mut self, key: ConnectionKey, head: &Chunk, rest: &Chunk) {
        let Some(connection) = self.connections.find_mut(key) else { return };
        let exchange = &mut connection.exchange;
        let small = head.len() + rest.len() <= REPLAY_BYTES_MAX;
        if small
            && exchange.method.is_idempotent()
            && exchange.request.is_complete()
            && !exchange.upgrade
        {
            exchange.replay = self.spare.pop().unwrap_or_default();
            exchange.replay.extend_from_slice(head);
            exchange.replay.extend_from_slice(rest);
        }
    }

    /// `head` is empty when the head was rewritten in place; `rest` then starts with it.
    fn start_upstream(
        &mut self,
        key: ConnectionKey,
        endpoint: EndpointKey,
        head: Chunk,
        rest: Chunk,
    ) {
        if let Some(upstream) = self.endpoints.checkout(endpoint) {
            self.counters.upstream_reuses.add(1);
            self.lend(key, upstream);
            self.send_upstream(key, head);
            self.send_upstream(key, rest);
            self.note_progress(key);
            return;
        }
        let Some(connection) = self.connections.find_mut(key) else { return };
        for chunk in [head, rest] {
            push_pending(connection, &chunk);
        }
        self.connect(key, endpoint);
    }

    fn lend(&mut self, key: ConnectionKey, upstream_key: UpstreamKey) {
        let Some(upstream) = self.upstreams.find_mut(upstream_key) else {
            debug_assert!(false, "the pool holds only live connections");
            return;
        };
        upstream.state = UpstreamState::Busy(key);
        upstream.deadline = None;
        if let Some(connection) = self.connections.find_mut(key) {
            connection.exchange.upstream = Some(upstream_key);
            connection.exchange.upstream_reached = true;
        }
    }

    /// Opens a connection for what is pending.
    pub(super) fn connect(&mut self, key: ConnectionKey, endpoint: EndpointKey) {
        let address = Rc::clone(self.endpoints.address(endpoint));
        self.counters.upstream_connects.add(1);
        let socket = match self.engine.connect(&address) {
            Ok(socket) => socket,
            Err(error) => {
                self.counters.upstream_connect_failures.add(1);
                return self.fail(key, Cause::Connect(error));
            }
        };
        let upstream = self.upstreams.insert(Upstream::new(socket, endpoint, key));
        self.owners.set(socket, super::Owner::Upstream(upstream));
        self.engine.relax_sent(socket, true);
        if let Some(connection) = self.connections.find_mut(key) {
            connection.exchange.upstream = Some(upstream);
            connection.state = State::Exchanging;
        }
        self.set_upstream_deadline(upstream, Some(CONNECT_TIMEOUT));
        self.note_progress(key);
    }

    pub(super) fn on_upstream_connected(&mut self, key: UpstreamKey) {
        let Some(upstream) = self.upstreams.find_mut(key) else { return };
        let UpstreamState::Connecting(borrower) = upstream.state else { return };
        upstream.state = UpstreamState::Busy(borrower);
        upstream.deadline = None;
        let socket = upstream.socket;
        self.engine.receive_start(socket);
        let Some(connection) = self.connections.find_mut(borrower) else { return };
        connection.exchange.upstream_reached = true;
        for chunk in std::mem::take(&mut connection.exchange.pending) {
            self.engine.send(socket, chunk);
        }
        self.note_progress(borrower);
    }

    /// Request bytes go to the upstream connection, or wait for it; either way the client is not read without bound.
    pub(super) fn send_upstream(&mut self, key: ConnectionKey, chunk: Chunk) {
        if chunk.is_empty() {
            return;
        }
        let Some(connection) = self.connections.find_mut(key) else { return };
        let upstream = connection.exchange.upstream.and_then(|key| self.upstreams.find(key));
        let queued = match upstream {
            // The app no longer takes the request, but may be answering it.
            Some(upstream) if upstream.send_failed => return,
            Some(Upstream { state: UpstreamState::Busy(_), socket, .. }) => {
                let socket = *socket;
                self.forward(socket, chunk);
                self.engine.send_queued_bytes(socket)
            }
            _ => push_pending(connection, &chunk),
        };
        if queued >= RELAY_HIGH_BYTES {
            self.pause_downstream_if_full(key, queued);
        }
    }
}

/// Copies: who waits for a connection must not hold a receive buffer.
fn push_pending(connection: &mut Connection, chunk: &Chunk) -> usize {
    let pending = &mut connection.exchange.pending;
    if !chunk.is_empty() {
        pending.push_back(Chunk::from_vec(chunk.to_vec(), 0));
    }
    pending.iter().map(|chunk| chunk.len()).sum()
}

/// In place when the head lies alone in its buffer and has room; returns how long it is now.
fn rewrite_request(chunk: &mut Chunk, head: &RequestHead, rewrite: &Rewrite<'_>) -> Option<usize> {
    let (start, head_bytes) = (chunk.start(), head.bytes as usize);
    let buffer = chunk.unique_mut()?;
    let new_start = rewrite_in_place(buffer, start, &head.lines, head_bytes, rewrite)?;
    chunk.set_start(new_start);
    Some(start + head_bytes - new_start)
}

/// The query travels as it came; daprd drops a `?` with nothing behind it.
fn push_query(exchange: &mut Exchange) {
    if !exchange.notes.query.is_empty() {
        exchange.url_path.push(b'?');
        exchange.url_path.extend_from_slice(&exchange.notes.query);
    }
}

/// The path that the app sees. Where there is none, the error names what was to become one.
fn write_app_path(exchange: &mut Exchange) -> Result<(), Cause> {
    app_path(&exchange.notes.method, &mut exchange.url_path).map_err(|error| {
        exchange.url_path.push(b'/');
        exchange.url_path.extend_from_slice(&exchange.notes.method);
        push_query(exchange);
        Cause::Escape(error)
    })
}

/// The verb the app is called with, after daprd's rules for those that HTTP does not know. `head` would become one
/// whose response has no body, unlike the client thinks.
fn verb_of(method: Method, name: &[u8]) -> Result<Method, Cause> {
    let verb = verb(name).ok_or(Cause::InvalidVerb)?;
    match Method::from_bytes(verb.as_bytes()) {
        Method::Head if method != Method::Head => Err(Cause::InvalidVerb),
        verb => Ok(verb),
    }
}

fn split_query(target: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memchr(b'?', target) {
        Some(at) => (&target[..at], &target[at + 1..]),
        None => (target, b""),
    }
}
