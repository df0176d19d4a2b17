//! Health probes of apps, counted by what came of them, for the metrics page.
//!
//! Shared by the tasks that probe and by whoever makes the page; nobody holds the lock across a
//! wait. An app that is probed no more is forgotten.

#![forbid(unsafe_code)]

use snapshot::wire::{Counter, CounterKind, Histogram};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Of all apps, by their numbers.
#[derive(Clone, Debug, Default)]
pub(crate) struct ProbeCounts(Arc<Mutex<BTreeMap<u32, OfApp>>>);

#[derive(Debug, Default)]
struct OfApp {
    bounds_ms: Vec<u32>,
    by_status: BTreeMap<Option<u16>, OfStatus>,
}

#[derive(Debug)]
struct OfStatus {
    /// One more than there are bounds.
    counts: Vec<u64>,
    sum_ms: u64,
}

/// What daprd tells of a probe that nobody answered.
const NO_ANSWER: u16 = 500;

/// Different statuses of one app; those that come later are counted together. An app that answers
/// its probes with more of them plays with us.
const STATUSES_MAX: usize = 16;

impl ProbeCounts {
    /// From now on with these buckets; with other ones than before everything begins anew.
    pub(crate) fn measure(&self, app: u32, bounds_ms: &[u32]) {
        let mut apps = self.lock();
        let of_app = apps.entry(app).or_default();
        if of_app.bounds_ms != bounds_ms {
            *of_app = OfApp { bounds_ms: bounds_ms.to_vec(), by_status: BTreeMap::new() };
        }
    }

    pub(crate) fn forget(&self, app: u32) {
        self.lock().remove(&app);
    }

    /// A probe is over. `None`: without an answer.
    pub(crate) fn record(&self, app: u32, status: Option<u16>, took: Duration) {
        let mut apps = self.lock();
        // It may have been forgotten while it was probed.
        let Some(OfApp { bounds_ms, by_status }) = apps.get_mut(&app) else { return };
        let status = Some(status.unwrap_or(NO_ANSWER));
        let has_room = by_status.len() < STATUSES_MAX || by_status.contains_key(&status);
        let place = if has_room { status } else { None };
        let counts = vec![0; bounds_ms.len() + 1];
        let of_status = by_status.entry(place).or_insert(OfStatus { counts, sum_ms: 0 });
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        // As with daprd's other metrics a value that equals a bound counts above it.
        let bucket = bounds_ms.partition_point(|bound| u64::from(*bound) <= millis);
        of_status.counts[bucket] += 1;
        of_status.sum_ms = of_status.sum_ms.saturating_add(millis);
    }

    /// What the page says of an app with this id.
    #[expect(clippy::cast_precision_loss, reason = "the page has no other numbers")]
    pub(crate) fn page(&self, app: u32, id: &str) -> (Vec<Counter>, Vec<Histogram>) {
        let apps = self.lock();
        let Some(OfApp { bounds_ms, by_status }) = apps.get(&app) else {
            return Default::default();
        };
        let labels = |status: &Option<u16>| {
            let status = status.map_or(OTHER.to_owned(), |status| status.to_string());
            vec![("app_id".to_owned(), id.to_owned()), ("status".to_owned(), status)]
        };
        let counters = by_status.iter().map(|(status, of_status)| Counter {
            name: "dapr_http_healthprobes_completed_count".to_owned(),
            labels: labels(status),
            kind: CounterKind::Counter,
            value: of_status.counts.iter().sum::<u64>() as f64,
        });
        let histograms = by_status.iter().map(|(status, of_status)| Histogram {
            name: "dapr_http_healthprobes_roundtrip_latency".to_owned(),
            labels: labels(status),
            bounds: bounds_ms.iter().map(|bound| f64::from(*bound)).collect(),
            counts: of_status.counts.clone(),
            sum: of_status.sum_ms as f64,
        });
        (counters.collect(), histograms.collect())
    }

    /// What a task that panicked left behind is whole: nothing in here panics half-way.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, OfApp>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The data plane's word for labels that found no room.
const OTHER: &str = "{other}";

#[cfg(test)]
mod tests {
    use super::*;

    fn statuses(counts: &ProbeCounts) -> Vec<(String, f64)> {
        let (counters, _) = counts.page(7, "orders");
        counters.into_iter().map(|counter| (counter.labels[1].1.clone(), counter.value)).collect()
    }

    #[test]
    fn probes_of_an_app_are_told_by_status_until_it_goes() {
        let counts = ProbeCounts::default();
        let ms = Duration::from_millis;
        counts.record(7, Some(200), ms(1));
        assert!(statuses(&counts).is_empty(), "nobody measures it");
        counts.measure(7, &[1, 5]);
        for (status, took) in [(Some(200), 0), (Some(200), 1), (None, 700), (Some(500), 2)] {
            counts.record(7, status, ms(took));
        }
        let want = [("200".to_owned(), 2.0), ("500".to_owned(), 2.0)];
        assert_eq!(statuses(&counts), want);
        let (_, histograms) = counts.page(7, "orders");
        assert_eq!(histograms[0].counts, [1, 1, 0]);
        assert_eq!((&*histograms[1].counts, histograms[1].sum), (&[0, 1, 1][..], 702.0));
        counts.measure(7, &[1, 5]);
        assert_eq!(statuses(&counts), want, "the same buckets");
        counts.measure(7, &[1]);
        assert!(statuses(&counts).is_empty());
        counts.forget(7);
        counts.record(7, Some(200), ms(1));
        assert!(statuses(&counts).is_empty());
    }

    #[test]
    fn statuses_are_bounded() {
        let counts = ProbeCounts::default();
        counts.measure(7, &[1]);
        for status in 200..300 {
            counts.record(7, Some(status), Duration::ZERO);
        }
        let told = statuses(&counts);
        assert_eq!(told.len(), STATUSES_MAX + 1);
        assert_eq!(told[0], ("{other}".to_owned(), 100.0 - STATUSES_MAX as f64));
    }
}
