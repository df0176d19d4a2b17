//! The worker's buffers: one mapping, cut into slots that are counted without atomics.
//!
//! Receives land in receive slots, our own heads are written into scratch slots. The invariant that
//! all unsafe code here rests on: a slot's bytes are written only while its state is `SUBMITTED`
//! (by the kernel) or while exactly one [`Slot`] of it exists (by that one's owner, through
//! `&mut`); in any other state they are only read.

use crate::limits::{BUFFER_BYTES, BUFFERS_MAX, BUFFERS_SCARCE, HEADROOM_BYTES, SCRATCH_BUFFERS};
use rustix::{
    io::Errno,
    mm::{MapFlags, ProtFlags, mmap_anonymous, munmap},
};
use std::{
    cell::{Cell, RefCell},
    fmt,
    ops::Range,
    ptr::{NonNull, null_mut},
    rc::Rc,
    slice,
};

/// A handle to one worker's buffers. Cheap to clone, bound to its thread.
#[derive(Clone)]
pub struct BufferPool(Rc<Pool>);

impl BufferPool {
    /// Maps address space for all slots. A page costs memory only once it is used.
    ///
    /// # Errors
    /// When the address space is short.
    pub fn new() -> Result<Self, Errno> {
        let slots = usize::from(BUFFERS_MAX) + usize::from(SCRATCH_BUFFERS);
        // Popped from the end, so low slots are used first and hot ones again at once.
        let receive = (0..BUFFERS_MAX).rev().collect();
        let scratch = (BUFFERS_MAX..BUFFERS_MAX + SCRATCH_BUFFERS).rev().collect();
        Ok(Self(Rc::new(Pool {
            mapping: Mapping::new(slots * SLOT_BYTES)?,
            states: vec![const { Cell::new(FREE) }; slots].into_boxed_slice(),
            receive: RefCell::new(receive),
            scratch: RefCell::new(scratch),
            leased: Cell::new(0),
        })))
    }

    /// Receive slots that hold no data: those of the kernel's ring included.
    pub fn free_buffers(&self) -> usize {
        usize::from(BUFFERS_MAX) - self.0.leased.get()
    }

    /// So few are free that bytes which cannot leave at once should not keep theirs.
    pub(super) fn are_scarce(&self) -> bool {
        self.free_buffers() < BUFFERS_SCARCE
    }

    /// Slots that chunks hold, scratch slots included.
    pub fn leased_buffers(&self) -> usize {
        let scratch = usize::from(SCRATCH_BUFFERS) - self.0.scratch.borrow().len();
        self.0.leased.get() + scratch
    }

    /// A receive slot to fill by a call that ends before it returns.
    pub(super) fn take_receive(&self) -> Option<Slot> {
        let id = self.0.receive.borrow_mut().pop()?;
        Some(self.lease(id))
    }

    #[inline]
    pub(super) fn take_scratch(&self) -> Option<Slot> {
        let id = self.0.scratch.borrow_mut().pop()?;
        Some(self.lease(id))
    }

    /// A slot for the kernel to write into, and where its room for received bytes begins. It comes
    /// back through [`Self::complete`].
    pub(super) fn submit(&self) -> Option<(u16, NonNull<u8>)> {
        let id = self.0.receive.borrow_mut().pop()?;
        let state = self.0.state(id);
        debug_assert_eq!(state.get(), FREE);
        state.set(SUBMITTED);
        Some((id, self.0.mapping.at(usize::from(id) * SLOT_BYTES + HEADROOM_BYTES)))
    }

    /// The kernel has filled this slot and will not touch it again.
    ///
    /// # Panics
    /// When the slot is not the kernel's: two leases for one slot would let a writer race a reader.
    pub(super) fn complete(&self, id: u16) -> Slot {
        let state = self.0.state(id);
        assert_eq!(state.get(), SUBMITTED, "a completion names a slot that was submitted");
        state.set(FREE);
        self.lease(id)
    }

