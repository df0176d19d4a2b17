//! Names that control is being asked for: each once, however many workers wait for it.
//!
//! Pure; the link sends the questions and passes the answers on. What no answer comes to is
//! forgotten after a time, and asked again if somebody still wants it.

#![forbid(unsafe_code)]

use crate::{
    clock::Instant,
    limits::{RESOLVE_TIMEOUT, RESOLVING_NAMES_MAX},
    mailbox::WorkerId,
    route::{Name, Question},
};
use std::collections::{BTreeMap, HashMap};

#[derive(Default)]
pub(super) struct Resolving {
    /// By the number of the question; those asked first come first.
    asked: BTreeMap<u64, Asked>,
    numbers: HashMap<Name, u64>,
    last: u64,
    /// Answered while deltas were passed over, and so perhaps the very routes.
    late: Vec<u64>,
}

#[derive(Debug)]
pub(super) struct Asked {
    pub(super) name: Name,
    pub(super) workers: Vec<WorkerId>,
    is_stale: bool,
    at: Instant,
}

#[derive(Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    /// To be put to control, under this number.
    New(u64),
    /// Control has it.
    Known,
    /// Too many are under way.
    TooMany,
}

impl Resolving {
    pub(super) fn add(&mut self, worker: WorkerId, question: &Question, now: Instant) -> Verdict {
        self.forget_lost(now);
        let Question { name, is_stale } = question;
        if let Some(asked) = self.numbers.get(name).and_then(|query| self.asked.get_mut(query)) {
            if !asked.workers.contains(&worker) {
                asked.workers.push(worker);
            }
            return Verdict::Known;
        }
        if self.asked.len() >= RESOLVING_NAMES_MAX {
            return Verdict::TooMany;
        }
        self.last += 1;
        self.numbers.insert(name.clone(), self.last);
        let (name, is_stale) = (name.clone(), *is_stale);
        let asked = Asked { name, workers: vec![worker], is_stale, at: now };
        self.asked.insert(self.last, asked);
        Verdict::New(self.last)
    }

    /// `None`: nobody waits for this answer any more.
    pub(super) fn take(&mut self, query: u64) -> Option<Asked> {
        let asked = self.asked.remove(&query)?;
        self.numbers.remove(&asked.name);
        Some(asked)
    }

    /// An answer that counts only once the full state has come.
    pub(super) fn defer(&mut self, query: u64) {
        if self.asked.contains_key(&query) && !self.late.contains(&query) {
            self.late.push(query);
        }
    }

    pub(super) fn take_late(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.late)
    }

    /// For a control that has not heard of them.
    pub(super) fn unanswered(&mut self, now: Instant) -> Vec<(u64, Question)> {
        self.late.clear();
        self.forget_lost(now);
        let question =
            |asked: &Asked| Question { name: asked.name.clone(), is_stale: asked.is_stale };
        self.asked.iter().map(|(query, asked)| (*query, question(asked))).collect()
    }

    /// Whoever waited for these has given up by now.
    fn forget_lost(&mut self, now: Instant) {
        while let Some(first) = self.asked.first_entry() {
            if now.since(first.get().at) < RESOLVE_TIMEOUT {
                return;
            }
            self.numbers.remove(&first.remove().name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapshot::{AppId, Namespace};

    const A: WorkerId = WorkerId(0);
    const B: WorkerId = WorkerId(1);

    fn name(id: &str) -> Name {
        Name { id: AppId::new(id).unwrap(), namespace: Namespace::default() }
    }

    fn question(id: &str) -> Question {
        Question { name: name(id), is_stale: false }
    }

    #[test]
    fn a_name_is_asked_for_once_for_all_workers() {
        let mut resolving = Resolving::default();
        let now = Instant::from_nanos(5);
        for (case, worker, id, want) in [
            ("the first one", A, "x", Verdict::New(1)),
            ("the same worker", A, "x", Verdict::Known),
            ("another worker", B, "x", Verdict::Known),
            ("another name", B, "y", Verdict::New(2)),
        ] {
            assert_eq!(resolving.add(worker, &question(id), now), want, "{case}");
        }
        assert!(resolving.take(9).is_none());
        let asked = resolving.take(1).unwrap();
        assert_eq!((asked.name, asked.workers), (name("x"), vec![A, B]));
        assert!(resolving.take(1).is_none(), "an answer counts once");
        assert_eq!(resolving.add(A, &question("x"), now), Verdict::New(3));
        assert_eq!(resolving.unanswered(now), [(2, question("y")), (3, question("x"))]);
    }

    #[test]
    fn what_is_never_answered_neither_piles_up_nor_blocks_the_rest() {
        let mut resolving = Resolving::default();
        let start = Instant::from_nanos(5);
        for number in 0..RESOLVING_NAMES_MAX {
            let verdict = resolving.add(A, &question(&number.to_string()), start);
            assert!(matches!(verdict, Verdict::New(_)), "{number}");
        }
        assert_eq!(resolving.add(A, &question("more"), start), Verdict::TooMany);
        assert_eq!(resolving.add(A, &question("7"), start), Verdict::Known);
        let late = start + RESOLVE_TIMEOUT;
        assert!(matches!(resolving.add(A, &question("7"), late), Verdict::New(_)));
        assert_eq!((resolving.asked.len(), resolving.numbers.len()), (1, 1));
    }

    #[test]
    fn deferred_answers_are_those_of_questions_that_wait() {
        let mut resolving = Resolving::default();
        resolving.add(A, &question("x"), Instant::default());
        for query in [7, 1, 1] {
            resolving.defer(query);
        }
        assert_eq!((resolving.take_late(), resolving.take_late()), (vec![1], vec![]));
    }
}
