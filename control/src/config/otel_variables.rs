//! OpenTelemetry's environment variables, as far as daprd reads them: where traces are collected,
//! and what an app is called there.
//!
//! The name for traces alone counts before the one for everything. What cannot be meant is said,
//! and left out.

#![forbid(unsafe_code)]

use super::{
    Environment,
    tracing::{Otel, check_header},
};
use dataplane::dapr::escape::decode_path;
use std::time::Duration;

#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Variables {
    /// Its address is empty where there is no collector.
    pub(super) otel: Otel,
    /// Instead of the app's id.
    pub(crate) service_name: Option<String>,
    pub(crate) resource: Vec<(String, String)>,
}

impl Variables {
    /// And what is wrong with them.
    pub(super) fn read(env: Environment<'_>) -> (Self, Vec<String>) {
        let mut problems = Vec::new();
        let (_, endpoint) = of_traces("ENDPOINT", env);
        let address = endpoint.trim_start_matches("http://").trim_start_matches("https://");
        let (_, protocol) = of_traces("PROTOCOL", env);
        let protocol = if protocol.starts_with("http") { "http" } else { "grpc" };
        let (name, text) = of_traces("HEADERS", env);
        let headers = headers(&name, &text, &mut problems);
        let (name, text) = of_traces("TIMEOUT", env);
        let timeout = match text.parse() {
            Ok(millis) => Some(Duration::from_millis(millis)).filter(|time| !time.is_zero()),
            Err(_) if text.is_empty() => None,
            Err(_) => {
                problems.push(format!("{name}: {text:?} is not a number of milliseconds"));
                None
            }
        };
        let is_insecure = env("OTEL_EXPORTER_OTLP_INSECURE").is_some_and(|text| text == "true");
        let otel = Otel {
            protocol: protocol.to_owned(),
            address: address.to_owned(),
            is_secure: is_insecure.then_some(false),
            headers,
            timeout,
        };
        let mut resource = pairs(&env(RESOURCE).unwrap_or_default(), |pair| {
            problems.push(format!("{RESOURCE}: {pair:?} is not name=value"));
        });
        let named = resource.iter().position(|(name, _)| name == SERVICE_NAME_KEY);
        let named = named.map(|at| resource.remove(at).1);
        let service_name = env("OTEL_SERVICE_NAME").filter(|name| !name.is_empty()).or(named);
        (Self { otel, service_name, resource }, problems)
    }

    /// Apps of a node share its environment, and are not all called the same.
    pub(super) fn name_no_service(&mut self) {
        self.service_name = None;
    }
}

/// The value for traces, or else for everything; with its name.
fn of_traces(what: &str, env: Environment<'_>) -> (String, String) {
    let names = ["OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_"];
    let find = |prefix: &str| {
        let name = format!("{prefix}{what}");
        let text = env(&name).filter(|text| !text.is_empty())?;
        Some((name, text))
    };
    names.into_iter().find_map(find).unwrap_or_default()
}

fn headers(variable: &str, text: &str, problems: &mut Vec<String>) -> Vec<(String, String)> {
    let mut wrong = |reason: String| problems.push(format!("{variable}: {reason}"));
    // What is no pair may be half of a secret, so it is not told.
    let mut headers = pairs(text, |_| wrong("a header is not name=value".to_owned()));
    headers.retain(|(name, value)| check_header(name, value).map_err(&mut wrong).is_ok());
    headers
}

/// `name=value,…`, the values with escapes.
fn pairs(text: &str, mut refuse: impl FnMut(&str)) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    for pair in text.split(',').filter(|pair| !pair.trim().is_empty()) {
        let mut decoded = Vec::new();
        let found = pair.split_once('=').and_then(|(name, value)| {
            decode_path(value.trim().as_bytes(), &mut decoded).ok()?;
            Some((name.trim().to_owned(), String::from_utf8(decoded).ok()?))
        });
        match found {
            Some(found) => pairs.push(found),
            None => refuse(pair),
        }
    }
    pairs
}

const RESOURCE: &str = "OTEL_RESOURCE_ATTRIBUTES";
const SERVICE_NAME_KEY: &str = "service.name";

#[cfg(test)]
mod tests {
    use super::*;

    fn read(set: &[(&str, &str)]) -> (Variables, Vec<String>) {
        Variables::read(&|name| {
            set.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn says_what_cannot_be_meant() {
        for (name, text, want) in [
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "\"10s\" is not a number of milliseconds"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "s3cret", "a header is not name=value"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "k=%0a", "the value of \"k\" has characters"),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "k=%zz", "a header is not name=value"),
            ("OTEL_RESOURCE_ATTRIBUTES", "zone", "\"zone\" is not name=value"),
        ] {
            let (variables, problems) = read(&[(name, text)]);
            assert!(problems[0].starts_with(&format!("{name}: {want}")), "{name}: {problems:?}");
            assert!(!problems[0].contains("s3cret"));
            let grpc = Otel { protocol: "grpc".to_owned(), ..Otel::default() };
            assert_eq!(variables, Variables { otel: grpc, ..Variables::default() }, "{name}");
        }
    }

    #[test]
    fn the_name_for_traces_counts_before_the_one_for_everything() {
        let (variables, problems) = read(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:4318"),
            ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://traces:4318"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
            ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "authorization=Basic%20abc, x = y"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "250"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=other,zone=eu%2Cwest"),
            ("OTEL_SERVICE_NAME", "mine"),
        ]);
        assert_eq!(problems, [""; 0]);
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let want = Otel {
            protocol: "http".to_owned(),
            address: "traces:4318".to_owned(),
            is_secure: None,
            headers: vec![pair("authorization", "Basic abc"), pair("x", "y")],
            timeout: Some(Duration::from_millis(250)),
        };
        assert_eq!(variables.otel, want);
        assert_eq!(variables.service_name.as_deref(), Some("mine"));
        assert_eq!(variables.resource, [pair("zone", "eu,west")]);
        let (mut named, _) = read(&[("OTEL_RESOURCE_ATTRIBUTES", "service.name=other")]);
        assert_eq!(named.service_name.as_deref(), Some("other"));
        named.name_no_service();
        assert_eq!(named.service_name, None);
    }
}
