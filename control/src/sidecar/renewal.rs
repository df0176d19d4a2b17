//! Other registries while apps are served.
//!
//! What apps need to be reached by the new ones comes first, and what only the old ones needed goes
//! last: sockets for other machines are there before anybody is told of them, and as long as
//! somebody may have been told.

#![forbid(unsafe_code)]

use super::{
    Sidecar,
    apps::{Failure, Outcome},
};
use crate::{
    config::{Common, Config},
    registry::{Entry, Settings},
    shared::Shared,
};
use snapshot::Version;
use std::sync::Arc;

/// What became of a wish for other registries, and of the apps that came with it.
pub(super) struct Renewal {
    /// The state that brings what changed of the apps.
    pub(super) version: Version,
    /// Other registries are followed from now on.
    pub(super) is_renewed: bool,
}

impl Sidecar {
    /// Serves these apps, and follows these registries. Registries that cannot be had leave those
    /// that were; an app of a node that cannot be had keeps nobody else from theirs.
    pub(super) fn renew(&mut self, wanted: &Arc<Settings>, apps: Vec<Arc<Config>>) -> Renewal {
        let before = Arc::clone(&self.reached_by);
        let is_other = self.registries.settings() != &**wanted;
        if is_other && wanted.needs_tcp_peer() {
            self.reached_by = Arc::clone(wanted);
        }
        let Outcome { version, failures } = self.serve(apps.clone());
        failures.iter().map(Failure::text).for_each(|text| self.log.error(text));
        if !is_other {
            return Renewal { version, is_renewed: false };
        }
        let refusal = match self.node {
            // Other machines could not reach the one app there is.
            None if !failures.is_empty() => Some("the app cannot be reached by them".to_owned()),
            _ => self.watch_others(wanted).err(),
        };
        let Some(reason) = refusal else {
            self.log.info("Other registries are followed from now on");
            return Renewal { version, is_renewed: true };
        };
        self.log.error(format_args!("Registries are not changed: {reason}"));
        self.reached_by = before;
        Renewal { version: self.serve(apps).version, is_renewed: false }
    }

    fn watch_others(&mut self, wanted: &Settings) -> Result<(), String> {
        let all: Vec<&Entry> = self.apps.values().map(|served| &served.entry).collect();
        // Those that are not registered yet will be, with all registries there are then.
        let registered = self.apps.values().filter(|served| served.stage.is_registered());
        let registered: Vec<&Entry> = registered.map(|served| &served.entry).collect();
        self.registries.renew(wanted, &all, &registered).map_err(|e| e.to_string())
    }

    /// Nobody follows the old registries any more.
    pub(super) fn on_settled(&mut self) {
        self.log.info("Registries that were left are forgotten");
        self.reached_by = Arc::new(self.registries.settings().clone());
        let apps = match &mut self.node {
            Some(node) => node.wanted(&self.log),
            None => self.apps.values().map(|served| Arc::clone(&served.config)).collect(),
        };
        let failures = self.serve(apps).failures;
        failures.iter().map(Failure::text).for_each(|text| self.log.error(text));
    }

    /// The app, as it is to be served for the registries there are.
    pub(super) fn reachable(
        &self,
        mut config: Arc<Config>,
        commons: &mut Shared<Common>,
    ) -> Arc<Config> {
        if config.registries != self.reached_by {
            let changed = Arc::make_mut(&mut config);
            changed.registries = Arc::clone(&self.reached_by);
            changed.common = commons.of(Arc::clone(&changed.common));
        }
        config
    }
}