    #[inline]
    fn lease(&self, id: u16) -> Slot {
        let state = self.0.state(id);
        debug_assert_eq!(state.get(), FREE);
        state.set(1);
        if id < BUFFERS_MAX {
            self.0.leased.set(self.0.leased.get() + 1);
        }
        Slot { pool: Rc::clone(&self.0), id }
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferPool").field("leased", &self.leased_buffers()).finish_non_exhaustive()
    }
}

struct Pool {
    mapping: Mapping,
    /// Per slot: `FREE`, `SUBMITTED`, or how many [`Slot`]s there are.
    states: Box<[Cell<u32>]>,
    /// Free receive slots, last in first out.
    receive: RefCell<Vec<u16>>,
    scratch: RefCell<Vec<u16>>,
    /// Receive slots with at least one [`Slot`].
    leased: Cell<usize>,
}

impl Pool {
    #[inline]
    fn state(&self, id: u16) -> &Cell<u32> {
        &self.states[usize::from(id)]
    }

    #[inline]
    fn release(&self, id: u16) {
        if id < BUFFERS_MAX {
            self.leased.set(self.leased.get() - 1);
            self.receive.borrow_mut().push(id);
        } else {
            self.scratch.borrow_mut().push(id);
        }
    }
}

/// One share of a leased slot. Its bytes may be read; written only while it is the only share.
pub(super) struct Slot {
    pool: Rc<Pool>,
    id: u16,
}

impl Slot {
    /// # Panics
    /// When the range does not lie inside the slot.
    #[inline]
    pub(super) fn bytes(&self, range: Range<usize>) -> &[u8] {
        let start = self.start_of(&range);
        // SAFETY: the range was checked to lie inside this slot, and the mapping outlives `self`
        // through its `Rc`. While a `Slot` exists nobody writes: the kernel got the slot neither
        // before (`complete` ended that) nor since (`release` comes with the last share), and
        // `unique_bytes_mut` hands out `&mut` only to an only share, whose borrow of `self` then
        // excludes this one. Lending a submitted slot would break this.
        unsafe { slice::from_raw_parts(start.as_ptr(), range.len()) }
    }

    /// # Panics
    /// When the range does not lie inside the slot.
    #[inline]
    pub(super) fn unique_bytes_mut(&mut self, range: Range<usize>) -> Option<&mut [u8]> {
        if self.pool.state(self.id).get() != 1 {
            return None;
        }
        let start = self.start_of(&range);
        // SAFETY: the range was checked to lie inside this slot. The count is one, so this is the
        // only share, and it is borrowed mutably: no other reference into the slot exists. The
        // kernel reads a slot only while the engine holds a share of its own for the send. A second
        // `Slot` made without counting would break this.
        Some(unsafe { slice::from_raw_parts_mut(start.as_ptr(), range.len()) })
    }

    #[inline]
    fn start_of(&self, range: &Range<usize>) -> NonNull<u8> {
        assert!(range.start <= range.end && range.end <= SLOT_BYTES, "a range inside the slot");
        let offset = usize::from(self.id) * SLOT_BYTES + range.start;
        debug_assert!(offset <= self.pool.mapping.bytes, "a slot lies inside the mapping");
        // SAFETY: `id` is one of those that the pool has handed out, for each of which `new` mapped
        // SLOT_BYTES, and the range was checked to lie inside that slot. An id that is not of this
        // pool's lists would break this.
        unsafe { self.pool.mapping.start.add(offset) }
    }
}

impl Clone for Slot {
    fn clone(&self) -> Self {
        let state = self.pool.state(self.id);
        assert!(state.get() < SUBMITTED - 1, "fewer shares than the count can hold");
        state.set(state.get() + 1);
        Self { pool: Rc::clone(&self.pool), id: self.id }
    }
}

