//! Steering: control's side of the programs in the kernel. It brings them in, says in their maps
//! who is who, where, and who may connect to whom, and hears what they refused.
//!
//! ```text
//!   settings.rs    what the node's file says        compile.rs    apps → maps, pure
//!   group.rs       the group of our own processes   addresses.rs  this machine's own
//!   accelerate.rs  bytes past TCP
//!   denials.rs     what was refused                 privileges.rs given up after loading
//!   names.rs       addresses that stand for apps    hosts.rs      a file that gives their names
//! ```
//! Programs outlive control, as the data plane does; the next control finds both. A node that is
//! stopped takes them off.

#![forbid(unsafe_code)]

mod accelerate;
mod addresses;
mod compile;
mod denials;
mod group;
mod hosts;
mod names;
mod privileges;
pub(crate) mod settings;

pub(crate) use accelerate::try_acceleration;
pub(crate) use compile::Steered;
pub(crate) use denials::Denial;
pub(crate) use hosts::forget_names;
pub(crate) use settings::{AppSteering, NodeSteering};

use crate::{
    log::Log,
    node::admin::Answer,
    registry::inotify::{DirectoryWatch, Wake, directory_of},
};
use accelerate::{Acceleration, Probe};
use addresses::AddressWatch;
use denials::Denials;
use ebpf_loader::{
    CgroupError, Cgroups, Kernel, KernelError, Start,
    common::{
        Capture, Counter as KernelCounter, Event as KernelEvent, EventKind, Ip, Member, Name, Role,
    },
    pins::{self, Pins},
};
use group::OwnGroup;
use hosts::Hosts;
use names::{Named, Names, Range, Virtuals};
use settings::{Accelerate, Mode};
use sha2::{Digest, Sha256};
use snapshot::{
    CgroupId,
    wire::{Counter, CounterKind},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::Ipv4Addr,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};
use tokio::{io::unix::AsyncFd, sync::Notify, task::JoinSet};

#[derive(Debug, thiserror::Error)]
pub(crate) enum SteeringError {
    #[error("{0}")]
    Cgroup(#[from] CgroupError),
    #[error("{0}")]
    Group(String),
    #[error("{0}")]
    Kernel(#[from] KernelError),
    #[error("acceleration is to be on and cannot: {0}")]
    Acceleration(String),
    #[error("cannot wait for the kernel's events: {0}")]
    Wait(io::Error),
}

pub(crate) struct Steering {
    kernel: Kernel,
    /// Readable when the kernel has something to tell.
    bell: AsyncFd<OwnedFd>,
    cgroups: Cgroups,
    own: OwnGroup,
    /// Of a data plane that an earlier control started.
    plane: Option<u64>,
    names: BTreeMap<u64, String>,
    captures: Captures,
    /// Told once.
    problems: Vec<String>,
    denials: Denials,
    groups: Groups,
    /// `None`: the kernel tells us nothing of them.
    addresses: Option<AddressWatch>,
    /// The group whose processes are seen.
    cgroup: String,
    acceleration: Option<Acceleration>,
    /// There were more events than are taken at once.
    more: Notify,
    log: Log,
}

/// What apps ask for, as far as they are known at the start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) any: bool,
    pub(crate) acceleration: bool,
}

/// Whether an app, by namespace and id, listens.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Heard {
    pub(crate) app: String,
    pub(crate) listens: bool,
}

/// Apps that are called by addresses of theirs, by whoever knows of no sidecar.
struct Captures {
    names: Names,
    range: Range,
    named: Vec<Named>,
    hosts: Option<Hosts>,
}

/// Control groups that come and go with their services.
#[derive(Default)]
struct Groups {
    changed: Arc<Notify>,
    /// Directories in which groups of apps are.
    watched: BTreeSet<PathBuf>,
    watches: JoinSet<()>,
}

/// What wakes control.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Event {
    /// This machine has other addresses.
    Addresses,
    /// Control groups were made or removed.
    Groups,
    Kernel,
}

