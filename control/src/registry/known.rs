//! What all registries say of one app, for operators: every row, with what becomes of it.

#![forbid(unsafe_code)]

use super::{
    Row,
    registries::{Change, Registries},
    source::{Health, Source},
};
use crate::knowledge::{KnownRow, RegistryState};
use snapshot::{AppId, Namespace};
use tokio::time::Instant;

impl Registries {
    /// In the order of their say.
    pub(crate) fn known(&self, id: &AppId, namespace: &Namespace) -> Vec<KnownRow> {
        let is_it = |row: &&Row| row.id == *id && row.namespace == *namespace;
        let counts = |source: &&Source| {
            source.rows.iter().map(|row| &**row).filter(is_it).any(|row| !self.own.is_named_by(row))
        };
        let best = self.sources.iter().filter(counts).min_by_key(|source| source.rank);
        let mut seen: Vec<&Row> = Vec::new();
        let mut known = Vec::new();
        for source in &self.sources {
            for row in source.rows.iter().map(|row| &**row).filter(is_it) {
                let is_twice =
                    |other: &&Row| other.instance == row.instance || other.address == row.address;
                let hidden = match best {
                    _ if self.own.has_app(row) => Some("the app is served here".to_owned()),
                    _ if self.own.is_named_by(row) => Some("it is our own address".to_owned()),
                    Some(best) if best.rank != source.rank => {
                        Some(format!("{} knows the app, which counts for more", best.name))
                    }
                    _ if seen.iter().any(is_twice) => Some("it is known already".to_owned()),
                    _ => None,
                };
                if hidden.is_none() {
                    seen.push(row);
                }
                known.push(KnownRow {
                    registry: source.name.to_owned(),
                    revision: row.revision.to_string(),
                    instance: row.instance.0.to_string(),
                    address: row.address.clone(),
                    zone: row.zone.as_deref().map(str::to_owned),
                    hidden,
                });
            }
        }
        known
    }

    pub(crate) fn states(&self) -> Vec<RegistryState> {
        let state = |source: &Source| match source.health {
            _ if source.is_leaving() => "left, and heard until its apps are known to others".into(),
            Health::Away { since } => format!("away for {} s", since.elapsed().as_secs()),
            Health::Starting { .. } => "not read yet".to_owned(),
            Health::Up => "up".to_owned(),
        };
        let named =
            |source: &Source| RegistryState { name: source.name.to_owned(), state: state(source) };
        self.sources.iter().map(named).collect()
    }

    /// Waits until every registry has said what it knows of the app, or until `deadline`.
    pub(crate) async fn learn(&mut self, id: &AppId, namespace: &Namespace, deadline: Instant) {
        const NUMBER: u64 = 0;
        let mut is_asked = self.resolve(NUMBER, id.clone(), namespace.clone(), false);
        while is_asked || !self.sources.iter().all(|source| source.is_told) {
            match tokio::time::timeout_at(deadline, self.next()).await {
                Ok(Change::Resolved(NUMBER)) => is_asked = false,
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }
}
