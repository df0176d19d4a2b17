//! A batch of spans as Zipkin's API takes it: JSON, version 2.
//!
//! As daprd's exporter writes it, names in small letters included; the remote end of a call is the
//! app that is called, where daprd has the address of the client.

#![forbid(unsafe_code)]

use super::span::{self, Told, hex};
use serde::Serialize;
use snapshot::wire::SpanKind;
use std::{borrow::Cow, collections::BTreeMap};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Span<'a> {
    trace_id: String,
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_id: Option<String>,
    kind: &'static str,
    name: String,
    /// In microseconds, as the duration.
    timestamp: u64,
    duration: u64,
    local_endpoint: Endpoint,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote_endpoint: Option<Endpoint>,
    tags: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    service_name: String,
}

impl Endpoint {
    fn new(name: &str) -> Self {
        Self { service_name: name.to_lowercase() }
    }
}

pub(super) fn emit(batch: &[Told]) -> Vec<u8> {
    let spans: Vec<Span<'_>> = batch.iter().map(span).collect();
    serde_json::to_vec(&spans).expect("texts and numbers have a JSON form")
}

fn span(Told { service, span }: &Told) -> Span<'_> {
    let mut tags: BTreeMap<_, _> = span::attributes(span).into_iter().collect();
    for (key, value) in &service.resource {
        tags.insert(key.into(), value.into());
    }
    tags.insert("service.name".into(), (&service.name).into());
    tags.insert("otel.scope.name".into(), span::SCOPE.into());
    // Both words mean a failure here, whatever a header line says.
    tags.remove("error");
    if let Some(failure) = span::failure(span) {
        tags.insert("otel.status_code".into(), "ERROR".into());
        tags.insert("error".into(), failure.into());
    }
    let is_client = span.kind == SpanKind::Client;
    Span {
        trace_id: hex(&span.trace),
        id: hex(&span.span),
        parent_id: (span.parent != [0; 8]).then(|| hex(&span.parent)),
        kind: if is_client { "CLIENT" } else { "SERVER" },
        name: span.name.to_lowercase(),
        timestamp: rounded(span.began),
        // Zero would mean that it is not known.
        duration: rounded(span.ended.saturating_sub(span.began)).max(1),
        local_endpoint: Endpoint::new(&service.name),
        remote_endpoint: span::target(span).filter(|_| is_client).map(Endpoint::new),
        tags,
    }
}

const fn rounded(nanos: u64) -> u64 {
    nanos.saturating_add(500) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tracing::span::tests::{call, told};
    use serde_json::{Value, json};

    fn emitted(told: Told) -> Value {
        let mut all: Value = serde_json::from_slice(&emit(&[told])).unwrap();
        all[0].take()
    }

    #[test]
    fn has_the_shape_of_daprds() {
        let got = emitted(told(call(404)));
        let want = json!({
            "traceId": "ab".repeat(16),
            "id": "cd".repeat(8),
            "kind": "CLIENT",
            "name": "calllocal/checkout/a b",
            "timestamp": 1_700_000_000_000_001_u64,
            "duration": 3,
            "localEndpoint": {"serviceName": "orders"},
            "remoteEndpoint": {"serviceName": "checkout"},
            "tags": {
                "rpc.service": "ServiceInvocation",
                "net.peer.name": "checkout",
                "dapr.protocol": "http",
                "dapr.api": "GET /v1.0/invoke/checkout/method/a b",
                "dapr.status_code": "404",
                "http.request.method": "GET",
                "url.full": "/v1.0/invoke/checkout/method/a%20b?x=1",
                "server.address": "127.0.0.1",
                "server.port": "4711",
                "dapr-order": "7",
                "service.name": "Orders",
                "otel.scope.name": "dapr-diagnostics",
                "otel.status_code": "ERROR",
                "error": "Code(404): Not Found",
            },
        });
        assert_eq!(got, want);
    }

    #[test]
    fn a_callee_has_a_parent_and_no_remote_end() {
        let mut span = call(200);
        (span.kind, span.parent, span.ended) = (SpanKind::Server, [1; 8], span.began);
        let got = emitted(told(span));
        assert_eq!(got["parentId"], "01".repeat(8));
        assert_eq!((&got["kind"], &got["duration"]), (&json!("SERVER"), &json!(1)));
        assert!(got.get("remoteEndpoint").is_none() && got["tags"].get("error").is_none());
    }
}
