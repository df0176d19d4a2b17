//! One call's way through telemetry without a relay around it, for benches: what observing costs
//! per request, and nothing else.

#![forbid(unsafe_code)]

use super::{Counters, Journal, Outcome, Planned, Seen, Side, Telemetry};
use crate::{adoption::Difference, clock::Instant, error::Hop, http::RequestHead};
use snapshot::Snapshot;
use std::{sync::Arc, time::Duration};

pub struct Probe {
    telemetry: Telemetry,
    journal: Arc<Journal>,
    lines: Vec<u8>,
    now: Instant,
}

impl Probe {
    /// A worker's telemetry of these apps.
    pub fn new(snapshot: &Snapshot) -> Self {
        let (counters, journal) = (Arc::<Counters>::default(), Arc::<Journal>::default());
        let mut telemetry = Telemetry::new(counters, Arc::clone(&journal), 7);
        telemetry.adopt(snapshot, &Difference::between(&Snapshot::empty(), snapshot));
        Self { telemetry, journal, lines: Vec::new(), now: Instant::from_nanos(1) }
    }

    /// The first app calls the second one, its neighbour, with this head, which lies in `bytes`.
    /// Returns the bytes of the lines that the call and its answer carry of it.
    pub fn call(&mut self, head: &RequestHead, bytes: &[u8]) -> usize {
        self.lines.clear();
        let seen = Seen { app: 0, side: Side::Api, head, bytes };
        let Ok(Some(mut observed)) = self.telemetry.on_request(&seen, self.now) else { return 0 };
        observed.on_callee(1);
        let planned = Planned {
            hop: Hop::InboundFromPeer,
            target: b"checkoutservice",
            method: b"checkout/100",
            head,
            bytes,
            caller: None,
        };
        self.telemetry.on_plan(&mut observed, &planned, &mut self.lines);
        observed.on_attempt(self.now);
        self.now = self.now + Duration::from_micros(150);
        self.telemetry.on_answer(&mut observed, 200, self.now);
        let added = self.lines.len() + observed.echo(false).len();
        let outcome = Outcome { status: None, response_bytes: 256 };
        self.telemetry.on_end(observed, outcome, self.now);
        self.telemetry.end_turn(self.now);
        added
    }

    /// What the link thread does with records.
    pub fn drain(&self) {
        while self.journal.take_call().is_some() || self.journal.take_span().is_some() {}
    }
}
