//! A running sidecar's control: one loop that hears signals, data plane, registry, app and scrapers.
//!
//! ```text
//!   Serving ──signal, API──► Blocking ──time──► Draining ──drained, time──► end
//!      └──────────no block duration──────────────►┘
//!   any ──second signal──► end            any ──forced shutdown──► Forcing ──► end
//! ```
//! Nothing here waits: each wake-up is handled to its end and leads to messages, never to a nested loop.

#![forbid(unsafe_code)]

mod setup;

pub(crate) use setup::{StartError, prepare};

use crate::{
    admin::{
        metrics::{self, Facts},
        page::Scrape,
    },
    app_channel::AppChannel,
    config::duration,
    log::{Level, Log},
    publish::Publisher,
    registry::{
        self, Entry, Registration, Registry, RegistryError, Table, Watch,
        local::{LocalRegistration, LocalRegistry, LocalWatch},
    },
    resident,
    signals::{Signal, Signals},
    supervisor::{Event, Supervisor},
};
use snapshot::{
    AppHealth, Route, State, Version,
    wire::{AdminCallId, AdminRequest, Counter, FromDataPlane, LogLevel, ToDataPlane},
};
use std::{collections::VecDeque, path::PathBuf, process::ExitCode, time::Duration};
use tokio::{sync::mpsc, task::JoinHandle, time::Instant};

pub(crate) struct Sidecar {
    log: Log,
    started: Instant,
    publisher: Publisher,
    supervisor: Supervisor,
    registry: LocalRegistry,
    entry: Entry,
    registration: Option<LocalRegistration>,
    /// `None` once the registry is gone: the last table stays in force.
    watch: Option<LocalWatch>,
    routes: Vec<Route>,
    /// Of the app, until it is looked for.
    app_channel: Option<AppChannel>,
    app_ready: Option<JoinHandle<()>>,
    /// The state that says that all is ready, until it is in force and the log says so too.
    ready_version: Option<Version>,
    scrapes: Option<mpsc::Receiver<Scrape>>,
    waiting_scrapes: VecDeque<(u64, Scrape)>,
    scrape_count: u64,
    replies: VecDeque<Reply>,
    facts: Facts,
    stage: Stage,
    block_duration: Option<Duration>,
    graceful_timeout: Duration,
    /// Socket files to remove at the end.
    files: Vec<PathBuf>,
}

