//! A worker: one thread, one engine, its own connections. It turns: mailbox, engine, events,
//! timers, and again.
//!
//! Workers share nothing they could wait for. What one tells another, or the link, goes through a
//! bounded mailbox.

#![forbid(unsafe_code)]

use crate::{
    adoption::Adoption,
    clock,
    dapr::external::LookupError,
    engine::{Engine, EngineError, Event},
    limits::{ACCEPT_PAUSE, GATE_MAIL_PAUSE},
    listener::{Admission, Listeners},
    mailbox::{FromWorker, Mailbox, ToWorker, WorkerId},
    policy::{pipeline::RateLimits, resiliency::Breakers},
    relay::Relay,
    resolver::Resolver,
    slab::Key,
    telemetry::{Counters, Journal, Telemetry},
};
use snapshot::{
    Snapshot,
    wire::{AdminCallId, LogLevel},
};
use std::{
    collections::VecDeque,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Duration,
};

/// What a worker has from the process: who it is, and whom it can talk to.
pub(crate) struct Surroundings {
    pub id: WorkerId,
    /// All workers' mailboxes, this one's included, by worker id.
    pub mailboxes: Arc<[Mailbox<ToWorker>]>,
    pub link: Arc<Mailbox<FromWorker>>,
    /// Circuit breakers, which count what all workers see.
    pub breakers: Arc<Breakers>,
    /// Rate limits, likewise.
    pub rate_limits: Arc<RateLimits>,
    pub resolver: Arc<Resolver>,
    /// What this worker records for the link.
    pub journal: Arc<Journal>,
}

pub(crate) struct Worker<E> {
    surroundings: Surroundings,
    relay: Relay<E>,
    listeners: Listeners,
    accepting: Accepting,
    admission: Admission,
    stage: Stage,
    events: Vec<Event>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Accepting {
    Open,
    /// Until the engine has let go of the last listener.
    Closing,
    Closed,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    Running,
    /// Told to drain. Has one more turn, in which the connections that came last are read for the
    /// first time: a request that is here by then is answered.
    Leaving,
    /// Ends each connection as soon as it may.
    Draining,
    /// Drained and said so. Waits to be told to exit.
    Drained,
    Exiting,
}

impl<E: Engine> Worker<E> {
    pub(crate) fn new(engine: E, counters: Arc<Counters>, surroundings: Surroundings) -> Self {
        let snapshot = Arc::new(Snapshot::empty());
        let admission = Admission::new(surroundings.id, Arc::clone(&surroundings.mailboxes));
        let breakers = Arc::clone(&surroundings.breakers);
        let journal = Arc::clone(&surroundings.journal);
        // The only source of chance here that is unlike in every process.
        let seed = RandomState::new().hash_one(surroundings.id.0);
        let telemetry = Telemetry::new(Arc::clone(&counters), journal, seed);
        let mut relay = Relay::new(engine, snapshot, counters, breakers, telemetry, clock::now());
        relay.set_rate_limits(Arc::clone(&surroundings.rate_limits));
        relay.set_worker(surroundings.id.0);
        Self {
            relay,
            listeners: Listeners::default(),
            accepting: Accepting::Open,
            admission,
            stage: Stage::Running,
            events: Vec::new(),
            surroundings,
        }
    }

    /// Runs until told to exit.
    ///
    /// # Errors
    /// When the engine itself is broken.
    pub(crate) fn run(mut self) -> Result<(), EngineError> {
        while self.stage != Stage::Exiting {
            self.turn()?;
        }
        Ok(())
    }

    pub(crate) fn engine(&mut self) -> &mut E {
        &mut self.relay.engine
    }

