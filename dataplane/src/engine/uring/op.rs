//! Submission entries, one function per operation the engine uses.
//!
//! Building one touches nothing; the promise to keep what it points to is made where it is pushed.

#![forbid(unsafe_code)]

use super::{buffers::GROUP, gather::Gather};
use crate::engine::token::{Kind, Token};
use io_uring::{
    opcode,
    squeue::{Entry, Flags},
    types::{CancelBuilder, Fd},
};
use socket2::SockAddr;
use std::os::fd::{AsFd, AsRawFd};

/// Completes for each connection until it fails or is cancelled.
pub(super) fn accept(listener: impl AsFd, token: Token) -> Entry {
    opcode::AcceptMulti::new(fd(listener)).flags(libc::SOCK_CLOEXEC).build().user_data(token.pack())
}

pub(super) fn connect(socket: impl AsFd, address: &SockAddr, token: Token) -> Entry {
    opcode::Connect::new(fd(socket), address.as_ptr().cast(), address.len())
        .build()
        .user_data(token.pack())
}

/// Completes for each piece, in a buffer of the group's ring, until FIN, failure, an empty ring or
/// a cancel.
pub(super) fn receive(socket: impl AsFd, token: Token) -> Entry {
    opcode::RecvMulti::new(fd(socket), GROUP).build().user_data(token.pack())
}

/// How a send behaves when the socket has no room for all of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum SendMode {
    /// Runs inside the enter that submits it. Completes only when it took less than everything:
    /// WAITALL makes a short send a failure to the kernel, DONTWAIT has it reported instead of
    /// waited out, and a failure is reported although CQE_SKIP_SUCCESS was asked for. So once the
    /// completions after that enter are read, a send without one has left whole.
    Inline,
    /// Completes when some has left, however long that takes. Without WAITALL: progress shows, and
    /// the kernel, which moves a send to a thread of its own after 128 attempts (APOLL_MAX_RETRY,
    /// Linux 6.18), begins to count anew.
    Waiting,
}

pub(super) fn send(socket: impl AsFd, bytes: &[u8], mode: SendMode, token: Token) -> Entry {
    let count = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let entry = opcode::Send::new(fd(socket), bytes.as_ptr(), count).flags(mode.flags()).build();
    mode.apply(entry).user_data(token.pack())
}

pub(super) fn send_gathered(
    socket: impl AsFd,
    gather: &Gather,
    mode: SendMode,
    token: Token,
) -> Entry {
    let flags = mode.flags().cast_unsigned();
    let entry = opcode::SendMsg::new(fd(socket), gather.header()).flags(flags).build();
    mode.apply(entry).user_data(token.pack())
}

impl SendMode {
    const fn flags(self) -> i32 {
        match self {
            Self::Inline => libc::MSG_NOSIGNAL | libc::MSG_WAITALL | libc::MSG_DONTWAIT,
            Self::Waiting => libc::MSG_NOSIGNAL,
        }
    }

    fn apply(self, entry: Entry) -> Entry {
        match self {
            Self::Inline => entry.flags(Flags::SKIP_SUCCESS),
            Self::Waiting => entry,
        }
    }
}

/// Completes each time the descriptor becomes readable.
pub(super) fn watch(descriptor: impl AsFd, token: Token) -> Entry {
    let readable = u32::from(libc::POLLIN.cast_unsigned());
    opcode::PollAdd::new(fd(descriptor), readable).multi(true).build().user_data(token.pack())
}

/// Ends the operation with this token. That it is over already is no news, and its own completion
/// says how it went.
pub(super) fn cancel(target: Token) -> Entry {
    opcode::AsyncCancel::new(target.pack())
        .build()
        .flags(Flags::SKIP_SUCCESS)
        .user_data(CANCEL.pack())
}

/// Ends everything.
pub(super) fn cancel_all() -> Entry {
    opcode::AsyncCancel2::new(CancelBuilder::any())
        .build()
        .flags(Flags::SKIP_SUCCESS)
        .user_data(CANCEL.pack())
}

fn fd(descriptor: impl AsFd) -> Fd {
    Fd(descriptor.as_fd().as_raw_fd())
}

const CANCEL: Token = Token { kind: Kind::Cancel, index: 0, generation: 0 };
