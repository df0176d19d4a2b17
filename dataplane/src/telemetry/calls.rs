//! The way of one exchange through telemetry: asked, planned, tried, answered, over.

#![forbid(unsafe_code)]

use super::{
    BaggageError, Seeing, Telemetry,
    app::AppTelemetry,
    baggage,
    names::NameId,
    observed::{Observed, Side},
    paths::{self, Label, merge_slashes},
    series::{Family, Labels, Verb},
};
use crate::{
    clock::Instant,
    dapr::{LocalCall, escape::decode_path, target::id_of},
    error::Hop,
    http::{Field, FieldSet, Framing, RequestHead},
};

/// A request's head, and whose sidecar it came to.
pub(crate) struct Seen<'a> {
    pub(crate) app: usize,
    pub(crate) side: Side,
    pub(crate) head: &'a RequestHead,
    /// Its bytes.
    pub(crate) bytes: &'a [u8],
}

/// Where a call goes.
pub(crate) struct Planned<'a> {
    pub(crate) hop: Hop,
    /// As it was called, namespace included.
    pub(crate) target: &'a [u8],
    /// As the app sees it, without a slash before it.
    pub(crate) method: &'a [u8],
    pub(crate) head: &'a RequestHead,
    pub(crate) bytes: &'a [u8],
    /// Who calls, by the kernel's word: nothing for processes of no app. `None`: the head says it,
    /// as the caller's sidecar wrote it.
    pub(crate) caller: Option<&'a str>,
}

/// How an exchange ended for its client.
#[derive(Clone, Copy)]
pub(crate) struct Outcome {
    /// `None`: as the app answered it, if it did.
    pub(crate) status: Option<u16>,
    pub(crate) response_bytes: u64,
}

