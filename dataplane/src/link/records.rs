//! Calls and spans on their way from the workers' journals to control.
//!
//! While there is no control, or one that still finds its way, they stay where they are; what then
//! finds no room there is counted by its worker.

#![forbid(unsafe_code)]

use super::Link;
use crate::{
    clock::{self, Instant},
    limits::{RECORDS_MAX, RECORDS_PER_FRAME},
    telemetry::{ApiCall, Asked, Journal, Span, SpanKind},
};
use snapshot::wire::{self, FromDataPlane};
use std::sync::Arc;

impl Link {
    /// Ready to be called whenever the link is awake; a worker wakes it after it recorded
    /// something.
    pub(super) fn send_records(&mut self) {
        let wall = Wall::now();
        for index in 0..self.counted.journals.len() {
            let journal = Arc::clone(&self.counted.journals[index]);
            self.send_all(
                &journal,
                Journal::take_call,
                |call| wall.call(call),
                FromDataPlane::ApiCalls,
            );
            self.send_all(
                &journal,
                Journal::take_span,
                |span| wall.span(span),
                FromDataPlane::Spans,
            );
        }
    }

    fn send_all<R, W>(
        &mut self,
        journal: &Journal,
        take: impl Fn(&Journal) -> Option<R>,
        put_into_words: impl Fn(&R) -> W,
        message: impl Fn(Vec<W>) -> FromDataPlane,
    ) {
        // No more than fit a journal: workers go on recording, and others wait for the link.
        for _ in 0..=RECORDS_MAX / RECORDS_PER_FRAME {
            if self.socket.is_none() || !self.is_fed {
                return;
            }
            let records = std::iter::from_fn(|| take(journal)).take(RECORDS_PER_FRAME);
            let records: Vec<W> = records.map(|record| put_into_words(&record)).collect();
            let is_full = records.len() == RECORDS_PER_FRAME;
            if !records.is_empty() {
                self.send(&message(records));
            }
            if !is_full {
                return;
            }
        }
    }
}

/// Turns the workers' time into everybody's.
struct Wall {
    now: Instant,
    unix_nanos: u64,
}

impl Wall {
    fn now() -> Self {
        Self { now: clock::now(), unix_nanos: clock::unix_nanos() }
    }

    fn at(&self, time: Instant) -> u64 {
        let ago = u64::try_from(self.now.since(time).as_nanos()).unwrap_or(u64::MAX);
        self.unix_nanos.saturating_sub(ago)
    }

    fn call(&self, call: &ApiCall) -> wire::ApiCall {
        wire::ApiCall {
            app: call.app,
            method: call.method.text(),
            user_agent: call.user_agent.text(),
            status: call.status,
            response_bytes: call.response_bytes,
            duration: call.ended.since(call.began),
            ended: self.at(call.ended),
        }
    }

    fn span(&self, span: &Span) -> wire::Span {
        wire::Span {
            app: span.app,
            kind: match span.kind {
                SpanKind::Client => wire::SpanKind::Client,
                SpanKind::Server => wire::SpanKind::Server,
            },
            trace: span.context.trace,
            span: span.context.span,
            parent: span.parent,
            name: span.name.text(),
            status: span.status,
            is_answered: span.is_answered,
            verb: span.asked.verb.text(),
            target: span.asked.target.text(),
            headers: headers(&span.asked),
            client: span.asked.client,
            began: self.at(span.began),
            ended: self.at(span.ended),
        }
    }
}

fn headers(asked: &Asked) -> Vec<(String, String)> {
    let lines = asked.headers.text();
    let pairs = lines.split_terminator('\n').filter_map(|line| line.split_once(':'));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
