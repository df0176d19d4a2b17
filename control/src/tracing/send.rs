//! One batch to where it goes: a POST, or a call over gRPC. Within the destination's time, and
//! without trying twice.

#![forbid(unsafe_code)]

use super::{
    otlp::{self, ExportRequest, ExportResponse},
    span::Told,
    zipkin,
};
use crate::{
    config::tracing::{Destination, Protocol},
    http_client::{self, CallError},
};
use hyper::{
    HeaderMap, Method, Response, StatusCode,
    body::Bytes,
    header::{self, HeaderName, HeaderValue},
};
use prost::Message;
use snapshot::Address;
use std::time::Duration;
use tokio::net::lookup_host;
use tonic::{
    Code, Status,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    metadata::MetadataMap,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    /// It would say the same again.
    #[error("it refuses them: {0}")]
    Refused(String),
    #[error("{0}")]
    Unreachable(String),
}

/// Of one destination.
pub(super) struct Sender {
    destination: Destination,
    headers: HeaderMap,
    /// Of gRPC, whose connection is kept.
    channel: Option<Channel>,
}

impl Sender {
    pub(super) fn new(destination: Destination) -> Self {
        let pairs = destination.headers.iter().filter_map(|(name, value)| {
            let mut value = HeaderValue::from_str(value).ok()?;
            value.set_sensitive(true);
            Some((HeaderName::from_bytes(name.as_bytes()).ok()?, value))
        });
        let headers = pairs.collect();
        Self { destination, headers, channel: None }
    }

    pub(super) const fn destination(&self) -> &Destination {
        &self.destination
    }

    /// How many of them were taken.
    pub(super) async fn send(&mut self, batch: &[Told]) -> Result<usize, SendError> {
        let timeout = self.destination.timeout;
        let sent = async {
            match self.destination.protocol {
                Protocol::OtlpGrpc => self.call(otlp::request(batch)).await.map(rejected),
                Protocol::OtlpHttp => {
                    let body = otlp::request(batch).encode_to_vec();
                    let answer = self.post(body, "application/x-protobuf").await?;
                    // A collector that answers something else has taken them all the same.
                    Ok(rejected(ExportResponse::decode(answer.into_body()).unwrap_or_default()))
                }
                Protocol::Zipkin => {
                    self.post(zipkin::emit(batch), "application/json").await.map(|_| 0)
                }
            }
        };
        match tokio::time::timeout(timeout, sent).await {
            Ok(result) => result.map(|rejected| batch.len().saturating_sub(rejected)),
            Err(_) => Err(SendError::Unreachable(format!("no answer within {timeout:?}"))),
        }
    }

    async fn post(
        &self,
        body: Vec<u8>,
        content_type: &'static str,
    ) -> Result<Response<Bytes>, SendError> {
        let Destination { authority, path, timeout, .. } = &self.destination;
        let body = Bytes::from(body);
        let unreachable = |reason: String| SendError::Unreachable(reason);
        let places = lookup_host(authority).await.map_err(|e| unreachable(e.to_string()))?;
        let mut failure = unreachable("its name has no address".to_owned());
        for place in places {
            let mut request = http_client::request(Method::POST, path, body.clone())
                .map_err(|e| SendError::Refused(e.to_string()))?;
            let headers = request.headers_mut();
            headers.extend(self.headers.clone());
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
            if let Ok(host) = HeaderValue::from_str(authority) {
                headers.entry(header::HOST).or_insert(host);
            }
            match http_client::call(&Address::Tcp(place), request, *timeout).await {
                Ok(answer) => return judge(answer),
                Err(e @ CallError::Connect { .. }) => failure = unreachable(e.to_string()),
                Err(e) => return Err(unreachable(e.to_string())),
            }
        }
        Err(failure)
    }

