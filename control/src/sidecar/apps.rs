//! The apps that are served: how they come, change, are found, and go.
//!
//! Each change of the set is one state, however many apps it is about. What one app cannot have
//! does not keep the others from theirs.

#![forbid(unsafe_code)]

use super::{
    End, Sidecar, Stage as Life,
    served::{self, AppError, Served, Stage},
};
use crate::{config::Config, node::changes::Name, supervisor};
use snapshot::{App, AppHealth, Version, wire::HoldId};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
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
        let wanted = wanted.into_iter().map(|config| (name_of(&config), self.reachable(config)));
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
        for (name, config) in wanted {
            let number = known.get(&name).copied();
            if let Some(served) = number.and_then(|number| self.apps.get_mut(&number))
                && served.config == config
            {
                // The old one may be the last of its file.
                served.config = config;
                continue;
            }
            let result = match number {
                Some(number) => self.change(number, &config, &mut update),
                None => self.add(&config, &mut update),
            };
            if let Err(reason) = result {
                update.failures.push(Failure { name, reason });
            }
        }
        self.pool.close();
        let version = match self.publisher.is_empty() {
            true => self.version(),
            false => self.publish_with(update.sockets),
        };
        for number in update.changed {
            if let Some(served) = self.apps.get_mut(&number) {
                served.stage = Stage::Starting(version);
            }
        }
        Outcome { version, failures: update.failures }
    }

    fn remove(&mut self, number: u32) {
        let Some(served) = self.apps.remove(&number) else { return };
        self.registries.withdraw(&served.entry);
        self.supervisor.release(HoldId(number));
        self.publisher.remove(self.supervisor.told(), number);
        self.pool.leave(served.sockets.clone());
        self.numbers.give_back(number);
    }

    fn add(&mut self, config: &Arc<Config>, update: &mut Update) -> Result<(), AppError> {
        let number = self.numbers.take().ok_or(AppError::TooMany)?;
        let result = self.put(config, number, None, update);
        if result.is_err() {
            self.numbers.give_back(number);
        }
        result
    }

    fn change(
        &mut self,
        number: u32,
        config: &Arc<Config>,
        update: &mut Update,
    ) -> Result<(), AppError> {
        let before = self.supervisor.told().apps.get(number as usize).cloned();
        self.pool.lend(number, &self.apps[&number].sockets);
        let result = self.put(config, number, before.as_ref(), update);
        if result.is_err() {
            self.pool.take_back(number);
        }
        result
    }

    fn put(
        &mut self,
        config: &Arc<Config>,
        number: u32,
        before: Option<&App>,
        update: &mut Update,
    ) -> Result<(), AppError> {
        let prepared = self.prepare_one(config, number, before, update.deadline)?;
        update.changed.push(number);
        self.take_in(number, Arc::clone(config), prepared, &mut update.sockets);
        Ok(())
    }

    /// Puts an app in its place. It starts with the next state.
    pub(super) fn take_in(
        &mut self,
        number: u32,
        config: Arc<Config>,
        prepared: served::Prepared,
        sockets: &mut supervisor::Sockets,
    ) {
        let new = prepared.sockets.iter().filter(|bound| bound.is_new);
        sockets.extend(new.map(|bound| (bound.listener.id, Arc::clone(&bound.socket))));
        let listeners = prepared.listeners();
        let (served, app, metadata) = prepared.serve(config);
        self.publisher.put(self.supervisor.told(), app, &metadata, listeners);
        self.apps.insert(number, served);
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
        for number in due {
            let is_starting = matches!(self.apps[&number].stage, Stage::Starting(_));
            let is_sidecar_starting = self.node.is_none() && !self.is_initialized;
            if is_starting && !self.register(number) && is_sidecar_starting {
                return Some(End::Failed);
            }
            self.advance(number);
        }
        None
    }

    fn advance(&mut self, number: u32) {
        let Some(served) = self.apps.get_mut(&number) else { return };
        if let Some(channel) = served.channel.take() {
            served.stage = Stage::Looking;
            let search = async move {
                channel.discover().await;
                number
            };
            served.search = Some(self.searches.spawn(search));
            return;
        }
        served.stage = Stage::Ready;
        self.tell_ready(number);
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
    sockets: supervisor::Sockets,
    changed: Vec<u32>,
    failures: Vec<Failure>,
}

impl Update {
    const fn new(deadline: Instant) -> Self {
        Self { deadline, sockets: Vec::new(), changed: Vec::new(), failures: Vec::new() }
    }
}

/// Ports that were left by the last change are free when the data plane has heard of it.
const CHANGE_PATIENCE: Duration = Duration::from_millis(500);
