//! A table whose copies share everything but what was changed: the route table of a machine.
//!
//! A trie over the bits of a keyed hash, highest first. Branches have 32 children; a leaf is one
//! allocation of values and becomes a branch when it grows beyond `LEAF_VALUES_MAX`. A change
//! copies the path to one leaf, which at a million values is some 3.5 KB. A look-up touches a
//! branch a level (they stay cached), and then mostly the one value that it is for.
//!
//! Invariant: no branch is left whose values would fit into half a leaf, so a table that shrinks
//! gives its memory back.

mod leaf;

use crate::{AppId, Namespace};
use foldhash::quality::RandomState;
use leaf::Leaf;
use std::{
    hash::{BuildHasher, Hasher},
    sync::Arc,
    vec::IntoIter,
};

/// What a [`Table`] holds: something that has the name of an app.
pub(crate) trait Named: Clone {
    fn id(&self) -> &AppId;
    fn namespace(&self) -> &Namespace;

    fn is_named(&self, id: &[u8], namespace: &[u8]) -> bool {
        self.id().as_bytes() == id && self.namespace().as_bytes() == namespace
    }
}

impl<T: Named> Named for Arc<T> {
    fn id(&self) -> &AppId {
        T::id(self)
    }

    fn namespace(&self) -> &Namespace {
        T::namespace(self)
    }
}

/// Values by id and namespace. `clone` takes two reference counts and copies nothing. A change
/// clones the values of one leaf, so clones are to be cheap: of values that share what is large.
#[derive(Debug)]
pub(crate) struct Table<T> {
    root: Node<T>,
    count: usize,
    hashing: Hashing,
}

#[derive(Debug)]
enum Node<T> {
    Branch(Arc<[Self; FAN_OUT]>),
    Leaf(Leaf<T>),
}

/// Keyed at random: names come from registries that strangers may write to.
#[derive(Clone, Debug, Default)]
struct Hashing(RandomState);

const FAN_OUT_BITS: u32 = 5;
const FAN_OUT: usize = 1 << FAN_OUT_BITS;

/// Values a leaf holds before it becomes a branch: as many as a leaf has places, 4 KB of routes.
const LEAF_VALUES_MAX: usize = 64;

/// After so many levels the hash has no more bits to tell names apart; such a leaf may grow.
const DEPTH_MAX: u32 = u64::BITS / FAN_OUT_BITS;

impl<T: Named> Table<T> {
    /// Also returns the values whose name another one before them has; these are not in the table.
    pub(crate) fn build(values: impl IntoIterator<Item = T>) -> (Self, Vec<T>) {
        let mut table = Self::default();
        let with_hash = |value| (table.hashing.of(&value), value);
        let mut sorted: Vec<(u64, T)> = values.into_iter().map(with_hash).collect();
        // Stable: of those that share a name, the first one stays the first one.
        sorted.sort_by_key(|(hash, _)| *hash);
        let given = sorted.len();
        let mut twice = Vec::new();
        table.root = Node::build(&mut sorted.into_iter(), given, 0, &mut twice, &table.hashing);
        table.count = given - twice.len();
        (table, twice)
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn find(&self, id: &[u8], namespace: &[u8]) -> Option<&T> {
        let mut bits = self.hashing.of_name(id, namespace);
        let mut node = &self.root;
        loop {
            match node {
                Node::Branch(children) => node = &children[slot(bits)],
                Node::Leaf(leaf) => return leaf.find(bits, id, namespace),
            }
            bits <<= FAN_OUT_BITS;
        }
    }

    /// Returns the value that had this name before.
    pub(crate) fn insert(&mut self, value: T) -> Option<T> {
        let hash = self.hashing.of(&value);
        let old = self.root.insert(hash, value, 0, &self.hashing);
        self.count += usize::from(old.is_none());
        old
    }

    pub(crate) fn remove(&mut self, id: &[u8], namespace: &[u8]) -> Option<T> {
        // Looked for first: a name that is not there must not cost the copy of a path.
        self.find(id, namespace)?;
        let hash = self.hashing.of_name(id, namespace);
        let is_it = |value: &T| value.is_named(id, namespace);
        let old = self.root.remove(hash, 0, &is_it, &self.hashing);
        self.count -= usize::from(old.is_some());
        old
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        let mut waiting = vec![&self.root];
        std::iter::from_fn(move || {
            loop {
                match waiting.pop()? {
                    Node::Branch(children) => waiting.extend(children.iter()),
                    Node::Leaf(leaf) => return Some(leaf.values()),
                }
            }
        })
        .flat_map(|values| values.iter())
    }
}

impl Hashing {
    fn of(&self, value: &impl Named) -> u64 {
        self.of_name(value.id().as_bytes(), value.namespace().as_bytes())
    }

