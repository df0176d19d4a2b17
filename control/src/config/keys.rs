//! Every key of a sidecar's configuration in one table: its flag, its variable, its place in a
//! file, its default, its meaning.
//!
//! Flags, `config show` and docs/config.md are all made from it. Every flag of daprd 1.18 has a
//! row, so that a command line written for daprd starts; one whose work comes later is accepted and
//! named in the log when it is given a value of its own.

#![forbid(unsafe_code)]

use super::{duration, quantity};
use crate::log::Level;

#[derive(Debug)]
pub(crate) struct Key {
    /// The flag's, or that of the only other place where there is no flag.
    pub(crate) name: &'static str,
    pub(crate) home: Home,
    pub(crate) kind: Kind,
    pub(crate) default: &'static str,
    pub(crate) effect: Effect,
    /// Empty: hidden, as daprd hides it.
    pub(crate) help: &'static str,
    variable: Place,
    file: Place,
    /// Whether a new value in a file is in force without a restart.
    pub(crate) is_reloaded: bool,
    pub(crate) is_secret: bool,
}

/// Where a key can be set first of all.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Home {
    Environment,
    File,
    Flag,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Bool,
    Duration,
    Level,
    /// Repeatable, and each value may be a comma-separated list.
    List,
    Number,
    /// Empty is 0.
    Port,
    Quantity,
    Text,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Effect {
    /// Accepted, without effect in this version; a value of its own is worth a warning.
    Later,
    /// daprd itself takes it without effect.
    Never,
    Now,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    /// Named after the flag, for keys that have an effect.
    Derived,
    Named(&'static str),
    Nowhere,
}

impl Key {
    /// The environment variable, where there is one.
    pub(crate) fn variable(&self) -> Option<String> {
        match self.variable {
            Place::Derived if self.effect == Effect::Now => {
                Some(format!("RINGCAR_{}", self.name.to_ascii_uppercase().replace('-', "_")))
            }
            Place::Named(name) => Some(name.to_owned()),
            Place::Derived | Place::Nowhere => None,
        }
    }

    /// The key's path in a Configuration file, where there is one.
    pub(crate) fn file(&self) -> Option<String> {
        match self.file {
            Place::Derived if self.effect == Effect::Now => {
                Some(format!("spec.ringcar.{}", camel_case(self.name)))
            }
            Place::Named(path) => Some(path.to_owned()),
            Place::Derived | Place::Nowhere => None,
        }
    }

    pub(crate) fn is_flag(&self) -> bool {
        self.home == Home::Flag
    }

    /// Whether a value from a file or a variable can be one of this key.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn check(&self, text: &str) -> Result<(), String> {
        let is_empty = text.is_empty();
        match self.kind {
            Kind::Bool => parse_bool(text).map(|_| ()),
            Kind::Duration if is_empty => Ok(()),
            Kind::Duration => duration::parse(text).map(|_| ()).map_err(|e| e.to_string()),
            Kind::Level => Level::parse(text)
                .map(|_| ())
                .ok_or_else(|| format!("{text:?} is none of debug, info, warn, error and fatal")),
            Kind::Number => text
                .parse::<i64>()
                .map(|_| ())
                .map_err(|_| format!("{text:?} is not a whole number")),
            Kind::Port if is_empty => Ok(()),
            Kind::Port => {
                text.parse::<u16>().map(|_| ()).map_err(|_| format!("{text:?} is not a port"))
            }
            Kind::Quantity => quantity::parse(text).map(|_| ()).map_err(|e| e.to_string()),
            Kind::List | Kind::Text => Ok(()),
        }
    }

    const fn command_line_only(mut self) -> Self {
        self.variable = Place::Nowhere;
        self.file = Place::Nowhere;
        self
    }

    const fn not_in_files(mut self) -> Self {
        self.file = Place::Nowhere;
        self
    }

    const fn at(mut self, path: &'static str) -> Self {
        self.file = Place::Named(path);
        self
    }

    const fn env(mut self, name: &'static str) -> Self {
        self.variable = Place::Named(name);
        self
    }

    const fn reloaded(mut self) -> Self {
        self.is_reloaded = true;
        self
    }

    const fn secret(mut self) -> Self {
        self.is_secret = true;
        self
    }
}

