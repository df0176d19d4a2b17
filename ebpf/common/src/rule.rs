//! Who may connect to whom, and what becomes of a connect. Pure; the kernel runs exactly this.

/// Names of apps are numbers here: 64 bits of a hash of namespace and id. Control refuses two apps
/// of one node with the same.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RuleKey {
    /// Rules count only while their generation is the one in force, so that all of them change at
    /// once.
    pub generation: u64,
    /// [`STRANGER`], [`ANYBODY`] or an app.
    pub caller: u64,
    pub callee: u64,
}

const _: () = assert!(size_of::<RuleKey>() == 24, "the layout of a map's key");

/// How often a pair met which end, apps' own connects left out.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Pair {
    pub passed: u64,
    pub redirected: u64,
    pub denied: u64,
    /// Taken for calls.
    pub captured: u64,
    /// Would have been.
    pub shadowed: u64,
}

const _: () = assert!(size_of::<Pair>() == 40, "the layout of a map's value");

/// A process of no registered cgroup.
pub const STRANGER: u64 = 0;

/// Whoever has no rule of its own.
pub const ANYBODY: u64 = u64::MAX;

/// What a rule says of connects that go round the sidecar.
#[repr(u32)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Action {
    #[default]
    Allow = 1,
    Deny = 2,
    /// To the data plane, as if it had come by invoke.
    Redirect = 3,
}

impl Action {
    /// A number that no rule has means what is safe.
    #[inline(always)]
    pub const fn from_number(number: u32) -> Self {
        match number {
            1 => Self::Allow,
            3 => Self::Redirect,
            _ => Self::Deny,
        }
    }
}

/// Who listens at an endpoint.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Place {
    pub app: u64,
    /// [`PlaceKind`]
    pub kind: u16,
    /// Of an app: where the data plane takes its redirected connections, on 127.0.0.1; or 0.
    pub inbound_port: u16,
    pub reserved: u32,
}

const _: () = assert!(size_of::<Place>() == 16, "the layout of a map's value");

#[repr(u16)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PlaceKind {
    /// The app itself.
    App = 1,
    /// Its API, which is the data plane's, and nobody's but the app's.
    Api = 2,
}

/// What a decision rests on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts {
    /// App of the caller, or [`STRANGER`].
    pub caller: u64,
    /// The caller is steered and asked for its sidecar.
    pub asks_sidecar: bool,
    /// The caller's connects are captured, and it asked for an address that stands for an app.
    pub asks_app: bool,
    /// Who listens where it asked to go.
    pub place: Option<Place>,
    /// The rule of this pair; of anybody and the callee.
    pub rule: Option<Action>,
    pub rule_of_anybody: Option<Action>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Decision {
    /// Not ours.
    Ignore,
    /// Where it asked to go.
    Pass,
    /// As [`Decision::Pass`], and the data plane learns who it is.
    Identify,
    /// To the caller's own API, which learns who it is.
    ToApi,
    /// As [`Decision::ToApi`], and the API learns which app was asked for.
    Capture,
    /// To the callee's inbound port, which learns who it is.
    ToInbound,
    /// A connection that goes round the sidecar, and must not.
    DenyRule,
    /// Another one's API.
    DenyApi,
}

/// The caller is no data plane.
#[inline(always)]
pub fn decide(facts: &Facts) -> Decision {
    if facts.asks_app {
        return Decision::Capture;
    }
    if facts.asks_sidecar {
        return Decision::ToApi;
    }
    let Some(place) = facts.place else { return Decision::Ignore };
    if place.kind == PlaceKind::Api as u16 {
        let is_own = facts.caller == place.app;
        return if is_own { Decision::Identify } else { Decision::DenyApi };
    }
    if facts.caller == place.app {
        return Decision::Pass;
    }
    match facts.rule.or(facts.rule_of_anybody).unwrap_or_default() {
        Action::Allow => Decision::Pass,
        Action::Deny => Decision::DenyRule,
        // A callee that the data plane takes no connections for has no way round it.
        Action::Redirect if place.inbound_port == 0 => Decision::DenyRule,
        Action::Redirect => Decision::ToInbound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDERS: u64 = 7;
    const CHECKOUT: u64 = 8;

    fn place(kind: PlaceKind, app: u64, inbound_port: u16) -> Option<Place> {
        Some(Place { app, kind: kind as u16, inbound_port, reserved: 0 })
    }

    #[test]
    fn decides_by_who_calls_whom() {
        let app = place(PlaceKind::App, CHECKOUT, 9);
        let without_inbound = place(PlaceKind::App, CHECKOUT, 0);
        let api = place(PlaceKind::Api, CHECKOUT, 0);
        let (allow, deny) = (Some(Action::Allow), Some(Action::Deny));
        let redirect = Some(Action::Redirect);
        for (case, caller, place, rule, rule_of_anybody, want) in [
            ("another's API", ORDERS, api, allow, allow, Decision::DenyApi),
            ("a stranger at an API", STRANGER, api, allow, allow, Decision::DenyApi),
            ("denied to this one", ORDERS, app, deny, allow, Decision::DenyRule),
            ("denied to anybody", ORDERS, app, None, deny, Decision::DenyRule),
            ("denied to strangers too", STRANGER, app, None, deny, Decision::DenyRule),
            ("no way to go", ORDERS, without_inbound, redirect, None, Decision::DenyRule),
            ("its own API", CHECKOUT, api, None, deny, Decision::Identify),
            ("nobody we know", ORDERS, None, None, None, Decision::Ignore),
            ("its own port", CHECKOUT, app, deny, deny, Decision::Pass),
            ("no rule", ORDERS, app, None, None, Decision::Pass),
            ("an exception", ORDERS, app, allow, deny, Decision::Pass),
            ("redirected", ORDERS, app, None, redirect, Decision::ToInbound),
            ("a redirected stranger", STRANGER, app, None, redirect, Decision::ToInbound),
        ] {
            let facts = Facts { caller, place, rule, rule_of_anybody, ..Facts::default() };
            assert_eq!(decide(&facts), want, "{case}");
            let captured = Facts { asks_app: true, ..facts };
            assert_eq!(decide(&captured), Decision::Capture, "{case}, captured");
            let facts = Facts { asks_sidecar: true, ..facts };
            assert_eq!(decide(&facts), Decision::ToApi, "{case}, asking its sidecar");
        }
    }

    #[test]
    fn an_unknown_number_denies() {
        for action in [Action::Allow, Action::Deny, Action::Redirect] {
            assert_eq!(Action::from_number(action as u32), action);
        }
        for number in [0, 4, u32::MAX] {
            assert_eq!(Action::from_number(number), Action::Deny, "{number}");
        }
    }
}
