//! Runs the data plane process and keeps it running: start, greet, feed, and start anew when it
//! dies.
//!
//! ```text
//!   Down ──start──► Greeting ──Hello──► Up ◄── adopted from an earlier control
//!    ▲                  │                │      died, silent, or link broken
//!    └──────────────────┴────────────────┘
//! ```
//! `Ending` is the way out: nothing is started any more.
//! Control keeps the listening sockets, so a new process serves the same ones from the last state.

#![forbid(unsafe_code)]

use crate::{
    adopt::{Adopted, Introduction, Predecessor, Process},
    link::{Link, LinkError},
    log::Log,
};
use snapshot::{
    Delta, ListenerId, Snapshot, Version,
    wire::{self, FromDataPlane, HoldId, SOCKETS_MAX, ToDataPlane},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    io,
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream as StdStream},
    },
    path::PathBuf,
    process::ExitStatus,
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::UnixStream,
    process::{Child, Command},
    time::Instant,
};

pub(crate) struct Supervisor {
    program: Program,
    log: Log,
    /// The state as the process was told it, and as the next one will be.
    told: Snapshot,
    sockets: Sockets,
    /// What each process keeps open.
    holds: BTreeMap<HoldId, Arc<OwnedFd>>,
    has_resolver: bool,
    /// Where every process tells what it reads past TCP.
    credits: Option<Arc<OwnedFd>>,
    phase: Phase,
    /// An adopted process was greeted before there was a supervisor.
    greeted: Option<Introduction>,
    /// Deaths in a row that came too soon after the start.
    early_deaths: u32,
    /// Serves until our own process does.
    predecessor: Option<(Box<Predecessor>, Duration)>,
    /// Full states asked for since the last one that became live.
    resyncs: u32,
}

/// What is started, and where control meets it.
pub(crate) struct Program {
    pub(crate) path: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) link_socket: PathBuf,
}

enum Phase {
    Down { until: Instant },
    Greeting(Running),
    Up(Running),
    Ending(Option<Running>),
}

/// Listening sockets by name: control keeps them for every process there will be.
pub(crate) type Sockets = Vec<(ListenerId, Arc<OwnedFd>)>;

struct Running {
    process: Supervised,
    pid: u32,
    link: Link,
    since: Instant,
}

enum Supervised {
    /// Killed when dropped.
    Child(Box<Child>),
    /// Of a control before this one.
    Foreign(Process),
}

#[derive(Debug)]
pub(crate) enum Event {
    /// A process said hello and was given the state.
    Greeted(Introduction),
    /// Of a process that was greeted; never a second hello.
    Message(FromDataPlane),
    /// Whatever was asked of the process will not be answered.
    Lost,
}

/// Why a process is given up.
#[derive(Debug)]
enum Loss {
    Broken(String),
    Ended(ExitStatus),
    /// Only its parent is told how.
    EndedSomehow,
}

impl Supervisor {
    /// Nothing runs before [`Self::next`] is polled.
    ///
    /// Every state comes after `last`, the version that an adopted data plane has.
    pub(crate) fn new(program: Program, last: Version, log: Log) -> Self {
        let phase = Phase::Down { until: Instant::now() };
        let mut told = Snapshot::empty();
        told.version = last;
        Self {
            program,
            log,
            told,
            sockets: Vec::new(),
            holds: BTreeMap::new(),
            has_resolver: false,
            credits: None,
            phase,
            greeted: None,
            early_deaths: 0,
            predecessor: None,
            resyncs: 0,
        }
    }

    /// Whether calls to apps that no state names are worth a question; to be said before there is a
    /// process.
    pub(crate) const fn set_resolver(&mut self, exists: bool) {
        self.has_resolver = exists;
    }

    /// To be said before there is a process.
    pub(crate) fn set_credits(&mut self, map: OwnedFd) {
        self.credits = Some(Arc::new(map));
    }

