//! Which connection a socket belongs to: one array access per event.

#![forbid(unsafe_code)]

use crate::{connection::ConnectionKey, engine::SocketKey, upstream::UpstreamKey};

#[derive(Clone, Copy)]
pub(super) enum Owner {
    Downstream(ConnectionKey),
    Upstream(UpstreamKey),
}

/// Indexed by the socket's index; the generation tells a late event of an earlier socket.
#[derive(Default)]
pub(super) struct Owners(Vec<Option<(u32, Owner)>>);

impl Owners {
    pub(super) fn set(&mut self, socket: SocketKey, owner: Owner) {
        let index = socket.index as usize;
        if self.0.len() <= index {
            self.0.resize(index + 1, None);
        }
        self.0[index] = Some((socket.generation, owner));
    }

    pub(super) fn clear(&mut self, socket: SocketKey) {
        if let Some(place) = self.0.get_mut(socket.index as usize)
            && place.is_some_and(|(generation, _)| generation == socket.generation)
        {
            *place = None;
        }
    }

    #[inline]
    pub(super) fn find(&self, socket: SocketKey) -> Option<Owner> {
        match self.0.get(socket.index as usize) {
            Some(Some((generation, owner))) if *generation == socket.generation => Some(*owner),
            _ => None,
        }
    }
}
