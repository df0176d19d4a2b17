//! Random numbers that a seed decides, so that tests can repeat what they saw. For balance and
//! jitter, not for secrets.

#![forbid(unsafe_code)]

/// Marsaglia's xorshift with a multiplication behind it (xorshift64*): three shifts a number, no
/// system call.
pub(crate) struct Draw(u64);

impl Draw {
    /// Splitmix64 spreads seeds that lie close together.
    pub(crate) fn new(seed: u64) -> Self {
        let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // Zero would stay zero for ever.
        Self((mixed ^ (mixed >> 31)).max(1))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`, which is not zero.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        debug_assert!(bound > 0, "there is no number below zero");
        let scaled = (u128::from(self.next()) * bound as u128) >> u64::BITS;
        usize::try_from(scaled).expect("it is below a usize")
    }
}
