//! What a running control knows of where an app can be called: asked over its socket, or made from
//! registries that are read for the purpose.

#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use snapshot::{
    Address, AppId, HttpEndpoint, Namespace,
    policy::{AccessPolicy, resiliency::Resiliency},
    wire::Score,
};
use std::{num::NonZeroU32, sync::Arc};

/// What is asked for.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Question {
    pub(crate) id: AppId,
    pub(crate) namespace: Namespace,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(crate) struct Knowledge {
    /// Of the state that every worker runs on; 0 where nobody serves.
    pub(crate) version: u64,
    /// The same data plane serves the app that is called.
    pub(crate) is_here: bool,
    pub(crate) registries: Vec<RegistryState>,
    pub(crate) rows: Vec<KnownRow>,
    /// As the data plane was told them.
    pub(crate) endpoints: Vec<KnownEndpoint>,
    pub(crate) scores: Vec<Score>,
    /// How the app is served here, if it is; a control of before does not tell.
    #[serde(default)]
    pub(crate) app: Option<KnownApp>,
}

/// How an app is served, as its data plane was told.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(crate) struct KnownApp {
    pub(crate) access: Option<Arc<AccessPolicy>>,
    pub(crate) resiliency: Option<Arc<Resiliency>>,
    pub(crate) concurrency_max: Option<NonZeroU32>,
    /// What its health checks say, if it has any.
    pub(crate) is_healthy: Option<bool>,
    #[serde(default)]
    pub(crate) http_endpoints: Vec<KnownServer>,
}

/// A server outside of Dapr that an app calls by a name. Values of headers may be secret, so they
/// are not told.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct KnownServer {
    pub(crate) name: String,
    pub(crate) base_url: String,
    pub(crate) headers: Vec<String>,
}

impl KnownServer {
    pub(crate) fn all(endpoints: &[HttpEndpoint]) -> Vec<Self> {
        let server = |endpoint: &HttpEndpoint| Self {
            name: endpoint.name.clone(),
            base_url: endpoint.base_url.clone(),
            headers: endpoint.headers.iter().map(|(name, _)| name.clone()).collect(),
        };
        endpoints.iter().map(server).collect()
    }
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct RegistryState {
    pub(crate) name: String,
    pub(crate) state: String,
}

/// What one registry says.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct KnownRow {
    pub(crate) registry: String,
    pub(crate) revision: String,
    pub(crate) instance: String,
    pub(crate) address: Address,
    pub(crate) zone: Option<String>,
    /// Why it does not count.
    pub(crate) hidden: Option<String>,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct KnownEndpoint {
    pub(crate) address: Address,
    pub(crate) zone: Option<String>,
}
