//! Generational slab: connections and upstreams live here, and their keys outlive them harmlessly.
//!
//! A key names one value for ever: after the value is removed its place may be taken, but never
//! under the same generation. So a late event or timer finds nothing instead of a stranger.

#![forbid(unsafe_code)]

use std::marker::PhantomData;

/// Names a `T` in a [`Slab`].
pub(crate) struct Key<T> {
    index: u32,
    generation: u32,
    of: PhantomData<fn() -> T>,
}

impl<T> Key<T> {
    /// The key as one number, for places that cannot carry a type (timers, messages to control).
    pub(crate) fn to_bits(self) -> u64 {
        (u64::from(self.generation) << 32) | u64::from(self.index)
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "the two halves of the number are the two fields"
    )]
    pub(crate) fn from_bits(bits: u64) -> Self {
        Self { index: bits as u32, generation: (bits >> 32) as u32, of: PhantomData }
    }
}

impl<T> Clone for Key<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Key<T> {}

impl<T> PartialEq for Key<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.index, self.generation) == (other.index, other.generation)
    }
}

impl<T> Eq for Key<T> {}

impl<T> std::hash::Hash for Key<T> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.to_bits().hash(state);
    }
}

impl<T> std::fmt::Debug for Key<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.index, self.generation)
    }
}

pub(crate) struct Slab<T> {
    entries: Vec<Entry<T>>,
    /// Index of the first vacant entry.
    vacant: Option<u32>,
    count: usize,
}

struct Entry<T> {
    generation: u32,
    place: Place<T>,
}

enum Place<T> {
    Taken(T),
    Vacant { next: Option<u32> },
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), vacant: None, count: 0 }
    }
}

impl<T> Slab<T> {
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn insert(&mut self, value: T) -> Key<T> {
        self.count += 1;
        let Some(index) = self.vacant else {
            let index =
                u32::try_from(self.entries.len()).expect("descriptors run out long before 2^32");
            self.entries.push(Entry { generation: 0, place: Place::Taken(value) });
            return Key { index, generation: 0, of: PhantomData };
        };
        let entry = &mut self.entries[index as usize];
        let Place::Vacant { next } = entry.place else {
            unreachable!("the vacant list names only vacant entries")
        };
        self.vacant = next;
        entry.place = Place::Taken(value);
        Key { index, generation: entry.generation, of: PhantomData }
    }

    pub(crate) fn find(&self, key: Key<T>) -> Option<&T> {
        match self.entries.get(key.index as usize) {
            Some(Entry { generation, place: Place::Taken(value) })
                if *generation == key.generation =>
            {
                Some(value)
            }
            _ => None,
        }
    }

    pub(crate) fn find_mut(&mut self, key: Key<T>) -> Option<&mut T> {
        match self.entries.get_mut(key.index as usize) {
            Some(Entry { generation, place: Place::Taken(value) })
                if *generation == key.generation =>
            {
                Some(value)
            }
            _ => None,
        }
    }

    pub(crate) fn remove(&mut self, key: Key<T>) -> Option<T> {
        self.find(key)?;
        let entry = &mut self.entries[key.index as usize];
        // After 2^32 values in one place an old key could match again; no key is kept for that
        // long.
        entry.generation = entry.generation.wrapping_add(1);
        let place = std::mem::replace(&mut entry.place, Place::Vacant { next: self.vacant });
        self.vacant = Some(key.index);
        self.count -= 1;
        match place {
            Place::Taken(value) => Some(value),
            Place::Vacant { .. } => unreachable!("found just above"),
        }
    }

    /// Keys of all values, in no useful order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = Key<T>> + '_ {
        self.entries.iter().enumerate().filter_map(|(index, entry)| match entry.place {
            Place::Taken(_) => Some(Key {
                index: u32::try_from(index).expect("insert checked it"),
                generation: entry.generation,
                of: PhantomData,
            }),
            Place::Vacant { .. } => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_key_never_finds_the_successor() {
        let mut slab = Slab::default();
        let first = slab.insert("first");
        assert_eq!(slab.remove(first), Some("first"));
        assert_eq!(slab.remove(first), None);
        let second = slab.insert("second");
        assert_eq!(first.index, second.index, "the place is used again");
        assert_eq!(slab.find(first), None);
        assert_eq!(slab.find(second), Some(&"second"));
        assert_eq!(Key::from_bits(second.to_bits()), second);
        assert_eq!(slab.len(), 1);
    }

    #[test]
    fn places_are_reused_last_in_first_out() {
        let mut slab = Slab::default();
        let keys: Vec<_> = (0..4).map(|n| slab.insert(n)).collect();
        slab.remove(keys[1]);
        slab.remove(keys[3]);
        assert_eq!(slab.insert(9).index, 3);
        assert_eq!(slab.insert(9).index, 1);
        assert_eq!(slab.insert(9).index, 4);
        assert_eq!(slab.keys().count(), 5);
    }
}
