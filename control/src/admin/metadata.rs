//! The document of `GET /v1.0/metadata`. Control writes it, the data plane hands it out.
//!
//! Fields, their order and what is left out when empty follow daprd 1.18's encoder, trailing
//! newline included.

#![forbid(unsafe_code)]

use crate::{
    config::{HealthCheck, duration},
    resources::InScope,
    version,
};
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, collections::BTreeMap, num::NonZeroU32, sync::Arc};

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Metadata {
    id: String,
    runtime_version: Cow<'static, str>,
    #[serde(default)]
    enabled_features: Vec<Cow<'static, str>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    components: Vec<Component>,
    extended: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    http_endpoints: Vec<Loaded>,
    #[serde(skip_serializing_if = "Option::is_none")]
    app_connection_properties: Option<AppConnection>,
    actor_runtime: ActorRuntime,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    resiliencies: Vec<Loaded>,
}

/// A resource that is in force.
#[derive(Deserialize, Serialize)]
struct Loaded {
    name: String,
}

/// Its capabilities are left out, as daprd leaves out those of middleware, which has none.
#[derive(Deserialize, Serialize)]
struct Component {
    name: String,
    #[serde(rename = "type")]
    kind: String,
    version: String,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AppConnection {
    pub(crate) port: u16,
    pub(crate) protocol: String,
    pub(crate) channel_address: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) max_concurrency: Option<NonZeroU32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) health: Option<AppHealthCheck>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AppHealthCheck {
    health_check_path: String,
    health_probe_interval: String,
    health_probe_timeout: String,
    health_threshold: u32,
}

#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct ActorRuntime {
    runtime_status: Cow<'static, str>,
    host_ready: bool,
}

impl AppHealthCheck {
    pub(crate) fn new(check: &HealthCheck) -> Self {
        Self {
            health_check_path: check.path.clone(),
            health_probe_interval: duration::emit(check.interval),
            health_probe_timeout: duration::emit(check.timeout),
            health_threshold: check.threshold,
        }
    }
}

impl Metadata {
    pub(crate) fn new(app_id: &str, app: Option<AppConnection>) -> Self {
        let extended =
            [("daprRuntimeVersion", version::DAPR), ("ringcarVersion", version::RINGCAR)];
        Self {
            id: app_id.to_owned(),
            runtime_version: version::DAPR.into(),
            enabled_features: FEATURES.map(Into::into).into(),
            components: Vec::new(),
            extended: extended.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            http_endpoints: Vec::new(),
            app_connection_properties: app,
            actor_runtime: ActorRuntime { runtime_status: "DISABLED".into(), host_ready: false },
            resiliencies: Vec::new(),
        }
    }

    /// A document as [`Self::emit`] writes it: between its rare changes it is kept as nothing else.
    pub(crate) fn parse(document: &str) -> Option<Self> {
        serde_json::from_str(document).ok()
    }

    pub(crate) fn set_resources(&mut self, in_scope: &InScope) {
        let loaded = |name: &String| Loaded { name: name.clone() };
        let endpoints = in_scope.http_endpoints.iter().map(|endpoint| &endpoint.name);
        self.http_endpoints = endpoints.map(loaded).collect();
        let components = in_scope.components.iter().map(|component| Component {
            name: component.name.clone(),
            kind: component.kind.clone(),
            version: component.version.clone(),
        });
        self.components = components.collect();
        self.resiliencies = in_scope.resiliencies.iter().map(loaded).collect();
    }

    /// Sets an entry of `extended`; `false` when there is no room for another.
    pub(crate) fn extend(&mut self, key: String, value: String) -> bool {
        if self.extended.len() >= EXTENDED_MAX && !self.extended.contains_key(&key) {
            return false;
        }
        self.extended.insert(key, value);
        true
    }

    /// What clients had added to the document of an earlier control; what this version says of
    /// itself stays. Returns the entries taken over.
    pub(crate) fn restore(&mut self, document: &str) -> BTreeMap<String, String> {
        #[derive(Deserialize)]
        struct Document {
            #[serde(default)]
            extended: BTreeMap<String, String>,
        }
        // A document that does not parse was not written by us, and has nothing of ours.
        let Ok(Document { mut extended }) = serde_json::from_str(document) else {
            return BTreeMap::new();
        };
        extended.retain(|key, _| !self.extended.contains_key(key));
        extended.retain(|key, value| self.extend(key.clone(), value.clone()));
        extended
    }

