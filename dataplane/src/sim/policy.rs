//! The resiliency policy of a run, from its seed: what must hold without one must hold with any.
//!
//! An answer is the same however often it is asked for, so clients see no difference; apps are
//! asked more often.

#![forbid(unsafe_code)]

use super::random::Random;
use snapshot::policy::{
    resiliency::{Breaker, Names, Pause, Policy, Resiliency, Retry, StatusSet},
    trip::{Step, Trip},
};
use std::{sync::Arc, time::Duration};

/// `is_rough`: nobody counts on an answer, so attempts may run out of time and breakers may open.
pub(super) fn draw(seed: u64, is_rough: bool) -> Resiliency {
    // A source of its own: the same seed without a policy stays the same run.
    let mut random = Random::new(!seed);
    let policy = Policy {
        timeout: (is_rough && random.chance(50)).then(|| time(&mut random, 5000)),
        retry: random.chance(80).then(|| retry(&mut random)),
        breaker: random.chance(50).then(|| breaker(&mut random, is_rough)),
        built_in: random.chance(50).then_some(Retry::BUILT_IN),
        names: Names::default(),
    };
    Resiliency { default: Some(Arc::new(policy)), ..Resiliency::default() }
}

pub(super) fn retries(policy: &Resiliency) -> Option<usize> {
    let retry = policy.default.as_ref()?.retry.as_ref()?;
    Some(retry.count_max.map_or(0, |count| count as usize))
}

/// Short, so that a calm client need not be more patient.
const PAUSE_MS_MAX: usize = 500;

fn retry(random: &mut Random) -> Retry {
    let pause = match random.chance(50) {
        true => Pause::Constant(time(random, PAUSE_MS_MAX)),
        false => Pause::Exponential { max: time(random, PAUSE_MS_MAX) },
    };
    let statuses = random.chance(30).then(|| {
        let mut statuses = StatusSet::default();
        (500..600).for_each(|status| statuses.insert(status));
        statuses
    });
    let count_max = Some(u32::try_from(random.below(4)).expect("less than four"));
    Retry { pause, count_max, statuses }
}

fn breaker(random: &mut Random, may_open: bool) -> Breaker {
    Breaker {
        probes_max: u32::try_from(random.between(1, 3)).expect("a few"),
        interval: random.chance(50).then(|| time(random, 5000)),
        open_time: time(random, 2000),
        trip: Trip::new(vec![Step::Bool(may_open && random.chance(50))]).expect("one step"),
        methods_max: u32::try_from(random.between(1, 3)).expect("a few"),
    }
}

fn time(random: &mut Random, ms_max: usize) -> Duration {
    Duration::from_millis(random.below(ms_max) as u64)
}
