//! The ring through which the kernel gets buffers to receive into.
//!
//! First in, first out, so its length decides how warm the buffers are: it never holds more than
//! [`BUFFERS_START`], however many are leased, and is filled each turn from the pool's stack of the
//! last used ones. A slot is in this ring or leased or free, never two of them.

use crate::{
    engine::{BufferPool, pool::Mapping, pool::Slot},
    limits::{BUFFER_BYTES, BUFFERS_MAX, BUFFERS_START},
};
use io_uring::{Submitter, types::BufRingEntry};
use rustix::io::Errno;
use std::{
    mem::size_of,
    ptr::NonNull,
    sync::atomic::{AtomicU16, Ordering},
};

pub(super) struct BufferRing {
    entries: Mapping,
    /// Entries published so far, modulo 2¹⁶; the kernel takes them modulo the ring's size.
    tail: u16,
    /// Buffers in the kernel's hands.
    published: u16,
}

impl BufferRing {
    /// Registers the ring, still empty.
    ///
    /// # Errors
    /// When memory is short or may not be locked, or the kernel has no such rings (before 5.19).
    pub(super) fn register(submitter: &Submitter<'_>) -> Result<Self, Errno> {
        let entries = Mapping::new(usize::from(BUFFERS_MAX) * size_of::<BufRingEntry>())?;
        let address = entries.at(0).as_ptr() as u64;
        // SAFETY: the mapping holds BUFFERS_MAX entries, is aligned to a page, and lives in the
        // value that is returned, which the engine drops after the ring.
        unsafe { submitter.register_buf_ring_with_flags(address, BUFFERS_MAX, GROUP, 0) }
            .map_err(|error| super::ring::errno(&error))?;
        Ok(Self { entries, tail: 0, published: 0 })
    }

    /// Fills the ring up from the pool, as far as that has free slots.
    pub(super) fn publish(&mut self, pool: &BufferPool) {
        let before = self.tail;
        while self.published < BUFFERS_START {
            let Some((id, room)) = pool.submit() else { break };
            self.write(id, room);
            self.tail = self.tail.wrapping_add(1);
            self.published += 1;
        }
        if self.tail != before {
            // Release: the kernel sees the entries before it sees that they are there.
            self.shared_tail().store(self.tail, Ordering::Release);
        }
    }

    /// The kernel has used this buffer.
    pub(super) fn complete(&mut self, pool: &BufferPool, id: u16) -> Slot {
        self.published -= 1;
        pool.complete(id)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.published == 0
    }

    fn write(&self, id: u16, room: NonNull<u8>) {
        let index = usize::from(self.tail % BUFFERS_MAX);
        let entry = self.entries.at(index * size_of::<BufRingEntry>()).cast::<BufRingEntry>();
        // SAFETY: the entry lies inside the mapping, which is zeroed memory of plain integers. The
        // kernel reads entries before the shared tail only, and `publish` never has more than
        // BUFFERS_MAX outstanding, so not this one; nor does the tail itself, in the first entry's
        // reserved bytes, have another borrower here.
        let entry = unsafe { &mut *entry.as_ptr() };
        entry.set_addr(room.as_ptr() as u64);
        entry.set_len(ENTRY_BYTES);
        entry.set_bid(id);
    }

    fn shared_tail(&self) -> &AtomicU16 {
        let first = self.entries.at(0).cast::<BufRingEntry>();
        // SAFETY: `first` is the ring's first entry, as the call asks, and lies inside the mapping.
        let tail = unsafe { BufRingEntry::tail(first.as_ptr()) };
        // SAFETY: the tail lies inside the mapping, which lives as long as `self`, and is aligned
        // to its size. The kernel only reads it, and here it is only touched through this atomic.
        unsafe { AtomicU16::from_ptr(tail.cast_mut()) }
    }
}

/// The one buffer group of a ring.
pub(super) const GROUP: u16 = 0;

#[expect(clippy::cast_possible_truncation, reason = "asserted below")]
const ENTRY_BYTES: u32 = BUFFER_BYTES as u32;
const _: () = assert!(BUFFER_BYTES <= u32::MAX as usize);