    fn of_name(&self, id: &[u8], namespace: &[u8]) -> u64 {
        let mut hasher = self.0.build_hasher();
        hasher.write(id);
        // No id contains this byte, so no two names run together to the same bytes.
        hasher.write_u8(b'/');
        hasher.write(namespace);
        hasher.finish()
    }
}

impl<T: Named> Node<T> {
    /// Takes the next `count` of the values, which are in the order of their hashes: each child's
    /// are next to each other, and nothing but the table itself is allocated for long.
    fn build(
        sorted: &mut IntoIter<(u64, T)>,
        count: usize,
        depth: u32,
        twice: &mut Vec<T>,
        hashing: &Hashing,
    ) -> Self {
        if count <= LEAF_VALUES_MAX || depth == DEPTH_MAX {
            let values = first_of_each_name(sorted.take(count).collect(), twice);
            return Self::Leaf(Leaf::build(values, depth * FAN_OUT_BITS));
        }
        let mut left = count;
        let children = std::array::from_fn(|child| {
            let is_of_child = |entry: &(u64, T)| slot(entry.0 << (depth * FAN_OUT_BITS)) <= child;
            let own = sorted.as_slice()[..left].partition_point(is_of_child);
            left -= own;
            Self::build(sorted, own, depth + 1, twice, hashing)
        });
        Self::Branch(Arc::new(children)).merged(depth, hashing)
    }

    fn insert(&mut self, hash: u64, value: T, depth: u32, hashing: &Hashing) -> Option<T> {
        let bits = hash << (depth * FAN_OUT_BITS);
        let leaf = match self {
            Self::Branch(children) => {
                let child = &mut Arc::make_mut(children)[slot(bits)];
                return child.insert(hash, value, depth + 1, hashing);
            }
            Self::Leaf(leaf) => leaf,
        };
        let value = match leaf.replace(bits, value) {
            Ok(old) => return Some(old),
            Err(new) => new,
        };
        let mut all = leaf.sorted(hashing);
        all.insert(all.partition_point(|(other, _)| *other < hash), (hash, value));
        let count = all.len();
        // No name is there twice, or it would have been replaced.
        *self = Self::build(&mut all.into_iter(), count, depth, &mut Vec::new(), hashing);
        None
    }

    fn remove(
        &mut self,
        hash: u64,
        depth: u32,
        is_it: &impl Fn(&T) -> bool,
        hashing: &Hashing,
    ) -> Option<T> {
        let removed = match self {
            Self::Branch(children) => {
                let child = slot(hash << (depth * FAN_OUT_BITS));
                Arc::make_mut(children)[child].remove(hash, depth + 1, is_it, hashing)
            }
            Self::Leaf(leaf) => {
                let mut left = leaf.sorted(hashing);
                let (_, removed) = left.remove(left.iter().position(|(_, value)| is_it(value))?);
                *leaf = Leaf::build(left, depth * FAN_OUT_BITS);
                return Some(removed);
            }
        };
        let node = std::mem::replace(self, Self::Leaf(Leaf::default()));
        *self = node.merged(depth, hashing);
        removed
    }

