//! The link to control: states and deltas come in, acknowledgements and questions go out.
//!
//! Runs on the process' first thread and only ever waits in `poll`. Workers know nothing of it but
//! a mailbox. When control goes away without a word the workers serve on, or end, as the last state
//! said.
//!
//! ```text
//!   Following ──gap, unreadable frame──► AwaitingState ──full state──► Following
//! ```
//! While a full state is awaited, deltas are passed over, and the last snapshot stays in force.

#![forbid(unsafe_code)]

mod addresses;
mod alone;
mod handover;
mod progress;
mod records;
mod resolving;
mod scores;
mod socket;
mod stats;

pub(crate) use addresses::Addresses;
pub(crate) use stats::Workers;

use crate::{
    adoption::{Adoption, Difference},
    clock,
    engine::{Credits, Waker},
    gate::Gates,
    limits::ASKED_MAX,
    mailbox::{FromWorker, Mailbox, ToWorker, WorkerId},
    route::{self, Name},
    telemetry::Series,
};
use alone::{Alone, Due};
use progress::Progress;
use resolving::{Resolving, Verdict};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    net::{SocketFlags, accept_with},
};
use scores::Scores;
use snapshot::{
    ApplyError, BuildError, Delta, ListenerId, Route, Snapshot, State, Version,
    wire::{
        AdminCallId, AdminRequest, FromDataPlane, Held, HoldId, LogLevel, ROUTES_MAX,
        ROUTES_PER_FRAME, SOCKETS_MAX, ToDataPlane, WireError,
    },
};
use socket::{Frame, LinkError, LinkSocket, Peer};
use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

/// What the link says of this process in its first message.
pub(crate) struct Introduction {
    pub engine: String,
    pub engine_reason: String,
}

pub(crate) struct Link {
    listener: OwnedFd,
    socket: Option<LinkSocket>,
    introduction: Introduction,
    /// Rings when a worker put something into `inbox`.
    bell: Waker,
    inbox: Arc<Mailbox<FromWorker>>,
    workers: Arc<[Mailbox<ToWorker>]>,
    counted: Workers,
    /// Of all workers, as they told them.
    series: Vec<Arc<Series>>,
    progress: Progress,
    gates: Gates,
    addresses: Addresses,
    stage: Stage,
    parts: Parts,
    drained: Vec<bool>,
    /// A copy of each listening socket, for the next control.
    listening: BTreeMap<ListenerId, OwnedFd>,
    /// Kept open for control; nobody here uses them.
    holds: BTreeMap<HoldId, OwnedFd>,
    alone: Alone,
    /// Control told to drain.
    is_draining: bool,
    /// Another data plane has taken over: this one ends when it is drained.
    is_leaving: bool,
    /// What waits for control's answer, in order.
    asked: VecDeque<Question>,
    scores: Scores,
    resolving: Resolving,
    /// The control that is connected has sent something to serve: it is ready to be asked.
    is_fed: bool,
    /// Why the process ends, once it does.
    end: Option<End>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    /// Something was missed.
    AwaitingState,
    Following,
}

/// What came of a state ahead of the state itself.
#[derive(Default)]
struct Parts {
    frames: u32,
    routes: Vec<Route>,
    sockets: Vec<(ListenerId, OwnedFd)>,
}

/// A listening socket that has come: one for the worker that accepts, and a copy to keep.
struct NewSocket {
    id: ListenerId,
    socket: OwnedFd,
    copy: OwnedFd,
}

impl NewSocket {
    fn new(id: ListenerId, socket: OwnedFd) -> Result<Self, String> {
        match socket.try_clone() {
            Ok(copy) => Ok(Self { id, socket, copy }),
            Err(error) => {
                Err(format!("listener {} cannot be kept for the next control: {error}", id.0))
            }
        }
    }
}

/// A request that control answers.
#[derive(Clone)]
struct Question {
    call: AdminCallId,
    app: u32,
    request: AdminRequest,
}

