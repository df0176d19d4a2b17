//! `middleware.http.ratelimit`: a token bucket for each client and path.
//!
//! All workers share the buckets: an operator who writes "ten per second" means ten, not ten per
//! worker. So there is a lock, which only requests under a limit take, for one look-up.

#![forbid(unsafe_code)]

use super::{Subject, Surroundings};
use crate::{
    clock::Instant,
    limits::{RATE_BUCKETS_MAX, RATE_KEY_BYTES_MAX},
};
use foldhash::{HashMap, quality::RandomState};
use snapshot::policy::RateLimit;
use std::{
    hash::BuildHasher,
    io::Write as _,
    sync::{MutexGuard, PoisonError},
};

/// One limit, as a worker reads it.
pub(super) struct Rate {
    component: Box<[u8]>,
    per_second: f64,
    /// Requests that may come at once.
    burst: f64,
    /// The lines that all answers carry.
    lines: Box<[u8]>,
    /// And what is left stands behind these.
    lines_of_left: Box<[u8]>,
}

/// The buckets of this process.
#[derive(Default)]
pub(crate) struct RateLimits {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
}

#[expect(
    clippy::disallowed_types,
    reason = "held for one look-up, by requests under a limit only; counts must be those of all workers"
)]
type Mutex<T> = std::sync::Mutex<T>;

#[derive(Default)]
struct Shard {
    buckets: HashMap<Box<[u8]>, Bucket>,
}

#[derive(Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Instant,
    /// When it will be full, and as good as none.
    full_at: Instant,
}

impl Rate {
    pub(super) fn new(limit: &RateLimit) -> Self {
        let RateLimit { component, per_second } = limit;
        let lines = format!("X-Rate-Limit-Limit: {per_second:.2}\r\nX-Rate-Limit-Duration: 1\r\n");
        let rounded = per_second.round();
        let lines_of_left = format!("RateLimit-Limit: {rounded:.0}\r\nRateLimit-Reset: 1\r\n");
        Self {
            component: component.as_bytes().into(),
            per_second: *per_second,
            burst: per_second.max(1.0).floor(),
            lines: lines.into_bytes().into(),
            lines_of_left: lines_of_left.into_bytes().into(),
        }
    }

    /// Whether one more request may pass.
    pub(super) fn take(
        &self,
        subject: &mut Subject,
        around: &Surroundings<'_>,
        lines: &mut Vec<u8>,
    ) -> bool {
        let Subject { path, scratch: key, .. } = subject;
        key.clear();
        key.extend_from_slice(&around.app.to_be_bytes());
        key.extend_from_slice(&self.per_second.to_bits().to_be_bytes());
        key.extend_from_slice(&self.component);
        key.push(0);
        around.client.write_key(key);
        key.push(b'|');
        key.extend_from_slice(path);
        // Longer ones share a bucket with those that begin alike.
        key.truncate(RATE_KEY_BYTES_MAX);
        let left = around.limits.take(key, self.per_second, self.burst, around.now);
        lines.extend_from_slice(&self.lines);
        let forwarded = around.client.forwarded_line();
        if !forwarded.is_empty() {
            write_line(b"X-Rate-Limit-Request-Forwarded-For", forwarded, lines);
        }
        let address = around.client.address.unwrap_or_default();
        write_line(b"X-Rate-Limit-Request-Remote-Addr", address, lines);
        lines.extend_from_slice(&self.lines_of_left);
        let written = write!(lines, "RateLimit-Remaining: {:.0}\r\n", left.unwrap_or(0.0));
        debug_assert!(written.is_ok(), "a Vec takes every byte");
        left.is_some()
    }
}

fn write_line(name: &[u8], value: &[u8], lines: &mut Vec<u8>) {
    for part in [name, b": ", value, b"\r\n"] {
        lines.extend_from_slice(part);
    }
}