impl Telemetry {
    /// A request has come. `None`: nothing is told of this app's calls.
    ///
    /// # Errors
    /// When it is to be refused for its baggage.
    pub(crate) fn on_request<'a>(
        &mut self,
        seen: &Seen<'a>,
        now: Instant,
    ) -> Result<Option<Box<Observed>>, BaggageError<'a>> {
        let Some(app) = self.find(seen.app).filter(|app| !app.is_silent()) else {
            return Ok(None);
        };
        let is_traced = app.tracing().is_some();
        let excludes_verbs = app.metrics().is_some_and(|metrics| metrics.excludes_verbs);
        let mut observed = match self.spare.pop() {
            Some(mut observed) => {
                observed.renew(app, seen.side, now);
                observed
            }
            None => Box::new(Observed::new(app, seen.side, now)),
        };
        observed.request_bytes = match seen.head.framing {
            Framing::Length(bytes) => bytes,
            _ => 0,
        };
        observed.verb = if excludes_verbs { Verb::NONE } else { Verb::of(seen.head.method) };
        if seen.side.is_client() {
            self.note_path(&mut observed, seen);
        }
        if is_traced && !observed.is_health_check {
            if seen.side.is_client() {
                check_baggage(seen)?;
            }
            self.trace_request(&mut observed, seen);
        }
        Ok(Some(observed))
    }

    fn note_path(&mut self, observed: &mut Observed, seen: &Seen<'_>) {
        let path = path_of(seen.head.target.of(seen.bytes));
        let app = &*observed.app;
        let seeing = match self.paths.find(app.number, path) {
            Some(seeing) => seeing,
            None => {
                let seeing = self.see(app, path);
                self.paths.keep(app.number, path, seeing);
                seeing
            }
        };
        observed.is_health_check = seeing.is_health_check;
        observed.path = seeing.label;
        let (is_logged, is_recorded) = (app.api_log().is_some(), app.records_spans());
        if is_logged || is_recorded {
            self.scratch.clear();
            let is_escaped = memchr::memchr(b'%', path).is_some();
            let is_decoded = is_escaped && decode_path(path, &mut self.scratch).is_ok();
            observed.method.push(seen.head.method_name.of(seen.bytes));
            observed.method.push(b" ");
            observed.method.push(if is_decoded { &self.scratch } else { path });
        }
        if is_logged && let Some(line) = seen.head.lines.find(Field::UserAgent) {
            observed.user_agent.push(line.value.of(seen.bytes));
        }
    }

    /// A path that is not at hand.
    fn see(&mut self, app: &AppTelemetry, path: &[u8]) -> Seeing {
        self.scratch.clear();
        let is_escaped = memchr::memchr(b'%', path).is_some();
        let decoded = match is_escaped && decode_path(path, &mut self.scratch).is_ok() {
            true => &self.scratch[..],
            false => path,
        };
        let is_health_check = self.finders.healthz.find(decoded).is_some();
        let label = app.metrics().map_or(Label::default(), |metrics| {
            let path = merge_slashes(decoded, &self.finders.slashes, &mut self.merged);
            paths::label(path, metrics, &app.patterns, &mut self.names)
        });
        Seeing { label, is_health_check }
    }

    /// It is one of the endpoints that the sidecar answers itself.
    pub(crate) fn on_local(&mut self, observed: &mut Observed, call: LocalCall) {
        if observed.app.api_log().is_some_and(|log| log.obfuscates_urls) {
            observed.method.clear();
            observed.method.push(route_name(call).as_bytes());
        }
    }

    /// It is known where the call goes. Writes what the call carries of its trace into `lines`;
    /// returns the lines of the client that these replace.
    pub(crate) fn on_plan(
        &mut self,
        observed: &mut Observed,
        planned: &Planned<'_>,
        lines: &mut Vec<u8>,
    ) -> FieldSet {
        observed.hop = Some(planned.hop);
        let id = id_of(planned.target);
        self.note_target(observed, id);
        observed.callee = observed.callee_number.and_then(|number| self.find(number));
        self.note_callee_path(observed, planned.method);
        self.note_caller(observed, planned);
        self.name_call(observed, id, planned.method);
        self.count_sent(observed, planned.hop);
        if planned.hop == Hop::InboundFromPeer
            && let Some(callee) = &observed.callee
        {
            self.count(callee, Labels::of(Family::InvokeTaken, observed.caller));
        }
        self.trace_call(observed, planned, lines)
    }

    /// The call goes nowhere. `sent`: it would have, over this hop, to be refused there.
    pub(crate) fn on_refused(
        &mut self,
        observed: &mut Observed,
        target: &[u8],
        method: &[u8],
        sent: Option<Hop>,
    ) {
        let id = id_of(target);
        self.note_target(observed, id);
        self.name_call(observed, id, method);
        if let Some(hop) = sent {
            self.count_sent(observed, hop);
        }
    }

    fn note_target(&mut self, observed: &mut Observed, id: &[u8]) {
        observed.target = match self.targets.find(0, id) {
            Some(name) => name,
            None => {
                let name = self.names.intern(id);
                self.targets.keep(0, id, name);
                name
            }
        };
    }

    fn count_sent(&mut self, observed: &Observed, hop: Hop) {
        if observed.side == Side::Api && hop != Hop::SelfCall {
            let labels = Labels::of(Family::InvokeSent, observed.target);
            self.count(&observed.app, labels);
        }
    }

    fn note_callee_path(&mut self, observed: &mut Observed, method: &[u8]) {
        let Some(callee) = &observed.callee else { return };
        let Some(metrics) = callee.metrics() else { return };
        if let Some(label) = self.methods.find(callee.number, method) {
            observed.callee_path = label;
            return;
        }
        self.scratch.clear();
        self.scratch.push(b'/');
        self.scratch.extend_from_slice(method);
        let path = merge_slashes(&self.scratch, &self.finders.slashes, &mut self.merged);
        let label = paths::label(path, metrics, &callee.patterns, &mut self.names);
        self.methods.keep(callee.number, method, label);
        observed.callee_path = label;
    }

    fn note_caller(&mut self, observed: &mut Observed, planned: &Planned<'_>) {
        observed.caller = match (observed.side, planned.caller) {
            (Side::Api | Side::Public, _) => observed.app.name(&mut self.names),
            (Side::Peer, Some("")) => NameId::EMPTY,
            (Side::Peer, Some(caller)) => self.names.intern(caller.as_bytes()),
            (Side::Peer, None) => {
                let line = planned.head.lines.find(Field::DaprCallerAppId);
                line.map_or(NameId::EMPTY, |line| self.names.intern(line.value.of(planned.bytes)))
            }
        };
    }

    /// For the log, where URLs are not told, and for the spans.
    fn name_call(&mut self, observed: &mut Observed, id: &[u8], method: &[u8]) {
        let log = observed.app.api_log();
        if observed.side == Side::Api && log.is_some_and(|log| log.obfuscates_urls) {
            observed.method.clear();
            observed.method.push(b"InvokeService/");
            observed.method.push(id);
        }
        if observed.own.is_some() && observed.records_spans() {
            observed.span_name.clear();
            for part in [b"CallLocal/", id, b"/", method] {
                observed.span_name.push(part);
            }
        }
    }

    /// The head of upstream's answer is here.
    pub(crate) fn on_answer(&mut self, observed: &mut Observed, status: u16, now: Instant) {
        observed.stop_waiting(now);
        observed.status = status;
        observed.answered = Some(now);
        self.note_client_call(observed, status, now);
        self.note_invocation(observed, status, now);
        self.note_added(observed);
    }

    /// An attempt ended without an answer.
    pub(crate) fn on_failure(&mut self, observed: &mut Observed, now: Instant) {
        if observed.waiting_since.is_some() {
            observed.stop_waiting(now);
            self.note_client_call(observed, 500, now);
        }
    }

    /// An answer of our own, with one of daprd's error codes in its body.
    pub(crate) fn on_own_answer(&mut self, observed: &mut Observed, status: u16, body: &[u8]) {
        observed.status = status;
        let app = &observed.app;
        let Some(metrics) = app.metrics() else { return };
        if status >= 400
            && metrics.counts_error_codes
            && let Some(code) = error_code(body)
        {
            let name = self.names.intern(code);
            self.count(app, Labels::of(Family::ErrorCode, name));
        }
    }

    /// The exchange is over, however it ended.
    pub(crate) fn on_end(&mut self, mut observed: Box<Observed>, outcome: Outcome, now: Instant) {
        if let Some(status) = outcome.status {
            observed.status = status;
        }
        if observed.status == 0 {
            // The client left, or was left, without an answer; daprd's handler had an error then.
            observed.status = 500;
        }
        if let Some(callee) = &observed.callee
            && callee.metrics().is_some()
            && observed.answered.is_some()
        {
            self.record_bytes(callee, Family::ReceivedBytes, outcome.response_bytes);
        }
        if observed.side.is_client() {
            self.note_server_request(&observed, outcome, now);
            self.log_call(&observed, outcome, now);
        }
        self.record_spans(&observed, now);
        if self.spare.len() < super::SPARE_MAX {
            self.spare.push(observed);
        }
    }
}