impl Drop for Slot {
    #[inline]
    fn drop(&mut self) {
        let state = self.pool.state(self.id);
        state.set(state.get() - 1);
        if state.get() == FREE {
            self.pool.release(self.id);
        }
    }
}

/// Anonymous memory, unmapped with its owner.
pub(super) struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

impl Mapping {
    pub(super) fn new(bytes: usize) -> Result<Self, Errno> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // Miri knows no other kind of mapping.
        let reserve = if cfg!(miri) { MapFlags::empty() } else { MapFlags::NORESERVE };
        let flags = MapFlags::PRIVATE | reserve;
        // SAFETY: a fresh private mapping at an address of the kernel's choice aliases nothing.
        let start = unsafe { mmap_anonymous(null_mut(), bytes, access, flags) }?;
        Ok(Self { start: NonNull::new(start.cast()).ok_or(Errno::NOMEM)?, bytes })
    }

    /// # Panics
    /// When `offset` lies behind the end.
    #[inline]
    pub(super) fn at(&self, offset: usize) -> NonNull<u8> {
        assert!(offset <= self.bytes, "an offset inside the mapping");
        // SAFETY: the offset was checked to lie inside the one mapping that `start` points to,
        // which is unmapped only in `drop`.
        unsafe { self.start.add(offset) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours alone, made in `new` with this length. Everything that points
        // into it holds its owner: slots by `Rc`, and the kernel because the engine keeps the pool
        // until its ring is quiet.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok());
    }
}

pub(super) const SLOT_BYTES: usize = HEADROOM_BYTES + BUFFER_BYTES;
const FREE: u32 = 0;
const SUBMITTED: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_to_write_a_shared_slot() {
        let pool = BufferPool::new().unwrap();
        let mut first = pool.take_receive().unwrap();
        let second = first.clone();
        assert!(first.unique_bytes_mut(0..1).is_none());
        drop(second);
        first.unique_bytes_mut(0..3).unwrap().copy_from_slice(b"abc");
        assert_eq!(first.bytes(1..3), b"bc");
    }

    #[test]
    #[should_panic(expected = "a slot that was submitted")]
    fn refuses_a_second_completion() {
        let pool = BufferPool::new().unwrap();
        let (id, _) = pool.submit().unwrap();
        let _lease = pool.complete(id);
        let _second = pool.complete(id);
    }

    #[test]
    #[should_panic(expected = "inside the slot")]
    fn refuses_a_range_that_reaches_into_the_next_slot() {
        let pool = BufferPool::new().unwrap();
        let slot = pool.take_receive().unwrap();
        let _ = slot.bytes(SLOT_BYTES - 1..SLOT_BYTES + 1);
    }

    #[test]
    fn counts_and_reuses_slots() {
        let pool = BufferPool::new().unwrap();
        let held: Vec<Slot> = std::iter::from_fn(|| pool.take_receive()).collect();
        assert_eq!(held.len(), usize::from(BUFFERS_MAX));
        assert_eq!((pool.free_buffers(), pool.leased_buffers()), (0, usize::from(BUFFERS_MAX)));
        assert!(pool.submit().is_none());
        drop(held);
        assert_eq!(pool.leased_buffers(), 0);
        let (id, room) = pool.submit().unwrap();
        assert_eq!(pool.free_buffers(), usize::from(BUFFERS_MAX));
        // SAFETY: the slot is submitted, so this test is the kernel and alone may write the room.
        unsafe { room.write(b'x') };
        let lease = pool.complete(id);
        assert_eq!(lease.bytes(HEADROOM_BYTES..HEADROOM_BYTES + 1), b"x");
    }

    #[test]
    fn outlives_its_handle() {
        let pool = BufferPool::new().unwrap();
        let mut slot = pool.take_scratch().unwrap();
        drop(pool);
        slot.unique_bytes_mut(0..1).unwrap()[0] = b'y';
        assert_eq!(slot.bytes(0..1), b"y");
    }
}
