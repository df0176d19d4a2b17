//! How an app's calls are carried when they fail: timeouts, retries and circuit breakers by target.
//!
//! Control compiles it from resources of kind Resiliency; the caller's data plane looks a target up
//! once per call and keeps what it finds for as long as the call lasts.

#![forbid(unsafe_code)]

use super::trip::Trip;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// Policies of the calls of one app.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Resiliency {
    /// By the target as a caller writes it: `id`, `id.namespace`, a URL or the name of an
    /// HTTPEndpoint.
    pub targets: BTreeMap<Box<str>, Arc<Policy>>,
    /// For every other target.
    pub default: Option<Arc<Policy>>,
    /// The resources that this was put together from, in the order of their files. daprd's metrics
    /// name the last one.
    pub sources: Vec<Arc<Source>>,
}

/// A resource, as its `metadata` names it.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Source {
    pub name: Box<str>,
    pub namespace: Box<str>,
}

/// What holds for the calls of one target.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// Of each attempt, from its first byte to the last one of its answer.
    pub timeout: Option<Duration>,
    pub retry: Option<Retry>,
    pub breaker: Option<Breaker>,
    /// Further attempts when another sidecar could not be reached at all; `None`: none. They belong
    /// to the attempt that they are made for.
    pub built_in: Option<Retry>,
    /// What operators call the parts.
    pub names: Names,
}

/// Of the parts of a policy; empty for one that there is not.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Names {
    pub timeout: Box<str>,
    pub retry: Box<str>,
    pub breaker: Box<str>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retry {
    pub pause: Pause,
    /// Attempts after the first; `None`: as long as the client waits.
    pub count_max: Option<u32>,
    /// Which answers are tried again; `None`: all that are no success.
    pub statuses: Option<StatusSet>,
}

/// Time between two attempts.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Pause {
    Constant(Duration),
    /// [`Pause::FIRST`], then half as much again each time, up to this; drawn between one half and
    /// one and a half of that.
    Exponential {
        max: Duration,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Breaker {
    /// Calls let through to find out whether the target works again, and successes that prove it.
    pub probes_max: u32,
    /// After which the counts of a closed breaker start anew; `None`: never.
    pub interval: Option<Duration>,
    /// For which an open breaker lets nothing through.
    pub open_time: Duration,
    pub trip: Trip,
    /// Methods of the target that have a breaker of their own at one time.
    pub methods_max: u32,
}

/// HTTP status codes from 100 to 599.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct StatusSet([u64; 8]);

impl Resiliency {
    /// What holds for calls of `target`; bytes, since nothing says that a caller sends UTF-8.
    pub fn find(&self, target: &[u8]) -> Option<&Arc<Policy>> {
        let named = str::from_utf8(target).ok().and_then(|target| self.targets.get(target));
        named.or(self.default.as_ref())
    }

    /// Says nothing that would not hold without it.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty() && self.default.is_none() && self.sources.is_empty()
    }
}

impl Retry {
    /// daprd's `DaprBuiltInServiceRetries`.
    pub const BUILT_IN: Self =
        Self { pause: Pause::Constant(Duration::from_secs(1)), count_max: Some(3), statuses: None };

    pub fn is_wanted_for(&self, status: u16) -> bool {
        self.statuses.is_none_or(|statuses| statuses.contains(status))
    }
}

impl Pause {
    /// Of an exponential one.
    pub const FIRST: Duration = Duration::from_millis(500);

    /// The one before the second attempt, without any jitter.
    pub fn first(self) -> Duration {
        match self {
            Self::Constant(pause) => pause,
            Self::Exponential { max } => Self::FIRST.min(max),
        }
    }
}

impl StatusSet {
    pub fn insert(&mut self, status: u16) {
        if let Some((word, bit)) = Self::place(status) {
            self.0[word] |= bit;
        }
    }

    pub fn contains(&self, status: u16) -> bool {
        Self::place(status).is_some_and(|(word, bit)| self.0[word] & bit != 0)
    }

    fn place(status: u16) -> Option<(usize, u64)> {
        let index = usize::from(status.checked_sub(100).filter(|index| *index < 500)?);
        Some((index / 64, 1 << (index % 64)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_what_was_put_into_it() {
        let mut set = StatusSet::default();
        for status in [100, 163, 164, 404, 599] {
            assert!(!set.contains(status), "{status}");
            set.insert(status);
            assert!(set.contains(status), "{status}");
        }
        for status in [0, 99, 600, u16::MAX] {
            set.insert(status);
            assert!(!set.contains(status), "{status}");
        }
        assert!(!set.contains(101) && !set.contains(405));
    }

    #[test]
    fn the_target_itself_comes_before_the_default() {
        let policy =
            |ms| Arc::new(Policy { timeout: Some(Duration::from_millis(ms)), ..Policy::default() });
        let mut resiliency = Resiliency::default();
        assert!(resiliency.is_empty() && resiliency.find(b"a").is_none());
        resiliency.targets.insert("a".into(), policy(1));
        resiliency.targets.insert("a.prod".into(), policy(2));
        for (target, want) in
            [(&b"a"[..], Some(1)), (b"a.prod", Some(2)), (b"b", None), (b"\xff", None)]
        {
            assert_eq!(resiliency.find(target), want.map(policy).as_ref(), "{target:?}");
        }
        resiliency.default = Some(policy(3));
        assert_eq!(resiliency.find(b"\xff"), Some(&policy(3)));
        assert_eq!(resiliency.find(b"a"), Some(&policy(1)));
    }
}
