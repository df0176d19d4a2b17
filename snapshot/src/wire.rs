//! How control and data plane talk: length-prefixed frames over a Unix stream socket.
//!
//! A frame is `u32` length of the rest (little endian), `u16` protocol, then one message in
//! postcard. Listening sockets travel as SCM_RIGHTS with the first byte of the frame of the message
//! that names them, in the order of its `sockets`. The data plane listens, control connects: a
//! control that comes back finds the data plane where it was.
//!
//! A frame that cannot be understood is passed over, for its length is known;
//! [`FromDataPlane::Resync`] then asks for everything anew. Only a length beyond all bounds ends a
//! link: where the next frame starts is then unknown.

use crate::{Address, App, AppId, Delta, Listener, ListenerId, Namespace, Route, State, Version};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{net::SocketAddr, time::Duration};

/// Counts up whenever a message changes its shape. A peer that speaks another protocol is refused
/// by name.
pub const PROTOCOL: u16 = 8;

/// Largest frame. Routes are cut into parts of ROUTES_PER_FRAME, so this is a mistake, not a state.
pub const FRAME_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Routes that [`state_messages`] puts into one frame: some 2 MiB, so that neither side ever holds
/// a large state as one string of bytes.
pub const ROUTES_PER_FRAME: usize = 16 * 1024;

/// Routes of one state, all parts together.
pub const ROUTES_MAX: usize = 4 * 1024 * 1024;

/// Most sockets beside one frame; the kernel's SCM_MAX_FD is 253.
pub const SOCKETS_MAX: usize = 250;

const LENGTH_BYTES: usize = 4;
const PROTOCOL_BYTES: usize = 2;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToDataPlane {
    /// The whole state, together with the [`Self::Routes`] and [`Self::Sockets`] before it, of
    /// which there are `parts`. `sockets` names the listeners whose sockets come with this frame;
    /// the data plane keeps the sockets it has and closes those whose listener is gone.
    State { state: State, sockets: Vec<ListenerId>, parts: u32 },
    /// Some of the routes of the [`Self::State`] that comes next.
    Routes(Vec<Route>),
    /// Sockets of listeners that the [`Self::State`] or [`Self::Delta`] that comes next names; they
    /// come with this frame.
    Sockets(Vec<ListenerId>),
    /// What changed; `sockets` as with a state.
    Delta { delta: Delta, sockets: Vec<ListenerId> },
    /// Hand over all that a control needs which adopts this data plane: the routes, since a
    /// registry may be away that told them, and copies of all listening sockets, for the data plane
    /// after this one. Answered by [`FromDataPlane::Routes`] and then [`FromDataPlane::Listeners`].
    ListenersWanted,
    /// Keep the descriptors that come with this frame open for as long as this process lives, each
    /// in the place of the one with the same id before it. A registry entry counts for as long as
    /// its lock is held, so an app stays known while control is away, and is gone the moment that
    /// both processes are.
    Hold { ids: Vec<HoldId> },
    /// Close what is held under these ids.
    Release { ids: Vec<HoldId> },
    /// What an [`FromDataPlane::AdminCall`] is answered with.
    AdminReply { call: AdminCallId, status: u16, content_type: String, body: Vec<u8> },
    /// Sum up the counters.
    Stats { query: u64 },
    /// Stop accepting, finish what is in flight, then say [`FromDataPlane::Drained`].
    Drain,
    /// End now.
    Exit,
    /// All that can be known of what [`FromDataPlane::Resolve`] asked for has been sent: a route
    /// that is not there now is not to be had.
    Resolved { query: u64 },
    /// What each worker thinks of the endpoints of an app. Answered by [`FromDataPlane::Scores`].
    Scores { query: u64, id: AppId, namespace: Namespace },
    /// Whether [`FromDataPlane::Resolve`] is worth a question: some registry knows only what it is
    /// asked for. In force until it is said otherwise, also while control is away; none at first.
    Resolver { exists: bool },
    /// The map of what was read past TCP, which comes with this frame.
    Credits,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FromDataPlane {
    /// First on every link.
    Hello {
        pid: u32,
        workers: u32,
        engine: String,
        engine_reason: String,
        held: Held,
    },
    /// Every worker runs on this version, or on one after it.
    Live {
        version: Version,
    },
    /// The state or delta was not adopted; the last one stays in force. With the default version:
    /// the link itself is refused, and closed.
    Refused {
        version: Version,
        problems: Vec<String>,
    },
    /// The data plane has missed something, serves on from version `have`, and asks for a full
    /// state. Deltas are passed over until it comes.
    Resync {
        have: Version,
        reason: String,
    },
    /// Some of the routes that are in force. Those before [`Self::Listeners`] are all there are.
    Routes(Vec<Route>),
    /// Copies of the listening sockets, which come with this frame; `is_last`: there are no more.
    Listeners {
        sockets: Vec<ListenerId>,
        is_last: bool,
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
        histograms: Vec<Histogram>,
    },
    /// Requests to apps' APIs, for the log.
    ApiCalls(Vec<ApiCall>),
    /// Hops of traces that are recorded.
    Spans(Vec<Span>),
    Log {
        level: LogLevel,
        message: String,
    },
    Drained,
    /// A call wants an app that no route leads to, or whose last address turned out to be another
    /// app's (`is_stale`). Some registries know only what they are asked for.
    Resolve {
        query: u64,
        id: AppId,
        namespace: Namespace,
        is_stale: bool,
    },
    /// Of every worker that has called the app since its endpoints became several: nobody keeps
    /// scores where there is no choice.
    Scores {
        query: u64,
        scores: Vec<Score>,
    },
}

/// An endpoint as one worker sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    pub worker: u32,
    pub address: Address,
    /// Requests under way.
    pub outstanding: u32,
    /// The average that counts; `None` while too little is known.
    pub latency: Option<Duration>,
    pub standing: Standing,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Standing {
    In,
    /// Left alone for this long.
    Out(Duration),
    /// A request was let through to see.
    Probed,
}

/// What a data plane serves already when control comes to it: enough to go on where the last
/// control stopped.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// The default when no control has told it anything.
    pub version: Version,
    /// As the last control described them, with what it knew of their health and their metadata.
    /// They keep their numbers from one control to the next.
    pub apps: Vec<App>,
    /// The data plane has their sockets.
    pub listeners: Vec<Listener>,
}

