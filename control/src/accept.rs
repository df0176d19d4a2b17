//! Accepts connections for the small servers of control: a bounded number at a time, each in a task
//! of its own; further ones wait in the backlog.

#![forbid(unsafe_code)]

use std::{future::Future, io, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::Semaphore,
};

/// A listening socket of either kind.
pub(crate) trait Accept: Send + Sync {
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;

    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Accept for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<TcpStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

impl Accept for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<UnixStream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

/// Never ends by itself.
pub(crate) async fn accept<L, F>(
    listener: L,
    connections_max: usize,
    serve: impl Fn(L::Stream) -> F + Send,
) where
    L: Accept,
    F: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(connections_max));
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match listener.next().await {
            Ok(stream) => {
                let served = serve(stream);
                tokio::spawn(async move {
                    served.await;
                    drop(place);
                });
            }
            // Out of descriptors, or a client that left: the next one may fare better.
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
