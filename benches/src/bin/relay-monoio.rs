//! Yardstick: a byte relay on monoio 0.2.4 with its default ring, written as its documentation
//! shows.

#![forbid(unsafe_code)]

use anyhow::Result;
use benches::{Arguments, COPY_BYTES, announce};
use clap::Parser;
use loadtests::socket;
use monoio::{
    io::{AsyncReadRent, AsyncWriteRent, AsyncWriteRentExt, Split, Splitable},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
};
use snapshot::Address;
use socket2::Socket;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    socket::raise_descriptor_limit();
    let (listener, bound) = socket::listen(&arguments.listen)?;
    let mut runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().build()?;
    announce(&bound);
    runtime.block_on(serve(listener, bound, arguments.upstream))
}

async fn serve(listener: Socket, bound: Address, upstream: Address) -> Result<()> {
    match bound {
        Address::Tcp(_) => {
            let listener = TcpListener::from_std(listener.into())?;
            loop {
                let (client, _) = listener.accept().await?;
                client.set_nodelay(true)?;
                connect(client, upstream.clone()).await;
            }
        }
        Address::Unix(_) => {
            let listener = UnixListener::from_std(listener.into())?;
            loop {
                let (client, _) = listener.accept().await?;
                connect(client, upstream.clone()).await;
            }
        }
    }
}

async fn connect<C: Split + AsyncReadRent + AsyncWriteRent + 'static>(
    client: C,
    upstream: Address,
) {
    let connected = match &upstream {
        Address::Tcp(address) => match TcpStream::connect_addr(*address).await {
            Ok(stream) => stream.set_nodelay(true).map(|()| start(client, stream)),
            Err(error) => Err(error),
        },
        Address::Unix(path) => UnixStream::connect(path).await.map(|stream| start(client, stream)),
    };
    if let Err(error) = connected {
        eprintln!("cannot connect to {upstream}: {error}");
    }
}

fn start<C, U>(client: C, upstream: U)
where
    C: Split + AsyncReadRent + AsyncWriteRent + 'static,
    U: Split + AsyncReadRent + AsyncWriteRent + 'static,
{
    let (client_read, client_write) = client.into_split();
    let (upstream_read, upstream_write) = upstream.into_split();
    monoio::spawn(copy(client_read, upstream_write));
    monoio::spawn(copy(upstream_read, client_write));
}

async fn copy<R: AsyncReadRent, W: AsyncWriteRent>(mut from: R, mut to: W) {
    let mut buffer = Vec::with_capacity(COPY_BYTES);
    loop {
        let (read, bytes) = from.read(buffer).await;
        if !matches!(read, Ok(1..)) {
            break;
        }
        let (written, bytes) = to.write_all(bytes).await;
        if written.is_err() {
            break;
        }
        buffer = bytes;
    }
    // The other direction may still run: FIN, not close. A socket that is gone already has nothing
    // to shut down.
    let _ = to.shutdown().await;
}
