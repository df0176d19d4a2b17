//! daprd's command line, made from the table of [`keys`], and the values it leads to together with
//! environment and files.
//!
//! A flag beats a variable, a variable a file, a file the default; every value remembers which it
//! was.

#![forbid(unsafe_code)]

use super::{
    ConfigError, Environment,
    file::{Configuration, FilePlace},
    keys::{Effect, KEYS, Key, Kind, parse_bool},
    name_resolution::NameResolution,
};
use clap::{Arg, ArgAction, ArgMatches, Command, parser::ValueSource};
use std::{ffi::OsString, fmt};

/// The `sidecar` subcommand.
pub(crate) fn command() -> Command {
    with_flags(Command::new("sidecar").about("Run the sidecar of one app, with daprd's flags"))
        .arg(Arg::new(STRAY).num_args(0..).hide(true))
}

/// A command that takes every flag of the sidecar.
pub(crate) fn with_flags(command: Command) -> Command {
    command
        .disable_version_flag(true)
        .args_override_self(true)
        .args(KEYS.iter().filter(|key| key.is_flag()).map(argument))
}

fn argument(flag: &'static Key) -> Arg {
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
        Kind::Duration | Kind::Level | Kind::Port | Kind::Quantity | Kind::Text => {
            one_value(argument).default_value(flag.default).action(ArgAction::Set)
        }
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

/// The value of every key, and where it came from.
#[derive(Clone, Debug)]
pub(crate) struct Values {
    /// One for each of [`KEYS`].
    values: Vec<Value>,
    stray_words: Vec<String>,
}

#[derive(Clone, Debug)]
pub(crate) struct Value {
    /// One, except of lists.
    texts: Vec<String>,
    pub(crate) source: Source,
}

/// In order of precedence.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Source {
    Default,
    File(FilePlace),
    Variable(String),
    Flag,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(place) => place.fmt(f),
            Self::Variable(name) => write!(f, "${name}"),
            Self::Flag => f.write_str("flag"),
        }
    }
}

impl Value {
    pub(crate) fn text(&self) -> String {
        self.texts.join(",")
    }
}

impl Values {
    /// What command line and environment say.
    ///
    /// # Errors
    /// When a variable has a value its key cannot have; what clap let through is checked later, in
    /// daprd's words.
    pub(crate) fn new(matches: &ArgMatches, env: Environment<'_>) -> Result<Self, ConfigError> {
        let values: Result<_, _> = KEYS.iter().map(|key| first_value(key, matches, env)).collect();
        let words = matches.try_get_many::<String>(STRAY).ok().flatten();
        let stray_words = words.into_iter().flatten().cloned().collect();
        Ok(Self { values: values?, stray_words })
    }

    /// What stands where nobody says anything.
    pub(crate) fn defaults() -> Self {
        let value =
            |key: &Key| Value { texts: vec![key.default.to_owned()], source: Source::Default };
        Self { values: KEYS.iter().map(value).collect(), stray_words: Vec::new() }
    }

    /// What a file says about a key, if no variable says anything.
    pub(crate) fn set(&mut self, name: &str, texts: Vec<String>, place: FilePlace) {
        if let Some(value) = self.value_mut(name)
            && matches!(value.source, Source::Default | Source::File(_))
        {
            *value = Value { texts, source: Source::File(place) };
        }
    }

    pub(crate) fn set_variable(&mut self, name: &str, text: String, variable: String) {
        if let Some(value) = self.value_mut(name) {
            *value = Value { texts: vec![text], source: Source::Variable(variable) };
        }
    }

    fn value_mut(&mut self, name: &str) -> Option<&mut Value> {
        let mut values = self.values.iter_mut().zip(KEYS);
        values.find(|(_, key)| key.name == name).map(|(value, _)| value)
    }

    /// Takes what files say about keys that nothing before them says anything about.
    pub(crate) fn apply(&mut self, configuration: &Configuration) {
        for found in &configuration.values {
            let value = self.values.iter_mut().zip(KEYS).find(|(_, key)| key.name == found.key);
            if let Some((value, _)) = value
                && matches!(value.source, Source::Default | Source::File(_))
            {
                *value =
                    Value { texts: found.texts.clone(), source: Source::File(found.place.clone()) };
            }
        }
    }

