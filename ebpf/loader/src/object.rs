//! The programs as they lie in the executable.
//!
//! `scripts/build-ebpf` makes the object from `ebpf/programs`; it is in the repository, so that
//! building Ringcar takes no compiler for the kernel. `ebpf/prebuilt/MANIFEST` says what it was
//! made of, and `scripts/test` holds both together.

#![forbid(unsafe_code)]

use aya::include_bytes_aligned;
use ebpf_common::{LAYOUT, MAPS};

/// Programs, and what their maps are like.
#[derive(Clone, Copy, Debug)]
pub struct Build {
    pub object: &'static [u8],
    pub layout: u32,
    /// With the layout that each one is of; see [`ebpf_common::MAPS`].
    pub maps: &'static [(&'static str, u32)],
}

impl Build {
    /// Of this executable.
    pub const THIS: Self = Self { object: OBJECT, layout: LAYOUT, maps: &MAPS };

    /// Unlike any other's.
    pub(crate) fn name(&self) -> String {
        name_of([self.object, &self.layout.to_le_bytes()])
    }

    pub(crate) fn has_map(&self, name: &str) -> bool {
        self.maps.iter().any(|(known, _)| *known == name)
    }
}

static OBJECT: &[u8] = include_bytes_aligned!("../../prebuilt/ringcar.bpf.o");

/// Of acceleration, for nodes that have it.
pub(crate) static ACCELERATE: &[u8] = include_bytes_aligned!("../../prebuilt/accelerate.bpf.o");

/// FNV-1a over all parts.
pub(crate) fn name_of<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let bytes = parts.into_iter().flatten();
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}
