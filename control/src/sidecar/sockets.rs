//! What an app is listened for on: sockets that are bound here, and sockets that are there already,
//! because the data plane was adopted or the app is only served otherwise.
//!
//! A socket that is there keeps its name, so the data plane goes on with the one it has; one that
//! nobody takes is closed there by the next state.

#![forbid(unsafe_code)]

use crate::{adopt::Adopted, runtime_dir::RuntimeDir};
use rustix::net::getsockname;
use snapshot::{Address, CgroupId, InstanceId, Listener, ListenerId, ListenerKind, SocketPath};
use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::Path,
    sync::Arc,
};

/// Sockets that may be taken, and names for new ones.
#[derive(Default)]
pub(super) struct Pool {
    free: Vec<Free>,
    /// Names above this one are free.
    last: u32,
}

#[derive(Clone)]
pub(super) struct Bound {
    pub(super) listener: Listener,
    pub(super) socket: Arc<OwnedFd>,
    pub(super) address: Address,
    /// The data plane does not have it yet.
    pub(super) is_new: bool,
}

struct Free {
    bound: Bound,
    /// The app that goes on with it, if it is not for all.
    only: Option<u32>,
}

/// The sockets of one app, while they are gathered.
pub(super) struct Sockets<'a> {
    pool: &'a mut Pool,
    app: u32,
    new: Vec<Bound>,
    taken: Vec<Free>,
}

impl Pool {
    pub(super) fn inherit(adopted: &Adopted) -> Self {
        let mut pool = Self::default();
        for listener in &adopted.held.listeners {
            pool.last = pool.last.max(listener.id.0);
            let found = adopted.sockets.iter().find(|(id, _)| *id == listener.id);
            if let Some((_, socket)) = found
                && let Some(address) = address_of(socket)
            {
                let (listener, socket) = (listener.clone(), Arc::clone(socket));
                let bound = Bound { listener, socket, address, is_new: false };
                pool.free.push(Free { bound, only: None });
            }
        }
        pool
    }

    /// A socket of a data plane that is replaced: the one that is started does not have it.
    pub(super) fn inherit_new(&mut self, kind: ListenerKind, app: u32, socket: &Arc<OwnedFd>) {
        let Some(address) = address_of(socket) else { return };
        self.last += 1;
        let listener = Listener { id: ListenerId(self.last), kind, app, caller: None };
        let bound = Bound { listener, socket: Arc::clone(socket), address, is_new: true };
        self.free.push(Free { bound, only: None });
    }

    /// Sockets of an app that goes: another one may listen there from now on.
    pub(super) fn leave(&mut self, bound: Vec<Bound>) {
        let bound = bound.into_iter().map(|bound| Bound { is_new: false, ..bound });
        self.free.extend(bound.map(|bound| Free { bound, only: None }));
    }

    /// Sockets of an app that is about to be served otherwise; `is_free` says which of them others
    /// may take.
    pub(super) fn lend(&mut self, app: u32, bound: &[Bound], is_free: impl Fn(&Bound) -> bool) {
        let bound = bound.iter().map(|bound| Bound { is_new: false, ..bound.clone() });
        self.free.extend(bound.map(|bound| {
            let only = (!is_free(&bound)).then_some(app);
            Free { bound, only }
        }));
    }

    /// The app with these sockets goes on as it was.
    pub(super) fn take_back(&mut self, bound: &[Bound]) {
        let is_its = |free: &Free| bound.iter().any(|b| b.listener.id == free.bound.listener.id);
        self.free.retain(|free| !is_its(free));
    }

    /// What an app had gathered that cannot be served: what was lent is there again, what is new
    /// goes.
    pub(super) fn undo(&mut self, gathered: Vec<Bound>, owners: &BTreeMap<ListenerId, u32>) {
        for mut bound in gathered {
            if bound.is_new {
                bound.remove_file();
                continue;
            }
            // One that an app left that is gone has no owner, and is closed unless it is taken.
            let only = owners.get(&bound.listener.id).copied();
            bound.listener.app = only.unwrap_or(bound.listener.app);
            self.free.push(Free { bound, only });
        }
    }

    /// Nobody will take what is left: its files are removed.
    pub(super) fn close(&mut self) {
        // With its allocation: a thousand apps that change are there once in it.
        std::mem::take(&mut self.free).iter().for_each(|free| free.bound.remove_file());
    }
}

