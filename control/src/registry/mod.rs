//! Who runs where: a sidecar registers itself, and watches for the others.
//!
//! [`local`] does so for one machine. The trait is what a registry must offer; routing sees only
//! whole tables.

#![forbid(unsafe_code)]

mod entry;
pub(crate) mod local;

pub(crate) use entry::{Entry, EntryError, Identity};

use snapshot::{Address, AppId, Endpoint, Namespace, Route};
use std::{collections::BTreeMap, future::Future, io, path::PathBuf};

/// Every sidecar known, in the order of their creation.
pub(crate) type Table = Vec<Entry>;

pub(crate) trait Registry {
    type Registration: Registration;
    type Watch: Watch;

    /// The entry is there for others when this returns, and for as long as the registration lives.
    ///
    /// # Errors
    /// When the registry cannot be written.
    fn register(&self, entry: &Entry) -> Result<Self::Registration, RegistryError>;

    /// # Errors
    /// When the registry cannot be read.
    fn watch(&self) -> Result<Self::Watch, RegistryError>;
}

/// One's own entry. Dropping it takes the entry back, and so does the end of the process, however
/// it ends.
pub(crate) trait Registration {
    /// Readers see the old entry or the new one, nothing else.
    ///
    /// # Errors
    /// When the registry cannot be written; the old entry stays.
    fn update(&mut self, entry: &Entry) -> Result<(), RegistryError>;
}

pub(crate) trait Watch {
    fn table(&self) -> Table;

    /// The next table that differs from the last. Dropping the future before it is ready loses
    /// nothing.
    fn changed(&mut self) -> impl Future<Output = Result<Table, RegistryError>>;

    /// What was skipped since the last call, for the log.
    fn complaints(&mut self) -> Vec<String>;
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistryError {
    #[error("registry file {path}: {reason}")]
    File { path: PathBuf, reason: io::Error },
    #[error("registry {path} was removed")]
    Gone { path: PathBuf },
    #[error("cannot watch the registry: {0}")]
    Watch(io::Error),
}

/// Where the apps other than `own` can be called. An app that runs twice is one route with two
/// endpoints.
pub(crate) fn routes(table: &[Entry], own: (&AppId, &Namespace)) -> Vec<Route> {
    let mut endpoints: BTreeMap<(&AppId, &Namespace), Vec<Endpoint>> = BTreeMap::new();
    for entry in table.iter().filter(|entry| (&entry.id, &entry.namespace) != own) {
        let address: Address = entry.peer.clone();
        let endpoint = Endpoint { instance: entry.instance.clone(), address };
        endpoints.entry((&entry.id, &entry.namespace)).or_default().push(endpoint);
    }
    let route = |((id, namespace), endpoints): ((&AppId, &Namespace), _)| Route {
        id: id.clone(),
        namespace: namespace.clone(),
        endpoints,
    };
    endpoints.into_iter().map(route).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_join_instances_and_leave_out_our_own_app() {
        let table = [
            Entry::sample("orders", "1"),
            Entry::sample("checkout", "2"),
            Entry::sample("orders", "3"),
            Entry::sample("checkout", "4"),
        ];
        let own = (&table[0].id.clone(), &table[0].namespace.clone());
        let routes = routes(&table, own);
        assert_eq!(routes.len(), 1);
        assert_eq!(routes[0].id.as_str(), "checkout");
        let instances: Vec<&str> =
            routes[0].endpoints.iter().map(|endpoint| &*endpoint.instance.0).collect();
        assert_eq!(instances, ["2", "4"]);
    }
}
