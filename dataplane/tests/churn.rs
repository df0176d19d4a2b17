//! Apps that are called, change and go, in a data plane whose numbers nobody reads: nothing of them
//! stays.
//!
//! A process of its own, since what is measured is the process.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected ends there")]

#[expect(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "the conversations in e2e use the rest"
)]
mod support;

use dataplane::engine::Choice;
use snapshot::{Metrics, Telemetry};
use std::sync::Arc;
use support::Plane;

/// Kept, each of them would leave some 2 KiB.
const SERIES_PER_ROUND: usize = 50;
const ROUNDS: usize = 200;
const GROWTH_BYTES_MAX: u64 = 4 << 20;

#[test]
fn series_of_apps_that_change_leave_memory_flat() {
    let telemetry = |bound| {
        let metrics = Metrics {
            has_raw_paths: true,
            patterns: Vec::new(),
            excludes_verbs: false,
            counts_error_codes: true,
            latency_bounds_ms: (bound..bound + 100).collect(),
        };
        Arc::new(Telemetry { metrics: Some(metrics), ..Telemetry::default() })
    };
    let mut plane = Plane::on(Choice::Auto)
        .app("orders", None)
        .edit(|state| state.apps[0].telemetry = telemetry(1))
        .start();
    let mut client = plane.client();
    let mut round = |bound| {
        for path in 0..SERIES_PER_ROUND {
            client.send(format!("GET /{path} HTTP/1.1\r\nHost: a\r\n\r\n"));
            client.read_response();
        }
        // Other buckets: all series end, and others begin.
        plane.publish(|state| state.apps[0].telemetry = telemetry(bound));
    };
    (2..12).for_each(&mut round);
    let before = resident_bytes();
    (0..ROUNDS).for_each(|n| round(12 + u32::try_from(n).unwrap()));
    let growth = resident_bytes().saturating_sub(before);
    println!("{} KiB resident before, {} KiB more after", before >> 10, growth >> 10);
    assert!(growth < GROWTH_BYTES_MAX, "memory grew by {growth} bytes");
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line =
        status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("a line of the kernel's");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}
