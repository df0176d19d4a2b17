//! How often each address is named in the snapshot that is in force: which ones have left is seen
//! without looking at the others.
//!
//! Only 32 bits of a keyed hash of each are kept, 9 bytes with their count. Two addresses that
//! share them (among a million, some hundred pairs) keep each other from being noticed as gone;
//! idle connections then end by their timeout.

#![forbid(unsafe_code)]

use foldhash::{HashMap, quality::RandomState};
use snapshot::{Address, App, Replaced, Route, Snapshot};
use std::{
    collections::{HashSet, hash_map::Entry},
    hash::BuildHasher,
};

#[derive(Default)]
pub(crate) struct Addresses {
    counts: HashMap<u32, u32>,
    hashing: RandomState,
}

impl Addresses {
    /// Takes up what was replaced; returns the addresses that nothing names any more.
    pub(crate) fn replace(&mut self, replaced: &[Replaced]) -> HashSet<Address> {
        // What came is counted before what went, so that an address that moves from one to another
        // is never gone.
        for change in replaced {
            each_address(change, Side::New, |address| self.add(address));
        }
        let mut left = HashSet::new();
        for change in replaced {
            each_address(change, Side::Old, |address| {
                if self.take_off(address) {
                    left.insert(address.clone());
                }
            });
        }
        left
    }

    /// Counts anew after a full state; returns the addresses that were in `old` and are not in
    /// `new`.
    pub(crate) fn replace_all(&mut self, old: &Snapshot, new: &Snapshot) -> HashSet<Address> {
        self.counts = HashMap::default();
        addresses_of(new).for_each(|address| self.add(address));
        self.counts.shrink_to_fit();
        addresses_of(old).filter(|address| !self.has(address)).cloned().collect()
    }

    fn add(&mut self, address: &Address) {
        *self.counts.entry(self.hash(address)).or_default() += 1;
    }

    /// Whether that was the last one.
    fn take_off(&mut self, address: &Address) -> bool {
        let Entry::Occupied(mut entry) = self.counts.entry(self.hash(address)) else {
            debug_assert!(false, "what is replaced was counted when it came");
            return true;
        };
        *entry.get_mut() -= 1;
        let is_last = *entry.get() == 0;
        if is_last {
            entry.remove();
        }
        is_last
    }

    fn has(&self, address: &Address) -> bool {
        self.counts.contains_key(&self.hash(address))
    }

    #[expect(clippy::cast_possible_truncation, reason = "every bit of the hash is as good as any")]
    fn hash(&self, address: &Address) -> u32 {
        self.hashing.hash_one(address) as u32
    }
}

#[derive(Clone, Copy)]
enum Side {
    Old,
    New,
}

fn each_address(change: &Replaced, side: Side, mut each: impl FnMut(&Address)) {
    match (change, side) {
        (Replaced::App { old: app, .. }, Side::Old)
        | (Replaced::App { new: app, .. }, Side::New) => {
            app.iter().filter_map(|app| channel_of(app)).for_each(each);
        }
        (Replaced::Route { old: route, .. }, Side::Old)
        | (Replaced::Route { new: route, .. }, Side::New) => {
            route.iter().flat_map(endpoints_of).for_each(&mut each);
        }
        (Replaced::Listener { .. }, _) => {}
    }
}

fn addresses_of(snapshot: &Snapshot) -> impl Iterator<Item = &Address> {
    let channels = snapshot.apps.iter().filter_map(channel_of);
    channels.chain(snapshot.routes().flat_map(endpoints_of))
}

fn channel_of(app: &App) -> Option<&Address> {
    app.channel.as_ref().map(|channel| &channel.address)
}

fn endpoints_of(route: &Route) -> impl Iterator<Item = &Address> {
    route.endpoints.iter().map(|endpoint| &endpoint.address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapshot::{
        AppId, Change, Delta, Endpoint, InstanceId, Namespace, OnControlLost, State, Version,
    };

    fn route(id: &str, paths: &[&str]) -> Route {
        let endpoint = |path: &&str| Endpoint {
            instance: InstanceId((*path).into()),
            address: Address::Unix((*path).into()),
            zone: None,
        };
        let id = AppId::new(id).unwrap();
        Route {
            id,
            namespace: Namespace::default(),
            endpoints: paths.iter().map(endpoint).collect(),
        }
    }

    fn gone(id: &str) -> Change {
        Change::RouteRemoved { id: AppId::new(id).unwrap(), namespace: Namespace::default() }
    }

    fn paths(left: HashSet<Address>) -> Vec<String> {
        let mut paths: Vec<String> = left.iter().map(ToString::to_string).collect();
        paths.sort();
        paths
    }

    #[test]
    fn an_address_leaves_with_the_last_one_that_names_it() {
        let mut addresses = Addresses::default();
        let mut snapshot = Snapshot::empty();
        for (case, changes, want) in [
            ("come", vec![Change::Route(route("x", &["/a", "/b"]))], vec![]),
            ("a second one", vec![Change::Route(route("y", &["/b", "/c"]))], vec![]),
            ("one of two goes", vec![Change::Route(route("x", &["/a"]))], vec![]),
            ("the other goes", vec![Change::Route(route("y", &["/c"]))], vec!["/b"]),
            ("there and back", vec![gone("y"), Change::Route(route("y", &["/c"]))], vec![]),
            ("moves", vec![gone("x"), Change::Route(route("z", &["/a"]))], vec![]),
            ("in between", vec![Change::Route(route("z", &["/d"])), gone("z")], vec!["/a", "/d"]),
            ("all", vec![gone("y")], vec!["/c"]),
        ] {
            let version = Version(snapshot.version.0 + 1);
            let delta = Delta { base: snapshot.version, version, changes };
            let (next, replaced) = snapshot.apply(delta).unwrap();
            assert_eq!(paths(addresses.replace(&replaced)), want, "{case}");
            snapshot = next;
        }
        assert!(addresses.counts.is_empty());
    }

    #[test]
    fn a_full_state_leaves_what_it_does_not_name() {
        let state = |routes| State {
            version: Version(1),
            apps: Vec::new(),
            routes,
            listeners: Vec::new(),
            on_control_lost: OnControlLost::Exit,
        };
        let old = Snapshot::build(state(vec![route("x", &["/a", "/b"])])).unwrap();
        let new = Snapshot::build(state(vec![route("y", &["/b", "/c"])])).unwrap();
        let mut addresses = Addresses::default();
        assert_eq!(paths(addresses.replace_all(&Snapshot::empty(), &old)), Vec::<String>::new());
        assert_eq!(paths(addresses.replace_all(&old, &new)), ["/a"]);
        let removed = vec![gone("y")];
        let delta = Delta { base: Version(1), version: Version(2), changes: removed };
        let (_, replaced) = new.apply(delta).unwrap();
        assert_eq!(paths(addresses.replace(&replaced)), ["/b", "/c"]);
    }
}
