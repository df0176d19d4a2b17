//! What the data plane is told: one value that everything control learns is put into, and whole
//! states out of it.
//!
//! Each state has a version of its own; whoever waits for a change to be in force waits for its
//! version.

#![forbid(unsafe_code)]

use crate::admin::metadata::Metadata;
use snapshot::{App, AppHealth, Listener, OnControlLost, Route, State, Version};

pub(crate) struct Publisher {
    version: Version,
    app: App,
    metadata: Metadata,
    routes: Vec<Route>,
    listeners: Vec<Listener>,
    on_control_lost: OnControlLost,
}

impl Publisher {
    /// Every state comes after `last`, the version that an adopted data plane has.
    pub(crate) const fn new(
        last: Version,
        app: App,
        metadata: Metadata,
        listeners: Vec<Listener>,
        on_control_lost: OnControlLost,
    ) -> Self {
        Self { version: last, app, metadata, routes: Vec::new(), listeners, on_control_lost }
    }

    pub(crate) fn set_routes(&mut self, routes: Vec<Route>) {
        self.routes = routes;
    }

    pub(crate) fn set_limits(&mut self, body_bytes_max: Option<u64>, head_bytes_max: u32) {
        self.app.body_bytes_max = body_bytes_max;
        self.app.head_bytes_max = head_bytes_max;
    }

    pub(crate) fn set_health(&mut self, health: AppHealth) {
        self.app.health = health;
    }

    /// # Errors
    /// When there are too many entries already.
    pub(crate) fn set_metadata(&mut self, key: String, value: String) -> Result<(), MetadataFull> {
        if self.metadata.extend(key, value) { Ok(()) } else { Err(MetadataFull) }
    }

    /// The state as it is now, under a new version.
    pub(crate) fn next_state(&mut self) -> State {
        self.version.0 += 1;
        let mut app = self.app.clone();
        app.metadata_json = self.metadata.emit();
        State {
            version: self.version,
            apps: vec![app],
            routes: self.routes.clone(),
            listeners: self.listeners.clone(),
            on_control_lost: self.on_control_lost,
        }
    }
}

#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("there are too many metadata entries")]
pub(crate) struct MetadataFull;

#[cfg(test)]
mod tests {
    use super::*;
    use snapshot::{AppId, Balance, Namespace, Origin, Snapshot};

    fn publisher() -> Publisher {
        let app = App {
            number: 0,
            id: AppId::new("a").unwrap(),
            namespace: Namespace::default(),
            channel: None,
            origin: Origin::default(),
            balance: Balance::default(),
            zone: None,
            body_bytes_max: None,
            head_bytes_max: 8192,
            health: AppHealth::default(),
            metadata_json: String::new(),
        };
        let metadata = Metadata::new("a", None);
        Publisher::new(Version(0), app, metadata, Vec::new(), OnControlLost::Exit)
    }

    #[test]
    fn every_state_is_valid_and_has_its_own_version() {
        let mut publisher = publisher();
        let first = publisher.next_state();
        publisher.set_metadata("k".into(), "v".into()).unwrap();
        let second = publisher.next_state();
        assert_eq!((first.version, second.version), (Version(1), Version(2)));
        assert!(!first.apps[0].metadata_json.contains("\"k\""));
        assert!(second.apps[0].metadata_json.contains("\"k\":\"v\""));
        Snapshot::build(second).unwrap();
    }

    #[test]
    fn metadata_is_bounded() {
        let mut publisher = publisher();
        let taken = (0..10_000)
            .take_while(|n| publisher.set_metadata(n.to_string(), String::new()).is_ok())
            .count();
        assert!((100..10_000).contains(&taken), "{taken}");
        assert_eq!(publisher.set_metadata("new".into(), String::new()), Err(MetadataFull));
        publisher.set_metadata("0".into(), "replaced".into()).unwrap();
    }
}
