//! Everything that is handed to the data plane: sockets that were bound here, and sockets that an
//! adopted data plane listens on already.
//!
//! An inherited socket keeps its name, so the data plane goes on with the one it has; one that
//! nobody takes is closed there by the first state.

#![forbid(unsafe_code)]

use crate::{adopt::Adopted, runtime_dir::RuntimeDir, supervisor};
use rustix::net::getsockname;
use snapshot::{Address, InstanceId, Listener, ListenerId, ListenerKind};
use std::{
    net::SocketAddr,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    sync::Arc,
};

#[derive(Default)]
pub(super) struct Sockets {
    listeners: Vec<Listener>,
    bound: supervisor::Sockets,
    /// Socket files to remove at the end.
    files: Vec<PathBuf>,
    inherited: Vec<Inherited>,
    /// Names above this one are free.
    last: u32,
}

struct Inherited {
    listener: Listener,
    socket: Arc<OwnedFd>,
    address: Address,
}

impl Sockets {
    pub(super) fn inherit(adopted: &Adopted) -> Self {
        let inherited: Vec<Inherited> = adopted
            .held
            .listeners
            .iter()
            .filter_map(|listener| {
                let (_, socket) = adopted.sockets.iter().find(|(id, _)| *id == listener.id)?;
                let address = address_of(socket)?;
                Some(Inherited { listener: listener.clone(), socket: Arc::clone(socket), address })
            })
            .collect();
        let last = adopted.held.listeners.iter().map(|listener| listener.id.0).max().unwrap_or(0);
        Self { inherited, last, ..Self::default() }
    }

    pub(super) fn add(&mut self, kind: ListenerKind, socket: OwnedFd) {
        self.last += 1;
        let id = ListenerId(self.last);
        self.listeners.push(Listener { id, kind, app: 0 });
        self.bound.push((id, Arc::new(socket)));
    }

    pub(super) fn add_unix(&mut self, kind: ListenerKind, socket: OwnedFd, path: PathBuf) {
        self.add(kind, socket);
        self.files.push(path);
    }

    /// Takes the inherited socket that listens where a new one would; port 0 is any port.
    pub(super) fn take_tcp(
        &mut self,
        kind: ListenerKind,
        wanted: SocketAddr,
    ) -> Option<SocketAddr> {
        let fits = |address: &Address| match address {
            Address::Tcp(address) if wanted.port() == 0 => address.ip() == wanted.ip(),
            Address::Tcp(address) => *address == wanted,
            Address::Unix(_) => false,
        };
        match self.take(kind, fits)? {
            Address::Tcp(address) => Some(address),
            Address::Unix(_) => None,
        }
    }

    /// Takes the inherited socket at this path.
    pub(super) fn take_unix(&mut self, kind: ListenerKind, path: &Path) -> bool {
        let is_taken = self.take(kind, |a| *a == Address::Unix(path.to_owned())).is_some();
        if is_taken {
            self.files.push(path.to_owned());
        }
        is_taken
    }

    /// Takes the inherited socket where other sidecars call, and the instance they know it by.
    pub(super) fn take_peer(&mut self, dir: &RuntimeDir) -> Option<(InstanceId, PathBuf)> {
        let instance = |address: &Address| match address {
            // One whose file was removed cannot be called any more.
            Address::Unix(path) if path.exists() => dir.instance_at(path),
            _ => None,
        };
        let address = self.take(ListenerKind::Peer, |address| instance(address).is_some())?;
        let found = instance(&address)?;
        let Address::Unix(path) = address else { return None };
        self.files.push(path.clone());
        Some((found, path))
    }

    fn take(&mut self, kind: ListenerKind, fits: impl Fn(&Address) -> bool) -> Option<Address> {
        let is_it = |i: &Inherited| i.listener.kind == kind && fits(&i.address);
        let position = self.inherited.iter().position(is_it)?;
        let Inherited { listener, socket, address } = self.inherited.swap_remove(position);
        self.bound.push((listener.id, socket));
        self.listeners.push(listener);
        Some(address)
    }