    /// What stands where nobody said anything.
    pub(crate) fn default_to(&mut self, name: &str, text: &str) {
        let value = self.values.iter_mut().zip(KEYS).find(|(_, key)| key.name == name);
        if let Some((value, _)) = value
            && value.source == Source::Default
        {
            value.texts = vec![text.to_owned()];
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static Key, &Value)> {
        KEYS.iter().zip(&self.values)
    }

    fn value(&self, name: &str) -> Option<&Value> {
        self.iter().find(|(key, _)| key.name == name).map(|(_, value)| value)
    }

    pub(crate) fn text(&self, name: &str) -> &str {
        self.value(name).and_then(|value| value.texts.first()).map_or("", String::as_str)
    }

    pub(crate) fn number(&self, name: &str) -> i64 {
        self.text(name).parse().unwrap_or_default()
    }

    pub(crate) fn is_set(&self, name: &str) -> bool {
        parse_bool(self.text(name)).unwrap_or_default()
    }

    pub(crate) fn list(&self, name: &str) -> Vec<&str> {
        let texts = self.value(name).into_iter().flat_map(|value| &value.texts);
        texts.map(String::as_str).filter(|text| !text.is_empty()).collect()
    }

    pub(crate) fn is_given(&self, name: &str) -> bool {
        self.value(name).is_some_and(|value| value.source != Source::Default)
    }

    /// Where a value came from, if that is not the command line, for those who ask what is wrong
    /// with it.
    pub(crate) fn origin(&self, name: &str) -> Option<String> {
        match &self.value(name)?.source {
            Source::Default | Source::Flag => None,
            source => Some(source.to_string()),
        }
    }

    pub(crate) fn stray_words(&self) -> &[String] {
        &self.stray_words
    }

    /// The flags without effect that were given another value than their default.
    pub(crate) fn without_effect(&self) -> Vec<&'static str> {
        let later = self.iter().filter(|(key, _)| key.effect == Effect::Later && key.is_flag());
        let changed = later.filter(|(key, value)| {
            matches!(value.source, Source::Flag | Source::Variable(_)) && !self.is_default(key)
        });
        changed.map(|(key, _)| key.name).collect()
    }

    fn is_default(&self, key: &Key) -> bool {
        match key.kind {
            Kind::Bool => self.is_set(key.name) == (key.default == "true"),
            Kind::List => self.list(key.name).is_empty(),
            _ => self.text(key.name) == key.default,
        }
    }
}

fn first_value(
    key: &'static Key,
    matches: &ArgMatches,
    env: Environment<'_>,
) -> Result<Value, ConfigError> {
    if let Some(texts) = texts_of_flag(key, matches) {
        return Ok(Value { texts, source: Source::Flag });
    }
    if let Some(name) = key.variable()
        && let Some(text) = env(&name).filter(|text| !text.is_empty())
    {
        if let Err(reason) = key.check(&text) {
            return Err(ConfigError::Variable { name, reason });
        }
        let texts = match key.kind {
            Kind::List => text.split(',').map(str::to_owned).collect(),
            _ => vec![text],
        };
        return Ok(Value { texts, source: Source::Variable(name) });
    }
    Ok(Value { texts: vec![key.default.to_owned()], source: Source::Default })
}

/// What the command line says about a key; `None` where it says nothing.
fn texts_of_flag(key: &Key, matches: &ArgMatches) -> Option<Vec<String>> {
    if !key.is_flag() || matches.value_source(key.name) != Some(ValueSource::CommandLine) {
        return None;
    }
    Some(match key.kind {
        Kind::Bool => vec![matches.get_one::<bool>(key.name)?.to_string()],
        Kind::Number => vec![matches.get_one::<i64>(key.name)?.to_string()],
        _ => matches.get_many::<String>(key.name)?.cloned().collect(),
    })
}

/// Reads the files that flag or variable name into `values`.
///
/// # Errors
/// All that is wrong with them, when any of it leaves no choice but to refuse them.
pub(crate) fn read_files(
    values: &mut Values,
    env: Environment<'_>,
) -> Result<Configuration, ConfigError> {
    // There it names a resource of the cluster, not a file.
    if values.text("mode") == "kubernetes" {
        let names = NameResolution::of_kubernetes();
        return Ok(Configuration { names, ..Configuration::default() });
    }
    let configuration = Configuration::load(&values.list("config"), env);
    if configuration.is_refused() {
        return Err(ConfigError::Files(configuration.problems));
    }
    values.apply(&configuration);
    Ok(configuration)
}

