//! What a data plane still calls when a new control comes to it: the rows of registries that this
//! control has not read yet.
//!
//! A registry may be away for as long as it likes, and control may die meanwhile; the table that
//! was in force stays. It counts until each registry has said what it knows, and never longer: what
//! was taken out of a registry while there was no control goes with the first read of it.

#![forbid(unsafe_code)]

use super::{Revision, Row};
use crate::runtime_dir::RuntimeDir;
use snapshot::{Address, Route};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

#[derive(Default)]
pub(super) struct Remembered {
    rows: Vec<Arc<Row>>,
    /// Until then a registry that can be read may not have said all.
    patient_until: Option<Instant>,
}

impl Remembered {
    /// Entries of this machine are left out: whether they live is known at once.
    pub(super) fn new(routes: &[Route], dir: &RuntimeDir) -> Self {
        let is_elsewhere = |address: &Address| match address {
            Address::Tcp(_) => true,
            Address::Unix(path) => dir.instance_at(path).is_none(),
        };
        let rows = routes.iter().flat_map(|Route { id, namespace, endpoints }| {
            endpoints.iter().cloned().map(|endpoint| Row {
                id: id.clone(),
                namespace: namespace.clone(),
                instance: endpoint.instance,
                address: endpoint.address,
                revision: Revision::None,
                zone: endpoint.zone,
            })
        });
        let rows = rows.filter(|row| is_elsewhere(&row.address)).map(Arc::new).collect();
        Self { rows, patient_until: Some(Instant::now() + PATIENCE) }
    }

    pub(super) fn rows(&self) -> &[Arc<Row>] {
        &self.rows
    }

    pub(super) fn is_patient(&self) -> bool {
        self.patient_until.is_some_and(|until| Instant::now() < until)
    }

    /// Ready when patience ends; never, when there is nothing to be patient for.
    pub(super) async fn patience_ended(&self) {
        match self.patient_until.filter(|_| !self.rows.is_empty() && self.is_patient()) {
            Some(until) => tokio::time::sleep_until(until).await,
            None => std::future::pending().await,
        }
    }

    pub(super) fn forget(&mut self) {
        self.rows = Vec::new();
    }
}

/// For a registry that can be read and tells no table: one of names, which knows those that it was
/// asked for, and was not asked yet.
const PATIENCE: Duration = Duration::from_secs(10);
