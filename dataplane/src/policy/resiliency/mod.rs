//! The attempts of one call under a policy: each under a timeout and a circuit breaker, with pauses
//! between them.
//!
//! ```text
//!              let through                    failed, and worth another attempt
//!   begin() ───────────────► UnderWay ───────────────────────────────────────► Waiting
//!      │                        ▲  │ answered, or failed for good                 │
//!      │ refused                │  └────────► (over)                     begin()  │
//!      └──► (over)              └─────────────────────────────────────────────────┘
//! ```
//! As daprd nests them: retry around breaker around timeout. A call without policy has none of
//! this, and pays one branch.

#![forbid(unsafe_code)]

mod breaker;
mod breakers;
mod kept;
mod retry;

pub(crate) use breaker::{Move, Position, Refusal};
pub(crate) use breakers::{Breakers, Endpoint};
pub(crate) use kept::Budget;

use crate::{clock::Instant, draw::Draw};
use breaker::Outcome;
use breakers::Ticket;
use kept::Kept;
use snapshot::policy::resiliency::{Policy, Retry};
use std::{sync::Arc, time::Duration};

/// How an attempt ended that was no success.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Failure {
    /// The app answered with this status.
    Answer(u16),
    /// There is no answer of the app.
    NoAnswer,
}

/// What comes after an attempt without success.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Next {
    /// Another one, after this pause.
    After(Duration),
    /// There would be another one, if the request were still here.
    Impossible,
    Over,
}

pub(crate) struct Attempts {
    policy: Arc<Policy>,
    began: Instant,
    /// Attempts after the first.
    retry_count: u32,
    stage: Stage,
    /// Of the attempt under way, if there is a breaker.
    ticket: Option<Ticket>,
    /// Room taken for the bytes of the request.
    pub kept: Kept,
}

enum Stage {
    UnderWay { deadline: Option<Instant> },
    Waiting { until: Instant },
}

/// daprd counts 200 to 399 as success.
pub(crate) const fn is_success(status: u16) -> bool {
    matches!(status, 200..=399)
}

impl Attempts {
    pub(crate) fn new(policy: &Arc<Policy>, budget: &Budget, now: Instant) -> Self {
        Self {
            policy: Arc::clone(policy),
            began: now,
            retry_count: 0,
            stage: Stage::UnderWay { deadline: None },
            ticket: None,
            kept: Kept::nothing(budget),
        }
    }

