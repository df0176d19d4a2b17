//! What the data plane is to be told next: changes of what it was told, gathered until they go out
//! as one delta.
//!
//! Each delta has a version of its own; whoever waits for a change to be in force waits for its
//! version. What is in force is kept once, by whoever feeds the data plane, and only looked at
//! here.

#![forbid(unsafe_code)]

use crate::{admin::metadata::Metadata, resources::InScope, shared::Shared};
use snapshot::{
    App, AppHealth, AppId, Change, Delta, Listener, Namespace, OnControlLost, Outbound, Route,
    Snapshot, Telemetry, Version,
    policy::{Guards, resiliency::Resiliency},
};
use std::{collections::BTreeSet, sync::Arc};

#[derive(Default)]
pub(crate) struct Publisher {
    pending: Vec<Change>,
    outbounds: Shared<Outbound>,
    telemetries: Shared<Telemetry>,
}

impl Publisher {
    /// Serves an app from the next version on, or serves it otherwise.
    pub(crate) fn put(&mut self, mut app: App, listeners: Vec<Listener>) {
        app.outbound = self.outbounds.of(app.outbound);
        app.telemetry = self.telemetries.of(app.telemetry);
        self.pending.push(Change::App(Arc::new(app)));
        self.pending.extend(listeners.into_iter().map(Change::Listener));
    }

    /// The apps with these numbers listen nowhere, unless [`Self::put`] says otherwise. Said of all
    /// that change before any of them is put: one may go on with another's listener.
    pub(crate) fn clear_listeners(&mut self, told: &Snapshot, numbers: &[u32]) {
        let own = told.listeners.iter().filter(|listener| numbers.contains(&listener.app));
        self.pending.extend(own.map(|listener| Change::ListenerRemoved { id: listener.id }));
    }

    /// Its listeners go with it, unless another app takes one over.
    pub(crate) fn remove(&mut self, told: &Snapshot, number: u32) {
        let own = told.listeners.iter().filter(|listener| listener.app == number);
        self.pending.extend(own.map(|listener| Change::ListenerRemoved { id: listener.id }));
        self.pending.push(Change::AppRemoved { number });
    }

    /// Where the apps are that are not served here.
    pub(crate) fn set_routes(&mut self, told: &Snapshot, routes: Vec<Route>) {
        let wanted: BTreeSet<(&AppId, &Namespace)> =
            routes.iter().map(|route| (&route.id, &route.namespace)).collect();
        let is_gone = |route: &&Route| !wanted.contains(&(&route.id, &route.namespace));
        let gone: Vec<Change> = told
            .routes()
            .filter(is_gone)
            .map(|route| Change::RouteRemoved {
                id: route.id.clone(),
                namespace: route.namespace.clone(),
            })
            .collect();
        let is_new = |route: &Route| {
            told.find_route(route.id.as_str(), route.namespace.as_str()) != Some(route)
        };
        self.pending.extend(gone);
        self.pending.extend(routes.into_iter().filter(is_new).map(Change::Route));
    }

    pub(crate) fn set_on_control_lost(&mut self, told: &Snapshot, wish: OnControlLost) {
        if told.on_control_lost != wish {
            self.pending.push(Change::OnControlLost(wish));
        }
    }

    /// A listener that is another's from the next version on, or lets others in.
    pub(crate) fn set_listener(&mut self, listener: Listener) {
        self.pending.push(Change::Listener(listener));
    }

    pub(crate) fn set_limits(
        &mut self,
        told: &Snapshot,
        number: u32,
        body_bytes_max: Option<u64>,
        head_bytes_max: u32,
        resiliency: Option<&Arc<Resiliency>>,
    ) {
        self.edit(told, number, |app| {
            app.body_bytes_max = body_bytes_max;
            app.head_bytes_max = head_bytes_max;
            app.resiliency = resiliency.cloned();
        });
    }

    pub(crate) fn set_guards(&mut self, told: &Snapshot, number: u32, guards: &Arc<Guards>) {
        self.edit(told, number, |app| app.guards = Arc::clone(guards));
    }

    /// Whom the app calls by name, and what its metadata says of that.
    pub(crate) fn set_outbound(
        &mut self,
        told: &Snapshot,
        number: u32,
        outbound: &Arc<Outbound>,
        in_scope: &InScope,
    ) {
        let outbound = self.outbounds.of(Arc::clone(outbound));
        self.edit(told, number, |app| {
            app.outbound = outbound;
            if let Some(mut metadata) = Metadata::parse(&app.metadata_json) {
                metadata.set_resources(in_scope);
                app.metadata_json = metadata.emit();
            }
        });
    }

    pub(crate) fn set_telemetry(
        &mut self,
        told: &Snapshot,
        number: u32,
        telemetry: Arc<Telemetry>,
    ) {
        let telemetry = self.telemetries.of(telemetry);
        self.edit(told, number, |app| app.telemetry = telemetry);
    }

