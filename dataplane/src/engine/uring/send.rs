//! Sending: one operation a socket at a time, with all that is queued.
//!
//! Tried inline first, which costs no completion; what does not fit waits inside the kernel. The
//! queue keeps the chunks until `end_send`, which is where the kernel has let go of them.

use super::{
    Completion, UringEngine, failure,
    gather::Gather,
    op::{self, SendMode},
    socket::{Sending, Stage},
    socket_token, token_key,
};
use crate::{
    engine::{
        Event, Operation, SocketKey,
        socket::shutdown_write,
        token::{Kind, Token},
    },
    limits::{GATHER_SLICES, GATHERS_KEPT, SEND_BYTES_MAX},
};
use rustix::io::Errno;
use std::mem;

impl UringEngine {
    /// Offers what is queued to the kernel; true when its outcome should end the wait.
    pub(super) fn flush_dirty(&mut self) -> bool {
        let mut urgent = false;
        let mut dirty = mem::take(&mut self.dirty);
        for index in dirty.drain(..) {
            let Some((generation, socket)) = self.sockets.at_mut(index) else { continue };
            socket.dirty = false;
            if socket.stage == Stage::Open && socket.sending == Sending::Idle {
                urgent |= self.offer(SocketKey { index, generation }, SendMode::Inline);
            }
        }
        debug_assert!(self.dirty.is_empty(), "an offer leaves nothing to offer");
        self.dirty = dirty;
        urgent
    }

    /// Submits the front of the queue as one send, or what comes after the last one: the FIN.
    pub(super) fn offer(&mut self, key: SocketKey, mode: SendMode) -> bool {
        let Some(socket) = self.sockets.find_mut(key.index, key.generation) else { return false };
        debug_assert_eq!(socket.sending, Sending::Idle, "one send at a time keeps bytes in order");
        if socket.queue.is_empty() {
            if mem::take(&mut socket.shutdown_wanted) {
                shutdown_write(&socket.fd);
            }
            return false;
        }
        let token = socket_token(Kind::Send, key);
        let (count, bytes) = measure(socket.queue.first(GATHER_SLICES).map(|chunk| chunk.len()));
        let entry = if count == 1 {
            let front = socket.queue.first(1).next().map_or(&[][..], |chunk| chunk);
            op::send(&socket.fd, &front[..bytes], mode, token)
        } else {
            let mut gather = self.gathers.pop().unwrap_or_else(Gather::new);
            gather.fill(socket.queue.first(count));
            let entry = op::send_gathered(&socket.fd, &gather, mode, token);
            socket.gather = Some(gather);
            entry
        };
        socket.offered = bytes;
        socket.operations += 1;
        self.operations += 1;
        socket.sending = match mode {
            SendMode::Inline => Sending::Inline,
            SendMode::Waiting => Sending::Waiting,
        };
        let whole = bytes == socket.queue.bytes();
        let urgent =
            mode == SendMode::Inline && !(socket.relaxed && whole && !socket.shutdown_wanted);
        if mode == SendMode::Inline {
            self.inline.push(key);
        }
        // SAFETY: the chunks stay in the queue, and the vector in `gather`, until `on_send` sees
        // the completion or `settle_inline` its absence; both are the only ones to take from them,
        // and `operations` keeps the socket.
        unsafe { self.ring.push(entry) };
        urgent
    }

    /// A send completed: a waiting one, or an inline one that did not take all.
    pub(super) fn on_send(&mut self, token: Token, completion: Completion) {
        let key = token_key(token);
        let Some(sending) = self.end_send(key) else { return };
        let Some(socket) = self.owned_mut(key) else { return self.finish_closing(key) };
        let offered = socket.offered;
        match completion.outcome() {
            Ok(count) if count > 0 => {
                self.on_sent(key, count);
                if count < offered {
                    self.wait_for_room(key);
                }
            }
            // What the socket has no room for waits inside the kernel from now on. A waiting send
            // does not say AGAIN.
            Ok(_) | Err(Errno::INTR) => {
                self.wait_for_room(key);
            }
            Err(Errno::AGAIN) if sending == Sending::Inline => {
                self.wait_for_room(key);
            }
            Err(error) => {
                socket.fail_sending();
                self.ready.push_back(failure(key, Operation::Send, error));
            }
        }
    }

    /// What the socket does not take now waits inside the kernel, and must not hold receive buffers
    /// while these are scarce.
    fn wait_for_room(&mut self, key: SocketKey) {
        if self.buffers.are_scarce()
            && let Some(socket) = self.owned_mut(key)
        {
            socket.queue.copy_out();
        }
        self.offer(key, SendMode::Waiting);
    }

    /// All inline sends of which no completion told otherwise have left whole.
    pub(super) fn settle_inline(&mut self) {
        let mut inline = mem::take(&mut self.inline);
        for key in inline.drain(..) {
            let Some(socket) = self.sockets.find_mut(key.index, key.generation) else { continue };
            if socket.sending != Sending::Inline {
                continue;
            }
            let offered = socket.offered;
            self.end_send(key);
            if self.owned_mut(key).is_some() {
                self.on_sent(key, offered);
            } else {
                self.finish_closing(key);
            }
        }
        self.inline = inline;
    }

    /// The kernel has let go of the send's memory; returns how it was submitted.
    pub(super) fn end_send(&mut self, key: SocketKey) -> Option<Sending> {
        let socket = self.sockets.find_mut(key.index, key.generation)?;
        if let Some(gather) = socket.gather.take()
            && self.gathers.len() < GATHERS_KEPT
        {
            self.gathers.push(gather);
        }
        socket.operations -= 1;
        self.operations -= 1;
        Some(mem::replace(&mut socket.sending, Sending::Idle))
    }

    pub(super) fn on_sent(&mut self, key: SocketKey, count: usize) {
        let Some(socket) = self.owned_mut(key) else { return };
        socket.queue.consume(count);
        if !socket.queue.is_empty() || socket.shutdown_wanted {
            self.mark_dirty(key);
        }
        self.ready.push_back(Event::Sent { socket: key, bytes: count });
    }
}

/// How many chunks one send takes, and how many bytes of them.
fn measure(lens: impl Iterator<Item = usize>) -> (usize, usize) {
    let mut total = (0, 0);
    for len in lens {
        if total.0 > 0 && total.1 + len > SEND_BYTES_MAX {
            break;
        }
        total = (total.0 + 1, total.1 + len.min(SEND_BYTES_MAX));
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_what_one_send_takes() {
        for (case, lens, want) in [
            ("one", &[5][..], (1, 5)),
            ("some", &[5, 6, 7], (3, 18)),
            ("one too long", &[SEND_BYTES_MAX + 9, 1], (1, SEND_BYTES_MAX)),
            ("too long together", &[5, SEND_BYTES_MAX], (1, 5)),
            ("just", &[SEND_BYTES_MAX - 5, 5, 1], (2, SEND_BYTES_MAX)),
        ] {
            assert_eq!(measure(lens.iter().copied()), want, "{case}");
        }
    }
}