    /// Of daprd's own making, when another sidecar cannot be reached.
    pub(crate) fn built_in(&self) -> Option<&Retry> {
        self.policy.built_in.as_ref()
    }

    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }

    /// In which the breaker let the attempt through, if there is one.
    pub(crate) fn position(&self) -> Option<Position> {
        self.ticket.as_ref().map(Ticket::position)
    }

    pub(crate) fn retries(&self) -> bool {
        self.policy.retry.is_some()
    }

    /// An attempt may go out.
    ///
    /// # Errors
    /// The breaker refuses it, and with it the call.
    pub(crate) fn begin(
        &mut self,
        breakers: &Breakers,
        endpoint: Endpoint<'_>,
        now: Instant,
    ) -> Result<(), Refusal> {
        debug_assert!(self.ticket.is_none(), "the last attempt was settled");
        if self.policy.breaker.is_some() {
            self.ticket = Some(breakers.enter(endpoint, &self.policy, now)?);
        }
        self.stage = Stage::UnderWay { deadline: self.policy.timeout.map(|timeout| now + timeout) };
        Ok(())
    }

    /// When to look at it: the end of the attempt's time, or of the pause.
    pub(crate) const fn deadline(&self) -> Option<Instant> {
        match self.stage {
            Stage::UnderWay { deadline } => deadline,
            Stage::Waiting { until } => Some(until),
        }
    }

    pub(crate) fn is_out_of_time(&self, now: Instant) -> bool {
        matches!(self.stage, Stage::UnderWay { deadline: Some(deadline) } if deadline <= now)
    }

    pub(crate) const fn is_waiting(&self) -> bool {
        matches!(self.stage, Stage::Waiting { .. })
    }

    /// The answer was relayed whole.
    pub(crate) fn succeeded(&mut self, now: Instant) -> Option<Move> {
        self.settle(Outcome::Success, now)
    }

    /// To be told once per attempt, before [`Self::wait_after`].
    pub(crate) fn failed(&mut self, now: Instant) -> Option<Move> {
        self.settle(Outcome::Failure, now)
    }

    fn settle(&mut self, outcome: Outcome, now: Instant) -> Option<Move> {
        self.ticket.take().and_then(|ticket| ticket.settle(outcome, now))
    }

    /// Whether the call is tried once more, and waits until then. `is_kept`: all of the request is
    /// still here.
    pub(crate) fn wait_after(
        &mut self,
        failure: Failure,
        is_kept: bool,
        now: Instant,
        draw: &mut Draw,
    ) -> Next {
        let wants = |retry: &&Retry| match failure {
            Failure::Answer(status) => retry.is_wanted_for(status),
            Failure::NoAnswer => true,
        };
        let retry = self.policy.retry.as_ref().filter(wants);
        let elapsed = now.since(self.began);
        match retry.and_then(|retry| retry::pause(retry, self.retry_count, elapsed, draw)) {
            None => Next::Over,
            Some(_) if !is_kept => Next::Impossible,
            Some(pause) => {
                self.retry_count += 1;
                self.stage = Stage::Waiting { until: now + pause };
                Next::After(pause)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapshot::policy::{
        resiliency::{Breaker, Pause, StatusSet},
        trip::Trip,
    };

    const MS: Duration = Duration::from_millis(1);
    const ENDPOINT: Endpoint<'static> = Endpoint { app: 0, target: b"a", method: b"m" };

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    fn retry(count_max: Option<u32>, statuses: &[u16]) -> Retry {
        let mut set = StatusSet::default();
        statuses.iter().for_each(|status| set.insert(*status));
        let statuses = (!statuses.is_empty()).then_some(set);
        Retry { pause: Pause::Constant(10 * MS), count_max, statuses }
    }

    fn attempts(policy: Policy) -> Attempts {
        Attempts::new(&Arc::new(policy), &Budget::new(100), at(0))
    }

    #[test]
    fn what_is_tried_again() {
        let error = Failure::NoAnswer;
        let once_more = Next::After(10 * MS);
        for (case, retry, failure, is_kept, want) in [
            ("no retry", None, error, true, Next::Over),
            ("no attempt left", Some(retry(Some(0), &[])), error, true, Next::Over),
            ("unlisted", Some(retry(None, &[503])), Failure::Answer(500), true, Next::Over),
            ("unlisted, gone", Some(retry(None, &[503])), Failure::Answer(500), false, Next::Over),
            ("gone", Some(retry(None, &[])), error, false, Next::Impossible),
            ("listed", Some(retry(None, &[503])), Failure::Answer(503), true, once_more),
            ("any status", Some(retry(None, &[])), Failure::Answer(101), true, once_more),
            ("no answer, whatever the list", Some(retry(None, &[503])), error, true, once_more),
        ] {
            let mut attempts = attempts(Policy { retry, ..Policy::default() });
            let next = attempts.wait_after(failure, is_kept, at(5), &mut Draw::new(1));
            assert_eq!(next, want, "{case}");
            assert_eq!(attempts.is_waiting(), want == once_more, "{case}");
            assert_eq!(attempts.deadline(), (want == once_more).then(|| at(15)), "{case}");
        }
    }

    #[test]
    fn each_attempt_has_the_whole_time() {
        let policy = Policy {
            timeout: Some(20 * MS),
            retry: Some(retry(Some(1), &[])),
            ..Policy::default()
        };
        let (breakers, mut attempts) = (Breakers::default(), attempts(policy));
        attempts.begin(&breakers, ENDPOINT, at(100)).unwrap();
        assert!(!attempts.is_out_of_time(at(119)) && attempts.is_out_of_time(at(120)));
        let late = Failure::NoAnswer;
        let next = attempts.wait_after(late, true, at(120), &mut Draw::new(1));
        assert_eq!(next, Next::After(10 * MS));
        assert!(!attempts.is_out_of_time(at(500)), "a pause has no timeout");
        attempts.begin(&breakers, ENDPOINT, at(130)).unwrap();
        assert_eq!(attempts.deadline(), Some(at(150)));
        let next = attempts.wait_after(late, true, at(150), &mut Draw::new(1));
        assert_eq!(next, Next::Over);
    }

    #[test]
    fn an_open_breaker_ends_the_call() {
        let breaker = Breaker {
            probes_max: 1,
            interval: None,
            open_time: 50 * MS,
            trip: Trip::usual(),
            methods_max: 1,
        };
        let policy = Policy { breaker: Some(breaker), ..Policy::default() };
        let (breakers, mut attempts) = (Breakers::default(), attempts(policy));
        let mut moved = None;
        for _ in 0..6 {
            assert_eq!(moved, None);
            attempts.begin(&breakers, ENDPOINT, at(0)).unwrap();
            moved = attempts.failed(at(1));
        }
        assert_eq!(moved, Some(Move::Opened));
        assert_eq!(attempts.begin(&breakers, ENDPOINT, at(50)), Err(Refusal::Open));
        attempts.begin(&breakers, ENDPOINT, at(51)).unwrap();
        assert_eq!(attempts.succeeded(at(60)), Some(Move::Closed));
    }
}
