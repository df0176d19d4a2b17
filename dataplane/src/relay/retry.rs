//! Upstream connections that fail: what is tried again, what is reported.
//!
//! Twice only is a request sent again without anybody asking for it. A pooled connection may have been closed by the
//! other side just as we used it, so a request that is safe to repeat (RFC 9110 §9.2.2) goes out once more on a fresh
//! one. And a peer that cannot be reached at all has seen no byte, so daprd's built-in retry applies.

#![forbid(unsafe_code)]

use super::{Relay, View};
use crate::{
    connection::{Connection, ConnectionKey, State},
    dapr::target::{Named, split_id},
    engine::{Chunk, Engine, Operation},
    error::{Cause, Hop},
    limits::{PEER_RETRY_INTERVAL, PEER_RETRY_MAX, SEND_FAILED_TIMEOUT},
    route::{self, Destination},
    upstream::{UpstreamKey, UpstreamState},
};
use rustix::io::Errno;
use snapshot::{Endpoint, Route};
use std::rc::Rc;

impl<E: Engine> Relay<E> {
    pub(super) fn on_upstream_failed(
        &mut self,
        key: UpstreamKey,
        operation: Operation,
        error: Errno,
    ) {
        let Some(upstream) = self.upstreams.find_mut(key) else { return };
        match (upstream.state, operation) {
            (UpstreamState::Idle, _) => self.close_upstream(key),
            (UpstreamState::Connecting(borrower), _) => {
                self.counters.upstream_connect_failures.add(1);
                self.connect_failed(borrower, Cause::Connect(error));
            }
            // The app may have answered before it closed: its answer is read before the failure counts.
            (UpstreamState::Busy(_), Operation::Send) if !upstream.send_failed => {
                upstream.send_failed = true;
                upstream.paused = false;
                self.engine.receive_start(upstream.socket);
                self.set_upstream_deadline(key, Some(SEND_FAILED_TIMEOUT));
            }
            (UpstreamState::Busy(borrower), _) => {
                self.upstream_lost(key, borrower, Cause::Reset(error))
            }
        }
    }

    pub(super) fn on_upstream_closed(&mut self, key: UpstreamKey) {
        let Some(upstream) = self.upstreams.find_mut(key) else { return };
        upstream.read_closed = true;
        match upstream.state {
            UpstreamState::Idle => self.close_upstream(key),
            UpstreamState::Connecting(borrower) => {
                self.connect_failed(borrower, Cause::ClosedEarly)
            }
            UpstreamState::Busy(borrower) => {
                let state = self.connections.find(borrower).map(|connection| &connection.state);
                if state == Some(&State::Tunnel) {
                    self.tunnel_upstream_closed(borrower);
                } else if !self.finish_until_close(borrower) {
                    self.upstream_lost(key, borrower, Cause::ClosedEarly);
                }
            }
        }
    }

    pub(super) fn on_upstream_timeout(&mut self, key: UpstreamKey) {
        let Some(upstream) = self.upstreams.find(key) else { return };
        match upstream.state {
            UpstreamState::Idle => self.close_upstream(key),
            UpstreamState::Connecting(borrower) => {
                self.counters.upstream_connect_failures.add(1);
                self.connect_failed(borrower, Cause::ConnectTimeout);
            }
            UpstreamState::Busy(borrower) => {
                self.upstream_lost(key, borrower, Cause::Reset(Errno::PIPE));
            }
        }
    }

    /// The connection broke in the middle of an exchange.
    fn upstream_lost(&mut self, key: UpstreamKey, borrower: ConnectionKey, cause: Cause) {
        let Some(upstream) = self.upstreams.find(key) else { return };
        let fresh = !upstream.reused || upstream.answered;
        let Some(connection) = self.connections.find_mut(borrower) else { return };
        if connection.state == State::Tunnel {
            return self.abandon_tunnel(borrower);
        }
        let replay = std::mem::take(&mut connection.exchange.replay);
        if fresh || replay.is_empty() {
            return self.fail(borrower, cause);
        }
        let endpoint = connection.exchange.endpoint.expect("it was sent somewhere");
        self.release_upstream(borrower);
        self.counters.upstream_replays.add(1);
        let Some(connection) = self.connections.find_mut(borrower) else { return };
        connection.exchange.pending.clear();
        connection.exchange.pending.push_back(Chunk::from_vec(replay, 0));
        self.connect(borrower, endpoint);
    }

