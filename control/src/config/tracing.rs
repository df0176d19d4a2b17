//! `spec.tracing`, apart from its rate: where the spans of an app go.
//!
//! The rules are daprd's. What is reached over TLS only is named and left out: an app whose traces
//! cannot be sent still serves.

#![forbid(unsafe_code)]

use super::{
    duration,
    file::Weight,
    otel_variables::Variables,
    telemetry::{Finding, Reader},
};
use crate::yaml::{Node, Value};
use hyper::{
    Uri,
    header::{HeaderName, HeaderValue},
};
use std::time::Duration;

/// What files say; of several a later one replaces what an earlier one says of the same key.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Exporters {
    pub(crate) to_stdout: bool,
    zipkin_address: String,
    otel: Otel,
}

/// A collector that speaks OpenTelemetry's protocol.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Otel {
    pub(super) protocol: String,
    pub(super) address: String,
    /// Encrypted, unless it says otherwise.
    pub(super) is_secure: Option<bool>,
    pub(super) headers: Vec<(String, String)>,
    pub(super) timeout: Option<Duration>,
}

/// Where spans are sent, and how.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Destination {
    pub(crate) protocol: Protocol,
    /// Host and port.
    pub(crate) authority: String,
    /// With its query.
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) timeout: Duration,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Protocol {
    OtlpGrpc,
    OtlpHttp,
    Zipkin,
}

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum DestinationError {
    /// daprd's words.
    #[error("invalid protocol {0} provided for Otel endpoint; write http or grpc")]
    Protocol(String),
    #[error("{0:?} is no place to send spans to; {1}")]
    Address(String, &'static str),
    #[error(
        "{0} is reached over TLS, which exporters do not speak in this version: spans are recorded, \
         and not sent there; {1}"
    )]
    Tls(String, &'static str),
    #[error("has no protocol, so nothing is sent there, as with daprd; write http or grpc")]
    NoProtocol,
}

impl Exporters {
    /// Whether anybody is to get spans, be it over TLS.
    pub(super) fn has_any(&self) -> bool {
        let has_otel = !self.otel.address.is_empty() && !self.otel.protocol.is_empty();
        self.to_stdout || !self.zipkin_address.is_empty() || has_otel
    }

    /// Whether the variables name the collector, as files do not.
    pub(super) fn leaves_collector_to(&self, variables: &Variables) -> bool {
        self.otel.address.is_empty() && !variables.otel.address.is_empty()
    }

    pub(crate) fn destinations(&self, variables: &Variables) -> Vec<Destination> {
        let zipkin = zipkin(&self.zipkin_address).ok().flatten();
        let otel = self.collector(variables).destination().ok().flatten();
        zipkin.into_iter().chain(otel).collect()
    }

    /// What is to be said of a collector that variables name; of those in files it was said.
    pub(crate) fn warning(&self, variables: &Variables) -> Option<String> {
        let problem = self.collector(variables).destination().err();
        let problem = problem.filter(|_| self.leaves_collector_to(variables));
        problem.map(|problem| format!("OTEL_EXPORTER_OTLP_ENDPOINT: {problem}"))
    }

    /// The variables' counts only where no file names one, and then adds to what files say.
    fn collector(&self, variables: &Variables) -> Otel {
        let mut otel = self.otel.clone();
        if !self.leaves_collector_to(variables) {
            return otel;
        }
        let more = &variables.otel;
        otel.address.clone_from(&more.address);
        otel.protocol.clone_from(&more.protocol);
        otel.is_secure = more.is_secure.or(otel.is_secure);
        otel.timeout = more.timeout.or(otel.timeout);
        otel.headers.extend(more.headers.iter().cloned());
        otel
    }
}

