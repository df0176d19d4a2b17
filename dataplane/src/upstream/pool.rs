//! Idle connections per endpoint, last in first out: the warmest one is lent, the coldest ones time out.

#![forbid(unsafe_code)]

use super::UpstreamKey;
use crate::limits::POOL_IDLE_MAX;
use snapshot::Address;
use std::{collections::HashMap, rc::Rc};

/// Names an endpoint for as long as this worker runs.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct EndpointKey(u32);

#[derive(Default)]
pub(crate) struct Endpoints {
    entries: Vec<Entry>,
    by_address: HashMap<Address, EndpointKey>,
}

struct Entry {
    address: Rc<Address>,
    idle: Vec<UpstreamKey>,
}

impl Endpoints {
    /// The endpoint at `address`; the same address always has the same key.
    pub(crate) fn intern(&mut self, address: &Address) -> EndpointKey {
        if let Some(key) = self.by_address.get(address) {
            return *key;
        }
        let key =
            EndpointKey(u32::try_from(self.entries.len()).expect("fewer endpoints than 2^32"));
        self.entries.push(Entry { address: Rc::new(address.clone()), idle: Vec::new() });
        self.by_address.insert(address.clone(), key);
        key
    }

    pub(crate) fn address(&self, endpoint: EndpointKey) -> &Rc<Address> {
        &self.entries[endpoint.0 as usize].address
    }

    /// Lends the connection that was idle for the shortest time.
    pub(crate) fn checkout(&mut self, endpoint: EndpointKey) -> Option<UpstreamKey> {
        self.entries[endpoint.0 as usize].idle.pop()
    }

    /// Takes a connection back.
    ///
    /// # Errors
    /// Returns the key when the pool is full; the caller closes the connection.
    pub(crate) fn checkin(
        &mut self,
        endpoint: EndpointKey,
        upstream: UpstreamKey,
    ) -> Result<(), UpstreamKey> {
        let idle = &mut self.entries[endpoint.0 as usize].idle;
        debug_assert!(!idle.contains(&upstream), "a connection is idle only once");
        if idle.len() >= POOL_IDLE_MAX {
            return Err(upstream);
        }
        idle.push(upstream);
        Ok(())
    }

    /// Takes out a connection that is about to be closed.
    pub(crate) fn forget(&mut self, endpoint: EndpointKey, upstream: UpstreamKey) {
        let idle = &mut self.entries[endpoint.0 as usize].idle;
        if let Some(position) = idle.iter().rposition(|key| *key == upstream) {
            idle.remove(position);
        }
    }

    /// All idle connections, each with its endpoint.
    #[cfg(test)]
    pub(crate) fn idle(&self) -> impl Iterator<Item = (EndpointKey, UpstreamKey)> {
        let key = |index| EndpointKey(u32::try_from(index).expect("it was a u32"));
        self.entries.iter().enumerate().flat_map(move |(index, entry)| {
            entry.idle.iter().map(move |upstream| (key(index), *upstream))
        })
    }

    /// Takes out all idle connections to addresses that `is_current` does not know any more.
    pub(crate) fn retire(&mut self, is_current: impl Fn(&Address) -> bool) -> Vec<UpstreamKey> {
        let gone = self.entries.iter_mut().filter(|entry| !is_current(&entry.address));
        gone.flat_map(|entry| std::mem::take(&mut entry.idle)).collect()
    }
}

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
        let mut endpoints = Endpoints::default();
        let (a, b) = (endpoints.intern(&unix("/a")), endpoints.intern(&unix("/b")));
        let keys = keys(2);
        endpoints.checkin(a, keys[0]).unwrap();
        endpoints.checkin(b, keys[1]).unwrap();
        assert_eq!(endpoints.retire(|address| *address == unix("/b")), [keys[0]]);
        assert_eq!(endpoints.checkout(a), None);
        assert_eq!(endpoints.checkout(b), Some(keys[1]));
    }
}