impl Bound {
    /// Of all of an app's sockets, the API's ports are the ones that are its own alone. Whether
    /// that is news.
    pub(super) fn set_caller(&mut self, group: Option<CgroupId>) -> bool {
        let is_tcp = matches!(self.address, Address::Tcp(_));
        let caller = group.filter(|_| is_tcp && self.listener.kind == ListenerKind::Api);
        std::mem::replace(&mut self.listener.caller, caller) != caller
    }

    fn remove_file(&self) {
        if let Address::Unix(path) = &self.address {
            let _ = fs::remove_file(path);
        }
    }
}

impl<'a> Sockets<'a> {
    pub(super) const fn new(pool: &'a mut Pool, app: u32) -> Self {
        Self { pool, app, new: Vec::new(), taken: Vec::new() }
    }

    pub(super) fn add(&mut self, kind: ListenerKind, socket: OwnedFd, address: Address) {
        self.pool.last += 1;
        let listener =
            Listener { id: ListenerId(self.pool.last), kind, app: self.app, caller: None };
        self.new.push(Bound { listener, socket: Arc::new(socket), address, is_new: true });
    }

    /// Takes the socket that listens where a new one would; port 0 is any port the app has.
    pub(super) fn take_tcp(
        &mut self,
        kind: ListenerKind,
        wanted: SocketAddr,
    ) -> Option<SocketAddr> {
        let app = self.app;
        let fits = |bound: &Bound| match bound.address {
            Address::Tcp(address) if wanted.port() == 0 => {
                address.ip() == wanted.ip() && bound.listener.app == app
            }
            Address::Tcp(address) => address == wanted,
            Address::Unix(_) => false,
        };
        match self.take(kind, fits)? {
            Address::Tcp(address) => Some(address),
            Address::Unix(_) => None,
        }
    }

    /// Takes the socket at this path.
    pub(super) fn take_unix(&mut self, kind: ListenerKind, path: &Path) -> bool {
        let is_it = |bound: &Bound| matches!(&bound.address, Address::Unix(at) if **at == *path);
        self.take(kind, is_it).is_some()
    }

    /// Takes the socket where other sidecars call this app, and the instance they know it by.
    pub(super) fn take_peer(&mut self, dir: &RuntimeDir) -> Option<(InstanceId, SocketPath)> {
        let app = self.app;
        let instance = |address: &Address| match address {
            // One whose file was removed cannot be called any more.
            Address::Unix(path) if path.exists() => dir.instance_at(path),
            _ => None,
        };
        let is_ours = |bound: &Bound| bound.listener.app == app;
        let fits = |bound: &Bound| is_ours(bound) && instance(&bound.address).is_some();
        let address = self.take(ListenerKind::Peer, fits)?;
        let found = instance(&address)?;
        let Address::Unix(path) = address else { return None };
        Some((found, path))
    }

    fn take(&mut self, kind: ListenerKind, fits: impl Fn(&Bound) -> bool) -> Option<Address> {
        let is_it = |free: &Free| {
            free.bound.listener.kind == kind
                && free.only.is_none_or(|only| only == self.app)
                && fits(&free.bound)
        };
        let position = self.pool.free.iter().position(is_it)?;
        let free = self.pool.free.swap_remove(position);
        let address = free.bound.address.clone();
        self.taken.push(free);
        Some(address)
    }

    pub(super) fn finish(self) -> Vec<Bound> {
        // Kept for each app of a node: no larger than they are.
        let mut bound = Vec::with_capacity(self.taken.len() + self.new.len());
        bound.extend(self.taken.into_iter().map(|free| free.bound));
        bound.extend(self.new);
        bound.iter_mut().for_each(|bound| bound.listener.app = self.app);
        bound
    }

    /// As if nothing had been gathered.
    pub(super) fn give_back(self) {
        self.new.iter().for_each(Bound::remove_file);
        self.pool.free.extend(self.taken);
    }
}

