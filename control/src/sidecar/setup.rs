//! From a configuration to a control that can run: data plane adopted or none there, sockets bound,
//! registries watched, first state made.
//!
//! Sockets come first: what fails most often fails before anything else has been started, and
//! before an adopted data plane was told anything.

#![forbid(unsafe_code)]

use super::{
    Sidecar, Stage,
    apps::name_of,
    node::Node,
    numbers::Numbers,
    questions::{Operators, Questions},
    scrapes::Scrapes,
    served::{self, AppError, Place, Prepared},
    sockets::Pool,
};
use crate::{
    admin::page,
    adopt::{self, AdoptError, Adopted, Found, Predecessor},
    app_channel::Patience,
    app_health::HealthChecks,
    claim::{Claim, ClaimError, PlaneName},
    config::Config,
    grpc_port::GrpcPort,
    instance,
    listen::{self, Bound, ListenError},
    log::Log,
    node::{changes::Name, config::NodeConfig},
    publish::Publisher,
    registry::{Registries, RegistryError},
    runtime_dir::{RuntimeDir, RuntimeDirError},
    steering::{self, Steering, SteeringError, Wanted},
    supervisor::{Program, Supervisor},
    tracing::Exporters,
    version,
};
use snapshot::{App, AppId, Namespace, OnControlLost, Version};
use std::{
    collections::{BTreeMap, VecDeque},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::{task::JoinSet, time::Instant};

#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("{0}")]
    Adopt(#[from] AdoptError),
    #[error("{0}")]
    App(#[from] AppError),
    #[error("{0}")]
    Claim(#[from] ClaimError),
    #[error("{0}")]
    Listen(#[from] ListenError),
    #[error("{0}")]
    Registry(#[from] RegistryError),
    #[error("{0}")]
    RuntimeDir(#[from] RuntimeDirError),
    #[error("steering is to be on and cannot: {0}")]
    Steering(#[from] SteeringError),
    #[error("cannot serve the metrics page: {0}")]
    Page(io::Error),
    #[error("cannot listen for signals: {0}")]
    Signals(io::Error),
}

/// What a control is to do.
struct Plan<'a> {
    name: PlaneName,
    /// Of the process: log, metrics page, registries, times.
    base: &'a Config,
    apps: Vec<Arc<Config>>,
    on_control_lost: OnControlLost,
    /// An app of a node that cannot be served is left out, instead of ending all.
    node: Option<Node>,
    steering: Option<Steering>,
}

/// Must be called within the runtime the sidecar will run on.
///
/// # Errors
/// When something that was asked for cannot be had.
pub(crate) async fn prepare(config: &Config, log: &Log) -> Result<Sidecar, StartError> {
    say_start(config, log);
    let on_control_lost = match config.process.keep_data_plane {
        time if time.is_zero() => OnControlLost::Exit,
        time => OnControlLost::ServeFor(time),
    };
    let (name, apps) = (plane_name(config), vec![Arc::new(config.clone())]);
    let dir = runtime_dir()?;
    let claim = claim(&name, &dir, log).await?;
    let settings = config.steers.as_deref().cloned().unwrap_or_default();
    let pin_name = steering::pin_name(name.as_str(), dir.path());
    let steering = Steering::of_node(&settings, Wanted::by([&*config.steering]), &pin_name, log)?;
    let plan = Plan { name, base: config, apps, on_control_lost, node: None, steering };
    let mut sidecar = start(plan, claim, dir, log).await?;
    sidecar.grpc_port = GrpcPort::start(config, log);
    Ok(sidecar)
}

/// As [`prepare`], for the apps of a node.
///
/// # Errors
/// When something that was asked for cannot be had, except by a single app.
pub(crate) async fn prepare_node(
    mut config: NodeConfig,
    files: crate::node::Files,
    log: &Log,
) -> Result<Sidecar, StartError> {
    say_start(&config.base, log);
    let dir = runtime_dir()?;
    let name = PlaneName::of_node(&config.name);
    let claim = claim(&name, &dir, log).await?;
    let mut node = Node::start(&mut config, files, &dir, &name, log);
    let on_control_lost = config.on_control_lost;
    let apps = node.wanted(log);
    let wanted = Wanted::by(apps.iter().map(|app| &*app.steering));
    let pin_name = steering::pin_name(&config.name, dir.path());
    let steering = Steering::of_node(&config.steering, wanted, &pin_name, log)?;
    let node = Some(node);
    let plan = Plan { name, base: &config.base, apps, on_control_lost, node, steering };
    let control = start(plan, claim, dir, log).await?;
    log.info(format_args!("Node {} serves {} apps", config.name, control.apps.len()));
    Ok(control)
}

fn say_start(config: &Config, log: &Log) {
    log.info(format_args!(
        "Starting Dapr Runtime -- version {} -- commit {}",
        version::DAPR,
        version::COMMIT
    ));
    log.info(format_args!("Log level set to: {}", config.process.log.threshold.name()));
    config.warnings.iter().for_each(|warning| log.warning(warning));
}

fn runtime_dir() -> Result<RuntimeDir, StartError> {
    let dir = RuntimeDir::locate()?;
    dir.create()?;
    Ok(dir)
}

/// An app may run twice, but not at the same place: whoever starts it there once more continues
/// what was there.
fn plane_name(config: &Config) -> PlaneName {
    let Config { app_id, namespace, http_port, .. } = config;
    let label = app_id.as_str();
    let place = match &config.unix_socket_directory {
        Some(directory) => directory.display().to_string(),
        // Any port: no later one will be the same.
        None if *http_port == 0 => instance::draw().0.into(),
        None => format!("{}:{http_port}", config.listen_hosts.join(",")),
    };
    PlaneName::new(label, &format!("{namespace}/{label} at {place}"))
}

async fn claim(name: &PlaneName, dir: &RuntimeDir, log: &Log) -> Result<Claim, ClaimError> {
    let on_wait = |reason: &ClaimError| {
        log.warning(format_args!("{reason}; trying again for {:?}", listen::RETRY));
    };
    Claim::take(dir, name, listen::RETRY, on_wait).await
}

async fn start(
    mut plan: Plan<'_>,
    claim: Claim,
    dir: RuntimeDir,
    log: &Log,
) -> Result<Sidecar, StartError> {
    let started = Instant::now();
    let base = plan.base;
    let found = adopt::adopt(claim.link_socket(), listen::RETRY, log).await?;
    let (mut adopted, predecessor) = match found {
        Some(Found::Adopted(adopted)) => (Some(adopted), None),
        Some(Found::Predecessor(predecessor)) => (None, Some(predecessor)),
        None => (None, None),
    };
    let held_apps = take_held(&mut adopted, |adopted| &mut adopted.held.apps);
    let version = adopted.as_deref().map(|adopted| adopted.held.version).unwrap_or_default();
    adopted.iter().for_each(|adopted| tell_adoption(adopted, &mut plan.steering, log));
    let operators = Operators::meet(&plan.name, plan.node.is_some(), &dir, log)?;
    let metrics = base.process.metrics.as_ref();
    let metrics = metrics.map(|place| bind_tcp(&place.host, place.port, log)).transpose()?;
    let mut sidecar = Sidecar {
        claim,
        log: log.clone(),
        started,
        publisher: Publisher::default(),
        supervisor: Supervisor::new(program(&plan, &dir), version, log.clone()),
        registries: Registries::idle(log),
        reached_by: Arc::clone(&base.registries),
        dir,
        apps: BTreeMap::new(),
        numbers: Numbers::of_held(&held_apps, version),
        pool: adopted.as_deref().map_or_else(Pool::default, Pool::inherit),
        searches: JoinSet::new(),
        patience: Patience::default(),
        health_checks: HealthChecks::default(),
        grpc_port: GrpcPort::default(),
        metrics_port: metrics.as_ref().map_or(0, |bound| bound.address.port()),
        scrapes: Scrapes::new(None),
        reload: None,
        node: plan.node.take(),
        operators,
        questions: Questions::default(),
        steering: plan.steering.take(),
        replies: VecDeque::new(),
        exporters: Exporters::new(log),
        live: Version::default(),
        churn: 0,
        is_initialized: false,
        stage: Stage::Serving,
        block_duration: base.process.block_duration,
        graceful_timeout: base.process.graceful_timeout,
    };
    let numbers = sidecar.inherit(predecessor.as_deref());
    sidecar.take_apps(plan.apps, &held_apps, numbers)?;
    drop(held_apps);
    let incoming =
        metrics.map(|bound| page::serve(bound.socket)).transpose().map_err(StartError::Page)?;
    sidecar.scrapes = Scrapes::new(incoming);
    sidecar.scrapes.set_rules(&base.telemetry.rules);
    let entries: Vec<_> = sidecar.apps.values().map(|served| &served.entry).collect();
    let held_routes = take_held(&mut adopted, |adopted| &mut adopted.routes);
    sidecar.registries =
        Registries::start(&base.registries, &sidecar.dir, &entries, held_routes, log)?;
    sidecar.take_routes(plan.on_control_lost);
    if let Some(predecessor) = predecessor {
        sidecar.supervisor.relieve(predecessor, base.process.graceful_timeout);
    }
    sidecar.start_apps(adopted);
    Ok(sidecar)
}

/// Part of what an adopted data plane has; nothing where none was adopted.
fn take_held<T: Default>(
    adopted: &mut Option<Box<Adopted>>,
    part: impl FnOnce(&mut Adopted) -> &mut T,
) -> T {
    adopted.as_deref_mut().map(|adopted| std::mem::take(part(adopted))).unwrap_or_default()
}

fn tell_adoption(
    Adopted { introduction, held, .. }: &Adopted,
    steering: &mut Option<Steering>,
    log: &Log,
) {
    let (process, state) = (introduction.pid, held.version.0);
    log.info(format_args!("Adopted the running data plane (process {process}) at state {state}"));
    if let Some(steering) = steering {
        // Before the kernel hears of the apps: its connects must not be judged for a moment.
        steering.on_data_plane(process);
    }
}

fn bind_tcp(host: &str, port: u16, log: &Log) -> Result<Bound, ListenError> {
    listen::tcp(host, port, listen::RETRY, |reason| {
        log.warning(format_args!("{reason}; trying again for {:?}", listen::RETRY));
    })
}

impl Sidecar {
    /// What the first state says of apps elsewhere, and of a control that goes.
    fn take_routes(&mut self, on_control_lost: OnControlLost) {
        self.supervisor.set_resolver(self.registries.can_resolve());
        let (told, routes) = (self.supervisor.told(), self.registries.routes());
        self.publisher.set_routes(told, routes);
        self.publisher.set_on_control_lost(told, on_control_lost);
    }

    /// Sockets of a data plane of another version, which may be taken by the apps that have them;
    /// the numbers of those apps.
    fn inherit(&mut self, predecessor: Option<&Predecessor>) -> BTreeMap<Name, u32> {
        if let Some(map) = self.steering.as_ref().and_then(Steering::credits) {
            self.supervisor.set_credits(map);
        }
        let mut numbers = BTreeMap::new();
        for (socket, descriptor) in predecessor.into_iter().flat_map(|p| &p.sockets) {
            let name = Namespace::new(&socket.namespace).ok().zip(AppId::new(&socket.id).ok());
            let (Some(name), Some(kind)) = (name, socket.kind()) else { continue };
            let number = match numbers.get(&name) {
                Some(number) => Some(*number),
                None => self.numbers.take(),
            };
            let Some(number) = number else { continue };
            numbers.insert(name, number);
            self.pool.inherit_new(kind, number, descriptor);
        }
        numbers
    }

    /// Gathers what each app takes. Those of an earlier control keep their numbers.
    fn take_apps(
        &mut self,
        apps: Vec<Arc<Config>>,
        held: &[App],
        mut numbers: BTreeMap<Name, u32>,
    ) -> Result<(), AppError> {
        let mut held: BTreeMap<_, &App> =
            held.iter().map(|app| ((app.namespace.clone(), app.id.clone()), app)).collect();
        let deadline = Instant::now() + listen::RETRY;
        let mut taken = Vec::with_capacity(apps.len());
        for config in apps {
            let before = held.remove(&name_of(&config));
            let number = before.map(|app| app.number).or_else(|| numbers.remove(&name_of(&config)));
            let number = number.or_else(|| self.numbers.take()).ok_or(AppError::TooMany)?;
            match self.prepare_one(&config, number, before, deadline) {
                Ok(prepared) => taken.push((number, config, prepared)),
                Err(e) if self.node.is_some() => {
                    let (namespace, id) = (&config.namespace, &config.app_id);
                    self.log.error(format_args!("App {namespace}/{id} is not served: {e}"));
                    self.numbers.give_back(number);
                }
                Err(e) => return Err(e),
            }
        }
        // Their sockets go with the first state, as all there are.
        self.take_in(taken);
        held.into_values().for_each(|app| self.numbers.give_back(app.number));
        numbers.into_values().for_each(|number| self.numbers.give_back(number));
        self.steer();
        Ok(())
    }

    pub(super) fn prepare_one(
        &mut self,
        config: &Config,
        number: u32,
        before: Option<&App>,
        deadline: Instant,
    ) -> Result<Prepared, AppError> {
        let place = Place {
            dir: &self.dir,
            log: &self.log,
            patience: deadline.saturating_duration_since(Instant::now()),
            metrics_port: self.metrics_port,
            node: self.node.as_ref().map(|node| &node.name),
            control: self.operators.socket(),
            before,
        };
        served::prepare(config, number, &mut self.pool, &place)
    }

    /// From here on the data plane follows this control.
    fn start_apps(&mut self, adopted: Option<Box<Adopted>>) {
        let bound = self.apps.values().flat_map(|served| &served.sockets);
        let sockets = bound.map(|b| (b.listener.id, Arc::clone(&b.socket))).collect();
        let version = self.publish_with(sockets);
        for served in self.apps.values_mut() {
            served.stage = served::Stage::Starting(version);
        }
        if let Some(adopted) = adopted {
            self.supervisor.adopt(*adopted);
        }
        self.pool.close();
    }
}

/// The same executable, even where its file was replaced meanwhile: both ends then speak the same
/// link protocol.
fn program(plan: &Plan<'_>, dir: &RuntimeDir) -> Program {
    let link_socket: &Path = &dir.link_socket(&plan.name);
    Program {
        path: PathBuf::from("/proc/self/exe"),
        arguments: vec!["dataplane".into(), "--link-stdin".into()],
        link_socket: link_socket.to_owned(),
    }
}