impl Otel {
    fn destination(&self) -> Result<Option<Destination>, DestinationError> {
        if self.address.is_empty() {
            return Ok(None);
        }
        let (protocol, port) = match self.protocol.as_str() {
            "grpc" => (Protocol::OtlpGrpc, 4317),
            "http" => (Protocol::OtlpHttp, 4318),
            "" => return Err(DestinationError::NoProtocol),
            other => return Err(DestinationError::Protocol(other.to_owned())),
        };
        if self.is_secure.unwrap_or(true) || self.address.starts_with("https://") {
            let remedy = "where the network is trusted, write isSecure: false";
            return Err(DestinationError::Tls(self.address.clone(), remedy));
        }
        let place = self.address.strip_prefix("http://").unwrap_or(&self.address);
        let remedy = "write a host and a port";
        let refused = || DestinationError::Address(self.address.clone(), remedy);
        let (authority, base) = place_of(&format!("http://{place}"), port).ok_or_else(refused)?;
        Ok(Some(Destination {
            protocol,
            authority,
            path: format!("{}/v1/traces", base.trim_end_matches('/')),
            headers: self.headers.clone(),
            timeout: self.timeout.unwrap_or(TIMEOUT),
        }))
    }
}

fn zipkin(address: &str) -> Result<Option<Destination>, DestinationError> {
    if address.is_empty() {
        return Ok(None);
    }
    if address.starts_with("https://") {
        let remedy = "where the network is trusted, write http://";
        return Err(DestinationError::Tls(address.to_owned(), remedy));
    }
    let remedy = "write http://, a host, a port, and /api/v2/spans";
    let refused = || DestinationError::Address(address.to_owned(), remedy);
    let (authority, path) = place_of(address, 80).ok_or_else(refused)?;
    let (protocol, headers) = (Protocol::Zipkin, Vec::new());
    Ok(Some(Destination { protocol, authority, path, headers, timeout: TIMEOUT }))
}

/// Host and port, and path with query, of a URL.
fn place_of(url: &str, default_port: u16) -> Option<(String, String)> {
    let uri: Uri = url.parse().ok()?;
    let host = uri.host().filter(|host| !host.is_empty() && uri.scheme_str() == Some("http"))?;
    let port = uri.port_u16().unwrap_or(default_port);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    Some((format!("{host}:{port}"), path.to_owned()))
}

impl Reader<'_> {
    /// `spec.tracing.stdout`, `.zipkin` or `.otel`.
    pub(super) fn exporter(&mut self, name: &str, path: &str, node: &Node) {
        match name {
            "otel" => {
                self.mapping(path, node, OTEL_KEYS, Self::otel);
                let otel = self.options.exporters.otel.clone();
                self.tell(path, node, otel.destination());
            }
            "stdout" => {
                if let Some(is_set) = self.bool(path, node) {
                    self.options.exporters.to_stdout = is_set;
                }
            }
            _ => self.mapping(path, node, ZIPKIN_KEYS, |reader, _, path, node| {
                let Some(address) = reader.text(path, node) else { return };
                reader.tell(path, node, zipkin(&address));
                reader.options.exporters.zipkin_address = address;
            }),
        }
    }

    fn otel(&mut self, name: &str, path: &str, node: &Node) {
        match name {
            "endpointAddress" => {
                if let Some(address) = self.text(path, node) {
                    self.options.exporters.otel.address = address;
                }
            }
            "headers" => {
                let headers = self.headers(path, node);
                self.options.exporters.otel.headers = headers;
            }
            "isSecure" => {
                if let Some(is_set) = self.bool(path, node) {
                    self.options.exporters.otel.is_secure = Some(is_set);
                }
            }
            "protocol" => {
                if let Some(protocol) = self.text(path, node) {
                    self.options.exporters.otel.protocol = protocol;
                }
            }
            _ => {
                let Some(text) = self.text(path, node) else { return };
                match duration::parse(&text) {
                    Ok(time) if !time.is_zero() => {
                        self.options.exporters.otel.timeout = Some(time);
                    }
                    Ok(_) => self.options.exporters.otel.timeout = None,
                    Err(e) => self.finding(node.place, path, e.to_string(), Weight::Refused),
                }
            }
        }
    }

    fn headers(&mut self, path: &str, node: &Node) -> Vec<(String, String)> {
        let mut headers = Vec::new();
        for item in self.list(path, node, HEADERS_MAX) {
            let Some((name, value)) = header_of(item) else {
                let message = "write \"name=value\", or a mapping of name and value; a secret comes \
                               as a variable: \"name=${VARIABLE}\"";
                self.finding(item.place, path, message.to_owned(), Weight::Refused);
                continue;
            };
            match check_header(&name, &value) {
                Ok(()) => headers.push((name, value)),
                Err(reason) => self.finding(item.place, path, reason, Weight::Refused),
            }
        }
        headers
    }

    /// What keeps spans from going there.
    fn tell(
        &mut self,
        path: &str,
        node: &Node,
        result: Result<Option<Destination>, DestinationError>,
    ) {
        let Err(problem) = result else { return };
        let weight = match problem {
            DestinationError::Address(..) | DestinationError::Protocol(_) => Some(Weight::Refused),
            DestinationError::NoProtocol | DestinationError::Tls(..) => None,
        };
        let (place, key, message) = (node.place, path.to_owned(), problem.to_string());
        self.findings.push(Finding { place, key, message, suggestion: None, weight });
    }

    fn text(&mut self, path: &str, node: &Node) -> Option<String> {
        let text = node.text();
        if text.is_none() {
            self.not_a_value(path, node);
        }
        text.map(str::to_owned)
    }
}

