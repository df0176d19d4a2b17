//! What becomes of the two connections when an exchange is over, or can go no further.

#![forbid(unsafe_code)]

use super::Relay;
use crate::{
    connection::{Buffers, ConnectionKey, Input, State},
    engine::Engine,
    gate::Pass,
    limits::{
        DOWNSTREAM_IDLE_TIMEOUT, LINGER_BYTES_MAX, LINGER_TIMEOUT, POOL_IDLE_TIMEOUT, STALL_TIMEOUT,
    },
    slab::Slab,
    upstream::{Upstream, UpstreamKey, UpstreamState},
};

/// Sets of buffers kept for the next exchanges.
const SPARE_MAX: usize = 64;

impl<E: Engine> Relay<E> {
    /// The response has been forwarded whole.
    pub(super) fn finish(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.find(key) else { return };
        let has_policy = connection.exchange.attempts.is_some();
        let has_pass = !matches!(connection.exchange.pass, Pass::None);
        if has_policy {
            self.end_policy(key);
        }
        self.observe_end(key, None);
        if has_pass {
            self.leave_gate(key);
        }
        let Some(connection) = self.connections.find_mut(key) else { return };
        let request_complete = connection.exchange.request.is_complete();
        let upstream_keep_alive = connection.exchange.upstream_keep_alive && request_complete;
        let keep_alive = connection.exchange.keep_alive && request_complete;
        let asks_more = connection.exchange.asks_more;
        if let Some(upstream) = connection.exchange.upstream.take() {
            if upstream_keep_alive {
                self.checkin(upstream);
            } else {
                self.close_upstream(upstream);
            }
        }
        if keep_alive {
            self.next_request(key);
        } else {
            self.close_after_flush(key, asks_more || !request_complete);
        }
    }

    /// Waits for the next request, or takes it up when it is here already.
    pub(super) fn next_request(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.find_mut(key) else { return };
        let exchange = &mut connection.exchange;
        keep_spare(&mut self.spare, exchange.end());
        connection.state = State::Idle;
        let is_paused = connection.paused;
        if connection.input.is_empty() {
            if self.draining || connection.read_closed {
                return self.close_after_flush(key, true);
            }
        } else {
            self.ready.push(key);
        }
        self.engine.relax_sent(connection.socket, true);
        if is_paused {
            self.resume_downstream(key);
        }
        self.set_deadline(key, Some(DOWNSTREAM_IDLE_TIMEOUT));
    }

    /// Closes once the client took what is queued. `linger`: it may be sending, and must not be
    /// answered by a reset.
    pub(super) fn close_after_flush(&mut self, key: ConnectionKey, linger: bool) {
        self.leave_gate(key);
        let Some(connection) = self.connections.find_mut(key) else { return };
        connection.state = State::Flushing { linger };
        connection.input = Input::Empty;
        let socket = connection.socket;
        self.resume_downstream(key);
        // The close waits for nothing else.
        self.engine.relax_sent(socket, false);
        if self.engine.send_queued_bytes(socket) == 0 {
            self.on_downstream_flushed(key);
        } else {
            self.set_deadline(key, Some(STALL_TIMEOUT));
        }
    }

    pub(super) fn on_downstream_flushed(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.find_mut(key) else { return };
        let State::Flushing { linger } = connection.state else { return };
        if !linger || connection.read_closed {
            return self.close_downstream(key);
        }
        connection.state = State::Lingering { bytes_left: LINGER_BYTES_MAX };
        self.engine.shutdown_write(connection.socket);
        self.set_deadline(key, Some(LINGER_TIMEOUT));
    }

    /// The client is gone, or must go: whatever runs for it is dropped.
    pub(super) fn abandon(&mut self, key: ConnectionKey) {
        self.release_upstream(key);
        self.close_downstream(key);
    }

