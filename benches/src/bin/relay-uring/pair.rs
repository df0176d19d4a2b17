//! A client connection, its upstream connection, and the bytes on their way from one to the other.

use crate::buffers::{Buffers, Slice};
use socket2::Socket;
use std::{collections::VecDeque, mem, ptr};

/// Slices gathered into one send: 1 MiB, more than a socket takes at once.
pub(crate) const GATHER_SLICES: usize = 64;

pub(crate) struct Pair {
    pub(crate) ends: [End; 2],
    /// Operations whose last completion is still to come; the pair lives until there are none.
    pub(crate) outstanding: u32,
    /// An end failed; both are shut down and nothing more is sent.
    pub(crate) broken: bool,
}

/// A socket, and what waits to be sent to it.
pub(crate) struct End {
    pub(crate) socket: Socket,
    pub(crate) queue: VecDeque<Slice>,
    pub(crate) sending: Sending,
    pub(crate) read_closed: bool,
    pub(crate) write_closed: bool,
    pub(crate) gather: Box<Gather>,
}

/// The kernel reads these until the send's completion, so they stay where they are.
pub(crate) struct Gather {
    slices: [libc::iovec; GATHER_SLICES],
    message: libc::msghdr,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Sending {
    Idle,
    /// Executed while it is submitted. No completion means that all `bytes` were taken.
    Inline {
        bytes: usize,
    },
    /// The socket was full: the kernel waits for room, and a completion comes.
    Waiting,
}

impl Pair {
    pub(crate) fn new(client: Socket, upstream: Socket) -> Self {
        Self { ends: [End::new(client), End::new(upstream)], outstanding: 0, broken: false }
    }

    pub(crate) fn is_finished(&self) -> bool {
        let closed = self.ends.iter().all(|end| end.write_closed);
        let sending = self.ends.iter().any(|end| end.sending != Sending::Idle);
        (self.broken || closed) && !sending && self.outstanding == 0
    }
}

impl End {
    fn new(socket: Socket) -> Self {
        Self {
            socket,
            queue: VecDeque::with_capacity(8),
            sending: Sending::Idle,
            read_closed: false,
            write_closed: false,
            gather: Box::new(Gather::new()),
        }
    }

    /// Takes what was sent off the queue, and returns emptied buffers.
    pub(crate) fn on_sent(&mut self, mut bytes: usize, buffers: &mut Buffers) {
        while let Some(slice) = self.queue.front_mut() {
            let len = slice.len as usize;
            if bytes < len {
                // `bytes` is below a u32 here.
                let bytes = u32::try_from(bytes).unwrap_or(slice.len);
                slice.start += bytes;
                slice.len -= bytes;
                return;
            }
            bytes -= len;
            buffers.give_back(slice.buffer);
            self.queue.pop_front();
            if bytes == 0 {
                return;
            }
        }
    }
}

impl Gather {
    fn new() -> Self {
        let nothing = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        // SAFETY: msghdr is a C struct of integers and pointers; all zeros is its empty value.
        let message = unsafe { mem::zeroed() };
        Self { slices: [nothing; GATHER_SLICES], message }
    }

    /// The message of up to [`GATHER_SLICES`] of `queue`, and its bytes.
    pub(crate) fn fill(
        &mut self,
        queue: &VecDeque<Slice>,
        buffers: &Buffers,
    ) -> (*const libc::msghdr, usize) {
        let mut bytes = 0;
        let mut count = 0;
        for (to, slice) in self.slices.iter_mut().zip(queue) {
            let (base, len) = (buffers.address(*slice), slice.len as usize);
            *to = libc::iovec { iov_base: base.cast_mut().cast(), iov_len: len };
            bytes += len;
            count += 1;
        }
        self.message.msg_iov = self.slices.as_mut_ptr();
        self.message.msg_iovlen = count;
        (&raw const self.message, bytes)
    }
}
