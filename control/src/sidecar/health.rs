//! What health checks of apps change: whether the data plane calls them, and whether a shutdown
//! that waits for its apps still waits.

#![forbid(unsafe_code)]

use super::{End, Sidecar, Stage};
use crate::app_health::Verdict;

impl Sidecar {
    /// From now on the app is asked how it is, if it is to be.
    pub(super) fn check_health(&mut self, number: u32) {
        let Some(served) = self.apps.get(&number) else { return };
        let Some(check) = served.config.care.health_check.clone() else { return };
        let told = self.supervisor.told().apps.get(number as usize);
        if let Some(channel) = told.and_then(|app| app.channel.clone()) {
            let telemetry = served.config.telemetry();
            let bounds = telemetry.metrics.as_ref().map(|metrics| &*metrics.latency_bounds_ms);
            self.health_checks.start(number, channel.address, check, channel.is_healthy, bounds);
        }
    }

    pub(super) fn on_verdict(&mut self, verdict: Verdict) -> Option<End> {
        let Verdict { app, is_healthy } = verdict;
        self.publisher.set_app_health(self.supervisor.told(), app, is_healthy);
        if !self.publisher.is_empty() {
            self.publish();
        }
        self.tell_health(verdict);
        if !is_healthy && self.node.is_none() && matches!(self.stage, Stage::Blocking { .. }) {
            self.log.info("App reported unhealthy, entering shutdown...");
            return self.begin_drain();
        }
        None
    }

    fn tell_health(&self, Verdict { app, is_healthy }: Verdict) {
        let Some(served) = self.apps.get(&app) else { return };
        let log = self.log.scoped("dapr.apphealth");
        // A sidecar says it in daprd's words; of many apps the name must be told.
        let name = match &self.node {
            None => "App".to_owned(),
            Some(_) => format!("App {}/{}", served.config.namespace, served.config.app_id),
        };
        match is_healthy {
            true => log.info(format_args!("{name} entered healthy status")),
            false => log.warning(format_args!("{name} entered un-healthy status")),
        }
    }
}
