//! What happens to an exchange, as telemetry is told it. Decides nothing: an app of whose calls
//! nothing is told has no observation, and every hook here ends at once.

#![forbid(unsafe_code)]

use super::Relay;
use crate::{
    clock::Instant,
    connection::{ConnectionKey, Exchange},
    dapr::LocalCall,
    engine::{Chunk, Engine},
    error::Cause,
    http::FieldSet,
    policy::resiliency::Position,
    telemetry::{Activation, Outcome, Planned, Seen, Side},
};
use snapshot::ListenerKind;

impl<E: Engine> Relay<E> {
    /// A request whose head is in `self.request_head`. False: it was refused, and the client told.
    pub(super) fn observe_request(&mut self, key: ConnectionKey, chunk: &Chunk) -> bool {
        let Some(connection) = self.connections.find_mut(key) else { return false };
        let side = match connection.listener {
            ListenerKind::Api => Side::Api,
            ListenerKind::Inbound | ListenerKind::Peer => Side::Peer,
            ListenerKind::Public => Side::Public,
        };
        let seen = Seen { app: connection.app, side, head: &self.request_head, bytes: chunk };
        match self.telemetry.on_request(&seen, self.now) {
            Ok(mut observed) => {
                if let Some(observed) = observed.as_mut().filter(|one| one.wants_client()) {
                    let address = connection.remote.as_ref().and_then(|one| one.address.as_ref());
                    observed.on_client(address.and_then(|address| address.parse().ok()));
                }
                connection.exchange.observed = observed;
                true
            }
            Err(problem) => {
                let text = format!("invalid baggage header: {problem}");
                self.refuse_baggage(key, chunk.clone(), &text);
                false
            }
        }
    }

    pub(super) fn observe_local(&mut self, key: ConnectionKey, call: LocalCall) {
        let Some(connection) = self.connections.find_mut(key) else { return };
        if let Some(observed) = &mut connection.exchange.observed {
            self.telemetry.on_local(observed, call);
        }
    }

    pub(super) fn observe_turned_away(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.find_mut(key) else { return };
        if let Some(observed) = &mut connection.exchange.observed {
            observed.on_turned_away();
        }
    }

    /// Adds the lines that the call carries of its trace; returns those of the client that they
    /// replace.
    pub(super) fn observe_plan(&mut self, key: ConnectionKey, bytes: &[u8]) -> FieldSet {
        let Some(connection) = self.connections.find_mut(key) else { return FieldSet::default() };
        let apps = &self.view.snapshot.apps;
        let caller = (connection.listener == ListenerKind::Inbound).then(|| {
            let app = connection.caller().and_then(|number| apps.get(number as usize));
            app.map_or("", |app| app.id.as_str())
        });
        let exchange = &mut connection.exchange;
        let Some(observed) = &mut exchange.observed else { return FieldSet::default() };
        let planned = Planned {
            hop: exchange.hop,
            target: &exchange.notes.target,
            method: &exchange.notes.method,
            head: &self.request_head,
            bytes,
            caller,
        };
        self.telemetry.on_plan(observed, &planned, &mut self.lines)
    }

    /// The call goes nowhere. With daprd the caller's sidecar has sent it nevertheless where it is
    /// the callee's that says why.
    pub(super) fn observe_refused(&mut self, key: ConnectionKey, cause: Cause) {
        let Some(connection) = self.connections.find_mut(key) else { return };
        let Exchange { observed, notes, hop, .. } = &mut connection.exchange;
        let Some(observed) = observed else { return };
        let is_sent = matches!(cause, Cause::Denied | Cause::NoAppChannel);
        let sent = is_sent.then_some(*hop);
        self.telemetry.on_refused(observed, &notes.target, &notes.method, sent);
    }

    /// Access control may have been asked.
    pub(super) fn observe_verdict(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.find_mut(key) else { return };
        if let Some(observed) = &mut connection.exchange.observed {
            self.telemetry.on_judged(observed);
        }
    }

    /// The call is under a policy, whose breaker was asked in this position.
    pub(super) fn observe_policy(&mut self, key: ConnectionKey, position: Option<Position>) {
        let Some(connection) = self.connections.find_mut(key) else { return };
        let Exchange { observed, attempts, notes, .. } = &connection.exchange;
        if let (Some(observed), Some(attempts)) = (observed, attempts) {
            self.telemetry.on_policy(observed, &notes.target, attempts.policy(), position);
        }
    }

    pub(super) fn observe_activation(&mut self, key: ConnectionKey, activation: Activation) {
        let Some(connection) = self.connections.find_mut(key) else { return };
        let Exchange { observed, notes, .. } = &mut connection.exchange;
        if let Some(observed) = observed {
            self.telemetry.on_activated(observed, &notes.target, activation);
        }
    }

    pub(super) fn observe_attempt(&mut self, key: ConnectionKey) {
        let now = self.now;
        let Some(connection) = self.connections.find_mut(key) else { return };
        if let Some(observed) = &mut connection.exchange.observed {
            observed.on_attempt(now);
            self.leaving.push(key);
        }
    }

    /// The head of upstream's answer is in `self.response_head`.
    pub(super) fn observe_answer(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.find_mut(key) else { return };
        if let Some(observed) = &mut connection.exchange.observed {
            self.telemetry.on_answer(observed, self.response_head.status, self.now);
        }
    }

    pub(super) fn observe_failure(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.find_mut(key) else { return };
        if let Some(observed) = &mut connection.exchange.observed {
            self.telemetry.on_failure(observed, self.now);
        }
    }

    pub(super) fn observe_own_answer(&mut self, key: ConnectionKey, status: u16, body: &[u8]) {
        let Some(connection) = self.connections.find_mut(key) else { return };
        if let Some(observed) = &mut connection.exchange.observed {
            self.telemetry.on_own_answer(observed, status, body);
        }
    }

    /// The exchange is over, if it was not before. `None`: with what was relayed of the app's
    /// answer.
    pub(super) fn observe_end(&mut self, key: ConnectionKey, own_answer: Option<(u16, usize)>) {
        let Some(connection) = self.connections.find_mut(key) else { return };
        let Some(observed) = connection.exchange.observed.take() else { return };
        let outcome = match own_answer {
            Some((status, bytes)) => Outcome { status: Some(status), response_bytes: bytes as u64 },
            None => {
                let response_bytes = connection.exchange.response.data_bytes();
                Outcome { status: None, response_bytes }
            }
        };
        self.telemetry.on_end(observed, outcome, self.now);
    }

    /// What began in this turn leaves now, and what was answered has been here until now. Reads the
    /// clock only when that matters to anybody.
    pub(crate) fn end_turn(&mut self, read_clock: impl FnOnce() -> Instant) {
        if self.leaving.is_empty() && !self.telemetry.has_answered() {
            return;
        }
        let now = read_clock();
        let mut leaving = std::mem::take(&mut self.leaving);
        for key in leaving.drain(..) {
            let Some(connection) = self.connections.find_mut(key) else { continue };
            if let Some(observed) = &mut connection.exchange.observed {
                observed.on_turn_end(self.now, now);
            }
        }
        self.leaving = leaving;
        self.telemetry.end_turn(now);
    }
}