impl Steering {
    /// As the node's file says, or a sidecar's flags. `None`: without steering, and the log says
    /// why where somebody asked for it.
    ///
    /// # Errors
    /// When it must be on and cannot be.
    pub(crate) fn of_node(
        settings: &NodeSteering,
        wanted: Wanted,
        name: &str,
        log: &Log,
    ) -> Result<Option<Self>, SteeringError> {
        let log = log.scoped("ringcar.steering");
        let accelerates = wanted.acceleration || settings.accelerate != Accelerate::Off;
        let is_wanted = match settings.mode {
            Mode::Auto => wanted.any || accelerates,
            Mode::Off => false,
            Mode::On => true,
        };
        if !is_wanted {
            // Of an earlier control that was told otherwise.
            if let Err(e) = Pins::new(Path::new(pins::FILE_SYSTEM), name).remove() {
                log.warning(format_args!("Programs of an earlier control stay attached: {e}"));
            }
            return Ok(None);
        }
        match Self::start(settings, accelerates, name, &log) {
            Ok(steering) => Ok(Some(steering)),
            Err(e) if settings.mode == Mode::On || settings.accelerate == Accelerate::On => Err(e),
            Err(e) => {
                log.warning(format_args!(
                    "Steering is off: {e}. Apps must call their sidecar by its own port, nothing keeps \
                     connections from going round it, and ports of apps are polled"
                ));
                Ok(None)
            }
        }
    }

