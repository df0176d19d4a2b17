//! Calls whose app another sidecar was to serve, or nobody, and that this data plane serves by now.
//!
//! Such a call was made ready for a peer. What is pending of it is taken for a call from one, which
//! it would be if it went out and came back: the same lines, the same questions, one hop less.

#![forbid(unsafe_code)]

use super::{
    Relay,
    attempt::find_app,
    plan::{Planner, To},
};
use crate::{
    connection::ConnectionKey,
    engine::{Chunk, Engine},
    error::Cause,
    http::{Parsed, Rewrite, parse_request, rewrite_anew},
    limits::HEAD_BYTES_MAX,
    policy::access::Proof,
};
use std::rc::Rc;

impl<E: Engine> Relay<E> {
    /// Sends what is pending to the app itself. False: it is not served here.
    pub(super) fn come_home(&mut self, key: ConnectionKey) -> bool {
        let view = Rc::clone(&self.view);
        let Some(connection) = self.connections.find_mut(key) else { return false };
        let Some((app, _)) = find_app(&view, connection) else { return false };
        let exchange = &mut connection.exchange;
        let pending: Vec<Chunk> = exchange.pending.drain(..).collect();
        let pieces: Vec<&[u8]> = pending.iter().map(|chunk| &**chunk).collect();
        let mut request = Chunk::from_vec(pieces.concat(), 0);
        let parsed = parse_request(&request, HEAD_BYTES_MAX, &mut self.request_head);
        debug_assert_eq!(parsed, Ok(Parsed::Complete), "we wrote it");
        // Of what another sidecar might have done with it, nothing holds any more.
        exchange.tried.clear();
        exchange.seat = None;
        let bytes_max = exchange.request_bytes_max;
        let planner = Planner {
            exchange,
            head: &self.request_head,
            bytes: &request,
            view: &view,
            app,
            // It says who calls, and it is we who said it.
            proof: Proof::SameUser,
            has_resolver: false,
            subject: &mut self.subject,
            rate_limits: &self.rate_limits,
            now: self.now,
            lines: &mut self.lines,
        };
        let planned = planner.plan_call_from_peer();
        self.observe_verdict(key);
        let plan = match planned {
            Ok(plan) => plan,
            Err(cause) => {
                self.fail(key, cause);
                return true;
            }
        };
        let Some(connection) = self.connections.find_mut(key) else { return true };
        let exchange = &mut connection.exchange;
        // Peers have looked at what comes; of this one more may be coming.
        exchange.request_bytes_max = bytes_max;
        let method = exchange.method.name().as_bytes();
        let start_line: [&[u8]; 4] = [method, b" ", &exchange.url_path, b" HTTP/1.1\r\n"];
        let rewrite = Rewrite { start_line: &start_line, drop: plan.drop, added: &[&self.lines] };
        let mut head = Vec::new();
        let lines = &self.request_head.lines;
        rewrite_anew(&request, lines, &rewrite, &mut |bytes| head.extend_from_slice(bytes));
        request.advance(self.request_head.bytes as usize);
        if !exchange.replay.is_empty() {
            exchange.replay.clear();
            exchange.replay.extend_from_slice(&head);
            exchange.replay.extend_from_slice(&request);
        }
        exchange.pending.extend([Chunk::from_vec(head, 0), request]);
        self.counters.requests_local.add(1);
        match plan.to {
            To::App(endpoint) if self.pass_gate(key) => self.attempt(key, endpoint),
            To::App(_) => self.hold(key, []),
            _ => self.fail(key, Cause::AppUnhealthy),
        }
        true
    }
}
