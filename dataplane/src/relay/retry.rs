//! Upstream connections that fail: what is tried again, what is reported.
//!
//! Whatever a request is sent again for is decided here. Four times only is it done without anybody
//! asking for it. A pooled connection may have been closed by the other side just as we used it, so
//! a request that is safe to repeat (RFC 9110 §9.2.2) goes out once more on a fresh one. A peer
//! that breaks a fresh one before it answered has died, and such a request goes to another endpoint
//! where there is one. A peer that cannot be reached at all has seen no byte, so another endpoint
//! gets any request, and when none takes it, daprd's built-in retry applies. And a peer that serves
//! another app has delivered nothing. All else is for the caller's policy to ask for, which goes
//! around these: see `policy.rs`.

#![forbid(unsafe_code)]

use super::{
    Relay, View,
    attempt::{find_app, find_route},
    plan::is_healthy,
};
use crate::{
    connection::{Connection, ConnectionKey, State},
    engine::{Chunk, Engine, Operation},
    error::{Cause, Hop},
    limits::{REPLAYS_MAX, SEND_FAILED_TIMEOUT},
    policy::resiliency::{Failure as AttemptFailure, Next},
    telemetry::Activation,
    upstream::{Failure, UpstreamKey, UpstreamState},
};
use rustix::io::Errno;
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
            // The app may have answered before it closed: its answer is read before the failure
            // counts.
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
    pub(super) fn upstream_lost(
        &mut self,
        key: UpstreamKey,
        borrower: ConnectionKey,
        cause: Cause,
    ) {
        let Some(upstream) = self.upstreams.find(key) else { return };
        let (is_reused, is_answered) = (upstream.reused, upstream.answered);
        let Some(connection) = self.connections.find_mut(borrower) else { return };
        if connection.state == State::Tunnel {
            return self.abandon_tunnel(borrower);
        }
        let exchange = &mut connection.exchange;
        let may_be_replayed = !is_answered
            && !exchange.replay.is_empty()
            && exchange.may_be_repeated()
            && exchange.replay_count < REPLAYS_MAX;
        if !may_be_replayed {
            self.note_failure(borrower, Failure::Broken);
            return self.fail(borrower, cause);
        }
        let replay = Chunk::from_vec(exchange.replay.clone(), 0);
        let endpoint = exchange.endpoint.expect("it was sent somewhere");
        if !is_reused {
            self.note_failure(borrower, Failure::Broken);
        }
        self.release_upstream(borrower);
        let Some(connection) = self.connections.find_mut(borrower) else { return };
        let exchange = &mut connection.exchange;
        exchange.pending.clear();
        exchange.pending.push_back(replay);
        exchange.replay_count += 1;
        if is_reused {
            self.counters.upstream_replays.add(1);
            self.connect(borrower, endpoint);
        } else if exchange.hop != Hop::ToPeer || !self.fail_over(borrower) {
            self.fail(borrower, cause);
        }
    }

    /// Nothing was sent, so nothing can be sent twice: a peer is tried again, as daprd does,
    /// another endpoint at once and the same ones after a pause. An app is not; it is our own
    /// neighbour, and its caller's policy decides.
    fn connect_failed(&mut self, borrower: ConnectionKey, cause: Cause) {
        self.note_failure(borrower, Failure::Broken);
        let Some(connection) = self.connections.find(borrower) else { return };
        if connection.exchange.hop != Hop::ToPeer {
            if !self.try_next_address(borrower) {
                self.fail(borrower, cause);
            }
            return;
        }
        self.release_upstream(borrower);
        if !self.fail_over(borrower) {
            self.pause_or_fail(borrower, cause);
        }
    }

    fn pause_or_fail(&mut self, borrower: ConnectionKey, cause: Cause) {
        let Some(connection) = self.connections.find_mut(borrower) else { return };
        let exchange = &mut connection.exchange;
        let (count_max, pause) = exchange.built_in_retry();
        if exchange.retry_count >= count_max || exchange.request.is_chunked() {
            return self.fail(borrower, cause);
        }
        exchange.retry_count += 1;
        connection.state = State::Retrying;
        self.remember_retry(borrower);
        self.counters.peer_retries.add(1);
        self.set_deadline(borrower, Some(pause));
    }

    /// Entries of those that wait no more are dropped before the list would grow, so that it is
    /// never longer than twice as many as ever waited at one time.
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

    /// Another app lives at that address by now. It was delivered nothing, so whatever the verb,
    /// the request may go to an endpoint that it has not been to, if all of it is still here.
    pub(super) fn misdirected(&mut self, borrower: ConnectionKey) {
        self.counters.misdirected.add(1);
        self.note_failure(borrower, Failure::Misdirected);
        self.release_upstream(borrower);
        let Some(connection) = self.connections.find_mut(borrower) else { return };
        let exchange = &mut connection.exchange;
        let request = Chunk::from_vec(exchange.replay.clone(), 0);
        exchange.pending.clear();
        let is_whole = !request.is_empty();
        if is_whole {
            exchange.pending.push_back(request);
        }
        let goes_on = is_whole && self.fail_over(borrower);
        if !goes_on && !self.park_misdirected(borrower) {
            self.fail(borrower, Cause::NotFound);
        }
    }

    /// The snapshot changed: who waited for a peer that is gone for good learns it now, and who
    /// waited for one that has come back elsewhere is sent there.
    pub(super) fn reconsider_retries(&mut self) {
        for key in std::mem::take(&mut self.retrying) {
            let waits = |connection: &Connection| connection.state == State::Retrying;
            if self.connections.find(key).is_some_and(waits) {
                self.reconsider(key);
            }
        }
        self.settle();
    }

    fn reconsider(&mut self, key: ConnectionKey) {
        if self.awaits_attempt(key) {
            return;
        }
        let view = Rc::clone(&self.view);
        let Some(connection) = self.connections.find(key) else { return };
        if find_route(&view, connection).is_none() {
            if !self.come_home(key) {
                self.fail(key, Cause::NotFound);
            }
        } else if !self.fail_over(key) {
            self.retrying.push(key);
        }
    }

    /// The attempt is over without success. True: the policy wants another one, which comes after a
    /// pause; what there was of an answer is dropped.
    pub(super) fn tries_again(&mut self, key: ConnectionKey, failure: AttemptFailure) -> bool {
        let now = self.now;
        let Some(connection) = self.connections.find_mut(key) else { return false };
        let is_wanted = !connection.read_closed && !self.draining;
        let exchange = &mut connection.exchange;
        let has_room = exchange.has_room();
        let Some(attempts) = &mut exchange.attempts else { return false };
        let moved = attempts.failed(now);
        let next = match exchange.response_started || !is_wanted {
            true => Next::Over,
            false => attempts.wait_after(failure, has_room, now, &mut self.draw),
        };
        if let Next::After(_) = next {
            exchange.pending.clear();
            exchange.tried.clear();
            exchange.retry_count = 0;
            exchange.interim_count = 0;
            connection.state = State::Retrying;
        }
        self.note_move(key, moved);
        match next {
            Next::After(pause) => {
                self.counters.policy_retries.add(1);
                self.observe_activation(key, Activation::Retry);
                self.release_upstream(key);
                self.leave_gate_for_now(key);
                self.set_deadline(key, Some(pause));
                return true;
            }
            Next::Impossible => self.counters.policy_retries_impossible.add(1),
            Next::Over => {}
        }
        false
    }

    pub(super) fn on_pause_over(&mut self, key: ConnectionKey) {
        if self.awaits_attempt(key) {
            self.next_attempt(key);
        } else if self.is_out_of_time(key) {
            self.time_out(key);
        } else {
            self.try_again(key);
        }
    }

    /// All of the request, as far as it is here, goes out once more.
    pub(super) fn next_attempt(&mut self, key: ConnectionKey) {
        if let Err(cause) = self.begin_attempt(key) {
            return self.give_up(key, cause);
        }
        let view = Rc::clone(&self.view);
        let Some(connection) = self.connections.find_mut(key) else { return };
        let exchange = &mut connection.exchange;
        debug_assert!(!exchange.replay.is_empty(), "what is not kept is not tried again");
        exchange.pending.push_back(Chunk::from_vec(exchange.replay.clone(), 0));
        let is_named = exchange.external.as_ref().is_some_and(|external| external.is_named);
        let (hop, has_been_nowhere) = (exchange.hop, exchange.endpoint.is_none());
        match hop {
            Hop::ToPeer => {
                let Some(route) = find_route(&view, connection) else {
                    if !self.come_home(key) {
                        self.seek_again(key);
                    }
                    return;
                };
                if self.choose(key, &view, route).is_none() {
                    return self.fail(key, Cause::NotFound);
                }
                self.counters.requests_peer.add(u64::from(has_been_nowhere));
            }
            // What its name stands for may be known by now, or have changed.
            Hop::External if is_named => return self.look_up_host(key),
            Hop::InboundFromPeer | Hop::SelfCall if !is_callee_healthy(&view, connection) => {
                return self.fail(key, Cause::AppUnhealthy);
            }
            Hop::External | Hop::InboundFromPeer | Hop::SelfCall => {}
        }
        if !self.pass_gate(key) {
            return self.hold(key, []);
        }
        let Some(connection) = self.connections.find(key) else { return };
        let endpoint = connection.exchange.endpoint.expect("it was tried before");
        self.attempt(key, endpoint);
    }

    /// The built-in pause is over. The target is looked up anew, for it may have come back
    /// elsewhere.
    pub(super) fn try_again(&mut self, key: ConnectionKey) {
        let view = Rc::clone(&self.view);
        let Some(connection) = self.connections.find_mut(key) else { return };
        connection.exchange.tried.clear();
        if let Some(route) = find_route(&view, connection) {
            self.choose(key, &view, route);
        }
        let Some(connection) = self.connections.find(key) else { return };
        let endpoint = connection.exchange.endpoint.expect("it was tried before");
        self.attempt(key, endpoint);
    }
}

/// Of an app that this data plane serves; one that is gone by now fails otherwise.
fn is_callee_healthy(view: &View, connection: &Connection) -> bool {
    find_app(view, connection).is_none_or(|(_, app)| is_healthy(app))
}
