//! The gates of all apps that have a limit, by name. The link keeps them from snapshot to snapshot,
//! so that a token taken under one is given back under the next, whatever number the app has by
//! then.

#![forbid(unsafe_code)]

use super::Gate;
use snapshot::{App, AppId, Namespace, Snapshot};
use std::{collections::HashMap, num::NonZeroU32, sync::Arc};

#[derive(Debug)]
pub(crate) struct Gates {
    gates: HashMap<(AppId, Namespace), Arc<Gate>>,
    workers: u32,
    /// Homes are given out in turns.
    next_home: u32,
}

impl Gates {
    pub(crate) fn new(workers: usize) -> Self {
        let workers = u32::try_from(workers).unwrap_or(u32::MAX).max(1);
        Self { gates: HashMap::new(), workers, next_home: 0 }
    }

    /// The gates of those of `apps` that have a limit in `snapshot`, each with its app's number, in
    /// the order of these.
    pub(crate) fn update(
        &mut self,
        snapshot: &Snapshot,
        apps: &[usize],
    ) -> Vec<(usize, Arc<Gate>)> {
        if apps.is_empty() {
            return Vec::new();
        }
        let limited = apps.iter().filter_map(|number| {
            let app = snapshot.apps.get(*number)?;
            Some((*number, app, limit_of(app)?))
        });
        let mut gates: Vec<(usize, Arc<Gate>)> =
            limited.map(|(number, app, limit)| (number, self.gate(app, limit))).collect();
        gates.sort_unstable_by_key(|(number, _)| *number);
        self.gates.retain(|(id, namespace), gate| {
            let app = snapshot.find_app(id.as_str(), namespace.as_str());
            let is_limited = app.is_some_and(|(_, app)| limit_of(app).is_some());
            if !is_limited {
                // Who still waits need not.
                gate.set_limit(u32::MAX);
            }
            is_limited
        });
        gates
    }

    fn gate(&mut self, app: &App, limit: NonZeroU32) -> Arc<Gate> {
        let name = (app.id.clone(), app.namespace.clone());
        let gate = self.gates.entry(name).or_insert_with(|| {
            self.next_home = (self.next_home + 1) % self.workers;
            Arc::new(Gate::new(limit.get(), self.next_home))
        });
        gate.set_limit(limit.get());
        Arc::clone(gate)
    }
}

fn limit_of(app: &App) -> Option<NonZeroU32> {
    app.channel.as_ref()?.concurrency_max
}
