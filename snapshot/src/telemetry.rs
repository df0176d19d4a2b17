//! What is told of an app's calls: as metrics, in the log, as spans.
//!
//! Plain values, part of [`crate::App`]. The default tells nothing; control writes daprd's defaults
//! into it.

use crate::PathPattern;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Telemetry {
    /// `None`: no series of this app.
    pub metrics: Option<Metrics>,
    /// `None`: calls are not logged.
    pub api_log: Option<ApiLog>,
    /// `None`: trace headers are passed on like any others.
    pub tracing: Option<Tracing>,
}

/// `spec.metrics` of a Configuration, as far as it decides which series there are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// Whether a path that no pattern matches is a label as it is.
    pub has_raw_paths: bool,
    pub patterns: Vec<PathPattern>,
    /// Whether the verb is left out of the labels.
    pub excludes_verbs: bool,
    pub counts_error_codes: bool,
    /// Upper ends of the latency histograms' buckets in milliseconds, ascending.
    pub latency_bounds_ms: Vec<u32>,
}

/// `spec.logging.apiLogging`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct ApiLog {
    /// The route is told instead of the path.
    pub obfuscates_urls: bool,
    pub omits_health_checks: bool,
}

/// `spec.tracing`, as far as it decides what calls carry.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Tracing {
    /// Every call belongs to a trace, and nothing is recorded: daprd without a sampling rate.
    PassThrough,
    /// Every hop is a span. One whose caller has not decided is recorded when its trace id says so.
    Recording(Sampling),
}

/// Which traces are recorded, decided by the trace id alone, so that all hops decide alike.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Those whose last 63 bits are below this.
    below: u64,
}

impl Sampling {
    /// `ratio` of all traces; OpenTelemetry's TraceIdRatioBased, so that both decide alike.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "the ratio is between 0 and 1, and its last bits decide nothing"
    )]
    pub fn of_ratio(ratio: f64) -> Self {
        let all = 1_u64 << 63;
        let below = if ratio >= 1.0 { all } else { (ratio.max(0.0) * all as f64) as u64 };
        Self { below }
    }

    pub const fn takes(self, trace_id: &[u8; 16]) -> bool {
        let [_, _, _, _, _, _, _, _, a, b, c, d, e, f, g, h] = *trace_id;
        u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 1 < self.below
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_the_trace_id_decides() {
        let id = |last: u64| {
            let mut id = [0xff; 16];
            id[8..].copy_from_slice(&last.to_be_bytes());
            id
        };
        for (case, ratio, last, want) in [
            ("none", 0.0, 0, false),
            ("less than none", -1.0, 0, false),
            ("not a number", f64::NAN, 0, false),
            ("all", 1.0, u64::MAX, true),
            ("more than all", 7.0, u64::MAX, true),
            ("half, below", 0.5, u64::MAX / 2 - 1, true),
            ("half, above", 0.5, u64::MAX / 2 + 1, false),
            ("few, zero", 0.0001, 0, true),
            ("few, most", 0.0001, 1 << 60, false),
        ] {
            assert_eq!(Sampling::of_ratio(ratio).takes(&id(last)), want, "{case}");
        }
    }
}
