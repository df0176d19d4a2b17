//! Stream sockets, TCP or Unix, made the same way by every tool and yardstick, so that they differ
//! in nothing else.

#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use snapshot::Address;
use socket2::{Domain, SockAddr, Socket, Type};
use std::{io, path::Path};

use crate::address::spell;

/// As the kernel's `somaxconn`: a burst of connects must not wait for a turn of the loop.
const BACKLOG: i32 = 4096;

fn open(address: &Address) -> io::Result<(Socket, SockAddr)> {
    match address {
        Address::Tcp(address) => {
            let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
            Ok((Socket::new(domain, Type::STREAM, None)?, (*address).into()))
        }
        Address::Unix(path) => {
            Ok((Socket::new(Domain::UNIX, Type::STREAM, None)?, SockAddr::unix(path)?))
        }
    }
}

/// Binds and listens; returns the address that was bound, with the port the kernel chose.
///
/// # Errors
/// With the address in words when it cannot be bound.
pub fn listen(address: &Address) -> Result<(Socket, Address)> {
    let bind = || -> io::Result<(Socket, Address)> {
        let (socket, name) = open(address)?;
        match address {
            Address::Tcp(_) => socket.set_reuse_address(true)?,
            Address::Unix(path) => remove_stale(path)?,
        }
        socket.bind(&name)?;
        socket.listen(BACKLOG)?;
        let bound = socket.local_addr()?.as_socket().map(Address::Tcp);
        Ok((socket, bound.unwrap_or_else(|| address.clone())))
    };
    bind().with_context(|| format!("cannot listen on {}", spell(address)))
}

/// A socket file whose owner was killed stays behind; binding would fail although nobody listens.
///
/// # Errors
/// When the file is there and may not be removed.
pub fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Connects and waits until it is done: all that is measured is on this machine. The socket stays
/// blocking.
///
/// # Errors
/// With the address in words when nobody answers.
pub fn connect(address: &Address) -> Result<Socket> {
    let connect = || -> io::Result<Socket> {
        let (socket, name) = open(address)?;
        socket.connect(&name)?;
        set_no_delay(&socket, address)?;
        Ok(socket)
    };
    connect().with_context(|| format!("cannot connect to {}", spell(address)))
}

/// Nagle's algorithm would measure itself: small messages wait for an acknowledgement.
///
/// # Errors
/// When the socket is gone already.
pub fn set_no_delay(socket: &Socket, address: &Address) -> io::Result<()> {
    match address {
        Address::Tcp(_) => socket.set_tcp_nodelay(true),
        Address::Unix(_) => Ok(()),
    }
}

/// Takes all the descriptors the hard limit allows; measuring 10,000 connections needs more than
/// the usual 1,024.
pub fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // A refusal shows as EMFILE at the connection that does not fit, with its own message.
    let _ = setrlimit(Resource::Nofile, raised);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn connects_over_both_kinds() {
        let path = std::env::temp_dir().join(format!("loadtests-socket-{}", std::process::id()));
        for address in
            [Address::Tcp("127.0.0.1:0".parse().unwrap()), Address::Unix(path.clone().into())]
        {
            // Twice: the second time finds what the first left behind.
            for _ in 0..2 {
                let (listener, bound) = listen(&address).unwrap();
                let mut client = connect(&bound).unwrap();
                let (mut server, _) = listener.accept().unwrap();
                client.write_all(b"ping").unwrap();
                let mut bytes = [0; 4];
                server.read_exact(&mut bytes).unwrap();
                assert_eq!(&bytes, b"ping", "{address}");
            }
        }
        std::fs::remove_file(&path).unwrap();
        let error = connect(&Address::Unix(path.into())).unwrap_err();
        assert!(error.to_string().starts_with("cannot connect to unix:/"), "{error}");
    }
}
