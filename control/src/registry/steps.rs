//! Which times of a shared table count as recent, when the wall clock they were taken from may be
//! set at any moment.
//!
//! A clock that is put forward makes every row look old, one that is put back makes rows of the
//! dead look young. So each look at the wall clock is compared with the clock that only goes
//! forward: after a step the more generous count holds for one interval, in which everybody who
//! lives renews, and from then on the new one.

#![forbid(unsafe_code)]

use std::{ops::RangeInclusive, time::Duration};
use tokio::time::Instant;

/// Seconds since 1970, and the moment at which that was true.
type Anchor = (u64, Instant);

#[derive(Debug)]
pub(super) struct Steps {
    /// How long a row counts after it was renewed.
    interval: Duration,
    /// Of the last time before the step, while `until` is to come.
    anchor: Option<Anchor>,
    /// Until then rows of before a step count.
    until: Option<Instant>,
}

impl Steps {
    pub(super) const fn new(interval: Duration) -> Self {
        Self { interval, anchor: None, until: None }
    }

    /// The times that count, by what the two clocks show now.
    pub(super) fn recent(&mut self, wall: u64, now: Instant) -> RangeInclusive<u64> {
        let steady = self.anchor.map(|(wall, at)| wall + now.duration_since(at).as_secs());
        let is_step = steady.is_none_or(|steady| steady.abs_diff(wall) > DRIFT_SECONDS);
        if is_step && self.until.is_none() {
            // Without an earlier look nobody knows what was set before.
            self.until = Some(now + self.interval);
        }
        let is_tolerant = self.until.is_some_and(|until| now < until);
        if !is_tolerant {
            self.until = None;
        }
        let steady = steady.unwrap_or(wall);
        if !is_tolerant || self.anchor.is_none() {
            self.anchor = Some((wall, now));
        }
        let (earlier, newest) = if is_tolerant {
            (steady.min(wall), u64::MAX)
        } else {
            (wall, wall.saturating_add(DRIFT_SECONDS))
        };
        let oldest = (earlier + 1).saturating_sub(self.interval.as_secs());
        oldest..=newest
    }
}

/// Less than this is no step: seconds are cut off, and clocks are slewed.
const DRIFT_SECONDS: u64 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_before_a_step_count_for_one_interval() {
        const INTERVAL: u64 = 5;
        /// A long time after the start, so that this is no step.
        const START: u64 = 10_000;
        for (case, step, after, age, want) in [
            ("no step, fresh", 0, 1, 1, true),
            ("no step, last second", 0, 4, 4, true),
            ("no step, stale", 0, 5, 5, false),
            ("forward, fresh", 3600, 1, 1, true),
            ("forward, stale by the old count", 3600, 1, 5, false),
            ("back, fresh", -3600, 1, 1, true),
            ("back, an interval later", -3600, 6, 6, false),
            ("back, stale before: once more, for an interval", -3600, 1, 7, true),
            ("back, stale before, an interval later", -3600, 6, 12, false),
            ("slewed", 1, 1, 1, true),
        ] {
            let mut steps = Steps::new(Duration::from_secs(INTERVAL));
            let began = Instant::now();
            let at = |seconds: u64| began + Duration::from_secs(seconds);
            steps.recent(START, at(0));
            // Tolerance of the start is over.
            steps.recent(START + 100, at(100));
            steps.recent(START + 106, at(106));
            // Renewed by the old count, `age` before it is looked at; the step is in between, and
            // is seen at once, as when the table changes every second.
            let written = START + 106 + after - age;
            let wall = |seconds: u64| (START + 106 + seconds).saturating_add_signed(step);
            let mut recent = steps.recent(wall(0), at(106));
            for second in 1..=after {
                recent = steps.recent(wall(second), at(106 + second));
            }
            assert_eq!(recent.contains(&written), want, "{case}: {written} in {recent:?}");
            let new = wall(after);
            assert!(recent.contains(&new), "{case}: who renews now counts, {new} in {recent:?}");
        }
    }

    #[test]
    fn a_row_from_the_future_counts_for_one_interval_after_the_start() {
        let mut steps = Steps::new(Duration::from_secs(5));
        let now = Instant::now();
        assert!(steps.recent(1000, now).contains(&4600));
        assert!(!steps.recent(1006, now + Duration::from_secs(6)).contains(&4600));
    }
}
