//! A downstream socket's life: from accept through any number of exchanges to its close.
//!
//! ```text
//!            first byte          head complete                 response complete, keep-alive
//!   Idle ───────────────► ReadingHead ─────────► Exchanging ────────────────────────────► Idle
//!    ▲                        │                    │  │  │
//!    │                        │                    │  └── app not known ──► Resolving ──► Exchanging
//!    │                        │ refused            │  │  └── 101 ──► Tunnel ──► (closed)
//!    │                        │                    │  ├── app at its limit ──► Queued ──► Exchanging
//!    │                        ▼                    │  └── peer unreachable ──► Retrying ──► Exchanging
//!    │                     Flushing ◄──────────────┘ answered, must close
//!    │                        │ all sent
//!    │                        ▼
//!    │                     Lingering ──► (closed)
//!    │
//!    └── Discarding ◄── answered by ourselves before the request's body was read (also AwaitingControl)
//! ```
//!
//! This module holds the state; [`crate::relay`] moves it.

#![forbid(unsafe_code)]

mod exchange;
mod input;

pub(crate) use exchange::{Buffers, Encoding, Exchange, External};
pub(crate) use input::Input;

use crate::{clock::Instant, engine::SocketKey, policy::access::Proof, slab::Key};
use snapshot::ListenerKind;

pub(crate) type ConnectionKey = Key<Connection>;

pub(crate) struct Connection {
    pub socket: SocketKey,
    pub listener: ListenerKind,
    /// Whose sidecar the client called: index into the snapshot's apps.
    pub app: usize,
    /// Of a peer's connection.
    pub proof: Proof,
    /// Of the other end, what only few connections have.
    pub remote: Option<Box<Remote>>,
    pub state: State,
    /// Bytes received and not yet understood: the next head, or what was pipelined behind the
    /// current request.
    pub input: Input,
    pub exchange: Exchange,
    /// When to look at this connection, if nothing happens before. `None`: never.
    pub deadline: Option<Instant>,
    /// When its entry in the timer wheel comes up, if it has one.
    pub timer_at: Option<Instant>,
    /// The client sent FIN: it takes answers, and asks nothing more.
    pub read_closed: bool,
    /// Not read while the other side is slow.
    pub paused: bool,
}

#[derive(Debug, Eq, PartialEq)]
pub(crate) enum State {
    /// Between requests; no byte of the next one is here.
    Idle,
    ReadingHead,
    /// Collects the body of a request that control answers.
    CollectingForControl {
        body: Vec<u8>,
    },
    AwaitingControl,
    /// The host of an external target is being looked up.
    AwaitingHost,
    Exchanging,
    /// Control is being asked where the app is; see [`crate::relay`]'s `parked`.
    Resolving {
        ticket: u64,
    },
    /// Waits for a token of its app; see [`crate::gate`].
    Queued,
    /// The peer could not be reached; waits to try again.
    Retrying,
    Tunnel,
    /// Answered; reads and drops the rest of the request's body, then goes on.
    Discarding {
        bytes_left: usize,
    },
    /// Closes once the client took what is queued.
    Flushing {
        linger: bool,
    },
    /// Sent FIN; reads and drops what the client still sends, so that our answer is not lost in a
    /// reset.
    Lingering {
        bytes_left: usize,
    },
}

/// The other end of a connection.
pub(crate) struct Remote {
    /// What the kernel says of it; `None` where that is nothing.
    pub dialed: Option<Dialed>,
    /// As Go writes it; where requests are counted by it.
    pub address: Option<String>,
}

/// Who dialled, and whom, by the kernel's word.
pub(crate) enum Dialed {
    /// An inbound connection, from this app of ours.
    By(u32),
    /// A connection to the API that was dialled at this app's address: all its requests are calls
    /// of it.
    For(Box<[u8]>),
}

impl Connection {
    /// The app that dialled, of an inbound connection.
    pub(crate) fn caller(&self) -> Option<u32> {
        match self.remote.as_ref()?.dialed.as_ref()? {
            Dialed::By(app) => Some(*app),
            Dialed::For(_) => None,
        }
    }

    /// The app that was dialled, where that was not its caller's sidecar.
    pub(crate) fn target(&self) -> Option<&[u8]> {
        match self.remote.as_ref()?.dialed.as_ref()? {
            Dialed::By(_) => None,
            Dialed::For(target) => Some(target),
        }
    }

    pub(crate) fn new(socket: SocketKey, listener: ListenerKind, app: usize) -> Self {
        Self {
            socket,
            listener,
            app,
            proof: Proof::None,
            remote: None,
            state: State::Idle,
            input: Input::default(),
            exchange: Exchange::default(),
            deadline: None,
            timer_at: None,
            read_closed: false,
            paused: false,
        }
    }

    /// Between requests, with nothing that a send's end would move.
    #[inline]
    pub(crate) fn is_at_rest(&self) -> bool {
        self.state == State::Idle && !self.paused && self.exchange.upstream.is_none()
    }

    /// The client has said that it asks nothing more, and all that it asked has been taken up.
    #[inline]
    pub(crate) fn is_last_request(&self) -> bool {
        self.read_closed && self.input.is_empty()
    }
}

/// DESIGN holds a connection that waits to 1 KB of user memory.
const _: () = assert!(size_of::<Connection>() <= 648, "an idle connection must stay small");
