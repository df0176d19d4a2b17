//! Which snapshot each worker runs on, and which ones some worker may still hold.

#![forbid(unsafe_code)]

use crate::{adoption::Adoption, mailbox::WorkerId};
use snapshot::{Snapshot, Version};
use std::{collections::VecDeque, sync::Arc};

pub(super) struct Progress {
    /// The last one is in force for all that comes; the first one is the oldest that a worker may
    /// still run on.
    adoptions: VecDeque<Arc<Adoption>>,
    /// The epoch that each worker runs on.
    adopted: Vec<u64>,
    /// The epoch that every worker has reached, as far as control was told.
    live: u64,
}

impl Progress {
    pub(super) fn new(workers: usize) -> Self {
        let nothing = Adoption {
            epoch: 0,
            snapshot: Arc::new(Snapshot::empty()),
            difference: Default::default(),
            left: Default::default(),
        };
        let adoptions = VecDeque::from([Arc::new(nothing)]);
        Self { adoptions, adopted: vec![0; workers], live: 0 }
    }

    /// What the workers run on, or will as soon as they read their mailboxes.
    pub(super) fn current(&self) -> &Arc<Snapshot> {
        &self.newest().snapshot
    }

    pub(super) fn next_epoch(&self) -> u64 {
        self.newest().epoch + 1
    }

    pub(super) fn begin(&mut self, adoption: Arc<Adoption>) {
        debug_assert_eq!(adoption.epoch, self.next_epoch());
        self.adoptions.push_back(adoption);
    }

    /// A worker runs on this epoch now; returns the version that has become live by it.
    pub(super) fn on_adopted(&mut self, worker: WorkerId, epoch: u64) -> Option<Version> {
        self.adopted[worker.index()] = epoch;
        let reached = self.adopted.iter().copied().min().unwrap_or(epoch);
        if reached <= self.live {
            return None;
        }
        self.live = reached;
        let live = self.adoptions.iter().find(|adoption| adoption.epoch == reached);
        live.map(|adoption| adoption.snapshot.version)
    }

    /// Takes out what no worker holds any more. The caller drops it when it has nothing better to
    /// do.
    pub(super) fn take_outlived(&mut self) -> Vec<Arc<Adoption>> {
        let count = self.adoptions.iter().take_while(|adoption| adoption.epoch < self.live).count();
        let outlived: Vec<Arc<Adoption>> = self.adoptions.drain(..count).collect();
        debug_assert!(outlived.iter().all(is_ours_alone), "a worker would free a table");
        outlived
    }

    /// Whether an app came, went or changed from the first of these, which were taken out, to what
    /// every worker runs on.
    pub(super) fn is_change_of_apps(&self, outlived: &[Arc<Adoption>]) -> bool {
        let Some((_, after)) = outlived.split_first() else { return false };
        let live = self.adoptions.front();
        after.iter().chain(live).any(|adoption| !adoption.difference.apps.is_empty())
    }

    fn newest(&self) -> &Adoption {
        self.adoptions.back().expect("the one in force is never taken out")
    }
}

fn is_ours_alone(adoption: &Arc<Adoption>) -> bool {
    Arc::strong_count(adoption) == 1 && Arc::strong_count(&adoption.snapshot) == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adoption(epoch: u64, version: u64) -> Arc<Adoption> {
        let mut snapshot = Snapshot::empty();
        snapshot.version = Version(version);
        let (difference, left) = (Default::default(), Default::default());
        Arc::new(Adoption { epoch, snapshot: Arc::new(snapshot), difference, left })
    }

    #[test]
    fn a_version_is_live_when_the_last_worker_has_it() {
        let mut progress = Progress::new(2);
        let (a, b) = (WorkerId(0), WorkerId(1));
        for (epoch, version) in [(1, 10), (2, 11), (3, 11), (4, 5)] {
            progress.begin(adoption(epoch, version));
        }
        for (case, worker, epoch, want) in [
            ("the first of two", a, 1, None),
            ("runs ahead", a, 3, None),
            ("the second one", b, 1, Some(10)),
            ("two at once", b, 3, Some(11)),
            ("a version that counts anew", b, 4, None),
            ("and is reached", a, 4, Some(5)),
        ] {
            assert_eq!(progress.on_adopted(worker, epoch), want.map(Version), "{case}");
        }
    }

    #[test]
    fn what_a_worker_may_hold_is_kept_and_the_rest_is_given_out_once() {
        let mut progress = Progress::new(2);
        progress.begin(adoption(1, 1));
        progress.begin(adoption(2, 2));
        progress.on_adopted(WorkerId(0), 1);
        progress.on_adopted(WorkerId(1), 1);
        assert_eq!(progress.take_outlived().len(), 1, "the empty one of the start");
        progress.on_adopted(WorkerId(0), 2);
        assert!(progress.take_outlived().is_empty(), "the other worker runs on the first one");
        progress.on_adopted(WorkerId(1), 2);
        let outlived = progress.take_outlived();
        assert_eq!(outlived.iter().map(|adoption| adoption.epoch).collect::<Vec<_>>(), [1]);
        assert!(progress.take_outlived().is_empty());
        assert_eq!(progress.current().version, Version(2));
    }
}
