//! A snapshot on its way to the workers, with all that they need to adopt it at the cost of what
//! changed.
//!
//! Made by the link, shared by the workers, dropped by the link: whoever holds the last reference
//! frees what the next snapshot no longer shares, and after a full state that is a whole table. A
//! worker must not be the one.

#![forbid(unsafe_code)]

use crate::gate::Gate;
use snapshot::{Address, App, Apps, Listener, ListenerId, Replaced, Snapshot};
use std::{collections::HashSet, sync::Arc};

#[derive(Debug)]
pub(crate) struct Adoption {
    /// Counts the adoptions of this process. Versions are control's, and another control may count
    /// anew.
    pub epoch: u64,
    pub snapshot: Arc<Snapshot>,
    pub difference: Difference,
    /// Addresses to which no call goes any more.
    pub left: HashSet<Address>,
}

/// What is not as it was in the snapshot before.
#[derive(Debug, Default)]
pub(crate) struct Difference {
    /// Numbers of the apps that came, went or are served otherwise.
    pub apps: Vec<usize>,
    /// Apps that do not have their number any more, and the one they have now, if any.
    pub renumbered: Vec<(usize, Option<usize>)>,
    /// Listeners that came, went, or belong to something else.
    pub listeners: Vec<ListenerId>,
    /// Of the apps above those with a limit, by number.
    pub gates: Vec<(usize, Arc<Gate>)>,
}

impl Difference {
    /// After a delta: `replaced` says it all, and in a delta apps keep their numbers.
    pub(crate) fn of_delta(replaced: &[Replaced]) -> Self {
        let mut difference = Self::default();
        for change in replaced {
            match change {
                Replaced::App { old, new } => {
                    if let (Some(gone), None) = (old, new) {
                        difference.renumbered.push((gone.number as usize, None));
                    }
                    let app = new.as_ref().or(old.as_ref());
                    difference.apps.extend(app.map(|app| app.number as usize));
                }
                Replaced::Listener { old, new } => {
                    let listener = new.as_ref().or(old.as_ref());
                    difference.listeners.extend(listener.map(|listener| listener.id));
                }
                Replaced::Route { .. } => {}
            }
        }
        difference
    }

    pub(crate) fn find_gate(&self, app: usize) -> Option<&Arc<Gate>> {
        let position = self.gates.binary_search_by_key(&app, |(number, _)| *number).ok()?;
        Some(&self.gates[position].1)
    }

    /// After a full state.
    pub(crate) fn between(old: &Snapshot, new: &Snapshot) -> Self {
        let number = |app: &App| app.number as usize;
        let differs = |here: &App, there: &Apps| there.get(number(here)) != Some(here);
        let went = old.apps.iter().filter(|app| differs(app, &new.apps));
        let came = new.apps.iter().filter(|app| old.apps.get(number(app)).is_none());
        let now = |app: &App| new.find_app(app.id.as_str(), app.namespace.as_str()).map(|(n, _)| n);
        let moved = old.apps.iter().filter(|app| now(app) != Some(number(app)));
        let listeners = |here: &Snapshot, there: &Snapshot| -> Vec<ListenerId> {
            let differs = |here: &&Listener| there.find_listener(here.id) != Some(*here);
            here.listeners.iter().filter(differs).map(|listener| listener.id).collect()
        };
        let mut changed = listeners(old, new);
        changed.extend(listeners(new, old));
        Self {
            apps: went.chain(came).map(number).collect(),
            renumbered: moved.map(|app| (number(app), now(app))).collect(),
            listeners: changed,
            gates: Vec::new(),
        }
    }
}
