//! Equal values once. What most apps of a node have in common they hold together, in control and,
//! since it is told so, in what is remembered of the data plane.
//!
//! Only the last few are compared with, so that a node whose apps have nothing in common pays next
//! to nothing for looking.

#![forbid(unsafe_code)]

use std::{
    collections::VecDeque,
    sync::{Arc, Weak},
};

#[derive(Debug)]
pub(crate) struct Shared<T> {
    /// The newest first.
    known: VecDeque<Weak<T>>,
}

/// Values to compare with: kinds of apps that a node's file names in turns.
const KNOWN_MAX: usize = 8;

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self { known: VecDeque::new() }
    }
}

impl<T: PartialEq> Shared<T> {
    /// One that is equal to `value`: the one that is there, or this.
    pub(crate) fn of(&mut self, value: Arc<T>) -> Arc<T> {
        self.known.retain(|known| known.strong_count() > 0);
        let mut known = self.known.iter().filter_map(Weak::upgrade);
        if let Some(found) = known.find(|known| **known == *value) {
            return found;
        }
        self.known.truncate(KNOWN_MAX - 1);
        self.known.push_front(Arc::downgrade(&value));
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_one_and_others_are_not() {
        let mut shared = Shared::default();
        let (a, b) = (shared.of(Arc::new("a".to_owned())), shared.of(Arc::new("b".to_owned())));
        assert_ne!(a, b);
        for (case, text, known) in [("first", "a", &a), ("second", "b", &b), ("again", "a", &a)] {
            assert!(Arc::ptr_eq(&shared.of(Arc::new(text.to_owned())), known), "{case}");
        }
    }

    #[test]
    fn few_are_kept_and_none_that_nobody_holds() {
        let mut shared = Shared::default();
        let held: Vec<Arc<usize>> = (0..100).map(|n| shared.of(Arc::new(n))).collect();
        assert_eq!(shared.known.len(), KNOWN_MAX);
        assert!(Arc::ptr_eq(&shared.of(Arc::new(99)), &held[99]));
        assert!(!Arc::ptr_eq(&shared.of(Arc::new(0)), &held[0]), "too long ago");
        drop(held);
        shared.of(Arc::new(7));
        assert_eq!(shared.known.len(), 1);
    }
}
