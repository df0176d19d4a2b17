//! One registry as the others see it: what it last told, how it is, and our entries in it.

#![forbid(unsafe_code)]

use super::{Entry, Registrar, Registration, RegistryError, Row, Sink, Watch, dns::Question};
use snapshot::InstanceId;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use tokio::{sync::mpsc, task::AbortHandle, time::Instant};

pub(super) struct Source {
    /// What its news come under; no two ever have the same.
    pub(super) id: usize,
    pub(super) name: &'static str,
    pub(super) rank: Rank,
    pub(super) rows: Vec<Arc<Row>>,
    /// `rows` are what it told since this control runs.
    pub(super) is_read: bool,
    pub(super) health: Health,
    registrar: Option<Box<dyn Registrar>>,
    pub(super) registrations: BTreeMap<InstanceId, Box<dyn Registration>>,
    /// Ends with the source.
    pub(super) watch: Option<AbortHandle>,
    /// Where to ask, if it knows only what it is asked for.
    pub(super) questions: Option<mpsc::Sender<Question>>,
    /// Questions that it has not answered.
    pub(super) asked: BTreeSet<u64>,
    /// It has said what it knows.
    pub(super) is_told: bool,
    /// When it goes at the latest, once it is not wanted any more.
    pub(super) leaves_at: Option<Instant>,
}

/// A better rank hides an app's rows of all worse ones.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Rank {
    Written,
    Discovered,
    Named,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Health {
    Away {
        since: Instant,
    },
    /// Not read yet, and not known to be away.
    Starting {
        since: Instant,
    },
    Up,
}

impl Source {
    pub(super) fn register(&mut self, entry: &Entry, news: &Sink) -> Result<(), RegistryError> {
        let Some(registrar) = &self.registrar else { return Ok(()) };
        match self.registrations.get_mut(&entry.instance) {
            Some(registration) => registration.update(entry),
            None => {
                let registration = registrar.register(entry, news)?;
                self.registrations.insert(entry.instance.clone(), registration);
                Ok(())
            }
        }
    }

    pub(super) fn new(
        name: &'static str,
        rank: Rank,
        watch: &impl Watch,
        registrar: Option<Box<dyn Registrar>>,
    ) -> Self {
        let health = Health::Starting { since: Instant::now() };
        Self {
            id: 0,
            name,
            rank,
            rows: watch.rows(),
            is_read: watch.is_read(),
            health,
            registrar,
            registrations: BTreeMap::new(),
            watch: None,
            questions: None,
            asked: BTreeSet::new(),
            is_told: false,
            leaves_at: None,
        }
    }

    pub(super) const fn is_leaving(&self) -> bool {
        self.leaves_at.is_some()
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        if let Some(watch) = &self.watch {
            watch.abort();
        }
    }
}
