//! Whoever takes spans: Zipkin's API, or OpenTelemetry's over HTTP or gRPC, as far as a test asks.

#![forbid(unsafe_code)]

use super::DEADLINE;
use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{
    convert::Infallible,
    net::{Ipv4Addr, TcpListener},
    sync::mpsc,
    thread,
};
use tokio::sync::oneshot;

/// Ends with the test, or when it is stopped.
pub(crate) struct Collector {
    pub(crate) port: u16,
    seen: mpsc::Receiver<Batch>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Manner {
    /// gRPC.
    Calls,
    /// Over HTTP/1.1, answered with this.
    Posts(u16),
    /// Takes them, and never says so.
    Silent,
}

impl Collector {
    pub(crate) fn start(manner: Manner) -> Self {
        Self::start_on(0, manner)
    }

    pub(crate) fn start_on(port: u16, manner: Manner) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (tell, seen) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    () = accept_all(listener, manner, tell) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { port, seen, stop: Some(stop), thread: Some(thread) }
    }

    /// The next batch that comes.
    #[track_caller]
    pub(crate) fn next(&self) -> Batch {
        self.seen.recv_timeout(DEADLINE).expect("a batch of spans")
    }

    pub(crate) fn try_next(&self) -> Option<Batch> {
        self.seen.try_recv().ok()
    }

    /// It is away: its connections are closed, and its port refuses others.
    pub(crate) fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.end();
    }
}

async fn accept_all(listener: tokio::net::TcpListener, manner: Manner, tell: mpsc::Sender<Batch>) {
    while let Ok((stream, _)) = listener.accept().await {
        let tell = tell.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| take(request, manner, tell.clone()));
            let stream = TokioIo::new(stream);
            // However a connection ends, the test has what came.
            let _ = match manner {
                Manner::Calls => {
                    http2::Builder::new(TokioExecutor::new())
                        .serve_connection(stream, service)
                        .await
                }
                _ => http1::Builder::new().serve_connection(stream, service).await,
            };
        });
    }
}

async fn take(
    request: Request<Incoming>,
    manner: Manner,
    tell: mpsc::Sender<Batch>,
) -> Result<Response<http_body_util::combinators::BoxBody<Bytes, Infallible>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let path = head.uri.path_and_query().map_or("", |path| path.as_str()).to_owned();
    // The test may have seen enough.
    let _ = tell.send(Batch { path, headers: head.headers, body });
    match manner {
        Manner::Silent => std::future::pending().await,
        Manner::Posts(status) => {
            let mut answer = Response::new(Full::new(Bytes::new()).boxed());
            *answer.status_mut() = StatusCode::from_u16(status).unwrap();
            Ok(answer)
        }
        Manner::Calls => {
            // One message of no bytes, uncompressed.
            let body = Full::new(Bytes::from_static(&[0; 5])).with_trailers(async {
                let trailers =
                    HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
                Some(Ok(trailers))
            });
            let mut answer = Response::new(body.boxed());
            answer.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
            Ok(answer)
        }
    }
}