    /// Goes on with a process that serves already. It keeps the sockets it has.
    pub(crate) fn adopt(&mut self, adopted: Adopted) {
        let Adopted { mut link, process, introduction, held, .. } = adopted;
        let known: BTreeSet<ListenerId> = held.listeners.iter().map(|l| l.id).collect();
        let sent = self.tell_all(&mut link, &known);
        let process = Supervised::Foreign(process);
        self.phase =
            Phase::Up(Running { process, pid: introduction.pid, link, since: Instant::now() });
        match sent {
            Ok(()) => self.greeted = Some(introduction),
            Err(e) => self.on_loss(&Loss::Broken(e.to_string())),
        }
    }

    /// A process of another version serves on the same sockets, until the one that is started does;
    /// then it has `patience` to finish what is in flight.
    pub(crate) fn relieve(&mut self, predecessor: Box<Predecessor>, patience: Duration) {
        self.predecessor = Some((predecessor, patience));
    }

    /// What every process is told.
    pub(crate) const fn told(&self) -> &Snapshot {
        &self.told
    }

    /// A change from now on, for this process and those after it.
    ///
    /// `sockets` are those of listeners that are new in it.
    pub(crate) fn publish(&mut self, delta: Delta, sockets: Sockets) {
        self.sockets.extend(sockets.iter().cloned());
        if let Ok((next, _)) = self.told.apply(delta.clone()) {
            self.told = next;
        }
        if self.sockets.len() > self.told.listeners.len() {
            let told = &self.told;
            self.sockets.retain(|(id, _)| told.find_listener(*id).is_some());
        }
        // One that breaks a rule goes out as well: the data plane says which, and both stay as they
        // are.
        let ids: Vec<ListenerId> = sockets.iter().map(|(id, _)| *id).collect();
        for message in wire::delta_messages(delta, &ids) {
            let named = |(id, _): &&(ListenerId, _)| message.sockets().contains(id);
            let sockets = sockets.iter().filter(named);
            self.send_with(&message, sockets.map(|(_, socket)| Arc::clone(socket)).collect());
        }
    }

    /// Everything anew, sockets included, for a process that knows nothing or has missed something.
    /// One that is adopted keeps the sockets it has.
    fn tell_all(&self, link: &mut Link, known: &BTreeSet<ListenerId>) -> Result<(), LinkError> {
        let ids = self.sockets.iter().map(|(id, _)| *id).filter(|id| !known.contains(id));
        let ids: Vec<ListenerId> = ids.collect();
        link.send(&ToDataPlane::Resolver { exists: self.has_resolver }, Vec::new())?;
        // Ahead of the listeners, so that no connection comes before it.
        if let Some(map) = &self.credits {
            link.send(&ToDataPlane::Credits, vec![Arc::clone(map)])?;
        }
        for message in wire::state_messages(self.told.to_state(), &ids) {
            let named = |(id, _): &&(ListenerId, _)| message.sockets().contains(id);
            let sockets = self.sockets.iter().filter(named);
            link.send(&message, sockets.map(|(_, socket)| Arc::clone(socket)).collect())?;
        }
        let holds: Vec<(HoldId, Arc<OwnedFd>)> =
            self.holds.iter().map(|(id, descriptor)| (*id, Arc::clone(descriptor))).collect();
        for part in holds.chunks(SOCKETS_MAX) {
            let (ids, descriptors) = part.iter().cloned().unzip();
            link.send(&ToDataPlane::Hold { ids }, descriptors)?;
        }
        Ok(())
    }

    /// Has this and every later process keep a copy of the descriptor open.
    pub(crate) fn hold(&mut self, id: HoldId, descriptor: Arc<OwnedFd>) {
        self.holds.insert(id, Arc::clone(&descriptor));
        self.send_with(&ToDataPlane::Hold { ids: vec![id] }, vec![descriptor]);
    }