    /// One leaf in the place of a branch that has become too small for one.
    fn merged(self, depth: u32, hashing: &Hashing) -> Self {
        let Self::Branch(children) = &self else { return self };
        let mut count = 0;
        for child in children.iter() {
            let Self::Leaf(leaf) = child else { return self };
            count += leaf.values().len();
        }
        if count > LEAF_VALUES_MAX / 2 {
            return self;
        }
        let leaves = children.iter().filter_map(|child| match child {
            Self::Branch(_) => None,
            Self::Leaf(leaf) => Some(leaf),
        });
        // Children are in the order of hashes, as are the values of each.
        let all = leaves.flat_map(|leaf| leaf.sorted(hashing)).collect();
        Self::Leaf(Leaf::build(all, depth * FAN_OUT_BITS))
    }
}

// By hand: a derived `Clone` would ask it of `T` as well.

impl<T> Clone for Table<T> {
    fn clone(&self) -> Self {
        Self { root: self.root.clone(), count: self.count, hashing: self.hashing.clone() }
    }
}

impl<T> Clone for Node<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Branch(children) => Self::Branch(Arc::clone(children)),
            Self::Leaf(leaf) => Self::Leaf(leaf.clone()),
        }
    }
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { root: Node::Leaf(Leaf::default()), count: 0, hashing: Hashing::default() }
    }
}

/// The child that the highest bits name.
const fn slot(bits: u64) -> usize {
    (bits >> (u64::BITS - FAN_OUT_BITS)) as usize
}

