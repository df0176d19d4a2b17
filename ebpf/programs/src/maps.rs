//! The maps, and counting. Who writes which: `docs/ebpf.md`.
//!
//! Hashes are not preallocated: their bounds are what the largest node may need, and an idle one
//! should not pay for it.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, HashMap, LruPerCpuHashMap, PerCpuArray, SkStorage},
    macros::{btf_map, map},
    maps::RingBuf,
};
use ebpf_common::{
    Counter, Dialed, EVENT_RING_BYTES, Endpoint, FLOWS_MAX, Flow, Identity, Ip, LOCAL_IPS_MAX,
    MEMBERS_MAX, Member, Name, PAIRS_MAX, PLACES_MAX, Pair, Place, RULES_MAX, RuleKey, Settings,
    VIRTUALS_MAX,
};

const ON_DEMAND: usize = BPF_F_NO_PREALLOC as usize;

/// By id of a cgroup.
#[btf_map]
pub static MEMBERS: HashMap<u64, Member, MEMBERS_MAX, ON_DEMAND> = HashMap::new();

#[btf_map]
pub static PLACES: HashMap<Endpoint, Place, PLACES_MAX, ON_DEMAND> = HashMap::new();

/// Addresses that stand for apps, by the numbers of their names; port 0 is any port.
#[btf_map]
pub static VIRTUALS: HashMap<Endpoint, u32, VIRTUALS_MAX, ON_DEMAND> = HashMap::new();

#[btf_map]
pub static NAMES: HashMap<u32, Name, VIRTUALS_MAX, ON_DEMAND> = HashMap::new();

/// Addresses of this machine beyond loopback.
#[btf_map]
pub static LOCAL_IPS: HashMap<Ip, u32, LOCAL_IPS_MAX, ON_DEMAND> = HashMap::new();

#[btf_map]
pub static SETTINGS: Array<Settings, 1> = Array::new();

/// The rules in force. One word of its own, so that it changes at once.
#[btf_map]
pub static GENERATION: Array<u64, 1> = Array::new();

/// Values are numbers of [`ebpf_common::Action`].
#[btf_map]
pub static RULES: HashMap<RuleKey, u32, RULES_MAX, ON_DEMAND> = HashMap::new();

/// By generation 0.
#[btf_map]
pub static PAIRS: LruPerCpuHashMap<RuleKey, Pair, PAIRS_MAX> = LruPerCpuHashMap::new();

/// At the socket that dials.
#[btf_map]
pub static DIALED: SkStorage<Dialed> = SkStorage::new();

/// From the SYN to the last ACK.
#[btf_map]
pub static FLOWS: HashMap<Flow, Identity, FLOWS_MAX, ON_DEMAND> = HashMap::new();

/// At the socket that accepts.
#[btf_map]
pub static PEERS: SkStorage<Identity> = SkStorage::new();

#[btf_map]
pub static COUNTERS: PerCpuArray<u64, { Counter::COUNT }> = PerCpuArray::new();

/// Records are [`ebpf_common::Event`]s.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(EVENT_RING_BYTES as u32, 0);

#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(number) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the slot is this CPU's own, and a program does not migrate while it runs; an
        // interrupt that runs another program in between could lose one count, and nothing else.
        unsafe { *number += 1 };
    }
}

/// Which of a pair's counters.
#[derive(Clone, Copy)]
pub enum Outcome {
    Captured,
    Denied,
    Passed,
    Redirected,
    Shadowed,
}

#[inline(always)]
pub fn count_pair(caller: u64, callee: u64, outcome: Outcome) {
    let key = RuleKey { generation: 0, caller, callee };
    if PAIRS.get_ptr_mut(key).is_none() {
        // Another CPU may be first; then its entry stays.
        let _ = PAIRS.insert(key, Pair::default(), BPF_NOEXIST);
    }
    let Some(pair) = PAIRS.get_ptr_mut(key) else { return };
    // SAFETY: as in `count`; an entry that is given to another pair meanwhile stays a map's value
    // until the program ends (RCU).
    unsafe {
        match outcome {
            Outcome::Captured => (*pair).captured += 1,
            Outcome::Denied => (*pair).denied += 1,
            Outcome::Passed => (*pair).passed += 1,
            Outcome::Redirected => (*pair).redirected += 1,
            Outcome::Shadowed => (*pair).shadowed += 1,
        }
    }
}

const BPF_NOEXIST: u64 = 1;
