//! A table whose copies share everything but what was changed: the route table of a machine.
//!
//! A trie over the bits of a keyed hash, highest first. Branches have 32 children; a leaf is one
//! allocation of entries and becomes a branch when it grows beyond `LEAF_ENTRIES_MAX`. A change
//! copies the path to one leaf, which at a million entries is some 2.5 KB. A lookup touches a
//! branch a level (they stay cached), one leaf and one value; in the leaf it starts where the hash,
//! being random, says that its entry must be, and so reads one cache line or two.
//!
//! Invariant: no branch is left whose entries would fit into half a leaf, so a table that shrinks
//! gives its memory back.

use crate::{AppId, Namespace};
use foldhash::quality::RandomState;
use std::{
    hash::{BuildHasher, Hasher},
    sync::Arc,
    vec::IntoIter,
};

/// What a [`Table`] holds: something that has the name of an app.
pub(crate) trait Named {
    fn id(&self) -> &AppId;
    fn namespace(&self) -> &Namespace;

    fn is_named(&self, id: &str, namespace: &str) -> bool {
        self.id().as_str() == id && self.namespace().as_str() == namespace
    }
}

/// Values by id and namespace. `clone` takes two reference counts and copies nothing.
#[derive(Debug)]
pub(crate) struct Table<T> {
    root: Node<T>,
    count: usize,
    /// Keyed at random: names come from registries that strangers may write to.
    hashing: RandomState,
}

#[derive(Debug)]
enum Node<T> {
    Branch(Arc<[Self; FAN_OUT]>),
    /// In the order of their hashes.
    Leaf(Arc<[Entry<T>]>),
}

#[derive(Debug)]
struct Entry<T> {
    hash: u64,
    value: Arc<T>,
}

const FAN_OUT_BITS: u32 = 5;
const FAN_OUT: usize = 1 << FAN_OUT_BITS;

/// Entries a leaf holds before it becomes a branch: 1 KB.
const LEAF_ENTRIES_MAX: usize = 64;

/// After so many levels the hash has no more bits to tell entries apart; such a leaf may grow.
const DEPTH_MAX: u32 = u64::BITS / FAN_OUT_BITS;

