//! Which endpoint a request goes to, and what becomes known of that endpoint by it.
//!
//! Only where an app has several endpoints is there anything to choose or to note; see
//! [`crate::upstream::Balancer`].

#![forbid(unsafe_code)]

use super::{Relay, View};
use crate::{
    connection::{Connection, ConnectionKey, State},
    dapr::target::{Named, split_id},
    engine::Engine,
    error::Hop,
    limits::ENDPOINTS_TRIED_MAX,
    route::{self, Destination},
    upstream::{Call, EndpointKey, Failure, Upstream, UpstreamKey, UpstreamState},
};
use snapshot::{App, Route};
use std::rc::Rc;

impl<E: Engine> Relay<E> {
    /// The next endpoint for a call, noted in its exchange; `None` when it has been to all that are
    /// worth it.
    pub(super) fn choose(
        &mut self,
        key: ConnectionKey,
        view: &View,
        route: &Route,
    ) -> Option<EndpointKey> {
        if self.endpoints.is_crowded() {
            self.forget_endpoints();
        }
        let connection = self.connections.find_mut(key)?;
        let exchange = &mut connection.exchange;
        let (endpoint, seat) = if let [only] = &*route.endpoints {
            let endpoint = self.endpoints.intern(&only.address);
            let is_tried = exchange.tried.contains(&endpoint);
            (!is_tried).then_some((endpoint, None))?
        } else {
            let caller = view.snapshot.apps.get(connection.app)?;
            let (balance, zone) = (caller.balance, caller.zone.as_deref());
            let call = Call { route, balance, zone, tried: &exchange.tried };
            let (endpoint, seat) = self.balancer.choose(&mut self.endpoints, &call, self.now)?;
            (endpoint, Some(seat))
        };
        exchange.endpoint = Some(endpoint);
        exchange.seat = seat;
        Some(endpoint)
    }

    /// Sends what is pending to the next endpoint that it has not been to. False: there is none, or
    /// it has been to enough of them.
    pub(super) fn fail_over(&mut self, key: ConnectionKey) -> bool {
        let view = Rc::clone(&self.view);
        let Some(connection) = self.connections.find(key) else { return false };
        if connection.exchange.tried.len() >= ENDPOINTS_TRIED_MAX {
            return false;
        }
        let Some(route) = find_route(&view, connection) else { return false };
        let Some(endpoint) = self.choose(key, &view, route) else { return false };
        self.counters.peer_retries.add(1);
        self.attempt(key, endpoint);
        true
    }

    /// Sends what is pending.
    pub(super) fn attempt(&mut self, key: ConnectionKey, endpoint: EndpointKey) {
        let Some(upstream) = self.endpoints.checkout(endpoint) else {
            return self.connect(key, endpoint);
        };
        self.counters.upstream_reuses.add(1);
        self.lend(key, upstream);
        let Some(connection) = self.connections.find_mut(key) else { return };
        for chunk in std::mem::take(&mut connection.exchange.pending) {
            self.send_upstream(key, chunk);
        }
        self.note_progress(key);
    }

    pub(super) fn lend(&mut self, key: ConnectionKey, upstream_key: UpstreamKey) {
        let Some(upstream) = self.upstreams.find_mut(upstream_key) else {
            debug_assert!(false, "the pool holds only live connections");
            return;
        };
        upstream.state = UpstreamState::Busy(key);
        upstream.deadline = None;
        self.occupy(key, upstream_key, true);
    }

    /// From now on the upstream connection works for this exchange, and its endpoint is busier by
    /// one request. `is_open`: it need not be opened first.
    pub(super) fn occupy(&mut self, key: ConnectionKey, upstream_key: UpstreamKey, is_open: bool) {
        self.observe_attempt(key);
        let Some(connection) = self.connections.find_mut(key) else { return };
        connection.state = State::Exchanging;
        let is_awaited = connection.paused;
        let exchange = &mut connection.exchange;
        exchange.upstream = Some(upstream_key);
        exchange.upstream_reached = is_open;
        exchange.attempted = self.now;
        if let Some(seat) = exchange.seat
            && let Some(upstream) = self.upstreams.find_mut(upstream_key)
        {
            debug_assert!(upstream.seat.is_none(), "a connection works for one exchange");
            upstream.seat = Some(seat);
            self.balancer.begin(seat);
        }
        if let Some(upstream) = self.upstreams.find(upstream_key) {
            // A client that is not read waits for the bytes in hand to leave, and must hear of it.
            self.engine.relax_sent(upstream.socket, !is_awaited);
        }
    }

    /// Whatever the upstream connection was busy with is over.
    pub(super) fn vacate(&mut self, upstream: &mut Upstream) {
        if let Some(seat) = upstream.seat.take() {
            self.balancer.end(seat, self.now);
        }
    }

    /// The head of the answer is here.
    pub(super) fn note_answer(&mut self, key: ConnectionKey) {
        self.observe_answer(key);
        let Some(connection) = self.connections.find(key) else { return };
        let Some(seat) = connection.exchange.seat else { return };
        let latency = self.now.since(connection.exchange.attempted);
        if self.balancer.on_answer(seat, latency, self.now) {
            self.counters.endpoint_readmissions.add(1);
        }
    }

    /// The attempt ended without an answer of the app.
    pub(super) fn note_failure(&mut self, key: ConnectionKey, failure: Failure) {
        let Some(connection) = self.connections.find_mut(key) else { return };
        let exchange = &mut connection.exchange;
        if exchange.hop == Hop::ToPeer
            && let Some(endpoint) = exchange.endpoint
            && !exchange.tried.contains(&endpoint)
            && exchange.tried.len() < ENDPOINTS_TRIED_MAX
        {
            exchange.tried.push(endpoint);
        }
        if let Some(seat) = exchange.seat
            && self.balancer.on_failure(seat, failure, self.now)
        {
            self.counters.endpoint_ejections.add(1);
        }
    }
}

/// The exchange's target, taken apart.
pub(super) fn named<'c>(
    view: &'c View,
    connection: &'c Connection,
) -> Option<(&'c [u8], &'c [u8])> {
    let own = view.snapshot.apps.get(connection.app)?;
    match split_id(&connection.exchange.notes.target, own.namespace.as_str()) {
        Ok(Named::App { id, namespace }) => Some((id, namespace)),
        _ => None,
    }
}

/// Where the exchange's target is now, if another sidecar serves it.
pub(super) fn find_route<'v>(view: &'v View, connection: &Connection) -> Option<&'v Route> {
    let (id, namespace) = named(view, connection)?;
    match route::find(&view.snapshot, connection.app, id, namespace) {
        Ok(Destination::Remote { route }) => Some(route),
        _ => None,
    }
}

/// The exchange's target, if this data plane serves it by now, and its number.
pub(super) fn find_app<'v>(view: &'v View, connection: &Connection) -> Option<(usize, &'v App)> {
    let (id, namespace) = named(view, connection)?;
    match route::find(&view.snapshot, connection.app, id, namespace) {
        Ok(Destination::Local { index, app }) => Some((index, app)),
        _ => None,
    }
}