    pub(crate) fn emit(&self) -> Arc<str> {
        let mut text = serde_json::to_string(self)
            .expect("strings, numbers and maps of them have a JSON form");
        text.push('\n');
        text.into()
    }
}

/// Of the features that daprd 1.18 has on by default, those that have a meaning here.
const FEATURES: [&str; 1] = ["HotReload"];

/// Entries a client may add: every one is part of every state.
const EXTENDED_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn has_the_shape_of_daprds_document() {
        let app = AppConnection {
            port: 6001,
            protocol: "http".to_owned(),
            channel_address: "127.0.0.1".to_owned(),
            max_concurrency: NonZeroU32::new(7),
            health: Some(AppHealthCheck::new(&HealthCheck {
                path: "/healthz".to_owned(),
                interval: Duration::from_secs(5),
                timeout: Duration::from_millis(500),
                threshold: 3,
            })),
        };
        let mut metadata = Metadata::new("orders", Some(app));
        assert!(metadata.extend("cliPID".into(), "12\"".into()));
        let want = format!(
            "{{\"id\":\"orders\",\"runtimeVersion\":\"1.18.3\",\
             \"enabledFeatures\":[\"HotReload\"],\"extended\":{{\"cliPID\":\"12\\\"\",\
             \"daprRuntimeVersion\":\"1.18.3\",\"ringcarVersion\":\"{}\"}},\"appConnectionProperties\":\
             {{\"port\":6001,\"protocol\":\"http\",\"channelAddress\":\"127.0.0.1\",\"maxConcurrency\":7,\
             \"health\":{{\"healthCheckPath\":\"/healthz\",\"healthProbeInterval\":\"5s\",\
             \"healthProbeTimeout\":\"500ms\",\"healthThreshold\":3}}}},\
             \"actorRuntime\":{{\"runtimeStatus\":\"DISABLED\",\"hostReady\":false}}}}\n",
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(*metadata.emit(), *want);
        assert_eq!(*Metadata::parse(&want).unwrap().emit(), *want);
        assert!(!Metadata::new("a", None).emit().contains("appConnectionProperties"));
    }

    #[test]
    fn resources_in_force_are_named_where_daprd_names_them() {
        let endpoint = |name: &str| snapshot::HttpEndpoint {
            name: name.to_owned(),
            base_url: "http://h".to_owned(),
            headers: vec![("Authorization".to_owned(), "s3cret".to_owned())],
        };
        let (http_endpoints, resiliencies) =
            (vec![endpoint("a"), endpoint("b")], vec!["r".to_owned()]);
        let mut metadata = Metadata::new("orders", None);
        let without = metadata.emit();
        let components = vec![crate::resources::Loaded {
            name: "up".to_owned(),
            kind: "middleware.http.uppercase".to_owned(),
            version: "v1".to_owned(),
        }];
        metadata.set_resources(&InScope { http_endpoints, components, resiliencies });
        let text = metadata.emit();
        let components = "\"components\":[{\"name\":\"up\",\"type\":\"middleware.http.uppercase\",\
            \"version\":\"v1\"}],\"extended\":{";
        assert!(text.contains(components), "{text}");
        let endpoints =
            "},\"httpEndpoints\":[{\"name\":\"a\"},{\"name\":\"b\"}],\"actorRuntime\":{";
        assert!(text.contains(endpoints), "{text}");
        assert!(text.ends_with("},\"resiliencies\":[{\"name\":\"r\"}]}\n"), "{text}");
        assert_eq!(Metadata::parse(&text).unwrap().emit(), text);
        metadata.set_resources(&InScope::default());
        assert_eq!(metadata.emit(), without);
    }

    #[test]
    fn entries_of_clients_survive_in_the_next_document() {
        let mut first = Metadata::new("orders", None);
        assert!(first.extend("cliPID".into(), "12".into()));
        let document = first.emit().replace(version::RINGCAR, "0.0.0");
        let mut second = Metadata::new("orders", None);
        let restored = second.restore(&document);
        assert_eq!(restored, [("cliPID".to_owned(), "12".to_owned())].into());
        assert_eq!(second.emit(), first.emit());
        for rubbish in ["", "{", "[]", "{\"extended\":7}"] {
            assert!(second.restore(rubbish).is_empty(), "{rubbish}");
        }
    }
}
