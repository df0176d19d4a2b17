//! What a calling app is given beside the apps that registries know: external targets by name.
//!
//! Whose scopes leave an app out does not come here: control sends each app what it may call.

use serde::{Deserialize, Serialize};
use std::fmt;

/// How calls of an app go out, where that is not the callee's to say.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Outbound {
    /// HTTPEndpoint resources; their names win over app ids.
    pub http_endpoints: Vec<HttpEndpoint>,
    /// A body beyond the limit is answered 413, not daprd's 500 (`--strict-status=false`).
    pub says_too_large: bool,
}

impl Outbound {
    /// The endpoint of exactly this name.
    pub fn find_endpoint(&self, name: &[u8]) -> Option<&HttpEndpoint> {
        self.http_endpoints.iter().find(|endpoint| endpoint.name.as_bytes() == name)
    }
}

/// A server outside of Dapr, under a name of the operator's.
#[derive(Clone, Eq, PartialEq, Serialize, Deserialize)]
pub struct HttpEndpoint {
    pub name: String,
    /// `http://host[:port][/path]`; methods are appended to it.
    pub base_url: String,
    /// Take the place of lines of these names in each call.
    pub headers: Vec<(String, String)>,
}

impl fmt::Debug for HttpEndpoint {
    /// Without the values of its headers, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headers: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("HttpEndpoint")
            .field("name", &self.name)
            .field("base_url", &self.base_url)
            .field("headers", &headers)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_headers_are_not_shown() {
        let headers = vec![("Authorization".to_owned(), "Bearer s3cret".to_owned())];
        let (name, base_url) = ("shop".to_owned(), "http://shop:80".to_owned());
        let outbound = Outbound {
            http_endpoints: vec![HttpEndpoint { name, base_url, headers }],
            says_too_large: false,
        };
        let shown = format!("{outbound:?}");
        assert!(shown.contains("Authorization") && !shown.contains("s3cret"), "{shown}");
        assert!(outbound.find_endpoint(b"shop").is_some());
        assert!(outbound.find_endpoint(b"Shop").is_none(), "names are exact");
    }
}
