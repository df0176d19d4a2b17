//! Counters of one worker: written by it alone, summed by the link thread when control asks.
//!
//! A count is a relaxed load and store, not an atomic addition: there is one writer, so nothing can
//! be lost, and no bus lock is paid on the request path.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A number that one thread counts and others read.
#[derive(Debug, Default)]
pub(crate) struct Tally(AtomicU64);

impl Tally {
    #[inline]
    pub(crate) fn add(&self, count: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    #[inline]
    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    #[inline]
    pub(crate) fn value(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $field:ident: $kind:ident $name:literal $({ $label:literal: $value:literal })?,)*) => {
        /// One worker's counters.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $($(#[$doc])* pub(crate) $field: Tally,)*
        }

        impl Counters {
            /// Adds this worker's values to `sums`, which has one place per counter in the order of
            /// [`Self::describe`].
            pub(crate) fn add_to(&self, sums: &mut [u64]) {
                let values = [$(self.$field.value()),*];
                for (sum, value) in sums.iter_mut().zip(values) {
                    *sum += value;
                }
            }

            /// Metric name, label and kind of each counter.
            pub(crate) fn describe() -> &'static [Description] {
                &[$(Description {
                    name: $name,
                    label: counters!(@label $($label, $value)?),
                    kind: Kind::$kind,
                }),*]
            }
        }
    };
    (@label) => { None };
    (@label $label:literal, $value:literal) => { Some(($label, $value)) };
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Counter,
    Gauge,
}

#[derive(Debug)]
pub(crate) struct Description {
    pub name: &'static str,
    pub label: Option<(&'static str, &'static str)>,
    pub kind: Kind,
}

counters! {
    /// Requests whose head was complete, by who answers them.
    requests_local: Counter "ringcar_requests_total" { "to": "local_app" },
    requests_peer: Counter "ringcar_requests_total" { "to": "peer" },
    requests_external: Counter "ringcar_requests_total" { "to": "external" },
    requests_own: Counter "ringcar_requests_total" { "to": "ringcar" },
    /// Heads that were refused before anybody was asked.
    requests_refused: Counter "ringcar_requests_refused_total",
    /// Requests that were not let through, by what stopped them.
    denied_by_token: Counter "ringcar_requests_denied_total" { "by": "api_token" },
    denied_by_pipeline: Counter "ringcar_requests_denied_total" { "by": "pipeline" },
    denied_by_access: Counter "ringcar_requests_denied_total" { "by": "access_control" },
    /// Exchanges that ended without an answer from the app.
    exchange_errors: Counter "ringcar_exchange_errors_total",
    /// Responses that were cut off after their head had been forwarded.
    responses_truncated: Counter "ringcar_responses_truncated_total",
    connections_accepted: Counter "ringcar_connections_accepted_total",
    connections_open: Gauge "ringcar_connections_open",
    /// Connections to an API that is one app's alone, by somebody else.
    callers_refused: Counter "ringcar_callers_refused_total",
    accept_failures: Counter "ringcar_accept_failures_total",
    upstream_connects: Counter "ringcar_upstream_connects_total",
    upstream_connect_failures: Counter "ringcar_upstream_connect_failures_total",
    /// Requests that went out on a pooled connection.
    upstream_reuses: Counter "ringcar_upstream_reuses_total",
    /// Requests sent again because a pooled connection died before it answered.
    upstream_replays: Counter "ringcar_upstream_replays_total",
    /// Further attempts of requests that a peer did not take, at the same or another endpoint.
    peer_retries: Counter "ringcar_peer_retries_total",
    /// Attempts after the first that a resiliency policy asked for, and those that ran into its
    /// timeout.
    policy_retries: Counter "ringcar_policy_retries_total",
    policy_timeouts: Counter "ringcar_policy_timeouts_total",
    /// Calls that a policy would have had tried again, whose body was chunked, or too large to be
    /// kept.
    policy_retries_impossible: Counter "ringcar_policy_retries_impossible_total",
    /// Circuit breakers that opened and closed, and calls that they refused.
    breaker_opens: Counter "ringcar_breaker_moves_total" { "to": "open" },
    breaker_closes: Counter "ringcar_breaker_moves_total" { "to": "closed" },
    breaker_refusals: Counter "ringcar_breaker_refusals_total",
    /// Endpoints that are called no more for a while, and those that are called again; each worker
    /// for itself.
    endpoint_ejections: Counter "ringcar_endpoint_ejections_total",
    endpoint_readmissions: Counter "ringcar_endpoint_readmissions_total",
    /// Requests that another sidecar refused because it serves another app.
    misdirected: Counter "ringcar_misdirected_total",
    /// Calls that waited for control to find their app, and those of them that it did not find.
    calls_parked: Counter "ringcar_calls_parked_total",
    calls_unresolved: Counter "ringcar_calls_unresolved_total",
    /// Calls that waited for an app at its limit, and those that found too many waiting.
    gate_waits: Counter "ringcar_app_queue_waits_total",
    gate_refusals: Counter "ringcar_app_queue_refusals_total",
    /// Recordings whose labels had no room, and went to the series of all others.
    series_overflowed: Counter "ringcar_metric_series_overflowed_total",
    /// Logged calls and spans that the link thread had no room for.
    api_calls_dropped: Counter "ringcar_log_records_dropped_total",
    spans_dropped: Counter "ringcar_spans_dropped_total" { "reason": "ring_full" },
    spans_recorded: Counter "ringcar_spans_recorded_total",
    tunnels: Counter "ringcar_tunnels_total",
    buffers_leased: Gauge "ringcar_buffers_leased",
    turns: Counter "ringcar_worker_turns_total",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_two_workers_keep_their_places() {
        let (a, b) = (Counters::default(), Counters::default());
        a.requests_peer.add(2);
        b.requests_peer.add(3);
        b.connections_open.set(7);
        let mut sums = vec![0; Counters::describe().len()];
        a.add_to(&mut sums);
        b.add_to(&mut sums);
        let find = |name, label| {
            let is_it =
                |d: &Description| d.name == name && d.label.map(|(_, value)| value) == label;
            sums[Counters::describe().iter().position(is_it).unwrap()]
        };
        assert_eq!(find("ringcar_requests_total", Some("peer")), 5);
        assert_eq!(find("ringcar_requests_total", Some("local_app")), 0);
        assert_eq!(find("ringcar_connections_open", None), 7);
    }
}