    pub(crate) fn release(&mut self, id: HoldId) {
        if self.holds.remove(&id).is_some() {
            self.send(&ToDataPlane::Release { ids: vec![id] });
        }
    }

    /// Whether there is a process that could answer.
    pub(crate) const fn is_up(&self) -> bool {
        matches!(self.phase, Phase::Up(_))
    }

    /// Sends to the process if it is up; one that is not has nothing to answer.
    pub(crate) fn send(&mut self, message: &ToDataPlane) {
        self.send_with(message, Vec::new());
    }

    fn send_with(&mut self, message: &ToDataPlane, descriptors: Vec<Arc<OwnedFd>>) {
        if let Phase::Up(running) | Phase::Ending(Some(running)) = &mut self.phase
            && let Err(e) = running.link.send(message, descriptors)
        {
            // A broken link ends the process; `next` notices that and takes the usual path.
            self.log.error(format_args!("Data plane: {e}"));
            running.process.start_kill();
        }
    }

    /// Runs the process until something is to be told. Dropping the future before it is ready loses
    /// nothing.
    pub(crate) async fn next(&mut self) -> Event {
        if let Some(introduction) = self.greeted.take() {
            return Event::Greeted(introduction);
        }
        loop {
            match &mut self.phase {
                Phase::Down { until } => {
                    tokio::time::sleep_until(*until).await;
                    self.start();
                }
                Phase::Greeting(running) => match greet(running).await {
                    Ok(hello) => return self.on_hello(hello),
                    Err(loss) => self.on_loss(&loss),
                },
                Phase::Up(running) => match running.next().await {
                    Ok(FromDataPlane::Resync { have, reason }) => self.on_resync(have, &reason),
                    Ok(message) => {
                        if matches!(message, FromDataPlane::Live { .. }) {
                            self.resyncs = 0;
                            if let Some((predecessor, patience)) = self.predecessor.take() {
                                self.log.info("The data plane of another version is relieved");
                                tokio::spawn(predecessor.leave(patience));
                            }
                        }
                        return Event::Message(message);
                    }
                    Err(loss) => {
                        self.on_loss(&loss);
                        return Event::Lost;
                    }
                },
                Phase::Ending(Some(running)) => match running.next().await {
                    Ok(message) => return Event::Message(message),
                    Err(_) => {
                        self.phase = Phase::Ending(None);
                        return Event::Lost;
                    }
                },
                Phase::Ending(None) => std::future::pending().await,
            }
        }
    }

    /// From here on a process that ends is not started anew.
    pub(crate) fn begin_end(&mut self) {
        self.sockets.clear();
        let phase = std::mem::replace(&mut self.phase, Phase::Ending(None));
        self.phase = match phase {
            Phase::Up(running) => Phase::Ending(Some(running)),
            Phase::Ending(running) => Phase::Ending(running),
            Phase::Down { .. } | Phase::Greeting(_) => Phase::Ending(None),
        };
    }

    /// Whether there is a process that could still do something.
    pub(crate) const fn is_ended(&self) -> bool {
        matches!(self.phase, Phase::Ending(None))
    }

    /// Tells the process to end, and sees to it.
    pub(crate) async fn end(mut self) {
        self.begin_end();
        self.send(&ToDataPlane::Exit);
        if let Phase::Ending(Some(mut running)) = self.phase {
            let goodbye = async { while running.next().await.is_ok() {} };
            let _ = tokio::time::timeout(EXIT_TIMEOUT, goodbye).await;
            running.process.kill().await;
        }
    }

    fn start(&mut self) {
        match spawn(&self.program) {
            Ok(running) => self.phase = Phase::Greeting(running),
            Err(e) => {
                let program = self.program.path.display();
                self.log.error(format_args!("Cannot start the data plane ({program}): {e}"));
                self.wait_for_restart(Duration::ZERO);
            }
        }
    }