    fn start(
        settings: &NodeSteering,
        accelerates: bool,
        name: &str,
        log: &Log,
    ) -> Result<Self, SteeringError> {
        let cgroups = Cgroups::find()?;
        cgroups.id(&settings.cgroup)?;
        let start = Start {
            file_system: pins::FILE_SYSTEM.into(),
            name: name.to_owned(),
            cgroup: cgroups.directory(&settings.cgroup),
            sidecar_port: settings.port,
            when_dead: settings.when_dead,
        };
        let mut kernel = Kernel::start(&start)?;
        let was_there = kernel.is_adopted();
        let own = OwnGroup::enter(&cgroups, name).map_err(SteeringError::Group)?;
        kernel.attach()?;
        let probe = Probe { start: &start, group: own.id, wish: settings.accelerate };
        let acceleration = Acceleration::of_node(probe, accelerates, log)?;
        #[expect(
            deprecated,
            reason = "its hazard is a type that changes its descriptor, which an OwnedFd does not; the successor is unsafe"
        )]
        let bell = kernel.events.as_fd().try_clone_to_owned().and_then(AsyncFd::new);
        let bell = bell.map_err(SteeringError::Wait)?;
        let verb = if was_there { "Took over" } else { "Attached" };
        let directory = cgroups.directory(&settings.cgroup);
        log.info(format_args!(
            "{verb} the programs in the kernel: connections to port {} of loopback are steered in {}",
            settings.port,
            directory.display()
        ));
        if let Err(e) = privileges::give_up() {
            log.warning(format_args!("Privileges that are not needed any more stay: {e}"));
        }
        let captures = Captures {
            names: Names::recall(&kernel.tables.virtuals(), settings.range),
            range: settings.range,
            named: settings.named.clone(),
            hosts: settings.hosts.as_deref().map(|path| Hosts::new(path, name)),
        };
        Ok(Self {
            kernel,
            bell,
            captures,
            cgroups,
            own,
            plane: None,
            names: BTreeMap::new(),
            problems: Vec::new(),
            denials: Denials::default(),
            groups: Groups::default(),
            acceleration,
            addresses: AddressWatch::start()
                .inspect_err(|e| {
                    log.warning(format_args!(
                        "New addresses of this machine count when apps change: {e}"
                    ));
                })
                .ok(),
            cgroup: settings.cgroup.clone(),
            more: Notify::new(),
            log: log.clone(),
        })
    }

    /// Whether the kernel tells when an app listens on loopback.
    pub(crate) fn hears(&self, app: &AppSteering) -> bool {
        let seen = Path::new(&self.cgroup);
        seen == Path::new("/")
            || app.cgroup.as_ref().is_some_and(|group| Path::new(group).starts_with(seen))
    }

    /// The group of an app as it is now. Zero, which is nobody's, while it does not exist.
    pub(crate) fn group_of(&self, app: &AppSteering) -> Option<CgroupId> {
        let path = app.cgroup.as_ref()?;
        Some(CgroupId(self.cgroups.id(path).unwrap_or_default()))
    }

    /// From here on the kernel knows these apps and no others.
    pub(crate) fn set(&mut self, apps: &[Steered<'_>]) {
        let maps = compile::compile(apps);
        let mut members = maps.members;
        let role = Member { role: Role::DataPlane as u16, ..Member::default() };
        members.insert(self.own.id, role);
        members.extend(self.plane.map(|id| (id, role)));
        let (virtuals, hosts_problem) = self.captures.take(apps);
        let problems = [maps.problems, virtuals.problems].concat().into_iter().chain(hosts_problem);
        let problems: Vec<String> = problems.collect();
        if let Some(acceleration) = &mut self.acceleration {
            acceleration.set(apps, [Some(self.own.id), self.plane], &self.log);
        }
        let new = problems.iter().filter(|problem| !self.problems.contains(problem));
        new.for_each(|problem| self.log.warning(format_args!("Steering: {problem}")));
        self.problems = problems;
        self.names = maps.names;
        let named = virtuals.places.values();
        self.names
            .extend(named.map(|name| (u64::from(Name::number(name.as_bytes())), name.clone())));
        for app in apps {
            if let Some(path) = &app.settings.cgroup {
                self.groups.watch(&self.cgroups.directory(path), &self.log);
            }
        }
        let tables = &mut self.kernel.tables;
        // An app is known before it is judged, and nobody is steered to what does not listen yet.
        let written = tables
            .set_places(&maps.places)
            .and_then(|()| tables.set_local_ips(local_ips()))
            .and_then(|()| self.kernel.rules.set(maps.rules).map(drop))
            .and_then(|()| tables.set_virtuals(&virtuals.places))
            .and_then(|()| tables.set_members(&members));
        if let Err(e) = written {
            self.log.error(format_args!("The kernel does not know all apps: {e}"));
        }
    }

    /// At whichever of them an app is dialled, it is the app.
    pub(crate) fn on_addresses(&mut self) {
        if let Err(e) = self.kernel.tables.set_local_ips(local_ips()) {
            self.log.error(format_args!("The kernel does not know all addresses: {e}"));
        }
    }

    /// What it connects to is what it was asked to carry. One that was started here is in our own
    /// group. Whether that is news.
    pub(crate) fn on_data_plane(&mut self, pid: u32) -> bool {
        let plane = group::of_process(&self.cgroups, pid).filter(|id| *id != self.own.id);
        std::mem::replace(&mut self.plane, plane) != plane
    }

    /// What the kernel has to tell of apps; denials are noted here.
    pub(crate) fn take_events(&mut self) -> Vec<Heard> {
        let mut heard = Vec::new();
        for _ in 0..EVENTS_AT_ONCE {
            let Some(event) = self.kernel.events.take() else {
                self.denials.tell_followers();
                return heard;
            };
            heard.extend(self.hear(&event));
            if let Some(line) = self.denials.take(&event, &self.names, Instant::now()) {
                self.log.warning(line);
            }
        }
        // The rest after whatever else waits.
        self.more.notify_one();
        heard
    }

    fn hear(&self, event: &KernelEvent) -> Option<Heard> {
        let listens = match EventKind::from_number(event.kind)? {
            EventKind::Listening => true,
            EventKind::NotListening => false,
            EventKind::DeniedAtApi | EventKind::DeniedByRule | EventKind::DeniedPlaneDead => {
                return None;
            }
        };
        Some(Heard { app: self.names.get(&event.callee)?.clone(), listens })
    }

    /// For the data plane, if anything is accelerated.
    pub(crate) fn credits(&self) -> Option<OwnedFd> {
        self.acceleration.as_ref()?.credits(&self.log)
    }

    /// Oldest first.
    pub(crate) fn denials(&self) -> Vec<&Denial> {
        self.denials.after(0)
    }

    /// What is denied after this number is answered, as soon as there is any.
    pub(crate) fn follow_denials(&mut self, after: u64, answer: Answer) {
        self.denials.follow(after, answer);
    }

    /// For the metrics page.
    pub(crate) fn counters(&self) -> Vec<Counter> {
        let counters = KernelCounter::ALL.iter().filter_map(|counter| {
            let value = self.kernel.tables.counter(*counter).ok()?;
            Some(sample(
                "ringcar_steering_connects_total",
                vec![label("end", name_of(*counter))],
                value,
            ))
        });
        let pairs = self.kernel.tables.pairs().into_iter().flat_map(|pair| {
            let name = |number: u64| self.names.get(&number).map_or("-", String::as_str).to_owned();
            let counts = [
                ("passed", pair.count.passed),
                ("redirected", pair.count.redirected),
                ("denied", pair.count.denied),
                ("captured", pair.count.captured),
                ("shadowed", pair.count.shadowed),
            ];
            let labels = [("caller", name(pair.caller)), ("callee", name(pair.callee))];
            counts.into_iter().filter(|(_, count)| *count > 0).map(move |(end, count)| {
                let pair = labels.iter().map(|(key, name)| label(key, name));
                let labels = pair.chain([label("end", end)]).collect();
                sample("ringcar_direct_connects_total", labels, count)
            })
        });
        let accelerated = self.acceleration.iter().flat_map(Acceleration::counters);
        counters.chain(pairs).chain(accelerated).collect()
    }

    /// Takes the programs off.
    pub(crate) fn end(mut self) {
        if let Some(problem) = self.captures.clear() {
            self.log.error(problem);
        }
        if let Err(e) = self.kernel.detach() {
            self.log.error(format_args!("Programs stay attached: {e}; ringcar ebpf uninstall"));
        }
        self.own.leave();
    }
}

