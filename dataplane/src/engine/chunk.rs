//! A chunk: a range of bytes that something received or wrote, passed on without copying.
//!
//! Several chunks may share one buffer; who holds the only one may write, also in front of its
//! start, which is how a forwarded head grows where it lies. Dropping the last chunk gives the slot
//! back to the pool.

use super::pool::{BufferPool, SLOT_BYTES, Slot};
use crate::limits::HEADROOM_BYTES;
use std::{
    fmt, io, mem,
    ops::{Deref, Range},
    rc::Rc,
};

/// Bytes `start..end` of a buffer. Cloning shares the buffer.
#[derive(Clone)]
pub struct Chunk {
    buffer: Buffer,
    start: usize,
    end: usize,
}

impl Chunk {
    #[inline]
    pub const fn from_static(bytes: &'static [u8]) -> Self {
        Self { buffer: Buffer::Static(bytes), start: 0, end: bytes.len() }
    }

    /// `bytes[start..]`, with `bytes[..start]` as room in front.
    ///
    /// # Panics
    /// When `start` lies behind the end.
    pub fn from_vec(bytes: Vec<u8>, start: usize) -> Self {
        let end = bytes.len();
        assert!(start <= end, "a chunk starts inside its buffer");
        Self { buffer: Buffer::Heap(Rc::new(bytes)), start, end }
    }

    /// The first `count` received bytes of a slot.
    pub(super) fn received(slot: Slot, count: usize) -> Self {
        Self {
            buffer: Buffer::Slot(slot),
            start: HEADROOM_BYTES,
            end: SLOT_BYTES.min(HEADROOM_BYTES + count),
        }
    }

    /// Takes the first `count` bytes off, as a chunk of their own that shares the buffer with what
    /// is left, if anything is.
    ///
    /// # Panics
    /// When there are fewer.
    #[inline]
    pub fn split_to(&mut self, count: usize) -> Self {
        if count == self.len() {
            // The usual: all of it, and nothing is left to share the buffer.
            return mem::replace(self, Self::from_static(b""));
        }
        let mut front = self.clone();
        self.advance(count);
        front.end = self.start;
        front
    }

    /// Drops the first `count` bytes.
    ///
    /// # Panics
    /// When there are fewer.
    #[inline]
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.len(), "a chunk has the bytes that are taken from it");
        self.start += count;
    }

    /// Drops all but the first `count` bytes; no effect when there are no more.
    pub fn truncate(&mut self, count: usize) {
        self.end = self.end.min(self.start.saturating_add(count));
    }

    #[inline]
    pub const fn len(&self) -> usize {
        self.end - self.start
    }

    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// It keeps a slot of the pool from being used otherwise.
    #[inline]
    pub fn holds_slot(&self) -> bool {
        matches!(self.buffer, Buffer::Slot(_))
    }

    /// The same bytes without a slot: copied, if they lie in one.
    pub fn into_heap(self) -> Self {
        if self.holds_slot() { Self::from_vec(self.to_vec(), 0) } else { self }
    }

    /// Index of the first byte within the whole buffer: so many bytes lie in front.
    #[inline]
    pub const fn start(&self) -> usize {
        self.start
    }

    /// Moves the first byte, also to the left, over what [`Self::unique_mut`] wrote in front.
    ///
    /// # Panics
    /// When `start` lies behind the end.
    #[inline]
    pub fn set_start(&mut self, start: usize) {
        assert!(start <= self.end, "a chunk starts inside its buffer");
        self.start = start;
    }

    /// The whole buffer from index 0 to this chunk's end, when this is its only chunk. `None` for
    /// static bytes.
    #[inline]
    pub fn unique_mut(&mut self) -> Option<&mut [u8]> {
        match &mut self.buffer {
            Buffer::Heap(bytes) => Rc::get_mut(bytes)?.get_mut(..self.end),
            Buffer::Slot(slot) => slot.unique_bytes_mut(0..self.end),
            Buffer::Static(_) => None,
        }
    }
}

impl Deref for Chunk {
    type Target = [u8];

