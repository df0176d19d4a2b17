//! The programs as they lie in the executable.
//!
//! `scripts/build-ebpf` makes the object from `ebpf/programs`; it is in the repository, so that
//! building Ringcar takes no compiler for the kernel. `ebpf/prebuilt/MANIFEST` says what it was
//! made of, and `scripts/test` holds both together.

#![forbid(unsafe_code)]

use aya::include_bytes_aligned;

pub(crate) static OBJECT: &[u8] = include_bytes_aligned!("../../prebuilt/ringcar.bpf.o");

/// Names one build of the programs (FNV-1a over the object).
pub(crate) fn name() -> String {
    let hash = OBJECT.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}
