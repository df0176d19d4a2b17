//! The relay moves exchanges: bytes from downstream to upstream and back, from the first head to
//! the last trailer.
//!
//! It owns the engine and every connection of its worker. Each event of the engine ends in one of
//! the `on_*` methods; the files of this directory follow a request's way:
//!
//! ```text
//! request.rs   downstream bytes → head → who is asked
//! guards.rs    what it must pass
//! pipeline.rs  what it is put through, and may be changed by
//! answer.rs    answers of our own, errors among them
//! plan.rs      who is asked, under which path, with which lines
//! call.rs      rewritten head → upstream connection
//! parked.rs    apps that control must find first
//! external.rs  servers outside of Dapr, and hosts.rs, their names
//! home.rs      apps that this data plane serves by now
//! gate.rs      apps that take so many calls at a time
//! attempt.rs   which endpoint it goes to, and how that went
//! retry.rs     attempts that fail: what is tried again, and when
//! policy.rs    what the caller's resiliency policy has to say to that
//! response.rs  upstream bytes → head → downstream
//! finish.rs    what becomes of both connections afterwards
//! observe.rs   what telemetry is told of all that
//! tunnel.rs    after 101: bytes only
//! ```

#![forbid(unsafe_code)]

mod answer;
mod attempt;
mod call;
#[cfg(test)]
mod check;
mod external;
mod finish;
mod gate;
mod guards;
mod home;
mod hosts;
mod observe;
mod owner;
mod parked;
mod pipeline;
mod plan;
mod policy;
mod request;
mod response;
mod retry;
mod tunnel;
mod view;

#[cfg(test)]
pub(crate) use check::EngineFacts;
pub(crate) use view::View;

use crate::{
    adoption::{Adoption, Difference},
    clock::Instant,
    connection::{Buffers, Connection, ConnectionKey, Dialed, Remote, State},
    draw::Draw,
    engine::{self, Engine, Event, Operation, SocketKey, Target},
    http::{RequestHead, ResponseHead, date::DateCache},
    limits::{
        HEAD_BYTES_MAX, HEAD_TIMEOUT, RELAY_HIGH_BYTES, RELAY_LOW_BYTES, RETRY_BYTES_MAX,
        STALL_TIMEOUT,
    },
    policy::{
        access::Proof,
        pipeline::{RateLimits, Subject},
        resiliency::{Breakers, Budget},
    },
    route::Question,
    slab::Slab,
    telemetry::{Counters, Telemetry},
    timer::Wheel,
    upstream::{Balancer, Endpoints, Upstream, UpstreamKey},
};
use gate::GateDesk;
use hosts::Hosts;
use owner::{Owner, Owners};
use parked::Parked;
use rustix::io::Errno;
use snapshot::{
    ListenerId, ListenerKind, Snapshot,
    wire::{AdminRequest, Score},
};
use std::{collections::HashMap, os::fd::OwnedFd, rc::Rc, sync::Arc, time::Duration};

/// A request that control answers; the worker sends it on.
#[derive(Debug)]
pub(crate) struct ControlCall {
    pub connection: ConnectionKey,
    pub app: usize,
    pub request: AdminRequest,
}

/// What a timer's entry names.
#[derive(Clone, Copy)]
enum TimerKey {
    Connection(ConnectionKey),
    Upstream(UpstreamKey),
}

