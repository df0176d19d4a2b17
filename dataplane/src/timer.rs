//! Timer wheel: tells which keys to look at, and when. Pure; time comes in as a value.
//!
//! Deadlines are lazy. Whoever waits keeps the real deadline in its own state and has at most one
//! entry in here; when the entry comes up it looks at its deadline again and may enter anew. So a
//! deadline that moves with every request costs one store and no work here.

#![forbid(unsafe_code)]

use crate::clock::Instant;
use std::time::Duration;

/// One slot of a coarse wheel. Most timeouts are whole seconds, so firing up to this much late does
/// not matter.
const TICK_MS: u64 = 32;

/// One slot of a fine wheel, for the timeouts and pauses that policies give in milliseconds.
const FINE_TICK_MS: u64 = 1;

/// 512 × 32 ms = 16 s, or 0.5 s in a fine wheel. What lies further ahead comes up at the horizon
/// and is entered again.
const SLOTS: usize = 512;

const WORD_BITS: usize = 64;

pub(crate) struct Wheel<K> {
    slots: Vec<Vec<K>>,
    /// A bit per slot that is not empty, so that the next one is found without looking at all of
    /// them.
    taken: [u64; SLOTS / WORD_BITS],
    /// All ticks before this one have been handled.
    tick: u64,
    tick_ms: u64,
    count: usize,
}

impl<K> Wheel<K> {
    pub(crate) fn new(now: Instant) -> Self {
        Self::with_tick(now, TICK_MS)
    }

    pub(crate) fn fine(now: Instant) -> Self {
        Self::with_tick(now, FINE_TICK_MS)
    }

    fn with_tick(now: Instant, tick_ms: u64) -> Self {
        let slots = std::iter::repeat_with(Vec::new).take(SLOTS).collect();
        let (taken, tick) = ([0; SLOTS / WORD_BITS], now.as_millis() / tick_ms);
        Self { slots, taken, tick, tick_ms, count: 0 }
    }

    /// How far ahead an entry can be without coming up early.
    pub(crate) fn horizon(&self) -> Duration {
        Duration::from_millis((SLOTS as u64 - 2) * self.tick_ms)
    }

    /// Enters `key`, to come up at `at` or soon after; or before it, at the horizon, when `at` is
    /// far ahead. Returns when that will be.
    pub(crate) fn enter(&mut self, key: K, at: Instant) -> Instant {
        // Rounded up: an entry must never come up before its deadline, or its owner would enter it
        // in the same tick.
        let wanted = at.as_millis() / self.tick_ms + 1;
        let tick = wanted.clamp(self.tick + 1, self.tick + SLOTS as u64 - 1);
        let slot = slot_of(tick);
        self.slots[slot].push(key);
        self.taken[slot / WORD_BITS] |= 1 << (slot % WORD_BITS);
        self.count += 1;
        Instant::from_nanos(tick * self.tick_ms * 1_000_000)
    }

    /// Moves all keys whose time has come to `due`.
    pub(crate) fn expire(&mut self, now: Instant, due: &mut Vec<K>) {
        let target = now.as_millis() / self.tick_ms;
        let is_same_tick = target <= self.tick;
        if self.count == 0 || (is_same_tick && !self.is_taken(slot_of(self.tick))) {
            self.tick = self.tick.max(target);
            return;
        }
        let due_before = due.len();
        // After a long sleep each slot is due once; looking at it twice finds it empty.
        let first = self.tick.max(target.saturating_sub(SLOTS as u64));
        for tick in first..=target {
            let slot = slot_of(tick);
            if !self.is_taken(slot) {
                continue;
            }
            due.append(&mut self.slots[slot]);
            self.taken[slot / WORD_BITS] &= !(1 << (slot % WORD_BITS));
        }
        self.tick = self.tick.max(target);
        self.count -= due.len() - due_before;
    }

    fn is_taken(&self, slot: usize) -> bool {
        self.taken[slot / WORD_BITS] & 1 << (slot % WORD_BITS) != 0
    }

