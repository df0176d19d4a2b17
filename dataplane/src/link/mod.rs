//! The link to control: states come in, acknowledgements and questions go out.
//!
//! Runs on the process' first thread and only ever waits in `poll`. Workers know nothing of it but a mailbox. When
//! control goes away without a word the workers serve on, or end, as the last state said.

#![forbid(unsafe_code)]

mod socket;
mod stats;

use crate::{
    engine::Waker,
    mailbox::{FromWorker, Mailbox, ToWorker, WorkerId},
    telemetry::Counters,
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    net::{SocketFlags, accept_with},
};
use snapshot::{
    ListenerId, OnControlLost, Snapshot, State, Version,
    wire::{FromDataPlane, LogLevel, ToDataPlane},
};
use socket::{LinkError, LinkSocket};
use std::{
    os::fd::{AsFd, OwnedFd},
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
    counters: Vec<Arc<Counters>>,
    /// The version each worker runs on.
    adopted: Vec<Version>,
    /// The version that control was told is live; the default while it waits for `sent` to become so.
    live: Version,
    /// The last version that was passed on to the workers.
    sent: Version,
    drained: Vec<bool>,
    listening: Vec<ListenerId>,
    on_control_lost: OnControlLost,
    /// Why the process ends, once it does.
    end: Option<End>,
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
        counters: Vec<Arc<Counters>>,
    ) -> Self {
        let count = workers.len();
        Self {
            listener,
            socket: None,
            introduction,
            bell,
            inbox,
            workers,
            counters,
            adopted: vec![Version::default(); count],
            live: Version::default(),
            sent: Version::default(),
            drained: vec![false; count],
            listening: Vec::new(),
            on_control_lost: OnControlLost::Exit,
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
            self.read_inbox();
            if socket_ready {
                self.read_socket();
            }
            if listener_ready {
                self.accept();
            }
        }
    }

    fn wait(&self) -> Result<(bool, bool), Errno> {
        let fd = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        let mut fds = vec![fd(self.listener.as_fd()), fd(self.bell.as_fd())];
        fds.extend(self.socket.as_ref().map(|socket| fd(socket.as_fd())));
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        self.bell.drain();
        Ok((ready[0], ready.get(2).copied().unwrap_or(false)))
    }

    fn accept(&mut self) {
        let Ok(socket) = accept_with(&self.listener, SocketFlags::CLOEXEC) else { return };
        let mut socket = LinkSocket::new(socket);
        if self.socket.is_some() {
            let problems =
                vec!["another control process is connected to this data plane".to_owned()];
            // Whether it still listens is its own affair.
            let _ = socket.send(&FromDataPlane::Refused { version: Version::default(), problems });
            return;
        }
        self.socket = Some(socket);
        self.send(&FromDataPlane::Hello {
            pid: std::process::id(),
            workers: u32::try_from(self.workers.len()).expect("workers are few"),
            engine: self.introduction.engine.clone(),
            engine_reason: self.introduction.engine_reason.clone(),
        });
    }

    fn send(&mut self, message: &FromDataPlane) {
        let Some(socket) = &mut self.socket else { return };
        if socket.send(message).is_err() {
            self.lose_control();
        }
    }

    fn lose_control(&mut self) {
        self.socket = None;
        if self.on_control_lost == OnControlLost::Exit {
            self.exit(End::Told);
        }
    }

    fn read_socket(&mut self) {
        let Some(socket) = &mut self.socket else { return };
        match socket.receive() {
            Ok(()) => {}
            Err(LinkError::Closed) => return self.lose_control(),
            Err(LinkError::Broken(problem)) => {
                return self.refuse(Version::default(), vec![problem]);
            }
        }
        while let Some(socket) = &mut self.socket {
            match socket.next_message() {
                Ok(Some(message)) => self.on_message(message),
                Ok(None) => return,
                Err(error) => return self.refuse(Version::default(), vec![error.to_string()]),
            }
        }
    }

    /// Says what is wrong. After a broken frame the link starts anew: control connects again and sends its full state.
    fn refuse(&mut self, version: Version, problems: Vec<String>) {
        let broken = version == Version::default();
        self.send(&FromDataPlane::Refused { version, problems });
        if broken {
            self.socket = None;
        }
    }

    fn on_message(&mut self, message: ToDataPlane) {
        match message {
            ToDataPlane::State { state, sockets } => self.on_state(state, &sockets),
            ToDataPlane::AdminReply { call, status, content_type, body } => {
                let Some(worker) = self.workers.get(call.worker as usize) else { return };
                let connection = call.connection;
                worker.put(ToWorker::ControlReply { connection, status, content_type, body });
            }
            ToDataPlane::Stats { query } => {
                let counters = stats::sum(&self.counters);
                self.send(&FromDataPlane::Stats { query, counters });
            }
            ToDataPlane::Drain => self.tell_all(|| ToWorker::Drain),
            ToDataPlane::Exit => self.exit(End::Told),
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

    fn on_state(&mut self, state: State, sockets: &[ListenerId]) {
        let version = state.version;
        let Some(socket) = &mut self.socket else { return };
        let received = socket.take_sockets(sockets.len());
        let snapshot = match Snapshot::build(state) {
            Ok(snapshot) => Arc::new(snapshot),
            Err(errors) => {
                return self.refuse(version, errors.iter().map(ToString::to_string).collect());
            }
        };
        let Some(received) = received else {
            let problem = format!("{} listening sockets were announced, fewer came", sockets.len());
            return self.refuse(version, vec![problem]);
        };
        let mut listeners = snapshot.listeners.iter().map(|listener| listener.id);
        if let Some(id) = listeners.find(|id| !sockets.contains(id) && !self.listening.contains(id))
        {
            return self.refuse(version, vec![format!("listener {} has no socket", id.0)]);
        }
        self.on_control_lost = snapshot.on_control_lost;
        self.sent = version;
        self.live = Version::default();
        // Closed before, opened after: each connection finds the app that its listener was for.
        self.close_gone(&snapshot);
        self.tell_all(|| ToWorker::Adopt(Arc::clone(&snapshot)));
        self.open(&snapshot, sockets, received);
    }

    /// The first worker accepts for all.
    fn open(&mut self, snapshot: &Snapshot, ids: &[ListenerId], sockets: Vec<OwnedFd>) {
        for (id, socket) in ids.iter().zip(sockets) {
            let Some(listener) = snapshot.listeners.iter().find(|listener| listener.id == *id)
            else {
                continue;
            };
            if !self.listening.contains(id) {
                self.listening.push(*id);
            }
            let (kind, app) = (listener.kind, listener.app as usize);
            self.workers[0].put(ToWorker::Unlisten(*id));
            self.workers[0].put(ToWorker::Listen { id: *id, kind, app, socket });
        }
    }

    fn close_gone(&mut self, snapshot: &Snapshot) {
        let workers = &self.workers;
        self.listening.retain(|id| {
            let stays = snapshot.listeners.iter().any(|listener| listener.id == *id);
            if !stays {
                workers[0].put(ToWorker::Unlisten(*id));
            }
            stays
        });
    }

    fn read_inbox(&mut self) {
        while let Some(message) = self.inbox.take() {
            match message {
                FromWorker::Adopted { worker, version } => self.on_adopted(worker, version),
                FromWorker::ControlCall { id, app, request } => {
                    self.send(&FromDataPlane::AdminCall { call: id, app, request });
                }
                FromWorker::Log { level, message } => {
                    self.send(&FromDataPlane::Log { level, message })
                }
                FromWorker::Drained { worker } => {
                    self.drained[worker.index()] = true;
                    if self.drained.iter().all(|drained| *drained) {
                        self.send(&FromDataPlane::Drained);
                    }
                }
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

    fn on_adopted(&mut self, worker: WorkerId, version: Version) {
        self.adopted[worker.index()] = version;
        if self.live != self.sent && self.adopted.iter().all(|adopted| *adopted == self.sent) {
            self.live = self.sent;
            self.send(&FromDataPlane::Live { version });
        }
    }
}
