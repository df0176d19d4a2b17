//! One socket of the io_uring backend: which of its operations the kernel has, and what it wants
//! next.
//!
//! ```text
//! receive:  Off ──start──► Armed ──stop──► Stopping ──last completion──► Off
//!            ▲              │ │ ▲             │  ▲
//!            │     ENOBUFS  │ │ └─ buffers ─┐ │start/stop
//!            └──stop── Starved┘             │ ▼  │
//!                           └───────────────┘ Restarting ──last completion──► Armed
//!           any ──FIN, error, close──► Ended
//!
//! sending:  Idle ──offer──► Inline ──took all──► Idle
//!                             └──took less──► Waiting ──completion──► Idle
//! ```
//!
//! `operations` counts what the kernel still has; only at zero may descriptor, queue and address
//! go.

#![forbid(unsafe_code)]

use super::gather::Gather;
use crate::engine::{credit::Credit, queue::SendQueue};
use socket2::SockAddr;
use std::os::fd::OwnedFd;

pub(super) struct Socket {
    pub(super) fd: OwnedFd,
    pub(super) stage: Stage,
    /// Where it connects to, while it does.
    pub(super) address: Option<Box<SockAddr>>,
    pub(super) receive: Receive,
    /// Told of what is received, if it comes past TCP.
    pub(super) credit: Option<Box<Credit>>,
    pub(super) sending: Sending,
    /// Bytes of the send that the kernel has.
    pub(super) offered: usize,
    /// The slices of that send, if they are several.
    pub(super) gather: Option<Box<Gather>>,
    pub(super) queue: SendQueue,
    /// Operations without their last completion.
    pub(super) operations: u32,
    /// Stands in the engine's `dirty`.
    pub(super) dirty: bool,
    pub(super) relaxed: bool,
    pub(super) shutdown_wanted: bool,
    pub(super) send_failed: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stage {
    Connecting,
    Open,
    /// Closed by its owner; lives until `operations` is zero.
    Closing,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Receive {
    Off,
    /// Wanted as soon as the socket is connected.
    Deferred,
    Armed,
    /// Wanted, but no buffer was free.
    Starved,
    /// Cancelled, the last completion is to come.
    Stopping,
    /// As `Stopping`, but wanted again since.
    Restarting,
    /// FIN or an error came, or the owner closed.
    Ended,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Sending {
    Idle,
    /// Submitted so that it ends within the enter.
    Inline,
    /// Submitted so that it completes when all has left.
    Waiting,
}

impl Socket {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            stage: Stage::Open,
            address: None,
            receive: Receive::Off,
            credit: None,
            sending: Sending::Idle,
            offered: 0,
            gather: None,
            queue: SendQueue::default(),
            operations: 0,
            dirty: false,
            relaxed: false,
            shutdown_wanted: false,
            send_failed: false,
        }
    }

    /// Nothing is ever sent or received again.
    pub(super) fn fail(&mut self) {
        self.receive = Receive::Ended;
        self.fail_sending();
    }

    pub(super) fn fail_sending(&mut self) {
        debug_assert_eq!(self.sending, Sending::Idle, "the kernel reads from the queue");
        self.send_failed = true;
        self.shutdown_wanted = false;
        self.queue.clear();
    }

    pub(super) fn is_done(&self) -> bool {
        self.stage == Stage::Closing && self.operations == 0
    }
}

/// An idle connection costs this and its descriptor; ten thousand of them are held.
const _: () = assert!(size_of::<Socket>() <= 176);
