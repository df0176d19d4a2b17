//! The apps that are served: how they come, change, are found, and go.
//!
//! Each change of the set is one state, however many apps it is about. What one app cannot have
//! does not keep the others from theirs.

#![forbid(unsafe_code)]

use super::{
    End, Sidecar, Stage as Life,
    served::{self, AppError, Prepared, Search, Served, Stage},
    sockets::Bound,
};
use crate::{config::Config, node::changes::Name, shared::Shared, supervisor::Sockets};
use snapshot::{Address, AppHealth, ListenerId, ListenerKind, Version, wire::HoldId};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

/// An app that is not served as it should be.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) name: Name,
    pub(super) reason: AppError,
}

/// What became of a set of apps.
pub(super) struct Outcome {
    /// The state that brings all that changed; the one before, when nothing did.
    pub(super) version: Version,
    pub(super) failures: Vec<Failure>,
}

pub(super) fn name_of(config: &Config) -> Name {
    (config.namespace.clone(), config.app_id.clone())
}

impl Sidecar {
    /// Serves these apps and no others from the next state on.
    pub(super) fn serve(&mut self, wanted: Vec<Arc<Config>>) -> Outcome {
        let mut commons = Shared::default();
        let wanted = wanted.into_iter();
        let wanted = wanted.map(|config| (name_of(&config), self.reachable(config, &mut commons)));
        let wanted: BTreeMap<Name, Arc<Config>> = wanted.collect();
        let is_wanted = |served: &Served| wanted.contains_key(&name_of(&served.config));
        let gone: Vec<u32> = self
            .apps
            .iter()
            .filter_map(|(number, served)| (!is_wanted(served)).then_some(*number))
            .collect();
        gone.iter().for_each(|number| self.remove(*number));
        let known: BTreeMap<Name, u32> =
            self.apps.iter().map(|(number, served)| (name_of(&served.config), *number)).collect();
        let mut update = Update::new(Instant::now() + CHANGE_PATIENCE);
        let mut changing = Vec::new();
        for (name, config) in wanted {
            let number = known.get(&name).copied();
            if let Some(served) = number.and_then(|number| self.apps.get_mut(&number))
                && served.config == config
            {
                // The old one may be the last of its file.
                served.config = config;
                continue;
            }
            changing.push((name, number, config));
        }
        for (_, number, config) in &changing {
            self.lend(*number, config, &mut update);
        }
        for (name, number, config) in changing {
            self.prepare_next(name, number, config, &mut update);
        }
        self.undo_dependent(&mut update);
        let version = self.take_in_all(&mut update);
        Outcome { version, failures: update.failures }
    }

    /// An app that changes offers its sockets: those that it still wants to itself, the others to
    /// everybody, so that apps can swap their ports.
    fn lend(&mut self, number: Option<u32>, config: &Config, update: &mut Update) {
        let Some((number, served)) = number.and_then(|n| self.apps.get_key_value(&n)) else {
            return;
        };
        let wanted = served::tcp_places(config);
        // Port 0 is any port that the app has.
        let is_wanted = |address: &SocketAddr| {
            let ports = wanted.iter().filter(|place| place.ip() == address.ip());
            ports.map(SocketAddr::port).any(|port| port == 0 || port == address.port())
        };
        let is_free = |bound: &Bound| match &bound.address {
            Address::Tcp(address) => {
                bound.listener.kind != ListenerKind::Peer && !is_wanted(address)
            }
            Address::Unix(_) => false,
        };
        update.owners.extend(served.sockets.iter().map(|bound| (bound.listener.id, *number)));
        self.pool.lend(*number, &served.sockets, is_free);
    }

    fn prepare_next(
        &mut self,
        name: Name,
        number: Option<u32>,
        config: Arc<Config>,
        update: &mut Update,
    ) {
        let is_known = number.is_some();
        let Some(number) = number.or_else(|| self.numbers.take()) else {
            update.failures.push(Failure { name, reason: AppError::TooMany });
            return;
        };
        let before = self.supervisor.told().apps.get(number as usize).filter(|_| is_known);
        let before = before.cloned();
        match self.prepare_one(&config, number, before.as_ref(), update.deadline) {
            Ok(prepared) => update.next.push(Next { name, number, is_known, config, prepared }),
            Err(reason) => {
                self.fail(Next { name, number, is_known, config, prepared: () }, reason, update)
            }
        }
    }