/// As daprd's files have it, or as Kubernetes has it.
fn header_of(item: &Node) -> Option<(String, String)> {
    let pair = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    if let Value::Map(entries) = &item.value {
        let find = |name: &str| entries.iter().find(|(key, _)| key.text == name);
        let text = |name: &str| find(name).and_then(|(_, child)| child.text());
        return text("name").zip(text("value")).map(pair);
    }
    item.text()?.split_once('=').map(pair)
}

/// # Errors
/// Why no request can carry it. The value may be a secret, so it is not told.
pub(super) fn check_header(name: &str, value: &str) -> Result<(), String> {
    if HeaderName::from_bytes(name.as_bytes()).is_err() {
        return Err(format!("{name:?} is no name of a header line"));
    }
    match HeaderValue::from_str(value) {
        Ok(_) => Ok(()),
        Err(_) => Err(format!("the value of {name:?} has characters that no header line carries")),
    }
}

const OTEL_KEYS: &[&str] = &["endpointAddress", "headers", "isSecure", "protocol", "timeout"];
const ZIPKIN_KEYS: &[&str] = &["endpointAddress"];

/// Lines that each request to a collector carries.
const HEADERS_MAX: usize = 32;

/// For one batch, as OpenTelemetry has it.
const TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file::Configuration;

    /// Where spans go by this file, in words, and what is said of it.
    fn parse(tracing: &str, variables: &Variables) -> (Vec<String>, Vec<String>) {
        let text = format!("spec: {{tracing: {tracing}}}");
        let found = Configuration::parse("c.yaml", &text);
        let word = |to: &Destination| {
            let Destination { protocol, authority, path, headers, timeout } = to;
            format!("{protocol:?} {authority} {path} {headers:?} {timeout:?}")
        };
        let exporters = &found.telemetry.exporters;
        let places = exporters.destinations(variables).iter().map(word).collect();
        let mut told: Vec<String> = found.problems.iter().map(ToString::to_string).collect();
        told.extend(found.notes);
        told.extend(exporters.warning(variables));
        (places, told)
    }

    #[test]
    fn refuses_and_leaves_out_what_cannot_be_done() {
        for (case, tracing, want) in [
            ("no URL", "{zipkin: {endpointAddress: here}}", "\"here\" is no place"),
            ("no host", "{zipkin: {endpointAddress: 'http://'}}", "is no place to send spans to"),
            (
                "Zipkin over TLS",
                "{zipkin: {endpointAddress: 'https://z/api/v2/spans'}}",
                "c.yaml:1:44: spec.tracing.zipkin.endpointAddress https://z/api/v2/spans is reached \
                 over TLS, which exporters do not speak in this version",
            ),
            (
                "TLS is the default",
                "{otel: {endpointAddress: 'c:4317', protocol: grpc}}",
                "c.yaml:1:24: spec.tracing.otel c:4317 is reached over TLS",
            ),
            (
                "protocol",
                "{otel: {endpointAddress: c, protocol: udp, isSecure: false}}",
                "spec.tracing.otel: invalid protocol udp provided for Otel endpoint",
            ),
            ("no protocol", "{otel: {endpointAddress: c}}", "has no protocol, so nothing is sent"),
            (
                "a secret",
                "{otel: {headers: [{name: a, secretKeyRef: {name: s, key: k}}]}}",
                "a secret comes as a variable",
            ),
            ("name", "{otel: {headers: ['a b=c']}}", "\"a b\" is no name of a header line"),
            ("timeout", "{otel: {timeout: soon}}", "\"soon\" is not a duration"),
            ("unknown", "{otel: {endpoint: c}}", "is it \"endpointAddress\"?"),
            ("bool", "{stdout: perhaps}", "write true or false"),
        ] {
            let (places, told) = parse(tracing, &Variables::default());
            assert_eq!(places, [""; 0], "{case}");
            assert!(told.len() == 1 && told[0].contains(want), "{case}: {told:?}");
        }
    }

    #[test]
    fn names_where_spans_go() {
        for (tracing, want) in [
            (
                "{zipkin: {endpointAddress: 'http://localhost:9411/api/v2/spans'}}",
                "Zipkin localhost:9411 /api/v2/spans [] 10s",
            ),
            ("{zipkin: {endpointAddress: 'http://z'}}", "Zipkin z:80 / [] 10s"),
            (
                "{otel: {endpointAddress: c, protocol: http, isSecure: false}}",
                "OtlpHttp c:4318 /v1/traces [] 10s",
            ),
            (
                "{otel: {endpointAddress: 'http://[::1]:1/x/', protocol: http, isSecure: false}}",
                "OtlpHttp [::1]:1 /x/v1/traces [] 10s",
            ),
            (
                "{otel: {endpointAddress: c, protocol: grpc, isSecure: false, timeout: 3s, headers: \
                 ['k=v=w', {name: n, value: x}]}}",
                "OtlpGrpc c:4317 /v1/traces [(\"k\", \"v=w\"), (\"n\", \"x\")] 3s",
            ),
        ] {
            assert_eq!(parse(tracing, &Variables::default()), (vec![want.to_owned()], vec![]));
        }
    }

    #[test]
    fn variables_count_where_no_file_names_a_collector() {
        let env = |name: &str| match name {
            "OTEL_EXPORTER_OTLP_ENDPOINT" => Some("http://e:9".to_owned()),
            "OTEL_EXPORTER_OTLP_INSECURE" => Some("true".to_owned()),
            "OTEL_EXPORTER_OTLP_HEADERS" => Some("b=2".to_owned()),
            _ => None,
        };
        let (variables, problems) = Variables::read(&env);
        assert_eq!(problems, [""; 0]);
        let (places, told) = parse("{otel: {headers: ['a=1']}}", &variables);
        assert_eq!(places, ["OtlpGrpc e:9 /v1/traces [(\"a\", \"1\"), (\"b\", \"2\")] 10s"]);
        assert_eq!(told, [""; 0]);
        let file = "{otel: {endpointAddress: c, protocol: http, isSecure: false}}";
        assert_eq!(parse(file, &variables).0, ["OtlpHttp c:4318 /v1/traces [] 10s"]);
        let secure = |name: &str| env(name).filter(|_| name != "OTEL_EXPORTER_OTLP_INSECURE");
        let (places, told) = parse("{}", &Variables::read(&secure).0);
        assert_eq!(places, [""; 0]);
        assert!(told[0].starts_with("OTEL_EXPORTER_OTLP_ENDPOINT: e:9 is reached over TLS"));
    }
}