    pub(crate) fn turn(&mut self) -> Result<(), EngineError> {
        let mut events = std::mem::take(&mut self.events);
        let timeout = self.timeout();
        let is_leaving = self.stage == Stage::Leaving;
        self.relay.engine.turn(timeout, &mut events)?;
        self.relay.set_time(clock::now(), clock::unix_seconds());
        // Before the events: a request must see any snapshot that was announced before the request
        // was sent.
        self.read_mailbox();
        for event in events.drain(..) {
            match event {
                Event::Accepted { listener, socket } => {
                    self.admission.admit(&self.listeners, listener, socket, &mut self.relay);
                }
                Event::AcceptFailed { listener, error } => {
                    self.relay.counters.accept_failures.add(1);
                    self.listeners.pause(listener, self.relay.time() + ACCEPT_PAUSE);
                    self.log(
                        LogLevel::Warning,
                        format!("accept failed: {error}; pausing for a moment"),
                    );
                }
                Event::Unlistened { listener } => self.listeners.on_unlistened(listener),
                Event::Woken => {}
                event => self.relay.on_event(event),
            }
        }
        self.events = events;
        if is_leaving {
            self.drain();
        }
        self.relay.expire_timers();
        self.listeners.resume_due(self.relay.time(), &mut self.relay.engine);
        self.relay.end_turn(clock::now);
        self.report();
        Ok(())
    }

    fn timeout(&self) -> Option<Duration> {
        if !self.mailbox().is_empty() || self.stage == Stage::Leaving {
            return Some(Duration::ZERO);
        }
        let accept = self.listeners.next_resume_in(self.relay.time());
        let gates = self.relay.has_gate_messages().then_some(GATE_MAIL_PAUSE);
        [self.relay.next_timer_in(), accept, gates].into_iter().flatten().min()
    }

    fn mailbox(&self) -> &Mailbox<ToWorker> {
        &self.surroundings.mailboxes[self.surroundings.id.index()]
    }

    fn read_mailbox(&mut self) {
        while let Some(message) = self.mailbox().take() {
            match message {
                ToWorker::Adopt(adoption) => self.adopt(adoption),
                // A drain has begun: nothing new is served.
                ToWorker::Listen { .. } if self.accepting != Accepting::Open => {}
                ToWorker::Listen { listener, socket } => {
                    let key = self.relay.engine.listen(socket);
                    self.listeners.insert(key, &listener);
                }
                ToWorker::Unlisten(id) => {
                    if let Some(key) = self.listeners.close(id) {
                        self.relay.engine.unlisten(key);
                    }
                }
                ToWorker::Connection { socket, listener } => {
                    self.relay.accept_from(socket, listener);
                }
                ToWorker::ControlReply { connection, status, content_type, body } => {
                    let connection = Key::from_bits(connection);
                    self.relay.on_control_reply(connection, status, &content_type, &body);
                }
                ToWorker::Scores { query, name } => {
                    let (id, namespace) = &*name;
                    let worker = self.surroundings.id.0;
                    let scores = self.relay.scores(worker, id.as_str(), namespace.as_str());
                    self.surroundings.link.put(FromWorker::Scores { query, scores });
                }
                ToWorker::Credits(credits) => self.relay.engine.accelerate(credits),
                ToWorker::Resolver { exists } => self.relay.set_resolver(exists),
                ToWorker::Resolved(name) => self.relay.on_resolved(&name),
                ToWorker::Host { name, found } => self.relay.on_host(&name, &found),
                ToWorker::Gate(message) => self.relay.on_gate_message(message),
                ToWorker::CloseListeners => self.close_listeners(),
                ToWorker::Drain if self.stage == Stage::Running => self.stage = Stage::Leaving,
                ToWorker::Drain => {}
                ToWorker::Exit => self.stage = Stage::Exiting,
            }
        }
    }

    fn adopt(&mut self, adoption: Arc<Adoption>) {
        let epoch = adoption.epoch;
        self.listeners.reassign(&adoption.snapshot, &adoption.difference);
        self.relay.adopt(&adoption);
        // Before the link hears of it, so that the last reference is the link's.
        drop(adoption);
        let worker = self.surroundings.id;
        self.surroundings.link.put(FromWorker::Adopted { worker, epoch });
    }

    fn close_listeners(&mut self) {
        if self.accepting != Accepting::Open {
            return;
        }
        self.accepting = Accepting::Closing;
        for key in self.listeners.close_all() {
            self.relay.engine.unlisten(key);
        }
    }

