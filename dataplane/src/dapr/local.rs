//! What a sidecar answers itself: health, metadata, shutdown, and the building blocks it does not
//! have. Pure.
//!
//! Every answer is complete here, so that nothing about it is decided where it is sent.

#![forbid(unsafe_code)]

use super::{
    CallNotes, LocalCall, escape,
    message::{CONTENT_TYPE_JSON, CONTENT_TYPE_TEXT, write_error},
};
use snapshot::App;
use std::io::Write as _;

/// An answer of our own, but for `Date` and the framing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Answer<'a> {
    pub status: u16,
    pub content_type: Option<&'a str>,
    /// Further header lines, each with its CRLF.
    pub lines: &'static str,
    pub body: &'a [u8],
    /// The connection is not to be used again: what came on it cannot be trusted.
    pub close: bool,
}

impl<'a> Answer<'a> {
    const fn empty(status: u16) -> Self {
        Self { status, content_type: None, lines: "", body: b"", close: false }
    }

    const fn json(status: u16, body: &'a [u8]) -> Self {
        let content_type = Some(CONTENT_TYPE_JSON);
        Self { status, content_type, lines: "", body, close: false }
    }
}

/// The answer to `call`, its body in `scratch` or in `app`. Setting metadata and shutting down are
/// control's work; what they are answered with once it is done is here.
pub fn answer<'a>(
    call: LocalCall,
    app: &'a App,
    notes: &CallNotes,
    scratch: &'a mut Vec<u8>,
) -> Answer<'a> {
    scratch.clear();
    match call {
        LocalCall::Healthz => healthz(app, &notes.query, scratch),
        LocalCall::HealthzOutbound => healthz_outbound(app, scratch),
        LocalCall::MetadataGet => Answer::json(200, app.metadata_json.as_bytes()),
        LocalCall::MetadataSet | LocalCall::Shutdown => Answer::empty(204),
        LocalCall::Unconfigured(block) => {
            block.write_body(app, &notes.target, scratch);
            Answer::json(block.status(), scratch)
        }
        LocalCall::BadTarget(reason) => {
            let written = writeln!(scratch, "bad request target: {reason}");
            debug_assert!(written.is_ok(), "a Vec takes every byte");
            let content_type = Some(CONTENT_TYPE_TEXT);
            Answer { status: 400, content_type, lines: "", body: scratch, close: true }
        }
        LocalCall::NotFound => Answer {
            status: 404,
            content_type: Some(CONTENT_TYPE_TEXT),
            lines: "X-Content-Type-Options: nosniff\r\n",
            body: b"404 page not found\n",
            close: false,
        },
        LocalCall::MethodNotAllowed { allow } => Answer {
            lines: match allow {
                Some("GET") => "Allow: GET\r\n",
                Some("PUT") => "Allow: PUT\r\n",
                _ => "",
            },
            ..Answer::empty(405)
        },
    }
}

/// 204 when every part is ready and the app is the one that `?appid=` asks for.
fn healthz<'a>(app: &App, query: &[u8], scratch: &'a mut Vec<u8>) -> Answer<'a> {
    if !app.health.unready.is_empty() {
        write_error(scratch, "ERR_HEALTH_NOT_READY", |message| {
            message.text("dapr is not ready: [");
            for (index, part) in app.health.unready.iter().enumerate() {
                message.text(if index == 0 { "" } else { " " });
                message.text(part);
            }
            message.text("]");
        });
        return Answer::json(500, scratch);
    }
    if find_in_query(query, b"appid", scratch) && scratch != app.id.as_str().as_bytes() {
        scratch.clear();
        write_error(scratch, "ERR_HEALTH_APPID_NOT_MATCH", |message| {
            message.text("dapr app-id does not match");
        });
        return Answer::json(500, scratch);
    }
    Answer::empty(204)
}

fn healthz_outbound<'a>(app: &App, scratch: &'a mut Vec<u8>) -> Answer<'a> {
    if app.health.outbound_ready {
        return Answer::empty(204);
    }
    write_error(scratch, "ERR_OUTBOUND_HEALTH_NOT_READY", |message| {
        message.text("dapr outbound is not ready");
    });
    Answer::json(500, scratch)
}

/// Puts the first value of `wanted` into `value`. As Go's `url.ParseQuery`, which leaves out pairs
/// with a semicolon or a bad escape.
fn find_in_query(query: &[u8], wanted: &[u8], value: &mut Vec<u8>) -> bool {
    for pair in query.split(|byte| *byte == b'&') {
        if pair.is_empty() || memchr::memchr(b';', pair).is_some() {
            continue;
        }
        let (key, text) = match memchr::memchr(b'=', pair) {
            Some(equals) => (&pair[..equals], &pair[equals + 1..]),
            None => (pair, b"".as_slice()),
        };
        value.clear();
        if escape::decode_query(key, value).is_err() || value != wanted {
            continue;
        }
        value.clear();
        if escape::decode_query(text, value).is_ok() {
            return true;
        }
    }
    value.clear();
    false
}
