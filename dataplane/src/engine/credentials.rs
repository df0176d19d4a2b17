//! Whose process is at the other end of a Unix socket, as the kernel remembers it from the moment
//! of `connect`. What the process says of itself plays no part.

use std::{
    mem::size_of,
    os::fd::{AsFd, AsRawFd},
};

/// The peer's effective user id when it connected. `None` on any other kind of socket.
///
/// rustix has this call too, but with a process id that is never 0, and it is 0 for a peer in a pid
/// namespace that is not ours.
pub(crate) fn peer_user(socket: impl AsFd) -> Option<u32> {
    let mut credentials = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut bytes = libc::socklen_t::try_from(size_of::<libc::ucred>()).ok()?;
    // SAFETY: the kernel writes at most `bytes` bytes, which is the size of `credentials`, a plain
    // struct of integers on this stack frame; the descriptor is borrowed for the whole call. A
    // larger length would let it write beyond the struct.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut bytes,
        )
    };
    // A TCP socket has no such peer, which the kernel tells as user -1.
    (result == 0 && credentials.uid != u32::MAX).then_some(credentials.uid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        net::{TcpListener, TcpStream},
        os::unix::net::UnixStream,
    };

    #[test]
    fn knows_the_user_on_unix_sockets_alone() {
        let (end, _other) = UnixStream::pair().unwrap();
        assert_eq!(peer_user(&end), Some(rustix::process::geteuid().as_raw()));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(peer_user(&client), None);
        assert_eq!(peer_user(std::fs::File::open("/dev/null").unwrap()), None);
    }
}