/// Names a descriptor that is only kept open; chosen by control.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
pub struct HoldId(pub u32);

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

/// Observations of one kind, summed over the workers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    pub name: String,
    pub labels: Vec<(String, String)>,
    /// Upper ends of the buckets, ascending; the last bucket has none.
    pub bounds: Vec<f64>,
    /// Of each bucket alone.
    pub counts: Vec<u64>,
    pub sum: f64,
}

/// One request to an app's API, answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ApiCall {
    /// [`crate::App::number`].
    pub app: u32,
    /// Verb and path, or the route.
    pub method: String,
    pub user_agent: String,
    pub status: u16,
    pub response_bytes: u64,
    pub duration: Duration,
    /// In nanoseconds since 1970.
    pub ended: u64,
}

/// One hop of a trace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Span {
    /// [`crate::App::number`].
    pub app: u32,
    pub kind: SpanKind,
    pub trace: [u8; 16],
    pub span: [u8; 8],
    /// Zero for the first span of a trace.
    pub parent: [u8; 8],
    pub name: String,
    pub status: u16,
    /// The status is upstream's, not a sidecar's own.
    pub is_answered: bool,
    /// The request as it came in: its method, its target, and its header lines with Dapr's prefix.
    pub verb: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    /// `None` over a Unix socket, and where nobody asked.
    pub client: Option<SocketAddr>,
    /// In nanoseconds since 1970.
    pub began: u64,
    pub ended: u64,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum SpanKind {
    /// At the caller's sidecar.
    Client,
    /// At the callee's.
    Server,
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
    encode_as(PROTOCOL, message)
}

