//! Listening sockets, and which worker serves a new connection.
//!
//! The first worker accepts for all: one listening socket, no SO_REUSEPORT, whose hashing would spread the few
//! connections of a sidecar badly and lose queued ones when a socket closes. The connection goes to the worker with the
//! fewest.

#![forbid(unsafe_code)]

use crate::{
    clock::Instant,
    engine::{Engine, ListenerKey},
    limits::CONNECTIONS_MAX,
    mailbox::{Mailbox, ToWorker, WorkerId},
    relay::Relay,
};
use snapshot::{ListenerId, ListenerKind, Snapshot};
use std::{os::fd::OwnedFd, sync::Arc, time::Duration};

#[derive(Default)]
pub(crate) struct Listeners(Vec<Listener>);

struct Listener {
    key: ListenerKey,
    id: ListenerId,
    kind: ListenerKind,
    app: usize,
    /// Set while accepting pauses after a failure.
    resume_at: Option<Instant>,
}

impl Listeners {
    pub(crate) fn insert(
        &mut self,
        key: ListenerKey,
        id: ListenerId,
        kind: ListenerKind,
        app: usize,
    ) {
        self.0.push(Listener { key, id, kind, app, resume_at: None });
    }

    pub(crate) fn remove(&mut self, id: ListenerId) -> Option<ListenerKey> {
        let position = self.0.iter().position(|listener| listener.id == id)?;
        Some(self.0.swap_remove(position).key)
    }

    pub(crate) fn remove_all(&mut self) -> Vec<ListenerKey> {
        self.0.drain(..).map(|listener| listener.key).collect()
    }

    /// A snapshot may number its apps anew.
    pub(crate) fn reassign(&mut self, snapshot: &Snapshot) {
        for listener in &mut self.0 {
            if let Some(now) = snapshot.listeners.iter().find(|other| other.id == listener.id) {
                listener.app = now.app as usize;
                listener.kind = now.kind;
            }
        }
    }

    pub(crate) fn pause(&mut self, key: ListenerKey, until: Instant) {
        if let Some(listener) = self.0.iter_mut().find(|listener| listener.key == key) {
            listener.resume_at = Some(until);
        }
    }

    pub(crate) fn next_resume_in(&self, now: Instant) -> Option<Duration> {
        self.0.iter().filter_map(|listener| listener.resume_at).map(|at| at.since(now)).min()
    }

    pub(crate) fn resume_due<E: Engine>(&mut self, now: Instant, engine: &mut E) {
        for listener in &mut self.0 {
            if listener.resume_at.is_some_and(|at| at <= now) {
                listener.resume_at = None;
                engine.accept_resume(listener.key);
            }
        }
    }

    fn find(&self, key: ListenerKey) -> Option<&Listener> {
        self.0.iter().find(|listener| listener.key == key)
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

    /// A connection beyond CONNECTIONS_MAX is closed at once: better than one that is accepted and then starves.
    pub(crate) fn admit<E: Engine>(
        &self,
        listeners: &Listeners,
        key: ListenerKey,
        socket: OwnedFd,
        relay: &mut Relay<E>,
    ) {
        let Some(listener) = listeners.find(key) else { return };
        let (kind, app) = (listener.kind, listener.app);
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
        let sent = self.mailboxes[chosen].try_put(ToWorker::Connection { socket, kind, app });
        if let Err(ToWorker::Connection { socket, kind, app }) = sent {
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
