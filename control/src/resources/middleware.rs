//! Components `middleware.http.…`, made steps of a pipeline.
//!
//! One that decides who may call, and that this sidecar cannot ask, is refused: a pipeline that
//! leaves it out would be an open door where somebody has put a lock.

#![forbid(unsafe_code)]

use super::{
    component::{Component, Given, Property},
    route_pattern::route,
    secrets::Stores,
    template::Template,
};
use crate::{
    config::file::Problem,
    yaml::{self, Node, Value},
};
use snapshot::policy::{AliasRoute, Pattern, RateLimit, Step};

/// In front of every type that is middleware.
pub(super) const PREFIX: &str = "middleware.http.";

/// The step, and what is to be said of it.
///
/// # Errors
/// What it cannot be.
pub(super) fn step(
    component: &Component,
    stores: &Stores<'_>,
    template: &Template<'_>,
) -> Result<(Step, Vec<String>), Problem> {
    let kind = component.kind.to_ascii_lowercase();
    let kind = kind.strip_prefix(PREFIX).unwrap_or_default();
    if let Some(unenforced) = unenforced(kind) {
        return Err(component.problem(unenforced));
    }
    let values = Values::of(component, stores, template)?;
    let mut notes = Vec::new();
    let step = match kind {
        "ratelimit" => rate_limit(component, &values)?,
        "routeralias" => alias(component, &values, &mut notes)?,
        "routerchecker" => check(component, &values)?,
        "uppercase" => uppercase(&values),
        _ => {
            let message = format!(
                "there is no middleware {:?}; this sidecar has ratelimit, routeralias, \
                 routerchecker and uppercase",
                component.kind
            );
            return Err(component.problem(message));
        }
    };
    if !matches!(component.version.as_str(), "v0" | "v1") {
        let message = format!(
            "HTTP middleware {}/{} is not known; write version: v1",
            component.kind, component.version
        );
        return Err(component.problem(message));
    }
    Ok((step, notes))
}

/// Whether it is one of those that this sidecar has: what others may be, nothing loads them.
pub(super) fn is_known(component: &Component) -> bool {
    let kind = component.kind.to_ascii_lowercase();
    let kinds = ["ratelimit", "routeralias", "routerchecker", "uppercase"];
    kind.strip_prefix(PREFIX).is_some_and(|kind| kinds.contains(&kind))
        && matches!(component.version.as_str(), "v0" | "v1")
}

/// Why one that guards is refused.
fn unenforced(kind: &str) -> Option<String> {
    let why = match kind {
        "bearer" => "needs the keys of the issuer, which come over TLS",
        "oauth2" | "oauth2clientcredentials" => "needs an identity provider, which speaks TLS",
        "opa" | "sentinel" | "wasm" => "needs an engine that this sidecar does not have",
        _ => return None,
    };
    Some(format!(
        "middleware.http.{kind} {why}, so it cannot be enforced, and nothing may pass without it; \
         take it out of the pipeline and guard the app otherwise (DAPR_API_TOKEN, \
         spec.accessControl), or run daprd for this app"
    ))
}

/// `spec.metadata` with its secrets.
struct Values<'c>(Vec<(&'c Property, String)>);

impl<'c> Values<'c> {
    fn of(
        component: &'c Component,
        stores: &Stores<'_>,
        template: &Template<'_>,
    ) -> Result<Self, Problem> {
        let value = |property: &'c Property| {
            let text = match &property.value {
                Given::Text(text) => Ok(text.clone()),
                Given::Secret(wanted) => stores.find(&component.secret_store, wanted),
            };
            let filled = text.and_then(|text| {
                let filled = template.fill(&text, &component.name, &property.name)?;
                Ok(filled.into_owned())
            });
            match filled {
                Ok(filled) => Ok((property, filled)),
                Err(reason) => Err(property.problem(reason)),
            }
        };
        component.properties.iter().map(value).collect::<Result<_, _>>().map(Self)
    }

    /// Whatever its case, as daprd's components read most of theirs.
    fn find(&self, name: &str) -> Option<(&'c Property, &str)> {
        let found = self.0.iter().find(|(property, _)| property.name.eq_ignore_ascii_case(name));
        found.map(|(property, text)| (*property, text.as_str()))
    }
}

fn rate_limit(component: &Component, values: &Values<'_>) -> Result<Step, Problem> {
    const KEY: &str = "maxRequestsPerSecond";
    let per_second = match values.find(KEY) {
        None | Some((_, "")) => RATE_DEFAULT,
        Some((property, text)) => {
            let number = text.parse().ok().filter(|number: &f64| number.is_finite());
            let number = number
                .ok_or_else(|| property.problem(format!("{KEY}: {text:?} is not a number")))?;
            if number <= 0.0 {
                // daprd's words.
                let message = format!("metadata property {KEY} must be a positive value");
                return Err(property.problem(message));
            }
            number
        }
    };
    Ok(Step::RateLimit(RateLimit { component: component.name.clone(), per_second }))
}

