//! When requests are due in an open loop.
//!
//! A request that finds no free connection is not put off: it keeps the moment at which it was due,
//! and its latency counts from there. A client that waits instead would not see a stall
//! (coordinated omission).

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

pub(crate) struct Schedule {
    next: Instant,
    interval: Duration,
}

impl Schedule {
    pub(crate) fn new(start: Instant, interval: Duration) -> Self {
        Self { next: start, interval }
    }

    /// The moment at which a request was due, if one was by `now`. Each moment is returned once.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<Instant> {
        let due = self.next;
        if due > now {
            return None;
        }
        self.next += self.interval;
        Some(due)
    }

    pub(crate) fn next(&self) -> Instant {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn catches_up_after_a_stall() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut schedule = Schedule::new(start, Duration::from_millis(10));
        assert_eq!(schedule.take_due(start), Some(at(0)));
        assert_eq!(schedule.take_due(at(9)), None);
        assert_eq!(schedule.next(), at(10));
        // Nobody asked for a while: all that was due meanwhile keeps its moment.
        let due: Vec<_> = std::iter::from_fn(|| schedule.take_due(at(35))).collect();
        assert_eq!(due, [at(10), at(20), at(30)]);
    }
}
