//! Trace and span ids of one worker.
//!
//! SplitMix64 from a seed that the system draws: unlike anybody else's, and cheap. Ids are no
//! secrets.

#![forbid(unsafe_code)]

use super::trace::{SpanId, TraceId};

#[derive(Debug)]
pub(super) struct Ids(u64);

impl Ids {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Never zero, which means none.
    pub(super) fn span(&mut self) -> SpanId {
        self.next().max(1).to_be_bytes()
    }

    pub(super) fn trace(&mut self) -> TraceId {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.next().max(1).to_be_bytes());
        id[8..].copy_from_slice(&self.next().to_be_bytes());
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn ids_are_not_zero_and_not_repeated() {
        let mut seen = HashSet::new();
        for seed in [0, 1, u64::MAX] {
            let mut ids = Ids::new(seed);
            for _ in 0..1000 {
                assert_ne!(ids.span(), [0; 8]);
                assert!(seen.insert(ids.trace()), "seed {seed}");
            }
        }
    }
}
