//! How long to wait before another attempt, if there is to be one. Pure.

#![forbid(unsafe_code)]

use crate::{
    draw::Draw,
    limits::{RETRY_PAUSE_MIN, RETRY_TIME_MAX},
};
use snapshot::policy::resiliency::{Pause, Retry};
use std::time::Duration;

/// `made` attempts after the first were made in the time `elapsed`.
pub(super) fn pause(
    retry: &Retry,
    made: u32,
    elapsed: Duration,
    draw: &mut Draw,
) -> Option<Duration> {
    if retry.count_max.is_some_and(|max| made >= max) {
        return None;
    }
    let pause = match retry.pause {
        Pause::Constant(pause) => pause,
        Pause::Exponential { max } => jittered(exponential(made, max), draw),
    };
    let pause = pause.max(RETRY_PAUSE_MIN);
    (elapsed.saturating_add(pause) <= RETRY_TIME_MAX).then_some(pause)
}

fn exponential(made: u32, max: Duration) -> Duration {
    // Beyond this power every maximum that can be configured is reached.
    let power = FACTOR.powi(made.min(POWER_MAX).cast_signed());
    Duration::try_from_secs_f64(Pause::FIRST.as_secs_f64() * power).unwrap_or(max).min(max)
}

fn jittered(pause: Duration, draw: &mut Draw) -> Duration {
    const STEPS: usize = 1 << 20;
    let part = draw.below(STEPS + 1) as f64 / STEPS as f64;
    pause.mul_f64(1.0 - JITTER + 2.0 * JITTER * part)
}

/// What daprd's exponential retry has, and no resource can change.
const FACTOR: f64 = 1.5;
const JITTER: f64 = 0.5;

const POWER_MAX: u32 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn retry(pause: Pause, count_max: Option<u32>) -> Retry {
        Retry { pause, count_max, statuses: None }
    }

    #[test]
    fn ends_when_attempts_or_time_are_used_up() {
        let constant = Pause::Constant(SECOND);
        let quick = Pause::Constant(Duration::from_nanos(1));
        for (case, retry, made, elapsed, want) in [
            ("none allowed", retry(constant, Some(0)), 0, SECOND, None),
            ("all made", retry(constant, Some(3)), 3, SECOND, None),
            ("one left", retry(constant, Some(3)), 2, SECOND, Some(SECOND)),
            ("any number", retry(constant, None), 1_000_000, SECOND, Some(SECOND)),
            ("out of time", retry(constant, None), 1, RETRY_TIME_MAX, None),
            ("just in time", retry(constant, None), 1, RETRY_TIME_MAX - SECOND, Some(SECOND)),
            ("time beyond all bounds", retry(constant, None), 1, Duration::MAX, None),
            ("never at once", retry(quick, Some(3)), 2, SECOND, Some(RETRY_PAUSE_MIN)),
        ] {
            assert_eq!(pause(&retry, made, elapsed, &mut Draw::new(1)), want, "{case}");
        }
    }

    #[test]
    fn exponential_pauses_grow_to_their_maximum_with_jitter() {
        let retry = retry(Pause::Exponential { max: 10 * SECOND }, None);
        let mut seen = (Duration::MAX, Duration::ZERO);
        for seed in 0..200 {
            let mut draw = Draw::new(seed);
            let mut middle = 0.5;
            for made in 0..30 {
                let pause = pause(&retry, made, SECOND, &mut draw).unwrap().as_secs_f64();
                let range = middle * 0.5 - 1e-6..=middle * 1.5 + 1e-6;
                assert!(range.contains(&pause), "seed {seed}, {made}: {pause} of {middle}");
                middle = f64::min(middle * 1.5, 10.0);
            }
            let first = super::pause(&retry, 0, SECOND, &mut draw).unwrap();
            seen = (seen.0.min(first), seen.1.max(first));
        }
        assert!(seen.0.as_millis() < 300 && seen.1.as_millis() > 700, "{seen:?}");
        let far = super::pause(&retry, u32::MAX, SECOND, &mut Draw::new(1)).unwrap();
        assert!(far >= 5 * SECOND && far <= 15 * SECOND);
    }
}
