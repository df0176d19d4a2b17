//! Answers of our own: Dapr's local endpoints, refusals, and exchanges that failed.

#![forbid(unsafe_code)]

use super::Relay;
use crate::{
    connection::{ConnectionKey, Exchange, State},
    dapr::{
        LocalCall,
        local::{self, Answer},
    },
    engine::{Chunk, Engine},
    error::{Cause, ErrorContext, ExchangeError, Phase},
    http::{BodyReader, Method, reply::Reply},
    limits::{LINGER_BYTES_MAX, LINGER_TIMEOUT},
    policy::resiliency::Failure,
};
use snapshot::{ListenerKind, wire::AdminRequest};
use std::rc::Rc;

impl<E: Engine> Relay<E> {
    /// A request for one of Dapr's own endpoints. `chunk` starts with its head.
    pub(super) fn answer_local(&mut self, key: ConnectionKey, mut chunk: Chunk, call: LocalCall) {
        self.counters.requests_own.add(1);
        self.observe_local(key, call);
        let forced = self.request_head.lines.find(crate::http::Field::DaprForceShutdown);
        let force = forced.is_some_and(|line| line.value.of(&chunk).eq_ignore_ascii_case(b"true"));
        chunk.advance(self.request_head.bytes as usize);
        if matches!(call, LocalCall::MetadataSet) {
            return self.collect(key, chunk);
        }
        if self.take_body(key, chunk).is_none() {
            return;
        }
        if matches!(call, LocalCall::Shutdown) {
            return self.ask_control(key, AdminRequest::Shutdown { force });
        }
        let Some(connection) = self.connections.find(key) else { return };
        let view = Rc::clone(&self.view);
        let app = &view.snapshot.apps[connection.app];
        let mut body = std::mem::take(&mut self.body);
        body.clear();
        let answer = local::answer(call, app, &connection.exchange.notes, &mut body);
        self.answer(key, &answer);
        self.body = body;
    }

    /// Control cannot be asked: it is away, or too far behind.
    pub(crate) fn on_control_away(&mut self, key: ConnectionKey) {
        self.fail(key, Cause::ControlAway);
        self.settle();
    }

    /// Control's answer to [`super::ControlCall`].
    pub(crate) fn on_control_reply(
        &mut self,
        key: ConnectionKey,
        status: u16,
        content_type: &str,
        body: &[u8],
    ) {
        let waits = |state: &State| matches!(state, State::AwaitingControl);
        if self.connections.find(key).is_none_or(|connection| !waits(&connection.state)) {
            return;
        }
        let content_type = (!content_type.is_empty()).then_some(content_type);
        self.answer(key, &Answer { status, content_type, body, lines: "", close: false });
        self.settle();
    }

    /// The exchange ends with `cause` before its body was looked at. `chunk` starts with its head.
    pub(super) fn fail_with_body(&mut self, key: ConnectionKey, mut chunk: Chunk, cause: Cause) {
        chunk.advance(self.request_head.bytes as usize);
        if self.take_body(key, chunk).is_some() {
            self.fail(key, cause);
        }
    }

    /// The exchange, or what is tried of it now, ends with `cause`.
    pub(super) fn fail(&mut self, key: ConnectionKey, cause: Cause) {
        let failure = match cause {
            Cause::Denied => Some(Failure::Answer(403)),
            _ => cause.is_no_answer().then_some(Failure::NoAnswer),
        };
        if !failure.is_some_and(|failure| self.tries_again(key, failure)) {
            self.give_up(key, cause);
        }
    }

    /// The exchange ends with `cause`: the client gets an answer, or, when it has part of the app's
    /// already, a cut connection, so that it cannot take what it has for the whole.
    pub(super) fn give_up(&mut self, key: ConnectionKey, cause: Cause) {
        self.observe_failure(key);
        self.release_upstream(key);
        self.leave_gate(key);
        let Some(connection) = self.connections.find_mut(key) else { return };
        let exchange = &mut connection.exchange;
        exchange.pending.clear();
        exchange.forget_request();
        exchange.attempts = None;
        // What is dropped is bounded otherwise; nobody is told twice.
        exchange.request_bytes_max = None;
        self.counters.exchange_errors.add(1);
        if exchange.response_started {
            self.counters.responses_truncated.add(1);
            return self.reset_downstream(key);
        }
        match cause {
            Cause::Denied => self.counters.denied_by_access.add(1),
            Cause::Pipeline(_) => self.counters.denied_by_pipeline.add(1),
            _ => {}
        }
        if let Some(passed) = &mut exchange.passed {
            // Its refusal is an answer of the app to everybody before it; no other failure is.
            match cause {
                Cause::Pipeline(_) => passed.uppercases_answer |= passed.uppercases_app_answer,
                _ => passed.app_lines.clear(),
            }
        }
        let error = error_of(exchange, cause);
        let address = exchange.endpoint.map(|endpoint| Rc::clone(self.endpoints.address(endpoint)));
        let app = self.view.snapshot.apps.get(connection.app);
        let says_too_large = app.is_some_and(|app| app.outbound.says_too_large);
        let context = ErrorContext {
            target: &exchange.notes.target,
            verb: exchange.method.name().as_bytes(),
            url_path: &exchange.url_path,
            address: address.as_deref(),
            hop: exchange.hop,
            base: exchange.external.as_deref().map(|external| &*external.base),
            method: &exchange.notes.method,
            retries: exchange.retry_count,
        };
        let mut body = std::mem::take(&mut self.body);
        body.clear();
        let content_type = error.write_reply_body(&context, &mut body);
        let status = error.status(says_too_large);
        let lines = match (cause, connection.listener) {
            (Cause::Misdirected, _) => MISDIRECTED,
            (_, ListenerKind::Peer) if status == NO_ANSWER_STATUS => NO_ANSWER,
            _ => "",
        };
        let answer = Answer {
            status,
            content_type: Some(content_type),
            lines,
            body: &body,
            close: error.must_close(),
        };
        self.answer(key, &answer);
        self.body = body;
    }

