//! Calls to apps that no snapshot knows, while control finds out where they are.
//!
//! Some registries, DNS above all, know only what they are asked for. So a call that finds no route
//! is made ready for a peer, waits here, and leaves with the route or ends as one to nobody:
//!
//! ```text
//!   Exchanging ──no route──► Resolving ──route adopted, or answered with one──► Exchanging
//!                                │ answered without one, time, too many
//!                                └────────────────────────► answered as unknown
//! ```
//! Each name is asked for once, however many calls wait for it. Whatever becomes of the answer, a
//! call's own deadline ends its waiting.

#![forbid(unsafe_code)]

use super::{
    Relay,
    attempt::{find_route, named},
};
use crate::{
    clock::Instant,
    connection::{Connection, ConnectionKey, State},
    engine::Engine,
    error::Cause,
    limits::{PARKED_MAX, RESOLVE_TIMEOUT},
    route::{Name, Question},
};
use std::{
    collections::{HashMap, hash_map::Entry},
    rc::Rc,
};

/// Who waits for which name.
#[derive(Default)]
pub(super) struct Parked {
    names: HashMap<Name, Waiting>,
    /// Entries in all of `names`, those of calls that wait no more included.
    count: usize,
    last_ticket: u64,
}

struct Waiting {
    asked_at: Instant,
    calls: Vec<Call>,
}

/// A ticket is given once, so that a connection that has come to wait for something else meanwhile
/// is not taken for the one that waited for this.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Call {
    key: ConnectionKey,
    ticket: u64,
}

impl Parked {
    /// The ticket of a call that waits from now on, and whether control is to be asked: nobody did,
    /// or so long ago that the answer is lost.
    fn add(&mut self, name: Name, key: ConnectionKey, now: Instant) -> (u64, bool) {
        debug_assert!(self.count < PARKED_MAX);
        self.count += 1;
        self.last_ticket += 1;
        let ticket = self.last_ticket;
        let call = Call { key, ticket };
        match self.names.entry(name) {
            Entry::Vacant(place) => {
                place.insert(Waiting { asked_at: now, calls: vec![call] });
                (ticket, true)
            }
            Entry::Occupied(mut place) => {
                let waiting = place.get_mut();
                waiting.calls.push(call);
                let is_lost = now.since(waiting.asked_at) >= RESOLVE_TIMEOUT;
                if is_lost {
                    waiting.asked_at = now;
                }
                (ticket, is_lost)
            }
        }
    }

    fn take(&mut self, name: &Name) -> Vec<Call> {
        let calls = self.names.remove(name).map(|waiting| waiting.calls).unwrap_or_default();
        self.count -= calls.len();
        calls
    }

    /// Forgets the calls that wait no more, and names that nobody waits for.
    fn keep(&mut self, waits: impl Fn(&Call) -> bool) {
        self.names.retain(|_, waiting| {
            waiting.calls.retain(&waits);
            !waiting.calls.is_empty()
        });
        self.count = self.names.values().map(|waiting| waiting.calls.len()).sum();
    }
}

impl Call {
    fn waits(&self, connection: &Connection) -> bool {
        connection.state == State::Resolving { ticket: self.ticket }
    }
}

impl<E: Engine> Relay<E> {
    /// Whether a call to an app that is not known is worth waiting.
    pub(crate) fn set_resolver(&mut self, exists: bool) {
        self.has_resolver = exists;
    }

    /// Nobody that is known serves the app. The call waits for what control finds out, if there is
    /// anything to ask; if not, this attempt has failed.
    pub(super) fn seek(&mut self, key: ConnectionKey, name: Name) {
        if self.has_resolver {
            self.park(key, name, false);
        } else {
            self.fail(key, Cause::NotFound);
        }
    }

    /// As [`Self::seek`], for another attempt of a call, all that is here of it pending.
    pub(super) fn seek_again(&mut self, key: ConnectionKey) {
        let connection = self.connections.find(key);
        let named = connection.and_then(|connection| named(&self.view, connection));
        match named.and_then(|(id, namespace)| Name::parse(id, namespace)) {
            Some(name) => self.seek(key, name),
            None => self.fail(key, Cause::NotFound),
        }
    }

    /// The call is ready to leave, all that is here of it pending, and waits for its app to be
    /// found.
    pub(super) fn park(&mut self, key: ConnectionKey, name: Name, is_stale: bool) {
        if self.parked.count >= PARKED_MAX {
            let connections = &self.connections;
            self.parked.keep(|call| connections.find(call.key).is_some_and(|c| call.waits(c)));
        }
        if self.parked.count >= PARKED_MAX {
            self.counters.calls_unresolved.add(1);
            return self.fail(key, Cause::NotFound);
        }
        let Some(connection) = self.connections.find_mut(key) else { return };
        let (ticket, is_asked) = self.parked.add(name.clone(), key, self.now);
        connection.state = State::Resolving { ticket };
        if is_asked {
            self.questions.push(Question { name, is_stale });
        }
        self.counters.calls_parked.add(1);
        self.set_deadline(key, Some(RESOLVE_TIMEOUT));
    }

