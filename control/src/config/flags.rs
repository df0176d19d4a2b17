//! daprd's command line as one table: names, kinds, defaults, and whether this version acts on
//! them.
//!
//! Every flag of daprd 1.18 has a row, so that a command line written for daprd starts; a flag
//! whose work comes later is accepted and named in the log when it is given a value of its own.

#![forbid(unsafe_code)]

use clap::{Arg, ArgAction, ArgMatches, Command, parser::ValueSource};
use std::ffi::OsString;

pub(crate) struct Flag {
    name: &'static str,
    kind: Kind,
    default: &'static str,
    effect: Effect,
    help: &'static str,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Kind {
    Bool,
    /// Repeatable, and each value may be a comma-separated list.
    List,
    Number,
    Text,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Effect {
    /// Accepted, without effect in this version; a value of its own is worth a warning.
    Later,
    /// daprd itself takes it without effect.
    Never,
    Now,
}

const fn flag(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    effect: Effect,
    help: &'static str,
) -> Flag {
    Flag { name, kind, default, effect, help }
}

use Effect::{Later, Never, Now};
use Kind::{Bool, List, Number, Text};

#[rustfmt::skip]
const FLAGS: &[Flag] = &[
    flag("app-id", Text, "", Now, "Name under which other apps call this one"),
    flag("app-port", Text, "", Now, "Port the app listens on; empty or 0: it takes no calls"),
    flag("app-protocol", Text, "http", Now, "Protocol the app speaks: http, https, h2c, grpc, grpcs"),
    flag("app-channel-address", Text, "127.0.0.1", Now, "Host the app listens on, or unix:///path of its socket"),
    flag("app-max-concurrency", Number, "-1", Later, "Calls the app takes at once; -1 is unlimited"),
    flag("app-ssl", Bool, "false", Later, "The app speaks TLS"),
    flag("dapr-http-port", Text, "3500", Now, "Port of the HTTP API"),
    flag("dapr-grpc-port", Text, "50001", Now, "Port of the gRPC API"),
    flag("dapr-internal-grpc-port", Text, "", Now, "Port that sidecars of other machines call"),
    flag("dapr-internal-grpc-listen-address", Text, "", Now, "Address of that port; empty: all"),
    flag("dapr-listen-addresses", Text, "", Now, "Addresses of the APIs, comma-separated; empty: all"),
    flag("dapr-public-port", Text, "", Now, "Port for health and metadata only"),
    flag("dapr-public-listen-address", Text, "", Now, "Address of that port; empty: all"),
    flag("profile-port", Text, "7777", Never, "Port of the profiling API"),
    flag("enable-profiling", Bool, "false", Later, "Serve the profiling API"),
    flag("metrics-port", Text, "9090", Now, "Port of the metrics page"),
    flag("metrics-listen-address", Text, "0.0.0.0", Now, "Address of the metrics page"),
    flag("enable-metrics", Bool, "true", Now, "Serve the metrics page"),
    flag("mode", Text, "standalone", Now, "standalone or kubernetes"),
    flag("config", List, "", Now, "Configuration file; of its spec, nameResolution has an effect"),
    flag("resources-path", List, "", Later, "Directory of components and policies"),
    flag("components-path", Text, "", Later, "Old name of --resources-path"),
    flag("allowed-origins", Text, "", Later, "Origins that browsers may call from"),
    flag("max-body-size", Text, "4Mi", Now, "Largest request body, such as 4Mi; 0 is unlimited"),
    flag("dapr-http-max-request-size", Number, "4", Now, "Old form of --max-body-size, in MB"),
    flag("read-buffer-size", Text, "4Ki", Now, "Largest request head, such as 4Ki"),
    flag("dapr-http-read-buffer-size", Number, "4", Now, "Old form of --read-buffer-size, in KB"),
    flag("unix-domain-socket", Text, "", Now, "Directory for API sockets, instead of ports"),
    flag("dapr-graceful-shutdown-seconds", Number, "5", Now, "Time for calls in flight at shutdown"),
    flag("dapr-block-shutdown-duration", Text, "", Now, "Time to serve on after the signal, such as 10s"),
    flag("enable-api-logging", Bool, "false", Later, "Log every API call"),
    flag("enable-app-health-check", Bool, "false", Later, "Probe the app's health"),
    flag("app-health-check-path", Text, "/healthz", Never, "Path of the probe"),
    flag("app-health-probe-interval", Number, "5", Never, "Seconds between probes"),
    flag("app-health-probe-timeout", Number, "500", Never, "Milliseconds a probe may take"),
    flag("app-health-threshold", Number, "3", Never, "Failures until the app counts as unhealthy"),
    flag("disable-init-endpoints", List, "", Now, "Start-up calls to the app to leave out: config, subscribe"),
    flag("enable-mtls", Bool, "false", Later, "Encrypt calls between sidecars"),
    flag("sentry-address", Text, "", Later, "Address of the certificate authority"),
    flag("control-plane-address", Text, "", Later, "Address of the operator"),
    flag("control-plane-trust-domain", Text, "localhost", Later, "Trust domain of the control plane"),
    flag("control-plane-namespace", Text, "default", Later, "Namespace of the control plane"),
    flag("sentry-request-jwt-audiences", List, "", Later, "Audiences of the identity token"),
    flag("placement-host-address", Text, "", Later, "Addresses of the placement service"),
    flag("scheduler-host-address", List, "", Later, "Addresses of the scheduler"),
    flag("scheduler-job-streams", Number, "3", Later, "Streams to the scheduler"),
    flag("actors-disseminate-timeout", Text, "30s", Later, "Time for actor placement"),
    flag("hot-reload-reconcile-interval", Text, "0", Later, "Time between reconciliations"),
    flag("app-binding-options-timeout", Text, "3s", Later, "Time for binding probes"),
    flag("actors-service", Text, "", Never, ""),
    flag("reminders-service", Text, "", Never, ""),
    flag("disable-builtin-k8s-secret-store", Bool, "false", Later, "Do without the Kubernetes secret store"),
    flag("log-level", Text, "info", Now, "debug, info, warn, error or fatal"),
    flag("log-as-json", Bool, "false", Now, "Log lines as JSON"),
    flag("log-file", Text, "", Now, "File for the log instead of standard output"),
    flag("version", Bool, "false", Now, "Print the Dapr version this matches"),
    flag("build-info", Bool, "false", Now, "Print what this was built from"),
    flag("wait", Bool, "false", Now, "Wait until the sidecar on --dapr-http-port can call out, then exit"),
];

/// The `sidecar` subcommand.
pub(crate) fn command() -> Command {
    let arguments = FLAGS.iter().map(argument);
    Command::new("sidecar")
        .about("Run the sidecar of one app, with daprd's flags")
        .disable_version_flag(true)
        .args_override_self(true)
        .args(arguments)
        .arg(Arg::new(STRAY).num_args(0..).hide(true))
}

fn argument(flag: &'static Flag) -> Arg {
    let argument = Arg::new(flag.name).long(flag.name).help(flag.help).hide(flag.help.is_empty());
    let one_value = |argument: Arg| argument.num_args(1).allow_hyphen_values(true);
    match flag.kind {
        Kind::Bool => argument
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .default_value(flag.default)
            .value_parser(parse_bool)
            .action(ArgAction::Set),
        Kind::List => one_value(argument).value_delimiter(',').action(ArgAction::Append),
        Kind::Number => one_value(argument)
            .default_value(flag.default)
            .value_parser(clap::value_parser!(i64))
            .action(ArgAction::Set),
        Kind::Text => one_value(argument).default_value(flag.default).action(ArgAction::Set),
    }
}

/// The spellings Go's `strconv.ParseBool` takes.
fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("write true or false".to_owned()),
    }
}