impl Captures {
    /// What stands for what, once any app is to be captured; and why resolvers do not know.
    fn take(&mut self, apps: &[Steered<'_>]) -> (Virtuals, Option<String>) {
        let is_any = |wanted| apps.iter().any(|app| app.settings.capture == wanted);
        if !is_any(Capture::On) && !is_any(Capture::Shadow) {
            return (Virtuals::default(), self.clear());
        }
        let names = apps
            .iter()
            .flat_map(|app| [app.id.as_str().to_owned(), format!("{}.{}", app.id, app.namespace)]);
        let virtuals = self.names.assign(names.collect(), &self.named, self.range);
        // Whom nobody captures shall not find others than before by their names.
        let problem = if is_any(Capture::On) { self.tell(&virtuals.hosts) } else { self.clear() };
        (virtuals, problem)
    }

    fn clear(&mut self) -> Option<String> {
        self.tell(&BTreeMap::new())
    }

    fn tell(&mut self, names: &BTreeMap<String, Ipv4Addr>) -> Option<String> {
        let hosts = self.hosts.as_mut()?;
        let reason = hosts.set(names).err()?;
        Some(format!("the names of apps are not in {}: {reason}", hosts.path().display()))
    }
}

impl Wanted {
    pub(crate) fn by<'a>(apps: impl IntoIterator<Item = &'a AppSteering>) -> Self {
        apps.into_iter().fold(Self::default(), |wanted, app| Self {
            any: wanted.any || app.is_any(),
            acceleration: wanted.acceleration || app.accelerates(Accelerate::Off),
        })
    }
}

impl Groups {
    fn watch(&mut self, group: &Path, log: &Log) {
        let directory = directory_of(group);
        if self.watched.contains(&directory) || self.watched.len() >= WATCHES_MAX {
            return;
        }
        let mut watch = match DirectoryWatch::start(&directory, Wake::OnClose) {
            Ok(watch) => watch,
            Err(e) => {
                log.warning(format_args!("Steering: {e}; SIGHUP looks for the group again"));
                return;
            }
        };
        self.watched.insert(directory);
        let changed = Arc::clone(&self.changed);
        self.watches.spawn(async move {
            while watch.changed().await.is_ok() {
                changed.notify_one();
            }
        });
    }
}

/// Names are a runtime directory's own, and the kernel has one place for all of them.
pub(crate) fn pin_name(node: &str, runtime_dir: &Path) -> String {
    let hash = Sha256::digest(runtime_dir.as_os_str().as_bytes());
    let hash: String = hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("{node}-{hash}")
}

/// Dropping the future before it is ready loses nothing.
pub(crate) async fn next(steering: &Option<Steering>) -> Event {
    let Some(steering) = steering else { return std::future::pending().await };
    tokio::select! {
        ready = steering.bell.readable() => match ready {
            Ok(mut ready) => {
                // Cleared before the events are taken: what comes later sets it again.
                ready.clear_ready();
                Event::Kernel
            }
            Err(_) => std::future::pending().await,
        },
        () = addresses_changed(steering) => Event::Addresses,
        () = steering.groups.changed.notified() => Event::Groups,
        () = steering.more.notified() => Event::Kernel,
    }
}

fn local_ips() -> impl Iterator<Item = Ip> {
    addresses::own().into_iter().map(compile::ip_of)
}

async fn addresses_changed(steering: &Steering) {
    match &steering.addresses {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

fn sample(name: &str, labels: Vec<(String, String)>, value: u64) -> Counter {
    #[expect(clippy::cast_precision_loss, reason = "the page's numbers are doubles")]
    let value = value as f64;
    Counter { name: name.to_owned(), labels, kind: CounterKind::Counter, value }
}

fn label(key: &str, value: &str) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

const fn name_of(counter: KernelCounter) -> &'static str {
    match counter {
        KernelCounter::Connects => "seen",
        KernelCounter::Steered => "steered",
        KernelCounter::Redirected => "redirected",
        KernelCounter::Denied => "denied",
        KernelCounter::Identified => "identified",
        KernelCounter::FlowsFull => "unidentified_flows_full",
        KernelCounter::StorageFull => "refused_memory",
        KernelCounter::EventsLost => "event_lost",
        KernelCounter::PlaneDead => "no_data_plane",
        KernelCounter::Elsewhere => "other_network_namespace",
        KernelCounter::Captured => "captured",
    }
}

/// Then others have their turn.
const EVENTS_AT_ONCE: usize = 256;

/// Directories with apps' groups in them; a slice of systemd is one.
const WATCHES_MAX: usize = 1024;
