//! From what control said to what workers read: checked once, indexed for one lookup a request.

use crate::{
    App, AppId, Apps, Listener, ListenerId, Namespace, OnControlLost, Route, State, Version,
    apps::APP_SLOT_BITS,
    table::{Named, Table},
};
use std::sync::Arc;

/// A valid state with its index. Workers share it behind an `Arc` and never change it. A copy
/// shares the tables with its original; [`Snapshot::apply`] makes the next version out of one.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub version: Version,
    pub apps: Apps,
    /// In the order of their ids.
    pub listeners: Arc<Vec<Listener>>,
    pub on_control_lost: OnControlLost,
    pub(crate) routes: Table<Route>,
}

/// What is wrong with a state or a delta. One with any of these is not adopted at all.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BuildError {
    #[error(
        "app number {number} names the slot of app number {other} ({} bits of a number are its slot)",
        APP_SLOT_BITS
    )]
    AppNumberTwice { number: u32, other: u32 },
    #[error("app {namespace}/{id} is served twice")]
    AppTwice { namespace: Namespace, id: AppId },
    #[error("there is no app number {number} to remove")]
    AppUnknown { number: u32 },
    #[error("listener {listener} appears twice")]
    ListenerTwice { listener: u32 },
    #[error("there is no listener {listener} to remove")]
    ListenerUnknown { listener: u32 },
    #[error("listener {listener} belongs to app number {app}, which is not served")]
    ListenerWithoutApp { listener: u32, app: u32 },
    #[error("route {namespace}/{id} has no endpoint")]
    RouteEmpty { namespace: Namespace, id: AppId },
    #[error("route {namespace}/{id} appears twice")]
    RouteTwice { namespace: Namespace, id: AppId },
    #[error("there is no route {namespace}/{id} to remove")]
    RouteUnknown { namespace: Namespace, id: AppId },
    #[error("version {} does not come after version {}", version.0, base.0)]
    VersionNotAfter { base: Version, version: Version },
}

impl Named for Route {
    fn id(&self) -> &AppId {
        &self.id
    }

    fn namespace(&self) -> &Namespace {
        &self.namespace
    }
}

impl Snapshot {
    /// # Errors
    /// All the rules that `state` breaks.
    pub fn build(state: State) -> Result<Self, Vec<BuildError>> {
        let mut errors = Vec::new();
        let apps = number_apps(state.apps, &mut errors);
        let listeners = sort_listeners(state.listeners, &apps, &mut errors);
        let routes = index_routes(state.routes, &mut errors);
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Self {
            version: state.version,
            apps,
            listeners: Arc::new(listeners),
            on_control_lost: state.on_control_lost,
            routes,
        })
    }

    /// What a data plane has before control told it anything: nothing to serve.
    pub fn empty() -> Self {
        Self {
            version: Version::default(),
            apps: Apps::default(),
            listeners: Arc::default(),
            on_control_lost: OnControlLost::Exit,
            routes: Table::default(),
        }
    }

    /// The app with this id and namespace, if it is served here, and its number.
    pub fn find_app(
        &self,
        id: impl AsRef<[u8]>,
        namespace: impl AsRef<[u8]>,
    ) -> Option<(usize, &App)> {
        self.apps.find(id.as_ref(), namespace.as_ref()).map(|app| (app.number as usize, &**app))
    }

    /// Where else the app can be called.
    pub fn find_route(&self, id: impl AsRef<[u8]>, namespace: impl AsRef<[u8]>) -> Option<&Route> {
        self.routes.find(id.as_ref(), namespace.as_ref())
    }

    pub fn find_listener(&self, id: ListenerId) -> Option<&Listener> {
        self.position_of(id).ok().map(|position| &self.listeners[position])
    }

    /// In no order.
    pub fn routes(&self) -> impl Iterator<Item = &Route> {
        self.routes.iter()
    }

    pub fn route_count(&self) -> usize {
        self.routes.len()
    }

    /// The state that builds this snapshot; for a peer that must start anew.
    pub fn to_state(&self) -> State {
        State {
            version: self.version,
            apps: self.apps.iter().cloned().collect(),
            routes: self.routes().cloned().collect(),
            listeners: self.listeners.to_vec(),
            on_control_lost: self.on_control_lost,
        }
    }

    /// Where the listener is, or where it would have to be.
    pub(crate) fn position_of(&self, id: ListenerId) -> Result<usize, usize> {
        self.listeners.binary_search_by_key(&id, |listener| listener.id)
    }
}

