//! What the kernel programs and their loader agree on: keys and values of the maps, byte for byte,
//! and the decisions, which are pure and tested on the host.
//!
//! Compiled twice, for the kernel and for the host. [`LAYOUT`] goes up with every change of a key,
//! a value or a meaning: pinned maps of another layout are never opened.

#![no_std]
#![forbid(unsafe_code)]

pub mod accelerate;
mod endpoint;
mod event;
mod identity;
mod rule;
mod settings;

pub use endpoint::{Endpoint, Ip};
pub use event::{Event, EventKind};
pub use identity::{Dialed, Flow, Identity, Member, Role};
pub use rule::{
    ANYBODY, Action, Decision, Facts, Pair, Place, PlaceKind, RuleKey, STRANGER, decide,
};
pub use settings::{Counter, Settings, WhenDead};

/// Version of everything in this crate that lies in a map.
pub const LAYOUT: u32 = 1;

/// `getsockopt(socket, IDENTITY_LEVEL, IDENTITY_NAME, …)` on an accepted socket gives the
/// [`Identity`] of whoever dialled. No protocol of Linux has this level ("RC").
pub const IDENTITY_LEVEL: i32 = 0x5243;
pub const IDENTITY_NAME: i32 = 1;

/// cgroups that belong to an app or to a data plane: APPS_MAX of a data plane twice over is more
/// than a machine runs.
pub const MEMBERS_MAX: usize = 32_768;

/// Ports of apps and of data planes: an app has up to four.
pub const PLACES_MAX: usize = 65_536;

/// Rules of the one generation in force and of the next one.
pub const RULES_MAX: usize = 262_144;

/// Connections between their SYN and their last ACK. On one machine that is microseconds each, so
/// this is a flood that no listener accepts; what finds no room is not identified.
pub const FLOWS_MAX: usize = 65_536;

/// Pairs that are counted; those not seen for longest make room.
pub const PAIRS_MAX: usize = 16_384;

/// Addresses of this machine beyond loopback.
pub const LOCAL_IPS_MAX: usize = 4_096;

/// Bytes of the ring that carries events; some 2,700 of them.
pub const EVENT_RING_BYTES: usize = 256 * 1024;
