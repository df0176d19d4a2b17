//! A running control: one loop that hears signals, data plane, registries, apps, operators and
//! scrapers. A sidecar serves one app; a node's control serves many in the same way.
//!
//! ```text
//!   Serving ──signal, API──► Leaving, Blocking ──time──► Draining ──drained, time──► end
//!      └────────────────nobody may be calling──────────────►┘
//!   any ──second signal──► end            any ──forced shutdown──► Forcing ──► end
//! ```
//! Nothing here waits: each wake-up is handled to its end and leads to messages, never to a nested
//! loop.

#![forbid(unsafe_code)]

mod admin;
mod apps;
mod farewell;
mod health;
mod node;
mod numbers;
mod questions;
mod reload;
mod renewal;
mod scrapes;
mod served;
mod setup;
mod sockets;
mod steer;
mod told;
mod watches;

pub(crate) use reload::Configure;
pub(crate) use setup::{StartError, prepare, prepare_node};

use crate::{
    admin::{metrics::Measured, page::Scrape},
    adopt::Introduction,
    app_channel::Patience,
    app_health::{HealthChecks, Verdict},
    claim::Claim,
    config::duration,
    grpc_port::GrpcPort,
    log::{Level, Log},
    node::admin::Order,
    publish::Publisher,
    registry::{Change, Registries, Settings},
    runtime_dir::RuntimeDir,
    signals::{Signal, Signals, Source as _},
    steering::{self, Steering},
    supervisor::{self, Event, Supervisor},
    tracing::{Exporters, Way},
};
use admin::Reply;
use dataplane::engine::heap;
use node::Node;
use numbers::Numbers;
use questions::{Operators, Questions};
use reload::Reload;
use scrapes::Scrapes;
use served::Served;
use snapshot::{
    Version,
    wire::{FromDataPlane, LogLevel, ToDataPlane},
};
use sockets::Pool;
use std::{
    collections::{BTreeMap, VecDeque},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};
use tokio::{task::JoinSet, time::Instant};

pub(crate) struct Sidecar {
    claim: Claim,
    log: Log,
    started: Instant,
    publisher: Publisher,
    supervisor: Supervisor,
    registries: Registries,
    /// The registries that apps are served for: with some of them they take calls over TCP.
    reached_by: Arc<Settings>,
    dir: RuntimeDir,
    /// By number. Boxed, since a tree has room in its nodes for half as many again.
    apps: BTreeMap<u32, Box<Served>>,
    numbers: Numbers,
    pool: Pool,
    /// For the apps that do not listen yet; each ends with its app's number.
    searches: JoinSet<u32>,
    patience: Patience,
    health_checks: HealthChecks,
    /// Closed when the sidecar ends.
    grpc_port: GrpcPort,
    metrics_port: u16,
    scrapes: Scrapes,
    /// `None` without Configuration files.
    reload: Option<Reload>,
    /// `None`: a sidecar.
    node: Option<Node>,
    operators: Operators,
    questions: Questions,
    /// `None` without programs in the kernel.
    steering: Option<Steering>,
    replies: VecDeque<Reply>,
    exporters: Exporters,
    /// The last version that every worker runs on.
    live: Version,
    /// Apps that came, were found or went since the heap was last trimmed.
    churn: usize,
    /// It was said once that the sidecar is ready.
    is_initialized: bool,
    stage: Stage,
    block_duration: Option<Duration>,
    graceful_timeout: Duration,
}

#[derive(Clone, Copy)]
enum Stage {
    Serving,
    /// The name is gone, and callers are still hearing of it.
    Leaving {
        until: Instant,
    },
    Blocking {
        until: Instant,
    },
    Draining {
        until: Instant,
    },
    Forcing {
        until: Instant,
    },
}

/// How the sidecar ends.
#[derive(Clone, Copy)]
enum End {
    Clean,
    Failed,
}

enum Wake {
    Apps(Vec<u32>),
    DataPlane(Event),
    Deadline,
    Farewell,
    Files,
    NodeFile,
    Health(Verdict),
    Order(Order),
    Registry(Change),
    Scrape(Scrape),
    Signal(Signal),
    Steering(steering::Event),
}

