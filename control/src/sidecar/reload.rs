//! Configuration read anew, at SIGHUP and when one of its files changes.
//!
//! All of it is validated before any of it is in force; what cannot be read leaves everything as it
//! was, which the log says once. Calls notice nothing: new limits come as a new state.

#![forbid(unsafe_code)]

use super::Sidecar;
use crate::{
    config::{Config, flags::Values},
    log::Log,
    registry::{
        Settings,
        inotify::{DirectoryWatch, Wake, directory_of},
    },
};
use snapshot::policy::{Guards, resiliency::Resiliency};
use std::{path::Path, sync::Arc};
use tokio::{sync::Notify, task::JoinSet};

/// Reads flags, variables and files as at start.
pub(crate) type Configure = Box<dyn Fn() -> Result<(Values, Config), String>>;

pub(super) struct Reload {
    configure: Configure,
    values: Values,
    registries: Arc<Settings>,
    resiliency: Option<Arc<Resiliency>>,
    guards: Arc<Guards>,
    changed: Arc<Notify>,
    /// End with the sidecar.
    _watches: JoinSet<()>,
    /// What was wrong the last time.
    refusal: Option<String>,
}

impl Reload {
    /// `None` where there are no files. Must be called within the runtime.
    fn start(configure: Configure, values: Values, config: &Config, log: &Log) -> Option<Self> {
        let paths: Vec<String> = values.list("config").into_iter().map(str::to_owned).collect();
        let is_without_files = paths.is_empty() && config.resources.is_empty();
        if is_without_files || values.text("mode") == "kubernetes" {
            return None;
        }
        let changed = Arc::new(Notify::new());
        let mut watches = JoinSet::new();
        let mut directories: Vec<_> =
            paths.iter().map(|path| directory_of(Path::new(path))).collect();
        directories.extend(config.resources.iter().cloned());
        directories.sort();
        directories.dedup();
        for directory in directories {
            match DirectoryWatch::start(&directory, Wake::OnClose) {
                Ok(mut watch) => {
                    let changed = Arc::clone(&changed);
                    watches.spawn(async move {
                        while watch.changed().await.is_ok() {
                            changed.notify_one();
                        }
                    });
                }
                Err(e) => log.warning(format_args!("{e}; SIGHUP reads the configuration anew")),
            }
        }
        let (registries, guards) = (Arc::clone(&config.registries), Arc::clone(&config.guards));
        let (resiliency, _watches) = (config.resiliency.clone(), watches);
        Some(Self {
            configure,
            values,
            registries,
            resiliency,
            guards,
            changed,
            _watches,
            refusal: None,
        })
    }

    /// The keys that changed and wait for a restart.
    fn waiting(&self, values: &Values, config: &Config) -> Vec<&'static str> {
        let pairs = self.values.iter().zip(values.iter());
        let changed =
            pairs.filter(|((key, old), (_, new))| !key.is_reloaded && old.text() != new.text());
        let names = changed.map(|((key, _), _)| key.name);
        let registries = (self.registries != config.registries).then_some("spec.nameResolution");
        names.chain(registries).collect()
    }
}

/// Ready when a file may have changed.
pub(super) async fn changed(reload: &Option<Reload>) {
    match reload {
        Some(reload) => reload.changed.notified().await,
        None => std::future::pending().await,
    }
}

impl Sidecar {
    /// From here on the files are watched.
    pub(crate) fn watch_files(&mut self, configure: Configure, values: Values, config: &Config) {
        self.reload = Reload::start(configure, values, config, &self.log);
    }

    pub(super) fn reload(&mut self) {
        let Some(reload) = &mut self.reload else { return };
        let (values, config) = match (reload.configure)() {
            Ok(read) => read,
            Err(reason) => {
                if reload.refusal.as_ref() != Some(&reason) {
                    self.log.error(format_args!(
                        "Configuration is not reloaded, and what was in force stays: {reason}"
                    ));
                    reload.refusal = Some(reason);
                }
                return;
            }
        };
        let was_refused = reload.refusal.take().is_some();
        let waiting = reload.waiting(&values, &config);
        if !waiting.is_empty() {
            let names = waiting.join(", ");
            self.log.warning(format_args!("Changes of {names} wait for the next start"));
        }
        let is_same =
            reload.values.iter().zip(values.iter()).all(|((_, a), (_, b))| a.text() == b.text())
                && reload.resiliency == config.resiliency
                && reload.guards == config.guards;
        reload.resiliency.clone_from(&config.resiliency);
        reload.values = values;
        reload.guards = Arc::clone(&config.guards);
        reload.registries = Arc::clone(&config.registries);
        if !is_same {
            self.apply(&config);
        }
        if !is_same || was_refused {
            self.log.info("Configuration reloaded");
        }
    }

    fn apply(&mut self, config: &Config) {
        self.log.set_threshold(config.log.threshold);
        self.graceful_timeout = config.graceful_timeout;
        self.block_duration = config.block_duration;
        for number in self.apps.keys() {
            let (body, head) = (config.body_bytes_max, config.head_bytes_max());
            let (told, policies) = (self.supervisor.told(), config.resiliency.as_ref());
            self.publisher.set_limits(told, *number, body, head, policies);
            self.publisher.set_guards(self.supervisor.told(), *number, &config.guards);
        }
        self.publish();
    }
}
