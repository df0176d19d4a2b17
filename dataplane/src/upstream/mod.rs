//! Upstream connections: to apps and to other sidecars.
//!
//! Each belongs to one endpoint and is at any time connecting, idle in its endpoint's pool, or lent
//! to one exchange.

#![forbid(unsafe_code)]

mod balance;
mod health;
mod pool;

pub(crate) use balance::{Balancer, Call, Seat};
pub(crate) use health::Failure;
pub(crate) use pool::{EndpointKey, Endpoints};

use crate::{
    clock::Instant,
    connection::{ConnectionKey, Input},
    engine::SocketKey,
    slab::Key,
};

pub(crate) type UpstreamKey = Key<Upstream>;

pub(crate) struct Upstream {
    pub socket: SocketKey,
    pub endpoint: EndpointKey,
    pub state: UpstreamState,
    /// Where the request that has it counts as under way.
    pub seat: Option<Seat>,
    /// Response bytes that are not understood yet.
    pub input: Input,
    /// It has served a request before: the other side may have closed it meanwhile.
    pub reused: bool,
    /// Bytes of the current response have arrived.
    pub answered: bool,
    /// Bytes of the current request have left.
    pub asked: bool,
    /// Sending failed; a response may still be on its way.
    pub send_failed: bool,
    /// Not read while the client is slow.
    pub paused: bool,
    pub read_closed: bool,
    pub deadline: Option<Instant>,
    pub timer_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum UpstreamState {
    Connecting(ConnectionKey),
    /// In the pool, with receive armed: a FIN is seen before the connection is lent again.
    Idle,
    Busy(ConnectionKey),
}

impl Upstream {
    pub(crate) fn new(socket: SocketKey, endpoint: EndpointKey, borrower: ConnectionKey) -> Self {
        Self {
            socket,
            endpoint,
            state: UpstreamState::Connecting(borrower),
            seat: None,
            input: Input::default(),
            reused: false,
            answered: false,
            asked: false,
            send_failed: false,
            paused: false,
            read_closed: false,
            deadline: None,
            timer_at: None,
        }
    }

    #[inline]
    pub(crate) fn borrower(&self) -> Option<ConnectionKey> {
        match self.state {
            UpstreamState::Connecting(key) | UpstreamState::Busy(key) => Some(key),
            UpstreamState::Idle => None,
        }
    }
}
