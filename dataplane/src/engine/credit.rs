//! What this data plane has read from sockets whose bytes come past TCP, told to the kernel: the
//! app at the other end may send a window ahead of it, and no more.
//!
//! One word per connection in a map of control's, written by one relaxed store after each receive.
//! The rules that the words obey are `ebpf_common::accelerate`'s: counts only rise, and a word of
//! another connection with the same slot is told apart by its generation.

use ebpf_common::{
    IDENTITY_LEVEL,
    accelerate::{SLOTS, TICKET_NAME, Ticket, slot_of, word},
};
use rustix::{
    io::Errno,
    mm::{MapFlags, ProtFlags, mmap, munmap},
};
use std::{
    os::fd::{AsFd, AsRawFd},
    ptr::{NonNull, null_mut},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// The map, in this process' memory. All workers have the same one.
#[derive(Debug)]
pub struct Credits {
    words: NonNull<AtomicU64>,
}

// SAFETY: what `words` points to is only ever used as atomics, which any thread may.
unsafe impl Send for Credits {}
// SAFETY: as above.
unsafe impl Sync for Credits {}

impl Credits {
    /// # Errors
    /// When this is no such map.
    pub fn map(map: impl AsFd) -> Result<Self, Errno> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing of ours. A
        // map of another length is refused by the kernel.
        let start = unsafe { mmap(null_mut(), BYTES, access, MapFlags::SHARED, map, 0) }?;
        Ok(Self { words: NonNull::new(start.cast()).ok_or(Errno::NOMEM)? })
    }

    /// `None`: the socket's bytes come by TCP.
    pub(super) fn of(self: &Arc<Self>, socket: impl AsFd) -> Option<Box<Credit>> {
        let ticket = ticket(socket)?;
        Some(Box::new(Credit { credits: Arc::clone(self), ticket, bytes: 0 }))
    }

    fn word(&self, ticket: Ticket) -> &AtomicU64 {
        // SAFETY: a slot is less than SLOTS, so its word lies inside the mapping, which stays until
        // `drop`; it is aligned, since the mapping begins at a page.
        unsafe { self.words.add(slot_of(ticket) as usize).as_ref() }
    }
}

impl Drop for Credits {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours alone, made in `map` with this length; every `Credit` holds a
        // reference, so nobody writes to it any more.
        let unmapped = unsafe { munmap(self.words.as_ptr().cast(), BYTES) };
        debug_assert!(unmapped.is_ok());
    }
}

/// Of one socket, from its first byte on.
#[derive(Debug)]
pub(super) struct Credit {
    credits: Arc<Credits>,
    ticket: Ticket,
    bytes: u64,
}

impl Credit {
    pub(super) fn took(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        // Relaxed: the bytes themselves were copied by the kernel, which is all that the word says.
        self.credits.word(self.ticket).store(word(self.ticket, self.bytes), Ordering::Relaxed);
    }
}

/// By the program in the kernel; without it no socket has one.
fn ticket(socket: impl AsFd) -> Option<Ticket> {
    let mut ticket: Ticket = 0;
    let mut bytes = libc::socklen_t::try_from(size_of::<Ticket>()).ok()?;
    // SAFETY: the kernel writes at most `bytes` bytes, which is the size of `ticket`, on this stack
    // frame; the descriptor is borrowed for the whole call. A larger length would let it write
    // beyond.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            IDENTITY_LEVEL,
            TICKET_NAME,
            (&raw mut ticket).cast(),
            &raw mut bytes,
        )
    };
    (result == 0 && bytes as usize == size_of::<Ticket>()).then_some(ticket)
}

const BYTES: usize = SLOTS * size_of::<u64>();

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    fn credits() -> Arc<Credits> {
        let file = memfd_create("credits", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, BYTES as u64).unwrap();
        Arc::new(Credits::map(&file).unwrap())
    }

    #[test]
    fn tells_what_was_read_in_the_slot_of_the_ticket() {
        let credits = credits();
        let ticket = 5 * SLOTS as u64 + 9;
        let mut credit = Credit { credits: Arc::clone(&credits), ticket, bytes: 0 };
        credit.took(10);
        credit.took(32);
        assert_eq!(credits.word(ticket).load(Ordering::Relaxed), word(ticket, 42));
        assert_eq!(credits.word(ticket + 1).load(Ordering::Relaxed), 0);
        let last = SLOTS as u64 - 1;
        Credit { credits: Arc::clone(&credits), ticket: last, bytes: 0 }.took(1);
        assert_eq!(credits.word(last).load(Ordering::Relaxed), word(last, 1));
    }

    #[test]
    fn no_socket_has_a_ticket_without_the_program() {
        let (end, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(credits().of(&end).is_none());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(credits().of(&client).is_none());
        assert!(Credits::map(&listener).is_err());
    }
}
