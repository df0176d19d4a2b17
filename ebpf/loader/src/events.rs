//! What the kernel tells, one record at a time.

use crate::{KernelError, kernel::open};
use aya::maps::{Map, MapData, RingBuf};
use ebpf_common::Event;
use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    path::Path,
};

/// Readable while there is something to tell. One process reads at a time.
pub struct Events {
    ring: RingBuf<MapData>,
}

impl Events {
    pub(crate) fn open(maps: &Path) -> Result<Self, KernelError> {
        Ok(Self { ring: open(maps, "EVENTS", Map::RingBuf)? })
    }

    /// The next one, if it is there.
    pub fn take(&mut self) -> Option<Event> {
        loop {
            let item = self.ring.next()?;
            let bytes: &[u8] = &item;
            // A record of another layout is of another version's programs.
            if bytes.len() == size_of::<Event>() {
                // SAFETY: as many bytes as an `Event` has, which is made of integers alone, so any
                // bytes are one; they need not be aligned for this read.
                return Some(unsafe { bytes.as_ptr().cast::<Event>().read_unaligned() });
            }
        }
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring's descriptor, which is open for as long as `self` is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}
