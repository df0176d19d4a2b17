//! What the kernel programs and their loader agree on: keys and values of the maps, byte for byte,
//! and the decisions, which are pure and tested on the host.
//!
//! Compiled twice, for the kernel and for the host. [`LAYOUT`] goes up with every change of a key,
//! a value or a meaning, and [`MAPS`] says which maps that concerns: those of another layout are
//! never opened, and those that are as they were are handed on.

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
pub use identity::{Capture, Dialed, Flow, Identity, Member, NAME_BYTES_MAX, Name, Role};
pub use rule::{
    ANYBODY, Action, Decision, Facts, Pair, Place, PlaceKind, RuleKey, STRANGER, decide,
};
pub use settings::{Counter, Settings, WhenDead};

/// Version of everything in this crate that lies in a map.
pub const LAYOUT: u32 = 2;

/// All maps, and the layout that each one is of. A map goes on with the next layout's programs, and
/// with what is in it, when its own number stays; members got a field where there were zeros, which
/// mean what they meant before.
pub const MAPS: [(&str, u32); 14] = [
    ("COUNTERS", 2),
    ("DIALED", 1),
    ("EVENTS", 1),
    ("FLOWS", 1),
    ("GENERATION", 1),
    ("LOCAL_IPS", 1),
    ("MEMBERS", 1),
    ("NAMES", 2),
    ("PAIRS", 2),
    ("PEERS", 1),
    ("PLACES", 1),
    ("RULES", 1),
    ("SETTINGS", 1),
    ("VIRTUALS", 2),
];

/// `getsockopt(socket, IDENTITY_LEVEL, IDENTITY_NAME, …)` on an accepted socket gives the
/// [`Identity`] of whoever dialled. No protocol of Linux has this level ("RC").
pub const IDENTITY_LEVEL: i32 = 0x5243;
pub const IDENTITY_NAME: i32 = 1;

/// The same for the [`Name`] that [`Identity::target`] stands for.
pub const TARGET_NAME: i32 = 3;

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

/// Addresses that stand for apps: of each app two, by its id alone and with its namespace.
pub const VIRTUALS_MAX: usize = 65_536;

/// Addresses of this machine beyond loopback.
pub const LOCAL_IPS_MAX: usize = 4_096;

/// Bytes of the ring that carries events; some 2,700 of them.
pub const EVENT_RING_BYTES: usize = 256 * 1024;
