//! What must hold between two turns, whatever happened: for tests, the simulation above all.
//!
//! Each rule here is one that a stuck, leaked or mixed-up exchange would break before anybody
//! outside could see it.

#![forbid(unsafe_code)]

use super::{Owner, Relay};
use crate::{
    connection::{Connection, ConnectionKey, State},
    engine::{Engine, SocketKey},
    gate::{Gate, Pass},
    limits::{HEAD_BYTES_MAX, RELAY_HIGH_BYTES},
    upstream::{Upstream, UpstreamKey, UpstreamState},
};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

/// What an engine of the simulation knows beyond the trait.
pub(crate) struct EngineFacts<'a> {
    /// Whether a socket's `Sent` may be kept back.
    pub is_relaxed: &'a dyn Fn(SocketKey) -> bool,
    /// Bytes that one turn may bring on a socket, stopped or not.
    pub turn_bytes_max: usize,
}

impl<E: Engine> Relay<E> {
    pub(crate) fn upstream_count(&self) -> usize {
        self.upstreams.len()
    }

    /// All rules that are broken, in words.
    pub(crate) fn broken_invariants(&self, facts: &EngineFacts<'_>) -> Vec<String> {
        let mut broken = Vec::new();
        for key in self.connections.keys() {
            let connection = self.connections.find(key).expect("the slab lists what it holds");
            let mut complain = |rule: &str| broken.push(describe(key, connection, rule));
            self.check_connection(key, connection, &mut complain);
            self.check_waiting(connection, facts, &mut complain);
            self.check_bounds(connection, facts, &mut complain);
        }
        for key in self.upstreams.keys() {
            let upstream = self.upstreams.find(key).expect("the slab lists what it holds");
            let mut complain = |rule: &str| {
                broken.push(format!("upstream {key:?} {:?}: {rule}", upstream.state));
            };
            self.check_upstream(key, upstream, &mut complain);
        }
        self.check_pool(&mut broken);
        self.check_balance(&mut broken);
        self.check_retries(&mut broken);
        self.check_parked(&mut broken);
        self.check_gates(&mut broken);
        if !self.ready.is_empty() {
            broken.push("a request is left for later, and nobody will look at it".to_owned());
        }
        broken
    }

    fn check_connection(
        &self,
        key: ConnectionKey,
        connection: &Connection,
        complain: &mut dyn FnMut(&str),
    ) {
        let owner = self.owners.find(connection.socket);
        if !matches!(owner, Some(Owner::Downstream(owned)) if owned == key) {
            complain("its socket's events go elsewhere");
        }
        let upstream = connection.exchange.upstream;
        let may_borrow = matches!(connection.state, State::Exchanging | State::Tunnel);
        match upstream {
            Some(_) if !may_borrow => complain("holds an upstream connection in a wrong state"),
            None if may_borrow => complain("exchanges with nobody"),
            _ => {}
        }
        if let Some(upstream) = upstream {
            let borrower = self.upstreams.find(upstream).and_then(Upstream::borrower);
            if borrower != Some(key) {
                complain("its upstream connection is gone, or somebody else's");
            }
        }
        let is_over = matches!(
            connection.state,
            State::Idle | State::ReadingHead | State::Flushing { .. } | State::Lingering { .. }
        );
        if is_over && connection.exchange.observed.is_some() {
            complain("its exchange is over, and was not told of");
        }
        let is_idle = matches!(connection.state, State::Idle);
        if is_idle && self.draining && connection.input.is_empty() {
            complain("is idle while draining");
        }
        if is_idle && !connection.input.is_empty() && !connection.paused {
            complain("is idle with a request in hand");
        }
    }

