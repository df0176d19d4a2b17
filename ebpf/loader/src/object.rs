//! The programs as they lie in the executable.
//!
//! `scripts/build-ebpf` makes the object from `ebpf/programs`; it is in the repository, so that
//! building Ringcar takes no compiler for the kernel. `ebpf/prebuilt/MANIFEST` says what it was
//! made of, and `scripts/test` holds both together.

#![forbid(unsafe_code)]

use aya::include_bytes_aligned;

pub(crate) static OBJECT: &[u8] = include_bytes_aligned!("../../prebuilt/ringcar.bpf.o");

/// Of acceleration, for nodes that have it.
pub(crate) static ACCELERATE: &[u8] = include_bytes_aligned!("../../prebuilt/accelerate.bpf.o");

/// Names one build of the programs.
pub(crate) fn name() -> String {
    name_of(OBJECT)
}

/// FNV-1a.
pub(crate) fn name_of(object: &[u8]) -> String {
    let hash = object.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}