/// The spellings Go's `strconv.ParseBool` takes.
///
/// # Errors
/// What to write instead.
pub(crate) fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("write true or false".to_owned()),
    }
}

/// `max-body-size` as `maxBodySize`.
fn camel_case(name: &str) -> String {
    let mut words = name.split('-');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |text, word| {
        let (head, tail) = word.split_at(word.len().min(1));
        text + &head.to_ascii_uppercase() + tail
    })
}

pub(crate) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

const fn key(
    name: &'static str,
    home: Home,
    kind: Kind,
    default: &'static str,
    effect: Effect,
    help: &'static str,
) -> Key {
    let (variable, file) = match home {
        Home::Environment => (Place::Named(name), Place::Nowhere),
        Home::File => (Place::Nowhere, Place::Named(name)),
        Home::Flag => (Place::Derived, Place::Derived),
    };
    let (is_reloaded, is_secret) = (false, false);
    Key { name, home, kind, default, effect, help, variable, file, is_reloaded, is_secret }
}

const fn flag(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    effect: Effect,
    help: &'static str,
) -> Key {
    key(name, Home::Flag, kind, default, effect, help)
}

const fn variable(name: &'static str, default: &'static str, help: &'static str) -> Key {
    key(name, Home::Environment, Kind::Text, default, Effect::Now, help)
}

use Effect::{Later, Never, Now};
use Kind::{Bool, Duration, Level as LogLevel, List, Number, Port, Quantity, Text};