impl<T: Named> Table<T> {
    /// Also returns the values whose name another one before them has; these are not in the table.
    pub(crate) fn build(values: impl IntoIterator<Item = T>) -> (Self, Vec<Arc<T>>) {
        let mut table = Self::default();
        let entry = |value: T| Entry { hash: table.hash_of(&value), value: Arc::new(value) };
        let mut entries: Vec<Entry<T>> = values.into_iter().map(entry).collect();
        // Stable: of those that share a name, the first one stays the first one.
        entries.sort_by_key(|entry| entry.hash);
        let given = entries.len();
        let mut twice = Vec::new();
        table.root = Node::build(&mut entries.into_iter(), given, 0, &mut twice);
        table.count = given - twice.len();
        (table, twice)
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn find(&self, id: &str, namespace: &str) -> Option<&Arc<T>> {
        let hash = self.hash(id, namespace);
        let mut bits = hash;
        let mut node = &self.root;
        loop {
            match node {
                Node::Branch(children) => node = &children[slot(bits)],
                Node::Leaf(entries) => {
                    let is_it = |entry: &&Entry<T>| entry.value.is_named(id, namespace);
                    return with_hash(entries, hash, bits).find(is_it).map(|entry| &entry.value);
                }
            }
            bits <<= FAN_OUT_BITS;
        }
    }

    /// Returns the value that had this name before.
    pub(crate) fn insert(&mut self, value: Arc<T>) -> Option<Arc<T>> {
        let entry = Entry { hash: self.hash_of(&value), value };
        let old = self.root.insert(entry, 0);
        self.count += usize::from(old.is_none());
        old
    }

    pub(crate) fn remove(&mut self, id: &str, namespace: &str) -> Option<Arc<T>> {
        // Looked for first: a name that is not there must not cost the copy of a path.
        self.find(id, namespace)?;
        let hash = self.hash(id, namespace);
        let is_it = |entry: &Entry<T>| entry.hash == hash && entry.value.is_named(id, namespace);
        let old = self.root.remove(hash, 0, &is_it);
        self.count -= usize::from(old.is_some());
        old
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<T>> {
        let mut waiting = vec![&self.root];
        std::iter::from_fn(move || {
            loop {
                match waiting.pop()? {
                    Node::Branch(children) => waiting.extend(children.iter()),
                    Node::Leaf(entries) => return Some(entries),
                }
            }
        })
        .flat_map(|entries| entries.iter().map(|entry| &entry.value))
    }

    fn hash_of(&self, value: &T) -> u64 {
        self.hash(value.id().as_str(), value.namespace().as_str())
    }

    fn hash(&self, id: &str, namespace: &str) -> u64 {
        let mut hasher = self.hashing.build_hasher();
        hasher.write(id.as_bytes());
        // No id contains this byte, so no two names run together to the same bytes.
        hasher.write_u8(b'/');
        hasher.write(namespace.as_bytes());
        hasher.finish()
    }
}

impl<T: Named> Node<T> {
    /// Takes the next `count` of the entries, which are in the order of their hashes: each child's
    /// are next to each other, and nothing but the table itself is allocated for long.
    fn build(
        sorted: &mut IntoIter<Entry<T>>,
        count: usize,
        depth: u32,
        twice: &mut Vec<Arc<T>>,
    ) -> Self {
        if count <= LEAF_ENTRIES_MAX || depth == DEPTH_MAX {
            let entries = sorted.take(count).collect();
            return Self::Leaf(first_of_each_name(entries, twice).into());
        }
        let mut left = count;
        let children = std::array::from_fn(|child| {
            let is_of_child =
                |entry: &Entry<T>| slot(entry.hash << (depth * FAN_OUT_BITS)) <= child;
            let own = sorted.as_slice()[..left].partition_point(is_of_child);
            left -= own;
            Self::build(sorted, own, depth + 1, twice)
        });
        Self::Branch(Arc::new(children)).merged()
    }

    fn insert(&mut self, entry: Entry<T>, depth: u32) -> Option<Arc<T>> {
        let entries = match self {
            Self::Branch(children) => {
                let child = slot(entry.hash << (depth * FAN_OUT_BITS));
                return Arc::make_mut(children)[child].insert(entry, depth + 1);
            }
            Self::Leaf(entries) => entries,
        };
        if let Some(position) = entries.iter().position(|other| other.is_same_name(&entry)) {
            let place = &mut Arc::make_mut(entries)[position].value;
            return Some(std::mem::replace(place, entry.value));
        }
        let position = entries.partition_point(|other| other.hash < entry.hash);
        let (before, after) = entries.split_at(position);
        let before = before.iter().cloned().chain(std::iter::once(entry));
        let all = before.chain(after.iter().cloned());
        if entries.len() < LEAF_ENTRIES_MAX || depth == DEPTH_MAX {
            *entries = all.collect();
        } else {
            let (all, count) = (all.collect::<Vec<_>>(), entries.len() + 1);
            // No name is there twice, or it would have been found above.
            *self = Self::build(&mut all.into_iter(), count, depth, &mut Vec::new());
        }
        None
    }

    fn remove(
        &mut self,
        hash: u64,
        depth: u32,
        is_it: &impl Fn(&Entry<T>) -> bool,
    ) -> Option<Arc<T>> {
        let removed = match self {
            Self::Branch(children) => {
                let child = slot(hash << (depth * FAN_OUT_BITS));
                Arc::make_mut(children)[child].remove(hash, depth + 1, is_it)
            }
            Self::Leaf(entries) => {
                let removed = entries.iter().find(|entry| is_it(entry))?.value.clone();
                *entries = entries.iter().filter(|entry| !is_it(entry)).cloned().collect();
                return Some(removed);
            }
        };
        let node = std::mem::replace(self, Self::Leaf(Arc::default()));
        *self = node.merged();
        removed
    }

    /// One leaf in the place of a branch that has become too small for one.
    fn merged(self) -> Self {
        let Self::Branch(children) = &self else { return self };
        let mut count = 0;
        for child in children.iter() {
            let Self::Leaf(entries) = child else { return self };
            count += entries.len();
        }
        if count > LEAF_ENTRIES_MAX / 2 {
            return self;
        }
        let leaves = children.iter().filter_map(|child| match child {
            Self::Branch(_) => None,
            Self::Leaf(entries) => Some(entries),
        });
        Self::Leaf(leaves.flat_map(|entries| entries.iter().cloned()).collect())
    }
}

impl<T: Named> Entry<T> {
    fn is_same_name(&self, other: &Self) -> bool {
        self.hash == other.hash
            && self.value.is_named(other.value.id().as_str(), other.value.namespace().as_str())
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
            Self::Leaf(entries) => Self::Leaf(Arc::clone(entries)),
        }
    }
}

impl<T> Clone for Entry<T> {
    fn clone(&self) -> Self {
        Self { hash: self.hash, value: Arc::clone(&self.value) }
    }
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { root: Node::Leaf(Arc::default()), count: 0, hashing: RandomState::default() }
    }
}

/// The child that the highest bits name.
const fn slot(bits: u64) -> usize {
    (bits >> (u64::BITS - FAN_OUT_BITS)) as usize
}

