//! From the apps that are served to what the kernel's maps say of them. Pure.

#![forbid(unsafe_code)]

use super::settings::{AppSteering, OTHERS};
use ebpf_loader::{
    Rule,
    common::{ANYBODY, Action, Capture, Endpoint, Ip, Member, Place, PlaceKind, Role, STRANGER},
};
use snapshot::{AppId, Namespace};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

/// An app as far as the kernel is concerned.
#[derive(Clone, Debug)]
pub(crate) struct Steered<'a> {
    pub(crate) id: &'a AppId,
    pub(crate) namespace: &'a Namespace,
    pub(crate) settings: &'a AppSteering,
    /// Of its cgroup, while that exists.
    pub(crate) group: Option<u64>,
    /// Where its API listens.
    pub(crate) apis: Vec<SocketAddr>,
    /// Where the app itself listens.
    pub(crate) address: Option<SocketAddr>,
    /// Where the data plane takes what is redirected, on 127.0.0.1; or 0.
    pub(crate) inbound_port: u16,
}

/// What the maps are to say.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Maps {
    pub(crate) members: BTreeMap<u64, Member>,
    pub(crate) places: BTreeMap<Endpoint, Place>,
    pub(crate) rules: Vec<Rule>,
    /// Apps by the numbers that the kernel knows them by.
    pub(crate) names: BTreeMap<u64, String>,
    /// What cannot be as it was asked for.
    pub(crate) problems: Vec<String>,
}

pub(crate) fn compile(apps: &[Steered<'_>]) -> Maps {
    let mut maps = Maps::default();
    for app in apps {
        maps.add(app);
    }
    maps
}

impl Maps {
    fn add(&mut self, app: &Steered<'_>) {
        let name = format!("{}/{}", app.namespace, app.id);
        let number = number_of(&name);
        if let Some(other) = self.names.get(&number) {
            // One of 10^19 pairs.
            self.problems.push(format!("the kernel cannot tell {name} from {other}"));
            return;
        }
        self.names.insert(number, name.clone());
        if let Some(address) = app.address {
            let place = Place {
                app: number,
                kind: PlaceKind::App as u16,
                inbound_port: app.inbound_port,
                reserved: 0,
            };
            self.put(address, place, &name);
        }
        if app.settings.cgroup.is_some() {
            for api in &app.apis {
                let kind = PlaceKind::Api as u16;
                self.put(*api, Place { app: number, kind, ..Place::default() }, &name);
            }
        }
        if let Some(group) = app.group {
            self.add_member(group, number, app, &name);
        }
        if app.settings.capture != Capture::Off && app.settings.cgroup.is_none() {
            self.problems
                .push(format!("{name} has no control group by which it could be captured"));
        }
        self.add_rules(number, app);
    }

    fn add_member(&mut self, group: u64, number: u64, app: &Steered<'_>, name: &str) {
        let api_port = app.apis.iter().find(|api| is_reached_by_loopback(api.ip()));
        let api_port = api_port.map_or(0, SocketAddr::port);
        if api_port == 0 {
            self.problems
                .push(format!("{name} is not steered: its API does not listen on 127.0.0.1"));
        }
        let (role, capture) = (Role::App as u16, app.settings.capture as u16);
        let member = Member { app: number, role, api_port, capture, reserved: 0 };
        if let Some(other) = self.members.insert(group, member)
            && let Some(other) = self.names.get(&other.app)
        {
            self.problems.push(format!("{name} has the control group of {other}"));
        }
    }

    fn put(&mut self, address: SocketAddr, place: Place, name: &str) {
        if let Some(other) = self.places.insert(endpoint_of(address), place)
            && other.app != place.app
            && let Some(other) = self.names.get(&other.app)
        {
            self.problems.push(format!("{name} and {other} are both at {address}"));
        }
    }

    fn add_rules(&mut self, callee: u64, app: &Steered<'_>) {
        let settings = app.settings;
        let mut add = |caller, action| self.rules.push(Rule { caller, callee, action });
        if let Some(action) = settings.direct {
            add(ANYBODY, action);
        }
        let exceptions =
            [(&settings.direct_allow, Action::Allow), (&settings.direct_deny, Action::Deny)];
        for (names, action) in exceptions {
            for name in names {
                add(caller_of(name, app.namespace), action);
            }
        }
    }
}

/// An id alone is one of the callee's own namespace.
fn caller_of(name: &str, namespace: &Namespace) -> u64 {
    match name.split_once('/') {
        _ if name == OTHERS => STRANGER,
        Some(_) => number_of(name),
        None => number_of(&format!("{namespace}/{name}")),
    }
}

/// An address that every process of this machine reaches by loopback counts at each of the
/// machine's addresses: the app may well listen on all of them.
fn endpoint_of(address: SocketAddr) -> Endpoint {
    let ip = address.ip();
    let ip = if ip.is_loopback() || ip.is_unspecified() { Ip::ANY_LOCAL } else { ip_of(ip) };
    Endpoint::new(ip, address.port())
}

pub(super) fn is_reached_by_loopback(ip: IpAddr) -> bool {
    ip.is_unspecified() || ip == IpAddr::from([127, 0, 0, 1])
}

pub(crate) fn ip_of(ip: IpAddr) -> Ip {
    Ip::from_octets(match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    })
}

