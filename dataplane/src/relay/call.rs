//! From a request that names an app to a rewritten head, with its body, on an upstream connection.

#![forbid(unsafe_code)]

use super::{
    Relay, View,
    plan::{Planner, To},
};
use crate::{
    connection::{Connection, ConnectionKey, State},
    engine::{Chunk, Engine},
    error::Cause,
    http::{FieldSet, Framing, RequestHead, Rewrite, rewrite_anew, rewrite_in_place},
    limits::{CONNECT_TIMEOUT, FAIL_OVER_CONNECT_TIMEOUT, RELAY_HIGH_BYTES, REPLAY_BYTES_MAX},
    route::Name,
    upstream::{EndpointKey, Upstream, UpstreamKey, UpstreamState},
};
use snapshot::ListenerKind;
use std::rc::Rc;

/// Where a call goes from here.
enum Way {
    /// To an address that its host's name must tell first.
    Host,
    Known(EndpointKey),
    /// Nowhere, as long as the app is not healthy.
    Unhealthy,
    /// Nowhere, before control has been asked, or a later attempt looks again.
    Unknown(Name),
}

impl<E: Engine> Relay<E> {
    /// A call whose head is in `self.request_head`, its bytes at the start of `chunk`.
    pub(super) fn call(&mut self, key: ConnectionKey, chunk: Chunk) {
        let view = Rc::clone(&self.view);
        let planned = self.plan(key, &view, &chunk);
        // daprd has all that the callee's side may say behind the caller's policy.
        let is_policys = planned.as_ref().err().is_none_or(|cause| cause.is_callees());
        let begun = if is_policys { self.begin_policy(key, &view) } else { Ok(()) };
        if begun.is_ok() {
            self.observe_verdict(key);
        }
        match begun.and(planned) {
            Ok((way, drop)) => {
                let drop = drop.union(self.observe_plan(key, &chunk));
                self.dispatch(key, chunk, way, drop);
            }
            Err(cause) => {
                self.observe_refused(key, cause);
                self.fail_with_body(key, chunk, cause);
            }
        }
    }

    fn plan(
        &mut self,
        key: ConnectionKey,
        view: &View,
        bytes: &[u8],
    ) -> Result<(Way, FieldSet), Cause> {
        let connection = self.connections.find_mut(key).expect("its head has just been read");
        let (listener, caller) = (connection.listener, connection.caller());
        let planner = Planner {
            exchange: &mut connection.exchange,
            head: &self.request_head,
            bytes,
            view,
            app: connection.app,
            proof: connection.proof,
            has_resolver: self.has_resolver,
            subject: &mut self.subject,
            rate_limits: &self.rate_limits,
            now: self.now,
            lines: &mut self.lines,
        };
        let plan = match listener {
            ListenerKind::Inbound => planner.plan_call_in(caller)?,
            ListenerKind::Peer => planner.plan_call_from_peer()?,
            ListenerKind::Api | ListenerKind::Public => planner.plan_call_out()?,
        };
        let way = match plan.to {
            To::App(endpoint) => {
                self.counters.requests_local.add(1);
                Way::Known(endpoint)
            }
            To::External(endpoint) => {
                self.counters.requests_external.add(1);
                for name in endpoint.iter().flat_map(|endpoint| &endpoint.overridden) {
                    self.request_head.lines.override_named(name, bytes);
                }
                self.next_address(key).map_or(Way::Host, Way::Known)
            }
            To::Peer(route) => {
                self.counters.requests_peer.add(1);
                Way::Known(self.choose(key, view, route).ok_or(Cause::NotFound)?)
            }
            To::Unhealthy => Way::Unhealthy,
            To::Unknown(name) => Way::Unknown(name),
        };
        Ok((way, plan.drop))
    }

    /// Rewrites the head, cuts off what belongs to the next request, and sends the rest on its way.
    fn dispatch(&mut self, key: ConnectionKey, mut chunk: Chunk, way: Way, drop: FieldSet) {
        let Some(connection) = self.connections.find_mut(key) else { return };
        let exchange = &mut connection.exchange;
        let method = exchange.method.name_and_blank().as_bytes();
        let start_line: [&[u8]; 3] = [method, &exchange.url_path, b" HTTP/1.1\r\n"];
        let rewrite = Rewrite { start_line: &start_line, drop, added: &[&self.lines] };
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
        // Requests sent ahead may have stopped the reading; this one's body must come.
        if self.connections.find(key).is_some_and(|connection| connection.paused) {
            self.resume_downstream(key);
        }
        match way {
            Way::Host => {
                self.remember(key, &head, &rest, false);
                self.set_pending(key, [head, rest]);
                self.look_up_host(key);
            }
            Way::Known(endpoint) => {
                self.remember(key, &head, &rest, false);
                self.start_upstream(key, endpoint, head, rest);
            }
            Way::Unhealthy => {
                self.remember(key, &head, &rest, false);
                self.fail(key, Cause::AppUnhealthy);
            }
            Way::Unknown(name) => {
                self.remember(key, &head, &rest, true);
                self.set_pending(key, [head, rest]);
                self.seek(key, name);
            }
        }
    }

