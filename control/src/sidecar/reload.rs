//! Configuration read anew, at SIGHUP and when one of its files changes.
//!
//! All of it is validated before any of it is in force; what cannot be read leaves everything as it
//! was, which the log says once. Calls notice nothing: new limits come as a new state.

#![forbid(unsafe_code)]

use super::{Sidecar, watches::Watches};
use crate::{
    config::{Common, Config, flags::Values, telemetry},
    log::Log,
    registry::inotify::directory_of,
    resources::InScope,
};
use snapshot::policy::{Guards, resiliency::Resiliency};
use std::{path::Path, sync::Arc};

/// Reads flags, variables and files as at start.
pub(crate) type Configure = Box<dyn Fn() -> Result<(Values, Config), String>>;

pub(super) struct Reload {
    configure: Configure,
    values: Values,
    resiliency: Option<Arc<Resiliency>>,
    in_scope: Arc<InScope>,
    /// Said already.
    warnings: Vec<String>,
    guards: Arc<Guards>,
    telemetry: Arc<telemetry::Options>,
    watches: Watches,
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
        let mut watches = Watches::default();
        let files = paths.iter().map(|path| directory_of(Path::new(path)));
        watches.add(files.chain(config.resources.iter().cloned()).collect::<Vec<_>>(), log);
        let (guards, resiliency) = (Arc::clone(&config.guards), config.resiliency.clone());
        let telemetry = Arc::clone(&config.telemetry);
        let (in_scope, warnings) = (Arc::clone(&config.in_scope), config.warnings.clone());
        Some(Self {
            configure,
            values,
            resiliency,
            in_scope,
            warnings,
            guards,
            telemetry,
            watches,
            refusal: None,
        })
    }

    /// The keys that changed and wait for a restart.
    fn waiting(&self, values: &Values) -> Vec<&'static str> {
        let pairs = self.values.iter().zip(values.iter());
        let changed =
            pairs.filter(|((key, old), (_, new))| !key.is_reloaded && old.text() != new.text());
        changed.map(|((key, _), _)| key.name).collect()
    }
}

/// Ready when a file may have changed.
pub(super) async fn changed(reload: &Option<Reload>) {
    match reload {
        Some(reload) => reload.watches.changed().await,
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
        reload.watches.add(config.resources.iter().cloned(), &self.log);
        let was_refused = reload.refusal.take().is_some();
        let waiting = reload.waiting(&values);
        if !waiting.is_empty() {
            let names = waiting.join(", ");
            self.log.warning(format_args!("Changes of {names} wait for the next start"));
        }
        let is_new = |warning: &&String| !reload.warnings.contains(warning);
        config.warnings.iter().filter(is_new).for_each(|warning| self.log.warning(warning));
        reload.warnings.clone_from(&config.warnings);
        let is_same =
            reload.values.iter().zip(values.iter()).all(|((_, a), (_, b))| a.text() == b.text())
                && reload.resiliency == config.resiliency
                && reload.in_scope == config.in_scope
                && reload.guards == config.guards
                && reload.telemetry == config.telemetry;
        reload.resiliency.clone_from(&config.resiliency);
        reload.in_scope = Arc::clone(&config.in_scope);
        reload.telemetry = Arc::clone(&config.telemetry);
        reload.values = values;
        reload.guards = Arc::clone(&config.guards);
        if !is_same {
            self.apply(&config);
        }
        let apps = self.apps.values().map(|served| Arc::clone(&served.config)).collect();
        let outcome = self.renew(&config.registries, apps);
        if !is_same || was_refused || outcome.is_renewed {
            self.log.info("Configuration reloaded");
        }
    }

    fn apply(&mut self, config: &Config) {
        self.log.set_threshold(config.process.log.threshold);
        self.graceful_timeout = config.process.graceful_timeout;
        self.block_duration = config.process.block_duration;
        self.scrapes.set_rules(&config.telemetry.rules);
        for (number, served) in &mut self.apps {
            let (body, head) = (config.body_bytes_max, config.head_bytes_max());
            let (told, policies) = (self.supervisor.told(), config.resiliency.as_ref());
            self.publisher.set_limits(told, *number, body, head, policies);
            self.publisher.set_guards(self.supervisor.told(), *number, &config.guards);
            let (outbound, in_scope) = (config.outbound(), &config.in_scope);
            self.publisher.set_outbound(self.supervisor.told(), *number, &outbound, in_scope);
            let telemetry = config.telemetry();
            if let Some(metrics) = &telemetry.metrics
                && served.config.care.health_check.is_some()
            {
                self.health_checks.counts.measure(*number, &metrics.latency_bounds_ms);
            }
            self.publisher.set_telemetry(self.supervisor.told(), *number, telemetry);
            let taken = Arc::make_mut(&mut served.config);
            taken.in_scope = Arc::clone(&config.in_scope);
            taken.guards = Arc::clone(&config.guards);
            let common: &mut Common = taken;
            common.body_bytes_max = config.body_bytes_max;
            common.read_buffer_bytes = config.read_buffer_bytes;
            common.strict_status = config.strict_status;
            common.pipelines = Arc::clone(&config.pipelines);
            common.logs_calls = config.logs_calls;
            common.telemetry = Arc::clone(&config.telemetry);
            served.entry.body_bytes_max = config.body_bytes_max;
            served.entry.read_buffer_bytes = config.read_buffer_bytes;
        }
        self.publish();
    }
}