pub(crate) struct Relay<E> {
    pub engine: E,
    pub counters: Arc<Counters>,
    /// Filled by exchanges, emptied by the worker each turn.
    pub control_calls: Vec<ControlCall>,
    /// Names that control is to be asked for; likewise.
    pub questions: Vec<Question>,
    /// Names to look up; likewise. [`Self::on_host`] takes the answers.
    pub host_questions: Vec<Box<str>>,
    connections: Slab<Connection>,
    upstreams: Slab<Upstream>,
    owners: Owners,
    endpoints: Endpoints,
    timers: Wheel<TimerKey>,
    /// For deadlines that are near, and policies' that are meant to the millisecond.
    fine_timers: Wheel<TimerKey>,
    view: Rc<View>,
    now: Instant,
    date: DateCache,
    unix_seconds: u64,
    draining: bool,
    /// Connections whose next request is already here; looked at when the current event is done
    /// with.
    ready: Vec<ConnectionKey>,
    /// Heads are parsed into these, so that their 2 KB are never moved.
    request_head: Box<RequestHead>,
    response_head: Box<ResponseHead>,
    /// Lines for the head under construction, and bodies of our own answers.
    lines: Vec<u8>,
    body: Vec<u8>,
    /// Buffers of finished exchanges, for the next ones: an idle connection keeps none.
    spare: Vec<Buffers>,
    due: Vec<TimerKey>,
    /// Exchanges that wait to try their peer again; a new snapshot may save them the wait.
    retrying: Vec<ConnectionKey>,
    /// Whose processes may speak for other apps.
    user: u32,
    parked: Parked,
    has_resolver: bool,
    balancer: Balancer,
    breakers: Arc<Breakers>,
    retry_budget: Budget,
    draw: Draw,
    gates: GateDesk,
    hosts: Hosts,
    rate_limits: Arc<RateLimits>,
    /// The request that a pipeline is asked about.
    subject: Subject,
    pub telemetry: Telemetry,
    /// Calls that began to leave in this turn.
    leaving: Vec<ConnectionKey>,
}

impl<E: Engine> Relay<E> {
    /// What is thought of the endpoints of an app; nothing where there is no choice among them.
    pub(crate) fn scores(&self, worker: u32, id: &str, namespace: &str) -> Vec<Score> {
        let members = self.balancer.members(id, namespace);
        members.map(|(address, health)| health.score(worker, address, self.now)).collect()
    }

    pub(crate) fn new(
        engine: E,
        snapshot: Arc<Snapshot>,
        counters: Arc<Counters>,
        breakers: Arc<Breakers>,
        mut telemetry: Telemetry,
        now: Instant,
    ) -> Self {
        let mut endpoints = Endpoints::default();
        telemetry.adopt(&snapshot, &Difference::between(&Snapshot::empty(), &snapshot));
        Self {
            engine,
            counters,
            control_calls: Vec::new(),
            questions: Vec::new(),
            connections: Slab::default(),
            upstreams: Slab::default(),
            owners: Owners::default(),
            view: Rc::new(View::new(snapshot, &mut endpoints)),
            endpoints,
            timers: Wheel::new(now),
            fine_timers: Wheel::fine(now),
            now,
            date: DateCache::new(),
            unix_seconds: 0,
            draining: false,
            ready: Vec::new(),
            request_head: Box::new(RequestHead::new()),
            response_head: Box::new(ResponseHead::new()),
            lines: Vec::new(),
            body: Vec::new(),
            spare: Vec::new(),
            due: Vec::new(),
            retrying: Vec::new(),
            user: rustix::process::geteuid().as_raw(),
            parked: Parked::default(),
            has_resolver: false,
            balancer: Balancer::new(now.as_nanos()),
            breakers,
            retry_budget: Budget::new(RETRY_BYTES_MAX),
            draw: Draw::new(!now.as_nanos()),
            gates: GateDesk::default(),
            hosts: Hosts::default(),
            rate_limits: Arc::default(),
            subject: Subject::default(),
            host_questions: Vec::new(),
            telemetry,
            leaving: Vec::new(),
        }
    }

    /// Time for everything until the next call; read once a turn.
    pub(crate) fn set_time(&mut self, now: Instant, unix_seconds: u64) {
        self.now = now;
        self.unix_seconds = unix_seconds;
    }

    pub(crate) fn time(&self) -> Instant {
        self.now
    }

