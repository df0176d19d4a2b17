//! One HTTP/1.1 request on a connection of its own: for `invoke`, for `run`'s metadata, and for
//! calls to the app at start-up. None of it is on a request's path.

#![forbid(unsafe_code)]

use crate::config::token::API_TOKEN;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{HeaderMap, Request, Response, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use snapshot::Address;
use std::{error::Error, io, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("cannot connect to {address}: {reason}")]
    Connect { address: Address, reason: io::Error },
    #[error("the connection failed: {0}")]
    Http(#[from] hyper::Error),
    #[error("the response body is larger than {BODY_BYTES_MAX} bytes or broke off: {0}")]
    Body(Box<dyn Error + Send + Sync>),
    #[error("no response within {0:?}")]
    Timeout(Duration),
}

pub(crate) fn request(
    method: hyper::Method,
    path: &str,
    body: Bytes,
) -> hyper::http::Result<Request<Full<Bytes>>> {
    Request::builder().method(method).uri(path).body(Full::new(body))
}

/// To an app's API, with the token that it may want: daprd's command line takes it from this
/// variable as well.
pub(crate) fn api_request(
    method: hyper::Method,
    path: &str,
    body: Bytes,
) -> hyper::http::Result<Request<Full<Bytes>>> {
    let mut request = request(method, path, body)?;
    if let Ok(token) = std::env::var(API_TOKEN) {
        insert_token(request.headers_mut(), &token);
    }
    Ok(request)
}

/// Adds the line that brings a token. Without one, or with one that no line can carry, there is
/// none.
pub(crate) fn insert_token(headers: &mut HeaderMap, token: &str) {
    if let Ok(mut value) = header::HeaderValue::from_str(token)
        && !token.is_empty()
    {
        value.set_sensitive(true);
        headers.insert("dapr-api-token", value);
    }
}

/// Sends the request, with the `Host` of the address where it has none, and reads the whole
/// response.
///
/// # Errors
/// When there is no whole response within `timeout`.
pub(crate) async fn call(
    address: &Address,
    mut request: Request<Full<Bytes>>,
    timeout: Duration,
) -> Result<Response<Bytes>, CallError> {
    let host = match address {
        Address::Tcp(address) => address.to_string(),
        Address::Unix(_) => "localhost".to_owned(),
    };
    if let Ok(host) = header::HeaderValue::from_str(&host) {
        request.headers_mut().entry(header::HOST).or_insert(host);
    }
    let exchange = async {
        let failed = |reason| CallError::Connect { address: address.clone(), reason };
        match address {
            Address::Tcp(tcp) => {
                exchange(TcpStream::connect(tcp).await.map_err(failed)?, request).await
            }
            Address::Unix(path) => {
                exchange(UnixStream::connect(path).await.map_err(failed)?, request).await
            }
        }
    };
    tokio::time::timeout(timeout, exchange).await.unwrap_or(Err(CallError::Timeout(timeout)))
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<Full<Bytes>>,
) -> Result<Response<Bytes>, CallError> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let response = async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, BODY_BYTES_MAX).collect().await.map_err(CallError::Body)?;
        Ok(Response::from_parts(head, body.to_bytes()))
    };
    tokio::pin!(connection, response);
    let mut is_connected = true;
    loop {
        tokio::select! {
            biased;
            result = &mut response => return result,
            ended = &mut connection, if is_connected => {
                // What has arrived may still complete the response, which then says so itself.
                is_connected = false;
                if let Err(e) = ended {
                    return Err(e.into());
                }
            }
        }
    }
}

/// Responses are printed or dropped; nothing here is meant for bulk.
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;
