//! The provided-buffer ring: memory that the kernel picks from when data arrives.
//!
//! A buffer is the kernel's from `give_back` until a receive completes with its id, and ours from
//! then until it is given back. Small on purpose: the ring is first in, first out, so every buffer
//! is touched in turn.

use anyhow::{Context, Result};
use io_uring::{Submitter, types::BufRingEntry};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
use std::{
    ptr,
    sync::atomic::{AtomicU16, Ordering},
};

pub(crate) const BUFFER_BYTES: usize = 16 * 1024;
pub(crate) const BUFFER_COUNT: u16 = 128;
pub(crate) const GROUP: u16 = 0;

const RING_BYTES: usize = BUFFER_COUNT as usize * size_of::<BufRingEntry>();

pub(crate) struct Buffers {
    /// One page: the entries that the kernel reads, its tail in the first of them.
    entries: *mut BufRingEntry,
    memory: *mut u8,
    tail: u16,
    with_kernel: u16,
}

/// A piece of a received buffer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Slice {
    pub(crate) buffer: u16,
    pub(crate) start: u32,
    pub(crate) len: u32,
}

impl Buffers {
    /// Lives until the process ends, as the ring that reads it does.
    pub(crate) fn register(submitter: &Submitter<'_>) -> Result<Self> {
        let entries = map(RING_BYTES)?.cast::<BufRingEntry>();
        let memory = map(BUFFER_BYTES * BUFFER_COUNT as usize)?;
        // SAFETY: the mapping is page-aligned, as large as BUFFER_COUNT entries and never unmapped;
        // unmapping it while the ring lives would let the kernel read freed memory.
        unsafe { submitter.register_buf_ring_with_flags(entries as u64, BUFFER_COUNT, GROUP, 0) }
            .context("this kernel has no provided-buffer rings (5.19 has)")?;
        let mut buffers = Self { entries, memory, tail: 0, with_kernel: 0 };
        for buffer in 0..BUFFER_COUNT {
            buffers.give_back(buffer);
        }
        buffers.publish();
        Ok(buffers)
    }

    /// Of a slice that the kernel filled and that was not given back.
    pub(crate) fn address(&self, slice: Slice) -> *const u8 {
        let offset = usize::from(slice.buffer) * BUFFER_BYTES + slice.start as usize;
        debug_assert!(offset + slice.len as usize <= BUFFER_BYTES * BUFFER_COUNT as usize);
        // SAFETY: `buffer` is an id that the kernel returned, below BUFFER_COUNT, and `start` is
        // within what it filled, so the sum lies in the mapping; an id from another group would
        // break this, and there is none.
        unsafe { self.memory.add(offset) }
    }

    /// The kernel filled `buffer`: it is ours now.
    pub(crate) fn on_filled(&mut self) {
        self.with_kernel -= 1;
    }

    /// The kernel may fill it again, from the next [`Self::publish`] on.
    pub(crate) fn give_back(&mut self, buffer: u16) {
        let address = self.address(Slice { buffer, start: 0, len: 0 });
        let index = usize::from(self.tail & (BUFFER_COUNT - 1));
        // SAFETY: `index` is below BUFFER_COUNT by the mask. The kernel reads no entry at or behind
        // the published tail, and at most BUFFER_COUNT are published because each id is given back
        // once: nobody else reads this one.
        let entry = unsafe { &mut *self.entries.add(index) };
        entry.set_addr(address as u64);
        entry.set_len(u32::try_from(BUFFER_BYTES).unwrap_or(u32::MAX));
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
        self.with_kernel += 1;
    }

    /// Shows the kernel what was given back.
    pub(crate) fn publish(&self) {
        // SAFETY: the tail lies in the first entry's reserved field, within the mapping.
        let tail = unsafe { BufRingEntry::tail(self.entries) };
        // SAFETY: the mapping is writable, the field is aligned for u16, and only this thread and
        // the kernel touch it, both atomically. Release: the entries are written before the kernel
        // sees the tail that covers them.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }

    pub(crate) fn with_kernel(&self) -> u16 {
        self.with_kernel
    }
}

fn map(bytes: usize) -> Result<*mut u8> {
    let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no memory that
    // exists.
    let memory = unsafe { mmap_anonymous(ptr::null_mut(), bytes, protection, flags) };
    Ok(memory.context("no memory for receive buffers")?.cast())
}