/// Of values with their hashes, in the order of these.
fn first_of_each_name<T: Named>(values: Vec<(u64, T)>, twice: &mut Vec<T>) -> Vec<(u64, T)> {
    let is_same = |one: &(u64, T), other: &(u64, T)| {
        one.0 == other.0 && one.1.id() == other.1.id() && one.1.namespace() == other.1.namespace()
    };
    // Of one name are only values of one hash, and they are neighbours; hardly ever are there any.
    if !values.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        return values;
    }
    let mut first: Vec<(u64, T)> = Vec::with_capacity(values.len());
    for value in values {
        if first.iter().any(|other| is_same(other, &value)) {
            twice.push(value.1);
        } else {
            first.push(value);
        }
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    #[derive(Clone, Debug, Eq, PartialEq)]
    pub(super) struct Thing(AppId, Namespace, pub(super) u32);

    impl Named for Thing {
        fn id(&self) -> &AppId {
            &self.0
        }

        fn namespace(&self) -> &Namespace {
            &self.1
        }
    }

    pub(super) fn thing(id: &str, namespace: &str, n: u32) -> Thing {
        Thing(AppId::new(id).unwrap(), Namespace::new(namespace).unwrap(), n)
    }

    impl Table<Thing> {
        fn number_of(&self, id: &str, namespace: &str) -> Option<u32> {
            self.find(id.as_bytes(), namespace.as_bytes()).map(|thing| thing.2)
        }

        /// Every rule that the shape of a table must keep.
        fn check_invariants(&self) {
            assert_eq!(self.iter().count(), self.count);
            assert_eq!(self.root.check(0, 0, &self.hashing), self.count);
        }
    }

    impl Node<Thing> {
        fn each_leaf(&self, each: &mut impl FnMut(&Arc<[Thing]>)) {
            match self {
                Self::Leaf(leaf) => each(leaf.values()),
                Self::Branch(children) => children.iter().for_each(|child| child.each_leaf(each)),
            }
        }

        fn check(&self, prefix: u64, depth: u32, hashing: &Hashing) -> usize {
            match self {
                Self::Leaf(leaf) => {
                    let values = leaf.values();
                    assert!(values.len() <= LEAF_VALUES_MAX || depth == DEPTH_MAX);
                    let is_below = |value: &Thing| {
                        let hash = hashing.of(value);
                        depth == 0 || hash >> (u64::BITS - depth * FAN_OUT_BITS) == prefix
                    };
                    assert!(values.iter().all(is_below));
                    values.len()
                }
                Self::Branch(children) => {
                    let below = |(index, child): (usize, &Self)| {
                        child.check(prefix << FAN_OUT_BITS | index as u64, depth + 1, hashing)
                    };
                    let count = children.iter().enumerate().map(below).sum();
                    assert!(count > LEAF_VALUES_MAX / 2, "a branch for {count} entries");
                    count
                }
            }
        }
    }

    #[test]
    fn a_name_that_is_there_twice_is_told_and_the_first_one_stays() {
        for count in [2, 100, 5000] {
            let mut things: Vec<Thing> =
                (0..count).map(|n| thing(&format!("app-{n}"), "default", n)).collect();
            things.push(thing("app-1", "default", 77));
            things.push(thing("app-1", "prod", 78));
            let (table, twice) = Table::build(things);
            assert_eq!(twice.iter().map(|thing| thing.2).collect::<Vec<_>>(), [77], "{count}");
            assert_eq!(table.number_of("app-1", "default"), Some(1), "{count}");
            assert_eq!(table.number_of("app-1", "prod"), Some(78), "{count}");
            table.check_invariants();
        }
    }

    #[test]
    fn a_copy_does_not_see_what_changes_later_and_shares_the_rest() {
        let things = (0..10_000).map(|n| thing(&format!("app-{n}"), "default", n));
        let (old, _) = Table::build(things);
        let mut new = old.clone();
        assert_eq!(new.insert(thing("app-7", "default", 70)).map(|old| old.2), Some(7));
        assert_eq!(new.remove(b"app-8", b"default").map(|old| old.2), Some(8));
        assert_eq!(new.remove(b"app-8", b"default"), None);
        assert_eq!(new.insert(thing("app-8", "prod", 80)), None);
        let numbers = |table: &Table<Thing>| {
            [("app-7", "default"), ("app-8", "default"), ("app-8", "prod")]
                .map(|(id, namespace)| table.number_of(id, namespace))
        };
        assert_eq!(numbers(&old), [Some(7), Some(8), None]);
        assert_eq!(numbers(&new), [Some(70), None, Some(80)]);
        let leaves_of = |table: &Table<Thing>| {
            let mut leaves = BTreeSet::new();
            table.root.each_leaf(&mut |leaf| {
                leaves.insert(Arc::as_ptr(leaf).addr());
            });
            leaves
        };
        let (before, after) = (leaves_of(&old), leaves_of(&new));
        assert!(after.len() > 100, "10,000 entries need many leaves");
        let copied = after.difference(&before).count();
        assert!((1..=3).contains(&copied), "three names were touched, {copied} leaves copied");
    }

    #[test]
    fn agrees_with_a_map_through_any_sequence_of_changes() {
        let mut draw = crate::draw::Draw::new(0x5eed);
        // Small ranges meet the same names often; the larger ones split and merge leaves.
        for names in [3, 40, 600, 20_000] {
            let mut table = Table::default();
            let mut map = BTreeMap::new();
            for step in 0..6_000 {
                // First more insertions, then more removals, so that the table grows and shrinks.
                let inserts = draw.below(10) < if step < 3_000 { 8 } else { 2 };
                let id = format!("app-{}", draw.below(names));
                let namespace = if draw.below(2) == 0 { "default" } else { "prod" };
                let key = (id.clone(), namespace);
                if inserts {
                    let old = table.insert(thing(&id, namespace, step));
                    assert_eq!(old.map(|thing| thing.2), map.insert(key, step));
                } else {
                    let old = table.remove(id.as_bytes(), namespace.as_bytes());
                    assert_eq!(old.map(|thing| thing.2), map.remove(&key));
                }
                if step % 500 == 0 {
                    table.check_invariants();
                }
            }
            table.check_invariants();
            assert_eq!(table.len(), map.len());
            for ((id, namespace), n) in &map {
                assert_eq!(table.number_of(id, namespace), Some(*n));
            }
            for (id, namespace) in map.keys() {
                assert!(table.remove(id.as_bytes(), namespace.as_bytes()).is_some());
            }
            assert!(matches!(&table.root, Node::Leaf(leaf) if leaf.values().is_empty()));
        }
    }
}
