//! Binds every socket of a sidecar, before anything else is started.
//!
//! Control keeps them open for as long as it lives: a data plane that is started anew gets the same
//! sockets, and connections that come meanwhile wait in their backlog instead of being refused.

#![forbid(unsafe_code)]

use crate::port_owner;
use socket2::{Domain, SockAddr, Socket, Type};
use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs},
    os::{
        fd::OwnedFd,
        unix::{fs::FileTypeExt, net::UnixStream},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

#[derive(Debug, thiserror::Error)]
pub(crate) enum ListenError {
    #[error("cannot listen on {address}: {reason}{}", owner_text(.owner.as_deref()))]
    Bind { address: SocketAddr, reason: io::Error, owner: Option<String> },
    #[error("cannot listen on {path}: {reason}")]
    BindUnix { path: PathBuf, reason: io::Error },
    #[error("cannot resolve listen address {host:?}: {reason}")]
    Resolve { host: String, reason: io::Error },
}

fn owner_text(owner: Option<&str>) -> String {
    owner.map(|owner| format!("; the port is held by {owner}")).unwrap_or_default()
}

/// A bound socket and the address it got.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) socket: OwnedFd,
    pub(crate) address: SocketAddr,
}

/// How long a port in use is tried again; daprd's bound. A sidecar that is replaced frees it while
/// it drains.
pub(crate) const RETRY: Duration = Duration::from_secs(10);

/// Listens on a TCP port. An empty host is every interface, IPv4 and IPv6 in one socket where there
/// is IPv6.
///
/// `on_wait` is told once why there is nothing yet.
///
/// # Errors
/// When the host does not resolve, or the port is not free for all of `patience`.
pub(crate) fn tcp(
    host: &str,
    port: u16,
    patience: Duration,
    on_wait: impl FnOnce(&ListenError),
) -> Result<Bound, ListenError> {
    let address = resolve(host, port)?;
    let mut pause = RETRY_PAUSE_MIN;
    let mut on_wait = Some(on_wait);
    let deadline = Instant::now() + patience;
    loop {
        let reason = match bind_tcp(address) {
            Ok(bound) => return Ok(bound),
            Err(reason) => reason,
        };
        let is_temporary = reason.kind() == io::ErrorKind::AddrInUse;
        let owner = is_temporary.then(|| port_owner::find(address.port())).flatten();
        let error = ListenError::Bind { address, reason, owner };
        if !is_temporary || Instant::now() + pause > deadline {
            return Err(error);
        }
        if let Some(on_wait) = on_wait.take() {
            on_wait(&error);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(RETRY_PAUSE_MAX);
    }
}

/// As [`tcp`], for a caller who takes another port where this one is in use: nobody is waited for,
/// and nobody is told who holds it, since finding that out takes a walk through all processes.
///
/// # Errors
/// When the host cannot be resolved, or the port not be had.
pub(crate) fn tcp_if_free(host: &str, port: u16) -> Result<Bound, ListenError> {
    let address = resolve(host, port)?;
    bind_tcp(address).map_err(|reason| ListenError::Bind { address, reason, owner: None })
}

/// The address that [`tcp`] listens on.
///
/// # Errors
/// When the host has none.
pub(crate) fn resolve(host: &str, port: u16) -> Result<SocketAddr, ListenError> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        let has_ipv6 = Socket::new(Domain::IPV6, Type::STREAM, None).is_ok();
        let all: IpAddr =
            if has_ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        return Ok(SocketAddr::new(all, port));
    }
    let failed = |reason| ListenError::Resolve { host: host.to_owned(), reason };
    prefer_ipv4((host, port).to_socket_addrs().map_err(failed)?)
        .ok_or_else(|| failed(io::Error::other("it has no address")))
}

/// `localhost` names both; Go, and with it daprd, takes the IPv4 one.
pub(crate) fn prefer_ipv4(addresses: impl Iterator<Item = SocketAddr>) -> Option<SocketAddr> {
    let addresses: Vec<SocketAddr> = addresses.collect();
    addresses.iter().find(|address| address.is_ipv4()).or(addresses.first()).copied()
}

fn bind_tcp(address: SocketAddr) -> io::Result<Bound> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // Without it, connections of the last owner that are in TIME_WAIT would keep the port for a
    // minute.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let address = socket.local_addr()?.as_socket().unwrap_or(address);
    Ok(Bound { socket: socket.into(), address })
}

/// Listens on a Unix socket. A socket file nobody listens on any more is replaced.
///
/// # Errors
/// When the path is too long, or in use.
pub(crate) fn unix(path: &Path) -> Result<OwnedFd, ListenError> {
    let failed = |reason| ListenError::BindUnix { path: path.to_owned(), reason };
    let bound = match bind_unix(path) {
        Err(e) if e.kind() == io::ErrorKind::AddrInUse && is_abandoned(path) => {
            fs::remove_file(path).map_err(failed)?;
            bind_unix(path)
        }
        result => result,
    };
    bound.map_err(failed)
}