    /// The app goes on as it was, if it was.
    fn fail(&mut self, next: Next<()>, reason: AppError, update: &mut Update) {
        if next.is_known {
            update.failed.insert(next.number);
        } else {
            self.numbers.give_back(next.number);
        }
        update.failures.push(Failure { name: next.name, reason });
    }

    /// Whoever took a socket of an app that now keeps it cannot be served so either, and so on.
    fn undo_dependent(&mut self, update: &mut Update) {
        let is_kept = |update: &Update, next: &Next<Prepared>| {
            let owners = next.prepared.sockets.iter().filter_map(|bound| {
                let owner = update.owners.get(&bound.listener.id)?;
                (*owner != next.number && update.failed.contains(owner))
                    .then(|| bound.address.clone())
            });
            owners.into_iter().next()
        };
        loop {
            let mut found = update.next.iter().enumerate();
            let found = found.find_map(|(at, next)| Some((at, is_kept(update, next)?)));
            let Some((at, address)) = found else { break };
            let Next { name, number, is_known, config, prepared } = update.next.remove(at);
            self.pool.undo(prepared.sockets, &update.owners);
            let next = Next { name, number, is_known, config, prepared: () };
            self.fail(next, AppError::Kept(address), update);
        }
        for number in &update.failed {
            self.pool.take_back(&self.apps[number].sockets);
        }
    }

    /// All that could be had becomes one state.
    fn take_in_all(&mut self, update: &mut Update) -> Version {
        let next = std::mem::take(&mut update.next);
        let numbers: Vec<u32> = next.iter().map(|next| next.number).collect();
        self.publisher.clear_listeners(self.supervisor.told(), &numbers);
        let next = next
            .into_iter()
            .map(|Next { number, config, prepared, .. }| (number, config, prepared));
        let sockets = self.take_in(next.collect());
        self.pool.close();
        self.steer();
        let version = match self.publisher.is_empty() {
            true => self.version(),
            false => self.publish_with(sockets),
        };
        for number in numbers {
            if let Some(served) = self.apps.get_mut(&number) {
                served.stage = Stage::Starting(version);
            }
        }
        version
    }

    fn remove(&mut self, number: u32) {
        let Some(served) = self.apps.remove(&number) else { return };
        self.churn += 1;
        self.health_checks.stop(number);
        self.registries.withdraw(&served.entry);
        self.supervisor.release(HoldId(number));
        self.publisher.remove(self.supervisor.told(), number);
        self.pool.leave(served.sockets.clone());
        self.numbers.give_back(number);
    }

    /// Puts apps in their places; returns the sockets that are new. They start with the next state.
    ///
    /// What stays of all of them is made before what the data plane is told of any: that is
    /// replaced as soon as they are found, and leaves whole pages then.
    pub(super) fn take_in(&mut self, prepared: Vec<(u32, Arc<Config>, Prepared)>) -> Sockets {
        self.churn += prepared.len();
        let mut sockets = Vec::new();
        let mut told = Vec::with_capacity(prepared.len());
        for (number, config, mut prepared) in prepared {
            let steering = self.steering.as_ref();
            let group = steering.and_then(|steering| steering.group_of(&config.steering));
            prepared.sockets.iter_mut().for_each(|bound| {
                bound.set_caller(group);
            });
            let new = prepared.sockets.iter().filter(|bound| bound.is_new);
            sockets.extend(new.map(|bound| (bound.listener.id, Arc::clone(&bound.socket))));
            self.health_checks.stop(number);
            let (served, app) = prepared.serve(config);
            self.apps.insert(number, Box::new(served));
            told.push(app);
        }
        for app in told {
            let served = &self.apps[&app.number];
            self.publisher.put(app, served.listeners());
        }
        sockets
    }

