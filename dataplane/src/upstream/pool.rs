//! Idle connections per endpoint, last in first out: the warmest one is lent, the coldest ones time
//! out.
//!
//! An endpoint that is used for the first time is remembered here; when many are, the owner forgets
//! those that nothing names any more, so what is kept follows what is in use and not what ever was.

#![forbid(unsafe_code)]

use super::UpstreamKey;
use crate::{
    limits::{ENDPOINTS_KEPT_MIN, POOL_IDLE_MAX},
    slab::{Key, Slab},
};
use snapshot::Address;
use std::{
    collections::{HashMap, HashSet},
    rc::Rc,
};

/// Names an endpoint for as long as somebody says so; see [`Endpoints::keep`].
pub(crate) type EndpointKey = Key<Endpoint>;

pub(crate) struct Endpoints {
    entries: Slab<Endpoint>,
    by_address: HashMap<Rc<Address>, EndpointKey>,
    /// Entries at which those that nothing names are to be forgotten.
    crowded_at: usize,
}

pub(crate) struct Endpoint {
    address: Rc<Address>,
    idle: Vec<UpstreamKey>,
    /// No snapshot names it, so connections that come back are not kept.
    has_left: bool,
}

impl Default for Endpoints {
    fn default() -> Self {
        Self {
            entries: Slab::default(),
            by_address: HashMap::new(),
            crowded_at: ENDPOINTS_KEPT_MIN,
        }
    }
}

impl Endpoints {
    /// The endpoint at `address`, which the snapshot in force names. The same address has the same
    /// key as long as it is kept.
    pub(crate) fn intern(&mut self, address: &Address) -> EndpointKey {
        if let Some(key) = self.by_address.get(address) {
            if let Some(endpoint) = self.entries.find_mut(*key) {
                endpoint.has_left = false;
            }
            return *key;
        }
        let address = Rc::new(address.clone());
        let entry = Endpoint { address: Rc::clone(&address), idle: Vec::new(), has_left: false };
        let key = self.entries.insert(entry);
        self.by_address.insert(address, key);
        key
    }

    /// Whether it is time for [`Self::keep`].
    pub(crate) fn is_crowded(&self) -> bool {
        self.entries.len() >= self.crowded_at
    }

    /// Forgets all endpoints but these. Every idle connection's endpoint is one of them.
    pub(crate) fn keep(&mut self, named: &HashSet<EndpointKey>) {
        let entries = &mut self.entries;
        self.by_address.retain(|_, key| {
            let is_named = named.contains(key);
            if !is_named {
                let forgotten = entries.remove(*key);
                debug_assert!(forgotten.is_some_and(|endpoint| endpoint.idle.is_empty()));
            }
            is_named
        });
        // The work is done once for each so many new ones.
        self.crowded_at = ENDPOINTS_KEPT_MIN.max(2 * self.entries.len());
    }

    pub(crate) fn address(&self, endpoint: EndpointKey) -> &Rc<Address> {
        &self.entries.find(endpoint).expect(NAMED).address
    }

    /// Lends the connection that was idle for the shortest time.
    #[inline]
    pub(crate) fn checkout(&mut self, endpoint: EndpointKey) -> Option<UpstreamKey> {
        self.entries.find_mut(endpoint).expect(NAMED).idle.pop()
    }

    /// Takes a connection back.
    ///
    /// # Errors Returns the key when the pool is full or nobody will call there again; the caller
    /// closes the connection.
    #[inline]
    pub(crate) fn checkin(
        &mut self,
        endpoint: EndpointKey,
        upstream: UpstreamKey,
    ) -> Result<(), UpstreamKey> {
        let Endpoint { idle, has_left, .. } = self.entries.find_mut(endpoint).expect(NAMED);
        debug_assert!(!idle.contains(&upstream), "a connection is idle only once");
        if *has_left || idle.len() >= POOL_IDLE_MAX {
            return Err(upstream);
        }
        idle.push(upstream);
        Ok(())
    }

    /// Takes out a connection that is about to be closed.
    pub(crate) fn forget(&mut self, endpoint: EndpointKey, upstream: UpstreamKey) {
        let Some(Endpoint { idle, .. }) = self.entries.find_mut(endpoint) else { return };
        if let Some(position) = idle.iter().rposition(|key| *key == upstream) {
            idle.remove(position);
        }
    }

    /// All idle connections, each with its endpoint.
    #[cfg(test)]
    pub(crate) fn idle(&self) -> impl Iterator<Item = (EndpointKey, UpstreamKey)> {
        let named = self.entries.keys().filter_map(|key| Some((key, self.entries.find(key)?)));
        named.flat_map(|(key, endpoint)| endpoint.idle.iter().map(move |idle| (key, *idle)))
    }

