//! `--allowed-origins`: from where browsers may use an app's API.

use serde::{Deserialize, Serialize};

/// Each is an origin, one with a `*` for any text within it, or `*` for all.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct AllowedOrigins(pub Vec<String>);
