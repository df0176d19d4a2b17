//! What is remembered of one exchange until it can be told: when it began, what it is called, which
//! trace it belongs to.
//!
//! Lent to the exchange in a box, which goes from one to the next: an idle connection has none, and
//! a warm worker makes no more of them.

#![forbid(unsafe_code)]

use super::{
    app::AppTelemetry,
    names::NameId,
    paths::Label,
    record::{Asked, METHOD_BYTES, Text, USER_AGENT_BYTES},
    series::Verb,
    trace::{Context, SpanId},
};
use crate::{clock::Instant, error::Hop, http::RequestHead, policy::access::Verdict};
use std::{net::SocketAddr, rc::Rc};

/// Who asks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Side {
    /// A client of the app's API.
    Api,
    /// Another sidecar.
    Peer,
    /// A client of the public port, whose calls are not logged.
    Public,
}

impl Side {
    pub(super) fn is_client(self) -> bool {
        matches!(self, Self::Api | Self::Public)
    }
}

#[derive(Debug)]
pub(crate) struct Observed {
    /// Whose sidecar was called.
    pub(super) app: Rc<AppTelemetry>,
    pub(super) side: Side,
    pub(super) began: Instant,
    pub(super) verb: Verb,
    /// Of the path that was asked for.
    pub(super) path: Label,
    pub(super) request_bytes: u64,
    pub(super) is_health_check: bool,
    /// It came so far that the log names it.
    pub(super) is_logged: bool,
    /// The number of the app that this data plane calls itself.
    pub(super) callee_number: Option<usize>,
    pub(super) callee: Option<Rc<AppTelemetry>>,
    /// Of the path that its app is called with.
    pub(super) callee_path: Label,
    pub(super) hop: Option<Hop>,
    /// The apps' ids, as each is a label of the other.
    pub(super) target: NameId,
    pub(super) caller: NameId,
    /// Since when upstream has the request, and how long it had it before.
    pub(super) waiting_since: Option<Instant>,
    pub(super) waited_ns: u64,
    pub(super) attempted: Instant,
    /// Zero until there is an answer.
    pub(super) status: u16,
    pub(super) answered: Option<Instant>,
    pub(super) own: Option<Traced>,
    /// The callee's hop, where it is another one than the caller's and this data plane makes both.
    pub(super) callee_span: Option<Traced>,
    pub(super) keeps_tracestate: bool,
    /// What access control of the app with this number said, and of whom; until it is counted.
    pub(super) verdict: Option<(usize, Verdict)>,
    pub(super) identity: Vec<u8>,
    pub(super) has_timed_out: bool,
    /// Lines for the client: those of the trace, and behind them its baggage.
    pub(super) echo: Vec<u8>,
    pub(super) echo_trace_bytes: usize,
    /// Of its first line, `traceparent`.
    pub(super) echo_line_bytes: usize,
    /// Verb and path, or the route, for the log.
    pub(super) method: Text<METHOD_BYTES>,
    pub(super) span_name: Text<METHOD_BYTES>,
    pub(super) user_agent: Text<USER_AGENT_BYTES>,
    /// Of a request that is recorded; made for the first one, since most are not.
    pub(super) asked: Option<Box<Asked>>,
    pub(super) has_asked: bool,
}

/// A hop within a trace.
#[derive(Clone, Copy, Debug)]
pub(super) struct Traced {
    pub(super) context: Context,
    pub(super) parent: SpanId,
    /// It becomes a span record.
    pub(super) is_recorded: bool,
}

