//! What becomes of a data plane whose control is gone: it serves on, ends gently, ends.
//!
//! ```text
//!   No ──control lost──► Serving ──its time is over──► Draining ──drained, time──► the process ends
//!    ▲                      │                             ▲
//!    └──control comes back──┘        lost while draining ─┘
//! ```
//! Pure: the link reads the clock and does what is due.

#![forbid(unsafe_code)]

use crate::{clock::Instant, limits::ALONE_DRAIN_MAX};
use snapshot::OnControlLost;
use std::time::Duration;

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Alone {
    /// There is a control, or none came yet.
    #[default]
    No,
    Serving {
        /// `None`: for ever.
        until: Option<Instant>,
    },
    Draining {
        until: Instant,
    },
}

/// What the link has to do now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Due {
    Nothing,
    Drain,
    Exit,
}

impl Alone {
    /// Control left without a word. `is_draining`: it had told to drain before.
    pub(super) fn on_control_lost(
        &mut self,
        wish: OnControlLost,
        is_draining: bool,
        now: Instant,
    ) -> Due {
        *self = match wish {
            OnControlLost::Exit => return Due::Exit,
            _ if is_draining => Self::Draining { until: now + ALONE_DRAIN_MAX },
            OnControlLost::Serve => Self::Serving { until: None },
            OnControlLost::ServeFor(time) => Self::Serving { until: Some(now + time) },
        };
        Due::Nothing
    }

    pub(super) fn on_control(&mut self) {
        debug_assert!(!matches!(self, Self::Draining { .. }), "what drains takes no control");
        *self = Self::No;
    }

    /// What the time alone brings about.
    pub(super) fn on_time(&mut self, now: Instant) -> Due {
        match *self {
            Self::Serving { until: Some(until) } if until <= now => {
                *self = Self::Draining { until: now + ALONE_DRAIN_MAX };
                Due::Drain
            }
            Self::Draining { until } if until <= now => Due::Exit,
            _ => Due::Nothing,
        }
    }

    pub(super) const fn is_draining(self) -> bool {
        matches!(self, Self::Draining { .. })
    }

    /// Until [`Self::on_time`] has something to say.
    pub(super) fn next_in(self, now: Instant) -> Option<Duration> {
        match self {
            Self::Serving { until: Some(until) } | Self::Draining { until } => {
                Some(until.since(now))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::from_nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn ends_at_once_when_told_so() {
        for is_draining in [false, true] {
            let mut alone = Alone::default();
            let due = alone.on_control_lost(OnControlLost::Exit, is_draining, at(1));
            assert_eq!((due, alone), (Due::Exit, Alone::No), "{is_draining}");
        }
    }

    #[test]
    fn serves_for_ever() {
        let mut alone = Alone::default();
        assert_eq!(alone.on_control_lost(OnControlLost::Serve, false, at(1)), Due::Nothing);
        assert_eq!((alone.on_time(at(1 << 30)), alone.next_in(at(2))), (Due::Nothing, None));
    }

    #[test]
    fn serves_for_a_time_then_drains_then_ends() {
        let wish = OnControlLost::ServeFor(Duration::from_secs(8));
        let mut alone = Alone::default();
        assert_eq!(alone.on_control_lost(wish, false, at(1)), Due::Nothing);
        assert_eq!(alone.next_in(at(3)), Some(Duration::from_secs(6)));
        assert_eq!(alone.on_time(at(8)), Due::Nothing);
        alone.on_control();
        assert_eq!((alone.next_in(at(3)), alone.on_time(at(20))), (None, Due::Nothing));

        assert_eq!(alone.on_control_lost(wish, false, at(20)), Due::Nothing);
        assert_eq!((alone.on_time(at(28)), alone.is_draining()), (Due::Drain, true));
        assert_eq!(alone.on_time(at(28)), Due::Nothing);
        assert_eq!(alone.on_time(at(28) + ALONE_DRAIN_MAX), Due::Exit);
    }

    #[test]
    fn what_drained_already_serves_no_longer() {
        for wish in [OnControlLost::Serve, OnControlLost::ServeFor(Duration::from_secs(8))] {
            let mut alone = Alone::default();
            assert_eq!(alone.on_control_lost(wish, true, at(1)), Due::Nothing);
            assert_eq!(alone.next_in(at(1)), Some(ALONE_DRAIN_MAX));
            assert_eq!(alone.on_time(at(1) + ALONE_DRAIN_MAX), Due::Exit, "{wish:?}");
        }
    }
}
