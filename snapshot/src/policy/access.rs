//! `spec.accessControl` of an app: who may call what of it.
//!
//! In the order of the file, which has a meaning: of several operations that fit, the first one
//! counts. Names are checked before they get here.

use super::Network;
use serde::{Deserialize, Serialize};

/// The trust domain of an app whose configuration names none.
pub const TRUST_DOMAIN_DEFAULT: &str = "public";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AccessPolicy {
    /// The domain the app itself belongs to; what it calls judges it by this.
    pub trust_domain: String,
    /// For callers that no policy is about, and for those that nothing proves.
    pub default_action: Action,
    pub callers: Vec<CallerPolicy>,
    /// Of sidecars that call over TCP, those at these addresses are believed when they say whose
    /// they are. Empty: none.
    pub trusted_networks: Vec<Network>,
}

/// What holds for one caller. Of several for the same app the last one counts.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct CallerPolicy {
    pub app_id: String,
    pub namespace: String,
    pub trust_domain: String,
    /// `None`: that of the whole policy.
    pub default_action: Option<Action>,
    pub operations: Vec<Operation>,
}

#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// A path with wildcards.
    pub name: String,
    /// As they are written; `*` is any.
    pub verbs: Vec<String>,
    pub action: Action,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Action {
    Allow,
    Deny,
}

impl Action {
    /// daprd takes `allow` in any case, and everything else for `deny`.
    pub fn parse(text: &str) -> Self {
        if text.eq_ignore_ascii_case("allow") { Self::Allow } else { Self::Deny }
    }
}
