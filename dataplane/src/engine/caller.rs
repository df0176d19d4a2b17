//! Who dialled an accepted TCP socket, as Ringcar's program in the kernel noted it at the socket
//! before accept could return it. Nothing that the client sends plays a part.

use ebpf_common::{IDENTITY_LEVEL, IDENTITY_NAME, Identity};
use snapshot::CgroupId;
use std::os::fd::{AsFd, AsRawFd};

/// The registered cgroup that the dialling process was in. `None` without the program, for
/// processes of no registered cgroup, and on sockets that are not TCP's.
pub(crate) fn caller(socket: impl AsFd) -> Option<CgroupId> {
    let mut identity = Identity::default();
    let mut bytes = libc::socklen_t::try_from(size_of::<Identity>()).ok()?;
    // SAFETY: the kernel writes at most `bytes` bytes, which is the size of `identity`, a plain
    // struct of integers on this stack frame; the descriptor is borrowed for the whole call. A
    // larger length would let it write beyond the struct.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            IDENTITY_LEVEL,
            IDENTITY_NAME,
            (&raw mut identity).cast(),
            &raw mut bytes,
        )
    };
    let is_told = result == 0 && bytes as usize == size_of::<Identity>() && identity.cgroup != 0;
    is_told.then_some(CgroupId(identity.cgroup))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        net::{TcpListener, TcpStream},
        os::unix::net::UnixStream,
    };

    #[test]
    fn nobody_is_known_without_the_program() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert_eq!(caller(&accepted), None);
        assert_eq!(caller(&client), None);
        let (end, _other) = UnixStream::pair().unwrap();
        assert_eq!(caller(&end), None);
    }
}
