//! Wakes a worker out of its turn, from any thread.
//!
//! An eventfd that the engine watches. Whoever wakes has put its message where the worker looks
//! before; a worker that sees [`super::Event::Woken`] therefore finds it.

use rustix::{
    event::{EventfdFlags, eventfd},
    io::{Errno, read, write},
};
use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

#[derive(Clone, Debug)]
pub struct Waker(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    event: OwnedFd,
    /// Woken and not yet seen: further wakes need no system call.
    pending: AtomicBool,
}

impl Waker {
    /// # Errors
    /// When descriptors are short.
    pub fn new() -> Result<Self, Errno> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(Arc::new(Shared { event, pending: AtomicBool::new(false) })))
    }

    pub fn wake(&self) {
        if self.0.pending.swap(true, Ordering::AcqRel) {
            return;
        }
        // The counter holds at most one, so this cannot fail for want of room.
        let written = write(&self.0.event, &1_u64.to_ne_bytes());
        debug_assert!(written.is_ok());
    }

    /// Makes the descriptor unreadable again. What was published before a `wake` that this takes
    /// back is visible afterwards.
    pub fn drain(&self) {
        let mut count = [0; 8];
        // Nothing to read is fine: another turn took it.
        let _ = read(&self.0.event, &mut count);
        self.0.pending.swap(false, Ordering::AcqRel);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    fn is_readable(waker: &Waker) -> bool {
        poll(&mut [PollFd::new(waker, PollFlags::IN)], Some(&Timespec::default())).unwrap() == 1
    }

    #[test]
    fn stays_readable_until_drained() {
        let waker = Waker::new().unwrap();
        assert!(!is_readable(&waker));
        for round in 0..3 {
            waker.wake();
            waker.clone().wake();
            assert!(is_readable(&waker), "{round}");
            waker.drain();
            assert!(!is_readable(&waker), "{round}");
        }
    }
}
