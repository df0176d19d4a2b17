//! What control tells: the apps served here, where other apps are, and which sockets to listen on.
//!
//! Plain values without rules of their own; [`crate::Snapshot::build`] checks what they must hold
//! together.

use crate::{
    Address, AppId, CgroupId, InstanceId, ListenerId, Namespace, Telemetry, Version,
    outbound::Outbound,
    policy::{Guards, resiliency::Resiliency},
};
use serde::{Deserialize, Serialize};
use std::{num::NonZeroU32, sync::Arc, time::Duration};

/// The whole state, as one message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    pub version: Version,
    /// Apps this data plane serves. A sidecar has one.
    pub apps: Vec<App>,
    /// Where apps can be called, own ones excluded.
    pub routes: Vec<Route>,
    pub listeners: Vec<Listener>,
    pub on_control_lost: OnControlLost,
}

/// What the data plane does when the link to control closes without a word.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum OnControlLost {
    /// End at once: the sidecar was killed, and its ports and its name must be free for the next
    /// one.
    Exit,
    /// Serve on from the last snapshot until a control comes back.
    Serve,
    /// Serve on, and end when no control came back in this time: somebody who starts control anew
    /// does so at once, and a sidecar that nobody starts anew must not hold its port for ever.
    ServeFor(Duration),
}

/// An app served here: what stands between its caller and its port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct App {
    /// Chosen by control; listeners name it. The low 16 bits are the app's slot, of which no two
    /// apps of a state have the same; the rest says how often the slot was filled. A number that is
    /// given again to another app would make over to it what still belongs to the first one.
    pub number: u32,
    pub id: AppId,
    pub namespace: Namespace,
    /// What requests must pass.
    pub guards: Arc<Guards>,
    /// `None`: daprd's `--app-port 0`, the app makes calls and takes none.
    pub channel: Option<AppChannel>,
    pub origin: Origin,
    /// What is told of its calls.
    pub telemetry: Arc<Telemetry>,
    /// How its calls are spread over the endpoints of the app they go to.
    pub balance: Balance,
    /// How its calls are carried when they fail; `None`: as they are without any policy.
    pub resiliency: Option<Arc<Resiliency>>,
    /// Where it runs; calls stay there while enough endpoints of the other app are there, too.
    pub zone: Option<Box<str>>,
    /// Largest request body in bytes; `None` is unlimited (`--max-body-size 0`).
    pub body_bytes_max: Option<u64>,
    /// Largest request head in bytes (`--read-buffer-size`, with the 4096 that Go's server adds).
    pub head_bytes_max: u32,
    pub health: AppHealth,
    pub outbound: Arc<Outbound>,
    /// Answer to `GET /v1.0/metadata`, complete with its trailing newline. Most changes of an app
    /// leave it as it is.
    pub metadata_json: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AppChannel {
    pub address: Address,
    pub protocol: AppProtocol,
    /// Calls the app works on at a time (`--app-max-concurrency`); more wait. `None`: any number.
    pub concurrency_max: Option<NonZeroU32>,
    /// What its health checks say (`--enable-app-health-check`). Calls of an app that is not are
    /// refused.
    pub is_healthy: bool,
}

impl AppChannel {
    /// An app that speaks HTTP and takes all calls.
    pub const fn http(address: Address) -> Self {
        Self { address, protocol: AppProtocol::Http, concurrency_max: None, is_healthy: true }
    }
}

/// `--app-protocol`. Only HTTP/1.1 without TLS is carried; control warns about the others and sends
/// no channel.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum AppProtocol {
    Http,
}

/// How a call finds its endpoint among several.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub enum Balance {
    /// Of two drawn at random the one that answers sooner: fewer requests under way, and quicker
    /// ones.
    #[default]
    PowerOfTwo,
    /// In turns.
    RoundRobin,
}

/// How a caller introduces itself: `X-Forwarded-For`, `X-Forwarded-Host` and `Forwarded`. daprd
/// leaves out what it does not know.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// Host address as text, IPv6 without brackets.
    pub host_ip: Option<String>,
    pub host_name: Option<String>,
}

/// What `/v1.0/healthz` and `/v1.0/healthz/outbound` answer. Empty lists mean ready.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct AppHealth {
    /// Names of the parts that are not ready, as daprd lists them in `dapr is not ready: [...]`.
    pub unready: Vec<String>,
    pub outbound_ready: bool,
}

/// Where an app is served elsewhere. One cache line, which is what a look-up among a million reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[repr(align(64))]
pub struct Route {
    pub id: AppId,
    pub namespace: Namespace,
    /// Not empty. Shared, since tables copy the routes around one that changes.
    pub endpoints: Arc<[Endpoint]>,
}

const _: () = assert!(size_of::<Route>() == 64);

#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Endpoint {
    pub instance: InstanceId,
    pub address: Address,
    /// Where it runs, if its registry knows.
    pub zone: Option<Box<str>>,
}

/// A socket that control bound and hands over with the state.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Listener {
    pub id: ListenerId,
    pub kind: ListenerKind,
    /// [`App::number`]: whose sidecar answers here.
    pub app: u32,
    /// The cgroup whose processes alone may connect here, as the kernel tells who dialled. `None`:
    /// whoever reaches the socket may.
    pub caller: Option<CgroupId>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum ListenerKind {
    /// The Dapr HTTP API: the app calls out.
    Api,
    /// Connections to the app's own port that the kernel sent here: plain requests to the app.
    Inbound,
    /// Other sidecars call in.
    Peer,
    /// `--dapr-public-port`: health and metadata only, no invoke fallback.
    Public,
}
