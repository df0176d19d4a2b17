//! What holds for all connects, and what is counted of them.

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Settings {
    /// Cookie of the network namespace where the data plane listens. Another one has another
    /// 127.0.0.1, so connects in it are left alone.
    pub netns: u64,
    /// Where apps look for their sidecar, on 127.0.0.1 and ::1; 0: nowhere.
    pub sidecar_port: u16,
    /// [`WhenDead`]
    pub when_dead: u16,
    pub reserved: u32,
}

const _: () = assert!(size_of::<Settings>() == 16, "the layout of a map's value");

/// What becomes of a connect whose data plane does not listen.
#[repr(u16)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum WhenDead {
    /// Refused.
    #[default]
    Closed = 0,
    /// It goes where it asked to go.
    Open = 1,
}

/// Indices of the counters; each CPU has its own.
#[repr(u32)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Counter {
    Connects = 0,
    /// To the caller's API.
    Steered,
    /// To the callee's inbound port.
    Redirected,
    Denied,
    /// Told to a socket that accepted.
    Identified,
    /// No room for one more: the connection is not identified.
    FlowsFull,
    /// No room at a socket: the connect is refused.
    StorageFull,
    /// No room for an event; whatever it told of happened.
    EventsLost,
    /// Left alone, or refused, for want of a data plane.
    PlaneDead,
    /// In another network namespace; left alone.
    Elsewhere,
    /// Taken for a call of an app.
    Captured,
}

impl Counter {
    pub const ALL: [Self; 11] = [
        Self::Connects,
        Self::Steered,
        Self::Redirected,
        Self::Denied,
        Self::Identified,
        Self::FlowsFull,
        Self::StorageFull,
        Self::EventsLost,
        Self::PlaneDead,
        Self::Elsewhere,
        Self::Captured,
    ];
    pub const COUNT: usize = Self::ALL.len();
}
