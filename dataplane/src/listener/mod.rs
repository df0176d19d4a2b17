//! Listening sockets, and which worker serves a new connection.
//!
//! The first worker accepts for all: one listening socket, no SO_REUSEPORT, whose hashing would
//! spread the few connections of a sidecar badly and lose queued ones when a socket closes. The
//! connection goes to the worker with the fewest.

#![forbid(unsafe_code)]

use crate::{
    adoption::Difference,
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
    /// Those that are being closed included: what had connected to them is still told.
    by_key: HashMap<ListenerKey, Listener>,
    /// Those that accept.
    keys: HashMap<ListenerId, ListenerKey>,
    /// Where accepting pauses after a failure, and until when. A node has thousands of listeners
    /// and looks here each turn.
    paused: Vec<(Instant, ListenerKey)>,
}

#[derive(Clone, Copy)]
struct Listener {
    id: ListenerId,
    kind: ListenerKind,
    /// `None`: it is gone, and this listener is being closed.
    app: Option<usize>,
    caller: Option<CgroupId>,
}

impl Listener {
    fn of(listener: &snapshot::Listener) -> Self {
        let snapshot::Listener { id, kind, app, caller } = *listener;
        Self { id, kind, app: Some(app as usize), caller }
    }

    /// The kernel's word counts, and where it has none the connection is nobody's.
    fn may_be_dialed_by(&self, socket: &OwnedFd) -> bool {
        self.caller.is_none_or(|caller| engine::caller(socket) == Some(caller))
    }

    fn hand<E: Engine>(&self, socket: OwnedFd, relay: &mut Relay<E>) {
        let Some(app) = self.app else { return };
        match self.caller {
            Some(_) => relay.accept_steered(socket, self.kind, app),
            None => relay.accept(socket, self.kind, app),
        }
    }
}

impl Listeners {
    pub(crate) fn insert(&mut self, key: ListenerKey, listener: &snapshot::Listener) {
        self.by_key.insert(key, Listener::of(listener));
        self.keys.insert(listener.id, key);
    }

    /// It is to be closed; the name is free.
    pub(crate) fn close(&mut self, id: ListenerId) -> Option<ListenerKey> {
        let key = self.keys.remove(&id)?;
        self.paused.retain(|(_, paused)| *paused != key);
        Some(key)
    }

    pub(crate) fn close_all(&mut self) -> Vec<ListenerKey> {
        self.paused.clear();
        self.keys.drain().map(|(_, key)| key).collect()
    }

    pub(crate) fn on_unlistened(&mut self, key: ListenerKey) {
        self.by_key.remove(&key);
    }

    /// None accepts, and none is being closed.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// Some listeners belong to something else from now on. Those that are being closed stay their
    /// app's, as the connections do that came from them.
    pub(crate) fn reassign(&mut self, snapshot: &Snapshot, difference: &Difference) {
        for id in &difference.listeners {
            let listener = self.keys.get(id).and_then(|key| self.by_key.get_mut(key));
            if let (Some(listener), Some(now)) = (listener, snapshot.find_listener(*id)) {
                *listener = Listener::of(now);
            }
        }
        if difference.renumbered.is_empty() || self.by_key.len() == self.keys.len() {
            return;
        }
        let numbers: HashMap<usize, Option<usize>> =
            difference.renumbered.iter().copied().collect();
        for (key, listener) in &mut self.by_key {
            if self.keys.get(&listener.id) != Some(key) {
                listener.app =
                    listener.app.and_then(|app| *numbers.get(&app).unwrap_or(&Some(app)));
            }
        }
    }

    fn accepts(&self, key: ListenerKey) -> bool {
        self.by_key.get(&key).is_some_and(|listener| self.keys.get(&listener.id) == Some(&key))
    }

    pub(crate) fn pause(&mut self, key: ListenerKey, until: Instant) {
        if self.accepts(key) {
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
        let Listener { id, app: Some(_), .. } = listener else { return };
        // Another worker may know a listener that is being closed no more.
        let accepts = listeners.accepts(key);
        let chosen = if accepts { self.least_loaded() } else { self.own.index() };
        if self.mailboxes[chosen].load() >= CONNECTIONS_MAX {
            relay.counters.accept_failures.add(1);
            return;
        }
        self.mailboxes[chosen].add_load();
        if chosen == self.own.index() {
            return listener.hand(socket, relay);
        }
        // A worker that does not read its mailbox is stuck; this one still serves.
        let sent = self.mailboxes[chosen].try_put(ToWorker::Connection { socket, listener: id });
        if let Err(ToWorker::Connection { socket, .. }) = sent {
            listener.hand(socket, relay);
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