#[rustfmt::skip]
pub(crate) const KEYS: &[Key] = &[
    flag("app-id", Text, "", Now, "Name under which other apps call this one").not_in_files(),
    flag("app-port", Port, "", Now, "Port the app listens on; empty or 0: it takes no calls"),
    flag("app-protocol", Text, "http", Now, "Protocol the app speaks: http, https, h2c, grpc, grpcs; calls to it are carried for http alone"),
    flag("app-channel-address", Text, "127.0.0.1", Now, "Host the app listens on, or unix:///path of its socket"),
    flag("app-max-concurrency", Number, "-1", Now, "Calls the app takes at once, the others wait; -1 is unlimited"),
    flag("app-ssl", Bool, "false", Now, "Old form of --app-protocol https, or grpcs"),
    flag("dapr-http-port", Port, "3500", Now, "Port of the HTTP API"),
    flag("dapr-grpc-port", Port, "50001", Now, "Port of the gRPC API"),
    flag("dapr-internal-grpc-port", Port, "", Now, "Port that sidecars of other machines call"),
    flag("dapr-internal-grpc-listen-address", Text, "", Now, "Address of that port; empty: all"),
    flag("dapr-listen-addresses", Text, "", Now, "Addresses of the APIs, comma-separated; empty: all"),
    flag("dapr-public-port", Port, "", Now, "Port for health and metadata only"),
    flag("dapr-public-listen-address", Text, "", Now, "Address of that port; empty: all"),
    flag("profile-port", Text, "7777", Never, "Port of the profiling API"),
    flag("enable-profiling", Bool, "false", Later, "Serve the profiling API"),
    flag("metrics-port", Port, "9090", Now, "Port of the metrics page"),
    flag("metrics-listen-address", Text, "0.0.0.0", Now, "Address of the metrics page"),
    flag("enable-metrics", Bool, "true", Now, "Serve the metrics page").at("spec.metric.enabled"),
    flag("mode", Text, "standalone", Now, "standalone or kubernetes"),
    flag("config", List, "", Now, "Configuration file").not_in_files(),
    flag("resources-path", List, "", Now, "Directory of resources, such as policies; repeatable"),
    flag("components-path", Text, "", Now, "Old name of --resources-path"),
    flag("allowed-origins", Text, "", Now, "Origins that browsers may call from, comma-separated; * is all").reloaded(),
    flag("trusted-peer-networks", List, "", Now, "Addresses whose sidecars are believed when they name their app over TCP, such as 10.0.0.0/8").reloaded(),
    flag("max-body-size", Quantity, "4Mi", Now, "Largest request body, such as 4Mi; 0 is unlimited").reloaded(),
    flag("dapr-http-max-request-size", Number, "4", Now, "Old form of --max-body-size, in MB").command_line_only(),
    flag("read-buffer-size", Quantity, "4Ki", Now, "Largest request head, to which 4Ki are added; 4Ki stands for 64Ki in all, the most there can be").reloaded(),
    flag("dapr-http-read-buffer-size", Number, "4", Now, "Old form of --read-buffer-size, in KB").command_line_only(),
    flag("strict-status", Bool, "true", Now, "Answer a body that is too large with 500, as daprd does; false: 413").reloaded(),
    flag("unix-domain-socket", Text, "", Now, "Directory for API sockets, instead of ports"),
    flag("dapr-graceful-shutdown-seconds", Number, "5", Now, "Time for calls in flight at shutdown").reloaded(),
    flag("dapr-block-shutdown-duration", Duration, "", Now, "Time to serve on after the signal, such as 10s").reloaded(),
    flag("zone", Text, "", Now, "Zone this sidecar runs in; calls stay in it while healthy instances of the other app are there"),
    flag("balance", Text, "p2c", Now, "How calls are spread over an app's instances: p2c, to the quicker of two, or round-robin"),
    flag("keep-data-plane", Duration, "8s", Now, "Time for which calls are served when this process was killed and none took its place; 0s: not at all"),
    flag("enable-api-logging", Bool, "false", Now, "Log every API call").at("spec.logging.apiLogging.enabled").reloaded(),
    flag("enable-app-health-check", Bool, "false", Now, "Probe the app's health, and refuse its calls while it is not well"),
    flag("app-health-check-path", Text, "/healthz", Now, "Path of the probe"),
    flag("app-health-probe-interval", Number, "5", Now, "Seconds between probes"),
    flag("app-health-probe-timeout", Number, "500", Now, "Milliseconds a probe may take"),
    flag("app-health-threshold", Number, "3", Now, "Failures in a row until the app counts as unhealthy"),
    flag("disable-init-endpoints", List, "", Now, "Start-up calls to the app to leave out: config, subscribe"),
    flag("steering", Text, "auto", Now, "Programs in the kernel: auto, where a flag below asks for them; on, or the sidecar does not start; off"),
    flag("steering-port", Port, "3500", Now, "Where the app looks for its sidecar, with a control group"),
    flag("steering-cgroup", Text, "/", Now, "Control group whose processes are steered; the sidecar must be started within it"),
    flag("steering-without-data-plane", Text, "refuse", Now, "What becomes of a connect to the sidecar when no data plane listens: refuse or pass"),
    flag("app-cgroup", Text, "", Now, "Control group of the app's processes, such as /system.slice/orders.service; the API is theirs alone then"),
    flag("direct", Text, "allow", Now, "What becomes of connections to the app's port that go round the sidecar: allow, deny or redirect"),
    flag("direct-allow", List, "", Now, "Exceptions: *others* for processes of no app"),
    flag("direct-deny", List, "", Now, "The same the other way"),
    flag("capture", Text, "off", Now, "Take connects of the app to addresses that stand for others for calls: off, shadow or on"),
    flag("capture-names", List, "", Now, "Apps that have such addresses: id, id.namespace, or id=ADDRESS where one stands for it already"),
    flag("capture-range", Text, "240.82.0.0/16", Now, "Network that the others come from"),
    flag("capture-hosts", Text, "", Now, "Hosts file in which the names of these are kept"),
    flag("enable-mtls", Bool, "false", Later, "Encrypt calls between sidecars"),
    flag("sentry-address", Text, "", Later, "Address of the certificate authority").at("spec.mtls.sentryAddress"),
    flag("control-plane-address", Text, "", Later, "Address of the operator"),
    flag("control-plane-trust-domain", Text, "localhost", Later, "Trust domain of the control plane").at("spec.mtls.controlPlaneTrustDomain").env("DAPR_CONTROLPLANE_TRUST_DOMAIN"),
    flag("control-plane-namespace", Text, "default", Later, "Namespace of the control plane").env("DAPR_CONTROLPLANE_NAMESPACE"),
    flag("sentry-request-jwt-audiences", List, "", Later, "Audiences of the identity token"),
    flag("placement-host-address", Text, "", Later, "Addresses of the placement service"),
    flag("scheduler-host-address", List, "", Later, "Addresses of the scheduler").env("DAPR_SCHEDULER_HOST_ADDRESS_DNS_A"),
    flag("scheduler-job-streams", Number, "3", Later, "Streams to the scheduler"),
    flag("actors-disseminate-timeout", Text, "30s", Later, "Time for actor placement"),
    flag("hot-reload-reconcile-interval", Text, "0", Later, "Time between reconciliations"),
    flag("app-binding-options-timeout", Text, "3s", Later, "Time for binding probes"),
    flag("actors-service", Text, "", Never, ""),
    flag("reminders-service", Text, "", Never, ""),
    flag("disable-builtin-k8s-secret-store", Bool, "false", Later, "Do without the Kubernetes secret store"),
    flag("log-level", LogLevel, "info", Now, "debug, info, warn, error or fatal").reloaded(),
    flag("log-as-json", Bool, "false", Now, "Log lines as JSON"),
    flag("log-file", Text, "", Now, "File for the log instead of standard output"),
    flag("version", Bool, "false", Now, "Print the Dapr version this matches").command_line_only(),
    flag("build-info", Bool, "false", Now, "Print what this was built from").command_line_only(),
    flag("wait", Bool, "false", Now, "Wait until the sidecar on --dapr-http-port can call out, then exit").command_line_only(),
    key("spec.accessControl", Home::File, Text, "", Now, "Which apps may call what of this one").reloaded(),
    key("spec.api", Home::File, Text, "", Now, "Which of Dapr's APIs the app may use").reloaded(),
    key("spec.nameResolution", Home::File, Text, "", Now, "Registries that are asked beside the one of this machine"),
    variable("NAMESPACE", "default", "Namespace of the app"),
    variable("DAPR_HOST_IP", "", "Address this host tells its callees; found by its route to the world unless set"),
    variable("DAPR_API_TOKEN", "", "Token that callers of the API must send as dapr-api-token").secret(),
    variable("APP_API_TOKEN", "", "Token that is sent to the app as dapr-api-token").secret(),
    variable("RINGCAR_ENGINE", "auto", "How the data plane asks the kernel: auto, uring or epoll"),
    variable("RINGCAR_RUNTIME_DIR", "", "Where the sidecars of one user meet; /run/ringcar for root, else $XDG_RUNTIME_DIR/ringcar"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_place_belongs_to_one_key() {
        let mut seen = HashSet::new();
        for key in KEYS {
            assert!(seen.insert(key.name.to_owned()), "{}", key.name);
            if key.is_flag() {
                let places = [key.variable(), key.file()];
                assert!(places.into_iter().flatten().all(|p| seen.insert(p)), "{}", key.name);
            }
        }
    }

    #[test]
    fn places_are_named_after_the_flag() {
        for (name, variable, file) in [
            ("max-body-size", Some("RINGCAR_MAX_BODY_SIZE"), Some("spec.ringcar.maxBodySize")),
            ("app-id", Some("RINGCAR_APP_ID"), None),
            ("version", None, None),
            ("enable-metrics", Some("RINGCAR_ENABLE_METRICS"), Some("spec.metric.enabled")),
            ("control-plane-namespace", Some("DAPR_CONTROLPLANE_NAMESPACE"), None),
            ("placement-host-address", None, None),
            ("NAMESPACE", Some("NAMESPACE"), None),
        ] {
            let key = find(name).unwrap();
            assert_eq!(key.variable().as_deref(), variable, "{name}");
            assert_eq!(key.file().as_deref(), file, "{name}");
        }
    }

    #[test]
    fn every_default_is_a_value() {
        for key in KEYS {
            assert_eq!(key.check(key.default), Ok(()), "{}", key.name);
        }
    }

    #[test]
    fn refuses_values_of_another_kind() {
        for (name, text, want) in [
            ("enable-metrics", "maybe", "write true or false"),
            ("dapr-graceful-shutdown-seconds", "5s", "\"5s\" is not a whole number"),
            ("metrics-port", "70000", "\"70000\" is not a port"),
            ("log-level", "loud", "\"loud\" is none of debug, info, warn, error and fatal"),
            ("max-body-size", "4MB", "\"4MB\" is not a quantity"),
            ("dapr-block-shutdown-duration", "5", "\"5\" is not a duration"),
        ] {
            let reason = find(name).unwrap().check(text).unwrap_err();
            assert!(reason.starts_with(want), "{name}: {reason}");
        }
    }
}