    fn on_hello(&mut self, hello: FromDataPlane) -> Event {
        let FromDataPlane::Hello { pid, workers, engine, engine_reason, .. } = hello else {
            self.on_loss(&Loss::Broken("it did not begin with a hello".to_owned()));
            return Event::Lost;
        };
        let phase = std::mem::replace(&mut self.phase, Phase::Down { until: Instant::now() });
        if let Phase::Greeting(mut running) = phase {
            let sent = self.tell_all(&mut running.link, &BTreeSet::new());
            self.phase = Phase::Up(running);
            if let Err(e) = sent {
                self.on_loss(&Loss::Broken(e.to_string()));
                return Event::Lost;
            }
        }
        Event::Greeted(Introduction { pid, workers, engine, engine_reason })
    }

    /// The process has missed something. One that goes on missing things is broken.
    fn on_resync(&mut self, have: Version, reason: &str) {
        self.log.warning(format_args!(
            "Data plane stays at version {} and asks for the full state: {reason}",
            have.0
        ));
        self.resyncs += 1;
        let phase = std::mem::replace(&mut self.phase, Phase::Down { until: Instant::now() });
        let Phase::Up(mut running) = phase else { unreachable!("it has just spoken") };
        let sent = self.tell_all(&mut running.link, &BTreeSet::new());
        self.phase = Phase::Up(running);
        if let Err(e) = sent {
            self.on_loss(&Loss::Broken(e.to_string()));
        } else if self.resyncs > RESYNCS_MAX {
            self.on_loss(&Loss::Broken("it understands no state".to_owned()));
        }
    }

    fn on_loss(&mut self, loss: &Loss) {
        let (Phase::Greeting(running) | Phase::Up(running)) = &self.phase else { return };
        let lived = running.since.elapsed();
        let pid = running.pid;
        let what = match loss {
            Loss::Broken(why) => format!("is given up: {why}"),
            Loss::Ended(status) => format!("ended: {status}"),
            Loss::EndedSomehow => "ended".to_owned(),
        };
        self.log.error(format_args!("Data plane (process {pid}) {what}; starting it anew"));
        running.process.kill_foreign();
        self.wait_for_restart(lived);
    }

    /// Drops the process, which kills it, and sets when the next one starts: at once, unless deaths
    /// follow starts.
    fn wait_for_restart(&mut self, lived: Duration) {
        self.early_deaths = if lived < EARLY_DEATH { self.early_deaths + 1 } else { 0 };
        self.phase = Phase::Down { until: Instant::now() + restart_pause(self.early_deaths) };
    }
}

impl Running {
    async fn next(&mut self) -> Result<FromDataPlane, Loss> {
        tokio::select! {
            biased;
            message = self.link.next() => match message {
                Ok(message) => Ok(message),
                Err(e) => Err(self.why_broken(e.to_string()).await),
            },
            loss = self.process.ended() => Err(loss),
        }
    }

    /// A link usually breaks because the process died, whose status says more.
    async fn why_broken(&mut self, broken: String) -> Loss {
        match tokio::time::timeout(STATUS_TIMEOUT, self.process.ended()).await {
            Ok(loss @ (Loss::Ended(_) | Loss::EndedSomehow)) => loss,
            _ => Loss::Broken(broken),
        }
    }
}

impl Supervised {
    async fn ended(&mut self) -> Loss {
        match self {
            Self::Child(child) => match child.wait().await {
                Ok(status) => Loss::Ended(status),
                Err(e) => Loss::Broken(e.to_string()),
            },
            Self::Foreign(process) => match process.ended().await {
                Ok(()) => Loss::EndedSomehow,
                Err(e) => Loss::Broken(e.to_string()),
            },
        }
    }

    fn start_kill(&mut self) {
        match self {
            // Harmless when it has ended.
            Self::Child(child) => drop(child.start_kill()),
            Self::Foreign(process) => process.kill(),
        }
    }

    /// A child is killed by being dropped.
    fn kill_foreign(&self) {
        if let Self::Foreign(process) = self {
            process.kill();
        }
    }

