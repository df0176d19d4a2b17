//! How the worker asks the kernel for things, and who owns a buffer meanwhile.
//!
//! Two backends, io_uring and epoll, behind one trait; the state machines above cannot tell them
//! apart, and the same tests run on both.
//!
//! # Who may touch a buffer
//!
//! A buffer is in one of four states, and exactly one party may touch its bytes in each:
//!
//! ```text
//!            publish                receive completes              last Chunk dropped
//!   Free ───────────────► Submitted ─────────────────► Leased ─────────────────────────► Free
//!    ▲                    (kernel)                    (Chunks)
//!    │                                                   │ send
//!    │                                                   ▼
//!    └──────────────── last completion ◄──────────── Submitted (kernel reads; Chunks read, none writes)
//! ```
//!
//! * **Free**: nobody. The pool may publish it to the kernel or lend it as scratch.
//! * **Submitted for receiving**: the kernel writes. No [`Chunk`] of it exists.
//! * **Leased**: the [`Chunk`]s of it read. A chunk that is the only one may write, in front of its
//!   start too.
//! * **Submitted for sending**: the engine holds a chunk until the kernel's last completion for
//!   that send, so the buffer is shared and nobody can get at it to write.
//!
//! # Who owns a socket
//!
//! The engine owns each descriptor from [`Engine::adopt`] or [`Engine::connect`] on.
//! [`Engine::close`] is the owner's last word: no event of that key comes after it. The descriptor
//! itself and the buffers of its operations live on inside the engine until the kernel's last
//! completion (a cancelled operation included), so no completion can ever find another socket
//! behind its number. Keys carry a generation for the same reason.

mod caller;
mod choose;
mod chunk;
mod credentials;
mod credit;
mod epoll;
pub mod heap;
mod pool;
mod queue;
mod slab;
mod socket;
#[cfg(test)]
mod tests;
mod token;
mod uring;
mod waker;

pub(crate) use caller::{Target, caller, target};
pub use choose::{Choice, Selected, Unusable, epoll, probe, uring};
pub use chunk::{Chunk, ChunkWriter};
pub(crate) use credentials::peer_user;
pub use credit::Credits;
pub use epoll::EpollEngine;
pub use pool::BufferPool;
pub use uring::UringEngine;
pub use waker::Waker;

use rustix::io::Errno;
use snapshot::Address;
use std::{os::fd::OwnedFd, sync::Arc, time::Duration};

/// A socket in the engine's care.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct SocketKey {
    pub index: u32,
    /// Distinguishes sockets that had the same index one after the other.
    pub generation: u32,
}

/// A listening socket in the engine's care.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct ListenerKey {
    pub index: u32,
    pub generation: u32,
}

/// What an engine does, one implementation per way of asking the kernel.
///
/// Calls only note what is wanted; all of it happens in [`Engine::turn`], which is the only place
/// that may enter the kernel to wait. No call blocks.
pub trait Engine {
    fn backend(&self) -> Backend;

    /// Sockets from now on whose bytes come past TCP tell there what was read. An engine that does
    /// not leaves their peers to TCP after a window.
    fn accelerate(&mut self, _credits: Arc<Credits>) {}

    /// A handle to the buffers of this engine; cheap to clone, never sent to another thread.
    fn buffers(&self) -> &BufferPool;

    /// Wakes this engine's `turn` from any thread.
    fn waker(&self) -> Waker;

    /// Takes a listening socket and starts to accept from it.
    fn listen(&mut self, listener: OwnedFd) -> ListenerKey;

    /// Accepts again, after [`Event::AcceptFailed`].
    fn accept_resume(&mut self, listener: ListenerKey);

    /// Stops accepting. What has connected by the time the kernel is done still comes as
    /// [`Event::Accepted`]; then our descriptor is closed and [`Event::Unlistened`] is the last of
    /// this listener.
    fn unlisten(&mut self, listener: ListenerKey);

    /// Takes a connected stream socket. It is not read until [`Engine::receive_start`].
    fn adopt(&mut self, socket: OwnedFd) -> SocketKey;

    /// Starts to connect; [`Event::Connected`] or [`Event::Failed`] follows. TCP sockets get
    /// TCP_NODELAY.
    ///
    /// # Errors
    /// When no socket can be made (descriptors or memory are short).
    fn connect(&mut self, address: &Address) -> Result<SocketKey, Errno>;