    fn drain(&mut self) {
        // It may have been told to exit meanwhile.
        if self.stage == Stage::Leaving {
            self.stage = Stage::Draining;
            self.relay.drain();
        }
    }

    /// What this turn leaves for others.
    fn report(&mut self) {
        let worker = self.surroundings.id;
        if self.relay.asks_others() {
            self.ask_others();
        }
        self.send_gate_messages();
        let count = self.relay.connection_count();
        self.mailbox().set_load(count);
        self.relay.counters.connections_open.set(count as u64);
        self.relay.counters.turns.add(1);
        self.report_telemetry();
        let leased = self.relay.engine.buffers().leased_buffers();
        self.relay.counters.buffers_leased.set(leased as u64);
        if self.accepting == Accepting::Closing && self.listeners.is_empty() {
            self.accepting = Accepting::Closed;
            self.surroundings.link.put(FromWorker::AcceptsNoMore);
        }
        if self.stage == Stage::Draining && count == 0 && self.mailbox().is_empty() {
            self.stage = Stage::Drained;
            self.surroundings.link.put(FromWorker::Drained { worker });
        }
    }

    /// What exchanges want to know of control, or of the name service.
    fn ask_others(&mut self) {
        let worker = self.surroundings.id;
        for call in std::mem::take(&mut self.relay.control_calls) {
            let key = call.connection;
            let id = AdminCallId { worker: worker.0, connection: key.to_bits() };
            let app = u32::try_from(call.app).expect("the listener's app number was a u32");
            let call = FromWorker::ControlCall { id, app, request: call.request };
            // A control that has stopped reading must not stop this worker.
            if self.surroundings.link.try_put(call).is_err() {
                self.relay.on_control_away(key);
            }
        }
        for question in std::mem::take(&mut self.relay.questions) {
            let message = FromWorker::Resolve { worker, question };
            if let Err(FromWorker::Resolve { question, .. }) =
                self.surroundings.link.try_put(message)
            {
                self.relay.on_resolved(&question.name);
            }
        }
        self.ask_for_hosts();
    }

    fn ask_for_hosts(&mut self) {
        for name in std::mem::take(&mut self.relay.host_questions) {
            if let Err(name) = self.surroundings.resolver.ask(self.surroundings.id, name) {
                self.relay.on_host(&name, &Err(LookupError::Busy));
            }
        }
    }

    /// What finds a mailbox full waits for the next turn, and so does all that comes after it.
    fn send_gate_messages(&mut self) {
        if !self.relay.has_gate_messages() {
            return;
        }
        let mut kept = VecDeque::new();
        while let Some((to, message)) = self.relay.take_gate_message() {
            if kept.iter().any(|(full, _)| *full == to) {
                kept.push_back((to, message));
                continue;
            }
            let mailbox = &self.surroundings.mailboxes[to as usize];
            if let Err(ToWorker::Gate(message)) = mailbox.try_put(ToWorker::Gate(message)) {
                kept.push_back((to, message));
            }
        }
        self.relay.return_gate_messages(kept);
    }

    fn report_telemetry(&mut self) {
        let link = &self.surroundings.link;
        let telemetry = &mut self.relay.telemetry;
        telemetry.tell_series(|series| {
            link.try_put(FromWorker::Series(series)).map_err(|back| match back {
                FromWorker::Series(series) => series,
                _ => unreachable!("it is given back as it was put in"),
            })
        });
        if telemetry.take_news() {
            link.ring();
        }
        if telemetry.take_overflow() {
            let message = "metrics: paths or ids have more values than there is room for; what is \
                new is counted under {other}; spec.metrics.http.pathMatching keeps paths few";
            self.log(LogLevel::Warning, message.to_owned());
        }
    }

    fn log(&self, level: LogLevel, message: String) {
        // Better a lost line than a worker that waits.
        let _ = self.surroundings.link.try_put(FromWorker::Log { level, message });
    }
}