/// As if a sidecar was started with these words, each a whole flag with its value.
///
/// # Errors
/// When one of them is none.
pub(crate) fn matches_of(words: &[String]) -> Result<ArgMatches, clap::Error> {
    command().no_binary_name(true).try_get_matches_from(words)
}

#[cfg(test)]
pub(crate) fn matches(arguments: &[&str]) -> Result<ArgMatches, clap::Error> {
    let arguments = normalise(arguments.iter().map(OsString::from));
    command().no_binary_name(true).try_get_matches_from(arguments)
}

/// The values of a command line in an empty environment.
#[cfg(test)]
pub(crate) fn values(arguments: &[&str]) -> Values {
    Values::new(&matches(arguments).unwrap(), &|_| None).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_a_sound_command() {
        command().debug_assert();
    }

    #[test]
    fn kubernetes_has_names_for_apps_unless_told_otherwise() {
        let mut kubernetes = values(&["--mode=kubernetes", "--config=daprsystem"]);
        let mut standalone = values(&["--mode=standalone"]);
        let dns = |values: &mut Values| {
            read_files(values, &|_| None).unwrap().names.settings.dns.map(|dns| dns.names)
        };
        assert_eq!(dns(&mut standalone), None);
        let names = dns(&mut kubernetes).unwrap();
        let text = "{id}-dapr.{namespace}.svc.cluster.local.:{port}";
        let (host, port) = crate::registry::dns::Template::parse_host_port(text).unwrap();
        assert_eq!(names, crate::registry::dns::Names::Host { host, port });
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
            let values = values(arguments);
            assert_eq!(values.text("app-id"), "x", "{case}");
            assert_eq!(values.number("app-max-concurrency"), -1, "{case}");
            assert!(values.stray_words().is_empty(), "{case}");
        }
    }

    #[test]
    fn a_value_may_look_like_a_flag() {
        let values = values(&["--app-id", "--app-port", "--app-port", ""]);
        assert_eq!(values.text("app-id"), "--app-port");
        assert_eq!(values.text("app-port"), "");
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
            let values = values(arguments);
            assert_eq!(values.is_set("enable-metrics"), want, "{case}");
            assert_eq!(values.stray_words(), stray, "{case}");
        }
    }

    #[test]
    fn lists_repeat_and_split() {
        let values = values(&["--config", "a,b", "--config=c"]);
        assert_eq!(values.list("config"), ["a", "b", "c"]);
        assert!(values.list("resources-path").is_empty());
    }

    #[test]
    fn names_the_flags_without_effect_once_they_are_changed() {
        for (case, arguments, want) in [
            ("none", &["--app-id", "x"][..], &[][..]),
            ("default value", &["--app-max-concurrency", "-1", "--enable-mtls=false"], &[]),
            ("empty", &["--placement-host-address", "", "--resources-path="], &[]),
            (
                "changed",
                &["--enable-mtls", "--sentry-address", "s", "--resources-path", "d"],
                &["enable-mtls", "sentry-address"],
            ),
            ("no effect in daprd either", &["--actors-service", "x"], &[]),
        ] {
            assert_eq!(values(arguments).without_effect(), want, "{case}");
        }
    }
    #[test]
    fn a_flag_beats_a_variable_and_a_variable_a_file() {
        let env = |name: &str| (name == "RINGCAR_LOG_LEVEL").then(|| "warn".to_owned());
        let file =
            Configuration::parse("c.yaml", "spec: {ringcar: {logLevel: error, metricsPort: 7}}");
        for (case, arguments, want) in [
            ("flag", &["--log-level=debug"][..], ("debug", "flag")),
            ("variable", &[], ("warn", "$RINGCAR_LOG_LEVEL")),
        ] {
            let mut values = Values::new(&matches(arguments).unwrap(), &env).unwrap();
            values.apply(&file);
            let value = values.value("log-level").unwrap();
            assert_eq!((&*value.text(), &*value.source.to_string()), want, "{case}");
            let port = values.value("metrics-port").unwrap();
            assert_eq!((&*port.text(), &*port.source.to_string()), ("7", "c.yaml:1:48"), "{case}");
            assert_eq!(values.value("mode").unwrap().source, Source::Default, "{case}");
        }
        let error = Values::new(&matches(&[]).unwrap(), &|name| {
            (name == "RINGCAR_METRICS_PORT").then(|| "many".to_owned())
        });
        let error = error.unwrap_err().to_string();
        assert_eq!(error, "RINGCAR_METRICS_PORT: \"many\" is not a port");
    }
}
