//! The keys of a node's file, and the keys of a sidecar's configuration that they stand for.

#![forbid(unsafe_code)]

use crate::steering::settings::Key as Steer;

/// What becomes of a key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Use {
    /// The app's place as one value.
    Address,
    /// The list of apps.
    Apps,
    /// What holds for apps that do not say otherwise.
    Defaults,
    /// The value of a sidecar's key.
    Flag(&'static str),
    Name,
    Namespace,
    Steering(Steer),
    /// Where the token of this variable is to be found.
    Token(&'static str),
}

use Use::{Address, Apps, Defaults, Flag, Name, Namespace, Steering, Token};

pub(super) const NODE: &[(&str, Use)] = &[
    ("apps", Apps),
    ("block-shutdown-duration", Flag("dapr-block-shutdown-duration")),
    ("accelerate", Steering(Steer::NodeAccelerate)),
    ("capture-hosts", Steering(Steer::NodeCaptureHosts)),
    ("capture-names", Steering(Steer::NodeCaptureNames)),
    ("capture-range", Steering(Steer::NodeCaptureRange)),
    ("configuration", Flag("config")),
    ("defaults", Defaults),
    ("enable-api-logging", Flag("enable-api-logging")),
    ("enable-metrics", Flag("enable-metrics")),
    ("graceful-shutdown-seconds", Flag("dapr-graceful-shutdown-seconds")),
    ("keep-data-plane", Flag("keep-data-plane")),
    ("log-as-json", Flag("log-as-json")),
    ("log-file", Flag("log-file")),
    ("log-level", Flag("log-level")),
    ("metrics-listen-address", Flag("metrics-listen-address")),
    ("metrics-port", Flag("metrics-port")),
    ("name", Name),
    ("resources-paths", Flag("resources-path")),
    ("zone", Flag("zone")),
    ("steering", Steering(Steer::NodeMode)),
    ("steering-cgroup", Steering(Steer::NodeCgroup)),
    ("steering-port", Steering(Steer::NodePort)),
    ("steering-without-data-plane", Steering(Steer::NodeWithoutDataPlane)),
];

pub(super) const APP: &[(&str, Use)] = &[
    ("accelerate", Steering(Steer::Accelerate)),
    ("address", Address),
    ("allowed-origins", Flag("allowed-origins")),
    ("app-token", Token("APP_API_TOKEN")),
    ("balance", Flag("balance")),
    ("capture", Steering(Steer::Capture)),
    ("cgroup", Steering(Steer::Cgroup)),
    ("configuration", Flag("config")),
    ("app-health-check-path", Flag("app-health-check-path")),
    ("app-health-probe-interval", Flag("app-health-probe-interval")),
    ("app-health-probe-timeout", Flag("app-health-probe-timeout")),
    ("app-health-threshold", Flag("app-health-threshold")),
    ("direct", Steering(Steer::Direct)),
    ("direct-allow", Steering(Steer::DirectAllow)),
    ("direct-deny", Steering(Steer::DirectDeny)),
    ("disable-init-endpoints", Flag("disable-init-endpoints")),
    ("enable-api-logging", Flag("enable-api-logging")),
    ("enable-app-health-check", Flag("enable-app-health-check")),
    ("grpc-port", Flag("dapr-grpc-port")),
    ("http-port", Flag("dapr-http-port")),
    ("id", Flag("app-id")),
    ("internal-listen-address", Flag("dapr-internal-grpc-listen-address")),
    ("internal-port", Flag("dapr-internal-grpc-port")),
    ("listen-addresses", Flag("dapr-listen-addresses")),
    ("max-body-size", Flag("max-body-size")),
    ("max-concurrency", Flag("app-max-concurrency")),
    ("namespace", Namespace),
    ("protocol", Flag("app-protocol")),
    ("public-listen-address", Flag("dapr-public-listen-address")),
    ("public-port", Flag("dapr-public-port")),
    ("read-buffer-size", Flag("read-buffer-size")),
    ("resources-paths", Flag("resources-path")),
    ("token", Token("DAPR_API_TOKEN")),
    ("trusted-peer-networks", Flag("trusted-peer-networks")),
    ("strict-status", Flag("strict-status")),
    ("unix-domain-socket", Flag("unix-domain-socket")),
];

pub(super) fn find(keys: &[(&str, Use)], name: &str) -> Option<Use> {
    keys.iter().find(|(key, _)| *key == name).map(|(_, found)| *found)
}

/// What a sidecar's key is called in a node's file.
pub(super) fn name_of(flag: &str) -> Option<&'static str> {
    let is_it = |(_, found): &&(&str, Use)| matches!(found, Flag(name) if *name == flag);
    APP.iter().chain(NODE).find(is_it).map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys::KEYS;

    #[test]
    fn every_key_stands_for_one_that_has_an_effect() {
        for (name, found) in NODE.iter().chain(APP) {
            if let Flag(flag) = found {
                let key = KEYS.iter().find(|key| key.name == *flag);
                let key = key.unwrap_or_else(|| panic!("{name}: {flag}"));
                assert_eq!(key.effect, crate::config::keys::Effect::Now, "{name}");
                assert_eq!(name_of(flag), Some(*name));
            }
        }
        assert_eq!((name_of("app-id"), name_of("mode")), (Some("id"), None));
    }
}