/// An answer that waits until a state is in force.
struct Reply {
    version: Version,
    call: AdminCallId,
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
    Registry(Result<Table, RegistryError>),
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
        drop(self.registration.take());
        self.supervisor.end().await;
        for path in &self.files {
            let _ = std::fs::remove_file(path);
        }
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
            biased;
            signal = signals.next() => Wake::Signal(signal),
            event = self.supervisor.next() => Wake::DataPlane(event),
            table = changed(&mut self.watch) => Wake::Registry(table),
            () = joined(&mut self.app_ready) => Wake::App,
            scrape = next_scrape(&mut self.scrapes) => Wake::Scrape(scrape),
            () = until(deadline) => Wake::Deadline,
        }
    }

    fn on_wake(&mut self, wake: Wake) -> Option<End> {
        match wake {
            Wake::App => self.on_app_ready(),
            Wake::DataPlane(event) => return self.on_data_plane(event),
            Wake::Deadline => return self.on_deadline(),
            Wake::Registry(result) => self.on_registry(result),
            Wake::Scrape(scrape) => self.on_scrape(scrape),
            Wake::Signal(signal) => return self.on_signal(signal),
        }
        None
    }

    fn on_signal(&mut self, signal: Signal) -> Option<End> {
        let name = signal.name();
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
        self.registration = None;
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
            Event::Greeted { pid, workers, engine, engine_reason } => {
                self.log.info(format_args!(
                    "Data plane (process {pid}) serves on {engine} with {workers} workers: {engine_reason}"
                ));
                let restarts = self.facts.restarts;
                let data_plane_pid = Some(pid);
                self.facts = Facts { engine, engine_reason, workers, data_plane_pid, restarts };
            }
            Event::Lost => return self.on_lost(),
            Event::Message(message) => return self.on_message(message),
        }
        None
    }

    fn on_lost(&mut self) -> Option<End> {
        // Their clients are gone with the connections the process held.
        self.replies.clear();
        self.facts.data_plane_pid = None;
        self.facts.restarts += 1;
        while let Some((_, scrape)) = self.waiting_scrapes.pop_front() {
            self.answer_scrape(scrape, &[]);
        }
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
            FromDataPlane::Drained | FromDataPlane::Hello { .. } => {
                self.log.error("Data plane sent a message out of turn; it is ignored");
            }
            FromDataPlane::Live { version } => return self.on_live(version),
            FromDataPlane::Log { level, message } => {
                self.log.scoped("dapr.runtime.dataplane").write(level_of(level), &message);
            }
            FromDataPlane::Refused { version, problems } => self.on_refused(version, &problems),
            FromDataPlane::Stats { query, counters } => self.on_stats(query, &counters),
        }
        None
    }

    fn on_live(&mut self, version: Version) -> Option<End> {
        self.reply_up_to(version, 204, "");
        // A first state in force is the moment from which calls are answered.
        if self.registration.is_none() && matches!(self.stage, Stage::Serving) {
            match self.registry.register(&self.entry) {
                Ok(registration) => self.registration = Some(registration),
                Err(e) => {
                    self.log.fatal(format_args!("cannot register this sidecar: {e}"));
                    return Some(End::Failed);
                }
            }
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

    fn reply_up_to(&mut self, version: Version, status: u16, message: &str) {
        let due = self.replies.iter().take_while(|reply| reply.version <= version).count();
        let calls: Vec<AdminCallId> = self.replies.drain(..due).map(|reply| reply.call).collect();
        calls.into_iter().for_each(|call| self.reply(call, status, message));
    }

    fn on_registry(&mut self, result: Result<Table, RegistryError>) {
        let registry_log = self.log.scoped("dapr.runtime.registry");
        for complaint in self.watch.as_mut().map(Watch::complaints).unwrap_or_default() {
            registry_log.warning(complaint);
        }
        match result {
            Ok(table) => {
                let routes = registry::routes(&table, (&self.entry.id, &self.entry.namespace));
                if routes != self.routes {
                    self.routes.clone_from(&routes);
                    self.publisher.set_routes(routes);
                    self.publish();
                }
            }
            Err(e) => {
                registry_log.error(format_args!("{e}; the apps known so far stay reachable"));
                self.watch = None;
            }
        }
    }

    fn on_admin_call(&mut self, call: AdminCallId, request: AdminRequest) -> Option<End> {
        match request {
            AdminRequest::SetMetadata { key, value } => {
                let value = String::from_utf8_lossy(&value).into_owned();
                self.set_metadata(call, key, value);
                None
            }
            AdminRequest::Shutdown { force: false } => {
                self.reply(call, 204, "");
                self.log.info("Shutdown requested via API");
                match self.stage {
                    Stage::Serving => self.begin_shutdown(),
                    _ => None,
                }
            }
            AdminRequest::Shutdown { force: true } => {
                self.reply(call, 204, "");
                self.log.warning(
                    "Force shutdown requested, exiting immediately without graceful shutdown",
                );
                self.stage = Stage::Forcing { until: Instant::now() + FORCE_PAUSE };
                None
            }
        }
    }

    /// Answered once the change is in force, so that a client that reads after its write finds it.
    fn set_metadata(&mut self, call: AdminCallId, key: String, value: String) {
        if self.replies.len() >= REPLIES_MAX {
            self.reply(call, 503, "too many changes are waiting");
            return;
        }
        self.note_in_registry(&key, &value);
        match self.publisher.set_metadata(key, value) {
            Ok(()) => {
                let version = self.publish();
                self.replies.push_back(Reply { version, call });
            }
            Err(e) => self.reply(call, 400, &e.to_string()),
        }
    }

    /// What `ringcar list` and `ringcar stop` need of what `run` tells.
    fn note_in_registry(&mut self, key: &str, value: &str) {
        match key {
            "cliPID" => self.entry.cli_pid = value.parse().ok(),
            "appPID" => self.entry.app_pid = value.parse().ok(),
            "appCommand" => self.entry.command = value.to_owned(),
            _ => return,
        }
        if let Some(registration) = &mut self.registration
            && let Err(e) = registration.update(&self.entry)
        {
            self.log.warning(format_args!("cannot update this sidecar's registry entry: {e}"));
        }
    }

    fn publish(&mut self) -> Version {
        let state: State = self.publisher.next_state();
        let version = state.version;
        self.supervisor.publish(state);
        version
    }

    fn reply(&mut self, call: AdminCallId, status: u16, message: &str) {
        let (content_type, body) = if message.is_empty() {
            (String::new(), Vec::new())
        } else {
            let body = serde_json::json!({ "errorCode": "ERR_INTERNAL", "message": message });
            ("application/json".to_owned(), body.to_string().into_bytes())
        };
        self.supervisor.send(&ToDataPlane::AdminReply { call, status, content_type, body });
    }

    fn on_scrape(&mut self, scrape: Scrape) {
        if self.facts.data_plane_pid.is_none() || self.waiting_scrapes.len() >= SCRAPES_MAX {
            self.answer_scrape(scrape, &[]);
            return;
        }
        self.scrape_count += 1;
        self.supervisor.send(&ToDataPlane::Stats { query: self.scrape_count });
        self.waiting_scrapes.push_back((self.scrape_count, scrape));
    }

    fn on_stats(&mut self, query: u64, counters: &[Counter]) {
        let due = self.waiting_scrapes.iter().take_while(|(waiting, _)| *waiting <= query).count();
        let scrapes: Vec<_> = self.waiting_scrapes.drain(..due).collect();
        scrapes.into_iter().for_each(|(_, scrape)| self.answer_scrape(scrape, counters));
    }

    fn answer_scrape(&self, scrape: Scrape, counters: &[Counter]) {
        let pids =
            [("control", Some(std::process::id())), ("dataplane", self.facts.data_plane_pid)];
        let resident: Vec<(&str, u64)> = pids
            .into_iter()
            .filter_map(|(process, pid)| Some((process, resident::bytes(pid?)?)))
            .collect();
        // The scraper may have left meanwhile.
        let _ = scrape.send(metrics::emit(&self.facts, counters, &resident));
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

const fn level_of(level: LogLevel) -> Level {
    match level {
        LogLevel::Debug => Level::Debug,
        LogLevel::Info => Level::Info,
        LogLevel::Warning => Level::Warning,
        LogLevel::Error => Level::Error,
    }
}

async fn changed(watch: &mut Option<LocalWatch>) -> Result<Table, RegistryError> {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
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

async fn next_scrape(scrapes: &mut Option<mpsc::Receiver<Scrape>>) -> Scrape {
    if let Some(receiver) = scrapes
        && let Some(scrape) = receiver.recv().await
    {
        return scrape;
    }
    std::future::pending().await
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Time for the answer to a forced shutdown to leave; daprd's.
const FORCE_PAUSE: Duration = Duration::from_millis(100);

/// Metadata changes that wait to be in force.
const REPLIES_MAX: usize = 1024;

/// Scrapes that wait for the counters.
const SCRAPES_MAX: usize = 64;