    /// How long until the next entry comes up; `None` when there is none.
    pub(crate) fn next_in(&self, now: Instant) -> Option<Duration> {
        if self.count == 0 {
            return None;
        }
        let start = slot_of(self.tick);
        let distance =
            (0..=SLOTS / WORD_BITS).find_map(|step| self.distance_in_word(start, step))?;
        let at_ms = (self.tick + distance) * self.tick_ms;
        Some(Instant::from_nanos(at_ms * 1_000_000).since(now))
    }

    /// Slots from `start` to the first taken one within the `step`th bitmap word from it.
    fn distance_in_word(&self, start: usize, step: usize) -> Option<u64> {
        let words = self.taken.len();
        let word = (start / WORD_BITS + step) % words;
        let mut bits = self.taken[word];
        if step == 0 {
            bits &= u64::MAX << (start % WORD_BITS);
        } else if step == words {
            bits &= !(u64::MAX << (start % WORD_BITS));
        }
        if bits == 0 {
            return None;
        }
        let slot = word * WORD_BITS + bits.trailing_zeros() as usize;
        Some(((slot + SLOTS - start) % SLOTS) as u64)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the remainder is below SLOTS")]
fn slot_of(tick: u64) -> usize {
    (tick % SLOTS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn comes_up_after_its_deadline_and_only_once() {
        let mut wheel = Wheel::new(at(1_000));
        let mut due = Vec::new();
        assert_eq!(wheel.next_in(at(1_000)), None);
        let when = wheel.enter("a", at(1_500));
        assert!(when >= at(1_500) && when <= at(1_500 + 2 * TICK_MS), "{when:?}");
        assert_eq!(wheel.next_in(at(1_000)), Some(when.since(at(1_000))));
        wheel.expire(at(1_499), &mut due);
        assert!(due.is_empty());
        wheel.expire(when, &mut due);
        assert_eq!(due, ["a"]);
        wheel.expire(at(60_000), &mut due);
        assert_eq!(due.len(), 1);
        assert_eq!(wheel.next_in(at(60_000)), None);
    }

    #[test]
    fn a_deadline_in_the_past_comes_up_in_the_next_tick() {
        let mut wheel = Wheel::new(at(10_000));
        let mut due = Vec::new();
        let when = wheel.enter("late", at(5));
        assert!(when > at(10_000 - TICK_MS) && when <= at(10_000 + TICK_MS));
        wheel.expire(when, &mut due);
        assert_eq!(due, ["late"]);
    }

    #[test]
    fn far_deadlines_come_up_at_the_horizon() {
        let mut wheel = Wheel::new(at(0));
        let when = wheel.enter("far", at(3_600_000));
        assert!(when < at(TICK_MS * SLOTS as u64));
        let mut due = Vec::new();
        wheel.expire(when, &mut due);
        assert_eq!(due, ["far"], "its owner looks and enters it again");
    }

    #[test]
    fn every_start_and_distance_is_found() {
        for start in [0, 1, 63, 64, 65, 511, 512, 513, 1_000_003] {
            for distance in [1, 2, 63, 64, 65, 127, 500, 510] {
                let now = at(start * TICK_MS);
                let mut wheel = Wheel::new(now);
                let when = wheel.enter((), at((start + distance - 1) * TICK_MS));
                assert_eq!(when, at((start + distance) * TICK_MS), "{start}+{distance}");
                assert_eq!(wheel.next_in(now), Some(when.since(now)), "{start}+{distance}");
            }
        }
    }

    #[test]
    fn a_long_sleep_loses_nothing() {
        let mut wheel = Wheel::new(at(0));
        for n in 0..100 {
            wheel.enter(n, at(n * 150));
        }
        let mut due = Vec::new();
        wheel.expire(at(10_000_000), &mut due);
        due.sort_unstable();
        assert_eq!(due, (0..100).collect::<Vec<_>>());
    }
}