    /// From now on new requests see this snapshot. Exchanges under way need none.
    pub(crate) fn adopt(&mut self, adoption: &Adoption) {
        for key in self.endpoints.retire(&adoption.left) {
            self.close_upstream(key);
        }
        let snapshot = Arc::clone(&adoption.snapshot);
        self.telemetry.adopt(&snapshot, &adoption.difference);
        // Nobody else holds the view between two events, so nothing is copied.
        let view = Rc::make_mut(&mut self.view);
        view.adopt(snapshot, &adoption.difference, &mut self.endpoints);
        self.renumber(&adoption.difference.renumbered);
        self.balancer.look_again();
        self.look_at_gates();
        self.reconsider_retries();
        self.reconsider_parked();
    }

    /// Connections stay their app's when the new snapshot numbers its apps otherwise. Those of an
    /// app that is gone end now if they are idle, and otherwise with their next request.
    fn renumber(&mut self, renumbered: &[(usize, Option<usize>)]) {
        if renumbered.is_empty() {
            return;
        }
        let numbers: HashMap<usize, Option<usize>> = renumbered.iter().copied().collect();
        let keys: Vec<ConnectionKey> = self.connections.keys().collect();
        for key in keys {
            let Some(connection) = self.connections.find_mut(key) else { continue };
            let Some(now) = numbers.get(&connection.app) else { continue };
            connection.app = now.unwrap_or(View::GONE);
            match (now, &connection.state) {
                (Some(_), _) => {}
                (None, State::Idle) => self.close_after_flush(key, true),
                // Nobody could say whose metadata it is.
                (None, State::CollectingForControl { .. }) => self.abandon(key),
                (None, _) => {}
            }
        }
    }

    /// Forgets the endpoints that nothing names: not a connection, an exchange or an app.
    fn forget_endpoints(&mut self) {
        let upstreams = self.upstreams.keys().filter_map(|key| self.upstreams.find(key));
        let connections = self.connections.keys().filter_map(|key| self.connections.find(key));
        let exchanges = connections.filter_map(|connection| connection.exchange.endpoint);
        let named = upstreams.map(|upstream| upstream.endpoint).chain(exchanges);
        let named = named.chain(self.view.endpoints()).collect();
        self.endpoints.keep(&named);
        self.balancer.look_again();
    }

    /// Whether there is something for the worker to send on.
    pub(crate) fn asks_others(&self) -> bool {
        !(self.control_calls.is_empty()
            && self.questions.is_empty()
            && self.host_questions.is_empty())
    }

    pub(crate) fn connection_count(&self) -> usize {
        self.connections.len()
    }

    /// A connection that another worker accepted; if its listener is gone by now, so is the
    /// connection.
    pub(crate) fn accept_from(&mut self, socket: OwnedFd, listener: ListenerId) {
        let Some(listener) = self.view.snapshot.find_listener(listener) else { return };
        let (kind, app, is_steered) = (listener.kind, listener.app, listener.caller.is_some());
        match is_steered {
            true => self.accept_steered(socket, kind, app as usize),
            false => self.accept(socket, kind, app as usize),
        }
    }

    /// At a listener where the kernel knows who dials, it also knows whom.
    pub(crate) fn accept_steered(&mut self, socket: OwnedFd, listener: ListenerKind, app: usize) {
        let dialed = match engine::target(&socket) {
            Target::None => None,
            Target::Named(name) => Some(Dialed::For(name)),
            // What it would ask for must not be taken for what our own API is asked for.
            Target::Gone => return self.counters.callers_refused.add(1),
        };
        self.accept_dialed(socket, listener, app, dialed);
    }

    pub(crate) fn accept(&mut self, socket: OwnedFd, listener: ListenerKind, app: usize) {
        let caller = match listener {
            ListenerKind::Inbound => self.find_caller(&socket),
            ListenerKind::Api | ListenerKind::Peer | ListenerKind::Public => None,
        };
        self.accept_dialed(socket, listener, app, caller.map(Dialed::By));
    }

