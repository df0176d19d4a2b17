//! Sums the workers' counters when control asks; no worker is disturbed.

#![forbid(unsafe_code)]

use crate::telemetry::{Counters, Description, Kind};
use snapshot::wire::{Counter, CounterKind};
use std::sync::Arc;

#[expect(
    clippy::cast_precision_loss,
    reason = "Prometheus values are doubles; 2^53 counts are enough"
)]
pub(super) fn sum(workers: &[Arc<Counters>]) -> Vec<Counter> {
    let descriptions = Counters::describe();
    let mut sums = vec![0; descriptions.len()];
    for counters in workers {
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
    descriptions.iter().zip(sums).map(to_counter).collect()
}