fn address_of(socket: &OwnedFd) -> Option<Address> {
    let address = getsockname(socket).ok()?;
    if let Ok(unix) = rustix::net::SocketAddrUnix::try_from(address.clone()) {
        let path = Path::new(std::ffi::OsStr::from_bytes(unix.path_bytes()?));
        return Some(Address::Unix(path.into()));
    }
    SocketAddr::try_from(address).ok().map(Address::Tcp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{listen, test_dir::TestDir};
    use std::time::Duration;

    fn pool(kind: ListenerKind, socket: OwnedFd) -> Pool {
        let address = address_of(&socket).unwrap();
        let listener = Listener { id: ListenerId(7), kind, app: 0, caller: None };
        let bound = Bound { listener, socket: Arc::new(socket), address, is_new: false };
        Pool { free: vec![Free { bound, only: None }], last: 7 }
    }

    fn tcp() -> (OwnedFd, SocketAddr) {
        let bound = listen::tcp("127.0.0.1", 0, Duration::ZERO, |_| {}).unwrap();
        (bound.socket, bound.address)
    }

    #[test]
    fn takes_what_listens_where_it_is_wanted_and_nothing_else() {
        let (socket, address) = tcp();
        let mut pool = pool(ListenerKind::Api, socket);
        let other_port = SocketAddr::new(address.ip(), address.port() ^ 1);
        let other_ip = SocketAddr::from(([127, 0, 0, 2], address.port()));
        let any = SocketAddr::new(address.ip(), 0);
        for (case, app, kind, wanted) in [
            ("kind", 0, ListenerKind::Public, address),
            ("port", 0, ListenerKind::Api, other_port),
            ("address", 0, ListenerKind::Api, other_ip),
            ("any port elsewhere", 0, ListenerKind::Api, SocketAddr::new(other_ip.ip(), 0)),
            ("any port of another app", 1, ListenerKind::Api, any),
        ] {
            assert_eq!(Sockets::new(&mut pool, app).take_tcp(kind, wanted), None, "{case}");
        }
        for (case, app, wanted) in [("any port", 0, any), ("another app", 1, address)] {
            let mut sockets = Sockets::new(&mut pool, app);
            assert_eq!(sockets.take_tcp(ListenerKind::Api, wanted), Some(address), "{case}");
            sockets.give_back();
        }
        let mut sockets = Sockets::new(&mut pool, 1);
        assert_eq!(sockets.take_tcp(ListenerKind::Api, address), Some(address));
        assert_eq!(sockets.take_tcp(ListenerKind::Api, address), None, "only once");
        let (socket, other) = tcp();
        sockets.add(ListenerKind::Public, socket, Address::Tcp(other));
        let bound = sockets.finish();
        let got: Vec<_> = bound
            .iter()
            .map(|bound| (bound.listener.id.0, bound.listener.app, bound.is_new))
            .collect();
        assert_eq!(got, [(7, 1, false), (8, 1, true)], "a new one gets a name of its own");
    }

    #[test]
    fn a_peer_socket_says_which_instance_it_is() {
        let temp = TestDir::new();
        let dir = RuntimeDir::at(&temp.path().join("run"));
        dir.create().unwrap();
        let instance = InstanceId("7-ab".into());
        let path = dir.peer_socket(&instance);
        let inherit = |path: &Path| pool(ListenerKind::Peer, listen::unix(path).unwrap());
        let mut ours = inherit(&path);
        assert_eq!(Sockets::new(&mut ours, 1).take_peer(&dir), None, "another app's");
        let found = Sockets::new(&mut ours, 0).take_peer(&dir);
        assert_eq!(found, Some((instance, path.clone().into())));

        fs::remove_file(&path).unwrap();
        let mut removed = inherit(&path);
        fs::remove_file(&path).unwrap();
        assert_eq!(Sockets::new(&mut removed, 0).take_peer(&dir), None, "nobody can call it");
        let mut elsewhere = inherit(&temp.path().join("7.peer"));
        assert_eq!(Sockets::new(&mut elsewhere, 0).take_peer(&dir), None, "elsewhere");
    }

    #[test]
    fn what_nobody_takes_leaves_no_file() {
        let temp = TestDir::new();
        let path = temp.path().join("s");
        let mut pool = pool(ListenerKind::Api, listen::unix(&path).unwrap());
        let mut sockets = Sockets::new(&mut pool, 0);
        assert!(sockets.take_unix(ListenerKind::Api, &path));
        let new = temp.path().join("new");
        sockets.add(
            ListenerKind::Api,
            listen::unix(&new).unwrap(),
            Address::Unix(new.clone().into()),
        );
        sockets.give_back();
        assert!(path.exists() && !new.exists());
        pool.close();
        assert!(!path.exists());
    }
}
