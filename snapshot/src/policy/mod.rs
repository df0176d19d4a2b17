//! What an app allows and how its calls are carried, as control tells it: one noun a file.
//!
//! Plain values, compared and coded like the rest of [`crate::App`]. An app without any of them is
//! served as if there were no policies at all.

#![forbid(unsafe_code)]

mod access;
mod api;
mod cors;
mod network;
mod pipeline;
pub mod resiliency;
mod token;
pub mod trip;
mod trip_text;

pub use access::{AccessPolicy, Action, CallerPolicy, Operation, TRUST_DOMAIN_DEFAULT};
pub use api::{ApiRule, ApiRules};
pub use cors::AllowedOrigins;
pub use network::{Network, NetworkError};
pub use pipeline::{
    AliasRoute, PATTERN_BYTES_MAX, Pattern, PatternError, Pipelines, RateLimit, Step,
};
pub use token::{TOKEN_BYTES_MAX, Token, TokenError};

use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What requests must pass on their way into a sidecar's API and into its app. `None` lets
/// everything pass.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Guards {
    /// Which apps may call which methods of this one.
    pub access: Option<Arc<AccessPolicy>>,
    /// Which of Dapr's APIs the app may use.
    pub api: Option<Arc<ApiRules>>,
    /// From where browsers may use them.
    pub cors: Option<Arc<AllowedOrigins>>,
    /// What a request to the API must bring with it.
    pub api_token: Option<Token>,
    /// What the app is brought with each call.
    pub app_token: Option<Token>,
    /// What requests go through, and may be changed by.
    pub pipelines: Option<Arc<Pipelines>>,
}
