//! One circuit breaker: counts outcomes, and says which calls go through. Pure.
//!
//! ```text
//!             trips                      open_time over
//!   Closed ─────────► Open ─────────────────────────────► HalfOpen
//!     ▲                ▲           a probe failed           │  │
//!     │                └────────────────────────────────────┘  │
//!     └───────────────── as many successes as probes ──────────┘
//! ```
//! Whatever began before the last move counts no more: its outcome says nothing about now.

#![forbid(unsafe_code)]

use crate::clock::Instant;
use snapshot::policy::{resiliency::Breaker, trip::Counts};

/// A call that must not go out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Refusal {
    /// It is half open, and as many probes as it may have are under way.
    Busy,
    Open,
}

/// Which calls it lets through.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Position {
    Closed,
    HalfOpen,
    Open,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Outcome {
    Failure,
    Success,
}

/// What an outcome led to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Move {
    Closed,
    Opened,
}

/// The time between two moves, or two beginnings of the counts.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Period(u64);

#[derive(Debug)]
pub(super) struct State {
    stage: Stage,
    period: Period,
    counts: Counts,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    Closed { counts_until: Option<Instant> },
    HalfOpen,
    Open { until: Instant },
}

impl State {
    pub(super) fn new(policy: &Breaker, now: Instant) -> Self {
        let (period, counts) = (Period::default(), Counts::default());
        Self { stage: closed(policy, now), period, counts }
    }

    pub(super) fn position(&mut self, policy: &Breaker, now: Instant) -> Position {
        self.pass_time(policy, now);
        match self.stage {
            Stage::Closed { .. } => Position::Closed,
            Stage::HalfOpen => Position::HalfOpen,
            Stage::Open { .. } => Position::Open,
        }
    }

    /// A call wants to go out; what it is let through with is needed to settle it.
    ///
    /// # Errors
    /// It must not.
    pub(super) fn enter(&mut self, policy: &Breaker, now: Instant) -> Result<Period, Refusal> {
        self.pass_time(policy, now);
        match self.stage {
            Stage::Open { .. } => return Err(Refusal::Open),
            Stage::HalfOpen if self.counts.requests >= policy.probes_max => {
                return Err(Refusal::Busy);
            }
            Stage::HalfOpen | Stage::Closed { .. } => {}
        }
        self.counts.requests = self.counts.requests.saturating_add(1);
        Ok(self.period)
    }

    pub(super) fn leave(
        &mut self,
        policy: &Breaker,
        period: Period,
        outcome: Outcome,
        now: Instant,
    ) -> Option<Move> {
        self.pass_time(policy, now);
        if period != self.period {
            return None;
        }
        match outcome {
            Outcome::Failure => self.on_failure(policy, now),
            Outcome::Success => self.on_success(policy, now),
        }
    }

    /// Nobody waited for the outcome, so there is none.
    pub(super) fn abandon(&mut self, period: Period) {
        // A probe that came to nothing leaves its place to another one.
        if period == self.period && self.stage == Stage::HalfOpen {
            self.counts.requests = self.counts.requests.saturating_sub(1);
        }
    }

    fn on_success(&mut self, policy: &Breaker, now: Instant) -> Option<Move> {
        let counts = &mut self.counts;
        counts.successes = counts.successes.saturating_add(1);
        counts.consecutive_successes = counts.consecutive_successes.saturating_add(1);
        counts.consecutive_failures = 0;
        let is_proven =
            self.stage == Stage::HalfOpen && counts.consecutive_successes >= policy.probes_max;
        is_proven.then(|| {
            self.become_stage(closed(policy, now));
            Move::Closed
        })
    }

    fn on_failure(&mut self, policy: &Breaker, now: Instant) -> Option<Move> {
        let counts = &mut self.counts;
        counts.failures = counts.failures.saturating_add(1);
        counts.consecutive_failures = counts.consecutive_failures.saturating_add(1);
        counts.consecutive_successes = 0;
        let opens = self.stage == Stage::HalfOpen || policy.trip.is_met(counts);
        opens.then(|| {
            self.become_stage(Stage::Open { until: now + policy.open_time });
            Move::Opened
        })
    }

    fn pass_time(&mut self, policy: &Breaker, now: Instant) {
        match self.stage {
            Stage::Closed { counts_until: Some(until) } if until < now => {
                self.become_stage(closed(policy, now));
            }
            Stage::Open { until } if until <= now => self.become_stage(Stage::HalfOpen),
            _ => {}
        }
    }

