//! Traces on their way through a sidecar: which a request belongs to, what the call carries, what
//! the client gets back, and which hops are recorded.
//!
//! Without a sampling rate a call carries on what its caller sent, as with daprd; where the caller
//! sent nothing it gets a trace of its own, where daprd sends one of zeros. With one every hop is a
//! span.

#![forbid(unsafe_code)]

use super::{
    Telemetry,
    calls::{Planned, Seen},
    notes::number_of,
    observed::{Observed, Side, Traced},
    record::{Span, SpanKind},
    trace::{Context, SAMPLED, is_tracestate},
};
use crate::{
    clock::Instant,
    error::Hop,
    http::{Field, FieldSet},
};
use snapshot::Tracing;

impl Telemetry {
    pub(super) fn trace_request(&mut self, observed: &mut Observed, seen: &Seen<'_>) {
        let Some(tracing) = observed.app.tracing() else { return };
        let parent = parent_of(seen);
        observed.keeps_tracestate = parent.is_some() && has_good_tracestate(seen);
        let traced = self.hop(tracing, parent);
        observed.own = Some(traced);
        if observed.app.records_spans() {
            observed.span_name.push(path_of(observed.method.bytes()));
        }
        if traced.is_recorded {
            observed.note_asked(seen.head, seen.bytes);
        }
        if seen.side == Side::Peer {
            return;
        }
        traced.context.write_line(&mut observed.echo);
        observed.echo_line_bytes = observed.echo.len();
        if observed.keeps_tracestate {
            write_values(b"tracestate: ", Field::Tracestate, seen, &mut observed.echo);
        }
        observed.echo_trace_bytes = observed.echo.len();
        if seen.head.lines.has(Field::Baggage) {
            write_values(b"baggage: ", Field::Baggage, seen, &mut observed.echo);
        }
    }

    fn hop(&mut self, tracing: Tracing, parent: Option<Context>) -> Traced {
        let sampling = match (tracing, parent) {
            (Tracing::PassThrough, Some(context)) => {
                return Traced { context, parent: [0; 8], is_recorded: false };
            }
            (Tracing::PassThrough, None) => None,
            (Tracing::Recording(sampling), _) => Some(sampling),
        };
        let trace = parent.map_or_else(|| self.ids.trace(), |parent| parent.trace);
        let is_recorded = match parent {
            Some(parent) => sampling.is_some() && parent.is_sampled(),
            None => sampling.is_some_and(|sampling| sampling.takes(&trace)),
        };
        let others = parent.map_or(0, |parent| parent.flags & !SAMPLED);
        let flags = others | if is_recorded { SAMPLED } else { 0 };
        let context = Context { trace, span: self.ids.span(), flags };
        Traced { context, parent: parent.map_or([0; 8], |parent| parent.span), is_recorded }
    }

    /// Appends the lines that the call carries; returns the client's lines that they replace.
    pub(super) fn trace_call(
        &mut self,
        observed: &mut Observed,
        planned: &Planned<'_>,
        lines: &mut Vec<u8>,
    ) -> FieldSet {
        let Some(own) = observed.own else { return FieldSet::default() };
        let is_neighbour = observed.side == Side::Api && planned.hop == Hop::InboundFromPeer;
        let mut carried = own.context;
        if is_neighbour
            && let Some(tracing) = observed.callee.as_ref().and_then(|callee| callee.tracing())
        {
            let traced = self.hop(tracing, Some(own.context));
            carried = traced.context;
            observed.callee_span = Some(traced);
            if traced.is_recorded {
                observed.note_asked(planned.head, planned.bytes);
            }
        }
        // What the client is told is often what the call carries.
        match observed.echo.get(..observed.echo_line_bytes) {
            Some(line) if carried == own.context && !line.is_empty() => {
                lines.extend_from_slice(line);
            }
            _ => carried.write_line(lines),
        }
        if observed.keeps_tracestate {
            FieldSet::of(&[Field::Traceparent])
        } else {
            FieldSet::of(&[Field::Traceparent, Field::Tracestate])
        }
    }

    pub(super) fn record_spans(&mut self, observed: &Observed, now: Instant) {
        let ended = observed.answered.unwrap_or(now);
        if let Some(own) = observed.own.filter(|own| own.is_recorded) {
            let kind = match observed.side {
                Side::Api | Side::Public => SpanKind::Client,
                Side::Peer => SpanKind::Server,
            };
            self.record_span(span(observed, own, kind, number_of(&observed.app), ended));
        }
        if let Some(callee) = &observed.callee
            && let Some(traced) = observed.callee_span.filter(|traced| traced.is_recorded)
        {
            self.record_span(span(observed, traced, SpanKind::Server, number_of(callee), ended));
        }
    }

    fn record_span(&mut self, span: Span) {
        self.has_news = true;
        if self.journal.put_span(span) {
            self.counters.spans_recorded.add(1);
        } else {
            self.counters.spans_dropped.add(1);
        }
    }
}

fn span(observed: &Observed, traced: Traced, kind: SpanKind, app: u32, ended: Instant) -> Span {
    Span {
        app,
        kind,
        context: traced.context,
        parent: traced.parent,
        name: observed.span_name,
        status: observed.status,
        is_answered: observed.answered.is_some(),
        asked: observed.asked.as_deref().copied().unwrap_or_default(),
        began: observed.began,
        ended,
    }
}

/// Two of them contradict each other, so neither counts (§4.3).
fn parent_of(seen: &Seen<'_>) -> Option<Context> {
    let lines = &seen.head.lines;
    if lines.is_repeated(Field::Traceparent) {
        return None;
    }
    Context::parse(lines.find(Field::Traceparent)?.value.of(seen.bytes))
}

/// Several lines are one list (§3.3); each is judged alone, and all together may not be too long.
fn has_good_tracestate(seen: &Seen<'_>) -> bool {
    if !seen.head.lines.has(Field::Tracestate) {
        return false;
    }
    let values = || {
        let lines = seen.head.lines.iter().filter(|line| line.field == Field::Tracestate);
        lines.map(|line| line.value.of(seen.bytes))
    };
    let bytes: usize = values().map(|value| value.len() + 1).sum();
    bytes <= crate::limits::TRACESTATE_BYTES_MAX + 1 && values().all(is_tracestate)
}

/// All values of a field in one line.
fn write_values(name: &[u8], field: Field, seen: &Seen<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    let lines = seen.head.lines.iter().filter(|line| line.field == field);
    for (index, line) in lines.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(line.value.of(seen.bytes));
    }
    out.extend_from_slice(b"\r\n");
}

/// Of verb and path.
fn path_of(method: &[u8]) -> &[u8] {
    memchr::memchr(b' ', method).map_or(method, |space| &method[space + 1..])
}