/// The entries of a leaf that have this hash. `bits` are those of its bits that the entries do not
/// share, as high as they go: they say how far into the leaf the hash should lie.
#[expect(clippy::cast_possible_truncation, reason = "a part of the length is no longer than it")]
fn with_hash<T>(entries: &[Entry<T>], hash: u64, bits: u64) -> impl Iterator<Item = &Entry<T>> {
    let guess = ((u128::from(bits) * entries.len() as u128) >> u64::BITS) as usize;
    let mut start = guess;
    while start > 0 && entries[start - 1].hash >= hash {
        start -= 1;
    }
    let ahead = entries[start..].iter().skip_while(move |entry| entry.hash < hash);
    ahead.take_while(move |entry| entry.hash == hash)
}

fn first_of_each_name<T: Named>(entries: Vec<Entry<T>>, twice: &mut Vec<Arc<T>>) -> Vec<Entry<T>> {
    let is_twice = |index: usize| entries[..index].iter().any(|e| e.is_same_name(&entries[index]));
    if !(1..entries.len()).any(is_twice) {
        return entries;
    }
    let mut first: Vec<Entry<T>> = Vec::with_capacity(entries.len());
    for entry in entries {
        if first.iter().any(|other| other.is_same_name(&entry)) {
            twice.push(entry.value);
        } else {
            first.push(entry);
        }
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[derive(Debug, Eq, PartialEq)]
    struct Thing(AppId, Namespace, u32);

    impl Named for Thing {
        fn id(&self) -> &AppId {
            &self.0
        }

        fn namespace(&self) -> &Namespace {
            &self.1
        }
    }

    fn thing(id: &str, namespace: &str, n: u32) -> Thing {
        Thing(AppId::new(id).unwrap(), Namespace::new(namespace).unwrap(), n)
    }

    impl Table<Thing> {
        fn number_of(&self, id: &str, namespace: &str) -> Option<u32> {
            self.find(id, namespace).map(|thing| thing.2)
        }

        /// Every rule that the shape of a table must keep.
        fn check_invariants(&self) {
            assert_eq!(self.iter().count(), self.count);
            assert_eq!(self.root.check(0, 0), self.count);
        }
    }

    impl Node<Thing> {
        fn check(&self, prefix: u64, depth: u32) -> usize {
            match self {
                Self::Leaf(entries) => {
                    assert!(entries.len() <= LEAF_ENTRIES_MAX || depth == DEPTH_MAX);
                    let is_below = |entry: &Entry<Thing>| {
                        depth == 0 || entry.hash >> (u64::BITS - depth * FAN_OUT_BITS) == prefix
                    };
                    assert!(entries.iter().all(is_below));
                    assert!(entries.is_sorted_by_key(|entry| entry.hash));
                    entries.len()
                }
                Self::Branch(children) => {
                    let below = |(index, child): (usize, &Self)| {
                        child.check(prefix << FAN_OUT_BITS | index as u64, depth + 1)
                    };
                    let count = children.iter().enumerate().map(below).sum();
                    assert!(count > LEAF_ENTRIES_MAX / 2, "a branch for {count} entries");
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
        assert_eq!(new.insert(Arc::new(thing("app-7", "default", 70))).map(|old| old.2), Some(7));
        assert_eq!(new.remove("app-8", "default").map(|old| old.2), Some(8));
        assert_eq!(new.remove("app-8", "default"), None);
        assert_eq!(new.insert(Arc::new(thing("app-8", "prod", 80))), None);
        let numbers = |table: &Table<Thing>| {
            [("app-7", "default"), ("app-8", "default"), ("app-8", "prod")]
                .map(|(id, namespace)| table.number_of(id, namespace))
        };
        assert_eq!(numbers(&old), [Some(7), Some(8), None]);
        assert_eq!(numbers(&new), [Some(70), None, Some(80)]);
        let kept = (0..10_000).filter(|n| {
            let id = format!("app-{n}");
            match (old.find(&id, "default"), new.find(&id, "default")) {
                (Some(old), Some(new)) => Arc::ptr_eq(old, new),
                _ => false,
            }
        });
        assert_eq!(kept.count(), 9_998);
        let (Node::Branch(before), Node::Branch(after)) = (&old.root, &new.root) else {
            panic!("10,000 entries need branches")
        };
        let shared = before.iter().zip(after.iter()).filter(|pair| match pair {
            (Node::Branch(before), Node::Branch(after)) => Arc::ptr_eq(before, after),
            (Node::Leaf(before), Node::Leaf(after)) => Arc::ptr_eq(before, after),
            _ => false,
        });
        assert!(shared.count() >= FAN_OUT - 3, "three names were touched");
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
                    let old = table.insert(Arc::new(thing(&id, namespace, step)));
                    assert_eq!(old.map(|thing| thing.2), map.insert(key, step));
                } else {
                    let old = table.remove(&id, namespace);
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
                assert!(table.remove(id, namespace).is_some());
            }
            assert!(matches!(&table.root, Node::Leaf(entries) if entries.is_empty()));
        }
    }
}