impl Observed {
    pub(super) fn new(app: Rc<AppTelemetry>, side: Side, now: Instant) -> Self {
        Self {
            app,
            side,
            began: now,
            verb: Verb::NONE,
            path: Label::default(),
            request_bytes: 0,
            is_health_check: false,
            is_logged: side == Side::Api,
            callee_number: None,
            callee: None,
            callee_path: Label::default(),
            hop: None,
            target: NameId::EMPTY,
            caller: NameId::EMPTY,
            waiting_since: None,
            waited_ns: 0,
            attempted: now,
            status: 0,
            answered: None,
            own: None,
            callee_span: None,
            keeps_tracestate: false,
            verdict: None,
            identity: Vec::new(),
            has_timed_out: false,
            echo: Vec::new(),
            echo_trace_bytes: 0,
            echo_line_bytes: 0,
            method: Text::default(),
            span_name: Text::default(),
            user_agent: Text::default(),
            asked: None,
            has_asked: false,
        }
    }

    /// As [`Self::new`], with the room that it has grown.
    pub(super) fn renew(&mut self, app: Rc<AppTelemetry>, side: Side, now: Instant) {
        self.app = app;
        self.side = side;
        self.began = now;
        self.verb = Verb::NONE;
        self.path = Label::default();
        self.request_bytes = 0;
        self.is_health_check = false;
        self.is_logged = side == Side::Api;
        self.callee_number = None;
        self.callee = None;
        self.callee_path = Label::default();
        self.hop = None;
        self.target = NameId::EMPTY;
        self.caller = NameId::EMPTY;
        self.waiting_since = None;
        self.waited_ns = 0;
        self.attempted = now;
        self.status = 0;
        self.answered = None;
        self.own = None;
        self.callee_span = None;
        self.keeps_tracestate = false;
        self.verdict = None;
        self.has_timed_out = false;
        self.echo.clear();
        self.echo_trace_bytes = 0;
        self.echo_line_bytes = 0;
        // Their bytes stay: to write over 600 of them for each request would cost more than all
        // else.
        self.method.clear();
        self.span_name.clear();
        self.user_agent.clear();
        self.has_asked = false;
    }

    /// What a span tells of the request; kept only where there is to be one.
    pub(super) fn note_asked(&mut self, head: &RequestHead, bytes: &[u8]) {
        if !self.has_asked {
            self.asked.get_or_insert_default().note(head, bytes);
            self.has_asked = true;
        }
    }

    /// Whether a span tells where its client is.
    pub(crate) fn wants_client(&self) -> bool {
        self.side.is_client() && self.has_asked
    }

    pub(crate) fn on_client(&mut self, client: Option<SocketAddr>) {
        if let Some(asked) = &mut self.asked {
            asked.client = client;
        }
    }

    /// Whether its name may become that of a span.
    pub(super) fn records_spans(&self) -> bool {
        self.app.records_spans() || self.callee.as_ref().is_some_and(|app| app.records_spans())
    }

    /// The app that this data plane calls is told now.
    pub(crate) fn on_callee(&mut self, number: usize) {
        self.callee_number = Some(number);
    }

    /// It was answered at the door; daprd's API log stands behind that.
    pub(crate) fn on_turned_away(&mut self) {
        self.is_logged = false;
    }

    /// Upstream has, or is about to have, the request.
    #[inline]
    pub(crate) fn on_attempt(&mut self, now: Instant) {
        self.stop_waiting(now);
        self.attempted = now;
        self.waiting_since = Some(now);
    }

    /// The turn in which the attempt began is over: only now do its bytes leave.
    #[inline]
    pub(crate) fn on_turn_end(&mut self, turn_began: Instant, now: Instant) {
        if self.waiting_since == Some(turn_began) {
            self.waiting_since = Some(now);
        }
    }

    #[inline]
    pub(super) fn stop_waiting(&mut self, now: Instant) {
        if let Some(since) = self.waiting_since.take() {
            self.waited_ns += now.nanos_since(since);
        }
    }

    /// Lines for the client's response head: with `traceparent`, unless the app sent its own.
    #[inline]
    pub(crate) fn echo(&self, app_sent_trace: bool) -> &[u8] {
        if app_sent_trace { &self.echo[self.echo_trace_bytes..] } else { &self.echo }
    }
}
