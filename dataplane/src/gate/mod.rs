//! `--app-max-concurrency`: how many calls an app works on at a time, counted exactly over all
//! workers, and who is next.
//!
//! One atomic word per app with a limit holds how many calls have a token and how many wait. While
//! nobody waits, a token is taken and given back by that word alone. Once somebody does, each token
//! that comes free goes to the one worker that is the app's home, where all who wait stand in one
//! line ([`Lines`]); nobody passes them. An app without a limit has no gate, and pays nothing.
//!
//! Invariant: a token is held by one exchange, or on its way, or spare in the home's line, and
//! `taken` counts all of them.

#![forbid(unsafe_code)]

mod lines;
mod registry;

pub(crate) use lines::Lines;
pub(crate) use registry::Gates;

use crate::limits::GATE_WAITING_MAX;
use std::sync::{
    Arc,
    atomic::{
        AtomicU32, AtomicU64,
        Ordering::{AcqRel, Acquire, Relaxed},
    },
};

/// Shared by all workers.
#[derive(Debug)]
pub(crate) struct Gate {
    /// Tokens taken in the low half, calls that wait in the high half.
    word: AtomicU64,
    limit: AtomicU32,
    /// The worker where those who wait stand in line.
    home: u32,
}

/// Who asked: a worker, and its number for this wait.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Ticket {
    pub worker: u32,
    pub number: u64,
}

/// What an exchange has to do with its app's gate.
#[derive(Default)]
pub(crate) enum Pass {
    /// Nothing: there is no gate on its way, or it is through with it.
    #[default]
    None,
    Wanted(Arc<Gate>),
    /// With the number of its ticket.
    Waiting(Box<(Arc<Gate>, u64)>),
    Held(Arc<Gate>),
}

/// What becomes of a call that comes to the gate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Entry {
    /// GATE_WAITING_MAX wait already.
    Full,
    Open,
    /// It counts as waiting from now on; home must hear of it.
    Wait,
}

/// What workers tell each other about a gate. Between two workers none overtakes another.
#[derive(Clone, Debug)]
pub(crate) enum GateMessage {
    /// To the home: somebody waits.
    Ask { gate: Arc<Gate>, ticket: Ticket, connection: u64 },
    /// To the asker: it has a token.
    Grant { gate: Arc<Gate>, ticket: Ticket, connection: u64 },
    /// To the home: who asked waits no more.
    Leave { gate: Arc<Gate>, ticket: Ticket },
    /// To the home: a token for whoever is next.
    Pass { gate: Arc<Gate> },
}

impl Gate {
    pub(crate) fn new(limit: u32, home: u32) -> Self {
        Self { word: AtomicU64::new(0), limit: AtomicU32::new(limit), home }
    }

    pub(crate) const fn home(&self) -> u32 {
        self.home
    }

    /// From now on so many. Where there are more at work, none is stopped.
    pub(crate) fn set_limit(&self, limit: u32) {
        self.limit.store(limit, Relaxed);
    }

    /// A call comes. Nobody passes those who wait.
    pub(crate) fn enter(&self) -> Entry {
        let limit = self.limit.load(Relaxed);
        self.change(|taken, waiting| match (taken < limit, waiting) {
            (true, 0) => (Entry::Open, Some((taken + 1, 0))),
            (_, GATE_WAITING_MAX..) => (Entry::Full, None),
            _ => (Entry::Wait, Some((taken, waiting + 1))),
        })
    }

    /// A call is done with its token. True: somebody waits, and home must get the token.
    #[must_use]
    pub(crate) fn leave(&self) -> bool {
        let limit = self.limit.load(Relaxed);
        self.change(|taken, waiting| {
            debug_assert!(taken > 0, "a token is given back once");
            let goes_on = waiting > 0 && taken <= limit;
            (goes_on, (!goes_on).then_some((taken - 1, waiting)))
        })
    }

    /// Home takes a token that is free for somebody in its line.
    fn claim(&self) -> bool {
        let limit = self.limit.load(Relaxed);
        self.change(|taken, waiting| {
            debug_assert!(waiting > 0, "it claims for somebody");
            let is_free = taken < limit;
            (is_free, is_free.then_some((taken + 1, waiting)))
        })
    }

