//! From what control said to what workers read: checked once, indexed for one lookup a request.

use crate::{App, AppId, Listener, Namespace, OnControlLost, Route, State, Version};
use std::collections::HashMap;

/// A valid state with its index. Workers share it behind an `Arc` and never change it.
#[derive(Debug)]
pub struct Snapshot {
    pub version: Version,
    pub apps: Vec<App>,
    pub listeners: Vec<Listener>,
    pub on_control_lost: OnControlLost,
    routes: HashMap<Box<str>, Vec<Route>>,
}

/// What is wrong with a state. A state with any of these is not adopted at all.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BuildError {
    #[error("app {namespace}/{id} is served twice")]
    AppTwice { namespace: Namespace, id: AppId },
    #[error("route {namespace}/{id} appears twice")]
    RouteTwice { namespace: Namespace, id: AppId },
    #[error("route {namespace}/{id} has no endpoint")]
    RouteEmpty { namespace: Namespace, id: AppId },
    #[error("listener {listener} belongs to app number {app}, of {count}")]
    ListenerWithoutApp { listener: u32, app: u32, count: usize },
    #[error("listener {listener} appears twice")]
    ListenerTwice { listener: u32 },
}

impl Snapshot {
    /// # Errors
    /// All the rules that `state` breaks, in the order of its lists.
    pub fn build(state: State) -> Result<Self, Vec<BuildError>> {
        let mut errors = Vec::new();
        check_apps(&state, &mut errors);
        check_listeners(&state, &mut errors);
        let routes = index_routes(state.routes, &mut errors);
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Self {
            version: state.version,
            apps: state.apps,
            listeners: state.listeners,
            on_control_lost: state.on_control_lost,
            routes,
        })
    }

    /// What a data plane has before control told it anything: nothing to serve.
    pub fn empty() -> Self {
        Self {
            version: Version::default(),
            apps: Vec::new(),
            listeners: Vec::new(),
            on_control_lost: OnControlLost::Exit,
            routes: HashMap::new(),
        }
    }

    /// The app with this id and namespace, if it is served here, and its number.
    pub fn find_app(&self, id: &str, namespace: &str) -> Option<(usize, &App)> {
        let is_it = |app: &App| app.id.as_str() == id && app.namespace.as_str() == namespace;
        self.apps.iter().enumerate().find(|(_, app)| is_it(app))
    }

    /// Where else the app can be called.
    pub fn find_route(&self, id: &str, namespace: &str) -> Option<&Route> {
        self.routes.get(id)?.iter().find(|route| route.namespace.as_str() == namespace)
    }

    pub fn routes(&self) -> impl Iterator<Item = &Route> {
        self.routes.values().flatten()
    }

    pub fn route_count(&self) -> usize {
        self.routes.values().map(Vec::len).sum()
    }
}

fn check_apps(state: &State, errors: &mut Vec<BuildError>) {
    for (index, app) in state.apps.iter().enumerate() {
        if state.apps[..index].iter().any(|a| a.id == app.id && a.namespace == app.namespace) {
            errors.push(BuildError::AppTwice {
                namespace: app.namespace.clone(),
                id: app.id.clone(),
            });
        }
    }
}

fn check_listeners(state: &State, errors: &mut Vec<BuildError>) {
    let count = state.apps.len();
    for (index, listener) in state.listeners.iter().enumerate() {
        if listener.app as usize >= count {
            errors.push(BuildError::ListenerWithoutApp {
                listener: listener.id.0,
                app: listener.app,
                count,
            });
        }
        if state.listeners[..index].iter().any(|l| l.id == listener.id) {
            errors.push(BuildError::ListenerTwice { listener: listener.id.0 });
        }
    }
}

fn index_routes(routes: Vec<Route>, errors: &mut Vec<BuildError>) -> HashMap<Box<str>, Vec<Route>> {
    let mut index: HashMap<Box<str>, Vec<Route>> = HashMap::with_capacity(routes.len());
    for route in routes {
        let (namespace, id) = (route.namespace.clone(), route.id.clone());
        if route.endpoints.is_empty() {
            errors.push(BuildError::RouteEmpty { namespace, id });
            continue;
        }
        let same_id = index.entry(id.as_str().into()).or_default();
        if same_id.iter().any(|r| r.namespace == namespace) {
            errors.push(BuildError::RouteTwice { namespace, id });
            continue;
        }
        same_id.push(route);
    }
    index
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Address, AppHealth, Endpoint, InstanceId, ListenerId, ListenerKind, Origin};

    fn app(id: &str) -> App {
        App {
            id: AppId::new(id).unwrap(),
            namespace: Namespace::default(),
            channel: None,
            origin: Origin::default(),
            body_bytes_max: None,
            head_bytes_max: 8192,
            health: AppHealth::default(),
            metadata_json: String::new(),
        }
    }

    fn route(id: &str, namespace: &str, endpoints: usize) -> Route {
        let endpoint = |n| Endpoint {
            instance: InstanceId(format!("{id}-{n}").into()),
            address: Address::Unix(format!("/run/{id}-{n}").into()),
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
        let listener = |id, app| Listener { id: ListenerId(id), kind: ListenerKind::Api, app };
        let errors = Snapshot::build(state(
            vec![app("a"), app("a")],
            vec![route("b", "default", 0), route("c", "x", 1), route("c", "x", 1)],
            vec![listener(1, 0), listener(1, 9)],
        ))
        .unwrap_err();
        let text: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            text,
            [
                "app default/a is served twice",
                "listener 1 belongs to app number 9, of 2",
                "listener 1 appears twice",
                "route default/b has no endpoint",
                "route x/c appears twice",
            ]
        );
    }

    #[test]
    fn finds_by_id_and_namespace() {
        let routes = vec![route("b", "default", 1), route("b", "prod", 2)];
        let snapshot = Snapshot::build(state(vec![app("a")], routes, vec![])).unwrap();
        assert_eq!(snapshot.find_route("b", "prod").map(|r| r.endpoints.len()), Some(2));
        assert!(snapshot.find_route("b", "test").is_none());
        assert!(snapshot.find_route("a", "default").is_none());
        assert_eq!(snapshot.find_app("a", "default").map(|(index, _)| index), Some(0));
        assert!(snapshot.find_app("a", "prod").is_none());
        assert_eq!(snapshot.route_count(), 2);
    }
}