    /// Whoever waits has a clock running, or an event coming that cannot be kept back.
    fn check_waiting(
        &self,
        connection: &Connection,
        facts: &EngineFacts<'_>,
        complain: &mut dyn FnMut(&str),
    ) {
        let upstream = connection.exchange.upstream.and_then(|key| self.upstreams.find(key));
        let own_queue = self.engine.send_queued_bytes(connection.socket);
        let upstream_queue = upstream.map_or(0, |u| self.engine.send_queued_bytes(u.socket));
        let is_owed = match connection.state {
            State::Exchanging => {
                let is_connecting =
                    upstream.is_some_and(|u| matches!(u.state, UpstreamState::Connecting(_)));
                !is_connecting && own_queue + upstream_queue > 0
                    || !connection.exchange.request.is_complete()
                    || (!is_connecting && (connection.read_closed || connection.paused))
            }
            State::Tunnel => own_queue + upstream_queue > 0,
            // Its turn comes; an app at its limit has calls whose clocks run.
            State::Queued => false,
            _ => true,
        };
        if is_owed && connection.deadline.is_none() {
            complain("waits without a deadline");
        }
        if connection.deadline.is_some() && connection.timer_at.is_none() {
            complain("has a deadline and no timer");
        }
        let relaxed = (facts.is_relaxed)(connection.socket);
        let waits_for_sent = matches!(connection.state, State::Flushing { .. })
            || upstream.is_some_and(|upstream| upstream.paused)
            || (connection.paused && matches!(connection.state, State::Idle | State::ReadingHead));
        if waits_for_sent && relaxed && own_queue > 0 {
            complain("waits for its queue, which need not tell");
        }
        if upstream.is_some_and(|upstream| upstream.paused) && own_queue == 0 {
            complain("its upstream connection is paused, and nothing will resume it");
        }
        let both_ended = connection.read_closed && upstream.is_some_and(|u| u.read_closed);
        let Some(upstream) = upstream else { return };
        let ends = connection.state == State::Tunnel && both_ended;
        let is_full = connection.input.len() >= HEAD_BYTES_MAX;
        if ((connection.paused && !is_full) || ends)
            && upstream_queue > 0
            && (facts.is_relaxed)(upstream.socket)
        {
            complain("waits for its upstream queue, which need not tell");
        }
        let pending: usize = connection.exchange.pending.iter().map(|chunk| chunk.len()).sum();
        // An exchange whose sending failed ends soon, one way or the other.
        let is_ending = upstream.send_failed;
        if connection.paused && upstream_queue + pending == 0 && !is_full && !is_ending {
            complain("is paused, and nothing will resume it");
        }
    }

    fn check_bounds(
        &self,
        connection: &Connection,
        facts: &EngineFacts<'_>,
        complain: &mut dyn FnMut(&str),
    ) {
        // What one turn brings is there before anybody can stop it; what was in flight comes a turn
        // later.
        let queue_max = RELAY_HIGH_BYTES + 2 * facts.turn_bytes_max + HEAD_BYTES_MAX;
        let queue = self.engine.send_queued_bytes(connection.socket);
        if queue > queue_max {
            complain(&format!("{queue} bytes wait for the client"));
        }
        let pending: usize = connection.exchange.pending.iter().map(|chunk| chunk.len()).sum();
        // A further attempt under a policy begins with all that was kept for it.
        let body_bytes = connection.exchange.request.data_bytes();
        let again = match connection.exchange.attempts {
            Some(_) => usize::try_from(body_bytes).unwrap_or(usize::MAX),
            None => 0,
        };
        if pending > queue_max + again {
            complain(&format!("{pending} bytes wait for a connection"));
        }
        if let Some(upstream) =
            connection.exchange.upstream.and_then(|key| self.upstreams.find(key))
        {
            let queue = self.engine.send_queued_bytes(upstream.socket);
            if queue > queue_max + again {
                complain(&format!("{queue} bytes wait for the app"));
            }
            if upstream.input.len() > HEAD_BYTES_MAX + facts.turn_bytes_max {
                complain("keeps too much of a response head");
            }
        }
        let input = connection.input.len();
        if input > HEAD_BYTES_MAX + 2 * facts.turn_bytes_max {
            complain(&format!("keeps {input} bytes for later"));
        }
    }

    fn check_upstream(
        &self,
        key: UpstreamKey,
        upstream: &Upstream,
        complain: &mut dyn FnMut(&str),
    ) {
        let owner = self.owners.find(upstream.socket);
        if !matches!(owner, Some(Owner::Upstream(owned)) if owned == key) {
            complain("its socket's events go elsewhere");
        }
        if let Some(borrower) = upstream.borrower() {
            let lent = self.connections.find(borrower).and_then(|c| c.exchange.upstream);
            if lent != Some(key) {
                complain("is lent to nobody");
            }
        }
        let must_end = match upstream.state {
            UpstreamState::Busy(_) => upstream.send_failed,
            UpstreamState::Connecting(_) | UpstreamState::Idle => true,
        };
        if must_end && upstream.deadline.is_none() {
            complain("waits without a deadline");
        }
        if upstream.deadline.is_some() && upstream.timer_at.is_none() {
            complain("has a deadline and no timer");
        }
        if upstream.state != UpstreamState::Idle {
            return;
        }
        let queue = self.engine.send_queued_bytes(upstream.socket);
        let is_clean = upstream.input.is_empty()
            && !upstream.paused
            && !upstream.read_closed
            && !upstream.send_failed
            && !upstream.answered
            && queue == 0;
        if !is_clean {
            complain("is idle with something left of its last exchange");
        }
        if self.draining {
            complain("is kept while draining");
        }
    }