pub(crate) fn encode_as<M: Serialize>(protocol: u16, message: &M) -> Result<Vec<u8>, WireError> {
    let mut frame = vec![0; LENGTH_BYTES];
    frame.extend_from_slice(&protocol.to_le_bytes());
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

impl ToDataPlane {
    /// The listeners whose sockets must be sent with this message, in this order.
    pub fn sockets(&self) -> &[ListenerId] {
        match self {
            Self::Delta { sockets, .. } | Self::Sockets(sockets) | Self::State { sockets, .. } => {
                sockets
            }
            _ => &[],
        }
    }
}

/// Cuts a state into messages of bounded size, to be sent in this order. [`ToDataPlane::sockets`]
/// says which sockets go with each.
pub fn state_messages(mut state: State, sockets: &[ListenerId]) -> Vec<ToDataPlane> {
    let mut messages = Vec::new();
    let mut routes = std::mem::take(&mut state.routes);
    while routes.len() > ROUTES_PER_FRAME {
        let rest = routes.len() - ROUTES_PER_FRAME;
        messages.push(ToDataPlane::Routes(routes.split_off(rest)));
    }
    state.routes = routes;
    let last = sockets.len() - sockets.len().min(SOCKETS_MAX);
    messages
        .extend(sockets[..last].chunks(SOCKETS_MAX).map(|ids| ToDataPlane::Sockets(ids.into())));
    let parts = u32::try_from(messages.len()).expect("each holds thousands");
    messages.push(ToDataPlane::State { state, sockets: sockets[last..].into(), parts });
    messages
}

/// As [`state_messages`], of a delta that brings more sockets than one frame carries.
pub fn delta_messages(delta: Delta, sockets: &[ListenerId]) -> Vec<ToDataPlane> {
    let last = sockets.len() - sockets.len().min(SOCKETS_MAX);
    let before = sockets[..last].chunks(SOCKETS_MAX).map(|ids| ToDataPlane::Sockets(ids.into()));
    let delta = ToDataPlane::Delta { delta, sockets: sockets[last..].into() };
    before.chain(std::iter::once(delta)).collect()
}

/// How long the first frame in `bytes` is, once it is there whole.
///
/// # Errors
/// [`WireError::TooLong`], after which no frame on this link can be found any more.
pub fn frame_bytes(bytes: &[u8]) -> Result<Option<usize>, WireError> {
    let Some((prefix, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
    let length = u32::from_le_bytes(*prefix) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(WireError::TooLong(length));
    }
    Ok((rest.len() >= length).then_some(LENGTH_BYTES + length))
}

/// Takes the first whole frame off `bytes`, if there is one: the message, and how many bytes it
/// took.
///
/// # Errors After [`WireError::TooLong`] the link cannot be used any further. After any other, what
/// this frame said is lost, and [`frame_bytes`] tells how much to pass over.
pub fn decode<M: DeserializeOwned>(bytes: &[u8]) -> Result<Option<(M, usize)>, WireError> {
    decode_as(PROTOCOL, bytes)
}

pub(crate) fn decode_as<M: DeserializeOwned>(
    protocol: u16,
    bytes: &[u8],
) -> Result<Option<(M, usize)>, WireError> {
    let Some(whole) = frame_bytes(bytes)? else { return Ok(None) };
    let frame = &bytes[LENGTH_BYTES..whole];
    let Some((spoken, payload)) = frame.split_first_chunk::<PROTOCOL_BYTES>() else {
        return Err(WireError::TooShort(frame.len()));
    };
    let spoken = u16::from_le_bytes(*spoken);
    if spoken != protocol {
        return Err(WireError::Protocol(spoken));
    }
    let message = postcard::from_bytes(payload).map_err(|e| WireError::Decode(e.to_string()))?;
    Ok(Some((message, whole)))
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
        assert_eq!(frame_bytes(&rubbish), Ok(Some(rubbish.len())), "it can be passed over");
    }

    #[test]
    fn an_id_is_checked_when_it_comes_over_the_wire() {
        let bytes = encode(&("a.b",)).unwrap();
        let refused = decode::<(AppId,)>(&bytes).unwrap_err();
        assert!(matches!(refused, WireError::Decode(_)), "{refused}");
        let bytes = encode(&("a-b",)).unwrap();
        let (id, _) = decode::<(AppId,)>(&bytes).unwrap().unwrap();
        assert_eq!(id.0.as_str(), "a-b");
    }

    #[test]
    fn a_large_state_is_cut_into_frames_of_bounded_size() {
        let route = |n: usize| Route {
            id: AppId::new(&format!("app-{n}")).unwrap(),
            namespace: Namespace::default(),
            endpoints: std::sync::Arc::default(),
        };
        let state = |routes: usize| State {
            version: Version(1),
            apps: Vec::new(),
            routes: (0..routes).map(route).collect(),
            listeners: Vec::new(),
            on_control_lost: crate::OnControlLost::Exit,
        };
        for (case, routes, want) in [
            ("none", 0, vec![0]),
            ("one frame", ROUTES_PER_FRAME, vec![ROUTES_PER_FRAME]),
            ("one more", ROUTES_PER_FRAME + 1, vec![ROUTES_PER_FRAME, 1]),
            ("three", 2 * ROUTES_PER_FRAME + 7, vec![ROUTES_PER_FRAME, ROUTES_PER_FRAME, 7]),
        ] {
            let messages = state_messages(state(routes), &[ListenerId(3)]);
            let mut names = std::collections::HashSet::new();
            let counts: Vec<usize> = messages
                .iter()
                .map(|message| {
                    let routes = match message {
                        ToDataPlane::Routes(routes) => routes,
                        ToDataPlane::State { state, sockets, parts } => {
                            assert_eq!(sockets, &[ListenerId(3)], "{case}");
                            assert_eq!(*parts as usize + 1, messages.len(), "{case}");
                            &state.routes
                        }
                        other => panic!("{case}: {other:?}"),
                    };
                    names.extend(routes.iter().map(|route| route.id.clone()));
                    routes.len()
                })
                .collect();
            assert_eq!(counts, want, "{case}");
            assert_eq!(names.len(), routes, "{case}");
            assert!(matches!(messages.last(), Some(ToDataPlane::State { .. })), "{case}");
        }
    }
    #[test]
    fn more_sockets_than_a_frame_carries_come_in_parts() {
        for count in [0, 1, SOCKETS_MAX, SOCKETS_MAX + 1, 3 * SOCKETS_MAX] {
            let ids: Vec<ListenerId> = (0..u32::try_from(count).unwrap()).map(ListenerId).collect();
            let state = State {
                version: Version(1),
                apps: Vec::new(),
                routes: Vec::new(),
                listeners: Vec::new(),
                on_control_lost: crate::OnControlLost::Exit,
            };
            let delta = Delta { base: Version(1), version: Version(2), changes: Vec::new() };
            for messages in [state_messages(state, &ids), delta_messages(delta, &ids)] {
                assert_eq!(messages.len(), count.div_ceil(SOCKETS_MAX).max(1), "{count}");
                assert!(messages.iter().all(|message| message.sockets().len() <= SOCKETS_MAX));
                let named: Vec<ListenerId> =
                    messages.iter().flat_map(ToDataPlane::sockets).copied().collect();
                assert_eq!(named, ids, "{count}");
            }
        }
    }
}
