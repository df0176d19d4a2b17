//! Sums the workers' counters and series when control asks; no worker is disturbed.

#![forbid(unsafe_code)]

use crate::{
    clock::Instant,
    policy::resiliency::Breakers,
    telemetry::{Counters, Description, Journal, Kind, Series, expose},
};
use snapshot::wire::{Counter, CounterKind, Histogram};
use std::sync::Arc;

/// What the workers write and the link reads.
pub(crate) struct Workers {
    pub(crate) counters: Vec<Arc<Counters>>,
    pub(crate) journals: Vec<Arc<Journal>>,
    pub(crate) breakers: Arc<Breakers>,
}

#[expect(
    clippy::cast_precision_loss,
    reason = "Prometheus values are doubles; 2^53 counts are enough"
)]
pub(super) fn sum(
    workers: &Workers,
    series: &[Arc<Series>],
    now: Instant,
) -> (Vec<Counter>, Vec<Histogram>) {
    let descriptions = Counters::describe();
    let mut sums = vec![0; descriptions.len()];
    for counters in &workers.counters {
        counters.add_to(&mut sums);
    }
    let to_counter = |(description, sum): (&Description, u64)| Counter {
        name: description.name.to_owned(),
        labels: description.label.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        kind: match description.kind {
            Kind::Counter => CounterKind::Counter,
            Kind::Gauge => CounterKind::Gauge,
        },
        value: sum as f64,
    };
    let (of_calls, histograms) =
        expose(series, |app, target| workers.breakers.position(app, target, now));
    let counters = descriptions.iter().zip(sums).map(to_counter).chain(of_calls).collect();
    (counters, histograms)
}
