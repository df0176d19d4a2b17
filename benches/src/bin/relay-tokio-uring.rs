//! Yardstick: a byte relay on tokio-uring 0.5 with its default ring, written as its documentation
//! shows.

#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use benches::{Arguments, COPY_BYTES, announce};
use clap::Parser;
use loadtests::socket;
use snapshot::Address;
use std::{io, net::Shutdown, rc::Rc};
use tokio_uring::{
    BufResult,
    buf::{BoundedBuf, Slice},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
};

/// tokio-uring has a type for each kind of socket and no trait over them.
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    socket::raise_descriptor_limit();
    tokio_uring::start(serve(arguments))
}

async fn serve(Arguments { listen, upstream }: Arguments) -> Result<()> {
    match &listen {
        Address::Tcp(_) => {
            let (listener, bound) = socket::listen(&listen)?;
            let listener = TcpListener::from_std(listener.into());
            announce(&bound);
            loop {
                let (client, _) = listener.accept().await?;
                client.set_nodelay(true)?;
                start(Stream::Tcp(client), &upstream).await;
            }
        }
        Address::Unix(path) => {
            socket::remove_stale(path)?;
            let listener = UnixListener::bind(path).context(
                "tokio-uring sets SO_REUSEPORT on Unix sockets, which newer kernels refuse",
            )?;
            announce(&listen);
            loop {
                let client = listener.accept().await?;
                start(Stream::Unix(client), &upstream).await;
            }
        }
    }
}

async fn start(client: Stream, upstream: &Address) {
    let upstream = match Stream::connect(upstream).await {
        Ok(stream) => Rc::new(stream),
        Err(error) => {
            eprintln!("cannot connect to {upstream}: {error}");
            return;
        }
    };
    let client = Rc::new(client);
    tokio_uring::spawn(copy(Rc::clone(&client), Rc::clone(&upstream)));
    tokio_uring::spawn(copy(upstream, client));
}

async fn copy(from: Rc<Stream>, to: Rc<Stream>) {
    let mut buffer = Vec::with_capacity(COPY_BYTES);
    loop {
        let (read, bytes) = from.read(buffer).await;
        let Ok(count @ 1..) = read else { break };
        let (written, bytes) = to.write_all(bytes.slice(..count)).await;
        if written.is_err() {
            break;
        }
        buffer = bytes.into_inner();
    }
    // The other direction may still run: FIN, not close. A socket that is gone already has nothing
    // to shut down.
    let _ = to.shutdown_write();
}

impl Stream {
    async fn connect(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect(*address).await?;
                stream.set_nodelay(true)?;
                Ok(Self::Tcp(stream))
            }
            Address::Unix(path) => Ok(Self::Unix(UnixStream::connect(path).await?)),
        }
    }

    async fn read(&self, buffer: Vec<u8>) -> BufResult<usize, Vec<u8>> {
        match self {
            Self::Tcp(stream) => stream.read(buffer).await,
            Self::Unix(stream) => stream.read(buffer).await,
        }
    }

    async fn write_all(&self, bytes: Slice<Vec<u8>>) -> BufResult<(), Slice<Vec<u8>>> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes).await,
            Self::Unix(stream) => stream.write_all(bytes).await,
        }
    }

    fn shutdown_write(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
        }
    }
}