    fn accept_dialed(
        &mut self,
        socket: OwnedFd,
        listener: ListenerKind,
        app: usize,
        dialed: Option<Dialed>,
    ) {
        let proof = match listener {
            ListenerKind::Peer => guards::proof_of(&socket, self.user),
            ListenerKind::Api | ListenerKind::Inbound | ListenerKind::Public => Proof::None,
        };
        let address = self.client_address(&socket, listener, app);
        let socket = self.engine.adopt(socket);
        let mut connection = Connection::new(socket, listener, app);
        connection.proof = proof;
        if dialed.is_some() || address.is_some() {
            connection.remote = Some(Box::new(Remote { dialed, address }));
        }
        connection.deadline = Some(self.now + HEAD_TIMEOUT);
        let key = self.connections.insert(connection);
        self.owners.set(socket, Owner::Downstream(key));
        self.engine.relax_sent(socket, true);
        self.engine.receive_start(socket);
        self.counters.connections_accepted.add(1);
        self.schedule_connection(key);
    }

    /// The app whose process dialled, by the kernel's word: the one whose API is for its group.
    fn find_caller(&self, socket: &OwnedFd) -> Option<u32> {
        let caller = engine::caller(socket);
        let mut listeners = self.view.snapshot.listeners.iter();
        let own = listeners.find(|listener| caller.is_some() && listener.caller == caller)?;
        Some(own.app)
    }

    /// Handles one event of a socket; those of listeners and of the waker are the worker's.
    pub(crate) fn on_event(&mut self, event: Event) {
        match event {
            Event::Connected { socket } => self.on_connected(socket),
            Event::Failed { socket, operation, error } => self.on_failed(socket, operation, error),
            Event::ReceiveClosed { socket } => self.on_receive_closed(socket),
            Event::Received { socket, chunk } => match self.owners.find(socket) {
                Some(Owner::Downstream(key)) => self.on_downstream_bytes(key, chunk),
                Some(Owner::Upstream(key)) => self.on_upstream_bytes(key, chunk),
                None => {}
            },
            Event::Sent { socket, .. } => self.on_sent(socket),
            Event::AcceptFailed { .. }
            | Event::Accepted { .. }
            | Event::Unlistened { .. }
            | Event::Woken => {
                debug_assert!(false, "the worker keeps these to itself");
            }
        }
        self.settle();
    }

    /// Takes up requests that were already here when the one before them ended, and tokens that
    /// came free.
    fn settle(&mut self) {
        loop {
            if let Some(key) = self.ready.pop() {
                self.read_head(key);
            } else if !self.read_own_gate_message() {
                return;
            }
        }
    }

    fn on_connected(&mut self, socket: SocketKey) {
        if let Some(Owner::Upstream(key)) = self.owners.find(socket) {
            self.on_upstream_connected(key);
        }
    }

    fn on_failed(&mut self, socket: SocketKey, operation: Operation, error: Errno) {
        match self.owners.find(socket) {
            // Whatever failed, the client is gone.
            Some(Owner::Downstream(key)) => self.abandon(key),
            Some(Owner::Upstream(key)) => self.on_upstream_failed(key, operation, error),
            None => {}
        }
    }

    fn on_receive_closed(&mut self, socket: SocketKey) {
        match self.owners.find(socket) {
            Some(Owner::Downstream(key)) => self.on_downstream_closed(key),
            Some(Owner::Upstream(key)) => self.on_upstream_closed(key),
            None => {}
        }
    }

    /// Room in a send queue: its source is read again, and who waited for an empty queue goes on.
    fn on_sent(&mut self, socket: SocketKey) {
        let queued = self.engine.send_queued_bytes(socket);
        match self.owners.find(socket) {
            Some(Owner::Downstream(key)) => {
                let connection = self.connections.find(key);
                if queued == 0 && connection.is_some_and(Connection::is_at_rest) {
                    // Nobody waited for it.
                    return;
                }
                if queued <= RELAY_LOW_BYTES {
                    self.resume_upstream(key);
                    self.take_up_requests(key);
                }
                if queued == 0 {
                    self.on_downstream_flushed(key);
                }
                self.note_progress(key);
            }
            Some(Owner::Upstream(key)) => {
                let Some(upstream) = self.upstreams.find_mut(key) else { return };
                upstream.asked = true;
                let Some(borrower) = upstream.borrower() else { return };
                let Some(connection) = self.connections.find(borrower) else { return };
                let (is_paused, is_tunnel) = (connection.paused, connection.state == State::Tunnel);
                if is_paused && queued <= RELAY_LOW_BYTES {
                    self.resume_downstream(borrower);
                }
                if is_tunnel && queued == 0 {
                    self.on_tunnel_flushed(borrower);
                }
                self.note_progress(borrower);
            }
            None => {}
        }
    }