    pub(super) fn close_downstream(&mut self, key: ConnectionKey) {
        self.leave_gate(key);
        self.observe_end(key, None);
        let Some(mut connection) = self.connections.remove(key) else { return };
        debug_assert!(
            connection.exchange.upstream.is_none(),
            "released before the connection goes"
        );
        self.owners.clear(connection.socket);
        // Nor must a client take part of an answer for the whole.
        let answers = matches!(connection.state, State::Exchanging | State::Tunnel)
            && connection.exchange.response_started;
        if answers || self.engine.send_queued_bytes(connection.socket) > 0 {
            self.engine.reset(connection.socket);
        } else {
            self.engine.close(connection.socket);
        }
        keep_spare(&mut self.spare, connection.exchange.end());
    }

    /// Closes with a reset: what the client has is not the whole answer.
    pub(super) fn reset_downstream(&mut self, key: ConnectionKey) {
        self.leave_gate(key);
        self.observe_end(key, None);
        let Some(connection) = self.connections.remove(key) else { return };
        self.owners.clear(connection.socket);
        self.engine.reset(connection.socket);
    }

    /// Ends an exchange's hold on its upstream connection, which is in no state to be used again.
    pub(super) fn release_upstream(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.find_mut(key) else { return };
        let Some(upstream) = connection.exchange.upstream.take() else { return };
        self.close_upstream(upstream);
    }

    pub(super) fn close_upstream(&mut self, key: UpstreamKey) {
        let Some(mut upstream) = self.upstreams.remove(key) else { return };
        self.vacate(&mut upstream);
        if upstream.state == UpstreamState::Idle {
            self.endpoints.forget(upstream.endpoint, key);
        }
        self.owners.clear(upstream.socket);
        // An app must not take half a request for a whole one.
        match self.engine.send_queued_bytes(upstream.socket) {
            0 => self.engine.close(upstream.socket),
            _ => self.engine.reset(upstream.socket),
        }
    }

    /// Back into the pool, unless something says that the other side will not have it so.
    fn checkin(&mut self, key: UpstreamKey) {
        let Some(upstream) = self.upstreams.find_mut(key) else { return };
        let reusable = upstream.input.is_empty()
            && !upstream.read_closed
            && !upstream.send_failed
            && self.engine.send_queued_bytes(upstream.socket) == 0;
        if !reusable || self.draining {
            return self.close_upstream(key);
        }
        upstream.state = UpstreamState::Idle;
        upstream.reused = true;
        upstream.answered = false;
        upstream.asked = false;
        if let Some(seat) = upstream.seat.take() {
            self.balancer.end(seat, self.now);
        }
        if upstream.paused {
            upstream.paused = false;
            self.engine.receive_start(upstream.socket);
        }
        let endpoint = upstream.endpoint;
        match self.endpoints.checkin(endpoint, key) {
            Ok(()) => self.set_upstream_deadline(key, Some(POOL_IDLE_TIMEOUT)),
            Err(key) => self.close_upstream(key),
        }
    }

    /// Stops gently: idle connections close now, the others after the answer they are waiting for.
    pub(crate) fn drain(&mut self) {
        self.draining = true;
        let idle: Vec<ConnectionKey> = self.keys_in(|state| matches!(state, State::Idle));
        for key in idle {
            // It may be asking already, and not have all of its last answer.
            self.close_after_flush(key, true);
        }
        let pooled = |upstream: &Upstream| upstream.state == UpstreamState::Idle;
        let pooled: Vec<UpstreamKey> = matching(&self.upstreams, pooled);
        for key in pooled {
            self.close_upstream(key);
        }
    }

    fn keys_in(&self, wanted: impl Fn(&State) -> bool) -> Vec<ConnectionKey> {
        matching(&self.connections, |connection| wanted(&connection.state))
    }
}

fn matching<T>(slab: &Slab<T>, wanted: impl Fn(&T) -> bool) -> Vec<crate::slab::Key<T>> {
    slab.keys().filter(|key| slab.find(*key).is_some_and(&wanted)).collect()
}

fn keep_spare(spare: &mut Vec<Buffers>, buffers: Buffers) {
    if spare.len() < SPARE_MAX && buffers.are_warm() {
        spare.push(buffers);
    }
}
