//! Serves the metrics page: any path, as daprd's. A scrape asks the event loop for the counters and
//! waits.

#![forbid(unsafe_code)]

use super::metrics;
use crate::accept::accept;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode, body::Bytes, header, server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{convert::Infallible, io, os::fd::OwnedFd, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
};

/// One scrape: whoever holds the counters answers with the page.
pub(crate) type Scrape = oneshot::Sender<String>;

/// Starts serving; scrapes come out of the receiver.
///
/// # Errors
/// When the socket cannot be used by this runtime.
pub(crate) fn serve(socket: OwnedFd) -> io::Result<mpsc::Receiver<Scrape>> {
    let listener = TcpListener::from_std(socket.into())?;
    let (scrapes, receiver) = mpsc::channel(CONNECTIONS_MAX);
    tokio::spawn(accept(listener, CONNECTIONS_MAX, move |stream| {
        serve_connection(stream, scrapes.clone())
    }));
    Ok(receiver)
}

async fn serve_connection(stream: TcpStream, scrapes: mpsc::Sender<Scrape>) {
    let answer = service_fn(|request| answer(request, &scrapes));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), answer);
    // A scraper that breaks off has nobody to tell.
    let _ = connection.await;
}

async fn answer(
    request: Request<hyper::body::Incoming>,
    scrapes: &mpsc::Sender<Scrape>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(status(StatusCode::METHOD_NOT_ALLOWED));
    }
    let (scrape, page) = oneshot::channel();
    // A full queue means that the event loop is stuck; the scraper learns it by the status.
    if scrapes.try_send(scrape).is_err() {
        return Ok(status(StatusCode::SERVICE_UNAVAILABLE));
    }
    match tokio::time::timeout(SCRAPE_TIMEOUT, page).await {
        Ok(Ok(page)) => {
            let mut response = Response::new(Full::from(page));
            let content_type = header::HeaderValue::from_static(metrics::CONTENT_TYPE);
            response.headers_mut().insert(header::CONTENT_TYPE, content_type);
            Ok(response)
        }
        _ => Ok(status(StatusCode::SERVICE_UNAVAILABLE)),
    }
}

fn status(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::default();
    *response.status_mut() = status;
    response
}

/// Scrapers at once; more wait to be accepted.
const CONNECTIONS_MAX: usize = 16;
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const HEAD_BYTES_MAX: usize = 16 * 1024;
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(5);
