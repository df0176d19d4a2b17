//! One table out of those of all registries; pure.
//!
//! Who wins when several know an app: what an operator wrote down (`file`) over what was discovered
//! (`local`, `sqlite`, `etcd`) over what is only a name (`dns`). Discovered instances of one app
//! stand together, since they may run on different machines; an instance that several know has the
//! address of the first of them, the nearest.

#![forbid(unsafe_code)]

use super::{Row, own::Own, source::Rank};
use snapshot::{AppId, Endpoint, Namespace, Route};
use std::{
    collections::{BTreeMap, btree_map},
    sync::Arc,
};

/// One route per app, out of tables in the order of their say.
pub(super) fn merge<'a>(
    tables: impl Iterator<Item = (Rank, &'a [Arc<Row>])>,
    own: &Own,
) -> Vec<Route> {
    let mut apps: BTreeMap<(&AppId, &Namespace), (Rank, Vec<Endpoint>)> = BTreeMap::new();
    let rows = tables.flat_map(|(rank, rows)| rows.iter().map(move |row| (rank, &**row)));
    for (rank, row) in rows.filter(|(_, row)| !own.is_named_by(row)) {
        let (instance, address) = (row.instance.clone(), row.address.clone());
        let endpoint = Endpoint { instance, address, zone: row.zone.clone() };
        match apps.entry((&row.id, &row.namespace)) {
            btree_map::Entry::Vacant(place) => {
                place.insert((rank, vec![endpoint]));
            }
            btree_map::Entry::Occupied(mut place) => {
                let (first_rank, endpoints) = place.get_mut();
                let is_known = |known: &Endpoint| {
                    known.instance == endpoint.instance || known.address == endpoint.address
                };
                if *first_rank == rank && !endpoints.iter().any(is_known) {
                    endpoints.push(endpoint);
                }
            }
        }
    }
    let route = |((id, namespace), (_, endpoints)): ((&AppId, &Namespace), (Rank, Vec<_>))| Route {
        id: id.clone(),
        namespace: namespace.clone(),
        endpoints: endpoints.into(),
    };
    apps.into_iter().map(route).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::registry::{Entry, Revision};
    use snapshot::{Address, InstanceId};

    pub(in crate::registry) fn row(id: &str, instance: &str, port: u16) -> Arc<Row> {
        Arc::new(Row {
            id: AppId::new(id).unwrap(),
            namespace: Namespace::default(),
            instance: InstanceId(instance.into()),
            address: Address::Tcp(([10, 0, 0, 1], port).into()),
            revision: Revision::None,
            zone: None,
        })
    }

    fn own() -> Own {
        let mut entry = Entry::sample("own", "0");
        entry.remote_peer = Some(([10, 0, 0, 1], 1).into());
        let mut own = Own::default();
        own.add(&entry);
        own
    }

    #[test]
    fn merges_by_rank_and_instance() {
        use Rank::{Discovered, Named, Written};
        for (case, tables, want) in [
            ("our own app", vec![(Discovered, vec![row("own", "9", 9)])], vec![]),
            ("another app at our own address", vec![(Discovered, vec![row("a", "9", 1)])], vec![]),
            (
                "instances of several machines",
                vec![(Discovered, vec![row("a", "1", 11)]), (Discovered, vec![row("a", "2", 12)])],
                vec![("a", vec![11, 12])],
            ),
            (
                "one instance, the nearest address",
                vec![(Discovered, vec![row("a", "1", 11)]), (Discovered, vec![row("a", "1", 12)])],
                vec![("a", vec![11])],
            ),
            (
                "one address, two names",
                vec![(Discovered, vec![row("a", "1", 11)]), (Discovered, vec![row("a", "2", 11)])],
                vec![("a", vec![11])],
            ),
            (
                "written over discovered over named",
                vec![
                    (Written, vec![row("a", "1", 11)]),
                    (Discovered, vec![row("a", "2", 12), row("b", "3", 13)]),
                    (Named, vec![row("a", "4", 14), row("b", "5", 15), row("c", "6", 16)]),
                ],
                vec![("a", vec![11]), ("b", vec![13]), ("c", vec![16])],
            ),
        ] {
            let tables = tables.iter().map(|(rank, rows)| (*rank, &rows[..]));
            let routes = merge(tables, &own());
            let port = |endpoint: &Endpoint| match &endpoint.address {
                Address::Tcp(address) => address.port(),
                Address::Unix(_) => 0,
            };
            let got: Vec<(&str, Vec<u16>)> = routes
                .iter()
                .map(|route| (route.id.as_str(), route.endpoints.iter().map(port).collect()))
                .collect();
            assert_eq!(got, want, "{case}");
        }
    }
}
