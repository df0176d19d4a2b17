//! Where operators reach a control that runs: HTTP on a Unix socket that only its user can open. A
//! sidecar explains calls there, and a node takes orders, too.
//!
//! ```text
//!   POST /v1/explain                   what is known of where an app can be called
//!   GET /v1/apps                       what is served
//!   PUT /v1/apps                       one app or a list, in the keys of the node's file
//!   DELETE /v1/apps/{namespace}/{id}   no longer
//!   POST /v1/reload                    read the file anew
//!   GET /v1/denials                    what the kernel refused
//!   GET /v1/denials?after={number}     the same, as soon as there is any after this one
//!   POST /v1/detach                    steer no longer
//! ```
//! Every order is passed to the event loop, and answered once it is in force.

#![forbid(unsafe_code)]

use crate::{
    accept::accept,
    knowledge::Question,
    listen::{self, ListenError},
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{convert::Infallible, path::Path, time::Duration};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
};

/// What an operator asks for.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) wish: Wish,
    pub(crate) answer: Answer,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Wish {
    Add(String),
    Explain(Question),
    Denials,
    /// Those after this number, as soon as there are any.
    DenialsAfter(u64),
    Detach,
    List,
    Reload,
    Remove {
        namespace: String,
        id: String,
    },
}

/// Takes a status and a text.
#[derive(Debug)]
pub(crate) struct Answer(oneshot::Sender<(u16, String)>);

impl Answer {
    pub(crate) fn send(self, status: u16, text: String) {
        // The operator may have left meanwhile.
        let _ = self.0.send((status, text));
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.0.is_closed()
    }
}

/// Starts serving; orders come out of the receiver. Must be called within the runtime.
///
/// # Errors
/// When the socket cannot be had.
pub(crate) fn serve(path: &Path) -> Result<mpsc::Receiver<Order>, ListenError> {
    let failed = |reason| ListenError::BindUnix { path: path.to_owned(), reason };
    let listener = UnixListener::from_std(listen::unix(path)?.into()).map_err(failed)?;
    let (orders, receiver) = mpsc::channel(CONNECTIONS_MAX);
    tokio::spawn(accept(listener, CONNECTIONS_MAX, move |stream| {
        serve_connection(stream, orders.clone())
    }));
    Ok(receiver)
}

async fn serve_connection(stream: UnixStream, orders: mpsc::Sender<Order>) {
    let answer = service_fn(|request| answer(request, &orders));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), answer);
    // An operator that breaks off has nobody to tell.
    let _ = connection.await;
}

async fn answer(
    request: Request<Incoming>,
    orders: &mpsc::Sender<Order>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        Err(e) => return Ok(response(413, format!("the request cannot be read: {e}"))),
    };
    let Some(wish) = wish(&head.method, head.uri.path(), head.uri.query(), body) else {
        return Ok(response(404, "there is no such thing to ask for".to_owned()));
    };
    let waits = matches!(wish, Wish::DenialsAfter(_));
    let (sender, receiver) = oneshot::channel();
    let order = Order { wish, answer: Answer(sender) };
    // A full queue means that the event loop is stuck; the operator learns it by the status.
    if orders.try_send(order).is_err() {
        return Ok(response(503, "too much is asked for at once".to_owned()));
    }
    Ok(match tokio::time::timeout(ANSWER_TIMEOUT, receiver).await {
        Ok(Ok((status, text))) => response(status, text),
        // Nothing yet; whoever waits asks again.
        Err(_) if waits => response(200, "[]".to_owned()),
        _ => response(503, format!("it is not in force after {ANSWER_TIMEOUT:?}")),
    })
}

fn wish(method: &Method, path: &str, query: Option<&str>, body: String) -> Option<Wish> {
    match (method, path) {
        (&Method::GET, "/v1/apps") => Some(Wish::List),
        (&Method::PUT, "/v1/apps") => Some(Wish::Add(body)),
        (&Method::POST, "/v1/explain") => serde_json::from_str(&body).ok().map(Wish::Explain),
        (&Method::GET, "/v1/denials") => match query {
            Some(query) => query.strip_prefix("after=")?.parse().ok().map(Wish::DenialsAfter),
            None => Some(Wish::Denials),
        },
        (&Method::POST, "/v1/detach") => Some(Wish::Detach),
        (&Method::POST, "/v1/reload") => Some(Wish::Reload),
        (&Method::DELETE, path) => {
            let (namespace, id) = path.strip_prefix("/v1/apps/")?.split_once('/')?;
            let is_name = |name: &str| !name.is_empty() && !name.contains('/');
            (is_name(namespace) && is_name(id))
                .then(|| Wish::Remove { namespace: namespace.to_owned(), id: id.to_owned() })
        }
        _ => None,
    }
}

fn response(status: u16, text: String) -> Response<Full<Bytes>> {
    let is_json = text.starts_with(['[', '{']);
    let mut response = Response::new(Full::from(text));
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let content_type = if is_json { "application/json" } else { "text/plain; charset=utf-8" };
    let content_type = header::HeaderValue::from_static(content_type);
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

/// Operators at once; more wait to be accepted.
const CONNECTIONS_MAX: usize = 16;
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// A list of some thousands of apps.
const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_read_from_method_and_path() {
        let remove = |namespace: &str, id: &str| {
            Some(Wish::Remove { namespace: namespace.into(), id: id.into() })
        };
        for (method, path, want) in [
            (Method::GET, "/", None),
            (Method::POST, "/v1/apps", None),
            (Method::POST, "/v1/explain", None),
            (Method::DELETE, "/v1/apps", None),
            (Method::DELETE, "/v1/apps/default", None),
            (Method::DELETE, "/v1/apps//orders", None),
            (Method::DELETE, "/v1/apps/default/", None),
            (Method::DELETE, "/v1/apps/default/orders/x", None),
            (Method::DELETE, "/v1/apps/default/orders", remove("default", "orders")),
            (Method::POST, "/v1/denials", None),
            (Method::GET, "/v1/detach", None),
            (Method::GET, "/v1/denials", Some(Wish::Denials)),
            (Method::POST, "/v1/detach", Some(Wish::Detach)),
            (Method::GET, "/v1/apps", Some(Wish::List)),
            (Method::PUT, "/v1/apps", Some(Wish::Add("{}".into()))),
            (Method::POST, "/v1/reload", Some(Wish::Reload)),
        ] {
            assert_eq!(wish(&method, path, None, "{}".into()), want, "{method} {path}");
        }
        for (query, want) in
            [("after=", None), ("before=7", None), ("after=7", Some(Wish::DenialsAfter(7)))]
        {
            let wish = wish(&Method::GET, "/v1/denials", Some(query), String::new());
            assert_eq!(wish, want, "{query}");
        }
    }
}
