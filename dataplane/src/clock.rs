//! Time as the worker sees it: read once a turn, passed down as a value, so that tests decide what
//! time it is.

#![forbid(unsafe_code)]

use rustix::time::{ClockId, clock_gettime};
use std::{num::NonZeroU64, ops::Add, time::Duration};

/// Monotonic time in nanoseconds since some fixed moment before the process started.
///
/// One more than they are, so that zero is none: each connection has times it may not have, and
/// idle ones are to stay small.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Instant(NonZeroU64);

const _: () = assert!(size_of::<Option<Instant>>() == size_of::<u64>());

impl Instant {
    #[inline]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(NonZeroU64::MIN.saturating_add(nanos))
    }

    #[inline]
    pub const fn as_nanos(self) -> u64 {
        self.0.get() - 1
    }

    #[inline]
    pub const fn as_millis(self) -> u64 {
        self.as_nanos() / 1_000_000
    }

    /// So much earlier.
    pub fn before(self, duration: Duration) -> Self {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self::from_nanos(self.as_nanos().saturating_sub(nanos))
    }

    /// As [`Self::since`], as a number.
    #[inline]
    pub const fn nanos_since(self, earlier: Self) -> u64 {
        self.0.get().saturating_sub(earlier.0.get())
    }

    /// Zero if `earlier` is later: clocks of two threads may be read out of order.
    #[inline]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.nanos_since(earlier))
    }
}

impl Default for Instant {
    fn default() -> Self {
        Self::from_nanos(0)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    #[inline]
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// Reads CLOCK_MONOTONIC, through the vDSO: some 20 ns, no system call.
pub fn now() -> Instant {
    let time = clock_gettime(ClockId::Monotonic);
    let part = |value: i64| u64::try_from(value).unwrap_or(0);
    Instant::from_nanos(part(time.tv_sec) * 1_000_000_000 + part(time.tv_nsec))
}

/// Wall-clock nanoseconds since 1970.
pub fn unix_nanos() -> u64 {
    let time = clock_gettime(ClockId::Realtime);
    let part = |value: i64| u64::try_from(value).unwrap_or(0);
    part(time.tv_sec) * 1_000_000_000 + part(time.tv_nsec)
}

/// Wall-clock seconds since 1970, for `Date` lines.
pub fn unix_seconds() -> u64 {
    u64::try_from(clock_gettime(ClockId::Realtime).tv_sec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_what_they_were_made_of_as_far_as_they_go() {
        for nanos in [0, 1, 1_500_000_000, u64::MAX - 1] {
            let time = Instant::from_nanos(nanos);
            assert_eq!(time.as_nanos(), nanos);
            assert_eq!(time.since(Instant::default()), Duration::from_nanos(nanos));
            assert_eq!(
                (time + Duration::from_nanos(5)).before(Duration::from_nanos(9)) < time,
                nanos > 0
            );
            assert_eq!(Instant::default().since(time), Duration::ZERO);
        }
        let last = Instant::from_nanos(u64::MAX - 1);
        assert_eq!(last + Duration::MAX, last);
        assert_eq!(last.before(Duration::MAX), Instant::default());
    }
}