/// Why [`Link::run`] returned.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum End {
    /// Control said so, or left without a word and had wished it so.
    Told,
    WorkerFailed(String),
}

impl Link {
    pub(crate) fn new(
        listener: OwnedFd,
        introduction: Introduction,
        bell: Waker,
        inbox: Arc<Mailbox<FromWorker>>,
        workers: Arc<[Mailbox<ToWorker>]>,
        counted: Workers,
    ) -> Self {
        let count = workers.len();
        Self {
            listener,
            socket: None,
            introduction,
            bell,
            inbox,
            workers,
            counted,
            series: Vec::new(),
            progress: Progress::new(count),
            gates: Gates::new(count),
            addresses: Addresses::default(),
            stage: Stage::Following,
            parts: Parts::default(),
            drained: vec![false; count],
            listening: BTreeMap::new(),
            holds: BTreeMap::new(),
            alone: Alone::default(),
            is_draining: false,
            is_leaving: false,
            asked: VecDeque::new(),
            scores: Scores::default(),
            resolving: Resolving::default(),
            is_fed: false,
            end: None,
        }
    }

    /// # Errors
    /// When waiting itself fails; then nothing can be relied upon.
    pub(crate) fn run(mut self) -> Result<End, Errno> {
        loop {
            if let Some(end) = self.end.take() {
                return Ok(end);
            }
            let (listener_ready, socket_ready) = self.wait()?;
            let due = self.alone.on_time(clock::now());
            self.act(due);
            self.read_inbox();
            if socket_ready {
                self.read_socket();
            }
            if listener_ready {
                self.accept();
            }
            self.send_records();
            // After all that somebody waits for: freeing the table of a replaced state takes its
            // time.
            self.drop_outlived();
        }
    }

