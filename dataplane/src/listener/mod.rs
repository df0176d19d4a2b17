//! Listening sockets, and which worker serves a new connection.
//!
//! The first worker accepts for all: one listening socket, no SO_REUSEPORT, whose hashing would
//! spread the few connections of a sidecar badly and lose queued ones when a socket closes. The
//! connection goes to the worker with the fewest.

#![forbid(unsafe_code)]

use crate::{
    clock::Instant,
    engine::{self, Engine, ListenerKey},
    limits::CONNECTIONS_MAX,
    mailbox::{Mailbox, ToWorker, WorkerId},
    relay::Relay,
};
use snapshot::{CgroupId, ListenerId, ListenerKind, Snapshot};
use std::{collections::HashMap, os::fd::OwnedFd, sync::Arc, time::Duration};

#[derive(Default)]
pub(crate) struct Listeners {
    by_key: HashMap<ListenerKey, Listener>,
    keys: HashMap<ListenerId, ListenerKey>,
    /// Where accepting pauses after a failure, and until when. A node has thousands of listeners
    /// and looks here each turn.
    paused: Vec<(Instant, ListenerKey)>,
}

#[derive(Clone, Copy)]
struct Listener {
    id: ListenerId,
    kind: ListenerKind,
    app: usize,
    caller: Option<CgroupId>,
}

impl Listener {
    fn of(listener: &snapshot::Listener) -> Self {
        let snapshot::Listener { id, kind, app, caller } = *listener;
        Self { id, kind, app: app as usize, caller }
    }

    /// The kernel's word counts, and where it has none the connection is nobody's.
    fn may_be_dialed_by(&self, socket: &OwnedFd) -> bool {
        self.caller.is_none_or(|caller| engine::caller(socket) == Some(caller))
    }
}

impl Listeners {
    pub(crate) fn insert(&mut self, key: ListenerKey, listener: &snapshot::Listener) {
        self.by_key.insert(key, Listener::of(listener));
        self.keys.insert(listener.id, key);
    }

    pub(crate) fn remove(&mut self, id: ListenerId) -> Option<ListenerKey> {
        let key = self.keys.remove(&id)?;
        self.by_key.remove(&key);
        self.paused.retain(|(_, paused)| *paused != key);
        Some(key)
    }

    pub(crate) fn remove_all(&mut self) -> Vec<ListenerKey> {
        self.by_key.clear();
        self.paused.clear();
        self.keys.drain().map(|(_, key)| key).collect()
    }

    /// Some listeners belong to something else from now on.
    pub(crate) fn reassign(&mut self, snapshot: &Snapshot, changed: &[ListenerId]) {
        for id in changed {
            let listener = self.keys.get(id).and_then(|key| self.by_key.get_mut(key));
            if let (Some(listener), Some(now)) = (listener, snapshot.find_listener(*id)) {
                *listener = Listener::of(now);
            }
        }
    }

    pub(crate) fn pause(&mut self, key: ListenerKey, until: Instant) {
        if self.by_key.contains_key(&key) {
            self.paused.push((until, key));
        }
    }

    pub(crate) fn next_resume_in(&self, now: Instant) -> Option<Duration> {
        self.paused.iter().map(|(at, _)| at.since(now)).min()
    }

    pub(crate) fn resume_due<E: Engine>(&mut self, now: Instant, engine: &mut E) {
        self.paused.retain(|(at, key)| {
            let is_due = *at <= now;
            if is_due {
                engine.accept_resume(*key);
            }
            !is_due
        });
    }

    fn find(&self, key: ListenerKey) -> Option<Listener> {
        self.by_key.get(&key).copied()
    }
}

/// Chooses the worker for a new connection.
pub(crate) struct Admission {
    own: WorkerId,
    mailboxes: Arc<[Mailbox<ToWorker>]>,
}

impl Admission {
    pub(crate) fn new(own: WorkerId, mailboxes: Arc<[Mailbox<ToWorker>]>) -> Self {
        Self { own, mailboxes }
    }

    /// A connection beyond CONNECTIONS_MAX is closed at once: better than one that is accepted and
    /// then starves.
    pub(crate) fn admit<E: Engine>(
        &self,
        listeners: &Listeners,
        key: ListenerKey,
        socket: OwnedFd,
        relay: &mut Relay<E>,
    ) {
        let Some(listener) = listeners.find(key) else { return };
        if !listener.may_be_dialed_by(&socket) {
            relay.counters.callers_refused.add(1);
            return;
        }
        let Listener { id, kind, app, .. } = listener;
        let chosen = self.least_loaded();
        if self.mailboxes[chosen].load() >= CONNECTIONS_MAX {
            relay.counters.accept_failures.add(1);
            return;
        }
        self.mailboxes[chosen].add_load();
        if chosen == self.own.index() {
            return relay.accept(socket, kind, app);
        }
        // A worker that does not read its mailbox is stuck; this one still serves.
        let sent = self.mailboxes[chosen].try_put(ToWorker::Connection { socket, listener: id });
        if let Err(ToWorker::Connection { socket, .. }) = sent {
            relay.accept(socket, kind, app);
        }
    }

    /// The own worker among equals: a connection that stays needs no wake-up of another core.
    fn least_loaded(&self) -> usize {
        let own = self.own.index();
        let others = (0..self.mailboxes.len()).filter(|index| *index != own);
        std::iter::once(own)
            .chain(others)
            .min_by_key(|index| self.mailboxes[*index].load())
            .unwrap_or(own)
    }
}
