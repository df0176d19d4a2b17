//! What the kernel tells control, through a ring.

use crate::Endpoint;

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Event {
    /// [`EventKind`]
    pub kind: u32,
    pub pid: u32,
    /// `CLOCK_MONOTONIC`, in nanoseconds.
    pub at_ns: u64,
    pub caller: u64,
    pub callee: u64,
    /// Where it asked to go; of a listener, where that is.
    pub endpoint: Endpoint,
    pub reserved: u32,
    /// Of the process, padded with zeros.
    pub comm: [u8; 16],
}

const _: () = assert!(size_of::<Event>() == 72, "the layout of the ring's records");

#[repr(u32)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EventKind {
    DeniedByRule = 1,
    /// Another one's API.
    DeniedAtApi = 2,
    /// There was no data plane to go to, and connects are to fail then.
    DeniedPlaneDead = 3,
    /// An app's port is listened on.
    Listening = 4,
    /// An app's listener closed.
    NotListening = 5,
}

impl EventKind {
    pub const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::DeniedByRule,
            2 => Self::DeniedAtApi,
            3 => Self::DeniedPlaneDead,
            4 => Self::Listening,
            5 => Self::NotListening,
            _ => return None,
        })
    }
}
