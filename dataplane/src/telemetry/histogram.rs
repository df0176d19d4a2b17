//! A histogram that one worker writes and others read.
//!
//! A value that equals a bound belongs above it, as OpenCensus has it for daprd: its milliseconds
//! are truncated, so 1 stands for all up to 2.

#![forbid(unsafe_code)]

use super::counters::Tally;
use std::sync::Arc;

#[derive(Debug)]
pub(crate) struct Histogram {
    /// Ascending; of all series of one kind the same.
    bounds: Arc<[u64]>,
    /// One more than there are bounds.
    counts: Box<[Tally]>,
    sum: Tally,
}

impl Histogram {
    pub(crate) fn new(bounds: &Arc<[u64]>) -> Self {
        let counts = (0..=bounds.len()).map(|_| Tally::default()).collect();
        Self { bounds: Arc::clone(bounds), counts, sum: Tally::default() }
    }

    pub(crate) fn record(&self, value: u64) {
        // Most calls are quick and small: the first bucket is told without a search.
        let bucket = match self.bounds.first() {
            Some(first) if value < *first => 0,
            _ => self.bounds.partition_point(|bound| *bound <= value),
        };
        self.counts[bucket].add(1);
        self.sum.add(value);
    }

    pub(crate) fn bounds(&self) -> &Arc<[u64]> {
        &self.bounds
    }

    /// Adds this one's numbers to `counts`, which has a place for each bucket; returns the sum.
    pub(crate) fn add_to(&self, counts: &mut [u64]) -> u64 {
        for (count, tally) in counts.iter_mut().zip(&self.counts) {
            *count += tally.value();
        }
        self.sum.value()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_at_a_bound_is_above_it() {
        let histogram = Histogram::new(&Arc::from([1, 2, 5]));
        for value in [0, 1, 1, 4, 5, 100] {
            histogram.record(value);
        }
        let mut counts = [0; 4];
        assert_eq!(histogram.add_to(&mut counts), 111);
        assert_eq!(counts, [1, 2, 1, 2]);
    }
}
