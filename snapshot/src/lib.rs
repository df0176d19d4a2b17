//! The contract between control and data plane.
//!
//! Control describes the world as a [`State`], then its changes as [`Delta`]s, sends them over the
//! [`wire`], and the data plane turns them into [`Snapshot`]s: validated once, then only read.
//! Nothing in here touches a socket; both sides depend on this crate and on nothing of each other.

#![forbid(unsafe_code)]

mod address;
mod apps;
mod build;
mod change;
#[cfg(test)]
mod draw;
pub mod handover;
mod id;
mod outbound;
mod path_pattern;
pub mod policy;
mod state;
mod table;
mod telemetry;
pub mod wire;

pub use address::{Address, SocketPath};
pub use apps::{APPS_MAX, Apps};
pub use build::{BuildError, Snapshot};
pub use change::{ApplyError, Change, Delta, Replaced};
pub use id::{AppId, CgroupId, ID_BYTES_MAX, IdError, InstanceId, ListenerId, Namespace, Version};
pub use outbound::{HttpEndpoint, Outbound};
pub use path_pattern::{PathPattern, PatternError, Segment};
pub use state::{
    App, AppChannel, AppHealth, AppProtocol, Balance, Endpoint, Listener, ListenerKind,
    OnControlLost, Origin, Route, State,
};
pub use telemetry::{ApiLog, Metrics, Sampling, Telemetry, Tracing};
