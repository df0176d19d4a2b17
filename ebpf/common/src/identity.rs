//! Who dialled: from a cgroup to an app, and from a connect to the socket that accepts it.

use crate::Endpoint;

/// What a registered cgroup is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Member {
    /// The app's name as a number; see [`crate::RuleKey`].
    pub app: u64,
    /// [`Role`]
    pub role: u16,
    /// Where its API is, on 127.0.0.1; 0: it is not steered.
    pub api_port: u16,
    pub reserved: u32,
}

const _: () = assert!(size_of::<Member>() == 16, "the layout of a map's value");

#[repr(u16)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    App = 1,
    /// Whatever it dials is what it was asked to carry: neither steered nor judged.
    DataPlane = 2,
}

/// The kernel's answer to the question who dialled.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Identity {
    /// Id of the registered cgroup, which is its inode; ids of cgroups are not given twice.
    pub cgroup: u64,
    pub app: u64,
    pub pid: u32,
    pub reserved: u32,
}

const _: () = assert!(size_of::<Identity>() == 24, "the layout that getsockopt gives");

/// Kept at the socket that dials, for as long as it lives.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Dialed {
    pub identity: Identity,
    /// What the app asked for.
    pub asked: Endpoint,
    /// 1 while `identity` is to be handed over.
    pub is_identified: u16,
    /// Port on 127.0.0.1 where it was sent instead; 0: it went where it asked to go.
    pub sent_to: u16,
}

const _: () = assert!(size_of::<Dialed>() == 48, "the layout of a map's value");

/// A connection between its SYN and its last ACK, as the side that dials names it. No two sockets
/// of a network namespace have the same four at a time.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Flow {
    pub netns: u64,
    pub local: Endpoint,
    pub remote: Endpoint,
}

const _: () = assert!(size_of::<Flow>() == 48, "the layout of a map's key");