    /// What the balancer counts as under way is under way.
    fn check_balance(&self, broken: &mut Vec<String>) {
        let mut counts: HashMap<u64, u32> = HashMap::new();
        for upstream in self.upstreams.keys().filter_map(|key| self.upstreams.find(key)) {
            let Some(seat) = upstream.seat else { continue };
            *counts.entry(seat.to_bits()).or_default() += 1;
            if upstream.state == UpstreamState::Idle {
                broken.push("an idle connection counts as a request".to_owned());
            }
        }
        for (seat, counted) in self.balancer.outstanding() {
            let count = counts.get(&seat.to_bits()).copied().unwrap_or_default();
            if counted != count {
                broken.push(format!("{counted} requests are counted where there are {count}"));
            }
        }
    }

    fn check_retries(&self, broken: &mut Vec<String>) {
        let retries = |key: &ConnectionKey| {
            self.connections.find(*key).is_some_and(|c| c.state == State::Retrying)
        };
        // A new snapshot does not shorten the pauses of policies.
        let is_known =
            |key: &ConnectionKey| self.retrying.contains(key) || self.awaits_attempt(*key);
        if !self.connections.keys().filter(retries).all(|key| is_known(&key)) {
            broken.push("a connection that retries is forgotten".to_owned());
        }
        let count = self.retrying.len();
        if count > RETRIES_REMEMBERED_MAX {
            broken.push(format!("{count} connections are remembered as retrying"));
        }
    }

    /// Tokens taken are held or spare, calls that wait are queued; in a world of one worker nothing
    /// is under way.
    fn check_gates(&self, broken: &mut Vec<String>) {
        let mut counts: Vec<(&Arc<Gate>, u32, u32)> = Vec::new();
        for connection in self.connections.keys().filter_map(|key| self.connections.find(key)) {
            let (gate, held, waits) = match &connection.exchange.pass {
                Pass::None => continue,
                Pass::Wanted(gate) => (gate, 0, 0),
                Pass::Held(gate) => (gate, 1, 0),
                Pass::Waiting(waiting) => (&waiting.0, 0, 1),
            };
            if (waits == 1) != (connection.state == State::Queued) {
                broken.push(format!("waits at a gate in the state {:?}", connection.state));
            }
            match counts.iter_mut().find(|(known, ..)| Arc::ptr_eq(known, gate)) {
                Some(count) => *count = (gate, count.1 + held, count.2 + waits),
                None => counts.push((gate, held, waits)),
            }
        }
        for (gate, held, waits) in counts {
            let want = (held + self.gates.spare(gate), waits);
            if gate.count() != want {
                broken.push(format!("a gate counts {:?} where there are {want:?}", gate.count()));
            }
            if waits > 0 && gate.has_room() {
                broken.push("calls wait at a gate with room".to_owned());
            }
        }
        if self.gates.has_mail() {
            broken.push("a message of a gate is left for later".to_owned());
        }
    }

    fn check_pool(&self, broken: &mut Vec<String>) {
        let mut seen = HashSet::new();
        for (endpoint, key) in self.endpoints.idle() {
            let is_sound = self.upstreams.find(key).is_some_and(|upstream| {
                upstream.state == UpstreamState::Idle && upstream.endpoint == endpoint
            });
            if !is_sound || !seen.insert(key.to_bits()) {
                broken.push(format!("the pool holds {key:?}, which it should not"));
            }
        }
        let idle = |key: &UpstreamKey| {
            self.upstreams.find(*key).is_some_and(|u| u.state == UpstreamState::Idle)
        };
        if self.upstreams.keys().filter(idle).count() != seen.len() {
            broken.push("an idle connection is in no pool".to_owned());
        }
    }
}

/// Twice a world's clients, rounded up as a vector grows.
const RETRIES_REMEMBERED_MAX: usize = 16;

fn describe(key: ConnectionKey, connection: &Connection, rule: &str) -> String {
    format!(
        "connection {key:?} {:?} (read closed {}, paused {}, {} bytes in hand, deadline {:?}): {rule}",
        connection.state,
        connection.read_closed,
        connection.paused,
        connection.input.len(),
        connection.deadline
    )
}
