//! What the caller's resiliency policy has to say to an exchange, and what becomes of it.
//!
//! Only calls out have one: the callee's sidecar leaves what to try again to the caller's. Where a
//! call has none, each of these is one look at an empty field.

#![forbid(unsafe_code)]

use super::{Relay, View};
use crate::{
    connection::{ConnectionKey, Exchange},
    engine::Engine,
    error::Cause,
    http::Field,
    policy::resiliency::{self, Attempts, Endpoint, Failure, Move, Position, Refusal},
    telemetry::Activation,
    upstream,
};
use snapshot::{App, ListenerKind};

impl<E: Engine> Relay<E> {
    /// A call out is about to begin.
    ///
    /// # Errors
    /// Its circuit breaker does not let it through.
    pub(super) fn begin_policy(&mut self, key: ConnectionKey, view: &View) -> Result<(), Cause> {
        let Some(connection) = self.connections.find_mut(key) else { return Ok(()) };
        let caller = view.snapshot.apps.get(connection.app);
        let Some(resiliency) = caller.and_then(policies_of) else { return Ok(()) };
        if connection.listener == ListenerKind::Peer {
            return Ok(());
        }
        let exchange = &mut connection.exchange;
        let Some(policy) = resiliency.find(&exchange.notes.target) else { return Ok(()) };
        let attempts = Attempts::new(policy, &self.retry_budget, self.now);
        exchange.attempts = Some(Box::new(attempts));
        let begun = self.begin_attempt(key);
        let attempts = self.connections.find(key).and_then(|c| c.exchange.attempts.as_ref());
        let position = match begun {
            Err(Cause::BreakerBusy) => Some(Position::HalfOpen),
            Err(_) => Some(Position::Open),
            Ok(()) => attempts.and_then(|attempts| attempts.position()),
        };
        self.observe_policy(key, position);
        begun
    }

    /// # Errors
    /// The circuit breaker does not let it through.
    pub(super) fn begin_attempt(&mut self, key: ConnectionKey) -> Result<(), Cause> {
        let Some(connection) = self.connections.find_mut(key) else { return Ok(()) };
        let Exchange { attempts, notes, .. } = &mut connection.exchange;
        let Some(attempts) = attempts else { return Ok(()) };
        let (target, method) = (&*notes.target, &*notes.method);
        let endpoint = Endpoint { app: connection.app, target, method };
        let refusal = match attempts.begin(&self.breakers, endpoint, self.now) {
            Ok(()) => return Ok(()),
            Err(refusal) => refusal,
        };
        self.counters.breaker_refusals.add(1);
        Err(match refusal {
            Refusal::Busy => Cause::BreakerBusy,
            Refusal::Open => Cause::BreakerOpen,
        })
    }

    /// The head of an answer is in `self.response_head`, its bytes in `bytes`. True: the policy
    /// wants another one, and this one is dropped.
    pub(super) fn judge_answer(&mut self, key: ConnectionKey, bytes: &[u8]) -> bool {
        let Some(connection) = self.connections.find_mut(key) else { return false };
        if connection.exchange.attempts.is_none() {
            return false;
        }
        let status = self.response_head.status;
        if !resiliency::is_success(status) {
            let said = self.response_head.lines.find(Field::RingcarError);
            let is_no_answer = said.is_some_and(|line| line.value.of(bytes) == b"no-answer");
            let failure = if is_no_answer { Failure::NoAnswer } else { Failure::Answer(status) };
            if self.tries_again(key, failure) {
                return true;
            }
        }
        if let Some(connection) = self.connections.find_mut(key) {
            connection.exchange.forget_request();
        }
        false
    }

    /// The answer was relayed, or the protocol switched: there is nothing left to decide.
    pub(super) fn end_policy(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.find_mut(key) else { return };
        let Some(mut attempts) = connection.exchange.attempts.take() else { return };
        let moved = attempts.succeeded(self.now);
        self.note_move(key, moved);
    }

    pub(super) fn note_move(&mut self, key: ConnectionKey, moved: Option<Move>) {
        let Some(moved) = moved else { return };
        match moved {
            Move::Closed => self.counters.breaker_closes.add(1),
            Move::Opened => self.counters.breaker_opens.add(1),
        }
        self.observe_activation(key, Activation::Breaker(moved));
    }

    /// It is in the pause before another attempt.
    pub(super) fn awaits_attempt(&self, key: ConnectionKey) -> bool {
        let attempts = self.connections.find(key).and_then(|c| c.exchange.attempts.as_ref());
        attempts.is_some_and(|attempts| attempts.is_waiting())
    }

    pub(super) fn is_out_of_time(&self, key: ConnectionKey) -> bool {
        let attempts = self.connections.find(key).and_then(|c| c.exchange.attempts.as_ref());
        attempts.is_some_and(|attempts| attempts.is_out_of_time(self.now))
    }

    /// The attempt took longer than its policy allows; the time of its answer counts.
    pub(super) fn time_out(&mut self, key: ConnectionKey) {
        self.counters.policy_timeouts.add(1);
        self.observe_activation(key, Activation::Timeout);
        let Some(connection) = self.connections.find(key) else { return };
        if !connection.exchange.response_started {
            self.note_failure(key, upstream::Failure::Broken);
        }
        self.fail(key, Cause::DeadlineExceeded);
    }
}

#[inline]
fn policies_of(app: &App) -> Option<&snapshot::policy::resiliency::Resiliency> {
    app.resiliency.as_deref()
}
