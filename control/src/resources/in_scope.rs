//! What of the resources holds for one app, beside the policies of its calls: whom it calls by
//! name, and what its metadata says is loaded.

#![forbid(unsafe_code)]

use super::{
    Resources, component::Component, http_endpoint::Endpoint, middleware, secrets::Stores,
};
use snapshot::HttpEndpoint;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct InScope {
    /// By name; of several of one name the last one counts.
    pub(crate) http_endpoints: Vec<HttpEndpoint>,
    /// Middleware that is loaded, whether or not a pipeline names it; by name.
    pub(crate) components: Vec<Loaded>,
    /// The names of Resiliency resources.
    pub(crate) resiliencies: Vec<String>,
}

/// A component.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Loaded {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) version: String,
}

impl InScope {
    /// What is left out is said to `notes`.
    pub(super) fn of(
        resources: &Resources,
        app_id: &str,
        stores: &Stores<'_>,
        notes: &mut Vec<String>,
    ) -> Self {
        let holds = |scopes: &[String]| scopes.is_empty() || scopes.iter().any(|id| id == app_id);
        let endpoints = resources.http_endpoints.iter().filter(|found| holds(&found.scopes));
        let endpoints: BTreeMap<&str, &Endpoint> =
            endpoints.map(|found| (found.name.as_str(), found)).collect();
        let mut http_endpoints = Vec::new();
        for endpoint in endpoints.into_values() {
            match endpoint.open(stores) {
                Ok(endpoint) => http_endpoints.push(endpoint),
                Err(reason) => notes.push(reason),
            }
        }
        let resiliencies = resources.resiliencies.iter().filter(|found| holds(&found.scopes));
        let resiliencies: BTreeSet<&str> = resiliencies.map(|found| &*found.source.name).collect();
        let resiliencies = resiliencies.into_iter().map(str::to_owned).collect();
        let components = resources.middleware.iter().filter(|found| found.is_for(app_id));
        let components: BTreeMap<&str, &Component> =
            components.map(|found| (found.name.as_str(), found)).collect();
        let components = components.into_values().filter(|found| middleware::is_known(found));
        let components = components.map(|found| Loaded {
            name: found.name.clone(),
            kind: found.kind.clone(),
            version: found.version.clone(),
        });
        Self { http_endpoints, components: components.collect(), resiliencies }
    }

    /// For the log: lines that give way to the app's own token.
    pub(super) fn overruled(&self, has_app_token: bool) -> Vec<String> {
        let is_token = |name: &str| name.eq_ignore_ascii_case("dapr-api-token");
        let names_it =
            |endpoint: &&HttpEndpoint| endpoint.headers.iter().any(|(name, _)| is_token(name));
        let endpoints = self.http_endpoints.iter().filter(|_| has_app_token).filter(names_it);
        endpoints
            .map(|endpoint| {
                format!(
                    "HTTPEndpoint {:?} sets dapr-api-token, but calls of it carry the app's own \
                     token (APP_API_TOKEN), as with daprd",
                    endpoint.name
                )
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(text: &str) -> Resources {
        let (mut found, mut problems) = (Resources::default(), Vec::new());
        found.read_text("e.yaml", text, &|_| None, &mut problems);
        assert!(problems.is_empty(), "{problems:?}");
        found
    }

    fn of(resources: &Resources, app_id: &str) -> InScope {
        let (stores, mut notes) = (Stores::of(&[], app_id, &|_| None), Vec::new());
        let found = InScope::of(resources, app_id, &stores, &mut notes);
        assert_eq!(notes, [""; 0]);
        found
    }

    #[test]
    fn apps_call_what_is_in_their_scope_and_the_last_of_a_name() {
        let found = resources(
            "kind: HTTPEndpoint
metadata: {name: shop}
spec: {baseUrl: \"http://one\"}
---
KIND: HTTPEndpoint
metadata: {name: bank}
scopes: [b]
spec: {baseURL: \"http://bank\"}
---
kind: HTTPEndpoint
metadata: {name: shop}
scopes: [b, c]
spec: {baseUrl: \"http://two\"}
",
        );
        for (app, want) in [
            ("a", vec!["http://one"]),
            ("b", vec!["http://bank", "http://two"]),
            ("c", vec!["http://two"]),
        ] {
            let found = of(&found, app).http_endpoints;
            let urls: Vec<&str> = found.iter().map(|endpoint| &*endpoint.base_url).collect();
            assert_eq!(urls, want, "{app}");
        }
    }

    #[test]
    fn middleware_is_loaded_where_it_is_in_scope_and_known() {
        let component = |name: &str, kind: &str, more: &str| {
            format!(
                "kind: Component\nmetadata: {{name: {name}}}\nspec: {{type: middleware.http.{kind}, \
                 version: v1}}\n{more}\n---\n"
            )
        };
        let found = resources(
            &[
                component("up", "uppercase", ""),
                component("limit", "RateLimit", "scopes: [b]"),
                component("door", "opa", ""),
            ]
            .concat(),
        );
        let names = |app: &str| -> Vec<String> {
            of(&found, app).components.iter().map(|found| found.name.clone()).collect()
        };
        assert_eq!(names("a"), ["up"]);
        assert_eq!(names("b"), ["limit", "up"]);
        assert_eq!(of(&found, "b").components[0].kind, "middleware.http.RateLimit");
    }

    #[test]
    fn resiliencies_are_named_once() {
        let found = resources("kind: Resiliency\nmetadata: {name: r}\nscopes: [a]\n");
        assert_eq!(of(&found, "a").resiliencies, ["r"]);
        assert_eq!(of(&found, "b").resiliencies, [""; 0]);
    }

    #[test]
    fn a_token_that_gives_way_is_told() {
        let found = resources(
            "kind: HTTPEndpoint
metadata: {name: shop}
spec: {baseUrl: \"http://one\", headers: [{name: Dapr-Api-Token, value: s3cret}]}
",
        );
        let in_scope = of(&found, "a");
        assert_eq!(in_scope.overruled(false), [""; 0]);
        let told = in_scope.overruled(true);
        assert!(told[0].contains("\"shop\" sets dapr-api-token"), "{told:?}");
        assert!(!told[0].contains("s3cret"), "{told:?}");
    }
}
