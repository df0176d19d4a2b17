//! The apps served here, by number and by name.
//!
//! A number is what listeners and connections hold on to. Its low half is a slot, its high half
//! says how often the slot was filled: whoever still holds the number of an app that left finds
//! nothing, never the app that came after it.

use crate::{
    App,
    table::{Named, Table},
};
use std::{ops::Index, sync::Arc};

/// Bits of an app's number that name its slot.
pub(crate) const APP_SLOT_BITS: u32 = 16;

/// Most apps one data plane serves at a time.
pub const APPS_MAX: usize = 1 << APP_SLOT_BITS;

const CHUNK: usize = 64;

/// Copies share all but the chunk that was changed.
#[derive(Clone, Debug, Default)]
pub struct Apps {
    /// By slot.
    chunks: Vec<Arc<[Option<Arc<App>>; CHUNK]>>,
    by_name: Table<Arc<App>>,
}

impl Named for App {
    fn id(&self) -> &crate::AppId {
        &self.id
    }

    fn namespace(&self) -> &crate::Namespace {
        &self.namespace
    }
}

impl Apps {
    /// The slot of an app's number; one app at a time has it.
    #[inline]
    pub const fn slot(number: usize) -> usize {
        number & (APPS_MAX - 1)
    }

    /// The app of this number, if it is still the one that had it.
    #[inline]
    pub fn get(&self, number: usize) -> Option<&App> {
        self.find_in_slot(Self::slot(number))
            .filter(|app| app.number as usize == number)
            .map(|a| &**a)
    }

    /// By number, in the order of slots.
    pub fn iter(&self) -> impl Iterator<Item = &App> {
        self.chunks.iter().flat_map(|chunk| chunk.iter().flatten()).map(|app| &**app)
    }

    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn find(&self, id: &[u8], namespace: &[u8]) -> Option<&Arc<App>> {
        self.by_name.find(id, namespace)
    }

    /// The app that has this slot, whatever its number.
    #[inline]
    pub fn find_in_slot(&self, slot: usize) -> Option<&Arc<App>> {
        self.chunks.get(slot / CHUNK)?[slot % CHUNK].as_ref()
    }

    /// Puts the app into its slot. The caller has seen that neither slot nor name belong to another
    /// one.
    pub(crate) fn insert(&mut self, app: Arc<App>) -> Option<Arc<App>> {
        let slot = Self::slot(app.number as usize);
        while self.chunks.len() <= slot / CHUNK {
            self.chunks.push(Arc::new([const { None }; CHUNK]));
        }
        self.by_name.insert(Arc::clone(&app));
        Arc::make_mut(&mut self.chunks[slot / CHUNK])[slot % CHUNK].replace(app)
    }

    pub(crate) fn remove(&mut self, number: usize) -> Option<Arc<App>> {
        let slot = Self::slot(number);
        self.get(number)?;
        let app = Arc::make_mut(&mut self.chunks[slot / CHUNK])[slot % CHUNK].take()?;
        self.by_name.remove(app.id.as_bytes(), app.namespace.as_bytes());
        while self.chunks.last().is_some_and(|chunk| chunk.iter().all(Option::is_none)) {
            self.chunks.pop();
        }
        Some(app)
    }
}

impl Index<usize> for Apps {
    type Output = App;

    /// # Panics
    /// When no app has this number (any more).
    #[inline]
    fn index(&self, number: usize) -> &App {
        self.get(number).expect("the caller has seen this app in this snapshot")
    }
}
