//! What a request must pass before it is answered or sent on: the policies of an app as one worker
//! reads them, and the doors of its API in daprd's order: CORS, then the token.
//!
//! Access control is asked later, in `plan`, once the callee is known.

#![forbid(unsafe_code)]

use super::Relay;
use crate::{
    connection::ConnectionKey,
    dapr::{Allowed, Asked, LocalCall, headers::trust_domain_line, local::Answer},
    engine::{Chunk, Engine, peer_user},
    http::{Field, RequestHead},
    policy::{
        access::{Access, Proof},
        cors::{Cors, Question},
        pipeline::Pipeline,
        token::is_token,
    },
};
use rustix::net::getpeername;
use snapshot::{App, policy::Token};
use std::{net::SocketAddr, os::fd::OwnedFd};

/// Compiled when the app is adopted.
pub(super) struct Guards {
    pub(super) access: Option<Access>,
    pub(super) api_token: Option<Token>,
    /// The line that brings the app its token.
    pub(super) app_token_line: Option<Box<[u8]>>,
    /// What other sidecars are told of the caller's trust domain.
    pub(super) trust_domain_line: Box<[u8]>,
    pub(super) api_pipeline: Option<Pipeline>,
    pub(super) app_pipeline: Option<Pipeline>,
    allowed: Option<Allowed>,
    cors: Option<Cors>,
}

impl Guards {
    pub(super) fn new(app: &App) -> Self {
        let guards = &app.guards;
        let pipelines = guards.pipelines.as_deref();
        let line = |token: &Token| format!("Dapr-Api-Token: {}\r\n", token.secret());
        Self {
            access: guards.access.as_deref().map(Access::new),
            api_token: guards.api_token.clone(),
            app_token_line: guards.app_token.as_ref().map(|token| line(token).into_bytes().into()),
            trust_domain_line: trust_domain_line(app),
            api_pipeline: pipelines.and_then(|found| Pipeline::new(&found.api)),
            app_pipeline: pipelines.and_then(|found| Pipeline::new(&found.app)),
            allowed: guards.api.as_deref().map(Allowed::new),
            cors: guards.cors.as_deref().map(Cors::new),
        }
    }

    /// Whether there is anything to pass before the API is asked.
    pub(super) fn guards_api(&self) -> bool {
        self.cors.is_some() || self.api_token.is_some() || self.api_pipeline.is_some()
    }

    pub(super) fn allowed(&self) -> &Allowed {
        self.allowed.as_ref().unwrap_or(&Allowed::ALL)
    }

    /// daprd leaves out the path of a health check, however it is written; here it must also lead
    /// to one, so that no other path can be written so that it passes.
    fn wants_token(&self, asked: Asked) -> Option<&Token> {
        let is_health =
            matches!(asked, Asked::Local(LocalCall::Healthz | LocalCall::HealthzOutbound));
        self.api_token.as_ref().filter(|_| !is_health)
    }
}

impl<E: Engine> Relay<E> {
    /// Notes what a browser is to be told with the answer. `true`: the request was nothing but the
    /// question, and the answer is empty.
    pub(super) fn ask_cors(&mut self, key: ConnectionKey, bytes: &[u8]) -> bool {
        let Some(connection) = self.connections.find_mut(key) else { return false };
        let Some(cors) = &self.view.app(connection.app).guards.cors else { return false };
        let question = question(&self.request_head, bytes);
        cors.answer(&question, &mut connection.exchange.answer_lines)
    }

    /// Whether the API's token is there, if one must be.
    pub(super) fn has_token(&self, key: ConnectionKey, bytes: &[u8], asked: Asked) -> bool {
        let Some(connection) = self.connections.find(key) else { return false };
        let guards = &self.view.app(connection.app).guards;
        let Some(token) = guards.wants_token(asked) else { return true };
        let brought = self.request_head.lines.find(Field::DaprApiToken);
        is_token(brought.map_or(b"", |line| line.value.of(bytes)), token)
    }

    pub(super) fn answer_preflight(&mut self, key: ConnectionKey, chunk: Chunk) {
        self.counters.requests_own.add(1);
        self.answer_without_body(key, chunk, &Answer::empty(200));
    }

    pub(super) fn refuse_token(&mut self, key: ConnectionKey, chunk: Chunk) {
        self.counters.denied_by_token.add(1);
        self.answer_without_body(key, chunk, &Answer::UNAUTHORIZED);
    }

    /// `chunk` starts with the request's head; its body is of no interest.
    pub(super) fn answer_without_body(
        &mut self,
        key: ConnectionKey,
        mut chunk: Chunk,
        answer: &Answer<'_>,
    ) {
        self.observe_turned_away(key);
        chunk.advance(self.request_head.bytes as usize);
        if self.take_body(key, chunk).is_some() {
            self.answer(key, answer);
        }
    }
}

fn question<'a>(head: &'a RequestHead, bytes: &'a [u8]) -> Question<'a> {
    let line = |name: &str| {
        let is_it = |text: &[u8]| text.eq_ignore_ascii_case(name.as_bytes());
        let line = head.lines.iter().find(|line| is_it(line.name.of(bytes)));
        line.map(|line| line.value.of(bytes))
    };
    Question {
        method: head.method_name.of(bytes),
        origin: line("Origin"),
        wanted_method: line("Access-Control-Request-Method"),
        wanted_headers: line("Access-Control-Request-Headers"),
    }
}

/// What is known of whoever connected to a peer socket; `user` is ours.
pub(super) fn proof_of(socket: &OwnedFd, user: u32) -> Proof {
    const ROOT: u32 = 0;
    if let Some(peer) = peer_user(socket) {
        return if peer == user || peer == ROOT { Proof::SameUser } else { Proof::None };
    }
    let address = getpeername(socket).ok().flatten();
    match address.map(SocketAddr::try_from) {
        Some(Ok(address)) => Proof::Address(address.ip()),
        _ => Proof::None,
    }
}
