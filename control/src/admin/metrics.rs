//! The metrics page's text, in Prometheus' exposition format 0.0.4. Pure: values in, text out.
//!
//! Samples of one name stand together under one `TYPE` line, as the format asks.

#![forbid(unsafe_code)]

use super::rules::Rules;
use snapshot::wire::{Counter, CounterKind, Histogram};
use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt::Write,
};

pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What control knows of itself and of the data plane it runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub(crate) engine: String,
    pub(crate) engine_reason: String,
    pub(crate) workers: u32,
    pub(crate) data_plane_pid: Option<u32>,
    /// How often a data plane that died was replaced.
    pub(crate) restarts: u64,
}

/// What the data plane measured, summed over its workers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measured {
    pub(crate) counters: Vec<Counter>,
    pub(crate) histograms: Vec<Histogram>,
}

/// `own` is what control counts itself.
pub(crate) fn emit(facts: &Facts, measured: &Measured, own: Measured, rules: &Rules) -> String {
    let mut page = Page { rules, families: BTreeMap::new() };
    let counter = |name: &str, labels: &[(&str, &str)], kind, value| Counter {
        name: name.to_owned(),
        labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        kind,
        value,
    };
    let build = [("version", crate::version::RINGCAR), ("commit", crate::version::COMMIT)];
    page.add(counter("ringcar_build_info", &build, CounterKind::Gauge, 1.0));
    let engine = [("engine", facts.engine.as_str()), ("reason", facts.engine_reason.as_str())];
    if facts.data_plane_pid.is_some() {
        page.add(counter("ringcar_engine_info", &engine, CounterKind::Gauge, 1.0));
        let workers = f64::from(facts.workers);
        page.add(counter("ringcar_workers", &[], CounterKind::Gauge, workers));
    }
    let restarts = count(facts.restarts);
    page.add(counter("ringcar_data_plane_restarts_total", &[], CounterKind::Counter, restarts));
    let Measured { counters, histograms } = own;
    counters.into_iter().chain(measured.counters.iter().cloned()).for_each(|one| page.add(one));
    let histograms = histograms.into_iter().chain(measured.histograms.iter().cloned());
    histograms.for_each(|one| page.add_histogram(one));
    page.emit()
}

/// Prometheus' numbers are doubles: exact up to 2^53, and rounded above.
#[expect(clippy::cast_precision_loss, reason = "the format has no other numbers")]
const fn count(value: u64) -> f64 {
    value as f64
}

type Labels = Vec<(String, String)>;

struct Page<'r> {
    rules: &'r Rules,
    families: BTreeMap<String, Family>,
}

/// All samples of one name. Those that a rule made alike are added up.
#[derive(Default)]
struct Family {
    kind: &'static str,
    samples: BTreeMap<Labels, f64>,
    histograms: BTreeMap<Labels, Histogram>,
}

impl Page<'_> {
    fn family(&mut self, name: &str, labels: &mut Labels, kind: &'static str) -> &mut Family {
        if !self.rules.is_empty() {
            self.rules.apply(name, labels);
        }
        let family = self.families.entry(name.to_owned()).or_default();
        family.kind = kind;
        family
    }

    fn add(&mut self, counter: Counter) {
        let Counter { name, mut labels, kind, value } = counter;
        let kind = match kind {
            CounterKind::Counter => "counter",
            CounterKind::Gauge => "gauge",
        };
        let family = self.family(&name, &mut labels, kind);
        *family.samples.entry(labels).or_default() += value;
    }

    fn add_histogram(&mut self, mut histogram: Histogram) {
        let mut labels = std::mem::take(&mut histogram.labels);
        let family = self.family(&histogram.name.clone(), &mut labels, "histogram");
        match family.histograms.entry(labels) {
            Entry::Vacant(entry) => {
                entry.insert(histogram);
            }
            Entry::Occupied(mut entry) => {
                let sum = entry.get_mut();
                sum.sum += histogram.sum;
                for (one, other) in sum.counts.iter_mut().zip(histogram.counts) {
                    *one += other;
                }
            }
        }
    }

    fn emit(self) -> String {
        let mut text = String::new();
        for (name, family) in self.families {
            let _ = writeln!(text, "# TYPE {name} {}", family.kind);
            for (labels, value) in family.samples {
                let _ = writeln!(text, "{name}{} {value}", label_text(&labels, None));
            }
            for (labels, histogram) in family.histograms {
                emit_histogram(&name, &labels, &histogram, &mut text);
            }
        }
        text
    }
}

