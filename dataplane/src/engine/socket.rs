//! What both backends do with a socket by plain system calls: make it, connect it, close it hard,
//! judge its errors.

#![forbid(unsafe_code)]

use crate::limits::{ACCEPT_WAIT_MAX, LAST_ACCEPTS_MAX};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{
        AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType, accept_with, connect,
        shutdown, socket_with, sockopt,
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
///
/// O_NONBLOCK belongs to the open file, so to every process that has the listener: while one data
/// plane takes over from another, io_uring in the one may clear what epoll in the other relies on.
/// There is no MSG_DONTWAIT for accept, so its wait gets a bound instead.
pub(super) fn prepare_listener(listener: impl AsFd) {
    // Not a TCP socket: nothing to set.
    let _ = sockopt::set_tcp_nodelay(&listener, true);
    let _ = sockopt::set_socket_timeout(&listener, sockopt::Timeout::Recv, Some(ACCEPT_WAIT_MAX));
}

/// What waits in the queue of a listener that is about to be closed. The close would reset those
/// connections, and with them the calls that they may have brought.
pub(super) fn accept_last(listener: impl AsFd) -> Vec<OwnedFd> {
    let mut sockets = Vec::new();
    while sockets.len() < LAST_ACCEPTS_MAX && is_readable(&listener) {
        match accept_with(&listener, SocketFlags::CLOEXEC) {
            Ok(socket) => sockets.push(socket),
            Err(error) if judge_accept_error(error) == AcceptError::Connection => {}
            // Another process took it, or there are no descriptors.
            Err(_) => break,
        }
    }
    sockets
}

fn is_readable(socket: impl AsFd) -> bool {
    let mut fds = [PollFd::new(&socket, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
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
