//! The workers' series as the metrics they show as, under daprd's names. The link thread calls this
//! when control asks; no worker is disturbed.
//!
//! Series of several workers with the same labels become one.

#![forbid(unsafe_code)]

use super::series::{Family, Series};
use crate::telemetry::histogram::Histogram as Cells;
use snapshot::wire::{Counter, CounterKind, Histogram};
use std::{collections::BTreeMap, sync::Arc};

type Label = (&'static str, Arc<str>);

/// Counters and histograms, each name's together.
pub(crate) fn expose(series: &[Arc<Series>]) -> (Vec<Counter>, Vec<Histogram>) {
    let mut page = Page::default();
    series.iter().for_each(|series| page.add(series));
    page.finish()
}

#[derive(Default)]
struct Page {
    counters: BTreeMap<(&'static str, Vec<Label>), u64>,
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
        let unary = ("type", Arc::from("unary"));
        let call = |status| {
            let (verb, path) = (Arc::from(series.verb), Arc::clone(&series.name));
            vec![("app_id", Arc::clone(&series.app)), ("method", verb), ("path", path), status]
        };
        match series.family {
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
            Family::InvokeTaken => {
                let labels = vec![app, name("src_app_id")];
                self.counter("dapr_runtime_service_invocation_req_recv_total", labels, count);
            }
            Family::ReceivedBytes => {
                self.histogram("dapr_http_client_received_bytes", vec![app], bytes);
            }
            Family::RequestBytes => {
                self.histogram("dapr_http_server_request_bytes", vec![app], bytes);
            }
            Family::ResponseBytes => {
                self.histogram("dapr_http_server_response_bytes", vec![app], bytes);
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
        let counters = self.counters.into_iter().map(|((name, labels), value)| Counter {
            name: name.to_owned(),
            labels: owned(labels),
            kind: CounterKind::Counter,
            value: value as f64,
        });
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