/// Each bucket counts those before it, too.
fn emit_histogram(name: &str, labels: &Labels, histogram: &Histogram, text: &mut String) {
    let mut total = 0;
    for (index, count) in histogram.counts.iter().enumerate() {
        total += count;
        let bound = histogram.bounds.get(index).map_or("+Inf".to_owned(), f64::to_string);
        let _ = writeln!(text, "{name}_bucket{} {total}", label_text(labels, Some(&bound)));
    }
    let labels = label_text(labels, None);
    let _ = writeln!(text, "{name}_sum{labels} {}", histogram.sum);
    let _ = writeln!(text, "{name}_count{labels} {total}");
}

fn label_text(labels: &Labels, bound: Option<&str>) -> String {
    if labels.is_empty() && bound.is_none() {
        return String::new();
    }
    let pairs = labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escape(value)));
    let bound = bound.map(|bound| format!("le=\"{bound}\""));
    format!("{{{}}}", pairs.chain(bound).collect::<Vec<String>>().join(","))
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::rules::Rule;

    #[test]
    fn groups_samples_under_their_type() {
        let counter = |name: &str, label: &str, value| Counter {
            name: name.to_owned(),
            labels: vec![("status".to_owned(), label.to_owned())],
            kind: CounterKind::Counter,
            value,
        };
        let counters = [
            counter("b_total", "200", 3.0),
            counter("a_total", "x\"\\\n", 0.5),
            counter("b_total", "500", 1e15),
        ];
        let facts = Facts {
            engine: "epoll".to_owned(),
            engine_reason: "io_uring is blocked".to_owned(),
            workers: 2,
            data_plane_pid: Some(7),
            restarts: 1,
        };
        let measured = Measured { counters: counters.into(), histograms: Vec::new() };
        let resident = Counter {
            name: "process_resident_memory_bytes".to_owned(),
            labels: vec![("process".to_owned(), "control".to_owned())],
            kind: CounterKind::Gauge,
            value: 1e6,
        };
        let own = Measured { counters: vec![resident], histograms: Vec::new() };
        let page = emit(&facts, &measured, own, &Rules::default());
        let build = format!(
            "# TYPE ringcar_build_info gauge\nringcar_build_info{{version=\"{}\",commit=\"{}\"}} 1\n",
            env!("CARGO_PKG_VERSION"),
            crate::version::COMMIT
        );
        let want = format!(
            "# TYPE a_total counter\n\
             a_total{{status=\"x\\\"\\\\\\n\"}} 0.5\n\
             # TYPE b_total counter\n\
             b_total{{status=\"200\"}} 3\n\
             b_total{{status=\"500\"}} 1000000000000000\n\
             # TYPE process_resident_memory_bytes gauge\n\
             process_resident_memory_bytes{{process=\"control\"}} 1000000\n\
             {build}\
             # TYPE ringcar_data_plane_restarts_total counter\n\
             ringcar_data_plane_restarts_total 1\n\
             # TYPE ringcar_engine_info gauge\n\
             ringcar_engine_info{{engine=\"epoll\",reason=\"io_uring is blocked\"}} 1\n\
             # TYPE ringcar_workers gauge\n\
             ringcar_workers 2\n"
        );
        assert_eq!(page, want);
    }

    #[test]
    fn leaves_out_what_is_not_known_yet() {
        let page =
            emit(&Facts::default(), &Measured::default(), Measured::default(), &Rules::default());
        assert!(!page.contains("engine_info"), "{page}");
        assert!(page.contains("ringcar_data_plane_restarts_total 0\n"), "{page}");
    }

    #[test]
    fn buckets_count_those_before_them_and_rules_add_up() {
        let histogram = |path: &str, counts: [u64; 3], sum| Histogram {
            name: "dapr_http_server_latency".to_owned(),
            labels: vec![("path".to_owned(), path.to_owned())],
            bounds: vec![1.0, 0.5],
            counts: counts.into(),
            sum,
        };
        let histograms = vec![histogram("/a/1", [1, 2, 3], 4.5), histogram("/a/2", [1, 0, 1], 2.0)];
        let measured = Measured { counters: Vec::new(), histograms };
        let mut rules = Rules::default();
        rules.add("http/server/latency", Rule::new("path", "/a/.*", "/a").unwrap());
        let page = emit(&Facts::default(), &measured, Measured::default(), &rules);
        let want = "# TYPE dapr_http_server_latency histogram\n\
             dapr_http_server_latency_bucket{path=\"/a\",le=\"1\"} 2\n\
             dapr_http_server_latency_bucket{path=\"/a\",le=\"0.5\"} 4\n\
             dapr_http_server_latency_bucket{path=\"/a\",le=\"+Inf\"} 8\n\
             dapr_http_server_latency_sum{path=\"/a\"} 6.5\n\
             dapr_http_server_latency_count{path=\"/a\"} 8\n";
        assert!(page.contains(want), "{page}");
    }
}
