//! Which of Dapr's APIs an app may use: daprd 1.18's `spec.api`, decided once per endpoint. Pure.
//!
//! An endpoint that is not allowed is not there: what asks for it goes the way of every unknown
//! path. Health always is.

#![forbid(unsafe_code)]

use super::{
    LocalCall,
    registered::{ROUTES, Registered},
};
use snapshot::policy::{ApiRule, ApiRules};

#[derive(Clone, Debug)]
pub struct Allowed {
    /// Of each row the versions that are there, one bit each. `None`: all of all.
    versions: Option<Box<[u8]>>,
    pub(super) has_invoke: bool,
}

impl Allowed {
    pub const ALL: Self = Self { versions: None, has_invoke: true };

    pub fn new(rules: &ApiRules) -> Self {
        let keys = |rules: &[ApiRule]| -> Vec<String> {
            rules.iter().map(|rule| format!("{}/{}", rule.version, rule.name)).collect()
        };
        let (allowed, denied) = (keys(&rules.allowed), keys(&rules.denied));
        let may = |version: &str, route: &str| {
            !has_rule_for(&denied, version, route)
                && (allowed.is_empty() || has_rule_for(&allowed, version, route))
        };
        let bits = |route: &Registered| {
            let is_health = matches!(route.call, LocalCall::Healthz | LocalCall::HealthzOutbound);
            let versions = route.versions.iter().enumerate();
            versions
                .filter(|(_, version)| is_health || may(version, route.pattern))
                .fold(0, |bits, (index, _)| bits | 1 << index)
        };
        let versions = Some(ROUTES.iter().map(bits).collect());
        Self { versions, has_invoke: may("v1.0", "invoke/*") }
    }

    /// Whether there is an endpoint that the rule is about.
    pub fn is_about_any(rule: &ApiRule) -> bool {
        let keys = [format!("{}/{}", rule.version, rule.name)];
        let has = |version: &str, route: &str| has_rule_for(&keys, version, route);
        has("v1.0", "invoke/*")
            || ROUTES.iter().any(|row| row.versions.iter().any(|v| has(v, row.pattern)))
    }

    pub(super) fn has(&self, row: usize, version: usize) -> bool {
        self.versions.as_ref().is_none_or(|versions| versions[row] >> version & 1 == 1)
    }
}

/// A rule names the group, whose version is spelt another way, or a piece of the path from its
/// beginning.
fn has_rule_for(rules: &[String], version: &str, route: &str) -> bool {
    let name = route.split('/').next().unwrap_or(route);
    let group = format!("{}/{name}", group_version(version));
    let path = format!("{version}/{route}");
    rules.iter().any(|rule| *rule == group || path.starts_with(rule.as_str()))
}

/// `v1` of `v1.0`, `v1alpha1` of `v1.0-alpha1`.
fn group_version(version: &str) -> String {
    match version.split_once(".0") {
        Some((major, rest)) => format!("{major}{}", rest.trim_start_matches('-')),
        None => version.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dapr::{Asked, CallNotes, Request, interpret_allowed};

    fn rules(texts: &[&str]) -> Vec<ApiRule> {
        let rule = |text: &&str| {
            let (version, name) = text.split_once(' ').unwrap();
            ApiRule { name: name.to_owned(), version: version.to_owned() }
        };
        texts.iter().map(rule).collect()
    }

    fn asked(allowed: &[&str], denied: &[&str], method: &str, target: &str) -> String {
        let rules = ApiRules { allowed: rules(allowed), denied: rules(denied) };
        let request = Request {
            method: method.as_bytes(),
            target: target.as_bytes(),
            app_id_header: None,
            authorization: None,
        };
        match interpret_allowed(&request, &Allowed::new(&rules), &mut CallNotes::default()) {
            Asked::Invoke { .. } => "invoke".to_owned(),
            Asked::Local(call) => format!("{call:?}"),
            Asked::NoTarget => "no target".to_owned(),
        }
    }

    #[test]
    fn forbids_and_allows_as_daprd_1_18() {
        const STATE: (&str, &str) = ("GET", "/v1.0/state/s/k");
        const QUERY: (&str, &str) = ("POST", "/v1.0-alpha1/state/s/query");
        const INVOKE: (&str, &str) = ("GET", "/v1.0/invoke/a/method/m");
        const METADATA: (&str, &str) = ("GET", "/v1.0/metadata");
        const HEALTH: (&str, &str) = ("GET", "/v1.0/healthz");
        let state = "Unconfigured(State)";
        for (case, allowed, denied, (method, target), want) in [
            ("denied", &[][..], &["v1 state"][..], STATE, "no target"),
            ("deny wins", &["v1 state", "v1 invoke"], &["v1 state"], STATE, "no target"),
            ("not in the list", &["v1 invoke"], &[], STATE, "no target"),
            ("another version's group", &["v1 invoke", "v1 state"], &[], QUERY, "no target"),
            ("another version denied", &[], &["v1alpha1 state"], QUERY, "no target"),
            ("a path denied", &[], &["v1.0 state/{storeName}/{key}"], STATE, "no target"),
            ("metadata denied", &[], &["v1 metadata"], METADATA, "no target"),
            ("an empty name is all of a version", &[], &["v1.0 "], STATE, "NotFound"),
            ("invoke denied", &[], &["v1 invoke"], INVOKE, "NotFound"),
            ("invoke denied by path", &[], &["v1.0 invoke"], INVOKE, "NotFound"),
            ("nothing but state", &["v1 state"], &[], INVOKE, "NotFound"),
            (
                "other verb, without invoke",
                &["v1 state"],
                &[],
                ("PATCH", "/v1.0/state/s/k"),
                "MethodNotAllowed { allow: Methods(\"DELETE GET\") }",
            ),
            (
                "unknown verb, without invoke",
                &["v1 state"],
                &[],
                ("PROPFIND", "/v1.0/state/s/k"),
                "MethodNotAllowed { allow: Methods(\"\") }",
            ),
            (
                "other verb of what is not there",
                &["v1 state"],
                &[],
                ("PATCH", "/v1.0/metadata"),
                "NotFound",
            ),
            ("no rules", &[], &[], STATE, state),
            ("other denied", &[], &["v1 secrets", "v1.0 statement"], STATE, state),
            ("another route denied", &[], &["v1.0 state/{storeName}/bulk"], STATE, state),
            ("allowed", &["v1 state"], &[], STATE, state),
            ("allowed by path", &["v1.0 state"], &[], STATE, state),
            ("of another version", &["v1alpha1 state"], &[], QUERY, state),
            ("another version denied, this one not", &[], &["v1alpha1 state"], STATE, state),
            ("invoke allowed", &["v1 invoke"], &[], INVOKE, "invoke"),
            ("invoke allowed by path", &["v1.0 invoke"], &[], INVOKE, "invoke"),
            ("health is always there", &["v1 state"], &["v1 healthz"], HEALTH, "Healthz"),
        ] {
            assert_eq!(asked(allowed, denied, method, target), want, "{case}");
        }
    }

    #[test]
    fn a_row_has_no_more_versions_than_bits() {
        assert!(ROUTES.iter().all(|route| route.versions.len() <= 8));
        let versions = [("v1.0", "v1"), ("v1.0-alpha1", "v1alpha1"), ("v1.0-beta1", "v1beta1")];
        assert!(versions.iter().all(|(version, group)| group_version(version) == *group));
    }
}