    /// Kills it and waits for its end.
    async fn kill(&mut self) {
        self.start_kill();
        let _ = tokio::time::timeout(STATUS_TIMEOUT, self.ended()).await;
    }
}

async fn greet(running: &mut Running) -> Result<FromDataPlane, Loss> {
    let deadline = running.since + HELLO_TIMEOUT;
    match tokio::time::timeout_at(deadline, running.next()).await {
        Ok(result) => result,
        Err(_) => Err(Loss::Broken(format!("it said no hello within {HELLO_TIMEOUT:?}"))),
    }
}

/// The data plane's standard input is its listening socket: a descriptor that is handed down by
/// position needs no number, and is the one that survives `exec` by design.
fn spawn(program: &Program) -> io::Result<Running> {
    let path = &program.link_socket;
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    let stream = StdStream::connect(path)?;
    stream.set_nonblocking(true)?;
    let link = Link::new(UnixStream::from_std(stream)?);
    let child = Command::new(&program.path)
        .arg0("ringcar")
        .args(&program.arguments)
        .stdin(OwnedFd::from(listener))
        // A terminal's Ctrl-C is for control, which drains the data plane first.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let pid = child.id().unwrap_or_default();
    let process = Supervised::Child(Box::new(child));
    Ok(Running { process, pid, link, since: Instant::now() })
}

fn restart_pause(early_deaths: u32) -> Duration {
    match early_deaths {
        0 | 1 => Duration::ZERO,
        n => (RESTART_PAUSE_MIN * 2u32.saturating_pow(n - 2)).min(RESTART_PAUSE_MAX),
    }
}

/// A process that dies sooner than this after its start will probably do so again.
const EARLY_DEATH: Duration = Duration::from_secs(1);
const RESTART_PAUSE_MIN: Duration = Duration::from_millis(100);
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(5);

/// Full states in a row that a data plane may ask for.
const RESYNCS_MAX: u32 = 3;

/// Starting up takes milliseconds; this is for a machine that swaps.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// From the end of the link to the end of the process.
const STATUS_TIMEOUT: Duration = Duration::from_millis(200);

/// From `Exit` to the end of the process.
const EXIT_TIMEOUT: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_dir::TestDir;

    #[test]
    fn deaths_in_a_row_are_answered_ever_slower() {
        let pauses: Vec<u128> = (0..12).map(|n| restart_pause(n).as_millis()).collect();
        assert_eq!(pauses, [0, 0, 100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000, 5000]);
    }

    fn supervisor(temp: &TestDir, script: &str) -> Supervisor {
        let program = Program {
            path: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            link_socket: temp.path().join("link"),
        };
        Supervisor::new(program, Version(0), Log::silent())
    }

    #[test]
    fn a_process_that_dies_is_started_again_until_the_end() {
        let temp = TestDir::new();
        let starts = temp.path().join("starts");
        let script = format!("echo >> {}; exit 3", starts.display());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut supervisor = supervisor(&temp, &script);
            let counted =
                || std::fs::read_to_string(&starts).map_or(0, |text| text.lines().count());
            let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
            while counted() < 3 {
                assert!(tokio::time::Instant::now() < deadline, "{} starts", counted());
                let turn = tokio::time::timeout(Duration::from_millis(10), supervisor.next());
                assert!(turn.await.is_err(), "a process that says nothing is no event");
            }
            supervisor.begin_end();
            let mut count = counted();
            while !supervisor.is_ended() {
                assert!(tokio::time::Instant::now() < deadline, "it does not end");
                let turn = tokio::time::timeout(Duration::from_millis(10), supervisor.next());
                assert!(turn.await.is_err());
                // One that ran when the end began may only now have come to say so.
                count = counted();
            }
            let turn = tokio::time::timeout(Duration::from_millis(300), supervisor.next());
            assert!(turn.await.is_err());
            assert_eq!(counted(), count);
        });
    }
}