impl RateLimits {
    /// Whole tokens that are left behind this one; `None`: there was none.
    fn take(&self, key: &[u8], per_second: f64, burst: f64, now: Instant) -> Option<f64> {
        let hash = self.hasher.hash_one(key);
        let shard =
            &self.shards[usize::try_from(hash % SHARDS as u64).expect("it is below SHARDS")];
        let mut shard = lock(shard);
        let known = shard.buckets.get(key).copied();
        if known.is_none() {
            shard.make_room(now);
        }
        let mut bucket = known.unwrap_or(Bucket { tokens: burst, at: now, full_at: now });
        let passed = now.since(bucket.at).as_secs_f64();
        let tokens = (bucket.tokens + passed * per_second).min(burst);
        let is_allowed = tokens >= 1.0;
        if is_allowed {
            bucket.tokens = tokens - 1.0;
            bucket.at = now;
            let refill = (burst - bucket.tokens) / per_second;
            bucket.full_at =
                now + std::time::Duration::from_secs_f64(refill.min(REFILL_SECONDS_MAX));
            match shard.buckets.get_mut(key) {
                Some(kept) => *kept = bucket,
                None => drop(shard.buckets.insert(key.into(), bucket)),
            }
        }
        is_allowed.then(|| bucket.tokens.floor())
    }
}

impl Shard {
    /// Full buckets are as good as none; when there is no full one, the fullest goes, which is the
    /// client that lost least.
    fn make_room(&mut self, now: Instant) {
        if self.buckets.len() < RATE_BUCKETS_MAX / SHARDS {
            return;
        }
        self.buckets.retain(|_, bucket| bucket.full_at > now);
        if self.buckets.len() < RATE_BUCKETS_MAX / SHARDS {
            return;
        }
        let first = self.buckets.iter().min_by_key(|(_, bucket)| bucket.full_at);
        if let Some(key) = first.map(|(key, _)| key.clone()) {
            self.buckets.remove(&key);
        }
    }
}

/// Nobody holds it while he panics, so what it guards is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// So many that workers rarely meet.
const SHARDS: usize = 16;

/// A limit of less than this once is told of as if it were this.
const REFILL_SECONDS_MAX: f64 = 1e9;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(1_000_000_000) + Duration::from_millis(ms)
    }

    #[test]
    fn tokens_come_back_with_time_as_in_go() {
        for (case, per_second, steps) in [
            ("ten at once", 10.0, &[(0, Some(9.0)), (0, Some(8.0)), (50, Some(7.0))][..]),
            (
                "two",
                2.0,
                &[(0, Some(1.0)), (0, Some(0.0)), (0, None), (499, None), (500, Some(0.0))],
            ),
            ("refused ones cost nothing", 1.0, &[(0, Some(0.0)), (900, None), (1000, Some(0.0))]),
            ("never more than at once", 2.0, &[(0, Some(1.0)), (9000, Some(1.0))]),
            ("less than one", 0.5, &[(0, Some(0.0)), (1000, None), (2000, Some(0.0))]),
            ("a part of one", 1.5, &[(0, Some(0.0)), (600, None), (700, Some(0.0))]),
        ] {
            let limits = RateLimits::default();
            let limit = Rate::new(&RateLimit { component: "r".to_owned(), per_second });
            for (ms, want) in steps {
                let left = limits.take(b"k", limit.per_second, limit.burst, at(*ms));
                assert_eq!(left, *want, "{case}, at {ms} ms");
            }
        }
    }

    #[test]
    fn there_are_only_so_many_buckets() {
        let limits = RateLimits::default();
        let strangers = || (0..RATE_BUCKETS_MAX * 2).map(|number| number.to_be_bytes());
        for key in strangers() {
            assert_eq!(limits.take(&key, 1.0, 1.0, at(0)), Some(0.0));
        }
        let count = || limits.shards.iter().map(|shard| lock(shard).buckets.len()).sum::<usize>();
        assert!(count() <= RATE_BUCKETS_MAX, "{}", count());
        assert!(count() > RATE_BUCKETS_MAX / 2, "{}", count());
        // A second later all of them are full, and go together.
        for shard in &limits.shards {
            let mut shard = lock(shard);
            let held = shard.buckets.len();
            shard.make_room(at(1000));
            assert!(shard.buckets.is_empty() || held < RATE_BUCKETS_MAX / SHARDS);
        }
    }
}
