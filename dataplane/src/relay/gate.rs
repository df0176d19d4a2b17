//! Calls of an app with a limit: each takes a token before it goes to the app, or waits for one,
//! and gives it back when the app's answer is here, or the call has ended otherwise.
//!
//! What is told to another worker leaves with the end of the turn; what this worker tells itself is
//! read before that, by [`Relay::settle`], never in the middle of something else.

#![forbid(unsafe_code)]

use super::Relay;
use crate::{
    connection::{ConnectionKey, State},
    engine::Engine,
    error::Cause,
    gate::{Entry, Gate, GateMessage, Lines, Pass, Ticket},
    slab::Key,
};
use snapshot::ListenerKind;
use std::{collections::VecDeque, mem, sync::Arc};

/// This worker's part in all gates.
#[derive(Default)]
pub(super) struct GateDesk {
    worker: u32,
    /// Of the last one that waited.
    ticket: u64,
    lines: Lines,
    /// From this worker to itself.
    own: VecDeque<GateMessage>,
    /// To other workers, in the order in which it was said.
    out: VecDeque<(u32, GateMessage)>,
}

impl GateDesk {
    fn say(&mut self, to: u32, message: GateMessage) {
        if to == self.worker {
            self.own.push_back(message);
        } else {
            self.out.push_back((to, message));
        }
    }

    fn say_home(&mut self, gate: Arc<Gate>, message: impl FnOnce(Arc<Gate>) -> GateMessage) {
        self.say(gate.home(), message(gate));
    }

    fn at_home(&mut self, act: impl FnOnce(&mut Lines, &mut dyn FnMut(u32, GateMessage))) {
        let mut lines = mem::take(&mut self.lines);
        act(&mut lines, &mut |to, message| self.say(to, message));
        self.lines = lines;
    }

    fn give_back(&mut self, gate: Arc<Gate>) {
        if gate.leave() {
            self.say_home(gate, |gate| GateMessage::Pass { gate });
        }
    }

    #[cfg(test)]
    pub(super) fn spare(&self, gate: &Arc<Gate>) -> u32 {
        self.lines.spare(gate)
    }

    #[cfg(test)]
    pub(super) fn has_mail(&self) -> bool {
        !self.own.is_empty()
    }
}

impl<E: Engine> Relay<E> {
    /// Which worker this is; gates tell theirs apart.
    pub(crate) fn set_worker(&mut self, worker: u32) {
        self.gates.worker = worker;
    }

    /// Whether the call may go to its app now. If not it waits, or has failed.
    pub(super) fn pass_gate(&mut self, key: ConnectionKey) -> bool {
        let Some(connection) = self.connections.find_mut(key) else { return false };
        let Pass::Wanted(gate) = mem::take(&mut connection.exchange.pass) else { return true };
        match gate.enter() {
            Entry::Open => {
                connection.exchange.pass = Pass::Held(gate);
                true
            }
            Entry::Full => {
                self.counters.gate_refusals.add(1);
                self.fail(key, Cause::LineFull);
                false
            }
            Entry::Wait => {
                self.counters.gate_waits.add(1);
                self.gates.ticket += 1;
                let number = self.gates.ticket;
                connection.exchange.pass = Pass::Waiting(Box::new((Arc::clone(&gate), number)));
                connection.state = State::Queued;
                let ticket = Ticket { worker: self.gates.worker, number };
                let connection = key.to_bits();
                self.gates.say_home(gate, |gate| GateMessage::Ask { gate, ticket, connection });
                false
            }
        }
    }

    /// The call is through with its app, however it ended.
    pub(super) fn leave_gate(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.find_mut(key) else { return };
        match mem::take(&mut connection.exchange.pass) {
            Pass::None | Pass::Wanted(_) => {}
            Pass::Held(gate) => self.gates.give_back(gate),
            Pass::Waiting(waiting) => {
                let (gate, number) = *waiting;
                let ticket = Ticket { worker: self.gates.worker, number };
                self.gates.say_home(gate, |gate| GateMessage::Leave { gate, ticket });
            }
        }
    }

    /// The attempt is over, and another one will have to pass again.
    pub(super) fn leave_gate_for_now(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.find(key) else { return };
        let gate = match &connection.exchange.pass {
            Pass::None => return,
            Pass::Wanted(gate) | Pass::Held(gate) => Arc::clone(gate),
            Pass::Waiting(waiting) => Arc::clone(&waiting.0),
        };
        self.leave_gate(key);
        let Some(connection) = self.connections.find_mut(key) else { return };
        connection.exchange.pass = Pass::Wanted(gate);
    }

    /// The client has closed its side. daprd takes that for its leaving; should it read on, it is
    /// told. A sidecar that closes has lost its client.
    pub(super) fn leave_line(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.find(key) else { return };
        debug_assert_eq!(connection.state, State::Queued);
        let is_whole = connection.exchange.request.is_complete();
        if connection.listener == ListenerKind::Peer || !is_whole {
            return self.abandon(key);
        }
        self.fail(key, Cause::Canceled);
    }

    /// From another worker.
    pub(crate) fn on_gate_message(&mut self, message: GateMessage) {
        self.read_gate_message(message);
        self.settle();
    }

    pub(super) fn read_own_gate_message(&mut self) -> bool {
        let Some(message) = self.gates.own.pop_front() else { return false };
        self.read_gate_message(message);
        true
    }

    fn read_gate_message(&mut self, message: GateMessage) {
        match message {
            GateMessage::Grant { gate, ticket, connection } => {
                self.on_grant(gate, ticket.number, Key::from_bits(connection));
            }
            message => self.gates.at_home(|lines, say| lines.on_message(message, say)),
        }
    }

    fn on_grant(&mut self, gate: Arc<Gate>, number: u64, key: ConnectionKey) {
        let waits = |pass: &Pass| matches!(pass, Pass::Waiting(waiting) if waiting.1 == number);
        let connection = self.connections.find_mut(key);
        let Some(connection) = connection.filter(|c| waits(&c.exchange.pass)) else {
            // It has left meanwhile.
            return self.gates.give_back(gate);
        };
        debug_assert_eq!(connection.state, State::Queued);
        connection.exchange.pass = Pass::Held(gate);
        let endpoint = connection.exchange.endpoint.expect("its app's, since the plan");
        self.attempt(key, endpoint);
    }

    /// Limits may be others now.
    pub(super) fn look_at_gates(&mut self) {
        self.gates.at_home(|lines, say| lines.serve_all(say));
    }

    /// The next message for another worker, and that worker.
    pub(crate) fn take_gate_message(&mut self) -> Option<(u32, GateMessage)> {
        self.gates.out.pop_front()
    }

    /// The other worker's mailbox is full; what follows must not overtake.
    pub(crate) fn return_gate_messages(&mut self, messages: VecDeque<(u32, GateMessage)>) {
        debug_assert!(self.gates.out.is_empty());
        self.gates.out = messages;
    }

    pub(crate) fn has_gate_messages(&self) -> bool {
        !self.gates.out.is_empty()
    }
}