    pub(crate) fn set_health(&mut self, told: &Snapshot, number: u32, health: AppHealth) {
        self.edit(told, number, |app| app.health = health);
    }

    pub(crate) fn set_app_health(&mut self, told: &Snapshot, number: u32, is_healthy: bool) {
        self.edit(told, number, |app| {
            if let Some(channel) = &mut app.channel {
                channel.is_healthy = is_healthy;
            }
        });
    }

    /// # Errors
    /// When there are too many entries already, or no such app.
    pub(crate) fn set_metadata(
        &mut self,
        told: &Snapshot,
        number: u32,
        key: String,
        value: String,
    ) -> Result<(), MetadataError> {
        let app = told.apps.get(number as usize).ok_or(MetadataError::NoApp)?;
        let mut metadata = Metadata::parse(&app.metadata_json).ok_or(MetadataError::NoApp)?;
        if !metadata.extend(key, value) {
            return Err(MetadataError::Full);
        }
        self.edit(told, number, |app| app.metadata_json = metadata.emit());
        Ok(())
    }

    /// What has gathered for the app stays. One that is not served any more needs no change.
    fn edit(&mut self, told: &Snapshot, number: u32, edit: impl FnOnce(&mut App)) {
        let last = self.pending.iter_mut().rev().find_map(|change| match change {
            Change::App(app) if app.number == number => Some(Some(app)),
            Change::AppRemoved { number: gone } if *gone == number => Some(None),
            _ => None,
        });
        match last {
            Some(Some(app)) => edit(Arc::make_mut(app)),
            Some(None) => {}
            None => {
                if let Some(app) = told.apps.get(number as usize) {
                    let mut app = app.clone();
                    edit(&mut app);
                    self.pending.push(Change::App(Arc::new(app)));
                }
            }
        }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// All that has gathered, as the version after what was told.
    pub(crate) fn take(&mut self, told: &Snapshot) -> Delta {
        let version = Version(told.version.0 + 1);
        Delta { base: told.version, version, changes: std::mem::take(&mut self.pending) }
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
    use snapshot::{
        Address, ApiLog, Balance, Endpoint, InstanceId, ListenerId, ListenerKind, Origin,
    };

    fn app(number: u32, id: &str) -> App {
        App {
            number,
            id: AppId::new(id).unwrap(),
            namespace: Namespace::default(),
            guards: Default::default(),
            channel: None,
            origin: Origin::default(),
            telemetry: std::sync::Arc::default(),
            balance: Balance::default(),
            resiliency: None,
            zone: None,
            body_bytes_max: None,
            head_bytes_max: 8192,
            health: AppHealth::default(),
            outbound: Default::default(),
            metadata_json: Metadata::new(id, None).emit(),
        }
    }

    fn listener(id: u32, app: u32) -> Listener {
        Listener { id: ListenerId(id), kind: ListenerKind::Api, app, caller: None }
    }

    fn route(id: &str, path: &str) -> Route {
        let instance = InstanceId(path.into());
        let endpoint = Endpoint { instance, address: Address::Unix(path.into()), zone: None };
        let id = AppId::new(id).unwrap();
        Route { id, namespace: Namespace::default(), endpoints: [endpoint].into() }
    }

    fn told(told: &Snapshot, change: impl FnOnce(&mut Publisher, &Snapshot)) -> (Snapshot, usize) {
        let mut publisher = Publisher::default();
        change(&mut publisher, told);
        let delta = publisher.take(told);
        assert!(publisher.is_empty());
        let count = delta.changes.len();
        (told.apply(delta).unwrap().0, count)
    }

    fn one_app() -> Snapshot {
        told(&Snapshot::empty(), |publisher, _| {
            let listeners = vec![listener(1, 0), listener(2, 0)];
            publisher.put(app(0, "a"), listeners);
        })
        .0
    }

    #[test]
    fn each_change_is_a_version_after_what_was_told() {
        let first = one_app();
        let (second, _) = told(&first, |publisher, told| {
            publisher.set_metadata(told, 0, "k".into(), "v".into()).unwrap();
        });
        assert_eq!((first.version, second.version), (Version(1), Version(2)));
        let document = |snapshot: &Snapshot| snapshot.apps.get(0).unwrap().metadata_json.clone();
        assert!(!document(&first).contains("\"k\""));
        assert!(document(&second).contains("\"k\":\"v\""));
    }

    #[test]
    fn changes_of_one_app_add_up() {
        let first = one_app();
        let telemetry =
            Arc::new(Telemetry { api_log: Some(ApiLog::default()), ..Telemetry::default() });
        let (second, count) = told(&first, |publisher, told| {
            publisher.set_limits(told, 0, Some(7), 9, None);
            publisher.set_telemetry(told, 0, Arc::clone(&telemetry));
        });
        let app = second.apps.get(0).unwrap();
        assert_eq!((app.body_bytes_max, app.head_bytes_max, count), (Some(7), 9, 1));
        assert_eq!(app.telemetry, telemetry);
        let (third, _) = told(&second, |publisher, told| {
            publisher.remove(told, 0);
            publisher.set_limits(told, 0, None, 1, None);
        });
        assert!(third.apps.get(0).is_none(), "what is gone does not come back");
    }

    #[test]
    fn metadata_is_bounded() {
        let mut now = one_app();
        let mut publisher = Publisher::default();
        let mut taken = 0;
        while publisher.set_metadata(&now, 0, taken.to_string(), String::new()).is_ok() {
            now = now.apply(publisher.take(&now)).unwrap().0;
            taken += 1;
        }
        assert!((100..10_000).contains(&taken), "{taken}");
        publisher.set_metadata(&now, 0, "0".into(), "replaced".into()).unwrap();
        let gone = publisher.set_metadata(&now, 1, "k".into(), String::new());
        assert_eq!(gone, Err(MetadataError::NoApp));
    }

    #[test]
    fn apps_come_change_and_go_with_their_listeners() {
        let ids = |snapshot: &Snapshot| -> Vec<(u32, u32)> {
            snapshot.listeners.iter().map(|l| (l.id.0, l.app)).collect()
        };
        let (changed, _) = told(&one_app(), |publisher, told| {
            publisher.clear_listeners(told, &[0]);
            publisher.put(app(0, "a"), vec![listener(2, 0), listener(3, 0)]);
        });
        assert_eq!(ids(&changed), [(2, 0), (3, 0)]);
        // Another one takes its place, and one of its sockets.
        let (replaced, _) = told(&changed, |publisher, told| {
            publisher.remove(told, 0);
            publisher.put(app(0x1_0000, "b"), vec![listener(2, 0x1_0000)]);
        });
        assert_eq!((replaced.apps.len(), ids(&replaced)), (1, vec![(2, 0x1_0000)]));
        let (empty, _) = told(&replaced, |publisher, told| publisher.remove(told, 0x1_0000));
        assert!(empty.apps.is_empty() && empty.listeners.is_empty());
    }

    #[test]
    fn apps_that_swap_their_listeners_keep_them_open() {
        let (two, _) = told(&Snapshot::empty(), |publisher, _| {
            publisher.put(app(0, "a"), vec![listener(1, 0)]);
            publisher.put(app(1, "b"), vec![listener(2, 1)]);
        });
        let (swapped, _) = told(&two, |publisher, told| {
            publisher.clear_listeners(told, &[0, 1]);
            publisher.put(app(0, "a"), vec![listener(2, 0)]);
            publisher.put(app(1, "b"), vec![listener(1, 1)]);
        });
        let mut ids: Vec<_> = swapped.listeners.iter().map(|l| (l.id.0, l.app)).collect();
        ids.sort_unstable();
        assert_eq!(ids, [(1, 1), (2, 0)]);
    }

    #[test]
    fn routes_that_stay_are_no_change() {
        let all = || vec![route("x", "/x"), route("y", "/y")];
        let (first, count) = told(&one_app(), |publisher, told| publisher.set_routes(told, all()));
        assert_eq!((count, first.route_count()), (2, 2));
        let (same, count) = told(&first, |publisher, told| publisher.set_routes(told, all()));
        assert_eq!((count, same.route_count()), (0, 2));
        let (next, count) = told(&first, |publisher, told| {
            publisher.set_routes(told, vec![route("y", "/y2"), route("z", "/z")]);
        });
        assert_eq!((count, next.route_count()), (3, 2));
        assert!(next.find_route("x", "default").is_none());
    }

    #[test]
    fn what_becomes_of_apps_is_told_only_when_it_changes() {
        let (_, count) = told(&one_app(), |publisher, told| {
            publisher.set_on_control_lost(told, OnControlLost::Exit);
            publisher.set_limits(told, 7, None, 1, None);
            publisher.set_health(told, 7, AppHealth::default());
        });
        assert_eq!(count, 0);
        let (next, _) = told(&one_app(), |publisher, told| {
            publisher.set_on_control_lost(told, OnControlLost::Serve);
            publisher.set_limits(told, 0, Some(5), 6, None);
        });
        let app = next.apps.get(0).unwrap();
        assert_eq!((app.body_bytes_max, app.head_bytes_max), (Some(5), 6));
        let token = snapshot::policy::Token::new("secret").unwrap();
        let guards = Arc::new(Guards { app_token: Some(token), ..Guards::default() });
        let (both, count) = told(&one_app(), |publisher, told| {
            publisher.set_limits(told, 0, Some(5), 6, None);
            publisher.set_guards(told, 0, &guards);
        });
        let app = both.apps.get(0).unwrap();
        assert_eq!((app.body_bytes_max, &app.guards, count), (Some(5), &guards, 1));
        assert_eq!(next.on_control_lost, OnControlLost::Serve);
    }
}
