//! A batch of spans as OpenTelemetry's protocol has it: the messages of `trace_service.proto`,
//! `trace.proto`, `resource.proto` and `common.proto`, version 1.
//!
//! Written out rather than generated, so that building needs no protobuf compiler. Fields that are
//! not used are left out.

#![forbid(unsafe_code)]

use super::span::{self, Service, Told};
use prost::{Message, Oneof};
use snapshot::wire::SpanKind;
use std::{collections::BTreeMap, sync::Arc};

#[derive(Clone, PartialEq, Message)]
pub(super) struct ExportRequest {
    #[prost(message, repeated, tag = "1")]
    pub(super) resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ExportResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PartialSuccess {
    #[prost(int64, tag = "1")]
    pub(super) rejected_spans: i64,
    #[prost(string, tag = "2")]
    pub(super) error_message: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    pub(super) resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    pub(super) scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Resource {
    #[prost(message, repeated, tag = "1")]
    pub(super) attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    pub(super) scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    pub(super) spans: Vec<Span>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Scope {
    #[prost(string, tag = "1")]
    pub(super) name: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Span {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub(super) parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    pub(super) name: String,
    #[prost(int32, tag = "6")]
    pub(super) kind: i32,
    #[prost(fixed64, tag = "7")]
    pub(super) start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    pub(super) end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    pub(super) attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    pub(super) status: Option<Status>,
    #[prost(fixed32, tag = "16")]
    pub(super) flags: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Status {
    #[prost(string, tag = "2")]
    pub(super) message: String,
    #[prost(int32, tag = "3")]
    pub(super) code: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct KeyValue {
    #[prost(string, tag = "1")]
    pub(super) key: String,
    #[prost(message, optional, tag = "2")]
    pub(super) value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct AnyValue {
    #[prost(oneof = "Value", tags = "1")]
    pub(super) value: Option<Value>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Value {
    #[prost(string, tag = "1")]
    Text(String),
}

/// `SpanKind` and `StatusCode` of `trace.proto`.
const KIND_SERVER: i32 = 2;
const KIND_CLIENT: i32 = 3;
const CODE_ERROR: i32 = 2;

/// `SpanFlags`: sampled, and whether the parent was elsewhere, which it is if there is one.
const FLAG_SAMPLED: u32 = 1;
const FLAG_HAS_IS_REMOTE: u32 = 0x100;
const FLAG_IS_REMOTE: u32 = 0x200;

/// The spans of each app stand together.
pub(super) fn request(batch: &[Told]) -> ExportRequest {
    let mut services: BTreeMap<*const Service, (&Service, Vec<Span>)> = BTreeMap::new();
    for Told { service, span } in batch {
        let of_service = services.entry(Arc::as_ptr(service)).or_insert((&**service, Vec::new()));
        of_service.1.push(span_of(span));
    }
    let resource_spans = services.into_values().map(|(service, spans)| {
        let scope = Some(Scope { name: span::SCOPE.to_owned() });
        let scope_spans = vec![ScopeSpans { scope, spans }];
        ResourceSpans { resource: Some(resource(service)), scope_spans }
    });
    ExportRequest { resource_spans: resource_spans.collect() }
}

fn resource(service: &Service) -> Resource {
    let name = key_value("service.name", &service.name);
    let more = service.resource.iter().map(|(key, value)| key_value(key, value));
    Resource { attributes: std::iter::once(name).chain(more).collect() }
}

fn span_of(span: &snapshot::wire::Span) -> Span {
    let has_parent = span.parent != [0; 8];
    let attributes = span::attributes(span);
    Span {
        trace_id: span.trace.to_vec(),
        span_id: span.span.to_vec(),
        parent_span_id: if has_parent { span.parent.to_vec() } else { Vec::new() },
        name: span.name.clone(),
        kind: match span.kind {
            SpanKind::Client => KIND_CLIENT,
            SpanKind::Server => KIND_SERVER,
        },
        start_time_unix_nano: span.began,
        end_time_unix_nano: span.ended,
        attributes: attributes.iter().map(|(key, value)| key_value(key, value)).collect(),
        status: span::failure(span).map(|message| Status { message, code: CODE_ERROR }),
        flags: FLAG_SAMPLED | FLAG_HAS_IS_REMOTE | if has_parent { FLAG_IS_REMOTE } else { 0 },
    }
}

fn key_value(key: &str, value: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(Value::Text(value.to_owned())) });
    KeyValue { key: key.to_owned(), value }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tracing::span::tests::{call, told};

    /// Numbers of fields and wire types as the published protocol has them, byte for byte.
    #[test]
    fn is_written_as_the_protocol_has_it() {
        let mut span = call(404);
        (span.name, span.headers, span.client) = ("n".to_owned(), Vec::new(), None);
        (span.verb, span.target) = (String::new(), String::new());
        (span.trace, span.span, span.parent) = ([1; 16], [2; 8], [3; 8]);
        (span.began, span.ended) = (5, 6);
        let message = request(&[told(span)]);
        let Span { attributes, status, .. } = &message.resource_spans[0].scope_spans[0].spans[0];
        assert_eq!(attributes.len(), 3, "{attributes:?}");
        assert_eq!(status.as_ref().unwrap().message, "Code(404): Not Found");
        let mut bare = message.resource_spans[0].scope_spans[0].spans[0].clone();
        bare.attributes.clear();
        let want = [
            &[0x0a, 16][..],
            &[1; 16],
            &[0x12, 8],
            &[2; 8],
            &[0x22, 8],
            &[3; 8],
            &[0x2a, 1, b'n', 0x30, 3, 0x39, 5, 0, 0, 0, 0, 0, 0, 0, 0x41, 6, 0, 0, 0, 0, 0, 0, 0],
            &[0x7a, 24, 0x12, 20],
            b"Code(404): Not Found",
            &[0x18, 2, 0x85, 0x01, 1, 3, 0, 0],
        ]
        .concat();
        assert_eq!(bare.encode_to_vec(), want);
        let resource = message.resource_spans[0].resource.as_ref().unwrap();
        let want = [&[0x0a, 22, 0x0a, 12][..], b"service.name", &[0x12, 6 + 2, 0x0a, 6], b"Orders"];
        let want = want.concat();
        assert_eq!(resource.encode_to_vec()[2..], want[2..], "{want:?}");
    }

    #[test]
    fn spans_of_one_app_stand_together() {
        let (first, second) = (told(call(200)), told(call(200)));
        let message = request(&[first.clone(), second, first]);
        let mut counts: Vec<usize> =
            message.resource_spans.iter().map(|one| one.scope_spans[0].spans.len()).collect();
        counts.sort_unstable();
        assert_eq!(counts, [1, 2]);
    }
}
