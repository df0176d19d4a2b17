//! What loading takes is given up once it is done: maps are written through descriptors that are
//! open by then, and links are taken off through their files.

#![forbid(unsafe_code)]

use rustix::{
    io,
    thread::{
        CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set,
        set_capabilities,
    },
};

/// For this thread, those it will start, and the programs they execute.
///
/// # Errors
/// The kernel's, for the first thing that cannot be given up; without CAP_SETPCAP that is what a
/// program executed as root gets again.
pub(super) fn give_up() -> io::Result<()> {
    let gone = CapabilitySet::BPF | CapabilitySet::NET_ADMIN | CapabilitySet::SYS_ADMIN;
    for capability in gone.iter() {
        remove_capability_from_bounding_set(capability)?;
    }
    let CapabilitySets { effective, permitted, inheritable } = capabilities(None)?;
    set_capabilities(
        None,
        CapabilitySets {
            effective: effective - gone,
            permitted: permitted - gone,
            inheritable: inheritable - gone,
        },
    )
}
