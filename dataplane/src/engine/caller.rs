//! Who dialled an accepted TCP socket, as Ringcar's program in the kernel noted it at the socket
//! before accept could return it. Nothing that the client sends plays a part.

use ebpf_common::{IDENTITY_LEVEL, IDENTITY_NAME, Identity, Name, TARGET_NAME};
use snapshot::CgroupId;
use std::os::fd::{AsFd, AsRawFd};

/// The app that a dialled address stood for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Target {
    /// The address was an address.
    None,
    /// As it is called: `id` or `id.namespace`.
    Named(Box<[u8]>),
    /// It stood for an app when it was dialled, and does no more.
    Gone,
}

/// The registered cgroup that the dialling process was in. `None` without the program, for
/// processes of no registered cgroup, and on sockets that are not TCP's.
pub(crate) fn caller(socket: impl AsFd) -> Option<CgroupId> {
    let identity: Identity = ask(socket)?;
    (identity.cgroup != 0).then_some(CgroupId(identity.cgroup))
}

/// The app whose address was dialled, of a connection that came to the caller's own API instead.
pub(crate) fn target(socket: impl AsFd) -> Target {
    let identity: Identity = ask(&socket).unwrap_or_default();
    if identity.target == 0 {
        return Target::None;
    }
    let Some(name) = ask::<Name>(&socket) else { return Target::Gone };
    Target::Named(name.read(&mut [0; size_of::<Name>()]).into())
}

/// What can be asked for: integers alone, so that any bytes are one.
trait Asked: Copy + Default {
    /// The option's.
    const NAME: libc::c_int;
}

impl Asked for Identity {
    const NAME: libc::c_int = IDENTITY_NAME;
}

impl Asked for Name {
    const NAME: libc::c_int = TARGET_NAME;
}

fn ask<T: Asked>(socket: impl AsFd) -> Option<T> {
    let mut answer = T::default();
    let mut bytes = libc::socklen_t::try_from(size_of::<T>()).ok()?;
    // SAFETY: the kernel writes at most `bytes` bytes, which is the size of `answer`, a plain
    // struct of integers on this stack frame; the descriptor is borrowed for the whole call. A
    // larger length would let it write beyond the struct.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            IDENTITY_LEVEL,
            T::NAME,
            (&raw mut answer).cast(),
            &raw mut bytes,
        )
    };
    (result == 0 && bytes as usize == size_of::<T>()).then_some(answer)
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
        assert_eq!((target(&accepted), target(&end)), (Target::None, Target::None));
    }
}
