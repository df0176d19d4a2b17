//! The contract between control and data plane.
//!
//! Control describes the world as a [`State`], sends it over the [`wire`], and the data plane turns it into a
//! [`Snapshot`]: validated once, then only read. Nothing in here touches a socket; both sides depend on this
//! crate and on nothing of each other.

#![forbid(unsafe_code)]

mod address;
mod build;
mod id;
mod state;
pub mod wire;

pub use address::Address;
pub use build::{BuildError, Snapshot};
pub use id::{AppId, ID_BYTES_MAX, IdError, InstanceId, ListenerId, Namespace, Version};
pub use state::{
    App, AppChannel, AppHealth, AppProtocol, Endpoint, Listener, ListenerKind, OnControlLost,
    Origin, Route, State,
};
