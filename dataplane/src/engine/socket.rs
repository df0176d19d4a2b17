//! What both backends do with a socket by plain system calls: make it, connect it, close it hard,
//! judge its errors.

#![forbid(unsafe_code)]

use rustix::{
    io::Errno,
    net::{
        AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType, connect, shutdown,
        socket_with, sockopt,
    },
};
use snapshot::Address;
use std::{
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    time::Duration,
};

/// A stream socket for `address`, not yet connected; TCP ones send at once (TCP_NODELAY).
pub(super) fn open(address: &Address, flags: SocketFlags) -> Result<OwnedFd, Errno> {
    let family = match address {
        Address::Tcp(SocketAddr::V4(_)) => AddressFamily::INET,
        Address::Tcp(SocketAddr::V6(_)) => AddressFamily::INET6,
        Address::Unix(_) => AddressFamily::UNIX,
    };
    let socket = socket_with(family, SocketType::STREAM, flags | SocketFlags::CLOEXEC, None)?;
    if matches!(address, Address::Tcp(_)) {
        sockopt::set_tcp_nodelay(&socket, true)?;
    }
    Ok(socket)
}

/// How far a connect that may not block came.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Connecting {
    Connected,
    Failed(Errno),
    InProgress,
}

/// Connects a non-blocking TCP socket.
pub(super) fn connect_tcp(socket: impl AsFd, address: &SocketAddr) -> Connecting {
    match connect(socket, address) {
        Ok(()) => Connecting::Connected,
        Err(Errno::INPROGRESS | Errno::INTR) => Connecting::InProgress,
        Err(error) => Connecting::Failed(error),
    }
}

/// Connects a non-blocking Unix socket. That never takes time: where the listener's backlog is full
/// the kernel says EAGAIN, and waiting for room would be a wait without a bound.
pub(super) fn connect_unix(socket: impl AsFd, path: &Path) -> Connecting {
    match SocketAddrUnix::new(path).and_then(|address| connect(socket, &address)) {
        Ok(()) => Connecting::Connected,
        Err(error) => Connecting::Failed(error),
    }
}

/// Accepted sockets inherit TCP_NODELAY from their listener on Linux, which saves a call for each.
pub(super) fn prepare_listener(listener: impl AsFd) {
    // Not a TCP socket: nothing to set.
    let _ = sockopt::set_tcp_nodelay(listener, true);
}

/// Makes the close that follows a reset.
pub(super) fn reset_on_close(socket: impl AsFd) {
    // A Unix socket has no reset; its close with unread data is one to the peer.
    let _ = sockopt::set_socket_linger(socket, Some(Duration::ZERO));
}

/// Sends FIN. A peer that is gone already has no use for it, so there is no error to tell.
pub(super) fn shutdown_write(socket: impl AsFd) {
    let _ = shutdown(socket, Shutdown::Write);
}

/// What an accept that failed says about the listener.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum AcceptError {
    /// Only that one connection is lost.
    Connection,
    /// Accepting makes no sense until something else has changed.
    Listener,
}

/// Linux passes pending network errors of the new connection on as errors of accept; `accept(2)`
/// lists them.
pub(super) const fn judge_accept_error(error: Errno) -> AcceptError {
    match error {
        Errno::CONNABORTED
        | Errno::HOSTDOWN
        | Errno::HOSTUNREACH
        | Errno::INTR
        | Errno::NETDOWN
        | Errno::NETUNREACH
        | Errno::NONET
        | Errno::NOPROTOOPT
        | Errno::PERM
        | Errno::PROTO => AcceptError::Connection,
        _ => AcceptError::Listener,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn judges_accept_errors() {
        for (error, want) in [
            (Errno::MFILE, AcceptError::Listener),
            (Errno::NFILE, AcceptError::Listener),
            (Errno::NOBUFS, AcceptError::Listener),
            (Errno::NOMEM, AcceptError::Listener),
            (Errno::BADF, AcceptError::Listener),
            (Errno::INVAL, AcceptError::Listener),
            (Errno::CONNABORTED, AcceptError::Connection),
            (Errno::PROTO, AcceptError::Connection),
            (Errno::PERM, AcceptError::Connection),
        ] {
            assert_eq!(judge_accept_error(error), want, "{error}");
        }
    }
}