    /// Apps whose state is live are told of, and looked for.
    pub(super) fn on_apps_live(&mut self, version: Version) -> Option<End> {
        if !matches!(self.stage, Life::Serving) {
            return None;
        }
        let is_due = |served: &Served| match served.stage {
            Stage::Starting(since) | Stage::Found(since) => since <= version,
            Stage::New | Stage::Looking | Stage::Ready => false,
        };
        let due: Vec<u32> = self
            .apps
            .iter()
            .filter_map(|(number, served)| is_due(served).then_some(*number))
            .collect();
        // All that stays of the registration of many before what is needed only until they are
        // found.
        for number in &due {
            let is_starting = matches!(self.apps[number].stage, Stage::Starting(_));
            let is_sidecar_starting = self.node.is_none() && !self.is_initialized;
            if is_starting && !self.register(*number) && is_sidecar_starting {
                return Some(End::Failed);
            }
        }
        due.into_iter().for_each(|number| self.advance(number));
        None
    }

    fn advance(&mut self, number: u32) {
        let Some(served) = self.apps.get_mut(&number) else { return };
        let due = match served.search {
            Some(Search::Due { asks_config }) => {
                let steering = self.steering.as_ref();
                let hears = steering.is_some_and(|all| all.hears(&served.config.steering));
                served.channel(asks_config, hears, &self.log, &self.patience)
            }
            _ => None,
        };
        if let Some(channel) = due {
            served.stage = Stage::Looking;
            let bell = Arc::clone(&channel.bell);
            let search = async move {
                channel.discover().await;
                number
            };
            served.search = Some(Search::Running { task: self.searches.spawn(search), bell });
            return;
        }
        served.stage = Stage::Ready;
        self.tell_ready(number);
        self.check_health(number);
    }

    fn tell_ready(&mut self, number: u32) {
        let elapsed = self.started.elapsed().as_millis();
        let was_initialized = std::mem::replace(&mut self.is_initialized, true);
        match &self.node {
            None if was_initialized => {}
            None => self
                .log
                .info(format_args!("dapr initialized. Status: Running. Init Elapsed {elapsed}ms")),
            Some(_) => {
                let Config { namespace, app_id, .. } = &*self.apps[&number].config;
                self.log.debug(format_args!("App {namespace}/{app_id} is ready"));
            }
        }
    }

    /// Those that were found at once are one state.
    pub(super) fn on_apps_found(&mut self, numbers: &[u32]) {
        for number in numbers {
            let health = AppHealth { unready: Vec::new(), outbound_ready: true };
            self.publisher.set_health(self.supervisor.told(), *number, health);
        }
        self.churn += numbers.len();
        let version = self.publish();
        for number in numbers {
            if let Some(served) = self.apps.get_mut(number) {
                served.stage = Stage::Found(version);
                served.search = None;
            }
        }
    }

    /// Tells the registries of an app, or what changed of it; `false` when that failed.
    pub(super) fn register(&mut self, number: u32) -> bool {
        let Some(served) = self.apps.get(&number) else { return true };
        let entry = &served.entry;
        if let Err(e) = self.registries.register(entry) {
            let (namespace, id) = (&entry.namespace, &entry.id);
            let text = format!("cannot register app {namespace}/{id}: {e}");
            match self.node {
                None => self.log.fatal(text),
                Some(_) => self.log.error(text),
            }
            return false;
        }
        // The data plane holds the entry's lock, too: an app that is served stays known.
        if let Some(lock) = self.registries.hold(&entry.instance) {
            self.supervisor.hold(HoldId(number), lock);
        }
        true
    }

    pub(super) fn release_registrations(&mut self) {
        for number in self.apps.keys() {
            self.supervisor.release(HoldId(*number));
        }
    }
}

/// A change of the set of apps, while it is made.
struct Update {
    /// For ports in use, all together.
    deadline: Instant,
    /// Whose sockets those of apps that change were until now.
    owners: BTreeMap<ListenerId, u32>,
    next: Vec<Next<Prepared>>,
    /// Apps that go on as they were.
    failed: BTreeSet<u32>,
    failures: Vec<Failure>,
}

/// An app as it is to be served.
struct Next<P> {
    name: Name,
    number: u32,
    /// It is served already, in another way.
    is_known: bool,
    config: Arc<Config>,
    prepared: P,
}

impl Update {
    const fn new(deadline: Instant) -> Self {
        Self {
            deadline,
            owners: BTreeMap::new(),
            next: Vec::new(),
            failed: BTreeSet::new(),
            failures: Vec::new(),
        }
    }
}

/// Ports that were left by the last change are free when the data plane has heard of it.
const CHANGE_PATIENCE: Duration = Duration::from_millis(500);