/// Words that belong to no flag. daprd ignores them without a word, which turns `--enable-metrics
/// false` into its opposite; here they are named in the log.
const STRAY: &str = "stray";

/// Turns `-app-id` into `--app-id`, as daprd does before it parses. Short options (`-h`) and
/// negative numbers stay.
pub(crate) fn normalise(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    arguments.map(double_dash).collect()
}

fn double_dash(argument: OsString) -> OsString {
    match argument.as_encoded_bytes() {
        [b'-', letter, _, ..] if letter.is_ascii_alphabetic() => {
            let mut doubled = OsString::from("-");
            doubled.push(&argument);
            doubled
        }
        _ => argument,
    }
}

/// The values of a parsed command line, by flag name.
pub(crate) struct Values<'a>(pub(crate) &'a ArgMatches);

impl Values<'_> {
    pub(crate) fn text(&self, name: &str) -> &str {
        self.0.get_one::<String>(name).map_or("", String::as_str)
    }

    pub(crate) fn number(&self, name: &str) -> i64 {
        self.0.get_one::<i64>(name).copied().unwrap_or_default()
    }

    pub(crate) fn is_set(&self, name: &str) -> bool {
        self.0.get_one::<bool>(name).copied().unwrap_or_default()
    }

    pub(crate) fn list(&self, name: &str) -> Vec<&str> {
        let values = self.0.get_many::<String>(name).into_iter().flatten();
        values.map(String::as_str).filter(|value| !value.is_empty()).collect()
    }

    pub(crate) fn is_given(&self, name: &str) -> bool {
        self.0.value_source(name) == Some(ValueSource::CommandLine)
    }

    pub(crate) fn stray_words(&self) -> Vec<&str> {
        self.list(STRAY)
    }

    /// The flags without effect that were given another value than their default.
    pub(crate) fn without_effect(&self) -> Vec<&'static str> {
        let later = FLAGS.iter().filter(|flag| flag.effect == Effect::Later);
        let changed = later.filter(|flag| self.is_given(flag.name) && !self.is_default(flag));
        changed.map(|flag| flag.name).collect()
    }

    fn is_default(&self, flag: &Flag) -> bool {
        match flag.kind {
            Kind::Bool => self.is_set(flag.name) == (flag.default == "true"),
            Kind::List => self.list(flag.name).is_empty(),
            Kind::Number => self.number(flag.name).to_string() == flag.default,
            Kind::Text => self.text(flag.name) == flag.default,
        }
    }
}

