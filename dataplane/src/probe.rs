//! A worker without a process around it, for benches that bring an engine of their own: it turns
//! when it is told to, with one app's snapshot and one listener.

#![forbid(unsafe_code)]

use crate::{
    adoption::{Adoption, Difference},
    engine::{Engine, EngineError},
    mailbox::{Mailbox, ToWorker, WorkerId},
    resolver::Resolver,
    worker::{Surroundings, Worker},
};
use snapshot::Snapshot;
use std::{os::fd::OwnedFd, sync::Arc};

pub struct WorkerProbe<E> {
    worker: Worker<E>,
}

impl<E: Engine> WorkerProbe<E> {
    /// A worker that serves this snapshot once it has turned. `sockets` are those of the snapshot's
    /// listeners, in their order.
    pub fn new(engine: E, snapshot: Snapshot, sockets: Vec<OwnedFd>) -> Self {
        let mailboxes: Arc<[Mailbox<ToWorker>]> = [Mailbox::default()].into();
        let snapshot = Arc::new(snapshot);
        let difference = Difference::between(&Snapshot::empty(), &snapshot);
        for (listener, socket) in snapshot.listeners.iter().cloned().zip(sockets) {
            mailboxes[0].put(ToWorker::Listen { listener, socket });
        }
        let adoption = Adoption { epoch: 1, snapshot, difference, left: Default::default() };
        mailboxes[0].put(ToWorker::Adopt(Arc::new(adoption)));
        let surroundings = Surroundings {
            id: WorkerId(0),
            resolver: Resolver::new(Arc::clone(&mailboxes)),
            mailboxes,
            link: Arc::new(Mailbox::default()),
            breakers: Arc::default(),
            journal: Arc::default(),
            rate_limits: Arc::default(),
        };
        Self { worker: Worker::new(engine, Arc::default(), surroundings) }
    }

    /// One turn of the worker.
    ///
    /// # Errors
    /// When the engine is broken.
    // Out of line, so that a profile can tell the worker from who drives it.
    #[inline(never)]
    pub fn turn(&mut self) -> Result<(), EngineError> {
        self.worker.turn()
    }

    pub fn engine(&mut self) -> &mut E {
        self.worker.engine()
    }
}