    /// Receives until told otherwise: each piece comes as [`Event::Received`]. No effect when
    /// already receiving or after [`Event::ReceiveClosed`].
    fn receive_start(&mut self, socket: SocketKey);

    /// Stops receiving, so that the peer's window fills. Some [`Event::Received`] may still follow:
    /// the kernel may have completed them already.
    fn receive_stop(&mut self, socket: SocketKey);

    /// Appends to the socket's queue; all that waits leaves in one gathered send. An empty chunk is
    /// ignored. [`Event::Sent`] tells of progress. No effect after the socket failed.
    fn send(&mut self, socket: SocketKey, chunk: Chunk);

    /// Bytes given to [`Engine::send`] that the kernel has not taken.
    fn send_queued_bytes(&self, socket: SocketKey) -> usize;

    /// While `relaxed`, a send that took all of this socket's queue at once does not end the wait
    /// of a turn: its [`Event::Sent`] comes with whatever ends it. Saves a system call per message
    /// where the answer is what one waits for. Off at first; turn it off again before waiting for
    /// [`Event::Sent`] itself (to close, or to read on).
    fn relax_sent(&mut self, socket: SocketKey, relaxed: bool);

    /// Sends FIN after what is queued (half-close).
    fn shutdown_write(&mut self, socket: SocketKey);

    /// Closes; what is queued is dropped. The key is void afterwards.
    fn close(&mut self, socket: SocketKey);

    /// As [`Engine::close`], with a reset (SO_LINGER 0), so that the peer cannot take a cut-off
    /// body for a whole one.
    fn reset(&mut self, socket: SocketKey);

    /// Submits what is wanted, waits until something happened or `timeout` is over (`None`: no
    /// limit; zero: does not wait), and appends what happened to `events`: at most
    /// [`crate::limits::EVENTS_PER_TURN`], each `Sent` before a `Received` that the peer sent in
    /// answer.
    ///
    /// # Errors Only when the engine itself is broken; the worker then ends. What goes wrong with a
    /// socket is an event.
    fn turn(
        &mut self,
        timeout: Option<Duration>,
        events: &mut Vec<Event>,
    ) -> Result<(), EngineError>;
}

#[derive(Debug)]
pub enum Event {
    Accepted {
        listener: ListenerKey,
        socket: OwnedFd,
    },
    /// Accepting stopped: out of descriptors or memory. Resume after a pause.
    AcceptFailed {
        listener: ListenerKey,
        error: Errno,
    },
    Connected {
        socket: SocketKey,
    },
    Received {
        socket: SocketKey,
        /// Never empty.
        chunk: Chunk,
    },
    /// The peer sent FIN. Comes once.
    ReceiveClosed {
        socket: SocketKey,
    },
    /// `bytes` left the queue. `send_queued_bytes` says how many are still there.
    Sent {
        socket: SocketKey,
        bytes: usize,
    },
    /// Connecting, receiving or sending failed. Comes once for each of them; the owner closes the
    /// socket.
    Failed {
        socket: SocketKey,
        operation: Operation,
        error: Errno,
    },
    /// Our descriptor of the listening socket is closed: unless somebody else has one, whoever
    /// connects from now on is refused.
    Unlistened {
        listener: ListenerKey,
    },
    /// Somebody called [`Waker::wake`].
    Woken,
}

impl Event {
    /// Whom it is about, if a socket of ours.
    pub fn socket(&self) -> Option<SocketKey> {
        match self {
            Self::Connected { socket }
            | Self::Failed { socket, .. }
            | Self::ReceiveClosed { socket }
            | Self::Received { socket, .. }
            | Self::Sent { socket, .. } => Some(*socket),
            Self::AcceptFailed { .. }
            | Self::Accepted { .. }
            | Self::Unlistened { .. }
            | Self::Woken => None,
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Operation {
    Connect,
    Receive,
    Send,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Backend {
    Epoll,
    Uring,
}

impl Backend {
    pub fn name(self) -> &'static str {
        match self {
            Self::Epoll => "epoll",
            Self::Uring => "io_uring",
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{operation}: {error}")]
pub struct EngineError {
    pub operation: &'static str,
    pub error: Errno,
}
