//! The port of daprd's gRPC API: it listens, and says of every call that it is not carried.
//!
//! `dapr run` waits for this port before it starts an app without a port of its own, for a minute;
//! and a client that calls is better told than left to guess. Whatever is wrong here costs a line
//! in the log and nothing else: service invocation over HTTP does not need it.

#![forbid(unsafe_code)]

use crate::{
    accept::accept,
    config::Config,
    listen::{self, Bound, ListenError},
    log::Log,
};
use http_body_util::Empty;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::{
    convert::Infallible,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    task::JoinSet,
    time::Instant,
};

/// Listens until it is dropped.
#[derive(Default)]
pub(crate) struct GrpcPort {
    listeners: JoinSet<()>,
    file: Option<PathBuf>,
}

impl GrpcPort {
    /// Must be called within the runtime. A port that is in use is tried on for a while, and then
    /// done without.
    pub(crate) fn start(config: &Config, log: &Log) -> Self {
        let log = log.scoped("dapr.runtime.grpc");
        let mut port = Self::default();
        if let Some(directory) = &config.unix_socket_directory {
            let path = directory.join(format!("dapr-{}-grpc.socket", config.app_id));
            match listen_unix(&path) {
                Ok(listener) => {
                    port.listeners.spawn(accept(listener, CONNECTIONS_MAX, serve));
                    port.file = Some(path);
                }
                Err(e) => log.warning(format_args!("{e}; clients of the gRPC API are not told")),
            }
            return port;
        }
        let every_interface = [String::new()];
        let hosts = if config.listen_hosts.is_empty() {
            &every_interface
        } else {
            &config.listen_hosts[..]
        };
        for host in hosts {
            let (host, number) = (host.clone(), config.grpc_port);
            port.listeners.spawn(serve_tcp(host, number, log.clone()));
        }
        port
    }
}

impl Drop for GrpcPort {
    fn drop(&mut self) {
        if let Some(path) = &self.file {
            // Somebody may have been quicker.
            let _ = fs::remove_file(path);
        }
    }
}

fn listen_unix(path: &Path) -> Result<UnixListener, ListenError> {
    let failed = |reason| ListenError::BindUnix { path: path.to_owned(), reason };
    let listener = std::os::unix::net::UnixListener::from(listen::unix(path)?);
    listener.set_nonblocking(true).map_err(failed)?;
    UnixListener::from_std(listener).map_err(failed)
}

async fn serve_tcp(host: String, port: u16, log: Log) {
    let deadline = Instant::now() + listen::RETRY;
    let Bound { socket, address } = loop {
        match listen::tcp_if_free(&host, port) {
            Ok(bound) => break bound,
            Err(_) if Instant::now() < deadline => tokio::time::sleep(BIND_PAUSE).await,
            Err(e) => {
                return log.warning(format_args!(
                    "{e}; clients of the gRPC API meet whoever listens there"
                ));
            }
        }
    };
    log.info(format_args!("gRPC server listening on TCP address: {address}; it carries no call"));
    let Ok(listener) = TcpListener::from_std(socket.into()) else { return };
    accept(listener, CONNECTIONS_MAX, serve).await;
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(KEEP_ALIVE)
        .serve_connection(TokioIo::new(stream), service_fn(refuse));
    // Who only looked whether anybody listens is gone by now. One that stays is let go.
    let _ = tokio::time::timeout(CONNECTION_TIME_MAX, connection).await;
}

/// A response of trailers alone, as gRPC over HTTP/2 has it for a call that fails at once.
async fn refuse(_: Request<Incoming>) -> Result<Response<Empty<Bytes>>, Infallible> {
    let mut response = Response::new(Empty::new());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from_static(UNIMPLEMENTED));
    headers.insert("grpc-message", HeaderValue::from_static(MESSAGE));
    Ok(response)
}

/// gRPC's status code.
const UNIMPLEMENTED: &str = "12";
const MESSAGE: &str =
    "Ringcar carries service invocation over HTTP; the gRPC API is not part of this version";

/// Clients that look in at once; further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 16;
const STREAMS_MAX: u32 = 16;
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Nothing good comes to who waits here; a client that keeps its connection makes a new one.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(60);
const BIND_PAUSE: Duration = Duration::from_millis(250);
