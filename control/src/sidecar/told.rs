//! What the data plane tells of calls: lines for the log, spans, and the counters beside its own.

#![forbid(unsafe_code)]

use super::Sidecar;
use crate::{
    admin::metrics::Measured,
    log::{Field, Level},
    steering::Steering,
    timestamp::Timestamp,
};
use snapshot::{
    App,
    wire::{ApiCall, Counter, CounterKind, Span},
};

impl Sidecar {
    /// One line a call, as daprd's.
    pub(super) fn log_calls(&self, calls: &[ApiCall]) {
        let log = self.log.scoped("dapr.runtime.http-info");
        for call in calls {
            let millis = u64::try_from(call.duration.as_millis()).unwrap_or(u64::MAX);
            let mut fields = vec![
                ("code", Field::Number(call.status.into())),
                ("duration", Field::Number(millis)),
                ("method", Field::Text(&call.method)),
                ("size", Field::Number(call.response_bytes)),
            ];
            if !call.user_agent.is_empty() {
                fields.push(("useragent", Field::Text(&call.user_agent)));
            }
            // An app that went meanwhile is not known by its number any more.
            if let Some(served) = self.apps.get(&call.app) {
                fields.push(("app_id", Field::Text(served.entry.id.as_str())));
            }
            log.write_fields(Timestamp(call.ended), Level::Info, "HTTP API Called", &fields);
        }
    }

    /// Each goes where its app's are to go.
    pub(super) fn on_spans(&mut self, spans: Vec<Span>) {
        for span in spans {
            match self.apps.get_mut(&span.app) {
                Some(served) => self.exporters.put(&mut served.spans, &served.config, span),
                None => self.exporters.put_unwanted(),
            }
        }
    }

    /// What control counts itself.
    pub(super) fn own_numbers(&self) -> Measured {
        let mut counters = self.registries.counters();
        counters.extend(self.steering.iter().flat_map(Steering::counters));
        let mut histograms = Vec::new();
        counters.extend(self.exporters.counters());
        for (number, served) in self.apps.iter().filter(|(_, served)| served.config.tells_metrics) {
            let id = served.entry.id.as_str();
            let (probes, latencies) = self.health_checks.counts.page(*number, id);
            counters.extend(probes);
            histograms.extend(latencies);
            let told = self.supervisor.told().apps.get(*number as usize);
            counters.extend(told.into_iter().flat_map(loaded));
            for name in ALWAYS_ZERO {
                let app = ("app_id".to_owned(), served.entry.id.as_str().to_owned());
                counters.push(counter(name, vec![app], 0.0));
            }
        }
        Measured { counters, histograms }
    }
}

/// The Resiliency resources that hold for an app.
fn loaded(app: &App) -> impl Iterator<Item = Counter> {
    let sources = app.resiliency.iter().flat_map(|resiliency| &resiliency.sources);
    sources.map(|source| {
        let labels =
            [("app_id", app.id.as_str()), ("name", &source.name), ("namespace", &source.namespace)];
        let labels = labels.map(|(label, value)| (label.to_owned(), value.to_owned())).into();
        counter("dapr_resiliency_loaded", labels, 1.0)
    })
}

fn counter(name: &str, labels: Vec<(String, String)>, value: f64) -> Counter {
    Counter { name: name.to_owned(), labels, kind: CounterKind::Counter, value }
}

/// Dapr's dashboards add these up; without them they show no data instead of zero.
const ALWAYS_ZERO: [&str; 7] = [
    "dapr_runtime_component_init_fail_total",
    "dapr_runtime_component_init_total",
    "dapr_runtime_component_loaded",
    "dapr_runtime_mtls_init_fail_total",
    "dapr_runtime_mtls_init_total",
    "dapr_runtime_mtls_workload_cert_rotated_fail_total",
    "dapr_runtime_mtls_workload_cert_rotated_total",
];
