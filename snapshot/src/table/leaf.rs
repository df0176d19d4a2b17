//! Where the trie ends: the values whose hashes begin alike, laid out so that a look-up knows which
//! one it wants before it has read any.
//!
//! Six further bits of a hash name one of 64 places. A word says which places are taken, and it
//! lies beside the pointer to the values, in the branch above. How many bits of it are set below
//! the place is the position of the place's first value; only when two names fall on one place
//! (at half as many values as places, two of ten do) is there more to look at.

use super::{Hashing, Named};
use std::sync::Arc;

/// Bits of the hash that name a place.
const PLACE_BITS: u32 = 6;

#[derive(Debug)]
pub(super) struct Leaf<T> {
    /// A bit for each place that a value's hash names.
    taken: u64,
    /// First one value for each place that is taken, in the order of places. Behind them those
    /// that came to a place too late, in the order of places, too.
    values: Arc<[T]>,
}

impl<T: Named> Leaf<T> {
    /// Of values with their hashes, in the order of the hashes. `depth` is how many bits of these
    /// the trie has used up.
    pub(super) fn build(sorted: Vec<(u64, T)>, depth: u32) -> Self {
        let (mut first, mut late) = (Vec::with_capacity(sorted.len()), Vec::new());
        let mut taken = 0;
        for (hash, value) in sorted {
            let place = place(hash << depth);
            let values = if taken & place == 0 { &mut first } else { &mut late };
            values.push(value);
            taken |= place;
        }
        first.append(&mut late);
        Self { taken, values: first.into() }
    }

    /// `bits` are those of the name's hash that the trie has left.
    pub(super) fn find(&self, bits: u64, id: &[u8], namespace: &[u8]) -> Option<&T> {
        self.position(bits, id, namespace).map(|position| &self.values[position])
    }

    fn position(&self, bits: u64, id: &[u8], namespace: &[u8]) -> Option<usize> {
        let place = place(bits);
        if self.taken & place == 0 {
            return None;
        }
        let position = (self.taken & (place - 1)).count_ones() as usize;
        if self.values[position].is_named(id, namespace) {
            return Some(position);
        }
        let late = self.taken.count_ones() as usize;
        let is_it = |value: &T| value.is_named(id, namespace);
        self.values[late..].iter().position(is_it).map(|position| late + position)
    }

    /// Puts the value into the place of the one with its name, and returns that; or hands it back.
    pub(super) fn replace(&mut self, bits: u64, value: T) -> Result<T, T> {
        let name = (value.id().as_bytes(), value.namespace().as_bytes());
        match self.position(bits, name.0, name.1) {
            Some(at) => Ok(std::mem::replace(&mut Arc::make_mut(&mut self.values)[at], value)),
            None => Err(value),
        }
    }

    /// The values with their hashes, in the order of the hashes.
    pub(super) fn sorted(&self, hashing: &Hashing) -> Vec<(u64, T)> {
        let with_hash = |value: &T| (hashing.of(value), value.clone());
        let mut all: Vec<(u64, T)> = self.values.iter().map(with_hash).collect();
        all.sort_by_key(|(hash, _)| *hash);
        all
    }

    pub(super) fn values(&self) -> &Arc<[T]> {
        &self.values
    }
}

impl<T> Clone for Leaf<T> {
    fn clone(&self) -> Self {
        Self { taken: self.taken, values: Arc::clone(&self.values) }
    }
}

impl<T> Default for Leaf<T> {
    fn default() -> Self {
        Self { taken: 0, values: Arc::default() }
    }
}

/// The one bit that stands for the place that the highest bits name.
const fn place(bits: u64) -> u64 {
    1 << (bits >> (u64::BITS - PLACE_BITS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::tests::{Thing, thing};

    #[test]
    fn names_that_fall_on_one_place_are_told_apart() {
        for (case, hashes) in [
            ("each its own", [0, 1 << 58, 2 << 58, 63 << 58]),
            ("two and two", [5 << 58, 5 << 58 | 1, 9 << 58, 9 << 58 | 7]),
            ("all one", [7 << 58; 4]),
            ("the last", [u64::MAX; 4]),
        ] {
            let things = (0..4).map(|n| thing(&format!("app-{n}"), "default", n));
            let leaf = Leaf::build(hashes.into_iter().zip(things).collect(), 0);
            let find = |hash, id: &str| leaf.find(hash, id.as_bytes(), b"default").map(|t| t.2);
            for (n, hash) in (0..4).zip(hashes) {
                assert_eq!(find(hash, &format!("app-{n}")), Some(n), "{case}");
                assert_eq!(find(hash, "app-9"), None, "{case}");
            }
            assert_eq!(find(33 << 58, "app-0"), None, "{case}: no value has this place");
        }
        assert!(Leaf::<Thing>::default().find(0, b"app-0", b"default").is_none());
    }

    #[test]
    fn what_is_replaced_keeps_its_position_and_copies_keep_theirs() {
        let things = (0..3).map(|n| thing(&format!("app-{n}"), "default", n));
        let mut leaf = Leaf::build([1, 1, 1].into_iter().zip(things).collect(), 0);
        let copy = leaf.clone();
        assert_eq!(leaf.replace(1, thing("app-1", "default", 11)).map(|old| old.2), Ok(1));
        assert_eq!(leaf.replace(1, thing("app-1", "prod", 12)).map_err(|new| new.2), Err(12));
        let numbers = |leaf: &Leaf<Thing>| leaf.values.iter().map(|t| t.2).collect::<Vec<_>>();
        assert_eq!((numbers(&leaf), numbers(&copy)), (vec![0, 11, 2], vec![0, 1, 2]));
    }
}
