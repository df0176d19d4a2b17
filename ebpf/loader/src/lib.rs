//! Brings Ringcar's programs into the kernel, fills their maps, and takes them out again.
//!
//! Control's part of the kernel half: [`Kernel::start`] needs CAP_BPF and CAP_NET_ADMIN, and
//! nothing after it does, since maps are written through descriptors that are open by then.
//! Programs and maps are pinned, so they outlive whoever brought them; see [`pins`].

mod accelerate;
mod cgroup;
mod error;
mod events;
mod kernel;
mod link;
mod netns;
mod object;
pub mod pins;
pub mod probe;
mod prove;
mod raw;
mod rules;
mod tables;

pub use accelerate::{Accelerator, counts as acceleration_counts};
pub use cgroup::{CgroupError, Cgroups};
pub use ebpf_common as common;
pub use error::KernelError;
pub use events::Events;
pub use kernel::{Kernel, Start};
pub use netns::cookie as netns_cookie;
pub use object::Build;
pub use prove::{Failed, ticket};
pub use rules::{Rule, Rules};
pub use tables::{PairCount, Tables};
