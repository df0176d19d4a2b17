//! A running sidecar's control: one loop that hears signals, data plane, registry, app and
//! scrapers.
//!
//! ```text
//!   Serving ──signal, API──► Blocking ──time──► Draining ──drained, time──► end
//!      └──────────no block duration──────────────►┘
//!   any ──second signal──► end            any ──forced shutdown──► Forcing ──► end
//! ```
//! Nothing here waits: each wake-up is handled to its end and leads to messages, never to a nested
//! loop.

#![forbid(unsafe_code)]

mod admin;
mod reload;
mod scrapes;
mod setup;
mod sockets;

pub(crate) use reload::Configure;
pub(crate) use setup::{StartError, prepare};

use crate::{
    admin::page::Scrape,
    adopt::Introduction,
    app_channel::AppChannel,
    claim::Claim,
    config::duration,
    log::{Level, Log},
    publish::Publisher,
    registry::{Change, Entry, Registries},
    signals::{Signal, Signals},
    supervisor::{Event, Supervisor},
};
use admin::Reply;
use reload::Reload;
use scrapes::Scrapes;
use snapshot::{
    AppHealth, Route, State, Version,
    wire::{FromDataPlane, HoldId, LogLevel, ToDataPlane},
};
use std::{collections::VecDeque, path::PathBuf, process::ExitCode, time::Duration};
use tokio::{task::JoinHandle, time::Instant};

pub(crate) struct Sidecar {
    claim: Claim,
    log: Log,
    started: Instant,
    publisher: Publisher,
    supervisor: Supervisor,
    registries: Registries,
    entry: Entry,
    routes: Vec<Route>,
    /// Of the app, until it is looked for.
    app_channel: Option<AppChannel>,
    app_ready: Option<JoinHandle<()>>,
    /// The state that says that all is ready, until it is in force and the log says so too.
    ready_version: Option<Version>,
    scrapes: Scrapes,
    /// `None` without Configuration files.
    reload: Option<Reload>,
    replies: VecDeque<Reply>,
    stage: Stage,
    block_duration: Option<Duration>,
    graceful_timeout: Duration,
    /// Socket files to remove at the end.
    files: Vec<PathBuf>,
}

#[derive(Clone, Copy)]
enum Stage {
    Serving,
    Blocking { until: Instant },
    Draining { until: Instant },
    Forcing { until: Instant },
}

/// How the sidecar ends.
#[derive(Clone, Copy)]
enum End {
    Clean,
    Failed,
}

enum Wake {
    App,
    DataPlane(Event),
    Deadline,
    Files,
    Registry(Change),
    Scrape(Scrape),
    Signal(Signal),
}

impl Sidecar {
    pub(crate) async fn run(mut self, mut signals: Signals) -> ExitCode {
        let end = loop {
            let wake = self.next_wake(&mut signals).await;
            if let Some(end) = self.on_wake(wake) {
                break end;
            }
        };
        tokio::join!(self.registries.end(), self.supervisor.end());
        for path in &self.files {
            let _ = std::fs::remove_file(path);
        }
        self.claim.end();
        match end {
            End::Clean => {
                self.log.info("Daprd shutdown gracefully");
                ExitCode::SUCCESS
            }
            End::Failed => ExitCode::FAILURE,
        }
    }

    async fn next_wake(&mut self, signals: &mut Signals) -> Wake {
        let deadline = self.stage.deadline();
        tokio::select! {
            signal = signals.next() => Wake::Signal(signal),
            event = self.supervisor.next() => Wake::DataPlane(event),
            change = self.registries.next() => Wake::Registry(change),
            () = joined(&mut self.app_ready) => Wake::App,
            scrape = self.scrapes.next() => Wake::Scrape(scrape),
            () = until(deadline) => Wake::Deadline,
            () = reload::changed(&self.reload) => Wake::Files,
        }
    }

