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
    pub lines: &'a str,
    pub body: &'a [u8],
    /// The connection is not to be used again: what came on it cannot be trusted.
    pub close: bool,
}

impl<'a> Answer<'a> {
    /// To a request without the API's token, as Go's `http.Error` writes it.
    pub const UNAUTHORIZED: Self = Self {
        status: 401,
        content_type: Some(CONTENT_TYPE_TEXT),
        lines: NOSNIFF,
        body: b"invalid api token\n",
        close: false,
    };

    pub const fn empty(status: u16) -> Self {
        Self { status, content_type: None, lines: "", body: b"", close: false }
    }

    const fn json(status: u16, body: &'a [u8]) -> Self {
        let content_type = Some(CONTENT_TYPE_JSON);
        Self { status, content_type, lines: "", body, close: false }
    }
}

/// What Go's `http.Error` adds.
const NOSNIFF: &str = "X-Content-Type-Options: nosniff\r\n";

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
            lines: NOSNIFF,
            body: b"404 page not found\n",
            close: false,
        },
        LocalCall::MethodNotAllowed { allow } => {
            allow.write_lines(scratch);
            Answer { lines: str::from_utf8(scratch).unwrap_or_default(), ..Answer::empty(405) }
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dapr::{BadTarget, BuildingBlock, Methods};
    use snapshot::{AppHealth, AppId, Balance, Namespace, Origin};

    fn app(unready: &[&str], outbound_ready: bool) -> App {
        App {
            number: 0,
            id: AppId::new("orders").unwrap(),
            namespace: Namespace::new("prod").unwrap(),
            guards: Default::default(),
            channel: None,
            origin: Origin::default(),
            telemetry: std::sync::Arc::default(),
            balance: Balance::default(),
            resiliency: None,
            zone: None,
            body_bytes_max: None,
            head_bytes_max: 8192,
            health: AppHealth {
                unready: unready.iter().map(ToString::to_string).collect(),
                outbound_ready,
            },
            outbound: Default::default(),
            metadata_json: "{\"id\":\"orders\"}\n".into(),
        }
    }

    /// Status, content type, lines and body as one text.
    fn said(call: LocalCall, app: &App, target: &str, query: &str) -> String {
        let (target, query) = (target.into(), query.into());
        let notes = CallNotes { target, query, ..CallNotes::default() };
        let mut scratch = b"left over".to_vec();
        let answer = answer(call, app, &notes, &mut scratch);
        format!(
            "{} {} {:?}{}{}",
            answer.status,
            answer.content_type.unwrap_or("-"),
            answer.lines,
            if answer.close { " close " } else { " " },
            str::from_utf8(answer.body).unwrap()
        )
    }

    #[test]
    fn answers_health_as_daprd_1_18() {
        let ready = app(&[], true);
        let not_ready = app(&["runtime", "http-server"], false);
        let mismatch = "500 application/json \"\" {\"errorCode\":\"ERR_HEALTH_APPID_NOT_MATCH\",\
             \"message\":\"dapr app-id does not match\"}";
        let unready = "500 application/json \"\" {\"errorCode\":\"ERR_HEALTH_NOT_READY\",\
             \"message\":\"dapr is not ready: [runtime http-server]\"}";
        let outbound = "500 application/json \"\" {\"errorCode\":\"ERR_OUTBOUND_HEALTH_NOT_READY\",\
             \"message\":\"dapr outbound is not ready\"}";
        let fine = "204 - \"\" ";
        for (case, call, app, query, want) in [
            ("not ready", LocalCall::Healthz, &not_ready, "", unready),
            ("not ready comes before the id", LocalCall::Healthz, &not_ready, "appid=x", unready),
            ("other id", LocalCall::Healthz, &ready, "appid=x", mismatch),
            ("empty id", LocalCall::Healthz, &ready, "appid=", mismatch),
            ("no value", LocalCall::Healthz, &ready, "a=b&appid", mismatch),
            ("the first counts", LocalCall::Healthz, &ready, "appid=x&appid=orders", mismatch),
            ("key is decoded", LocalCall::Healthz, &ready, "%61ppid=x", mismatch),
            ("ids are case-sensitive", LocalCall::Healthz, &ready, "appid=Orders", mismatch),
            ("ready", LocalCall::Healthz, &ready, "", fine),
            ("same id", LocalCall::Healthz, &ready, "appid=orders", fine),
            ("same id, encoded", LocalCall::Healthz, &ready, "x&appid=%6Frders", fine),
            ("keys are case-sensitive", LocalCall::Healthz, &ready, "Appid=x", fine),
            ("semicolon", LocalCall::Healthz, &ready, "appid=x;y", fine),
            ("bad escape in the value", LocalCall::Healthz, &ready, "appid=%zz", fine),
            ("bad escape in the key", LocalCall::Healthz, &ready, "appid%zz=x", fine),
            ("outbound not ready", LocalCall::HealthzOutbound, &not_ready, "", outbound),
            ("outbound", LocalCall::HealthzOutbound, &ready, "", fine),
            ("outbound takes no id", LocalCall::HealthzOutbound, &ready, "appid=x", fine),
        ] {
            assert_eq!(said(call, app, "", query), want, "{case}");
        }
    }

    #[test]
    fn answers_the_rest_as_daprd_1_18() {
        let app = app(&[], true);
        let escape = BadTarget::Escape(escape::check(b"/%zz").unwrap_err());
        let text = "text/plain; charset=utf-8";
        for (call, want) in [
            (
                LocalCall::BadTarget(escape),
                format!("400 {text} \"\" close bad request target: invalid URL escape \"%zz\"\n"),
            ),
            (
                LocalCall::BadTarget(BadTarget::Character),
                format!(
                    "400 {text} \"\" close bad request target: it contains a control character \
                     or a space\n"
                ),
            ),
            (
                LocalCall::NotFound,
                format!(
                    "404 {text} \"X-Content-Type-Options: nosniff\\r\\n\" 404 page not found\n"
                ),
            ),
            (LocalCall::MethodNotAllowed { allow: Methods::default() }, "405 - \"\" ".to_string()),
            (
                LocalCall::MethodNotAllowed { allow: Methods::of(&["PUT", "GET"]) },
                "405 - \"Allow: GET\\r\\nAllow: PUT\\r\\n\" ".to_string(),
            ),
            (LocalCall::MetadataGet, "200 application/json \"\" {\"id\":\"orders\"}\n".to_string()),
            (LocalCall::MetadataSet, "204 - \"\" ".to_string()),
            (LocalCall::Shutdown, "204 - \"\" ".to_string()),
        ] {
            assert_eq!(said(call, &app, "", ""), want, "{call:?}");
        }
    }

    /// Texts of pkg/messages/predefined.go and pkg/api/errors of daprd 1.18.3; `details` as its kit
    /// 0.18.3 marshals them.
    #[test]
    fn answers_for_building_blocks_that_are_not_there_as_daprd_1_18() {
        let app = app(&[], true);
        for (block, want) in [
            (
                BuildingBlock::State,
                "500 {\"errorCode\":\"ERR_STATE_STORE_NOT_CONFIGURED\",\"message\":\"state store \
                 s\\u003c is not configured\",\"details\":[{\"@type\":\"type.googleapis.com/google.\
                 rpc.ErrorInfo\",\"domain\":\"dapr.io\",\"metadata\":{\"appID\":\"orders\"},\
                 \"reason\":\"DAPR_STATE_NOT_CONFIGURED\"}]}",
            ),
            (
                BuildingBlock::Publish,
                "404 {\"errorCode\":\"ERR_PUBSUB_NOT_FOUND\",\"message\":\"pubsub s\\u003c is not \
                 found\",\"details\":[{\"@type\":\"type.googleapis.com/google.rpc.ErrorInfo\",\
                 \"domain\":\"dapr.io\",\"metadata\":{},\"reason\":\"DAPR_PUBSUB_NOT_FOUND\"}]}",
            ),
            (
                BuildingBlock::Secrets,
                "500 {\"errorCode\":\"ERR_SECRET_STORES_NOT_CONFIGURED\",\"message\":\"secret \
                 store is not configured\"}",
            ),
            (
                BuildingBlock::Configuration,
                "500 {\"errorCode\":\"ERR_CONFIGURATION_STORE_NOT_CONFIGURED\",\
                 \"message\":\"configuration stores not configured\"}",
            ),
            (
                BuildingBlock::Lock,
                "500 {\"errorCode\":\"ERR_LOCK_STORE_NOT_CONFIGURED\",\"message\":\"lock store is \
                 not configured\"}",
            ),
            (
                BuildingBlock::Cryptography,
                "500 {\"errorCode\":\"ERR_CRYPTO_PROVIDERS_NOT_CONFIGURED\",\"message\":\"crypto \
                 providers not configured\"}",
            ),
            (
                BuildingBlock::Bindings,
                "500 {\"errorCode\":\"ERR_INVOKE_OUTPUT_BINDING\",\"message\":\"error invoking \
                 output binding s\\u003c: couldn't find output binding s\\u003c\"}",
            ),
            (
                BuildingBlock::Actors,
                "400 {\"errorCode\":\"ERR_ACTOR_NO_PLACEMENT\",\"message\":\"placement service is \
                 not configured\"}",
            ),
            (
                BuildingBlock::Conversation,
                "400 {\"errorCode\":\"ERR_CONVERSATION_NOT_FOUND\",\"message\":\"failed finding \
                 conversation component s\\u003c\"}",
            ),
            (
                BuildingBlock::JobScheduling,
                "500 {\"errorCode\":\"DAPR_SCHEDULER_SCHEDULE_JOB\",\"message\":\"failed to \
                 schedule job due to: scheduler clients are disabled\",\
                 \"details\":[{\"@type\":\"type.googleapis.com/google.rpc.ErrorInfo\",\
                 \"domain\":\"dapr.io\",\"metadata\":{\"appID\":\"orders\",\"namespace\":\"prod\"},\
                 \"reason\":\"DAPR_SCHEDULER_SCHEDULE_JOB\"}]}",
            ),
            (
                BuildingBlock::JobLookup,
                "500 {\"errorCode\":\"DAPR_SCHEDULER_GET_JOB\",\"message\":\"failed to get job due \
                 to: scheduler clients are disabled\",\"details\":[{\"@type\":\"type.googleapis.com\
                 /google.rpc.ErrorInfo\",\"domain\":\"dapr.io\",\"metadata\":{\"appID\":\"orders\",\
                 \"namespace\":\"prod\"},\"reason\":\"DAPR_SCHEDULER_GET_JOB\"}]}",
            ),
            (
                BuildingBlock::JobDeletion,
                "500 {\"errorCode\":\"DAPR_SCHEDULER_DELETE_JOB\",\"message\":\"failed to delete \
                 job due to: scheduler clients are disabled\",\
                 \"details\":[{\"@type\":\"type.googleapis.com/google.rpc.ErrorInfo\",\
                 \"domain\":\"dapr.io\",\"metadata\":{\"appID\":\"orders\",\"namespace\":\"prod\"},\
                 \"reason\":\"DAPR_SCHEDULER_DELETE_JOB\"}]}",
            ),
        ] {
            let got = said(LocalCall::Unconfigured(block), &app, "s<", "");
            assert_eq!(got.replacen(" application/json \"\"", "", 1), want, "{block:?}");
        }
    }
}