fn check_baggage<'a>(seen: &Seen<'a>) -> Result<(), BaggageError<'a>> {
    if !seen.head.lines.has(Field::Baggage) {
        return Ok(());
    }
    let lines = seen.head.lines.iter().filter(|line| line.field == Field::Baggage);
    for line in lines {
        baggage::check(line.value.of(seen.bytes))?;
    }
    Ok(())
}

/// The path of a request target, without its query.
fn path_of(target: &[u8]) -> &[u8] {
    let authority = match target {
        [b'/', ..] => None,
        _ => memchr::memmem::find(target, b"://"),
    };
    let path = authority.map_or(target, |at| {
        let rest = &target[at + 3..];
        memchr::memchr(b'/', rest).map_or(&b"/"[..], |slash| &rest[slash..])
    });
    memchr::memchr2(b'?', b'#', path).map_or(path, |end| &path[..end])
}

/// The code in the body of an answer of our own.
fn error_code(body: &[u8]) -> Option<&[u8]> {
    let rest = body.strip_prefix(b"{\"errorCode\":\"")?;
    Some(&rest[..memchr::memchr(b'"', rest)?])
}

/// What daprd calls its endpoints where it does not tell URLs.
fn route_name(call: LocalCall) -> &'static str {
    match call {
        LocalCall::Healthz => "Healthz",
        LocalCall::HealthzOutbound => "HealthzOutbound",
        LocalCall::MetadataGet => "GetMetadata",
        LocalCall::MetadataSet => "SetMetadata",
        LocalCall::Shutdown => "Shutdown",
        LocalCall::BadTarget(_) | LocalCall::MethodNotAllowed { .. } | LocalCall::NotFound => {
            "Unknown"
        }
        LocalCall::Unconfigured(_) => "Unconfigured",
    }
}
