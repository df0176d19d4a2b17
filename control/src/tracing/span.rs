//! What a span says, whatever the protocol that carries it: attributes and status, as daprd 1.18
//! sets them.
//!
//! The hop between two Ringcars is HTTP, so a callee's span says `http` where daprd's says `grpc`,
//! and names the request that the app got.

#![forbid(unsafe_code)]

use dataplane::dapr::escape::decode_path;
use hyper::StatusCode;
use snapshot::wire::{Span, SpanKind};
use std::{borrow::Cow, sync::Arc};

/// Who recorded spans; the same for all of an app.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Service {
    pub(crate) name: String,
    /// What else the environment says of it.
    pub(crate) resource: Vec<(String, String)>,
}

/// A span on its way out.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) service: Arc<Service>,
    pub(crate) span: Arc<Span>,
}

pub(super) type Attributes<'a> = Vec<(Cow<'a, str>, Cow<'a, str>)>;

/// daprd's name for what made the span.
pub(super) const SCOPE: &str = "dapr-diagnostics";

/// No key twice: what the sidecar says counts before a client's header line of that name.
pub(super) fn attributes(span: &Span) -> Attributes<'_> {
    let mut all: Attributes<'_> = Vec::with_capacity(12 + span.headers.len());
    let call = call_of(&span.name);
    if let Some((target, method)) = call {
        push(&mut all, "rpc.service", "ServiceInvocation");
        match span.kind {
            SpanKind::Client => push(&mut all, "net.peer.name", target),
            SpanKind::Server => push(&mut all, "dapr.invoke_method", method),
        }
    }
    push(&mut all, "dapr.protocol", "http");
    let path = match (span.kind, call) {
        (SpanKind::Server, Some((_, method))) => Cow::Owned(format!("/{method}")),
        _ => path_of(&span.target),
    };
    push(&mut all, "dapr.api", format!("{} {path}", span.verb));
    push(&mut all, "dapr.status_code", span.status.to_string());
    push(&mut all, "http.request.method", &*span.verb);
    if span.kind == SpanKind::Client {
        push(&mut all, "url.full", &*span.target);
        if let Some(client) = span.client {
            push(&mut all, "server.address", client.ip().to_string());
            push(&mut all, "server.port", client.port().to_string());
        }
    }
    for (name, value) in &span.headers {
        if !all.iter().any(|(key, _)| key == name) {
            push(&mut all, name, value);
        }
    }
    all
}

/// daprd leaves out what is empty.
fn push<'a>(
    all: &mut Attributes<'a>,
    key: impl Into<Cow<'a, str>>,
    value: impl Into<Cow<'a, str>>,
) {
    let value = value.into();
    if !value.is_empty() {
        all.push((key.into(), value));
    }
}

/// What is wrong, where anything is. What the app answered is no failure of its own sidecar.
pub(super) fn failure(span: &Span) -> Option<String> {
    let is_apps_own = span.kind == SpanKind::Server && span.is_answered;
    if span.status < 400 || is_apps_own {
        return None;
    }
    let reason = StatusCode::from_u16(span.status).ok().and_then(|code| code.canonical_reason());
    Some(format!("Code({}): {}", span.status, reason.unwrap_or("Unknown")))
}

/// The app that is called.
pub(super) fn target(span: &Span) -> Option<&str> {
    call_of(&span.name).map(|(target, _)| target)
}

/// App and method; `None` for what a sidecar answers itself.
fn call_of(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix("CallLocal/")?.split_once('/')
}

/// Decoded, and without what is no path of a request target.
fn path_of(target: &str) -> Cow<'_, str> {
    let path = match target.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |slash| &rest[slash..]),
        None => target,
    };
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let mut decoded = Vec::new();
    match decode_path(path.as_bytes(), &mut decoded) {
        Ok(()) => Cow::Owned(String::from_utf8_lossy(&decoded).into_owned()),
        Err(_) => Cow::Borrowed(path),
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// `GET /v1.0/invoke/checkout/method/a%20b?x=1`, as the caller's sidecar has it.
    pub(in crate::tracing) fn call(status: u16) -> Span {
        Span {
            app: 0,
            kind: SpanKind::Client,
            trace: [0xab; 16],
            span: [0xcd; 8],
            parent: [0; 8],
            name: "CallLocal/checkout/a b".to_owned(),
            status,
            is_answered: true,
            verb: "GET".to_owned(),
            target: "/v1.0/invoke/checkout/method/a%20b?x=1".to_owned(),
            headers: vec![("dapr-order".to_owned(), "7".to_owned())],
            client: Some("127.0.0.1:4711".parse().unwrap()),
            began: 1_700_000_000_000_001_499,
            ended: 1_700_000_000_000_004_000,
        }
    }

    pub(in crate::tracing) fn told(span: Span) -> Told {
        let service = Service { name: "Orders".to_owned(), resource: Vec::new() };
        Told { service: Arc::new(service), span: Arc::new(span) }
    }

    fn lines(span: &Span) -> Vec<String> {
        attributes(span).iter().map(|(key, value)| format!("{key}={value}")).collect()
    }

    #[test]
    fn attributes_are_those_of_daprd() {
        let span = call(200);
        let want = [
            "rpc.service=ServiceInvocation",
            "net.peer.name=checkout",
            "dapr.protocol=http",
            "dapr.api=GET /v1.0/invoke/checkout/method/a b",
            "dapr.status_code=200",
            "http.request.method=GET",
            "url.full=/v1.0/invoke/checkout/method/a%20b?x=1",
            "server.address=127.0.0.1",
            "server.port=4711",
            "dapr-order=7",
        ];
        assert_eq!(lines(&span), want);
        let server = Span { kind: SpanKind::Server, client: None, ..span };
        let want = [
            "rpc.service=ServiceInvocation",
            "dapr.invoke_method=a b",
            "dapr.protocol=http",
            "dapr.api=GET /a b",
            "dapr.status_code=200",
            "http.request.method=GET",
            "dapr-order=7",
        ];
        assert_eq!(lines(&server), want);
    }

    #[test]
    fn a_path_is_what_the_target_asks_for() {
        for (case, target, want) in [
            ("cut within an escape", "/a%2", "/a%2"),
            ("absolute", "http://h:1/a%20b?c", "/a b"),
            ("absolute without a path", "http://h", "/"),
            ("no text", "/%ff", "/\u{fffd}"),
            ("plain", "/v1.0/metadata", "/v1.0/metadata"),
        ] {
            assert_eq!(path_of(target), want, "{case}");
        }
        let local = Span { name: "/v1.0/metadata".to_owned(), headers: vec![], ..call(200) };
        assert_eq!(lines(&local)[0], "dapr.protocol=http", "no call");
        assert_eq!(target(&local), None);
    }

    #[test]
    fn an_error_is_what_a_sidecar_would_have_to_explain() {
        let server = |is_answered| Span { kind: SpanKind::Server, is_answered, ..call(503) };
        for (case, span, want) in [
            ("fine", call(399), None),
            ("the callers", call(404), Some("Code(404): Not Found")),
            ("of no name", call(599), Some("Code(599): Unknown")),
            ("the app's own", server(true), None),
            ("the callee's", server(false), Some("Code(503): Service Unavailable")),
        ] {
            assert_eq!(failure(&span).as_deref(), want, "{case}");
        }
    }
}