/// FNV-1a of `namespace/id`, and never one of the two numbers that mean something else.
pub(super) fn number_of(name: &str) -> u64 {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash.clamp(STRANGER + 1, ANYBODY - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(cgroup: Option<&str>, direct: Option<Action>, allow: &[&str]) -> AppSteering {
        AppSteering {
            cgroup: cgroup.map(str::to_owned),
            direct,
            direct_allow: allow.iter().map(|name| (*name).to_owned()).collect(),
            direct_deny: Vec::new(),
            capture: Capture::Off,
            accelerate: None,
        }
    }

    fn app<'a>(id: &'a AppId, settings: &'a AppSteering, namespace: &'a Namespace) -> Steered<'a> {
        let (group, address) = (settings.cgroup.is_some().then_some(9), None);
        Steered { id, namespace, settings, group, apis: Vec::new(), address, inbound_port: 0 }
    }

    #[test]
    fn tells_what_cannot_be() {
        let namespace = Namespace::default();
        let (a, b) = (AppId::new("a").unwrap(), AppId::new("b").unwrap());
        let steered = settings(Some("/x"), None, &[]);
        let apis = vec!["10.0.0.1:3501".parse().unwrap()];
        let here = "127.0.0.1:80".parse().ok();
        let everywhere = "0.0.0.0:80".parse().ok();
        let maps = compile(&[
            Steered { apis, address: here, ..app(&a, &steered, &namespace) },
            Steered { address: everywhere, ..app(&b, &steered, &namespace) },
        ]);
        let want = [
            "default/a is not steered: its API does not listen on 127.0.0.1",
            "default/b and default/a are both at 0.0.0.0:80",
            "default/b is not steered: its API does not listen on 127.0.0.1",
            "default/b has the control group of default/a",
        ];
        assert_eq!(maps.problems, want);
    }

    #[test]
    fn apps_are_members_places_and_rules() {
        let (namespace, prod) = (Namespace::default(), Namespace::new("prod").unwrap());
        let (a, b) = (AppId::new("a").unwrap(), AppId::new("b").unwrap());
        let steered = settings(Some("/x"), None, &[]);
        let guarded = settings(None, Some(Action::Deny), &["c", "default/a", OTHERS]);
        let apis = vec!["[::]:3501".parse().unwrap()];
        let maps = compile(&[
            Steered { apis, ..app(&a, &steered, &namespace) },
            Steered { address: "10.1.1.1:80".parse().ok(), ..app(&b, &guarded, &prod) },
        ]);
        assert_eq!(maps.problems, Vec::<String>::new());
        let number = |name: &str| *maps.names.iter().find(|(_, known)| *known == name).unwrap().0;
        let (a, b) = (number("default/a"), number("prod/b"));
        assert_eq!((maps.members[&9].app, maps.members[&9].api_port), (a, 3501));
        let places: Vec<_> =
            maps.places.iter().map(|(at, place)| (at.ip, at.port, place.app, place.kind)).collect();
        let exact = ip_of([10, 1, 1, 1].into());
        assert_eq!(
            places,
            [
                (Ip::ANY_LOCAL, 3501, a, PlaceKind::Api as u16),
                (exact, 80, b, PlaceKind::App as u16),
            ]
        );
        let rule = |caller, action| Rule { caller, callee: b, action };
        assert_eq!(
            maps.rules,
            [
                rule(ANYBODY, Action::Deny),
                rule(number_of("prod/c"), Action::Allow),
                rule(a, Action::Allow),
                rule(STRANGER, Action::Allow),
            ]
        );
    }
}
