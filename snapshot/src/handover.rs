//! What a control and a data plane of different versions can still say to each other: hand over
//! your listening sockets, then leave.
//!
//! It travels over the same link, in frames of a protocol number of its own, and **never changes**:
//! everything here is read by versions that were built before and after this one. A test holds its
//! bytes. What it must say one day beyond this goes into a new protocol number.

use crate::{
    ListenerKind,
    wire::{self, WireError},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Of these frames, in the place of [`wire::PROTOCOL`], which counts from one.
pub const PROTOCOL: u16 = 0;

const _: () = assert!(wire::PROTOCOL != PROTOCOL, "the link's own numbers count from one");

/// What control asks of a data plane that it cannot talk to otherwise.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Answered by [`Sockets`], as many as it takes; nothing changes.
    Sockets,
    /// Another data plane listens on the sockets now: accept nothing more, finish what is in
    /// flight, and end.
    Leave,
}

/// Copies of listening sockets, which come with the frame in this order.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Sockets {
    pub sockets: Vec<Socket>,
    /// There are no more.
    pub is_last: bool,
}

/// What one socket is for. Where it listens it says itself.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Socket {
    pub kind: u8,
    pub namespace: String,
    pub id: String,
}

impl Socket {
    pub fn new(kind: ListenerKind, namespace: &str, id: &str) -> Self {
        let kind = match kind {
            ListenerKind::Api => 0,
            ListenerKind::Peer => 1,
            ListenerKind::Public => 2,
            ListenerKind::Inbound => 3,
        };
        Self { kind, namespace: namespace.to_owned(), id: id.to_owned() }
    }

    /// `None` for a kind that this version does not know.
    pub fn kind(&self) -> Option<ListenerKind> {
        match self.kind {
            0 => Some(ListenerKind::Api),
            1 => Some(ListenerKind::Peer),
            2 => Some(ListenerKind::Public),
            3 => Some(ListenerKind::Inbound),
            _ => None,
        }
    }
}

/// # Errors
/// When the message is larger than a frame may be.
pub fn encode<M: Serialize>(message: &M) -> Result<Vec<u8>, WireError> {
    wire::encode_as(PROTOCOL, message)
}

/// The message of the first whole frame, if it is one of these; how many bytes the frame takes,
/// whatever it is.
///
/// # Errors
/// When no frame can be found any more, or one of these does not decode.
pub fn decode<M: DeserializeOwned>(bytes: &[u8]) -> Result<Option<(Option<M>, usize)>, WireError> {
    let Some(length) = wire::frame_bytes(bytes)? else { return Ok(None) };
    match wire::decode_as(PROTOCOL, bytes) {
        Ok(message) => Ok(message.map(|(message, length)| (Some(message), length))),
        Err(WireError::Protocol(_) | WireError::TooShort(_)) => Ok(Some((None, length))),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_bytes_never_change() {
        let socket = Socket::new(ListenerKind::Peer, "default", "a");
        for (case, bytes, want) in [
            ("sockets wanted", encode(&Request::Sockets), &[3, 0, 0, 0, 0, 0, 0][..]),
            ("leave", encode(&Request::Leave), &[3, 0, 0, 0, 0, 0, 1]),
            (
                "sockets",
                encode(&Sockets { sockets: vec![socket.clone()], is_last: true }),
                b"\x0f\0\0\0\0\0\x01\x01\x07default\x01a\x01",
            ),
        ] {
            assert_eq!(bytes.unwrap(), want, "{case}");
        }
        assert_eq!(socket.kind(), Some(ListenerKind::Peer));
        assert_eq!(Socket { kind: 9, ..socket }.kind(), None, "of a later version");
    }

    #[test]
    fn frames_of_the_link_are_passed_over() {
        let mut bytes = wire::encode(&wire::FromDataPlane::Drained).unwrap();
        let first = bytes.len();
        bytes.extend(encode(&Request::Leave).unwrap());
        assert_eq!(decode::<Request>(&bytes[..first - 1]), Ok(None));
        assert_eq!(decode::<Request>(&bytes), Ok(Some((None, first))));
        let rest = &bytes[first..];
        assert_eq!(decode(rest), Ok(Some((Some(Request::Leave), rest.len()))));
        assert!(decode::<Sockets>(&encode(&Request::Leave).unwrap()).is_err(), "cut off");
        let refused = wire::decode::<wire::ToDataPlane>(rest);
        assert_eq!(
            refused,
            Err(WireError::Protocol(PROTOCOL)),
            "the link does not take it for its own"
        );
    }
}
