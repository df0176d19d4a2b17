//! The programs in the kernel, with real processes in cgroups of the test's own. Needs root, cgroup
//! v2 and python3; where one is missing the tests say so and pass.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "helpers of tests, outside of what clippy takes for tests")]

mod capture;
mod identity;
mod lifecycle;
mod policy;
mod steering;
mod support;