    pub(super) fn finish(self) -> (Vec<Listener>, supervisor::Sockets, Vec<PathBuf>) {
        (self.listeners, self.bound, self.files)
    }
}

fn address_of(socket: &OwnedFd) -> Option<Address> {
    let address = getsockname(socket).ok()?;
    if let Ok(unix) = rustix::net::SocketAddrUnix::try_from(address.clone()) {
        let path = std::ffi::OsStr::from_bytes(unix.path_bytes()?);
        return Some(Address::Unix(path.into()));
    }
    SocketAddr::try_from(address).ok().map(Address::Tcp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{listen, test_dir::TestDir};
    use std::time::Duration;

    fn inherited(id: u32, kind: ListenerKind, socket: OwnedFd) -> Inherited {
        let address = address_of(&socket).unwrap();
        let listener = Listener { id: ListenerId(id), kind, app: 0 };
        Inherited { listener, socket: Arc::new(socket), address }
    }

    fn tcp() -> (OwnedFd, SocketAddr) {
        let bound = listen::tcp("127.0.0.1", 0, Duration::ZERO, |_| {}).unwrap();
        (bound.socket, bound.address)
    }

    #[test]
    fn takes_what_listens_where_it_is_wanted_and_nothing_else() {
        let (socket, address) = tcp();
        let inherit = |socket: OwnedFd| Sockets {
            inherited: vec![inherited(7, ListenerKind::Api, socket)],
            last: 7,
            ..Sockets::default()
        };
        let other_port = SocketAddr::new(address.ip(), address.port() ^ 1);
        let other_ip = SocketAddr::from(([127, 0, 0, 2], address.port()));
        let mut sockets = inherit(socket);
        for (case, kind, wanted) in [
            ("kind", ListenerKind::Public, address),
            ("port", ListenerKind::Api, other_port),
            ("address", ListenerKind::Api, other_ip),
            ("any port of another address", ListenerKind::Api, SocketAddr::new(other_ip.ip(), 0)),
        ] {
            assert_eq!(sockets.take_tcp(kind, wanted), None, "{case}");
        }
        assert_eq!(sockets.take_tcp(ListenerKind::Api, address), Some(address));
        assert_eq!(sockets.take_tcp(ListenerKind::Api, address), None, "only once");
        sockets.add(ListenerKind::Public, tcp().0);
        let (listeners, bound, _) = sockets.finish();
        let ids: Vec<u32> = listeners.iter().map(|listener| listener.id.0).collect();
        assert_eq!(ids, [7, 8], "a new one gets a name of its own");
        assert_eq!(bound.len(), 2);

        let (socket, address) = tcp();
        let any = SocketAddr::new(address.ip(), 0);
        assert_eq!(inherit(socket).take_tcp(ListenerKind::Api, any), Some(address));
    }

    #[test]
    fn a_peer_socket_says_which_instance_it_is() {
        let temp = TestDir::new();
        let dir = RuntimeDir::at(&temp.path().join("run"));
        dir.create().unwrap();
        let instance = InstanceId("7-ab".into());
        let path = dir.peer_socket(&instance);
        let inherit = |path: &Path| Sockets {
            inherited: vec![inherited(1, ListenerKind::Peer, listen::unix(path).unwrap())],
            ..Sockets::default()
        };
        let mut sockets = inherit(&path);
        assert_eq!(sockets.take_peer(&dir), Some((instance, path.clone())));
        assert_eq!(sockets.finish().2, std::slice::from_ref(&path));

        std::fs::remove_file(&path).unwrap();
        let mut sockets = inherit(&path);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(sockets.take_peer(&dir), None, "nobody can call it");
        assert_eq!(inherit(&temp.path().join("7.peer")).take_peer(&dir), None, "elsewhere");
    }
}
