//! Acceleration, live: real sockets whose bytes go past TCP, with every byte checked.
//!
//! Take root; each test that cannot run says so. The test's own process is in a control group that
//! the programs are attached to, plays the app or the data plane or both, and so does one thing at
//! a time.

#![expect(clippy::unwrap_used, reason = "helpers of tests, outside of what clippy takes for tests")]
#![expect(clippy::cast_possible_truncation, reason = "sizes of tests are small")]

mod hazards;
mod soak;
mod support;