    // Back-pressure: a source is not read while RELAY_HIGH_BYTES of it wait on the other side.

    fn pause_downstream_if_full(&mut self, key: ConnectionKey, queued: usize) {
        let Some(connection) = self.connections.find_mut(key) else { return };
        if queued >= RELAY_HIGH_BYTES && !connection.paused {
            connection.paused = true;
            self.engine.receive_stop(connection.socket);
            if let Some(upstream) =
                connection.exchange.upstream.and_then(|key| self.upstreams.find(key))
            {
                self.engine.relax_sent(upstream.socket, false);
            }
        }
    }

    /// Unless there is more here already than the next head may be long.
    fn resume_downstream(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.find_mut(key) else { return };
        if connection.paused && connection.input.len() < HEAD_BYTES_MAX {
            connection.paused = false;
            self.engine.receive_start(connection.socket);
            if let Some(upstream) =
                connection.exchange.upstream.and_then(|key| self.upstreams.find(key))
            {
                // A tunnel whose client has said all ends with these bytes, and must hear of it.
                self.engine.relax_sent(upstream.socket, !connection.read_closed);
            }
        }
    }

    /// The client takes answers again: what it asked meanwhile is looked at.
    fn take_up_requests(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.find(key) else { return };
        if connection.paused && matches!(connection.state, State::Idle | State::ReadingHead) {
            self.resume_downstream(key);
            self.ready.push(key);
        }
    }

    fn pause_upstream_if_full(&mut self, key: UpstreamKey, downstream: SocketKey) {
        let queued = self.engine.send_queued_bytes(downstream);
        let Some(upstream) = self.upstreams.find_mut(key) else { return };
        if queued >= RELAY_HIGH_BYTES && !upstream.paused {
            upstream.paused = true;
            self.engine.receive_stop(upstream.socket);
            self.engine.relax_sent(downstream, false);
        }
    }

    fn resume_upstream(&mut self, borrower: ConnectionKey) {
        let Some(connection) = self.connections.find(borrower) else { return };
        let Some(key) = connection.exchange.upstream else { return };
        let Some(upstream) = self.upstreams.find_mut(key) else { return };
        if upstream.paused {
            upstream.paused = false;
            self.engine.receive_start(upstream.socket);
            self.engine.relax_sent(connection.socket, true);
        }
    }

    // Deadlines.

    /// Something moved in this exchange: the stall clock starts anew, or stops when nobody owes us
    /// a byte.
    fn note_progress(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.find_mut(key) else { return };
        let has_queued = || {
            let upstream = connection.exchange.upstream.and_then(|key| self.upstreams.find(key));
            self.engine.send_queued_bytes(connection.socket) > 0
                || upstream.is_some_and(|u| self.engine.send_queued_bytes(u.socket) > 0)
        };
        let stalls = match connection.state {
            // A client that sent FIN, or is not read, may be gone altogether; nothing else would
            // tell us.
            State::Exchanging => {
                let is_deaf = connection.read_closed || connection.paused;
                is_deaf || !connection.exchange.request.is_complete() || has_queued()
            }
            State::Tunnel => has_queued(),
            State::Flushing { .. } => true,
            _ => return,
        };
        let stalled = stalls.then(|| self.now + STALL_TIMEOUT);
        connection.deadline = sooner(stalled, connection.exchange.policy_deadline());
        self.schedule_connection(key);
    }

    fn set_deadline(&mut self, key: ConnectionKey, after: Option<Duration>) {
        let now = self.now;
        let Some(connection) = self.connections.find_mut(key) else { return };
        let after = after.map(|after| now + after);
        connection.deadline = sooner(after, connection.exchange.policy_deadline());
        self.schedule_connection(key);
    }

