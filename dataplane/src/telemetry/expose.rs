//! The workers' series as the metrics they show as, under daprd's names. The link thread calls this
//! when control asks; no worker is disturbed.
//!
//! Series of several workers with the same labels become one.

#![forbid(unsafe_code)]

use super::{
    histogram::Histogram as Cells,
    policies::{IDENTITY_SEPARATOR, POSITIONS, number_of},
    series::{Family, Series},
};
use crate::policy::resiliency::Position;
use snapshot::{
    policy::resiliency::Source,
    wire::{Counter, CounterKind, Histogram},
};
use std::{collections::BTreeMap, sync::Arc};

type Label = (&'static str, Arc<str>);

/// Counters and histograms, each name's together. `position` tells how the breaker of an app's
/// target stands.
pub(crate) fn expose(
    series: &[Arc<Series>],
    position: impl Fn(usize, &[u8]) -> Option<Position>,
) -> (Vec<Counter>, Vec<Histogram>) {
    let mut page = Page::default();
    for series in series {
        page.add(series);
        if series.family == Family::AppliedBreaker {
            page.add_positions(series, position(series.number, series.name.as_bytes()));
        }
    }
    page.finish()
}

#[derive(Default)]
struct Page {
    counters: BTreeMap<(&'static str, Vec<Label>), u64>,
    gauges: BTreeMap<(&'static str, Vec<Label>), u64>,
    histograms: BTreeMap<(&'static str, Vec<Label>), Sum>,
}

struct Sum {
    bounds: Arc<[u64]>,
    counts: Vec<u64>,
    sum: u64,
}

impl Page {
    fn add(&mut self, series: &Series) {
        let app = ("app_id", Arc::clone(&series.app));
        let name = |label| (label, Arc::clone(&series.name));
        let status = ("status", Arc::from(series.status_text().as_str()));
        let count = series.count.value();
        let latency = series.latency.as_ref();
        let bytes = series.bytes.as_ref();
        let call = |status| {
            let (verb, path) = (Arc::from(series.verb), Arc::clone(&series.name));
            vec![("app_id", Arc::clone(&series.app)), ("method", verb), ("path", path), status]
        };
        match series.family {
            Family::AccessAppAllowed
            | Family::AccessAppBlocked
            | Family::AccessGlobalAllowed
            | Family::AccessGlobalBlocked => {
                self.counter(verdict_metric(series.family), identity_labels(&series.name), count);
            }
            Family::AppliedBreaker | Family::AppliedRetry | Family::AppliedTimeout => {
                self.counter("dapr_resiliency_count", policy_labels(series), count);
            }
            Family::MetBreaker | Family::MetRetry | Family::MetTimeout => {
                self.counter("dapr_resiliency_activations_total", policy_labels(series), count);
            }
            Family::AddedInbound | Family::AddedOutbound => {
                let inbound = series.family == Family::AddedInbound;
                let direction = if inbound { "inbound" } else { "outbound" };
                let labels = vec![app, ("direction", Arc::from(direction)), name("route")];
                self.histogram(ADDED_LATENCY, labels, latency);
            }
            Family::Client => {
                let nothing = ("status", Arc::from(""));
                self.histogram("dapr_http_client_sent_bytes", call(nothing), bytes);
                self.counter("dapr_http_client_completed_count", call(status.clone()), count);
                self.histogram("dapr_http_client_roundtrip_latency", call(status), latency);
            }
            Family::ErrorCode => {
                let category = ("category", Arc::from(category(&series.name)));
                self.counter(
                    "dapr_error_code_total",
                    vec![app, category, name("error_code")],
                    count,
                );
            }
            Family::InvokeAnswered
            | Family::InvokeReceived
            | Family::InvokeSent
            | Family::InvokeTaken => self.add_invocation(series),
            Family::ReceivedBytes | Family::RequestBytes | Family::ResponseBytes => {
                self.histogram(bytes_metric(series.family), vec![app], bytes);
            }
            Family::Server => {
                self.counter("dapr_http_server_request_count", call(status.clone()), count);
                if series.counts_responses {
                    self.counter("dapr_http_server_response_count", call(status.clone()), count);
                }
                self.histogram("dapr_http_server_latency", call(status), latency);
            }
        }
    }

    /// What one sidecar tells of its calls to and from others.
    fn add_invocation(&mut self, series: &Series) {
        let app = ("app_id", Arc::clone(&series.app));
        let name = |label| (label, Arc::clone(&series.name));
        let status = ("status", Arc::from(series.status_text().as_str()));
        let unary = ("type", Arc::from("unary"));
        let (count, latency) = (series.count.value(), series.latency.as_ref());
        match series.family {
            Family::InvokeAnswered => {
                let labels = vec![app, name("dst_app_id"), status];
                self.counter("dapr_runtime_service_invocation_res_sent_total", labels, count);
            }
            Family::InvokeReceived => {
                let labels = vec![app.clone(), name("src_app_id"), status.clone(), unary];
                self.counter("dapr_runtime_service_invocation_res_recv_total", labels, count);
                let labels = vec![app, name("src_app_id"), status];
                let metric = "dapr_runtime_service_invocation_res_recv_latency_ms";
                self.histogram(metric, labels, latency);
            }
            Family::InvokeSent => {
                let labels = vec![app, name("dst_app_id"), unary];
                self.counter("dapr_runtime_service_invocation_req_sent_total", labels, count);
            }
            _ => {
                let labels = vec![app, name("src_app_id")];
                self.counter("dapr_runtime_service_invocation_req_recv_total", labels, count);
            }
        }
    }

    /// daprd has one for each position; all but one are 0.
    fn add_positions(&mut self, series: &Series, position: Option<Position>) {
        let current = position.map_or("unknown", |it| POSITIONS[usize::from(number_of(it))]);
        for name in POSITIONS[1..].iter().copied().chain(["unknown"]) {
            let labels = labels_of_position(series, name);
            self.gauges.insert(("dapr_resiliency_cb_state", labels), u64::from(name == current));
        }
    }

    fn counter(&mut self, name: &'static str, labels: Vec<Label>, count: u64) {
        *self.counters.entry((name, labels)).or_default() += count;
    }

    fn histogram(&mut self, name: &'static str, labels: Vec<Label>, cells: Option<&Cells>) {
        let Some(cells) = cells else { return };
        let sum = self.histograms.entry((name, labels)).or_insert_with(|| Sum {
            bounds: Arc::clone(cells.bounds()),
            counts: vec![0; cells.bounds().len() + 1],
            sum: 0,
        });
        // Workers adopt other buckets one after the other; until all have, the first ones' count.
        if sum.bounds == *cells.bounds() {
            sum.sum += cells.add_to(&mut sum.counts);
        }
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "Prometheus values are doubles; 2^53 counts are enough"
    )]
    fn finish(self) -> (Vec<Counter>, Vec<Histogram>) {
        let owned = |labels: Vec<Label>| -> Vec<(String, String)> {
            labels.into_iter().map(|(k, v)| (k.to_owned(), v.as_ref().to_owned())).collect()
        };
        let to_counter = |kind| {
            move |((name, labels), value): ((&'static str, Vec<Label>), u64)| Counter {
                name: name.to_owned(),
                labels: owned(labels),
                kind,
                value: value as f64,
            }
        };
        let counters = self.counters.into_iter().map(to_counter(CounterKind::Counter));
        let counters = counters.chain(self.gauges.into_iter().map(to_counter(CounterKind::Gauge)));
        let histograms = self.histograms.into_iter().map(|((name, labels), sum)| {
            let unit = if name == ADDED_LATENCY { NANOS_PER_SECOND } else { 1.0 };
            Histogram {
                name: name.to_owned(),
                labels: owned(labels),
                bounds: sum.bounds.iter().map(|bound| *bound as f64 / unit).collect(),
                counts: sum.counts,
                sum: sum.sum as f64 / unit,
            }
        });
        (counters.collect(), histograms.collect())
    }
}

impl Series {
    fn status_text(&self) -> String {
        if self.status == 0 { String::new() } else { self.status.to_string() }
    }
}

fn bytes_metric(family: Family) -> &'static str {
    match family {
        Family::ReceivedBytes => "dapr_http_client_received_bytes",
        Family::RequestBytes => "dapr_http_server_request_bytes",
        _ => "dapr_http_server_response_bytes",
    }
}

fn verdict_metric(family: Family) -> &'static str {
    match family {
        Family::AccessAppAllowed => "dapr_runtime_acl_app_policy_action_allowed_total",
        Family::AccessAppBlocked => "dapr_runtime_acl_app_policy_action_blocked_total",
        Family::AccessGlobalAllowed => "dapr_runtime_acl_global_policy_action_allowed_total",
        _ => "dapr_runtime_acl_global_policy_action_blocked_total",
    }
}

/// Of the caller, not of the app that was called.
fn identity_labels(identity: &str) -> Vec<Label> {
    let mut parts = identity.splitn(3, IDENTITY_SEPARATOR);
    let labels = ["app_id", "trustDomain", "namespace"];
    labels.map(|label| (label, Arc::from(parts.next().unwrap_or_default()))).into()
}

fn policy_labels(series: &Series) -> Vec<Label> {
    labels_of_position(series, POSITIONS[usize::from(series.status) % POSITIONS.len()])
}

fn labels_of_position(series: &Series, position: &str) -> Vec<Label> {
    let policy = match series.family {
        Family::AppliedRetry | Family::MetRetry => "retry",
        Family::AppliedTimeout | Family::MetTimeout => "timeout",
        _ => "circuitbreaker",
    };
    let part = |part: fn(&Source) -> &str| Arc::from(series.source.as_deref().map_or("", part));
    vec![
        ("app_id", Arc::clone(&series.app)),
        ("name", part(|source| &source.name)),
        ("policy", Arc::from(policy)),
        ("namespace", part(|source| &source.namespace)),
        ("flow_direction", Arc::from("outbound")),
        ("target", Arc::from(format!("app_{}", series.name))),
        ("status", Arc::from(position)),
    ]
}

/// daprd 1.18's category of an error code.
fn category(code: &str) -> &'static str {
    let is_any = |parts: &[&str]| parts.iter().any(|part| code.contains(part));
    match code {
        "ERR_DIRECT_INVOKE" => "service-invocation",
        "ERR_INVOKE_OUTPUT_BINDING" => "binding",
        _ if is_any(&["HEALTH"]) => "health",
        _ if is_any(&["ACTOR"]) => "actor",
        _ if is_any(&["CONFIGURATION"]) => "configuration",
        _ if is_any(&["CONVERSATION"]) => "conversation",
        _ if is_any(&["CRYPTO"]) => "crypto",
        _ if is_any(&["LOCK"]) => "lock",
        _ if is_any(&["PUBSUB"]) => "pubsub",
        _ if is_any(&["SECRET"]) => "secret",
        _ if is_any(&["STATE"]) => "state",
        _ => "common",
    }
}

const ADDED_LATENCY: &str = "ringcar_added_latency_seconds";
const NANOS_PER_SECOND: f64 = 1e9;
