//! What one socket has yet to send, in order.
//!
//! Chunks stay in the queue until the kernel has taken their bytes, so a send in flight always
//! points into chunks that are held here.

#![forbid(unsafe_code)]

use super::Chunk;
use std::collections::VecDeque;

/// The usual message is one chunk, so the first one lies here and an idle socket keeps no memory
/// for more.
#[derive(Debug, Default)]
pub(super) struct SendQueue {
    front: Option<Chunk>,
    /// Empty when there is no front.
    rest: VecDeque<Chunk>,
    bytes: usize,
}

impl SendQueue {
    pub(super) fn push(&mut self, chunk: Chunk) {
        if !chunk.is_empty() {
            self.bytes += chunk.len();
            match self.front {
                None => self.front = Some(chunk),
                Some(_) => self.rest.push_back(chunk),
            }
        }
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The only chunk, if it is the only one.
    pub(super) fn only(&self) -> Option<&Chunk> {
        self.front.as_ref().filter(|_| self.rest.is_empty())
    }

    /// The first `count` chunks, or as many as there are.
    pub(super) fn first(&self, count: usize) -> impl Iterator<Item = &Chunk> {
        self.front.iter().chain(&self.rest).take(count)
    }

    /// Copies to the heap what lies in receive buffers. Only while no send of this queue is with
    /// the kernel.
    pub(super) fn copy_out(&mut self) {
        for chunk in self.front.iter_mut().chain(&mut self.rest) {
            *chunk = std::mem::replace(chunk, Chunk::from_static(b"")).into_heap();
        }
    }

    /// Forgets the first `count` bytes: the kernel has them.
    ///
    /// # Panics
    /// When there are fewer, which would be bytes sent that nobody queued.
    pub(super) fn consume(&mut self, count: usize) {
        self.bytes = self.bytes.checked_sub(count).expect("the kernel takes what was queued");
        let mut left = count;
        while left > 0 {
            let Some(front) = &mut self.front else { break };
            if front.len() > left {
                front.advance(left);
                break;
            }
            left -= front.len();
            self.front = self.rest.pop_front();
        }
        if self.bytes == 0 {
            self.rest = VecDeque::new();
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consumes_at_each_offset() {
        for count in 0..=9 {
            let mut queue = SendQueue::default();
            for part in ["abc", "", "d", "efghi"] {
                queue.push(Chunk::from_static(part.as_bytes()));
            }
            queue.consume(count);
            let rest: Vec<u8> = queue.first(9).flat_map(|chunk| chunk.to_vec()).collect();
            assert_eq!(rest, &b"abcdefghi"[count..], "{count}");
            assert_eq!((queue.bytes(), queue.is_empty()), (9 - count, count == 9), "{count}");
        }
    }

    #[test]
    #[should_panic(expected = "what was queued")]
    fn refuses_to_consume_more_than_is_queued() {
        let mut queue = SendQueue::default();
        queue.push(Chunk::from_static(b"abc"));
        queue.consume(4);
    }
}