    fn on_wake(&mut self, wake: Wake) -> Option<End> {
        match wake {
            Wake::App => self.on_app_ready(),
            Wake::DataPlane(event) => return self.on_data_plane(event),
            Wake::Deadline => return self.on_deadline(),
            Wake::Files => self.reload(),
            Wake::Registry(change) => self.on_registry(change),
            Wake::Scrape(scrape) => {
                if let Some(query) = self.scrapes.ask(scrape, self.registries.counters()) {
                    self.supervisor.send(&ToDataPlane::Stats { query });
                }
            }
            Wake::Signal(signal) => return self.on_signal(signal),
        }
        None
    }

    fn on_signal(&mut self, signal: Signal) -> Option<End> {
        let name = signal.name();
        if signal == Signal::Hangup && self.reload.is_some() {
            self.log.info(format_args!("Received signal '{name}'; reading configuration anew"));
            self.reload();
            return None;
        }
        if !signal.is_end() {
            self.log.info(format_args!("Received signal '{name}'; there is nothing to reload"));
            return None;
        }
        if matches!(self.stage, Stage::Serving) {
            self.log.info(format_args!("Received signal '{name}'; beginning shutdown"));
            return self.begin_shutdown();
        }
        self.log
            .warning(format_args!("Received signal '{name}' during shutdown; exiting immediately"));
        Some(End::Failed)
    }

    /// The name goes first, so that callers turn elsewhere while calls in flight are finished.
    fn begin_shutdown(&mut self) -> Option<End> {
        self.registries.withdraw();
        self.supervisor.release(REGISTRATION);
        let Some(block) = self.block_duration else { return self.begin_drain() };
        self.log.info(format_args!(
            "Blocking graceful shutdown for {} or until app reports unhealthy...",
            duration::emit(block)
        ));
        self.stage = Stage::Blocking { until: Instant::now() + block };
        None
    }

    fn begin_drain(&mut self) -> Option<End> {
        self.supervisor.send(&ToDataPlane::Drain);
        self.supervisor.begin_end();
        self.stage = Stage::Draining { until: Instant::now() + self.graceful_timeout };
        // Without a process there is nothing in flight.
        self.supervisor.is_ended().then_some(End::Clean)
    }

    fn on_deadline(&mut self) -> Option<End> {
        match self.stage {
            Stage::Serving => None,
            Stage::Blocking { .. } => {
                self.log.info("Block shutdown period expired, entering shutdown...");
                self.begin_drain()
            }
            Stage::Draining { .. } => {
                self.log.warning("Graceful shutdown timeout exceeded, forcing shutdown");
                Some(End::Failed)
            }
            Stage::Forcing { .. } => Some(End::Failed),
        }
    }

    fn on_data_plane(&mut self, event: Event) -> Option<End> {
        match event {
            Event::Greeted(introduction) => {
                let Introduction { pid, workers, engine, engine_reason } = introduction;
                self.log.info(format_args!(
                    "Data plane (process {pid}) serves on {engine} with {workers} workers: {engine_reason}"
                ));
                self.scrapes.on_greeted(pid, workers, engine, engine_reason);
            }
            Event::Lost => return self.on_lost(),
            Event::Message(message) => return self.on_message(message),
        }
        None
    }

    fn on_lost(&mut self) -> Option<End> {
        // Their clients are gone with the connections the process held.
        self.replies.clear();
        self.scrapes.on_lost();
        if !matches!(self.stage, Stage::Draining { .. }) {
            return None;
        }
        self.log.error("Data plane ended before its calls were finished");
        Some(End::Failed)
    }