    /// One in home's line waits no more.
    fn end_wait(&self) {
        self.change(|taken, waiting| ((), Some((taken, waiting - 1))));
    }

    /// Home has tokens and nobody in its line. False: somebody is on the way to it, and will have
    /// them.
    fn give_back(&self, spare: u32) -> bool {
        self.change(|taken, waiting| {
            let is_unwanted = waiting == 0;
            (is_unwanted, is_unwanted.then_some((taken - spare, waiting)))
        })
    }

    /// One step of the word, if `step` wants any; what `step` says with it.
    fn change<T>(&self, step: impl Fn(u32, u32) -> (T, Option<(u32, u32)>)) -> T {
        let mut word = self.word.load(Acquire);
        loop {
            let (taken, waiting) = unpack(word);
            let (outcome, next) = step(taken, waiting);
            let Some((taken, waiting)) = next else { return outcome };
            match self.word.compare_exchange_weak(word, pack(taken, waiting), AcqRel, Acquire) {
                Ok(_) => return outcome,
                Err(now) => word = now,
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn has_room(&self) -> bool {
        self.count().0 < self.limit.load(Relaxed)
    }

    /// Tokens taken, and calls that wait.
    #[cfg(test)]
    pub(crate) fn count(&self) -> (u32, u32) {
        unpack(self.word.load(Acquire))
    }
}

const fn pack(taken: u32, waiting: u32) -> u64 {
    (waiting as u64) << u32::BITS | taken as u64
}

#[expect(clippy::cast_possible_truncation, reason = "each half is taken for itself")]
const fn unpack(word: u64) -> (u32, u32) {
    (word as u32, (word >> u32::BITS) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_taken_up_to_the_limit_and_then_calls_wait() {
        let gate = Gate::new(2, 0);
        assert_eq!(
            [gate.enter(), gate.enter(), gate.enter()],
            [Entry::Open, Entry::Open, Entry::Wait]
        );
        assert_eq!(gate.count(), (2, 1));
        assert!(gate.leave(), "the token goes to who waits");
        assert_eq!(gate.count(), (2, 1), "and stays taken on its way");
        gate.end_wait();
        assert!(!gate.leave() && !gate.leave());
        assert_eq!(gate.count(), (0, 0));
    }

    #[test]
    fn nobody_passes_those_who_wait() {
        let gate = Gate::new(1, 0);
        assert_eq!([gate.enter(), gate.enter()], [Entry::Open, Entry::Wait]);
        gate.set_limit(2);
        assert_eq!(gate.enter(), Entry::Wait, "a token is free, and two are for it already");
        assert!(gate.claim());
        assert!(!gate.claim());
    }

    #[test]
    fn a_lower_limit_is_reached_as_calls_end() {
        let gate = Gate::new(3, 0);
        for _ in 0..3 {
            assert_eq!(gate.enter(), Entry::Open);
        }
        assert_eq!(gate.enter(), Entry::Wait);
        gate.set_limit(1);
        assert!(!gate.leave() && !gate.leave(), "two too many go back");
        assert!(gate.leave(), "the last one goes on");
        assert_eq!(gate.count(), (1, 1));
    }

    #[test]
    fn the_line_is_bounded() {
        let gate = Gate::new(1, 0);
        assert_eq!(gate.enter(), Entry::Open);
        for _ in 0..GATE_WAITING_MAX {
            assert_eq!(gate.enter(), Entry::Wait);
        }
        assert_eq!(gate.enter(), Entry::Full);
        gate.end_wait();
        assert_eq!(gate.enter(), Entry::Wait);
    }

    #[test]
    fn tokens_that_nobody_wants_go_back_and_others_stay_for_who_comes() {
        let gate = Gate::new(2, 0);
        assert_eq!(
            [gate.enter(), gate.enter(), gate.enter()],
            [Entry::Open, Entry::Open, Entry::Wait]
        );
        assert!(gate.leave());
        assert!(!gate.give_back(1), "the one who waits has not come home yet");
        gate.end_wait();
        assert!(gate.give_back(1));
        assert_eq!(gate.count(), (1, 0));
    }
}
