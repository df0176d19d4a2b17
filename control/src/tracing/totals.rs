//! What became of spans, for the metrics page: the sums of all exporters there are and were.

#![forbid(unsafe_code)]

use crate::config::tracing::Protocol;
use snapshot::wire::{Counter, CounterKind};
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, Default)]
pub(super) struct Totals {
    grpc: AtomicU64,
    http: AtomicU64,
    stdout: AtomicU64,
    zipkin: AtomicU64,
    queue_full: AtomicU64,
    refused: AtomicU64,
    unreachable: AtomicU64,
}

/// Why a span is dropped.
#[derive(Clone, Copy, Debug)]
pub(super) enum Loss {
    QueueFull,
    Refused,
    Unreachable,
}

impl Totals {
    pub(super) fn send(&self, protocol: Protocol, count: usize) {
        let total = match protocol {
            Protocol::OtlpGrpc => &self.grpc,
            Protocol::OtlpHttp => &self.http,
            Protocol::Zipkin => &self.zipkin,
        };
        add(total, count);
    }

    pub(super) fn print(&self) {
        add(&self.stdout, 1);
    }

    pub(super) fn lose(&self, reason: Loss, count: usize) {
        let total = match reason {
            Loss::QueueFull => &self.queue_full,
            Loss::Refused => &self.refused,
            Loss::Unreachable => &self.unreachable,
        };
        add(total, count);
    }

    pub(super) fn counters(&self) -> Vec<Counter> {
        let sent = |exporter, total| counter(SENT, &[("exporter", exporter)], read(total));
        let dropped = |reason, total| counter(DROPPED, &[("reason", reason)], read(total));
        vec![
            sent("otlp_grpc", &self.grpc),
            sent("otlp_http", &self.http),
            sent("stdout", &self.stdout),
            sent("zipkin", &self.zipkin),
            dropped("queue_full", &self.queue_full),
            dropped("refused", &self.refused),
            dropped("unreachable", &self.unreachable),
        ]
    }
}

pub(super) fn counter(name: &str, labels: &[(&str, &str)], count: u64) -> Counter {
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    #[expect(clippy::cast_precision_loss, reason = "the page has no other numbers")]
    let value = count as f64;
    let (name, labels) = (name.to_owned(), labels.collect());
    Counter { name, labels, kind: CounterKind::Counter, value }
}

fn add(total: &AtomicU64, count: usize) {
    total.fetch_add(count as u64, Ordering::Relaxed);
}

fn read(total: &AtomicU64) -> u64 {
    total.load(Ordering::Relaxed)
}

const SENT: &str = "ringcar_spans_sent_total";
/// The data plane counts others of this name.
const DROPPED: &str = "ringcar_spans_dropped_total";