    #[inline(always)]
    fn deref(&self) -> &[u8] {
        self.buffer.bytes(self.start..self.end)
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk({} bytes at {}: {:?}", self.len(), self.start, Excerpt(self))
    }
}

#[derive(Clone)]
enum Buffer {
    Heap(Rc<Vec<u8>>),
    Slot(Slot),
    Static(&'static [u8]),
}

impl Buffer {
    /// Small enough to be a part of whoever looks at a chunk, which happens twenty times a call.
    #[inline(always)]
    fn bytes(&self, range: Range<usize>) -> &[u8] {
        match self {
            Self::Slot(slot) => slot.bytes(range),
            Self::Heap(_) | Self::Static(_) => self.bytes_elsewhere(range),
        }
    }

    #[inline(never)]
    fn bytes_elsewhere(&self, range: Range<usize>) -> &[u8] {
        match self {
            Self::Heap(bytes) => &bytes[range],
            Self::Slot(slot) => slot.bytes(range),
            Self::Static(bytes) => &bytes[range],
        }
    }
}

/// The first bytes, readable, for logs and failed tests.
struct Excerpt<'a>(&'a [u8]);

impl fmt::Debug for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.0.len().min(EXCERPT_BYTES);
        let more = if shown < self.0.len() { "…" } else { "" };
        write!(f, "\"{}\"{more})", self.0[..shown].escape_ascii())
    }
}

/// Writes a head or an answer into a scratch slot; what does not fit there, or finds none free,
/// goes to the heap.
pub struct ChunkWriter {
    target: Target,
    /// Index behind the last byte, headroom included.
    end: usize,
}

enum Target {
    Heap(Vec<u8>),
    Slot(Slot),
}

impl BufferPool {
    pub fn writer(&self) -> ChunkWriter {
        let target = match self.take_scratch() {
            Some(slot) => Target::Slot(slot),
            None => Target::Heap(vec![0; HEADROOM_BYTES]),
        };
        ChunkWriter { target, end: HEADROOM_BYTES }
    }
}

#[cfg(test)]
impl BufferPool {
    /// What a receive of `bytes` leaves in a receive slot, for an engine that is made of memory.
    /// `None`: no slot is free.
    ///
    /// # Panics
    /// When they are more than one receive brings.
    pub(crate) fn receive_copy(&self, bytes: &[u8]) -> Option<Chunk> {
        let mut slot = self.take_receive()?;
        slot.unique_bytes_mut(HEADROOM_BYTES..HEADROOM_BYTES + bytes.len())
            .expect("a slot that was just taken has one share")
            .copy_from_slice(bytes);
        Some(Chunk::received(slot, bytes.len()))
    }
}

impl ChunkWriter {
    pub fn put(&mut self, bytes: &[u8]) {
        let end = self.end + bytes.len();
        if end > SLOT_BYTES {
            self.move_to_heap(end);
        }
        match &mut self.target {
            Target::Heap(buffer) => buffer.extend_from_slice(bytes),
            Target::Slot(slot) => slot
                .unique_bytes_mut(self.end..end)
                .expect("the writer holds the only share of its slot")
                .copy_from_slice(bytes),
        }
        self.end = end;
    }

    pub const fn len(&self) -> usize {
        self.end - HEADROOM_BYTES
    }

    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What was written, with [`HEADROOM_BYTES`] in front.
    pub fn finish(self) -> Chunk {
        let buffer = match self.target {
            Target::Heap(bytes) => Buffer::Heap(Rc::new(bytes)),
            Target::Slot(slot) => Buffer::Slot(slot),
        };
        Chunk { buffer, start: HEADROOM_BYTES, end: self.end }
    }

    fn move_to_heap(&mut self, bytes_wanted: usize) {
        if let Target::Slot(slot) = &self.target {
            let mut buffer = Vec::with_capacity(bytes_wanted.max(2 * SLOT_BYTES));
            buffer.extend_from_slice(slot.bytes(0..self.end));
            self.target = Target::Heap(buffer);
        }
    }
}

