//! The maps of acceleration, and counting. Who writes which: `docs/ebpf.md`.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, HashMap, PerCpuArray, SkStorage, SockHash},
    macros::btf_map,
};
use ebpf_common::{
    Endpoint, Flow,
    accelerate::{
        Acceleration, Direction, ENDS_MAX, End, HALF_OPEN_MAX, HOPS_MAX, Hop, PARTIES_MAX, Pace,
        SLOTS, Ticket,
    },
};

const ON_DEMAND: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map]
pub static ACCELERATION: Array<Acceleration, 1> = Array::new();

/// By id of a cgroup: the app's number, or `DATA_PLANE`.
#[btf_map]
pub static PARTIES: HashMap<u64, u64, PARTIES_MAX, ON_DEMAND> = HashMap::new();

/// Ports on loopback that are accelerated.
#[btf_map]
pub static HOPS: HashMap<Endpoint, Hop, HOPS_MAX, ON_DEMAND> = HashMap::new();

/// From the caller's half of the handshake to the callee's.
#[btf_map]
pub static HALF_OPEN: HashMap<Flow, Ticket, HALF_OPEN_MAX, ON_DEMAND> = HashMap::new();

#[btf_map]
pub static SOCKETS: SockHash<End, ENDS_MAX> = SockHash::new();

/// At the socket that sends.
#[btf_map]
pub static DIRECTIONS: SkStorage<Direction> = SkStorage::new();

/// What the data plane has read, by slot of the connection. The only map it writes.
#[btf_map]
pub static TAKEN: Array<u64, SLOTS, { BPF_F_MMAPABLE as usize }> = Array::new();

/// How often apps have sent, by slot of the connection.
#[btf_map]
pub static SPOKEN: Array<u64, SLOTS> = Array::new();

#[btf_map]
pub static PACES: PerCpuArray<u64, { Pace::COUNT }> = PerCpuArray::new();

#[inline(always)]
pub fn count(pace: Pace) {
    add(pace, 1);
}

#[inline(always)]
pub fn add(pace: Pace, amount: u64) {
    if let Some(number) = PACES.get_ptr_mut(pace as u32) {
        // SAFETY: the slot is this CPU's own, and a program does not migrate while it runs; an
        // interrupt that runs another program in between could lose one count, and nothing else.
        unsafe { *number += amount };
    }
}
