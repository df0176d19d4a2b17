//! Bounded queues between threads, with a bell: the receiver is woken out of its wait.

#![forbid(unsafe_code)]

use crate::{
    adoption::Adoption,
    dapr::external::LookupError,
    engine::{Credits, Waker},
    gate::GateMessage,
    limits::MAILBOX_MESSAGES_MAX,
    route::{Name, Question},
    telemetry::Series,
};
use crossbeam_queue::SegQueue;
use snapshot::{
    AppId, Listener, ListenerId, Namespace,
    wire::{AdminCallId, AdminRequest, LogLevel, Score},
};
use std::{
    net::IpAddr,
    os::fd::OwnedFd,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct WorkerId(pub u32);

impl WorkerId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

#[derive(Debug)]
pub(crate) enum ToWorker {
    Adopt(Arc<Adoption>),
    Listen {
        listener: Listener,
        socket: OwnedFd,
    },
    Unlisten(ListenerId),
    /// A connection that another worker accepted. The listener is looked up on arrival: the other
    /// worker may have been on an older snapshot.
    Connection {
        socket: OwnedFd,
        listener: ListenerId,
    },
    ControlReply {
        connection: u64,
        status: u16,
        content_type: String,
        body: Vec<u8>,
    },
    /// Asks for a [`FromWorker::Scores`] with the same number.
    Scores {
        query: u64,
        name: Arc<(AppId, Namespace)>,
    },
    /// [`snapshot::wire::ToDataPlane::Resolver`].
    Resolver {
        exists: bool,
    },
    /// Where what comes past TCP is told as read.
    Credits(Arc<Credits>),
    /// Control has said all that it knows of this name.
    Resolved(Name),
    /// What [`crate::resolver`] found.
    Host {
        name: Box<str>,
        found: Result<Vec<IpAddr>, LookupError>,
    },
    /// From another worker.
    Gate(GateMessage),
    /// To the worker that accepts, ahead of a drain. Answered by [`FromWorker::AcceptsNoMore`].
    CloseListeners,
    Drain,
    Exit,
}

#[derive(Debug)]
pub(crate) enum FromWorker {
    /// All its listeners are closed, and what they brought is with the workers.
    AcceptsNoMore,
    /// It runs on the snapshot of this epoch, and holds none before it.
    Adopted {
        worker: WorkerId,
        epoch: u64,
    },
    ControlCall {
        id: AdminCallId,
        app: u32,
        request: AdminRequest,
    },
    Log {
        level: LogLevel,
        message: String,
    },
    /// Answered by [`ToWorker::Resolved`].
    Resolve {
        worker: WorkerId,
        question: Question,
    },
    Drained {
        worker: WorkerId,
    },
    Scores {
        query: u64,
        scores: Vec<Score>,
    },
    /// A series that is written from now on.
    Series(Arc<Series>),
    /// The worker ended; nothing of it goes on.
    Ended {
        worker: WorkerId,
        error: Option<String>,
    },
}

pub(crate) struct Mailbox<M> {
    /// Takes memory for what waits, block by block: room for MAILBOX_MESSAGES_MAX at once would be
    /// 300 KB for each worker and for the link, which is next to never filled.
    queue: SegQueue<M>,
    /// Messages that wait or are being put: never less than there are.
    count: AtomicUsize,
    /// Set once the receiving thread has something to be woken from.
    bell: OnceLock<Waker>,
    /// Connections of the receiving worker, as others weigh them.
    load: AtomicUsize,
}

impl<M> Default for Mailbox<M> {
    fn default() -> Self {
        Self {
            queue: SegQueue::new(),
            count: AtomicUsize::new(0),
            bell: OnceLock::new(),
            load: AtomicUsize::new(0),
        }
    }
}

impl<M> Mailbox<M> {
    /// The receiver can be woken from now on.
    pub(crate) fn attach(&self, bell: Waker) {
        // Set twice would mean two receivers; the first one keeps it.
        let _ = self.bell.set(bell);
    }

    /// # Errors
    /// Returns the message when the receiver is so far behind that MAILBOX_MESSAGES_MAX wait.
    pub(crate) fn try_put(&self, message: M) -> Result<(), M> {
        // The number decides nothing but how many there are; the queue orders the messages.
        if self.count.fetch_add(1, Relaxed) >= MAILBOX_MESSAGES_MAX {
            self.count.fetch_sub(1, Relaxed);
            return Err(message);
        }
        self.queue.push(message);
        self.ring();
        Ok(())
    }

    /// Wakes the receiver for something that does not come through here.
    pub(crate) fn ring(&self) {
        if let Some(bell) = self.bell.get() {
            bell.wake();
        }
    }

    /// Waits for room. For the link thread, whose receivers empty their mailboxes each turn, and
    /// for what a worker says once per message of the link thread, which therefore is not waiting
    /// for that worker.
    pub(crate) fn put(&self, message: M) {
        let mut message = message;
        while let Err(back) = self.try_put(message) {
            message = back;
            std::thread::yield_now();
        }
    }

    pub(crate) fn take(&self) -> Option<M> {
        let message = self.queue.pop()?;
        self.count.fetch_sub(1, Relaxed);
        Some(message)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn load(&self) -> usize {
        self.load.load(Relaxed)
    }

    pub(crate) fn set_load(&self, connections: usize) {
        self.load.store(connections, Relaxed);
    }

    /// One more is on its way; keeps a burst of accepts from all going to the same worker.
    pub(crate) fn add_load(&self) {
        self.load.fetch_add(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_the_bound_comes_back() {
        let mailbox = Mailbox::default();
        for round in 0..3 {
            for n in 0..MAILBOX_MESSAGES_MAX {
                assert_eq!(mailbox.try_put(n), Ok(()), "round {round}");
            }
            for n in 0..3 {
                assert_eq!(mailbox.try_put(n), Err(n), "round {round}: full");
            }
            assert_eq!(mailbox.take(), Some(0), "round {round}");
            assert_eq!(
                mailbox.try_put(MAILBOX_MESSAGES_MAX),
                Ok(()),
                "round {round}: room for one"
            );
            assert_eq!(mailbox.try_put(0), Err(0), "round {round}: full again");
            let all: Vec<usize> = std::iter::from_fn(|| mailbox.take()).collect();
            assert!(all.into_iter().eq(1..=MAILBOX_MESSAGES_MAX), "round {round}: in their order");
            assert!(mailbox.is_empty(), "round {round}");
        }
    }

    #[test]
    fn many_senders_lose_nothing_and_stay_within_the_bound() {
        const EACH: usize = 20_000;
        let mailbox: Mailbox<(usize, usize)> = Mailbox::default();
        let mut next = [0; 3];
        std::thread::scope(|scope| {
            for sender in 0..next.len() {
                let mailbox = &mailbox;
                scope.spawn(move || (0..EACH).for_each(|n| mailbox.put((sender, n))));
            }
            while next != [EACH; 3] {
                assert!(mailbox.queue.len() <= MAILBOX_MESSAGES_MAX);
                let Some((sender, n)) = mailbox.take() else {
                    std::thread::yield_now();
                    continue;
                };
                assert_eq!(n, next[sender], "sender {sender}: in its order");
                next[sender] += 1;
            }
        });
        assert_eq!(mailbox.take(), None);
    }
}