impl io::Write for ChunkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.put(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How much of a chunk its `Debug` shows.
const EXCERPT_BYTES: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{BUFFER_BYTES, SCRATCH_BUFFERS};
    use std::io::Write as _;

    /// The same content in each kind of buffer, with `HEADROOM_BYTES` in front where the kind has
    /// room.
    fn all_kinds(pool: &BufferPool, content: &'static [u8]) -> [(&'static str, Chunk); 3] {
        let mut writer = pool.writer();
        writer.put(content);
        let mut vec = vec![b'-'; HEADROOM_BYTES];
        vec.extend_from_slice(content);
        [
            ("slot", writer.finish()),
            ("heap", Chunk::from_vec(vec, HEADROOM_BYTES)),
            ("static", Chunk::from_static(content)),
        ]
    }

    #[test]
    fn splits_at_each_offset() {
        let pool = BufferPool::new().unwrap();
        for (kind, whole) in all_kinds(&pool, b"hello") {
            for at in 0..=5 {
                let mut back = whole.clone();
                let front = back.split_to(at);
                assert_eq!((&*front, &*back), (&b"hello"[..at], &b"hello"[at..]), "{kind} {at}");
                let has_rest = at < whole.len();
                assert!(!has_rest || back.start() == whole.start() + at, "{kind} {at}");
                // Nothing is left that would keep the whole from being written.
                let mut alone = Chunk::from_vec(whole.to_vec(), 0);
                let mut front = alone.split_to(at);
                assert_eq!(front.unique_mut().is_some(), !has_rest, "{kind} {at}");
            }
        }
    }

    #[test]
    fn grows_to_the_left_when_alone() {
        let pool = BufferPool::new().unwrap();
        for (kind, mut chunk) in all_kinds(&pool, b"tail") {
            if kind == "static" {
                assert!(chunk.unique_mut().is_none(), "{kind}");
                continue;
            }
            let shared = chunk.clone();
            assert!(chunk.unique_mut().is_none(), "{kind}: shared");
            drop(shared);
            let start = chunk.start() - 5;
            let whole = chunk.unique_mut().unwrap();
            assert_eq!(whole.len(), HEADROOM_BYTES + 4, "{kind}");
            whole[start..start + 5].copy_from_slice(b"head ");
            chunk.set_start(start);
            assert_eq!(&*chunk, b"head tail", "{kind}");
            chunk.truncate(100);
            chunk.truncate(4);
            assert_eq!(&*chunk, b"head", "{kind}");
        }
    }

    #[test]
    fn refuses_to_leave_its_buffer() {
        let chunk = Chunk::from_static(b"abc");
        for (case, misuse) in [
            ("split", (|chunk: &mut Chunk| drop(chunk.split_to(4))) as fn(&mut Chunk)),
            ("advance", |chunk| chunk.advance(4)),
            ("start", |chunk| chunk.set_start(4)),
        ] {
            let mut chunk = chunk.clone();
            let outcome =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| misuse(&mut chunk)));
            assert!(outcome.is_err(), "{case}");
        }
    }

    #[test]
    fn gives_the_slot_back_with_the_last_chunk() {
        let pool = BufferPool::new().unwrap();
        let mut back = Chunk::received(pool.take_receive().unwrap(), 10);
        let front = back.split_to(4);
        assert_eq!(pool.leased_buffers(), 1);
        drop(back);
        assert_eq!(pool.leased_buffers(), 1);
        drop(front);
        assert_eq!(pool.leased_buffers(), 0);
    }

    #[test]
    fn writer_moves_to_the_heap_past_the_slot() {
        let pool = BufferPool::new().unwrap();
        for (case, pieces, slots) in [
            ("empty", vec![], 1),
            ("full slot", vec![BUFFER_BYTES], 1),
            ("one over", vec![BUFFER_BYTES, 1], 0),
            ("one huge piece", vec![3 * BUFFER_BYTES], 0),
            ("far over", vec![BUFFER_BYTES; 5], 0),
        ] {
            let mut writer = pool.writer();
            let mut want = Vec::new();
            for (piece, index) in pieces.iter().zip(b'a'..) {
                writer.write_all(&vec![index; *piece]).unwrap();
                want.extend(vec![index; *piece]);
            }
            assert_eq!(writer.len(), want.len(), "{case}");
            let chunk = writer.finish();
            assert_eq!(pool.leased_buffers(), slots, "{case}");
            assert_eq!((&*chunk, chunk.start()), (&want[..], HEADROOM_BYTES), "{case}");
        }
        assert_eq!(pool.leased_buffers(), 0);
    }

    #[test]
    fn writer_takes_the_heap_when_no_scratch_is_free() {
        let pool = BufferPool::new().unwrap();
        let held: Vec<_> = (0..SCRATCH_BUFFERS).map(|_| pool.writer()).collect();
        let mut writer = pool.writer();
        writer.put(b"answer");
        let mut chunk = writer.finish();
        assert_eq!(pool.leased_buffers(), held.len());
        assert_eq!(&*chunk, b"answer");
        assert!(chunk.unique_mut().is_some());
    }
}