/// As [`unix`], for a path that an earlier owner is about to leave.
///
/// # Errors
/// When it is in use for all of `patience`.
pub(crate) fn unix_within(path: &Path, patience: Duration) -> Result<OwnedFd, ListenError> {
    let deadline = Instant::now() + patience;
    loop {
        match unix(path) {
            Err(ListenError::BindUnix { reason, .. })
                if reason.kind() == io::ErrorKind::AddrInUse
                    && Instant::now() + RETRY_PAUSE_MIN < deadline =>
            {
                std::thread::sleep(RETRY_PAUSE_MIN);
            }
            result => return result,
        }
    }
}

fn bind_unix(path: &Path) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A file of any other kind also refuses connections, and is not ours to remove.
fn is_abandoned(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    let refused = io::ErrorKind::ConnectionRefused;
    is_socket && UnixStream::connect(path).is_err_and(|reason| reason.kind() == refused)
}

/// Whether somebody listens on this Unix socket.
pub(crate) fn is_answered(path: &Path) -> bool {
    UnixStream::connect(path).is_ok()
}

/// Connections that wait to be accepted, also while a data plane is started anew. The kernel caps
/// it at `net.core.somaxconn`, which is 4096 since Linux 5.4.
const BACKLOG: i32 = 4096;

/// Between two attempts to get what another process still has.
pub(crate) const RETRY_PAUSE_MIN: Duration = Duration::from_millis(100);
const RETRY_PAUSE_MAX: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_dir::TestDir;
    use std::{net::TcpStream, os::unix::net::UnixListener};

    #[test]
    fn a_port_in_use_is_refused_with_its_owner() {
        let first = tcp("127.0.0.1", 0, Duration::ZERO, |_| {}).unwrap();
        let error = tcp("127.0.0.1", first.address.port(), Duration::ZERO, |_| {}).unwrap_err();
        let text = error.to_string();
        let pid = std::process::id();
        assert!(text.contains(&format!("cannot listen on {}", first.address)), "{text}");
        assert!(text.contains(&format!("held by process {pid} (")), "{text}");
    }

    #[test]
    fn a_port_that_becomes_free_is_taken() {
        let first = tcp("127.0.0.1", 0, Duration::ZERO, |_| {}).unwrap();
        let port = first.address.port();
        let (told, waiting) = std::sync::mpsc::channel();
        let second = std::thread::spawn(move || {
            tcp("127.0.0.1", port, RETRY, |error| told.send(error.to_string()).unwrap())
        });
        assert!(waiting.recv().unwrap().starts_with("cannot listen on 127.0.0.1:"));
        drop(first);
        assert_eq!(second.join().unwrap().unwrap().address.port(), port);
    }

    #[test]
    fn listens_where_it_is_told() {
        if !crate::test_program::has_localhost() {
            return;
        }
        // That nobody answers elsewhere cannot be asked by connecting: the port may be another
        // program's there. The kernel says what the socket is bound to.
        for (case, host, is_only, reachable) in [
            ("every interface", "", None, "127.0.0.1"),
            ("an address", "127.0.0.2", Some("127.0.0.2"), "127.0.0.2"),
            ("a name", "localhost", Some("127.0.0.1"), "localhost"),
        ] {
            let bound = tcp(host, 0, Duration::ZERO, |_| {}).unwrap();
            let socket = Socket::from(bound.socket);
            let address = socket.local_addr().unwrap().as_socket().unwrap();
            assert_eq!(address, bound.address, "{case}");
            let only = (!address.ip().is_unspecified()).then(|| address.ip().to_string());
            assert_eq!(only.as_deref(), is_only, "{case}");
            TcpStream::connect((reachable, address.port()))
                .unwrap_or_else(|e| panic!("{case}: {e}"));
        }
        assert!(matches!(
            tcp("no such host", 0, Duration::ZERO, |_| {}),
            Err(ListenError::Resolve { .. })
        ));
    }

    #[test]
    fn a_socket_file_that_becomes_free_is_taken() {
        let temp = TestDir::new();
        let path = temp.path().join("s");
        let first = unix(&path).unwrap();
        let second = std::thread::spawn({
            let path = path.clone();
            move || unix_within(&path, RETRY)
        });
        drop(first);
        second.join().unwrap().unwrap();
    }

    #[test]
    fn replaces_an_abandoned_socket_file_only() {
        let temp = TestDir::new();
        let path = temp.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        let bound = unix(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        assert!(matches!(unix(&path), Err(ListenError::BindUnix { .. })));
        drop(bound);
        let too_long = temp.path().join("x".repeat(200));
        assert!(matches!(unix(&too_long), Err(ListenError::BindUnix { .. })));
        fs::write(temp.path().join("file"), "kept").unwrap();
        assert!(unix(&temp.path().join("file")).is_err());
        assert_eq!(fs::read_to_string(temp.path().join("file")).unwrap(), "kept");
    }
}