    async fn call(&mut self, message: ExportRequest) -> Result<ExportResponse, SendError> {
        let channel = match &self.channel {
            Some(channel) => channel.clone(),
            None => {
                let endpoint =
                    Endpoint::from_shared(format!("http://{}", self.destination.authority))
                        .map_err(|e| SendError::Refused(e.to_string()))?;
                let channel = endpoint.connect_timeout(CONNECT_TIMEOUT).connect_lazy();
                self.channel.insert(channel).clone()
            }
        };
        let mut grpc = Grpc::new(channel);
        grpc.ready().await.map_err(|e| SendError::Unreachable(innermost(&e)))?;
        let mut request = tonic::Request::new(message);
        *request.metadata_mut() = MetadataMap::from_headers(self.headers.clone());
        let path = PathAndQuery::from_static(EXPORT);
        let codec = ProstCodec::<ExportRequest, ExportResponse>::default();
        let answer = grpc.unary(request, path, codec).await;
        answer.map(tonic::Response::into_inner).map_err(|status| judge_status(&status))
    }
}

fn rejected(ExportResponse { partial_success }: ExportResponse) -> usize {
    let count = partial_success.map_or(0, |partial| partial.rejected_spans);
    usize::try_from(count).unwrap_or(0)
}

/// What may be better the next time (OTLP, "Retryable Response Codes"; any 5xx, since proxies are
/// not careful with them).
fn judge(answer: Response<Bytes>) -> Result<Response<Bytes>, SendError> {
    let status = answer.status();
    let reason = format!("it answers {status}");
    match status {
        _ if status.is_success() => Ok(answer),
        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
            Err(SendError::Unreachable(reason))
        }
        _ if status.is_server_error() => Err(SendError::Unreachable(reason)),
        _ => Err(SendError::Refused(status.to_string())),
    }
}

fn judge_status(status: &Status) -> SendError {
    let reason = format!("{:?}: {}", status.code(), status.message());
    match status.code() {
        Code::Aborted
        | Code::Cancelled
        | Code::DataLoss
        | Code::DeadlineExceeded
        | Code::OutOfRange
        | Code::ResourceExhausted
        | Code::Unavailable
        // A connection that broke is told so.
        | Code::Unknown => SendError::Unreachable(reason),
        _ => SendError::Refused(reason),
    }
}

/// The cause that says something; those around it say that there was one.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// A machine that does not answer at all is tried again soon.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_better_next_time_is_told_from_what_will_not() {
        for (status, want) in [
            (200, "taken"),
            (202, "taken"),
            (301, "refused"),
            (400, "refused"),
            (404, "refused"),
            (408, "later"),
            (413, "refused"),
            (429, "later"),
            (500, "later"),
            (503, "later"),
        ] {
            let answer = Response::builder().status(status).body(Bytes::new()).unwrap();
            let got = match judge(answer) {
                Ok(_) => "taken",
                Err(SendError::Refused(_)) => "refused",
                Err(SendError::Unreachable(_)) => "later",
            };
            assert_eq!(got, want, "{status}");
        }
        for (code, want) in [
            (Code::InvalidArgument, "refused"),
            (Code::Unauthenticated, "refused"),
            (Code::Unimplemented, "refused"),
            (Code::ResourceExhausted, "later"),
            (Code::Unavailable, "later"),
            (Code::Unknown, "later"),
        ] {
            let got = match judge_status(&Status::new(code, "why")) {
                SendError::Refused(_) => "refused",
                SendError::Unreachable(_) => "later",
            };
            assert_eq!(got, want, "{code:?}");
        }
    }

    #[test]
    fn spans_that_were_not_taken_are_told_apart() {
        let answer = |rejected_spans| {
            let partial = otlp::PartialSuccess { rejected_spans, error_message: String::new() };
            ExportResponse { partial_success: Some(partial) }
        };
        assert_eq!(rejected(ExportResponse::default()), 0);
        assert_eq!((rejected(answer(3)), rejected(answer(-1))), (3, 0));
    }
}
