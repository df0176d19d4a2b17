//! Bytes of requests that are kept for another attempt: counted over all calls of a worker, so that
//! many large ones cannot fill the memory.

#![forbid(unsafe_code)]

use std::{cell::Cell, rc::Rc};

/// What a worker may still keep.
#[derive(Clone)]
pub(crate) struct Budget(Rc<Cell<usize>>);

/// The share of one call; given back when it is dropped.
pub(crate) struct Kept {
    budget: Budget,
    bytes: usize,
}

impl Budget {
    pub(crate) fn new(bytes: usize) -> Self {
        Self(Rc::new(Cell::new(bytes)))
    }
}

impl Kept {
    pub(super) fn nothing(budget: &Budget) -> Self {
        Self { budget: budget.clone(), bytes: 0 }
    }

    pub(crate) const fn is_any(&self) -> bool {
        self.bytes > 0
    }

    /// False, and nothing is taken, when there is no room for so many more.
    pub(crate) fn try_grow(&mut self, bytes: usize) -> bool {
        let Some(left) = self.budget.0.get().checked_sub(bytes) else { return false };
        self.budget.0.set(left);
        self.bytes += bytes;
        true
    }

    pub(crate) fn give_back(&mut self) {
        self.budget.0.set(self.budget.0.get() + std::mem::take(&mut self.bytes));
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back() {
        let budget = Budget::new(10);
        let mut first = Kept::nothing(&budget);
        let mut second = Kept::nothing(&budget);
        assert!(first.try_grow(6) && !second.try_grow(5) && second.try_grow(4));
        assert!(!first.try_grow(1));
        drop(second);
        assert!(first.try_grow(4));
        first.give_back();
        assert!(first.try_grow(10));
        drop(first);
        assert!(Kept::nothing(&budget).try_grow(10));
    }
}