    /// Nothing was sent, so nothing can be sent twice: a peer is tried again, as daprd does. An app is not; it is our
    /// own neighbour, and its caller's policy decides.
    fn connect_failed(&mut self, borrower: ConnectionKey, cause: Cause) {
        let Some(connection) = self.connections.find(borrower) else { return };
        let exchange = &connection.exchange;
        let known_length = !exchange.request.is_chunked();
        if exchange.hop != Hop::ToPeer || exchange.retry_count >= PEER_RETRY_MAX || !known_length {
            return self.fail(borrower, cause);
        }
        self.release_upstream(borrower);
        let Some(connection) = self.connections.find_mut(borrower) else { return };
        connection.exchange.retry_count += 1;
        connection.state = State::Retrying;
        self.remember_retry(borrower);
        self.counters.peer_retries.add(1);
        self.set_deadline(borrower, Some(PEER_RETRY_INTERVAL));
    }

    /// Entries of those that wait no more are dropped before the list would grow, so that it is never longer than twice
    /// as many as ever waited at one time.
    fn remember_retry(&mut self, key: ConnectionKey) {
        if self.retrying.len() == self.retrying.capacity() {
            let connections = &self.connections;
            self.retrying.retain(|key| {
                connections.find(*key).is_some_and(|connection| connection.state == State::Retrying)
            });
            self.retrying.sort_unstable_by_key(|key| key.to_bits());
            self.retrying.dedup();
        }
        self.retrying.push(key);
    }

    /// The snapshot changed: who waited for a peer that is gone for good learns it now, and who waited for one that
    /// has come back elsewhere is sent there.
    pub(super) fn reconsider_retries(&mut self) {
        for key in std::mem::take(&mut self.retrying) {
            let waits = |connection: &Connection| connection.state == State::Retrying;
            if self.connections.find(key).is_some_and(waits) {
                self.reconsider(key);
            }
        }
        self.read_ready();
    }

    fn reconsider(&mut self, key: ConnectionKey) {
        let view = Rc::clone(&self.view);
        let Some(connection) = self.connections.find(key) else { return };
        let failed = connection.exchange.endpoint.map(|endpoint| self.endpoints.address(endpoint));
        let is_failed =
            |endpoint: &Endpoint| failed.is_some_and(|failed| **failed == endpoint.address);
        match find_route(&view, connection) {
            None => self.fail(key, Cause::NotFound),
            Some(route) if route.endpoints.iter().all(is_failed) => self.retrying.push(key),
            Some(_) => self.try_again(key),
        }
    }

    /// The pause is over. The target is looked up anew, for it may have come back elsewhere.
    pub(super) fn try_again(&mut self, key: ConnectionKey) {
        let view = Rc::clone(&self.view);
        let Some(connection) = self.connections.find_mut(key) else { return };
        let route = find_route(&view, connection);
        if let Some(route) = route {
            let address = &route.endpoints[self.next_endpoint % route.endpoints.len()].address;
            self.next_endpoint = self.next_endpoint.wrapping_add(1);
            let endpoint = self.intern(address);
            if let Some(connection) = self.connections.find_mut(key) {
                connection.exchange.endpoint = Some(endpoint);
            }
        }
        let endpoint = self.connections.find(key).and_then(|c| c.exchange.endpoint);
        let endpoint = endpoint.expect("it was tried before");
        self.connect(key, endpoint);
    }
}

/// Where the exchange's target is now, if another sidecar serves it.
fn find_route<'v>(view: &'v View, connection: &Connection) -> Option<&'v Route> {
    let own = view.snapshot.apps.get(connection.app)?;
    let target = &connection.exchange.notes.target;
    let Ok(Named::App { id, namespace }) = split_id(target, own.namespace.as_str()) else {
        return None;
    };
    match route::find(&view.snapshot, connection.app, id, namespace) {
        Ok(Destination::Remote { route }) => Some(route),
        _ => None,
    }
}