#[cfg(test)]
pub(crate) fn matches(arguments: &[&str]) -> Result<ArgMatches, clap::Error> {
    let arguments = normalise(arguments.iter().map(OsString::from));
    command().no_binary_name(true).try_get_matches_from(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_a_sound_command() {
        command().debug_assert();
    }

    #[test]
    fn refuses_unknown_flags_with_code_2_and_a_suggestion() {
        for (case, arguments, suggestion) in [
            ("misspelt", &["--app-idd", "x"][..], Some("--app-id")),
            ("single dash", &["-app-prot", "x"], Some("--app-port")),
            ("unlike any", &["--zzzzzzzz"], None),
            ("bool that is none", &["--enable-metrics=perhaps"], None),
            ("number that is none", &["--app-max-concurrency", "many"], None),
            ("value missing", &["--app-id"], None),
        ] {
            let error = matches(arguments).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{case}");
            let text = error.to_string();
            assert!(suggestion.is_none_or(|flag| text.contains(flag)), "{case}: {text}");
        }
    }

    #[test]
    fn takes_every_spelling() {
        for (case, arguments) in [
            ("two words", &["--app-id", "x", "--app-max-concurrency", "-1"][..]),
            ("equals", &["--app-id=x", "--app-max-concurrency=-1"]),
            ("single dash", &["-app-id", "x", "-app-max-concurrency", "-1"]),
            ("single dash, equals", &["-app-id=x", "-app-max-concurrency=-1"]),
            ("the last one wins", &["--app-id=y", "--app-id=x"]),
        ] {
            let matches = matches(arguments).unwrap();
            let values = Values(&matches);
            assert_eq!(values.text("app-id"), "x", "{case}");
            assert_eq!(values.number("app-max-concurrency"), -1, "{case}");
            assert!(values.stray_words().is_empty(), "{case}");
        }
    }

    #[test]
    fn a_value_may_look_like_a_flag() {
        let matches = matches(&["--app-id", "--app-port", "--app-port", ""]).unwrap();
        assert_eq!(Values(&matches).text("app-id"), "--app-port");
        assert_eq!(Values(&matches).text("app-port"), "");
    }

    #[test]
    fn bools_take_their_value_only_with_equals() {
        for (case, arguments, want, stray) in [
            ("absent", &[][..], true, &[][..]),
            ("bare", &["--enable-metrics"], true, &[]),
            ("false", &["--enable-metrics=false"], false, &[]),
            ("Go's F", &["-enable-metrics=F"], false, &[]),
            ("as two words", &["--enable-metrics", "false"], true, &["false"]),
        ] {
            let matches = matches(arguments).unwrap();
            assert_eq!(Values(&matches).is_set("enable-metrics"), want, "{case}");
            assert_eq!(Values(&matches).stray_words(), stray, "{case}");
        }
    }

    #[test]
    fn lists_repeat_and_split() {
        let matches = matches(&["--config", "a,b", "--config=c"]).unwrap();
        assert_eq!(Values(&matches).list("config"), ["a", "b", "c"]);
        assert!(Values(&matches).list("resources-path").is_empty());
    }

    #[test]
    fn names_the_flags_without_effect_once_they_are_changed() {
        for (case, arguments, want) in [
            ("none", &["--app-id", "x"][..], &[][..]),
            ("default value", &["--app-max-concurrency", "-1", "--enable-mtls=false"], &[]),
            ("empty", &["--placement-host-address", "", "--resources-path="], &[]),
            (
                "changed",
                &["--enable-mtls", "--resources-path", "d"],
                &["resources-path", "enable-mtls"],
            ),
            ("no effect in daprd either", &["--actors-service", "x"], &[]),
        ] {
            let matches = matches(arguments).unwrap();
            assert_eq!(Values(&matches).without_effect(), want, "{case}");
        }
    }
}
