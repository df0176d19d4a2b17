//! How control and data plane talk: length-prefixed frames over a Unix stream socket.
//!
//! A frame is `u32` length of the rest (little endian), `u16` protocol, then one message in postcard. Listening
//! sockets travel beside the frame of the message that names them, as SCM_RIGHTS, in the order of
//! [`ToDataPlane::State`]'s `sockets`. The data plane listens, control connects: a control that comes back finds
//! the data plane where it was.

use crate::{ListenerId, State, Version};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Counts up whenever a message changes its shape. A peer that speaks another protocol is refused by name.
pub const PROTOCOL: u16 = 1;

/// Largest frame. A state of 100,000 apps is some 10 MiB; more than this is a mistake, not a state.
pub const FRAME_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Most sockets beside one frame; the kernel's SCM_MAX_FD is 253.
pub const SOCKETS_MAX: usize = 250;

const LENGTH_BYTES: usize = 4;
const PROTOCOL_BYTES: usize = 2;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToDataPlane {
    /// The whole state. `sockets` names the listeners whose sockets come with this frame; the data plane keeps the
    /// sockets it has and closes those whose listener is gone.
    State { state: State, sockets: Vec<ListenerId> },
    /// What an [`FromDataPlane::AdminCall`] is answered with.
    AdminReply { call: AdminCallId, status: u16, content_type: String, body: Vec<u8> },
    /// Sum up the counters.
    Stats { query: u64 },
    /// Stop accepting, finish what is in flight, then say [`FromDataPlane::Drained`].
    Drain,
    /// End now.
    Exit,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromDataPlane {
    /// First on every link.
    Hello {
        pid: u32,
        workers: u32,
        engine: String,
        engine_reason: String,
    },
    /// Every worker runs on this version.
    Live {
        version: Version,
    },
    /// The state was not adopted; the last one stays in force.
    Refused {
        version: Version,
        problems: Vec<String>,
    },
    /// A request that control answers.
    AdminCall {
        call: AdminCallId,
        app: u32,
        request: AdminRequest,
    },
    Stats {
        query: u64,
        counters: Vec<Counter>,
    },
    Log {
        level: LogLevel,
        message: String,
    },
    Drained,
}

/// Names one waiting client on one worker; opaque to control.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct AdminCallId {
    pub worker: u32,
    pub connection: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum AdminRequest {
    /// `PUT /v1.0/metadata/{key}`.
    SetMetadata { key: String, value: Vec<u8> },
    /// `POST /v1.0/shutdown`; `force` is the header `dapr-force-shutdown: true`.
    Shutdown { force: bool },
}

/// One counter, summed over the workers: `name{label="value",…}` in Prometheus' terms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Counter {
    pub name: String,
    pub labels: Vec<(String, String)>,
    pub kind: CounterKind,
    pub value: f64,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum CounterKind {
    Counter,
    Gauge,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum LogLevel {
    Debug,
    Info,
    Warning,
    Error,
}

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum WireError {
    #[error("frame of {0} bytes; at most {FRAME_BYTES_MAX} are allowed")]
    TooLong(usize),
    #[error("frame of {0} bytes is too short to name its protocol")]
    TooShort(usize),
    #[error(
        "the peer speaks link protocol {0}, this process speaks {PROTOCOL}; run the same version of both"
    )]
    Protocol(u16),
    #[error("frame does not decode: {0}")]
    Decode(String),
}

/// # Errors
/// When the message is larger than [`FRAME_BYTES_MAX`].
pub fn encode<M: Serialize>(message: &M) -> Result<Vec<u8>, WireError> {
    let mut frame = vec![0; LENGTH_BYTES];
    frame.extend_from_slice(&PROTOCOL.to_le_bytes());
    let mut frame =
        postcard::to_extend(message, frame).map_err(|e| WireError::Decode(e.to_string()))?;
    let length = frame.len() - LENGTH_BYTES;
    match u32::try_from(length) {
        Ok(prefix) if length <= FRAME_BYTES_MAX => {
            frame[..LENGTH_BYTES].copy_from_slice(&prefix.to_le_bytes())
        }
        _ => return Err(WireError::TooLong(length)),
    }
    Ok(frame)
}

/// Takes the first whole frame off `bytes`, if there is one: the message, and how many bytes it took.
///
/// # Errors
/// The link cannot be used any further; start it anew with a full state.
pub fn decode<M: DeserializeOwned>(bytes: &[u8]) -> Result<Option<(M, usize)>, WireError> {
    let Some((prefix, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
    let length = u32::from_le_bytes(*prefix) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(WireError::TooLong(length));
    }
    let Some(frame) = rest.get(..length) else { return Ok(None) };
    let Some((protocol, payload)) = frame.split_first_chunk::<PROTOCOL_BYTES>() else {
        return Err(WireError::TooShort(length));
    };
    match u16::from_le_bytes(*protocol) {
        PROTOCOL => {}
        other => return Err(WireError::Protocol(other)),
    }
    let message = postcard::from_bytes(payload).map_err(|e| WireError::Decode(e.to_string()))?;
    Ok(Some((message, LENGTH_BYTES + length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_in_pieces_is_awaited_and_two_are_told_apart() {
        let live = FromDataPlane::Live { version: Version(7) };
        let mut bytes = encode(&live).unwrap();
        let first = bytes.len();
        bytes.extend(encode(&FromDataPlane::Drained).unwrap());
        for cut in 0..first {
            assert_eq!(decode::<FromDataPlane>(&bytes[..cut]), Ok(None), "cut at {cut}");
        }
        assert_eq!(decode(&bytes), Ok(Some((live, first))));
        assert_eq!(
            decode(&bytes[first..]),
            Ok(Some((FromDataPlane::Drained, bytes.len() - first)))
        );
    }

    #[test]
    fn refuses_what_it_cannot_trust() {
        let mut other = encode(&FromDataPlane::Drained).unwrap();
        other[4] = 9;
        assert_eq!(decode::<FromDataPlane>(&other), Err(WireError::Protocol(9)));

        let huge = u32::MAX.to_le_bytes();
        assert_eq!(decode::<FromDataPlane>(&huge), Err(WireError::TooLong(u32::MAX as usize)));

        assert_eq!(decode::<FromDataPlane>(&[1, 0, 0, 0, 1]), Err(WireError::TooShort(1)));

        let mut rubbish = encode(&FromDataPlane::Drained).unwrap();
        let last = rubbish.len() - 1;
        rubbish[last] = 0xff;
        assert!(matches!(decode::<FromDataPlane>(&rubbish), Err(WireError::Decode(_))));
    }
}
