//! Which network namespace this process is in, as the kernel's programs know it.

use rustix::net::{AddressFamily, SocketType, socket};
use std::{io, os::fd::AsRawFd};

/// The cookie of the current thread's network namespace (Linux 5.14); never given twice.
///
/// # Errors
/// The kernel's.
pub fn cookie() -> io::Result<u64> {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    let mut cookie = 0_u64;
    let mut bytes = libc::socklen_t::try_from(size_of::<u64>()).expect("eight");
    // SAFETY: `cookie` is eight bytes, as `bytes` says, and both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut bytes,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

const SO_NETNS_COOKIE: libc::c_int = 71;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_has_one_cookie() {
        assert_eq!(cookie().unwrap(), cookie().unwrap());
        assert_ne!(cookie().unwrap(), 0);
    }
}
