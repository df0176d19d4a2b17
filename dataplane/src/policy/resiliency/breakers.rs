//! The circuit breakers of this process: one for each method of a target that an app calls.
//!
//! All workers share them. An operator who writes "after five failures" means five, not five per
//! worker, and how calls fall on workers is nothing that anybody could reckon with. So there is a
//! lock, the only one on a request's way: calls without a breaker never come here, the others hold
//! it for two look-ups, and nobody waits for anything else while he has it.

#![forbid(unsafe_code)]

use super::breaker::{Move, Outcome, Period, Position, Refusal, State};
use crate::{clock::Instant, limits::BREAKER_TARGETS_MAX};
use foldhash::{HashMap, quality::RandomState};
use snapshot::policy::resiliency::{Breaker, Policy};
use std::{
    hash::BuildHasher,
    sync::{Arc, MutexGuard, PoisonError},
};

/// What a breaker stands in front of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Endpoint<'a> {
    /// The number of the calling app.
    pub app: usize,
    /// As the caller writes it.
    pub target: &'a [u8],
    pub method: &'a [u8],
}

#[derive(Default)]
pub(crate) struct Breakers {
    /// By a hash of app and target, so that calls of different targets rarely meet.
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
}

#[expect(
    clippy::disallowed_types,
    reason = "held for two look-ups, by calls under a breaker only; counts must be those of all workers"
)]
type Mutex<T> = std::sync::Mutex<T>;

#[derive(Default)]
struct Shard {
    /// By app, then by target.
    apps: HashMap<usize, HashMap<Box<[u8]>, Target>>,
    target_count: usize,
    /// Counts up with each look-up, to tell what was used last.
    clock: u64,
}

struct Target {
    /// Another policy begins with breakers of its own.
    policy: Arc<Policy>,
    methods: HashMap<Box<[u8]>, Method>,
    /// Of the method that was called last; its position is shown as the target's.
    last: Option<Arc<Shared>>,
    used: u64,
}

struct Method {
    shared: Arc<Shared>,
    used: u64,
}

struct Shared {
    policy: Arc<Policy>,
    state: Mutex<State>,
}

/// A call that a breaker let through. Dropped without an outcome it counts as abandoned.
pub(crate) struct Ticket {
    shared: Arc<Shared>,
    period: Period,
    is_probe: bool,
    is_settled: bool,
}

impl Breakers {
    /// Of the breaker of a target that was asked last; `None`: none was, or its policy has another
    /// one since.
    pub(crate) fn position(&self, app: usize, target: &[u8], now: Instant) -> Option<Position> {
        let shared = {
            let shard = lock(self.shard(app, target));
            Arc::clone(shard.apps.get(&app)?.get(target)?.last.as_ref()?)
        };
        let breaker = breaker_of(&shared.policy);
        Some(lock(&shared.state).position(breaker, now))
    }

    fn shard(&self, app: usize, target: &[u8]) -> &Mutex<Shard> {
        let hash = self.hasher.hash_one((app, target));
        &self.shards[usize::try_from(hash % SHARDS as u64).expect("it is below SHARDS")]
    }

    /// # Errors
    /// The breaker refuses the call.
    pub(super) fn enter(
        &self,
        endpoint: Endpoint<'_>,
        policy: &Arc<Policy>,
        now: Instant,
    ) -> Result<Ticket, Refusal> {
        let shard = self.shard(endpoint.app, endpoint.target);
        let shared = lock(shard).find(endpoint, policy, now);
        let breaker = breaker_of(&shared.policy);
        let mut state = lock(&shared.state);
        let period = state.enter(breaker, now)?;
        let is_probe = state.position(breaker, now) == Position::HalfOpen;
        std::mem::drop(state);
        Ok(Ticket { shared, period, is_probe, is_settled: false })
    }
}