    fn on_message(&mut self, message: FromDataPlane) -> Option<End> {
        match message {
            FromDataPlane::AdminCall { call, app: _, request } => {
                return self.on_admin_call(call, request);
            }
            FromDataPlane::Drained if matches!(self.stage, Stage::Draining { .. }) => {
                return Some(End::Clean);
            }
            FromDataPlane::Drained
            | FromDataPlane::Hello { .. }
            | FromDataPlane::Listeners { .. }
            | FromDataPlane::Resync { .. } => {
                self.log.error("Data plane sent a message out of turn; it is ignored");
            }
            FromDataPlane::Live { version } => return self.on_live(version),
            FromDataPlane::Log { level, message } => {
                self.log.scoped("dapr.runtime.dataplane").write(level_of(level), &message);
            }
            FromDataPlane::Resolve { query, id, namespace } => {
                if !self.registries.resolve(query, id, namespace) {
                    self.supervisor.send(&ToDataPlane::Resolved { query });
                }
            }
            FromDataPlane::Refused { version, problems } => self.on_refused(version, &problems),
            FromDataPlane::Stats { query, counters } => self.scrapes.answer(query, &counters),
        }
        None
    }

    fn on_live(&mut self, version: Version) -> Option<End> {
        self.reply_up_to(version, 204, "");
        // A first state in force is the moment from which calls are answered.
        if !self.registries.is_registered() && matches!(self.stage, Stage::Serving) {
            if let Err(e) = self.registries.register(&self.entry) {
                self.log.fatal(format_args!("cannot register this sidecar: {e}"));
                return Some(End::Failed);
            }
            self.hold_registration();
            match self.app_channel.take() {
                Some(channel) => self.app_ready = Some(tokio::spawn(channel.discover())),
                None => self.ready_version = Some(version),
            }
        }
        if self.ready_version.take_if(|ready| *ready <= version).is_some() {
            let elapsed = self.started.elapsed().as_millis();
            self.log
                .info(format_args!("dapr initialized. Status: Running. Init Elapsed {elapsed}ms"));
        }
        None
    }

    /// The data plane holds the entry's lock, too: an app that is served stays known.
    fn hold_registration(&mut self) {
        match self.registries.hold() {
            Ok(Some(lock)) => self.supervisor.hold(REGISTRATION, lock),
            Ok(None) => {}
            Err(e) => {
                self.log
                    .warning(format_args!("should control end, this app would be forgotten: {e}"));
            }
        }
    }

    fn on_app_ready(&mut self) {
        let health = AppHealth { unready: Vec::new(), outbound_ready: true };
        self.publisher.set_health(health);
        self.ready_version = Some(self.publish());
    }

    fn on_refused(&mut self, version: Version, problems: &[String]) {
        for problem in problems {
            self.log.error(format_args!("State {} was refused: {problem}", version.0));
        }
        self.reply_up_to(version, 500, "the change was refused");
    }

    fn on_registry(&mut self, change: Change) {
        match change {
            Change::Routes(routes) if routes != self.routes => {
                self.routes.clone_from(&routes);
                self.publisher.set_routes(routes);
                self.publish();
            }
            Change::Routes(_) => {}
            // After the state with the routes that came with it, on the same link.
            Change::Resolved(query) => self.supervisor.send(&ToDataPlane::Resolved { query }),
        }
    }

    fn publish(&mut self) -> Version {
        let state: State = self.publisher.next_state();
        let version = state.version;
        self.supervisor.publish(state);
        version
    }
}

impl Stage {
    const fn deadline(self) -> Option<Instant> {
        match self {
            Self::Serving => None,
            Self::Blocking { until } | Self::Draining { until } | Self::Forcing { until } => {
                Some(until)
            }
        }
    }
}

/// The lock of the registry entry.
const REGISTRATION: HoldId = HoldId(0);

const fn level_of(level: LogLevel) -> Level {
    match level {
        LogLevel::Debug => Level::Debug,
        LogLevel::Info => Level::Info,
        LogLevel::Warning => Level::Warning,
        LogLevel::Error => Level::Error,
    }
}

/// Ready once; a task that failed to look for the app leaves the sidecar unready.
async fn joined(task: &mut Option<JoinHandle<()>>) {
    if let Some(handle) = task {
        let result = handle.await;
        *task = None;
        if result.is_ok() {
            return;
        }
    }
    std::future::pending().await
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
