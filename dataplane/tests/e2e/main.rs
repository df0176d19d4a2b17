//! Conversations over real sockets with a whole data plane, on both engines: what clients, apps and
//! control can observe, one file per subject. Nothing here knows how the data plane works inside.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected ends there")]

#[path = "../support/mod.rs"]
mod support;

use snapshot::{State, policy::Guards};
use std::sync::Arc;

mod access;
mod admin;
mod balance;
mod concurrency;
mod connection;
mod documented;
mod errors;
mod events;
mod external;
mod faults;
mod framing;
mod guards;
mod headers;
mod lifecycle;
mod link;
mod measured;
mod measured_policies;
mod pieces;
mod pipeline;
mod pools;
mod pressure;
mod quiet;
mod resiliency;
mod resolving;
mod retries;
mod routing;
mod smuggling;
mod soak;
mod tracing;
mod upgrade;

/// A request without body; `lines` are whole, with their CRLF.
fn request(method: &str, target: &str, lines: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: a\r\n{lines}\r\n")
}

fn get(target: &str) -> String {
    request("GET", target, "")
}

fn post(target: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// An answer with these status, whole lines, and a body with its length.
fn answer(status: &str, lines: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\n{lines}Content-Length: {length}\r\n\r\n{body}")
}

/// The guards of an app, to be changed.
fn guards_of(state: &mut State, app: usize) -> &mut Guards {
    Arc::make_mut(&mut state.apps[app].guards)
}

/// The usual call: path `/x` of the app.
const X: &str = "/v1.0/invoke/checkout/method/x";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// What clients get instead of an answer of the app.
fn direct_invoke_error(message: &str) -> String {
    format!("{{\"errorCode\":\"ERR_DIRECT_INVOKE\",\"message\":\"{message}\"}}")
}
