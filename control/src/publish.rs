//! What the data plane is told: one value that everything control learns is put into, and whole
//! states out of it.
//!
//! Each state has a version of its own; whoever waits for a change to be in force waits for its
//! version.

#![forbid(unsafe_code)]

use crate::admin::metadata::Metadata;
use snapshot::{App, AppHealth, Listener, OnControlLost, Route, State, Version};
use std::collections::BTreeMap;

pub(crate) struct Publisher {
    version: Version,
    /// By number.
    apps: BTreeMap<u32, Served>,
    routes: Vec<Route>,
    on_control_lost: OnControlLost,
}

struct Served {
    /// Complete, with its metadata as a document.
    app: App,
    listeners: Vec<Listener>,
}

impl Publisher {
    /// Every state comes after `last`, the version that an adopted data plane has.
    pub(crate) const fn new(last: Version, on_control_lost: OnControlLost) -> Self {
        Self { version: last, apps: BTreeMap::new(), routes: Vec::new(), on_control_lost }
    }

    /// Of the last state.
    pub(crate) const fn version(&self) -> Version {
        self.version
    }

    /// Serves an app from the next state on, or serves it otherwise.
    pub(crate) fn put(&mut self, mut app: App, metadata: &Metadata, listeners: Vec<Listener>) {
        app.metadata_json = metadata.emit();
        self.apps.insert(app.number, Served { app, listeners });
    }

    pub(crate) fn remove(&mut self, number: u32) {
        self.apps.remove(&number);
    }

    pub(crate) fn find(&self, number: u32) -> Option<&App> {
        self.apps.get(&number).map(|served| &served.app)
    }

    pub(crate) fn set_routes(&mut self, routes: Vec<Route>) {
        self.routes = routes;
    }

    pub(crate) fn set_on_control_lost(&mut self, wish: OnControlLost) {
        self.on_control_lost = wish;
    }

    pub(crate) fn set_limits(
        &mut self,
        number: u32,
        body_bytes_max: Option<u64>,
        head_bytes_max: u32,
    ) {
        if let Some(Served { app, .. }) = self.apps.get_mut(&number) {
            app.body_bytes_max = body_bytes_max;
            app.head_bytes_max = head_bytes_max;
        }
    }

    pub(crate) fn set_health(&mut self, number: u32, health: AppHealth) {
        if let Some(Served { app, .. }) = self.apps.get_mut(&number) {
            app.health = health;
        }
    }

    /// # Errors
    /// When there are too many entries already, or no such app.
    pub(crate) fn set_metadata(
        &mut self,
        number: u32,
        key: String,
        value: String,
    ) -> Result<(), MetadataError> {
        let served = self.apps.get_mut(&number).ok_or(MetadataError::NoApp)?;
        let document = &mut served.app.metadata_json;
        let mut metadata = Metadata::parse(document).ok_or(MetadataError::NoApp)?;
        if !metadata.extend(key, value) {
            return Err(MetadataError::Full);
        }
        *document = metadata.emit();
        Ok(())
    }

    /// The state as it is now, under a new version.
    pub(crate) fn next_state(&mut self) -> State {
        self.version.0 += 1;
        State {
            version: self.version,
            apps: self.apps.values().map(|served| served.app.clone()).collect(),
            routes: self.routes.clone(),
            listeners: self.apps.values().flat_map(|served| served.listeners.clone()).collect(),
            on_control_lost: self.on_control_lost,
        }
    }
}

#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum MetadataError {
    #[error("there are too many metadata entries")]
    Full,
    #[error("the app is no longer served here")]
    NoApp,
}

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
        let mut publisher = Publisher::new(Version(0), OnControlLost::Exit);
        publisher.put(app, &Metadata::new("a", None), Vec::new());
        publisher
    }

    #[test]
    fn every_state_is_valid_and_has_its_own_version() {
        let mut publisher = publisher();
        let first = publisher.next_state();
        publisher.set_metadata(0, "k".into(), "v".into()).unwrap();
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
            .take_while(|n| publisher.set_metadata(0, n.to_string(), String::new()).is_ok())
            .count();
        assert!((100..10_000).contains(&taken), "{taken}");
        assert_eq!(
            publisher.set_metadata(0, "new".into(), String::new()),
            Err(MetadataError::Full)
        );
        publisher.set_metadata(0, "0".into(), "replaced".into()).unwrap();
    }

    #[test]
    fn apps_come_and_go_by_their_number() {
        let mut publisher = publisher();
        let mut second = publisher.find(0).unwrap().clone();
        (second.number, second.id) = (1, AppId::new("b").unwrap());
        let listener =
            Listener { id: snapshot::ListenerId(7), kind: snapshot::ListenerKind::Api, app: 1 };
        publisher.put(second, &Metadata::new("b", None), vec![listener.clone()]);
        let state = publisher.next_state();
        assert_eq!((state.apps.len(), state.listeners), (2, vec![listener]));
        publisher.remove(1);
        let state = publisher.next_state();
        assert_eq!((state.apps.len(), state.listeners), (1, vec![]));
        let gone = publisher.set_metadata(1, "k".into(), String::new());
        assert_eq!(gone, Err(MetadataError::NoApp));
    }
}
