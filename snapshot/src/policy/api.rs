//! `spec.api` of an app: which of Dapr's HTTP APIs it may use.

use serde::{Deserialize, Serialize};

/// A rule is about a group of endpoints, such as `v1/state`, or about all whose path begins so,
/// such as `v1.0/state/`. What is denied stays denied; with no rule of what is allowed all the rest
/// is.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct ApiRules {
    pub allowed: Vec<ApiRule>,
    pub denied: Vec<ApiRule>,
}

#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct ApiRule {
    pub name: String,
    pub version: String,
}
