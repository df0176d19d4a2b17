//! What is served here, as far as it decides whose rows count: the app served here is nobody's to
//! say, and neither is another app at one of our own addresses.

#![forbid(unsafe_code)]

use super::{Entry, Row};
use snapshot::{Address, AppId, Namespace};
use std::collections::HashSet;

/// What is served here: rows that say so of others are mistaken.
#[derive(Debug, Default)]
pub(super) struct Own {
    apps: HashSet<(AppId, Namespace)>,
    addresses: HashSet<Address>,
}

impl Own {
    pub(super) fn add(&mut self, entry: &Entry) {
        self.apps.insert((entry.id.clone(), entry.namespace.clone()));
        self.addresses.extend(addresses(entry));
    }

    pub(super) fn remove(&mut self, entry: &Entry) {
        self.apps.remove(&(entry.id.clone(), entry.namespace.clone()));
        for address in addresses(entry) {
            self.addresses.remove(&address);
        }
    }

    pub(super) fn is_named_by(&self, row: &Row) -> bool {
        self.addresses.contains(&row.address) || self.has_app(row)
    }

    pub(super) fn has_app(&self, row: &Row) -> bool {
        self.apps.contains(&(row.id.clone(), row.namespace.clone()))
    }
}

fn addresses(entry: &Entry) -> impl Iterator<Item = Address> + use<> {
    [Some(entry.peer.clone()), entry.remote_peer.map(Address::Tcp)].into_iter().flatten()
}