    fn wait(&self) -> Result<(bool, bool), Errno> {
        let fd = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        let mut fds = vec![fd(self.listener.as_fd()), fd(self.bell.as_fd())];
        fds.extend(self.socket.as_ref().map(|socket| fd(socket.as_fd())));
        // A time beyond what the kernel counts is as good as none.
        let timeout = self.alone.next_in(clock::now()).and_then(|time| time.try_into().ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        self.bell.drain();
        Ok((ready[0], ready.get(2).copied().unwrap_or(false)))
    }

    fn drop_outlived(&mut self) {
        let outlived = self.progress.take_outlived();
        if self.progress.is_change_of_apps(&outlived) {
            self.drop_dead_series();
        }
    }

    /// What no worker holds any more belonged to an app that is gone. Not only when somebody reads
    /// the numbers: where nobody does, each app that goes would leave its series.
    fn drop_dead_series(&mut self) {
        self.series.retain(|series| Arc::strong_count(series) > 1);
    }

    fn accept(&mut self) {
        let Ok(socket) = accept_with(&self.listener, SocketFlags::CLOEXEC) else { return };
        self.hear_out();
        let mut socket = LinkSocket::new(socket);
        if let Err(problem) = self.admit(&socket) {
            let problems = vec![problem.clone()];
            // Whether it still listens is its own affair.
            let _ = socket.send(&FromDataPlane::Refused { version: Version::default(), problems });
            let message = format!("a control process was turned away: {problem}");
            return self.send(&FromDataPlane::Log { level: LogLevel::Warning, message });
        }
        self.socket = Some(socket);
        self.is_fed = false;
        self.alone.on_control();
        self.stage = Stage::Following;
        self.parts = Parts::default();
        let hello = self.introduce();
        self.send(&hello);
    }

    /// A control that has gone away may have left more words than one read takes; it is not in the
    /// way of the next one. What is left is what the kernel held for it, so this ends.
    fn hear_out(&mut self) {
        while self.socket.as_ref().is_some_and(LinkSocket::is_hung_up) {
            self.read_socket();
        }
    }

    /// Whether this may be our control.
    fn admit(&self, socket: &LinkSocket) -> Result<(), String> {
        let peer = socket.peer().map_err(|e| format!("its credentials cannot be read: {e}"))?;
        let own = rustix::process::geteuid().as_raw();
        if !is_trusted(peer, own) {
            return Err(format!(
                "process {} runs as user {}; this data plane is controlled by user {own} or root",
                peer.pid, peer.uid
            ));
        }
        if self.is_draining || self.alone.is_draining() {
            return Err(format!("data plane {} is ending", std::process::id()));
        }
        let Some(first) = &self.socket else { return Ok(()) };
        let first = first.peer().map_or(0, |peer| peer.pid);
        Err(format!(
            "another control process ({first}) is connected to this data plane; a second one ({}) is \
             not served before the first one ends",
            peer.pid
        ))
    }

    fn introduce(&self) -> FromDataPlane {
        let snapshot = self.progress.current();
        FromDataPlane::Hello {
            pid: std::process::id(),
            workers: u32::try_from(self.workers.len()).expect("workers are few"),
            engine: self.introduction.engine.clone(),
            engine_reason: self.introduction.engine_reason.clone(),
            held: Held {
                version: snapshot.version,
                apps: snapshot.apps.iter().cloned().collect(),
                listeners: snapshot.listeners.to_vec(),
            },
        }
    }

    fn send(&mut self, message: &FromDataPlane) {
        let Some(socket) = &mut self.socket else { return };
        if socket.send(message).is_err() {
            self.lose_control();
        }
    }

    fn lose_control(&mut self) {
        self.socket = None;
        self.parts = Parts::default();
        self.scores = Scores::default();
        let wish = self.progress.current().on_control_lost;
        let due = self.alone.on_control_lost(wish, self.is_draining, clock::now());
        self.act(due);
        self.end_if_drained();
    }

    fn act(&mut self, due: Due) {
        match due {
            Due::Nothing => {}
            Due::Drain => self.drain(),
            Due::Exit => self.exit(End::Told),
        }
    }

    /// First the listeners, then the connections: whoever is sent away finds the door closed, and
    /// no worker is told that it is over before the last connection is in its mailbox.
    fn drain(&mut self) {
        // Our copies would keep the listeners open for connections that nobody accepts, and the
        // apps known.
        self.listening.clear();
        self.holds.clear();
        self.workers[0].put(ToWorker::CloseListeners);
    }

    /// Without control nobody else ends what has nothing left to do.
    fn end_if_drained(&mut self) {
        let is_drained = self.drained.iter().all(|drained| *drained);
        if is_drained && (self.alone.is_draining() || self.is_leaving) {
            self.exit(End::Told);
        }
    }

    fn read_socket(&mut self) {
        let Some(socket) = &mut self.socket else { return };
        match socket.receive() {
            Ok(()) => {}
            Err(LinkError::Closed) => return self.lose_control(),
            Err(LinkError::Broken(problem)) => return self.break_off(problem),
        }
        while let Some(socket) = &mut self.socket {
            match socket.next_frame() {
                Ok(Some(Frame::Message { message, sockets })) => self.on_message(message, sockets),
                Ok(Some(Frame::Handover(request))) => self.on_handover(request),
                Ok(Some(Frame::Unreadable(error))) => self.on_unreadable(&error),
                Ok(None) => return,
                Err(error) => return self.break_off(error.to_string()),
            }
        }
    }

    /// Whatever that frame was to say is missing from now on. It may have been the very state that
    /// is awaited.
    fn on_unreadable(&mut self, error: &WireError) {
        self.stage = Stage::Following;
        self.resync(error.to_string());
    }

    /// Asks for a full state, once.
    fn resync(&mut self, reason: String) {
        self.parts = Parts::default();
        if self.stage == Stage::AwaitingState {
            return;
        }
        self.stage = Stage::AwaitingState;
        let have = self.progress.current().version;
        self.send(&FromDataPlane::Resync { have, reason });
    }

    /// What comes after this cannot be told apart. Control connects again and sends its full state.
    fn break_off(&mut self, problem: String) {
        let problems = vec![problem];
        self.send(&FromDataPlane::Refused { version: Version::default(), problems });
        if self.socket.is_some() {
            self.lose_control();
        }
    }

    fn refuse(&mut self, version: Version, problems: Vec<String>) {
        self.send(&FromDataPlane::Refused { version, problems });
    }

    fn on_message(&mut self, message: ToDataPlane, sockets: Vec<OwnedFd>) {
        match message {
            ToDataPlane::State { state, sockets: ids, parts } => {
                self.on_state(state, &ids, sockets, parts);
            }
            ToDataPlane::Delta { delta, sockets: ids } => self.on_delta(delta, &ids, sockets),
            ToDataPlane::Routes(routes) => self.on_routes(routes),
            ToDataPlane::Sockets(ids) => self.on_sockets(&ids, sockets),
            ToDataPlane::ListenersWanted => {
                self.share_routes();
                self.share_listeners();
            }
            ToDataPlane::Hold { ids } => self.hold(&ids, sockets),
            ToDataPlane::Release { ids } => ids.iter().for_each(|id| drop(self.holds.remove(id))),
            ToDataPlane::AdminReply { call, status, content_type, body } => {
                self.asked.retain(|question| question.call != call);
                let Some(worker) = self.workers.get(call.worker as usize) else { return };
                let connection = call.connection;
                worker.put(ToWorker::ControlReply { connection, status, content_type, body });
            }
            ToDataPlane::Stats { query } => {
                self.drop_dead_series();
                let (counters, histograms) = stats::sum(&self.counted, &self.series, clock::now());
                self.send(&FromDataPlane::Stats { query, counters, histograms });
            }
            ToDataPlane::Scores { query, id, namespace } => {
                if self.scores.begin(query, self.workers.len()) {
                    let name = Arc::new((id, namespace));
                    self.tell_all(|| ToWorker::Scores { query, name: Arc::clone(&name) });
                } else {
                    self.send(&FromDataPlane::Scores { query, scores: Vec::new() });
                }
            }
            ToDataPlane::Drain => {
                self.is_draining = true;
                self.drain();
            }
            ToDataPlane::Exit => self.exit(End::Told),
            ToDataPlane::Credits => self.take_credits(sockets),
            ToDataPlane::Resolver { exists } => self.tell_all(|| ToWorker::Resolver { exists }),
            // The delta with the route may be one of those that were passed over.
            ToDataPlane::Resolved { query } if self.stage == Stage::AwaitingState => {
                self.resolving.defer(query);
            }
            ToDataPlane::Resolved { query } => self.on_resolved(query),
        }
    }

    fn tell_all(&self, message: impl Fn() -> ToWorker) {
        for worker in self.workers.iter() {
            worker.put(message());
        }
    }

    fn exit(&mut self, end: End) {
        self.tell_all(|| ToWorker::Exit);
        self.end = Some(end);
    }

    fn on_routes(&mut self, routes: Vec<Route>) {
        self.parts.frames += 1;
        self.parts.routes.extend(routes);
        if self.parts.routes.len() > ROUTES_MAX {
            self.break_off(format!("a state of more than {ROUTES_MAX} routes"));
        }
    }

    fn on_sockets(&mut self, ids: &[ListenerId], sockets: Vec<OwnedFd>) {
        self.parts.frames += 1;
        if ids.len() != sockets.len() {
            return self.resync(missing_sockets(ids.len(), sockets.len()));
        }
        self.parts.sockets.extend(ids.iter().copied().zip(sockets));
    }

    fn on_state(
        &mut self,
        mut state: State,
        ids: &[ListenerId],
        sockets: Vec<OwnedFd>,
        parts: u32,
    ) {
        let mut came = std::mem::take(&mut self.parts);
        if came.frames != parts {
            let reason =
                format!("of {parts} frames before state {}, {} came", state.version.0, came.frames);
            self.stage = Stage::Following;
            return self.resync(reason);
        }
        let version = state.version;
        came.routes.append(&mut state.routes);
        state.routes = came.routes;
        let snapshot = match Snapshot::build(state) {
            Ok(snapshot) => Arc::new(snapshot),
            Err(errors) => return self.refuse(version, texts(&errors)),
        };
        let sockets = match self.check_sockets(&snapshot, came.sockets, ids, sockets) {
            Ok(sockets) => sockets,
            Err(problem) => return self.refuse(version, vec![problem]),
        };
        self.stage = Stage::Following;
        let before = Arc::clone(self.progress.current());
        let difference = Difference::between(&before, &snapshot);
        let left = self.addresses.replace_all(&before, &snapshot);
        self.adopt(snapshot, difference, left, sockets);
    }

    fn on_delta(&mut self, delta: Delta, ids: &[ListenerId], sockets: Vec<OwnedFd>) {
        let came = std::mem::take(&mut self.parts);
        if self.stage == Stage::AwaitingState {
            return;
        }
        let version = delta.version;
        let (snapshot, replaced) = match self.progress.current().apply(delta) {
            Ok((snapshot, replaced)) => (Arc::new(snapshot), replaced),
            Err(ApplyError::Invalid(errors)) => return self.refuse(version, texts(&errors)),
            Err(ApplyError::Gap { have, base }) => {
                let reason = format!("a delta to version {}, but this is {}", base.0, have.0);
                return self.resync(reason);
            }
        };
        let sockets = match self.check_sockets(&snapshot, came.sockets, ids, sockets) {
            Ok(sockets) => sockets,
            Err(problem) => return self.refuse(version, vec![problem]),
        };
        let left = self.addresses.replace(&replaced);
        self.adopt(snapshot, Difference::of_delta(&replaced), left, sockets);
    }

    /// All sockets that came for this snapshot, if each of its listeners then has one.
    fn check_sockets(
        &self,
        snapshot: &Snapshot,
        mut came: Vec<(ListenerId, OwnedFd)>,
        ids: &[ListenerId],
        sockets: Vec<OwnedFd>,
    ) -> Result<Vec<NewSocket>, String> {
        if ids.len() != sockets.len() {
            return Err(missing_sockets(ids.len(), sockets.len()));
        }
        came.extend(ids.iter().copied().zip(sockets));
        let given: HashSet<ListenerId> = came.iter().map(|(id, _)| *id).collect();
        let has_one = |id| given.contains(&id) || self.listening.contains_key(&id);
        let mut listeners = snapshot.listeners.iter().map(|listener| listener.id);
        match listeners.find(|id| !has_one(*id)) {
            Some(id) => Err(format!("listener {} has no socket", id.0)),
            None => came.into_iter().map(|(id, socket)| NewSocket::new(id, socket)).collect(),
        }
    }

    /// Closed before, opened after: each connection finds the app that its listener was for.
    fn adopt(
        &mut self,
        snapshot: Arc<Snapshot>,
        mut difference: Difference,
        left: HashSet<snapshot::Address>,
        sockets: Vec<NewSocket>,
    ) {
        for id in &difference.listeners {
            if snapshot.find_listener(*id).is_none() && self.listening.remove(id).is_some() {
                self.workers[0].put(ToWorker::Unlisten(*id));
            }
        }
        difference.gates = self.gates.update(&snapshot, &difference.apps);
        let epoch = self.progress.next_epoch();
        let adoption = Arc::new(Adoption { epoch, snapshot, difference, left });
        self.progress.begin(Arc::clone(&adoption));
        self.tell_all(|| ToWorker::Adopt(Arc::clone(&adoption)));
        for socket in sockets {
            self.open(&adoption.snapshot, socket);
        }
        if !std::mem::replace(&mut self.is_fed, true) {
            self.asked.clone().into_iter().for_each(|question| self.put(question));
            for (query, question) in self.resolving.unanswered(clock::now()) {
                self.put_name(query, question);
            }
        }
        for query in self.resolving.take_late() {
            self.on_resolved(query);
        }
    }

    /// The first worker accepts for all.
    fn open(&mut self, snapshot: &Snapshot, new: NewSocket) {
        let NewSocket { id, socket, copy } = new;
        let Some(listener) = snapshot.find_listener(id) else { return };
        self.listening.insert(id, copy);
        self.workers[0].put(ToWorker::Unlisten(id));
        self.workers[0].put(ToWorker::Listen { listener: listener.clone(), socket });
    }

    fn hold(&mut self, ids: &[HoldId], descriptors: Vec<OwnedFd>) {
        if ids.len() != descriptors.len() {
            let (announced, came) = (ids.len(), descriptors.len());
            let message = format!("{announced} descriptors to hold were announced, {came} came");
            self.send(&FromDataPlane::Log { level: LogLevel::Error, message });
        }
        self.holds.extend(ids.iter().copied().zip(descriptors));
    }

    /// Without it, a window is all that apps send past TCP.
    fn take_credits(&mut self, descriptors: Vec<OwnedFd>) {
        let mapped = match &descriptors[..] {
            [map] => Credits::map(map).map_err(|e| e.to_string()),
            other => Err(format!("{} descriptors came", other.len())),
        };
        match mapped.map(Arc::new) {
            Ok(credits) => self.tell_all(|| ToWorker::Credits(Arc::clone(&credits))),
            Err(e) => {
                let message = format!("the map of what was read cannot be used: {e}");
                self.send(&FromDataPlane::Log { level: LogLevel::Error, message });
            }
        }
    }

    fn share_routes(&mut self) {
        let snapshot = Arc::clone(self.progress.current());
        let mut routes = snapshot.routes().cloned().peekable();
        while routes.peek().is_some() {
            let part = routes.by_ref().take(ROUTES_PER_FRAME).collect();
            self.send(&FromDataPlane::Routes(part));
        }
    }

    fn share_listeners(&mut self) {
        let Some(socket) = &mut self.socket else { return };
        let all: Vec<(ListenerId, BorrowedFd<'_>)> =
            self.listening.iter().map(|(id, socket)| (*id, socket.as_fd())).collect();
        let mut chunks: Vec<&[_]> = all.chunks(SOCKETS_MAX).collect();
        if chunks.is_empty() {
            chunks.push(&[]);
        }
        let last = chunks.len() - 1;
        for (index, chunk) in chunks.into_iter().enumerate() {
            let (ids, sockets): (Vec<ListenerId>, Vec<BorrowedFd<'_>>) =
                chunk.iter().copied().unzip();
            let message = FromDataPlane::Listeners { sockets: ids, is_last: index == last };
            if socket.send_with(&message, &sockets).is_err() {
                return self.lose_control();
            }
        }
    }

    fn read_inbox(&mut self) {
        while let Some(message) = self.inbox.take() {
            match message {
                FromWorker::AcceptsNoMore => self.tell_all(|| ToWorker::Drain),
                FromWorker::Adopted { worker, epoch } => self.on_adopted(worker, epoch),
                FromWorker::ControlCall { id: call, app, request } => {
                    self.ask(Question { call, app, request });
                }
                FromWorker::Resolve { worker, question } => self.resolve(worker, question),
                FromWorker::Log { level, message } => {
                    self.send(&FromDataPlane::Log { level, message })
                }
                FromWorker::Drained { worker } => {
                    self.drained[worker.index()] = true;
                    if self.drained.iter().all(|drained| *drained) {
                        // Control ends at the word, and its log should be whole.
                        self.send_records();
                        self.send(&FromDataPlane::Drained);
                        self.end_if_drained();
                    }
                }
                FromWorker::Scores { query, scores } => {
                    if let Some(scores) = self.scores.add(query, scores) {
                        self.send(&FromDataPlane::Scores { query, scores });
                    }
                }
                FromWorker::Series(series) => self.series.push(series),
                FromWorker::Ended { error: None, .. } => {}
                FromWorker::Ended { worker, error: Some(error) } => {
                    let problem = format!("worker {} ended: {error}", worker.0);
                    self.send(&FromDataPlane::Log {
                        level: LogLevel::Error,
                        message: problem.clone(),
                    });
                    self.exit(End::WorkerFailed(problem));
                }
            }
        }
    }

    /// A question for control. One that a control dies over is put to the next; one that is pushed
    /// out has a client that stops waiting by itself.
    fn ask(&mut self, question: Question) {
        if self.asked.len() >= ASKED_MAX {
            self.asked.pop_front();
        }
        self.asked.push_back(question.clone());
        if self.is_fed {
            self.put(question);
        }
    }

    fn put(&mut self, Question { call, app, request }: Question) {
        self.send(&FromDataPlane::AdminCall { call, app, request });
    }

    /// Where control is not there yet, the one that comes is asked.
    fn resolve(&mut self, worker: WorkerId, question: route::Question) {
        match self.resolving.add(worker, &question, clock::now()) {
            Verdict::New(query) if self.is_fed => self.put_name(query, question),
            Verdict::New(_) | Verdict::Known => {}
            Verdict::TooMany => self.tell_resolved(worker, question.name),
        }
    }

    fn put_name(&mut self, query: u64, question: route::Question) {
        let route::Question { name: Name { id, namespace }, is_stale } = question;
        self.send(&FromDataPlane::Resolve { query, id, namespace, is_stale });
    }

    /// What came before this has reached the workers' mailboxes before this does.
    fn on_resolved(&mut self, query: u64) {
        let Some(asked) = self.resolving.take(query) else { return };
        for worker in asked.workers {
            self.tell_resolved(worker, asked.name.clone());
        }
    }

    /// A worker whose mailbox is full may be waiting for us; its calls end by themselves.
    fn tell_resolved(&self, worker: WorkerId, name: Name) {
        let _ = self.workers[worker.index()].try_put(ToWorker::Resolved(name));
    }

    fn on_adopted(&mut self, worker: WorkerId, epoch: u64) {
        if let Some(version) = self.progress.on_adopted(worker, epoch) {
            self.send(&FromDataPlane::Live { version });
        }
    }
}

/// Root controls everything anyway; anybody else must be who started this process.
const fn is_trusted(peer: Peer, own_uid: u32) -> bool {
    peer.uid == own_uid || peer.uid == 0
}

fn missing_sockets(announced: usize, came: usize) -> String {
    format!("{announced} listening sockets were announced, {came} came")
}

/// No more texts than are told.
fn texts(errors: &[BuildError]) -> Vec<String> {
    let told = errors.iter().take(PROBLEMS_MAX).map(ToString::to_string);
    let more = errors.len().saturating_sub(PROBLEMS_MAX);
    told.chain((more > 0).then(|| format!("and {more} more"))).collect()
}

/// Problems of one state that are told; whoever wrote ten thousand wrong rows learns nothing from
/// the rest.
const PROBLEMS_MAX: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_user_and_root_are_trusted() {
        for (case, uid, own, want) in [
            ("another user", 1001, 1000, false),
            ("a user, towards root's data plane", 1000, 0, false),
            ("nobody that this user namespace knows", 65534, 1000, false),
            ("the same user", 1000, 1000, true),
            ("root", 0, 1000, true),
        ] {
            assert_eq!(is_trusted(Peer { pid: 7, uid }, own), want, "{case}");
        }
    }

    #[test]
    fn problems_beyond_the_first_ones_are_counted() {
        let error = BuildError::AppUnknown { number: 1 };
        assert_eq!(texts(&vec![error.clone(); PROBLEMS_MAX]).len(), PROBLEMS_MAX);
        let told = texts(&vec![error; 10_000]);
        assert_eq!(told.len(), PROBLEMS_MAX + 1);
        assert_eq!(told.last().map(String::as_str), Some("and 9980 more"));
    }
}