fn check(component: &Component, values: &Values<'_>) -> Result<Step, Problem> {
    let (property, rule) = values.find("rule").unzip();
    let pattern = Pattern::new(rule.unwrap_or_default()).map_err(|e| {
        let message = format!("failed to compile rule regexp: {e}");
        property.map_or_else(|| component.problem(&*message), |found| found.problem(&*message))
    })?;
    Ok(Step::Check(pattern))
}

fn uppercase(values: &Values<'_>) -> Step {
    // This name counts with its case.
    let direction = values.0.iter().find(|(property, _)| property.name == "direction");
    let direction = direction.map(|(_, text)| text.to_ascii_lowercase()).unwrap_or_default();
    match direction.as_str() {
        "both" => Step::Uppercase { request: true, answer: true },
        "response" => Step::Uppercase { request: false, answer: true },
        _ => Step::Uppercase { request: true, answer: false },
    }
}

fn alias(
    component: &Component,
    values: &Values<'_>,
    notes: &mut Vec<String>,
) -> Result<Step, Problem> {
    let mut routes = Vec::new();
    let mut add = |property: &Property, template: &str, path: &str| match route(template, path) {
        Ok(route) => routes.push(route),
        // mux keeps it to itself that such a route never matches.
        Err(reason) => notes.push(format!(
            "{}: {}: {reason}; no request fits it, as with daprd",
            property.place, property.key
        )),
    };
    match values.find("routes").filter(|(_, text)| values.0.len() == 1 && !text.is_empty()) {
        Some((property, text)) => {
            for (template, path) in pairs(property, text)? {
                add(property, &template, &path);
            }
        }
        None => {
            for (property, path) in &values.0 {
                if path.is_empty() {
                    let message = "invalid key/value pair in metadata: must not be empty";
                    return Err(property.problem(message));
                }
                add(property, &property.name, path);
            }
        }
    }
    if routes.len() > ROUTES_MAX {
        return Err(component.problem(format!("has more than {ROUTES_MAX} routes")));
    }
    Ok(Step::Alias(in_order(routes)))
}

/// Of `routes`, which is JSON or YAML.
fn pairs(property: &Property, text: &str) -> Result<Vec<(String, String)>, Problem> {
    const WHAT: &str = "failed to decode 'routes' property as JSON or YAML";
    let documents = yaml::parse(text).map_err(|e| property.problem(format!("{WHAT}: {e}")))?;
    let Some(Node { value: Value::Map(entries), .. }) = documents.first() else {
        return Err(property.problem(format!("{WHAT}: it is no mapping of paths to paths")));
    };
    let pair = |(key, node): &(yaml::Key, Node)| match node.text() {
        Some(path) => Ok((key.text.clone(), path.to_owned())),
        None => Err(property.problem(format!("{WHAT}: {:?} is mapped to no path", key.text))),
    };
    entries.iter().map(pair).collect()
}

/// Go's map has no order; here a path as it stands comes before one with variables, and then the
/// first one counts.
fn in_order(mut routes: Vec<AliasRoute>) -> Vec<AliasRoute> {
    routes.sort_by_key(|route| !route.variables.is_empty());
    routes
}

const RATE_DEFAULT: f64 = 100.0;

