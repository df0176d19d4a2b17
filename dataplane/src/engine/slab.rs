//! Sockets by index, each index with a generation that changes when it is reused.

#![forbid(unsafe_code)]

use super::token::GENERATIONS;

#[derive(Debug)]
pub(super) struct Slab<T> {
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Slab<T> {
    pub(super) const fn new() -> Self {
        Self { entries: Vec::new(), free: Vec::new() }
    }

    /// Returns index and generation.
    ///
    /// # Panics
    /// With 2³² entries, which no descriptor limit allows.
    pub(super) fn insert(&mut self, value: T) -> (u32, u32) {
        if let Some(index) = self.free.pop() {
            let entry = &mut self.entries[index as usize];
            entry.value = Some(value);
            return (index, entry.generation);
        }
        let index = u32::try_from(self.entries.len()).expect("descriptors are fewer than 2³²");
        self.entries.push(Entry { generation: 0, value: Some(value) });
        (index, 0)
    }

    pub(super) fn find(&self, index: u32, generation: u32) -> Option<&T> {
        let entry = self.entries.get(index as usize)?;
        if entry.generation == generation { entry.value.as_ref() } else { None }
    }

    pub(super) fn find_mut(&mut self, index: u32, generation: u32) -> Option<&mut T> {
        let entry = self.entries.get_mut(index as usize)?;
        if entry.generation == generation { entry.value.as_mut() } else { None }
    }

    /// Whoever is at `index` now, with its generation.
    pub(super) fn at_mut(&mut self, index: u32) -> Option<(u32, &mut T)> {
        let entry = self.entries.get_mut(index as usize)?;
        Some((entry.generation, entry.value.as_mut()?))
    }

    pub(super) fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.entries.iter_mut().filter_map(|entry| entry.value.as_mut())
    }

    /// The index may be reused from now on, under another generation.
    pub(super) fn remove(&mut self, index: u32) -> Option<T> {
        let entry = self.entries.get_mut(index as usize)?;
        let value = entry.value.take()?;
        entry.generation = (entry.generation + 1) % GENERATIONS;
        self.free.push(index);
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reuses_an_index_under_another_generation() {
        let mut slab = Slab::new();
        let (index, generation) = slab.insert('a');
        assert_eq!(slab.remove(index), Some('a'));
        assert_eq!(slab.remove(index), None);
        let (again, later) = slab.insert('b');
        assert_eq!(again, index);
        assert_ne!(later, generation);
        assert_eq!(slab.find(index, generation), None);
        assert_eq!(slab.find_mut(index, generation), None);
        assert_eq!(slab.find(index, later), Some(&'b'));
        assert_eq!(slab.at_mut(index), Some((later, &mut 'b')));
        assert_eq!(slab.find(index + 1, 0), None);
        assert_eq!(slab.values_mut().count(), 1);
    }
}