    /// The exchange ends before its body was looked at. `chunk` starts with its head.
    pub(super) fn refuse_baggage(&mut self, key: ConnectionKey, mut chunk: Chunk, text: &str) {
        chunk.advance(self.request_head.bytes as usize);
        if self.take_body(key, chunk).is_none() {
            return;
        }
        let body = format!("{text}\n");
        let content_type = Some("text/plain; charset=utf-8");
        let lines = "X-Content-Type-Options: nosniff\r\n";
        let body = body.as_bytes();
        self.answer(key, &Answer { status: 400, content_type, lines, body, close: false });
    }

    pub(super) fn answer_text(&mut self, key: ConnectionKey, status: u16, text: &str) {
        let mut body = std::mem::take(&mut self.body);
        body.clear();
        body.extend_from_slice(text.as_bytes());
        body.push(b'\n');
        let content_type = Some("text/plain; charset=utf-8");
        self.answer(key, &Answer { status, content_type, lines: "", body: &body, close: true });
        self.body = body;
    }

    pub(super) fn answer(&mut self, key: ConnectionKey, answer: &Answer<'_>) {
        self.observe_own_answer(key, answer.status, answer.body);
        let Some(connection) = self.connections.find_mut(key) else { return };
        let is_last = connection.is_last_request();
        let exchange = &mut connection.exchange;
        let complete = exchange.request.is_complete();
        // Without the 100 it asked for, nobody knows whether the client will send the body.
        let keep_alive = exchange.keep_alive
            && !answer.close
            && !self.draining
            && (complete || (!exchange.expects_continue && is_worth_reading(&exchange.request)))
            && !is_last;
        exchange.keep_alive = keep_alive;
        let asks_more = exchange.asks_more;
        let uppercased = match &exchange.passed {
            Some(passed) if passed.uppercases_answer => answer.body.to_ascii_uppercase(),
            _ => Vec::new(),
        };
        let echo = exchange.observed.as_ref().map_or(&b""[..], |observed| observed.echo(false));
        let reply = Reply {
            status: answer.status,
            content_type: answer.content_type,
            body: if uppercased.is_empty() { answer.body } else { &uppercased },
            keep_alive,
            version: exchange.version,
            head_only: exchange.method == Method::Head,
            date: self.date.at(self.unix_seconds),
            lines: &[answer.lines.as_bytes(), &exchange.answer_lines, exchange.app_lines(), echo],
        };
        let mut writer = self.engine.buffers().writer();
        reply.emit(&mut |bytes| writer.put(bytes));
        self.engine.send(connection.socket, writer.finish());
        self.observe_end(key, Some((answer.status, answer.body.len())));
        let Some(connection) = self.connections.find_mut(key) else { return };
        if !keep_alive {
            self.close_after_flush(key, asks_more || !complete);
        } else if complete {
            self.next_request(key);
        } else {
            connection.state = State::Discarding { bytes_left: LINGER_BYTES_MAX };
            self.resume_downstream(key);
            self.set_deadline(key, Some(LINGER_TIMEOUT));
        }
    }
}

/// Whether the rest of a request's body may be short enough to be read and dropped. If it cannot
/// be, the connection ends with the answer, which must say so. Of chunks nobody knows.
fn is_worth_reading(request: &BodyReader) -> bool {
    request.bytes_left().is_none_or(|left| left <= LINGER_BYTES_MAX as u64)
}

/// Tell the calling sidecar that it was not the app who answered.
const MISDIRECTED: &str = "Ringcar-Error: misdirected\r\n";
const NO_ANSWER: &str = "Ringcar-Error: no-answer\r\n";

/// Refusals have other ones, and are not tried again.
const NO_ANSWER_STATUS: u16 = 500;

/// Whose fault it is and how far the exchange had come, from what the exchange remembers.
fn error_of(exchange: &Exchange, cause: Cause) -> ExchangeError {
    let phase = match (exchange.endpoint, exchange.upstream_reached) {
        (None, _) => Phase::Routing,
        (Some(_), false) => Phase::Connecting,
        (Some(_), true) if !exchange.request.is_complete() => Phase::SendingRequest,
        (Some(_), true) => Phase::AwaitingResponse,
    };
    match cause {
        Cause::BadRequest(_) | Cause::BodyTooLarge | Cause::NoTarget => {
            ExchangeError::downstream(phase, cause)
        }
        _ => ExchangeError::upstream(phase, cause),
    }
}