impl Sidecar {
    pub(crate) async fn run(mut self, mut signals: Signals) -> ExitCode {
        let end = loop {
            let wake = self.next_wake(&mut signals).await;
            if let Some(end) = self.on_wake(wake) {
                break end;
            }
        };
        self.close_sockets();
        self.apps.values_mut().for_each(|served| served.spans = Way::default());
        tokio::join!(self.registries.end(), self.supervisor.end(), self.exporters.end());
        self.operators.end();
        if let Some(steering) = self.steering {
            steering.end();
        }
        if let Some(node) = self.node {
            node.end();
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
        let farewell = self.node.as_ref().and_then(|node| node.farewells.deadline());
        tokio::select! {
            signal = signals.next() => Wake::Signal(signal),
            event = self.supervisor.next() => Wake::DataPlane(event),
            change = self.registries.next() => Wake::Registry(change),
            numbers = found(&mut self.searches) => Wake::Apps(numbers),
            verdict = self.health_checks.next() => Wake::Health(verdict),
            scrape = self.scrapes.next() => Wake::Scrape(scrape),
            () = until(deadline) => Wake::Deadline,
            () = until(farewell) => Wake::Farewell,
            () = reload::changed(&self.reload) => Wake::Files,
            () = node::changed(&self.node) => Wake::NodeFile,
            order = self.operators.next() => Wake::Order(order),
            event = steering::next(&self.steering) => Wake::Steering(event),
        }
    }

    fn on_wake(&mut self, wake: Wake) -> Option<End> {
        match wake {
            Wake::Apps(numbers) => self.on_apps_found(&numbers),
            Wake::DataPlane(event) => return self.on_data_plane(event),
            Wake::Deadline => return self.on_deadline(),
            Wake::Farewell => self.end_farewells(Instant::now()),
            Wake::Files => self.reload(),
            Wake::NodeFile => self.reload_node(),
            Wake::Health(verdict) => return self.on_verdict(verdict),
            Wake::Order(order) => self.on_order(order),
            Wake::Registry(change) => self.on_registry(change),
            Wake::Scrape(scrape) => {
                if let Some(query) = self.scrapes.ask(scrape, self.own_numbers()) {
                    self.supervisor.send(&ToDataPlane::Stats { query });
                }
            }
            Wake::Signal(signal) => return self.on_signal(signal),
            Wake::Steering(event) => self.on_steering(event),
        }
        None
    }

    fn on_signal(&mut self, signal: Signal) -> Option<End> {
        let name = signal.name();
        if signal == Signal::Hangup && (self.reload.is_some() || self.node.is_some()) {
            self.log.info(format_args!("Received signal '{name}'; reading configuration anew"));
            self.reload();
            self.reload_node();
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
        self.registries.withdraw_all();
        self.release_registrations();
        let Some(block) = self.block_duration else { return self.leave() };
        self.log.info(format_args!(
            "Blocking graceful shutdown for {} or until app reports unhealthy...",
            duration::emit(block)
        ));
        self.stage = Stage::Blocking { until: Instant::now() + block };
        None
    }

    /// Those who know us serve as the measure of those who may be calling us.
    fn leave(&mut self) -> Option<End> {
        if self.supervisor.told().route_count() == 0 {
            return self.begin_drain();
        }
        self.stage = Stage::Leaving { until: Instant::now() + FAREWELL };
        None
    }

    fn begin_drain(&mut self) -> Option<End> {
        self.supervisor.send(&ToDataPlane::Drain);
        self.supervisor.begin_end();
        self.close_sockets();
        self.stage = Stage::Draining { until: Instant::now() + self.graceful_timeout };
        // Without a process there is nothing in flight.
        self.supervisor.is_ended().then_some(End::Clean)
    }

    /// A connection that nobody would accept any more is refused, and its caller turns elsewhere:
    /// that is safe for any call. In the backlog of a socket that is still open it would take the
    /// call with it.
    fn close_sockets(&mut self) {
        for served in self.apps.values_mut() {
            self.pool.leave(std::mem::take(&mut served.sockets));
        }
        self.pool.close();
    }

    fn on_deadline(&mut self) -> Option<End> {
        match self.stage {
            Stage::Serving => None,
            Stage::Leaving { .. } => self.begin_drain(),
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
                if self.steering.as_mut().is_some_and(|steering| steering.on_data_plane(pid)) {
                    self.steer();
                }
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
        self.questions.on_lost();
        self.scrapes.on_lost();
        if !matches!(self.stage, Stage::Draining { .. }) {
            return None;
        }
        self.log.error("Data plane ended before its calls were finished");
        Some(End::Failed)
    }

    fn on_message(&mut self, message: FromDataPlane) -> Option<End> {
        match message {
            FromDataPlane::AdminCall { call, app, request } => {
                return self.on_admin_call(call, app, request);
            }
            FromDataPlane::Drained if matches!(self.stage, Stage::Draining { .. }) => {
                return Some(End::Clean);
            }
            FromDataPlane::Drained
            | FromDataPlane::Hello { .. }
            | FromDataPlane::Listeners { .. }
            | FromDataPlane::Routes(_)
            | FromDataPlane::Resync { .. } => {
                self.log.error("Data plane sent a message out of turn; it is ignored");
            }
            FromDataPlane::ApiCalls(calls) => self.log_calls(&calls),
            FromDataPlane::Live { version } => return self.on_live(version),
            FromDataPlane::Log { level, message } => {
                self.log.scoped("dapr.runtime.dataplane").write(level_of(level), &message);
            }
            FromDataPlane::Resolve { query, id, namespace, is_stale } => {
                if !self.registries.resolve(query, id, namespace, is_stale) {
                    self.supervisor.send(&ToDataPlane::Resolved { query });
                }
            }
            FromDataPlane::Scores { query, scores } => self.questions.answer(query, scores),
            FromDataPlane::Spans(spans) => self.on_spans(spans),
            FromDataPlane::Refused { version, problems } => self.on_refused(version, &problems),
            FromDataPlane::Stats { query, counters, histograms } => {
                self.scrapes.answer(query, &Measured { counters, histograms });
            }
        }
        None
    }

    fn on_live(&mut self, version: Version) -> Option<End> {
        self.live = version;
        // A state in force is the moment from which calls to its apps are answered.
        let end = self.on_apps_live(version);
        self.trim();
        self.reply_up_to(version, 204, "");
        end
    }

    /// When a change of many apps is over, what it took is given back.
    fn trim(&mut self) {
        let is_over = self.live == self.version() && self.searches.is_empty();
        if is_over && self.churn >= CHURN_MIN {
            self.churn = 0;
            heap::give_back();
        }
    }

    fn on_refused(&mut self, version: Version, problems: &[String]) {
        for problem in problems {
            self.log.error(format_args!("State {} was refused: {problem}", version.0));
        }
        self.reply_up_to(version, 500, "the change was refused");
    }

    fn on_registry(&mut self, change: Change) {
        match change {
            Change::Routes(routes) => {
                self.publisher.set_routes(self.supervisor.told(), routes);
                if !self.publisher.is_empty() {
                    self.publish();
                }
            }
            // After the state with the routes that came with it, on the same link.
            Change::Resolved(query) => self.supervisor.send(&ToDataPlane::Resolved { query }),
            Change::Settled => self.on_settled(),
        }
    }

    fn publish(&mut self) -> Version {
        self.publish_with(Vec::new())
    }

    fn publish_with(&mut self, sockets: supervisor::Sockets) -> Version {
        let delta = self.publisher.take(self.supervisor.told());
        let version = delta.version;
        self.supervisor.publish(delta, sockets);
        version
    }

    /// Of the last change that was told.
    fn version(&self) -> Version {
        self.supervisor.told().version
    }
}

impl Stage {
    const fn deadline(self) -> Option<Instant> {
        match self {
            Self::Serving => None,
            Self::Blocking { until }
            | Self::Draining { until }
            | Self::Forcing { until }
            | Self::Leaving { until } => Some(until),
        }
    }
}

/// Some 100 KB of a change's own.
const CHURN_MIN: usize = 32;

const fn level_of(level: LogLevel) -> Level {
    match level {
        LogLevel::Debug => Level::Debug,
        LogLevel::Info => Level::Info,
        LogLevel::Warning => Level::Warning,
        LogLevel::Error => Level::Error,
    }
}

/// The apps that were found; a search that was called off found nothing.
async fn found(searches: &mut JoinSet<u32>) -> Vec<u32> {
    while let Some(first) = searches.join_next().await {
        let more = std::iter::from_fn(|| searches.try_join_next());
        let found: Vec<u32> = std::iter::once(first).chain(more).filter_map(Result::ok).collect();
        if !found.is_empty() {
            return found;
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

/// How long calls are taken after the name was taken back. Callers hear of that in milliseconds on
/// one machine, and within a write and a message to them where a server is in between.
const FAREWELL: Duration = Duration::from_millis(200);
