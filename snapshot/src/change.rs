//! What control tells once the data plane has a state: only what changed.
//!
//! A delta is applied to exactly the version it names, all of it or nothing. What is not named is
//! shared with the snapshot before, so applying costs what the delta is long, whatever the size of
//! the tables.

use crate::{
    App, AppId, BuildError, Listener, ListenerId, Namespace, OnControlLost, Route, Snapshot, State,
    Version,
    apps::Apps,
    build::{check_endpoints, check_listener},
    table::Named,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Delta {
    /// The version that the changes are made to.
    pub base: Version,
    /// The version they lead to.
    pub version: Version,
    /// In this order.
    pub changes: Vec<Change>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Change {
    /// An app is served from now on, or served otherwise. One that is there already is known by its
    /// number, which it keeps while it lives; so does its name.
    App(Arc<App>),
    AppRemoved {
        number: u32,
    },
    /// A new listener comes with its socket; one that is there keeps its own unless another one
    /// comes.
    Listener(Listener),
    ListenerRemoved {
        id: ListenerId,
    },
    OnControlLost(OnControlLost),
    /// All endpoints of an app, whether or not it had some before.
    Route(Route),
    RouteRemoved {
        id: AppId,
        namespace: Namespace,
    },
}

/// One thing that is not as it was, for those who keep something derived from it.
#[derive(Clone, Debug, PartialEq)]
pub enum Replaced {
    App { old: Option<Arc<App>>, new: Option<Arc<App>> },
    Listener { old: Option<Listener>, new: Option<Listener> },
    Route { old: Option<Route>, new: Option<Route> },
}

/// Why a delta is not applied. The snapshot it was meant for is as it was.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ApplyError {
    /// It starts from another version; only a full state helps.
    Gap { have: Version, base: Version },
    /// The rules that it breaks.
    Invalid(Vec<BuildError>),
}

impl Snapshot {
    /// The snapshot after `delta`, and what was replaced, in the order of the changes.
    ///
    /// # Errors
    /// When the delta starts elsewhere or breaks a rule.
    pub fn apply(&self, delta: Delta) -> Result<(Self, Vec<Replaced>), ApplyError> {
        if delta.base != self.version {
            return Err(ApplyError::Gap { have: self.version, base: delta.base });
        }
        let mut next = self.clone();
        let mut errors = Vec::new();
        let mut replaced = Vec::new();
        if delta.version <= delta.base {
            errors.push(BuildError::VersionNotAfter { base: delta.base, version: delta.version });
        }
        next.version = delta.version;
        for change in delta.changes {
            match next.make(change) {
                Ok(change) => replaced.extend(change),
                Err(error) => errors.push(error),
            }
        }
        next.check_replaced(&replaced, &mut errors);
        if errors.is_empty() { Ok((next, replaced)) } else { Err(ApplyError::Invalid(errors)) }
    }

    /// What leads from here to `state`, for who learns whole tables. Looks at all of both, unlike
    /// [`Self::apply`].
    pub fn changes_to(&self, state: State) -> Vec<Change> {
        let mut changes = self.removals(&state);
        let differs = |app: &App| self.apps.get(app.number as usize) != Some(app);
        changes
            .extend(state.apps.into_iter().filter(differs).map(|app| Change::App(Arc::new(app))));
        let differs = |listener: &Listener| self.find_listener(listener.id) != Some(listener);
        changes.extend(state.listeners.into_iter().filter(differs).map(Change::Listener));
        let differs = |route: &Route| {
            self.find_route(route.id.as_str(), route.namespace.as_str()) != Some(route)
        };
        changes.extend(state.routes.into_iter().filter(differs).map(Change::Route));
        if self.on_control_lost != state.on_control_lost {
            changes.push(Change::OnControlLost(state.on_control_lost));
        }
        changes
    }

    /// What is not in `state` any more. Comes before what is new, so that numbers and names are
    /// free.
    fn removals(&self, state: &State) -> Vec<Change> {
        let apps: HashMap<u32, &App> = state.apps.iter().map(|app| (app.number, app)).collect();
        let stays = |app: &App| {
            let now = apps.get(&app.number);
            now.is_some_and(|now| now.is_named(app.id.as_bytes(), app.namespace.as_bytes()))
        };
        let listeners: HashSet<ListenerId> = state.listeners.iter().map(|l| l.id).collect();
        let names: HashSet<(&AppId, &Namespace)> =
            state.routes.iter().map(|route| (&route.id, &route.namespace)).collect();
        let apps = self.apps.iter().filter(|app| !stays(app));
        let listeners = self.listeners.iter().filter(|listener| !listeners.contains(&listener.id));
        let routes = self.routes().filter(|route| !names.contains(&(&route.id, &route.namespace)));
        let apps = apps.map(|app| Change::AppRemoved { number: app.number });
        let listeners = listeners.map(|listener| Change::ListenerRemoved { id: listener.id });
        let routes = routes.map(|route| Change::RouteRemoved {
            id: route.id.clone(),
            namespace: route.namespace.clone(),
        });
        apps.chain(listeners).chain(routes).collect()
    }

    fn make(&mut self, change: Change) -> Result<Option<Replaced>, BuildError> {
        match change {
            Change::App(app) => self.make_app(app),
            Change::AppRemoved { number } => {
                let unknown = BuildError::AppUnknown { number };
                let old = self.apps.remove(number as usize).ok_or(unknown)?;
                Ok(Some(Replaced::App { old: Some(old), new: None }))
            }
            Change::Listener(listener) => Ok(self.make_listener(listener)),
            Change::ListenerRemoved { id } => {
                let unknown = BuildError::ListenerUnknown { listener: id.0 };
                let position = self.position_of(id).map_err(|_| unknown)?;
                let old = Arc::make_mut(&mut self.listeners).remove(position);
                Ok(Some(Replaced::Listener { old: Some(old), new: None }))
            }
            Change::OnControlLost(wish) => {
                self.on_control_lost = wish;
                Ok(None)
            }
            Change::Route(route) => self.make_route(route),
            Change::RouteRemoved { id, namespace } => {
                match self.routes.remove(id.as_bytes(), namespace.as_bytes()) {
                    Some(old) => Ok(Some(Replaced::Route { old: Some(old), new: None })),
                    None => Err(BuildError::RouteUnknown { namespace, id }),
                }
            }
        }
    }

    fn make_app(&mut self, app: Arc<App>) -> Result<Option<Replaced>, BuildError> {
        let number = app.number;
        let named = self.apps.find(app.id.as_bytes(), app.namespace.as_bytes());
        let placed = self.apps.find_in_slot(Apps::slot(number as usize));
        match (named, placed) {
            (Some(named), _) if named.number != number => {
                let (namespace, id) = (app.namespace.clone(), app.id.clone());
                return Err(BuildError::AppTwice { namespace, id });
            }
            (None, Some(placed)) => {
                return Err(BuildError::AppNumberTwice { number, other: placed.number });
            }
            (Some(named), _) if *named == app => return Ok(None),
            _ => {}
        }
        let old = self.apps.insert(app);
        let new = self.apps.find_in_slot(Apps::slot(number as usize)).cloned();
        Ok(Some(Replaced::App { old, new }))
    }

    fn make_listener(&mut self, listener: Listener) -> Option<Replaced> {
        let new = Some(listener.clone());
        match self.position_of(listener.id) {
            Ok(position) if self.listeners[position] == listener => None,
            Ok(position) => {
                let place = &mut Arc::make_mut(&mut self.listeners)[position];
                let old = Some(std::mem::replace(place, listener));
                Some(Replaced::Listener { old, new })
            }
            Err(position) => {
                Arc::make_mut(&mut self.listeners).insert(position, listener);
                Some(Replaced::Listener { old: None, new })
            }
        }
    }

    fn make_route(&mut self, route: Route) -> Result<Option<Replaced>, BuildError> {
        check_endpoints(&route)?;
        let old = self.routes.find(route.id.as_bytes(), route.namespace.as_bytes());
        if old.is_some_and(|old| *old == route) {
            return Ok(None);
        }
        let old = self.routes.insert(route.clone());
        Ok(Some(Replaced::Route { old, new: Some(route) }))
    }

    /// Listeners and apps are looked at together when all changes are made: they may come in any
    /// order.
    fn check_replaced(&self, replaced: &[Replaced], errors: &mut Vec<BuildError>) {
        let app_left =
            replaced.iter().any(|change| matches!(change, Replaced::App { new: None, .. }));
        if app_left {
            errors.extend(self.listeners.iter().filter_map(|l| check_listener(l, &self.apps)));
            return;
        }
        let changed = replaced.iter().filter_map(|change| match change {
            Replaced::Listener { new: Some(new), .. } => self.find_listener(new.id),
            _ => None,
        });
        errors.extend(changed.filter_map(|listener| check_listener(listener, &self.apps)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Address, AppChannel, AppHealth, Balance, Endpoint, InstanceId, ListenerKind, Origin,
        draw::Draw,
    };

    fn app(number: u32, id: &str, port: u16) -> App {
        App {
            number,
            id: AppId::new(id).unwrap(),
            namespace: Namespace::default(),
            guards: Default::default(),
            channel: (port > 0)
                .then(|| AppChannel::http(Address::Tcp(([127, 0, 0, 1], port).into()))),
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

    fn route(id: &str, ports: &[u16]) -> Route {
        let endpoint = |port: &u16| Endpoint {
            instance: InstanceId(format!("{id}-{port}").into()),
            address: Address::Tcp(([10, 0, 0, 1], *port).into()),
            zone: None,
        };
        Route {
            id: AppId::new(id).unwrap(),
            namespace: Namespace::default(),
            endpoints: ports.iter().map(endpoint).collect(),
        }
    }

    fn listener(id: u32, app: u32) -> Listener {
        Listener { id: ListenerId(id), kind: ListenerKind::Api, app, caller: None }
    }

    fn route_removed(id: &str) -> Change {
        Change::RouteRemoved { id: AppId::new(id).unwrap(), namespace: Namespace::default() }
    }

    /// Version 5: app 0 `a` with listener 0, app 1 `b`, and a route to `far`.
    fn snapshot() -> Snapshot {
        Snapshot::build(State {
            version: Version(5),
            apps: vec![app(0, "a", 80), app(1, "b", 0)],
            routes: vec![route("far", &[1, 2])],
            listeners: vec![listener(0, 0)],
            on_control_lost: OnControlLost::Exit,
        })
        .unwrap()
    }

    fn delta(changes: Vec<Change>) -> Delta {
        Delta { base: Version(5), version: Version(6), changes }
    }

    #[test]
    fn refuses_what_does_not_follow() {
        let before = snapshot();
        for (base, version) in [(4, 6), (6, 7), (0, 1)] {
            let delta = Delta { base: Version(base), version: Version(version), changes: vec![] };
            let gap = ApplyError::Gap { have: Version(5), base: Version(base) };
            assert_eq!(before.apply(delta).unwrap_err(), gap);
        }
        let backwards = Delta { base: Version(5), version: Version(5), changes: vec![] };
        let Err(ApplyError::Invalid(errors)) = before.apply(backwards) else { panic!("applied") };
        assert_eq!(errors[0].to_string(), "version 5 does not come after version 5");
    }

    #[test]
    fn refuses_what_breaks_a_rule_and_changes_nothing() {
        let before = snapshot();
        for (case, changes, want) in [
            (
                "a second number for an app",
                vec![Change::App(Arc::new(app(7, "a", 80)))],
                vec!["app default/a is served twice"],
            ),
            (
                "the number of another app",
                vec![Change::App(Arc::new(app(1, "c", 80)))],
                vec![
                    "app number 1 names the slot of app number 1 (16 bits of a number are its slot)",
                ],
            ),
            (
                "the slot of another app",
                vec![Change::App(Arc::new(app(0x1_0001, "c", 80)))],
                vec![
                    "app number 65537 names the slot of app number 1 (16 bits of a number are its slot)",
                ],
            ),
            (
                "an app that is not there",
                vec![Change::AppRemoved { number: 2 }, Change::AppRemoved { number: 0x1_0001 }],
                vec![
                    "there is no app number 2 to remove",
                    "there is no app number 65537 to remove",
                ],
            ),
            (
                "an app that a listener still names",
                vec![Change::AppRemoved { number: 0 }],
                vec!["listener 0 belongs to app number 0, which is not served"],
            ),
            (
                "a listener for no app",
                vec![Change::Listener(listener(9, 9))],
                vec!["listener 9 belongs to app number 9, which is not served"],
            ),
            (
                "a listener that is not there",
                vec![Change::ListenerRemoved { id: ListenerId(4) }],
                vec!["there is no listener 4 to remove"],
            ),
            (
                "a route without endpoints",
                vec![Change::Route(route("far", &[]))],
                vec!["route default/far has no endpoint"],
            ),
            (
                "a route that is not there",
                vec![route_removed("far"), route_removed("far")],
                vec!["there is no route default/far to remove"],
            ),
        ] {
            let Err(ApplyError::Invalid(errors)) = before.apply(delta(changes)) else {
                panic!("{case}: applied")
            };
            assert_eq!(errors.iter().map(ToString::to_string).collect::<Vec<_>>(), want, "{case}");
            assert_eq!(before.to_state(), snapshot().to_state(), "{case}");
        }
    }

    #[test]
    fn tells_what_was_replaced_and_only_that() {
        let before = snapshot();
        let changes = vec![
            Change::App(Arc::new(app(0, "a", 80))),
            Change::Listener(listener(0, 0)),
            Change::Route(route("far", &[1, 2])),
            Change::AppRemoved { number: 1 },
            Change::App(Arc::new(app(0x1_0001, "c", 81))),
            Change::Listener(listener(3, 0x1_0001)),
            Change::Route(route("far", &[2])),
            Change::Route(route("near", &[3])),
            Change::OnControlLost(OnControlLost::Serve),
        ];
        let (after, replaced) = before.apply(delta(changes)).unwrap();
        let want = [
            Replaced::App { old: Some(Arc::new(app(1, "b", 0))), new: None },
            Replaced::App { old: None, new: Some(Arc::new(app(0x1_0001, "c", 81))) },
            Replaced::Listener { old: None, new: Some(listener(3, 0x1_0001)) },
            Replaced::Route { old: Some(route("far", &[1, 2])), new: Some(route("far", &[2])) },
            Replaced::Route { old: None, new: Some(route("near", &[3])) },
        ];
        assert_eq!(replaced, want);
        assert_eq!(after.version, Version(6));
        assert_eq!(after.on_control_lost, OnControlLost::Serve);
        assert!(after.apps.get(1).is_none(), "its slot has a new tenant");
        assert_eq!(after.find_app("c", "default").map(|(number, _)| number), Some(0x1_0001));
    }

    /// What control knows, kept the plain way.
    #[derive(Clone)]
    struct World(State);

    impl World {
        /// Makes one change to the world at random, and tells it.
        fn change(&mut self, draw: &mut Draw) -> Option<Change> {
            let state = &mut self.0;
            match draw.below(8) {
                0 => {
                    let slot = draw.below(200);
                    let taken = |a: &App| a.number & 0xffff == slot;
                    if let Some(known) = state.apps.iter_mut().find(|a| taken(a)) {
                        known.metadata_json = draw.below(1000).to_string().into();
                        return Some(Change::App(Arc::new(known.clone())));
                    }
                    let app = app(draw.below(9) << 16 | slot, &format!("own-{slot}"), 0);
                    state.apps.push(app.clone());
                    Some(Change::App(Arc::new(app)))
                }
                1 => {
                    let free = |a: &App| !state.listeners.iter().any(|l| l.app == a.number);
                    let position = state.apps.iter().position(free)?;
                    let number = state.apps.swap_remove(position).number;
                    Some(Change::AppRemoved { number })
                }
                2 => {
                    let app = state.apps.get(draw.below(200) as usize)?.number;
                    let new = listener(draw.below(50), app);
                    state.listeners.retain(|l| l.id != new.id);
                    state.listeners.push(new.clone());
                    Some(Change::Listener(new))
                }
                3 => {
                    let id = state.listeners.pop()?.id;
                    Some(Change::ListenerRemoved { id })
                }
                4 => {
                    let at = draw.below(u32::try_from(state.routes.len()).unwrap().max(1));
                    let gone = (!state.routes.is_empty()).then(|| state.routes.remove(at as usize));
                    gone.map(|r| Change::RouteRemoved { id: r.id, namespace: r.namespace })
                }
                _ => {
                    let ports: Vec<u16> = (0..=draw.below(3))
                        .map(|_| u16::try_from(draw.below(999)).unwrap())
                        .collect();
                    let new = route(&format!("app-{}", draw.below(400)), &ports);
                    state.routes.retain(|r| r.id != new.id);
                    state.routes.push(new.clone());
                    Some(Change::Route(new))
                }
            }
        }

        fn sorted(state: State) -> State {
            let mut state = state;
            state.apps.sort_by_key(|app| app.number & 0xffff);
            state.routes.sort_by(|a, b| a.id.cmp(&b.id));
            state.listeners.sort_by_key(|listener| listener.id);
            state
        }
    }

    #[test]
    fn any_sequence_of_deltas_leads_to_the_state_built_at_once() {
        for seed in 0..40 {
            let mut draw = Draw::new(seed);
            let mut snapshot = Snapshot::empty();
            let mut world = World(snapshot.to_state());
            let mut past = Vec::new();
            for _ in 0..60 {
                let base = world.0.version;
                let count = draw.below(24);
                let changes = (0..count).filter_map(|_| world.change(&mut draw)).collect();
                world.0.version = Version(base.0 + 1 + u64::from(draw.below(2)));
                let delta = Delta { base, version: world.0.version, changes };
                let (next, _) = snapshot.apply(delta).unwrap();
                past.push((std::mem::replace(&mut snapshot, next), base));
                let built = Snapshot::build(world.0.clone()).unwrap();
                let want = World::sorted(world.0.clone());
                assert_eq!(World::sorted(snapshot.to_state()), want, "seed {seed}");
                assert_eq!(World::sorted(built.to_state()), want, "seed {seed}");
                for app in &world.0.apps {
                    let found = snapshot.find_app(app.id.as_str(), "default");
                    assert_eq!(found, Some((app.number as usize, app)), "seed {seed}");
                    assert_eq!(snapshot.apps.get(app.number as usize), Some(app));
                }
                for route in &world.0.routes {
                    assert_eq!(snapshot.find_route(route.id.as_str(), "default"), Some(route));
                }
                // What leads from any version before to this one is found as well.
                let (older, base) = &past[draw.below(u32::try_from(past.len()).unwrap()) as usize];
                let changes = older.changes_to(world.0.clone());
                let delta = Delta { base: *base, version: world.0.version, changes };
                let (found, _) = older.apply(delta).unwrap();
                assert_eq!(World::sorted(found.to_state()), want, "seed {seed}");
                assert!(found.changes_to(world.0.clone()).is_empty(), "seed {seed}");
                assert_eq!(snapshot.route_count(), world.0.routes.len());
                assert_eq!(snapshot.apps.len(), world.0.apps.len());
            }
            for (old, version) in past {
                assert_eq!(old.version, version, "seed {seed}");
            }
        }
    }
}
