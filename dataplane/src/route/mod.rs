//! Where a call goes, given the app's id and namespace: into the app beside us, or to another
//! sidecar. Pure.
//!
//! An app served here is never looked for elsewhere, so a call to it cannot leave the machine,
//! whatever the routes say.

#![forbid(unsafe_code)]

use snapshot::{App, AppId, Namespace, Route, Snapshot};

/// A place found for a call.
#[derive(Clone, Copy, Debug)]
pub enum Destination<'s> {
    /// Number `index` of the snapshot's apps.
    Local {
        index: usize,
        app: &'s App,
    },
    Remote {
        route: &'s Route,
    },
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RouteError {
    /// Nobody serves an app of that id and namespace.
    NotFound,
}

/// An app as a question names it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Name {
    pub id: AppId,
    pub namespace: Namespace,
}

impl Name {
    /// `None`: no app can be called so.
    pub fn parse(id: &[u8], namespace: &[u8]) -> Option<Self> {
        let (id, namespace) = (str::from_utf8(id).ok()?, str::from_utf8(namespace).ok()?);
        Some(Self { id: AppId::new(id).ok()?, namespace: Namespace::new(namespace).ok()? })
    }
}

/// What control is to be asked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Question {
    pub name: Name,
    /// What is known of it has turned out to be wrong.
    pub is_stale: bool,
}

/// Finds the app `id` of `namespace`, called from the app number `own_app`.
///
/// # Errors
/// There is none.
pub fn find<'s>(
    snapshot: &'s Snapshot,
    own_app: usize,
    id: &[u8],
    namespace: &[u8],
) -> Result<Destination<'s>, RouteError> {
    if let Some(app) = snapshot.apps.get(own_app).filter(|app| is_named(app, id, namespace)) {
        return Ok(Destination::Local { index: own_app, app });
    }
    // A sidecar has one app, and that was looked at.
    if snapshot.apps.len() > 1
        && let Some((index, app)) = snapshot.find_app(id, namespace)
    {
        return Ok(Destination::Local { index, app });
    }
    match snapshot.find_route(id, namespace) {
        Some(route) => Ok(Destination::Remote { route }),
        None => Err(RouteError::NotFound),
    }
}

fn is_named(app: &App, id: &[u8], namespace: &[u8]) -> bool {
    app.id.as_bytes() == id && app.namespace.as_bytes() == namespace
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapshot::{
        Address, AppHealth, Balance, Endpoint, InstanceId, OnControlLost, Origin, State, Version,
    };

    fn app(id: &str, namespace: &str) -> App {
        App {
            number: 0,
            id: AppId::new(id).unwrap(),
            namespace: Namespace::new(namespace).unwrap(),
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

    fn route(id: &str, namespace: &str) -> Route {
        let address = Address::Unix(format!("/run/{namespace}/{id}").into());
        let endpoint = Endpoint { instance: InstanceId(id.into()), address, zone: None };
        let (id, namespace) = (AppId::new(id).unwrap(), Namespace::new(namespace).unwrap());
        Route { id, namespace, endpoints: [endpoint].into() }
    }

    fn snapshot(mut apps: Vec<App>, routes: Vec<Route>) -> Snapshot {
        for (number, app) in (0..).zip(&mut apps) {
            app.number = number;
        }
        let on_control_lost = OnControlLost::Exit;
        let state =
            State { version: Version(1), apps, routes, listeners: Vec::new(), on_control_lost };
        Snapshot::build(state).unwrap()
    }

    fn found(snapshot: &Snapshot, id: &[u8], namespace: &[u8]) -> String {
        match find(snapshot, 0, id, namespace) {
            Ok(Destination::Local { index, app }) => format!("app {index} {}", app.id),
            Ok(Destination::Remote { route }) => route.endpoints[0].address.to_string(),
            Err(RouteError::NotFound) => "not found".to_string(),
        }
    }

    #[test]
    fn finds_own_app_then_apps_of_this_data_plane_then_others() {
        let apps = vec![app("a", "default"), app("b", "default"), app("a", "prod")];
        let routes = vec![route("c", "default"), route("c", "prod"), route("b", "prod")];
        let node = snapshot(apps, routes);
        let sidecar = snapshot(
            vec![app("a", "default")],
            vec![route("a", "prod"), route("a", "default"), route("c", "default")],
        );
        for (case, snapshot, id, namespace, want) in [
            ("unknown id", &node, b"x".as_slice(), b"default".as_slice(), "not found"),
            ("unknown namespace", &node, b"c", b"test", "not found"),
            ("empty id", &node, b"", b"default", "not found"),
            ("empty namespace", &node, b"a", b"", "not found"),
            ("not UTF-8", &node, b"\xff", b"default", "not found"),
            ("ids are case-sensitive", &node, b"A", b"default", "not found"),
            ("own", &node, b"a", b"default", "app 0 a"),
            ("own id in another namespace", &node, b"a", b"prod", "app 2 a"),
            ("neighbour", &node, b"b", b"default", "app 1 b"),
            ("elsewhere", &node, b"c", b"default", "/run/default/c"),
            ("elsewhere in another namespace", &node, b"c", b"prod", "/run/prod/c"),
            ("neighbour's id in another namespace", &node, b"b", b"prod", "/run/prod/b"),
            ("own before any route", &sidecar, b"a", b"default", "app 0 a"),
            ("own id in another namespace, sidecar", &sidecar, b"a", b"prod", "/run/prod/a"),
        ] {
            assert_eq!(found(snapshot, id, namespace), want, "{case}");
        }
    }

    #[test]
    fn only_what_an_app_can_be_called_is_a_name() {
        for (case, id, namespace, want) in [
            ("empty", b"".as_slice(), b"default".as_slice(), false),
            ("no namespace", b"a", b"", false),
            ("not UTF-8", b"\xff", b"default", false),
            ("a line", b"a\r\nb", b"default", false),
            ("too long", [b'a'; 254].as_slice(), b"default", false),
            ("a name", b"a", b"prod", true),
        ] {
            assert_eq!(Name::parse(id, namespace).is_some(), want, "{case}");
        }
    }

    #[test]
    fn an_app_number_of_an_older_snapshot_finds_nothing_of_its_own() {
        let snapshot = snapshot(Vec::new(), vec![route("a", "default")]);
        assert!(matches!(find(&snapshot, 7, b"a", b"default"), Ok(Destination::Remote { .. })));
    }
}