impl Shard {
    fn find(&mut self, endpoint: Endpoint<'_>, policy: &Arc<Policy>, now: Instant) -> Arc<Shared> {
        self.clock += 1;
        let clock = self.clock;
        let known = self.apps.get(&endpoint.app).is_some_and(|t| t.contains_key(endpoint.target));
        if !known {
            self.make_room();
            self.target_count += 1;
        }
        let targets = self.apps.entry(endpoint.app).or_default();
        if !known {
            let (policy, methods) = (Arc::clone(policy), HashMap::default());
            targets.insert(
                endpoint.target.into(),
                Target { policy, methods, last: None, used: clock },
            );
        }
        let target = targets.get_mut(endpoint.target).expect("it was known, or just made");
        target.used = clock;
        // The same policy may come with another snapshot.
        if !Arc::ptr_eq(&target.policy, policy) {
            if target.policy.breaker != policy.breaker {
                target.methods.clear();
                target.last = None;
            }
            target.policy = Arc::clone(policy);
        }
        let shared = target.find(endpoint.method, now, clock);
        target.last = Some(Arc::clone(&shared));
        shared
    }

    /// The target that was called longest ago goes, when there are too many.
    fn make_room(&mut self) {
        if self.target_count < BREAKER_TARGETS_MAX / SHARDS {
            return;
        }
        let all = self.apps.iter().flat_map(|(app, targets)| {
            targets.iter().map(move |(target, found)| (found.used, *app, target))
        });
        let Some((_, app, target)) = all.min_by_key(|(used, ..)| *used) else { return };
        let target = target.clone();
        if let Some(targets) = self.apps.get_mut(&app) {
            targets.remove(&target);
            if targets.is_empty() {
                self.apps.remove(&app);
            }
        }
        self.target_count -= 1;
    }
}

impl Target {
    fn find(&mut self, method: &[u8], now: Instant, clock: u64) -> Arc<Shared> {
        if let Some(found) = self.methods.get_mut(method) {
            found.used = clock;
            return Arc::clone(&found.shared);
        }
        let breaker = breaker_of(&self.policy);
        if self.methods.len() >= breaker.methods_max.max(1) as usize {
            let oldest = self.methods.iter().min_by_key(|(_, found)| found.used);
            if let Some(name) = oldest.map(|(name, _)| name.clone()) {
                self.methods.remove(&name);
            }
        }
        let state = Mutex::new(State::new(breaker, now));
        let shared = Arc::new(Shared { policy: Arc::clone(&self.policy), state });
        self.methods.insert(method.into(), Method { shared: Arc::clone(&shared), used: clock });
        shared
    }
}

impl Ticket {
    /// The position in which the breaker let it through.
    pub(super) const fn position(&self) -> Position {
        if self.is_probe { Position::HalfOpen } else { Position::Closed }
    }

    pub(super) fn settle(mut self, outcome: Outcome, now: Instant) -> Option<Move> {
        self.is_settled = true;
        let breaker = breaker_of(&self.shared.policy);
        lock(&self.shared.state).leave(breaker, self.period, outcome, now)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.is_settled {
            lock(&self.shared.state).abandon(self.period);
        }
    }
}

fn breaker_of(policy: &Policy) -> &Breaker {
    policy.breaker.as_ref().expect("only calls under a breaker come here")
}

