//! The metrics page's text, in Prometheus' exposition format 0.0.4. Pure: values in, text out.
//!
//! Samples of one name stand together under one `TYPE` line, as the format asks.

#![forbid(unsafe_code)]

use snapshot::wire::{Counter, CounterKind};
use std::{collections::BTreeMap, fmt::Write};

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

pub(crate) fn emit(facts: &Facts, counters: &[Counter], resident_bytes: &[(&str, u64)]) -> String {
    let mut page = Page::default();
    page.add(
        "ringcar_build_info",
        &[("version", crate::version::RINGCAR), ("commit", crate::version::COMMIT)],
        CounterKind::Gauge,
        1.0,
    );
    let engine = [("engine", facts.engine.as_str()), ("reason", facts.engine_reason.as_str())];
    if facts.data_plane_pid.is_some() {
        page.add("ringcar_engine_info", &engine, CounterKind::Gauge, 1.0);
        page.add("ringcar_workers", &[], CounterKind::Gauge, f64::from(facts.workers));
    }
    let restarts = count(facts.restarts);
    page.add("ringcar_data_plane_restarts_total", &[], CounterKind::Counter, restarts);
    for (process, bytes) in resident_bytes {
        let labels = [("process", *process)];
        page.add("process_resident_memory_bytes", &labels, CounterKind::Gauge, count(*bytes));
    }
    for counter in counters {
        let labels: Vec<(&str, &str)> =
            counter.labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        page.add(&counter.name, &labels, counter.kind, counter.value);
    }
    page.emit()
}

/// Prometheus' numbers are doubles: exact up to 2^53, and rounded above.
#[expect(clippy::cast_precision_loss, reason = "the format has no other numbers")]
const fn count(value: u64) -> f64 {
    value as f64
}

#[derive(Default)]
struct Page {
    /// Type and samples of each name.
    families: BTreeMap<String, (&'static str, Vec<String>)>,
}

impl Page {
    fn add(&mut self, name: &str, labels: &[(&str, &str)], kind: CounterKind, value: f64) {
        let kind = match kind {
            CounterKind::Counter => "counter",
            CounterKind::Gauge => "gauge",
        };
        let (_, samples) =
            self.families.entry(name.to_owned()).or_insert_with(|| (kind, Vec::new()));
        samples.push(format!("{name}{} {value}\n", label_text(labels)));
    }

    fn emit(self) -> String {
        let mut text = String::new();
        for (name, (kind, samples)) in self.families {
            let _ = writeln!(text, "# TYPE {name} {kind}");
            samples.iter().for_each(|sample| text.push_str(sample));
        }
        text
    }
}

fn label_text(labels: &[(&str, &str)]) -> String {
    if labels.is_empty() {
        return String::new();
    }
    let pairs: Vec<String> =
        labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escape(value))).collect();
    format!("{{{}}}", pairs.join(","))
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let page = emit(&facts, &counters, &[("control", 1_000_000)]);
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
        let page = emit(&Facts::default(), &[], &[]);
        assert!(!page.contains("engine_info"), "{page}");
        assert!(page.contains("ringcar_data_plane_restarts_total 0\n"), "{page}");
    }
}