    fn schedule_connection(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.find_mut(key) else { return };
        if let Some(entered) = connection.timer_at
            && connection.exchange.attempts.is_none()
            && connection.deadline.is_none_or(|deadline| entered <= deadline)
        {
            // The usual: the deadline moved on, and its entry will come up before it.
            return;
        }
        self.enter_deadline(key);
    }

    fn enter_deadline(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.find_mut(key) else { return };
        let Some(deadline) = connection.deadline else { return };
        let is_policys = connection.exchange.policy_deadline().is_some();
        if !is_policys && connection.timer_at.is_some_and(|entered| entered <= deadline) {
            // The usual: the deadline moved on, and its entry will come up before it.
            return;
        }
        let near = self.fine_timers.horizon();
        let (wheel, at, slack) = match deadline.since(self.now) < near {
            true => (&mut self.fine_timers, deadline, FINE_ENTRY_SLACK),
            // Comes up early, and is entered once more, to the millisecond.
            false if is_policys => (&mut self.timers, deadline.before(near), EARLIER_ENTRY_SLACK),
            false => (&mut self.timers, deadline, EARLIER_ENTRY_SLACK),
        };
        if connection.timer_at.is_none_or(|entered| entered > at + slack) {
            connection.timer_at = Some(wheel.enter(TimerKey::Connection(key), at));
        }
    }

    fn set_upstream_deadline(&mut self, key: UpstreamKey, after: Option<Duration>) {
        let Some(upstream) = self.upstreams.find_mut(key) else { return };
        upstream.deadline = after.map(|after| self.now + after);
        let Some(deadline) = upstream.deadline else { return };
        if upstream.timer_at.is_none_or(|at| at > deadline + EARLIER_ENTRY_SLACK) {
            upstream.timer_at = Some(self.timers.enter(TimerKey::Upstream(key), deadline));
        }
    }

    pub(crate) fn next_timer_in(&self) -> Option<Duration> {
        let waits = [self.timers.next_in(self.now), self.fine_timers.next_in(self.now)];
        waits.into_iter().flatten().min()
    }

    pub(crate) fn expire_timers(&mut self) {
        let mut due = std::mem::take(&mut self.due);
        self.timers.expire(self.now, &mut due);
        self.fine_timers.expire(self.now, &mut due);
        for key in due.drain(..) {
            match key {
                TimerKey::Connection(key) => self.on_connection_timer(key),
                TimerKey::Upstream(key) => self.on_upstream_timer(key),
            }
        }
        self.due = due;
        self.settle();
    }

    fn on_connection_timer(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.find_mut(key) else { return };
        // An earlier entry replaced this one; it comes up on its own.
        if connection.timer_at.is_some_and(|at| at > self.now) {
            return;
        }
        connection.timer_at = None;
        match connection.deadline {
            None => {}
            Some(deadline) if deadline > self.now => self.schedule_connection(key),
            Some(_) => {
                connection.deadline = None;
                self.on_connection_timeout(key);
            }
        }
    }

    fn on_upstream_timer(&mut self, key: UpstreamKey) {
        let Some(upstream) = self.upstreams.find_mut(key) else { return };
        if upstream.timer_at.is_some_and(|at| at > self.now) {
            return;
        }
        upstream.timer_at = None;
        match upstream.deadline {
            None => {}
            Some(deadline) if deadline > self.now => {
                upstream.timer_at = Some(self.timers.enter(TimerKey::Upstream(key), deadline));
            }
            Some(_) => {
                upstream.deadline = None;
                self.on_upstream_timeout(key);
            }
        }
    }
}

/// The earlier one, where there are two.
#[inline]
fn sooner(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// A fine entry is rounded up by up to two ticks.
const FINE_ENTRY_SLACK: Duration = Duration::from_millis(2);

/// An entry that comes up at most this much after the deadline is not replaced by an earlier one;
/// timer entries are rounded up by up to two ticks.
const EARLIER_ENTRY_SLACK: Duration = Duration::from_millis(100);