/// What a worker that panicked left behind is whole: nothing in here panics half-way.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const SHARDS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use snapshot::policy::trip::{Count, Step, Trip};
    use std::time::Duration;

    const NOW: Instant = Instant::from_nanos(1);

    /// Opens with the first failure, for ever.
    fn policy(methods_max: u32) -> Arc<Policy> {
        let steps = vec![Step::Int(0), Step::Count(Count::Failures), Step::Less];
        let breaker = Breaker {
            probes_max: 1,
            interval: None,
            open_time: Duration::from_secs(1_000_000),
            trip: Trip::new(steps).unwrap(),
            methods_max,
        };
        Arc::new(Policy { breaker: Some(breaker), ..Policy::default() })
    }

    fn endpoint<'a>(app: usize, target: &'a str, method: &'a str) -> Endpoint<'a> {
        Endpoint { app, target: target.as_bytes(), method: method.as_bytes() }
    }

    fn fail(breakers: &Breakers, endpoint: Endpoint<'_>, policy: &Arc<Policy>) {
        let ticket = breakers.enter(endpoint, policy, NOW).unwrap();
        assert_eq!(ticket.settle(Outcome::Failure, NOW), Some(Move::Opened));
    }

    fn is_open(breakers: &Breakers, endpoint: Endpoint<'_>, policy: &Arc<Policy>) -> bool {
        breakers.enter(endpoint, policy, NOW).is_err()
    }

    #[test]
    fn each_method_of_each_target_of_each_app_has_its_own() {
        let (breakers, policy) = (Breakers::default(), policy(10));
        fail(&breakers, endpoint(1, "a", "m"), &policy);
        for (case, endpoint, want) in [
            ("the same", endpoint(1, "a", "m"), true),
            ("another method", endpoint(1, "a", "n"), false),
            ("another target", endpoint(1, "b", "m"), false),
            ("another app", endpoint(2, "a", "m"), false),
        ] {
            assert_eq!(is_open(&breakers, endpoint, &policy), want, "{case}");
        }
    }

    #[test]
    fn the_method_that_was_used_last_stays() {
        let (breakers, policy) = (Breakers::default(), policy(2));
        for method in ["x", "y"] {
            fail(&breakers, endpoint(1, "a", method), &policy);
        }
        assert!(is_open(&breakers, endpoint(1, "a", "x"), &policy));
        fail(&breakers, endpoint(1, "a", "z"), &policy);
        let open = ["x", "z"].map(|method| is_open(&breakers, endpoint(1, "a", method), &policy));
        assert_eq!(open, [true; 2]);
        assert!(!is_open(&breakers, endpoint(1, "a", "y"), &policy), "it had to go");
    }

    #[test]
    fn targets_are_bounded() {
        let (breakers, policy) = (Breakers::default(), policy(1));
        for target in 0..2 * BREAKER_TARGETS_MAX {
            fail(&breakers, endpoint(1, &target.to_string(), "m"), &policy);
        }
        let counts = breakers.shards.iter().map(|shard| {
            let shard = lock(shard);
            let held: usize = shard.apps.values().map(HashMap::len).sum();
            assert_eq!(held, shard.target_count);
            held
        });
        assert!(counts.sum::<usize>() <= BREAKER_TARGETS_MAX);
        let last = (2 * BREAKER_TARGETS_MAX - 1).to_string();
        assert!(is_open(&breakers, endpoint(1, &last, "m"), &policy));
    }

    #[test]
    fn another_policy_begins_anew_and_the_same_does_not() {
        let (breakers, first) = (Breakers::default(), policy(2));
        let endpoint = endpoint(1, "a", "m");
        fail(&breakers, endpoint, &first);
        assert!(is_open(&breakers, endpoint, &policy(2)), "equal, by another snapshot");
        assert!(!is_open(&breakers, endpoint, &policy(3)));
    }

    #[test]
    fn counts_are_those_of_all_threads() {
        let steps = vec![Step::Int(400), Step::Count(Count::Failures), Step::LessOrEqual];
        let mut policy = Arc::unwrap_or_clone(policy(1));
        policy.breaker.as_mut().unwrap().trip = Trip::new(steps).unwrap();
        let (breakers, policy) = (Breakers::default(), Arc::new(policy));
        let worker = || {
            let enter = || breakers.enter(endpoint(1, "a", "m"), &policy, NOW);
            let settled = |ticket: Ticket| ticket.settle(Outcome::Failure, NOW);
            (0..100).filter(|_| enter().is_ok_and(|t| settled(t).is_some())).count()
        };
        let opened: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(worker)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(opened, 1, "the four hundredth failure, whoever had it");
        assert!(is_open(&breakers, endpoint(1, "a", "m"), &policy));
    }
}
