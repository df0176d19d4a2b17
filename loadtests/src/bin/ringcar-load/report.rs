//! What was measured, as JSON.

#![forbid(unsafe_code)]

use crate::{arguments::Plan, run::Outcome};
use anyhow::Result;
use loadtests::process;
use serde::Serialize;

#[derive(Serialize)]
pub(crate) struct Report {
    connections: usize,
    connections_idle: usize,
    requests: u64,
    errors: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_error: Option<String>,
    reconnects: u64,
    seconds: f64,
    rps: f64,
    p50_us: f64,
    p90_us: f64,
    p99_us: f64,
    p999_us: f64,
    max_us: f64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    watched: Vec<Watched>,
}

#[derive(Serialize)]
struct Watched {
    pid: u32,
    cpu_us_per_request: f64,
    cpu_share: f64,
    resident_kib: u64,
}

impl Report {
    pub(crate) fn new(plan: &Plan, outcome: &Outcome, connections_idle: usize) -> Result<Self> {
        let seconds = outcome.elapsed.as_secs_f64();
        let quantile = |q| micros(outcome.latency.value_at_quantile(q));
        let watched = plan.watched.iter().zip(&outcome.cpu_nanos).map(|(&pid, &nanos)| {
            Ok(Watched {
                pid,
                cpu_us_per_request: rounded(micros_f64(nanos) / to_f64(outcome.requests.max(1))),
                cpu_share: rounded(micros_f64(nanos) / 1e6 / seconds),
                resident_kib: process::resident_bytes(pid)? / 1024,
            })
        });
        Ok(Self {
            connections: plan.connections,
            connections_idle,
            requests: outcome.requests,
            errors: outcome.errors,
            first_error: outcome.first_error.clone(),
            reconnects: outcome.reconnects,
            seconds: rounded(seconds),
            rps: rounded(to_f64(outcome.requests) / seconds),
            p50_us: quantile(0.5),
            p90_us: quantile(0.9),
            p99_us: quantile(0.99),
            p999_us: quantile(0.999),
            max_us: micros(outcome.latency.max()),
            watched: watched.collect::<Result<_>>()?,
        })
    }
}

fn micros(nanos: u64) -> f64 {
    rounded(micros_f64(nanos))
}

fn micros_f64(nanos: u64) -> f64 {
    to_f64(nanos) / 1000.0
}

/// Exact up to 2^53: centuries in nanoseconds would not be.
#[expect(clippy::cast_precision_loss, reason = "what is counted here stays below 2^53")]
fn to_f64(count: u64) -> f64 {
    count as f64
}

/// Three digits after the point are more than the measurement knows.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