    /// Takes out all idle connections to addresses that have left the snapshot.
    pub(crate) fn retire(&mut self, left: &HashSet<Address>) -> Vec<UpstreamKey> {
        // Whichever is shorter: a full state may leave a million behind, a worker that called many
        // may know more.
        let keys: Vec<EndpointKey> = if left.len() < self.by_address.len() {
            left.iter().filter_map(|address| self.by_address.get(address)).copied().collect()
        } else {
            let has_left = |(address, _): &(&Rc<Address>, _)| left.contains(&***address);
            self.by_address.iter().filter(has_left).map(|(_, key)| *key).collect()
        };
        let mut retired = Vec::new();
        for key in keys {
            let endpoint = self.entries.find_mut(key).expect(NAMED);
            endpoint.has_left = true;
            retired.append(&mut endpoint.idle);
        }
        retired
    }
}

const NAMED: &str = "whoever holds an endpoint's key says so when the others are forgotten";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slab::Slab;

    fn keys(count: usize) -> Vec<UpstreamKey> {
        let mut slab = Slab::<u8>::default();
        (0..count).map(|_| UpstreamKey::from_bits(slab.insert(0).to_bits())).collect()
    }

    fn unix(path: &str) -> Address {
        Address::Unix(path.into())
    }

    #[test]
    fn the_last_one_in_is_the_first_one_out() {
        let mut endpoints = Endpoints::default();
        let (a, b) = (endpoints.intern(&unix("/a")), endpoints.intern(&unix("/b")));
        assert_eq!(endpoints.intern(&unix("/a")), a);
        let keys = keys(3);
        assert_eq!(endpoints.checkout(a), None);
        for key in &keys {
            endpoints.checkin(a, *key).unwrap();
        }
        assert_eq!(endpoints.checkout(b), None, "another endpoint's connections are not lent");
        assert_eq!(endpoints.checkout(a), Some(keys[2]));
        endpoints.forget(a, keys[0]);
        assert_eq!(endpoints.checkout(a), Some(keys[1]));
        assert_eq!(endpoints.checkout(a), None);
    }

    #[test]
    fn a_full_pool_gives_the_connection_back() {
        let mut endpoints = Endpoints::default();
        let a = endpoints.intern(&unix("/a"));
        let keys = keys(POOL_IDLE_MAX + 1);
        for key in &keys[..POOL_IDLE_MAX] {
            endpoints.checkin(a, *key).unwrap();
        }
        assert_eq!(endpoints.checkin(a, keys[POOL_IDLE_MAX]), Err(keys[POOL_IDLE_MAX]));
    }

    #[test]
    fn endpoints_that_left_the_snapshot_keep_no_idle_connection() {
        let others = |count: usize| (0..count).map(|n| unix(&format!("/other-{n}")));
        for (case, left) in [
            ("few left", HashSet::from([unix("/a")])),
            ("more left than are known", others(9).chain([unix("/a")]).collect()),
        ] {
            let mut endpoints = Endpoints::default();
            let (a, b) = (endpoints.intern(&unix("/a")), endpoints.intern(&unix("/b")));
            let keys = keys(3);
            endpoints.checkin(a, keys[0]).unwrap();
            endpoints.checkin(b, keys[1]).unwrap();
            assert_eq!(endpoints.retire(&left), [keys[0]], "{case}");
            assert_eq!(endpoints.checkout(a), None, "{case}");
            assert_eq!(endpoints.checkout(b), Some(keys[1]), "{case}");
            assert_eq!(endpoints.checkin(a, keys[2]), Err(keys[2]), "{case}: nobody calls there");
            assert_eq!(endpoints.intern(&unix("/a")), a, "{case}");
            assert_eq!(endpoints.checkin(a, keys[2]), Ok(()), "{case}: it has come back");
        }
    }

    #[test]
    fn endpoints_that_nothing_names_are_forgotten_when_there_are_many() {
        let mut endpoints = Endpoints::default();
        let (a, b) = (endpoints.intern(&unix("/a")), endpoints.intern(&unix("/b")));
        let key = keys(1)[0];
        endpoints.checkin(a, key).unwrap();
        for n in 0.. {
            if endpoints.is_crowded() {
                assert_eq!(endpoints.entries.len(), ENDPOINTS_KEPT_MIN);
                break;
            }
            endpoints.intern(&unix(&format!("/{n}")));
        }
        endpoints.keep(&HashSet::from([a]));
        assert_eq!((endpoints.entries.len(), endpoints.by_address.len()), (1, 1));
        assert!(!endpoints.is_crowded());
        assert_eq!(endpoints.checkout(a), Some(key));
        assert_ne!(endpoints.intern(&unix("/b")), b, "a new key, so that an old one names nothing");
    }
}