fn number_apps(given: Vec<App>, errors: &mut Vec<BuildError>) -> Apps {
    let mut apps = Apps::default();
    for app in given {
        let number = app.number;
        if apps.find(app.id.as_bytes(), app.namespace.as_bytes()).is_some() {
            errors.push(BuildError::AppTwice { namespace: app.namespace, id: app.id });
        } else if let Some(other) = apps.find_in_slot(Apps::slot(number as usize)) {
            errors.push(BuildError::AppNumberTwice { number, other: other.number });
        } else {
            apps.insert(Arc::new(app));
        }
    }
    apps
}

fn sort_listeners(
    mut listeners: Vec<Listener>,
    apps: &Apps,
    errors: &mut Vec<BuildError>,
) -> Vec<Listener> {
    errors.extend(listeners.iter().filter_map(|listener| check_listener(listener, apps)));
    listeners.sort_by_key(|listener| listener.id);
    let twice = listeners.windows(2).filter(|pair| pair[0].id == pair[1].id);
    errors.extend(twice.map(|pair| BuildError::ListenerTwice { listener: pair[0].id.0 }));
    listeners
}

pub(crate) fn check_listener(listener: &Listener, apps: &Apps) -> Option<BuildError> {
    let without_app =
        || BuildError::ListenerWithoutApp { listener: listener.id.0, app: listener.app };
    apps.get(listener.app as usize).is_none().then(without_app)
}

fn index_routes(routes: Vec<Route>, errors: &mut Vec<BuildError>) -> Table<Route> {
    errors.extend(routes.iter().filter_map(|route| check_endpoints(route).err()));
    let (index, twice) = Table::build(routes);
    errors.extend(twice.iter().map(|route| BuildError::RouteTwice {
        namespace: route.namespace.clone(),
        id: route.id.clone(),
    }));
    index
}

pub(crate) fn check_endpoints(route: &Route) -> Result<(), BuildError> {
    if route.endpoints.is_empty() {
        let (namespace, id) = (route.namespace.clone(), route.id.clone());
        return Err(BuildError::RouteEmpty { namespace, id });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Address, AppHealth, Balance, Endpoint, InstanceId, ListenerId, ListenerKind, Origin,
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
            metadata_json: "".into(),
        }
    }

    fn route(id: &str, namespace: &str, endpoints: usize) -> Route {
        let endpoint = |n| Endpoint {
            instance: InstanceId(format!("{id}-{n}").into()),
            address: Address::Unix(format!("/run/{id}-{n}").into()),
            zone: None,
        };
        Route {
            id: AppId::new(id).unwrap(),
            namespace: Namespace::new(namespace).unwrap(),
            endpoints: (0..endpoints).map(endpoint).collect(),
        }
    }

    fn state(apps: Vec<App>, routes: Vec<Route>, listeners: Vec<Listener>) -> State {
        let on_control_lost = OnControlLost::Exit;
        State { version: Version(1), apps, routes, listeners, on_control_lost }
    }

    #[test]
    fn reports_every_problem_at_once() {
        let listener =
            |id, app| Listener { id: ListenerId(id), kind: ListenerKind::Api, app, caller: None };
        let errors = Snapshot::build(state(
            vec![app(0, "a"), app(1, "a"), app(0x1_0000, "b")],
            vec![route("b", "default", 0), route("c", "x", 1), route("c", "x", 1)],
            vec![listener(1, 0), listener(1, 9)],
        ))
        .unwrap_err();
        let text: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            [
                "app default/a is served twice",
                "app number 65536 names the slot of app number 0 (16 bits of a number are its slot)",
                "listener 1 belongs to app number 9, which is not served",
                "listener 1 appears twice",
                "route default/b has no endpoint",
                "route x/c appears twice",
            ]
        );
    }

    #[test]
    fn finds_by_id_and_namespace() {
        let routes = vec![route("b", "default", 1), route("b", "prod", 2)];
        let snapshot = Snapshot::build(state(vec![app(0x3_0002, "a")], routes, vec![])).unwrap();
        assert_eq!(snapshot.find_route("b", "prod").map(|r| r.endpoints.len()), Some(2));
        assert!(snapshot.find_route("b", "test").is_none());
        assert!(snapshot.find_route("a", "default").is_none());
        assert_eq!(snapshot.find_app("a", "default").map(|(number, _)| number), Some(0x3_0002));
        assert_eq!(snapshot.apps[0x3_0002].id.as_str(), "a");
        for number in [0, 2, 0x2_0002, 0x4_0002, 0x3_0003, usize::MAX] {
            assert!(snapshot.apps.get(number).is_none(), "{number:#x} names another app or none");
        }
        assert!(snapshot.find_app("a", "prod").is_none());
        assert_eq!(snapshot.route_count(), 2);
    }
}
