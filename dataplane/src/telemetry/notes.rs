//! What is counted and logged of an exchange at its stations.
//!
//! daprd's two sidecars each count their part of a call; where both are one data plane, both parts
//! are counted here.

#![forbid(unsafe_code)]

use super::{
    Answered, Telemetry,
    app::AppTelemetry,
    calls::Outcome,
    histogram::Histogram,
    observed::{Observed, Side},
    record::ApiCall,
    series::{Family, Labels, Verb},
};
use crate::{clock::Instant, error::Hop};

impl Telemetry {
    /// What the callee's sidecar tells of its call to the app.
    pub(super) fn note_client_call(&mut self, observed: &Observed, status: u16, now: Instant) {
        let Some(callee) = &observed.callee else { return };
        let Some(metrics) = callee.metrics() else { return };
        let verb = if metrics.excludes_verbs { Verb::NONE } else { observed.verb };
        let labels = Labels::of(Family::Client, observed.callee_path.name).with(verb, status);
        let series = self.series(callee, labels);
        series.count.add(1);
        record(&series.latency, whole_millis(observed.attempted, now));
        record(&series.bytes, observed.request_bytes);
    }

    pub(super) fn note_invocation(&mut self, observed: &Observed, status: u16, now: Instant) {
        if observed.hop == Some(Hop::SelfCall) {
            return;
        }
        if observed.side == Side::Api && observed.app.metrics().is_some() {
            let labels = Labels::of(Family::InvokeReceived, observed.target);
            let series = self.series(&observed.app, labels.with(Verb::NONE, status));
            series.count.add(1);
            record(&series.latency, whole_millis(observed.began, now));
        }
        if let Some(callee) = &observed.callee {
            let labels = Labels::of(Family::InvokeAnswered, observed.caller);
            self.count(callee, labels.with(Verb::NONE, status));
        }
    }

    /// The time that it takes in here ends with this turn.
    pub(super) fn note_added(&mut self, observed: &Observed) {
        let (app, family, path, default) = match (observed.side, &observed.callee) {
            (Side::Api | Side::Public, _) => {
                (&observed.app, Family::AddedOutbound, observed.path, self.outbound_route)
            }
            (Side::Peer, Some(callee)) => {
                (callee, Family::AddedInbound, observed.callee_path, self.inbound_route)
            }
            (Side::Peer, None) => return,
        };
        if app.metrics().is_none() {
            return;
        }
        let route = if path.is_pattern { path.name } else { default };
        let labels = Labels::of(family, route);
        self.series(app, labels);
        let Observed { began, waited_ns, .. } = *observed;
        self.answered.push(Answered { slot: app.slot(), labels, began, waited_ns });
    }

    /// What the caller's sidecar tells of a request to its API.
    pub(super) fn note_server_request(
        &mut self,
        observed: &Observed,
        outcome: Outcome,
        now: Instant,
    ) {
        let app = &observed.app;
        if app.metrics().is_none() {
            return;
        }
        let labels = Labels::of(Family::Server, observed.path.name);
        let series = self.series(app, labels.with(observed.verb, observed.status));
        series.count.add(1);
        record(&series.latency, whole_millis(observed.began, now));
        for (family, bytes) in [
            (Family::RequestBytes, observed.request_bytes),
            (Family::ResponseBytes, outcome.response_bytes),
        ] {
            self.record_bytes(app, family, bytes);
        }
    }

    pub(super) fn log_call(&mut self, observed: &Observed, outcome: Outcome, now: Instant) {
        let Some(log) = observed.app.api_log() else { return };
        if !observed.is_logged || (log.omits_health_checks && observed.is_health_check) {
            return;
        }
        let call = ApiCall {
            app: number_of(&observed.app),
            method: observed.method,
            user_agent: observed.user_agent,
            status: observed.status,
            response_bytes: outcome.response_bytes,
            began: observed.began,
            ended: now,
        };
        self.has_news = true;
        if !self.journal.put_call(call) {
            self.counters.api_calls_dropped.add(1);
        }
    }
}

pub(super) fn number_of(app: &AppTelemetry) -> u32 {
    u32::try_from(app.number).expect("the snapshot's number was a u32")
}

pub(super) fn record(histogram: &Option<Histogram>, value: u64) {
    if let Some(histogram) = histogram {
        histogram.record(value);
    }
}

/// Cut off, as daprd does.
fn whole_millis(from: Instant, to: Instant) -> u64 {
    to.nanos_since(from) / NANOS_PER_MILLI
}

const NANOS_PER_MILLI: u64 = 1_000_000;