    /// No address of the app is its own any more. Control is told; the call waits for what it finds
    /// out, if all of it is still here (it is pending then) and it has not waited so before. False:
    /// it does not wait.
    pub(super) fn park_misdirected(&mut self, key: ConnectionKey) -> bool {
        let Some(connection) = self.connections.find_mut(key).filter(|_| self.has_resolver) else {
            return false;
        };
        let name = named(&self.view, connection).and_then(|(id, ns)| Name::parse(id, ns));
        let Some(name) = name else { return false };
        let exchange = &mut connection.exchange;
        let waits = !exchange.is_resolved_anew && !exchange.pending.is_empty();
        exchange.is_resolved_anew = true;
        if waits {
            self.park(key, name, true);
        } else {
            self.questions.push(Question { name, is_stale: true });
        }
        waits
    }

    /// All that can be known of this name has been adopted.
    pub(crate) fn on_resolved(&mut self, name: &Name) {
        for call in self.parked.take(name) {
            if self.is_parked(call) {
                self.unpark(call.key);
            }
        }
        self.settle();
    }

    /// The snapshot changed: who waited for an app that is in it goes on, unless all it says of it
    /// has turned out to be wrong before.
    pub(super) fn reconsider_parked(&mut self) {
        let view = Rc::clone(&self.view);
        let is_known = |name: &&Name| {
            let (id, namespace) = (name.id.as_str(), name.namespace.as_str());
            let snapshot = &view.snapshot;
            snapshot.find_route(id, namespace).is_some()
                || snapshot.find_app(id, namespace).is_some()
        };
        let known: Vec<Name> = self.parked.names.keys().filter(is_known).cloned().collect();
        for name in known {
            let asked_at = self.parked.names.get(&name).map(|waiting| waiting.asked_at);
            let calls = self.parked.take(&name).into_iter();
            let calls = calls.filter(|call| self.is_parked(*call) && !self.try_unpark(call.key));
            let calls: Vec<Call> = calls.collect();
            if let Some(asked_at) = asked_at.filter(|_| !calls.is_empty()) {
                self.parked.count += calls.len();
                self.parked.names.insert(name, Waiting { asked_at, calls });
            }
        }
        self.settle();
    }

    fn is_parked(&self, call: Call) -> bool {
        self.connections.find(call.key).is_some_and(|connection| call.waits(connection))
    }

    /// Sends the call to where its app is now, or tells its client that there is none.
    pub(super) fn unpark(&mut self, key: ConnectionKey) {
        if !self.try_unpark(key) {
            self.counters.calls_unresolved.add(1);
            self.fail(key, Cause::NotFound);
        }
    }

    fn try_unpark(&mut self, key: ConnectionKey) -> bool {
        let view = Rc::clone(&self.view);
        let Some(connection) = self.connections.find(key) else { return false };
        let has_been_nowhere = connection.exchange.endpoint.is_none();
        let route = find_route(&view, connection);
        let Some(endpoint) = route.and_then(|route| self.choose(key, &view, route)) else {
            return self.come_home(key);
        };
        self.counters.requests_peer.add(u64::from(has_been_nowhere));
        self.attempt(key, endpoint);
        true
    }
}

#[cfg(test)]
impl<E: Engine> Relay<E> {
    /// Whoever waits is known to wait, and no more are remembered than may be.
    pub(super) fn check_parked(&self, broken: &mut Vec<String>) {
        let calls = || self.parked.names.values().flat_map(|waiting| &waiting.calls);
        for key in self.connections.keys() {
            let Some(connection) = self.connections.find(key) else { continue };
            let State::Resolving { ticket } = connection.state else { continue };
            if !calls().any(|call| *call == Call { key, ticket }) {
                broken.push(format!("connection {key:?} waits for a name that nobody asks for"));
            }
        }
        let count = calls().count();
        if count != self.parked.count || count > PARKED_MAX {
            broken.push(format!("{count} calls wait where {} are counted", self.parked.count));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapshot::{AppId, Namespace};

    fn name(id: &str) -> Name {
        Name { id: AppId::new(id).unwrap(), namespace: Namespace::default() }
    }

    fn key(bits: u64) -> ConnectionKey {
        ConnectionKey::from_bits(bits)
    }

    #[test]
    fn a_name_is_asked_for_once_until_the_answer_is_lost() {
        let mut parked = Parked::default();
        let start = Instant::from_nanos(7);
        let late = start + RESOLVE_TIMEOUT;
        for (case, id, at, want) in [
            ("the first one", "a", start, true),
            ("a second call", "a", start, false),
            ("another name", "b", start, true),
            ("the answer is lost", "a", late, true),
            ("and asked for anew", "a", late, false),
        ] {
            assert_eq!(parked.add(name(id), key(1), at).1, want, "{case}");
        }
        assert_eq!((parked.take(&name("a")).len(), parked.count), (4, 1));
        assert_eq!((parked.take(&name("a")).len(), parked.count), (0, 1));
        assert!(parked.add(name("a"), key(1), late).1, "an answered name is asked for anew");
    }

    #[test]
    fn calls_that_wait_no_more_are_forgotten_with_their_names() {
        let mut parked = Parked::default();
        for number in 0..6 {
            parked.add(name(["a", "b"][number % 2]), key(number as u64), Instant::default());
        }
        parked.keep(|call| [0, 4].contains(&call.key.to_bits()));
        assert_eq!((parked.count, parked.names.len()), (2, 1));
        let calls: Vec<u64> = parked.take(&name("a")).iter().map(|c| c.key.to_bits()).collect();
        assert_eq!(calls, [0, 4]);
    }
}