/// Each request is matched against all of them.
const ROUTES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::{component, reader::Reader};

    fn made(kind: &str, metadata: &str) -> Result<(Step, Vec<String>), String> {
        let text = format!(
            "kind: Component\nmetadata: {{name: m}}\nspec:\n  type: {kind}\n  metadata: {metadata}\n"
        );
        let mut reader = Reader::new("m.yaml");
        let document = &yaml::parse(&text).unwrap()[0];
        let component = component::read(&mut reader, document, &|_| None).unwrap();
        assert!(reader.problems.is_empty(), "{:?}", reader.problems);
        let template = Template { app_id: "a", namespace: "shop", env: &|_| None };
        step(&component, &Stores::of(&[], "a", &|_| None), &template)
            .map_err(|problem| problem.to_string())
    }

    #[test]
    fn nothing_passes_without_what_cannot_be_enforced() {
        for kind in ["bearer", "oauth2", "oauth2clientcredentials", "opa", "sentinel", "wasm"] {
            for kind in [kind.to_owned(), kind.to_uppercase()] {
                let told = made(&format!("middleware.http.{kind}"), "[]").unwrap_err();
                assert!(
                    told.starts_with("m.yaml:1:1: Component \"m\": middleware.http."),
                    "{told}"
                );
                assert!(told.contains("cannot be enforced, and nothing may pass"), "{told}");
            }
        }
    }

    #[test]
    fn refuses_what_daprd_would_not_start_with() {
        for (kind, metadata, want) in [
            (
                "ratelimit",
                "[{name: maxRequestsPerSecond, value: ten}]",
                "m.yaml:5:14: spec.metadata[0]: maxRequestsPerSecond: \"ten\" is not a number",
            ),
            (
                "ratelimit",
                "[{name: maxrequestspersecond, value: 0}]",
                "metadata property maxRequestsPerSecond must be a positive value",
            ),
            ("ratelimit", "[{name: maxRequestsPerSecond, value: inf}]", "is not a number"),
            (
                "ratelimit",
                "[{name: maxRequestsPerSecond, secretKeyRef: {name: s}}]",
                "spec.metadata[0]: is in a secret store, and auth.secretStore names none",
            ),
            (
                "routerchecker",
                "[{name: rule, value: \"(\"}]",
                "spec.metadata[0]: failed to compile rule regexp: unclosed group",
            ),
            (
                "routeralias",
                "[{name: routes, value: \"[a]\"}]",
                "failed to decode 'routes' property as JSON or YAML: it is no mapping",
            ),
            (
                "routeralias",
                "[{name: routes, value: '{\"/a\": [1]}'}]",
                "\"/a\" is mapped to no path",
            ),
            ("routeralias", "[{name: /a, value: \"\"}]", "must not be empty"),
            (
                "routerchecker",
                "[{name: rule, value: '{podName}'}]",
                "m.yaml:5:14: spec.metadata[0]: failed to parse metadata: property rule refers to \
                 {podName} but podName is not set",
            ),
            ("nothing", "[]", "there is no middleware \"middleware.http.nothing\""),
        ] {
            let told = made(&format!("middleware.http.{kind}"), metadata).unwrap_err();
            assert!(told.contains(want), "{kind}: {told}");
        }
    }

    #[test]
    fn steps_are_what_metadata_says() {
        let rate =
            |per_second| Step::RateLimit(RateLimit { component: "m".to_owned(), per_second });
        for (kind, metadata, want) in [
            ("ratelimit", "[]", rate(100.0)),
            (
                "routerchecker",
                "[{name: rule, value: '^/{appID}/{namespace}$'}]",
                Step::Check(Pattern::new("^/a/shop.a$").unwrap()),
            ),
            ("RateLimit", "[{name: MAXREQUESTSPERSECOND, value: 0.5}]", rate(0.5)),
            ("routerchecker", "[]", Step::Check(Pattern::new("").unwrap())),
            ("uppercase", "[]", Step::Uppercase { request: true, answer: false }),
            (
                "uppercase",
                "[{name: direction, value: Both}]",
                Step::Uppercase { request: true, answer: true },
            ),
            (
                "uppercase",
                "[{name: direction, value: response}]",
                Step::Uppercase { request: false, answer: true },
            ),
            (
                "uppercase",
                "[{name: Direction, value: both}]",
                Step::Uppercase { request: true, answer: false },
            ),
        ] {
            let kind = format!("middleware.http.{kind}");
            assert_eq!(made(&kind, metadata), Ok((want, Vec::new())), "{metadata}");
        }
    }

    #[test]
    fn routes_may_be_written_in_three_ways() {
        for metadata in [
            "[{name: routes, value: '{\"/s/{id}\": \"/x\", \"/s/a\": \"/y\"}'}]",
            "[{name: routes, value: {\"/s/{id}\": /x, /s/a: /y}}]",
            "[{name: '/s/{id}', value: /x}, {name: /s/a, value: /y}]",
        ] {
            let (step, notes) = made("middleware.http.routeralias", metadata).unwrap();
            let Step::Alias(routes) = step else { panic!("{step:?}") };
            let found: Vec<_> =
                routes.iter().map(|route| (route.pattern.text(), route.path.as_str())).collect();
            assert_eq!(found, [("^/s/a$", "/y"), ("^/s/([^/]+)$", "/x")], "{metadata}");
            assert_eq!(notes, [""; 0]);
        }
        let (step, notes) = made("middleware.http.routeralias", "[{name: a, value: /x}]").unwrap();
        assert_eq!(step, Step::Alias(Vec::new()));
        let want = "m.yaml:5:14: spec.metadata[0]: path must start with a slash, got \"a\"";
        assert!(notes[0].starts_with(want), "{notes:?}");
    }
}