    /// A request that may have to be sent again is remembered while it is small: one that is safe
    /// to repeat, should its pooled connection turn out to be dead; any, while another endpoint
    /// could take it, should the first one turn out to be another app's. Where a policy retries,
    /// any that there is room for, as far as its length is known.
    fn remember(&mut self, key: ConnectionKey, head: &Chunk, rest: &Chunk, is_unknown: bool) {
        let Some(connection) = self.connections.find_mut(key) else { return };
        let exchange = &mut connection.exchange;
        // Of an app that is not known there may turn out to be several endpoints.
        let is_wanted = is_unknown || exchange.seat.is_some() || exchange.may_be_repeated();
        let is_small = head.len() + rest.len() <= REPLAY_BYTES_MAX;
        let is_chunked = self.request_head.framing == Framing::Chunked;
        let has_room = !is_chunked && exchange.take_room(head.len() + rest.len());
        if has_room || (is_small && is_wanted) {
            exchange.replay.extend_from_slice(head);
            exchange.replay.extend_from_slice(rest);
        }
    }

    /// What comes of the body later belongs to it, too; what is too large is forgotten.
    pub(super) fn remember_more(&mut self, key: ConnectionKey, body: &Chunk) {
        let Some(connection) = self.connections.find_mut(key) else { return };
        let has_room = connection.exchange.has_room();
        let replay = &mut connection.exchange.replay;
        if replay.is_empty() {
            return;
        }
        if has_room || replay.len() + body.len() <= REPLAY_BYTES_MAX {
            replay.extend_from_slice(body);
        } else {
            replay.clear();
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
        if !self.pass_gate(key) {
            return self.hold(key, [head, rest]);
        }
        if let Some(upstream) = self.endpoints.checkout(endpoint) {
            self.counters.upstream_reuses.add(1);
            self.lend(key, upstream);
            self.send_upstream(key, head);
            self.send_upstream(key, rest);
            self.note_progress(key);
            return;
        }
        self.set_pending(key, [head, rest]);
        self.connect(key, endpoint);
    }

    fn set_pending(&mut self, key: ConnectionKey, request: [Chunk; 2]) {
        let Some(connection) = self.connections.find_mut(key) else { return };
        for chunk in request {
            push_pending(connection, chunk);
        }
    }

    /// Keeps what is to be sent while the call waits for its turn, for as long as its policy
    /// allows.
    pub(super) fn hold(&mut self, key: ConnectionKey, request: impl IntoIterator<Item = Chunk>) {
        let Some(connection) = self.connections.find_mut(key) else { return };
        if connection.state != State::Queued {
            return;
        }
        for chunk in request {
            push_pending(connection, chunk);
        }
        if connection.read_closed {
            return self.leave_line(key);
        }
        self.set_deadline(key, None);
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
        self.occupy(key, upstream, false);
        let is_one_of_several =
            self.connections.find(key).is_some_and(|connection| connection.exchange.seat.is_some());
        let patience = if is_one_of_several { FAIL_OVER_CONNECT_TIMEOUT } else { CONNECT_TIMEOUT };
        self.set_upstream_deadline(upstream, Some(patience));
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
        // Opening a connection is slow for any endpoint, and once only.
        connection.exchange.attempted = self.now;
        for chunk in std::mem::take(&mut connection.exchange.pending) {
            self.engine.send(socket, chunk);
        }
        self.note_progress(borrower);
    }

    /// Request bytes go to the upstream connection, or wait for it; either way the client is not
    /// read without bound.
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
                self.engine.send(socket, chunk);
                self.engine.send_queued_bytes(socket)
            }
            _ => push_pending(connection, chunk),
        };
        if queued >= RELAY_HIGH_BYTES {
            self.pause_downstream_if_full(key, queued);
        }
    }
}

/// Copies: who waits for a connection must not hold a receive buffer.
fn push_pending(connection: &mut Connection, chunk: Chunk) -> usize {
    let pending = &mut connection.exchange.pending;
    if !chunk.is_empty() {
        pending.push_back(chunk.into_heap());
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