    fn become_stage(&mut self, stage: Stage) {
        self.stage = stage;
        self.period = Period(self.period.0.wrapping_add(1));
        self.counts = Counts::default();
    }
}

fn closed(policy: &Breaker, now: Instant) -> Stage {
    Stage::Closed { counts_until: policy.interval.map(|interval| now + interval) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapshot::policy::trip::{Count, Step, Trip};
    use std::time::Duration;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    /// Opens after `failures`, for 100 ms.
    fn policy(failures: i64, probes_max: u32, interval_ms: Option<u64>) -> Breaker {
        let steps = vec![Step::Int(failures), Step::Count(Count::Failures), Step::LessOrEqual];
        Breaker {
            probes_max,
            interval: interval_ms.map(Duration::from_millis),
            open_time: Duration::from_millis(100),
            trip: Trip::new(steps).unwrap(),
            methods_max: 1,
        }
    }

    fn call(state: &mut State, policy: &Breaker, outcome: Outcome, ms: u64) -> Option<Move> {
        let period = state.enter(policy, at(ms)).unwrap();
        state.leave(policy, period, outcome, at(ms))
    }

    /// Open until 100 ms.
    fn open(policy: &Breaker) -> State {
        let mut state = State::new(policy, at(0));
        while call(&mut state, policy, Outcome::Failure, 0).is_none() {}
        state
    }

    #[test]
    fn an_open_one_lets_nothing_through() {
        let policy = policy(2, 1, None);
        let mut state = State::new(&policy, at(0));
        assert_eq!(call(&mut state, &policy, Outcome::Failure, 0), None);
        assert_eq!(call(&mut state, &policy, Outcome::Success, 0), None);
        assert_eq!(call(&mut state, &policy, Outcome::Failure, 0), Some(Move::Opened));
        assert_eq!(state.enter(&policy, at(99)), Err(Refusal::Open));
    }

    #[test]
    fn a_half_open_one_lets_its_probes_through() {
        let policy = policy(1, 2, None);
        let mut state = open(&policy);
        let first = state.enter(&policy, at(100)).unwrap();
        let second = state.enter(&policy, at(100)).unwrap();
        assert_eq!(state.enter(&policy, at(100)), Err(Refusal::Busy));
        assert_eq!(state.leave(&policy, first, Outcome::Success, at(110)), None);
        assert_eq!(state.leave(&policy, second, Outcome::Success, at(110)), Some(Move::Closed));
        state.enter(&policy, at(110)).unwrap();
    }

    #[test]
    fn one_failed_probe_opens_it_again() {
        let policy = policy(1, 2, None);
        let mut state = open(&policy);
        let first = state.enter(&policy, at(100)).unwrap();
        let second = state.enter(&policy, at(100)).unwrap();
        assert_eq!(state.leave(&policy, first, Outcome::Failure, at(120)), Some(Move::Opened));
        assert_eq!(state.leave(&policy, second, Outcome::Success, at(121)), None);
        assert_eq!(state.enter(&policy, at(219)), Err(Refusal::Open));
        state.enter(&policy, at(220)).unwrap();
    }

    #[test]
    fn an_abandoned_probe_leaves_its_place() {
        let policy = policy(1, 1, None);
        let mut state = open(&policy);
        let probe = state.enter(&policy, at(100)).unwrap();
        assert_eq!(state.enter(&policy, at(100)), Err(Refusal::Busy));
        state.abandon(probe);
        state.enter(&policy, at(100)).unwrap();
    }

    #[test]
    fn outcomes_of_an_earlier_period_do_not_count() {
        let policy = policy(1, 1, None);
        let mut state = State::new(&policy, at(0));
        let old = state.enter(&policy, at(0)).unwrap();
        assert_eq!(call(&mut state, &policy, Outcome::Failure, 0), Some(Move::Opened));
        assert_eq!(state.leave(&policy, old, Outcome::Success, at(100)), None);
        let probe = state.enter(&policy, at(100)).unwrap();
        state.abandon(old);
        assert_eq!(state.enter(&policy, at(100)), Err(Refusal::Busy), "{probe:?} is under way");
    }

    #[test]
    fn counts_begin_anew_after_each_interval() {
        let policy = policy(2, 1, Some(50));
        let mut state = State::new(&policy, at(0));
        assert_eq!(call(&mut state, &policy, Outcome::Failure, 50), None);
        assert_eq!(call(&mut state, &policy, Outcome::Failure, 51), None, "the first is forgotten");
        assert_eq!(call(&mut state, &policy, Outcome::Failure, 101), Some(Move::Opened));
    }
}
