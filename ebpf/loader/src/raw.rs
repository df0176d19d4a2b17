//! Keys and values as the bytes that the kernel sees.

use aya::Pod;
use ebpf_common::{
    Endpoint, Flow, Identity, Ip, Member, Name, Pair, Place, RuleKey, Settings,
    accelerate::{Acceleration, End, Hop},
};

/// A value of a map; what it wraps may be any bytes.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Raw<T>(pub(crate) T);

/// Types that are integers through and through.
pub(crate) trait Plain: Copy + 'static {}

impl Plain for Acceleration {}
impl Plain for End {}
impl Plain for Endpoint {}
impl Plain for Flow {}
impl Plain for Hop {}
impl Plain for Identity {}
impl Plain for Ip {}
impl Plain for Member {}
impl Plain for Name {}
impl Plain for Pair {}
impl Plain for Place {}
impl Plain for RuleKey {}
impl Plain for Settings {}

// SAFETY: `Plain` is private and implemented above alone, for `repr(C)` structs of integers whose
// sizes are asserted where they are defined to be the sum of their fields: every byte is
// initialised, and any bytes are a value. A type with padding or an enum would break this.
unsafe impl<T: Plain> Pod for Raw<T> {}
