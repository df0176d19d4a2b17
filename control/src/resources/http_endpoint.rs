//! A resource of kind HTTPEndpoint, read: a server outside of Dapr under a name, with the lines
//! that calls of it carry.
//!
//! What cannot be understood is refused, as in other resources. An endpoint whose secrets are not
//! to be had is left out: a call without its key must not go.

#![forbid(unsafe_code)]

use super::{
    component::{Given, secret_store_of},
    reader::{Field, Reader},
    secrets::{SecretRef, Stores},
    variable,
};
use crate::{
    config::{Environment, file::FilePlace},
    yaml::Node,
};
use hyper::{header::HeaderName, http::uri::Authority};
use snapshot::HttpEndpoint;

#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    /// The apps that may call it; empty: all.
    pub(super) scopes: Vec<String>,
    pub(super) name: String,
    base_url: String,
    secret_store: String,
    headers: Vec<Header>,
}

/// One header, as far as it was read.
#[derive(Clone, Debug)]
struct Header {
    name: String,
    value: Given,
    place: FilePlace,
    key: String,
}

impl Endpoint {
    /// With its secrets.
    ///
    /// # Errors
    /// Why it cannot be called.
    pub(super) fn open(&self, stores: &Stores<'_>) -> Result<HttpEndpoint, String> {
        let header = |header: &Header| {
            let value = match &header.value {
                Given::Text(text) => text.clone(),
                Given::Secret(wanted) => {
                    let found = stores.find(&self.secret_store, wanted);
                    let fit = found.and_then(|secret| match has_control(&secret) {
                        true => {
                            Err("has a control character, which no header can carry".to_owned())
                        }
                        false => Ok(secret),
                    });
                    fit.map_err(|reason| {
                        let Header { place, key, .. } = header;
                        format!(
                            "{place}: {key}.secretKeyRef: {reason}, so HTTPEndpoint {:?} is left out",
                            self.name
                        )
                    })?
                }
            };
            Ok((header.name.clone(), value))
        };
        let headers = self.headers.iter().map(header).collect::<Result<_, String>>()?;
        Ok(HttpEndpoint { name: self.name.clone(), base_url: self.base_url.clone(), headers })
    }
}

fn has_control(text: &str) -> bool {
    text.bytes().any(|byte| byte != b'\t' && byte.is_ascii_control())
}

/// Of `root`, whose kind is known. `None`: what is wrong with it was told.
pub(super) fn read(reader: &mut Reader, root: &Node, env: Environment<'_>) -> Option<Endpoint> {
    let (mut scopes, mut spec) = (Vec::new(), None);
    let known = ["apiVersion", "auth", "kind", "metadata", "scopes", "spec"];
    for field in reader.fields(root, "", &known) {
        match field.name {
            "scopes" => scopes = reader.texts(&field),
            "spec" => spec = Some(field),
            _ => {}
        }
    }
    let name = super::name_of(root);
    if name.is_empty() {
        reader.refuse(root.place, "metadata.name", "is missing; apps call it by this name");
    }
    let Some(spec) = spec else {
        reader.refuse(root.place, "spec", "is missing");
        return None;
    };
    let (base_url, headers) = read_spec(reader, &spec, env)?;
    let secret_store = secret_store_of(root);
    (!name.is_empty()).then_some(Endpoint { scopes, name, base_url, secret_store, headers })
}

type Spec = (String, Vec<Header>);

fn read_spec(reader: &mut Reader, spec: &Field<'_>, env: Environment<'_>) -> Option<Spec> {
    let known = ["version", "baseUrl", "headers", "clientTLS"];
    let (mut base_url, mut headers) = (None, Vec::new());
    let mut has_url = false;
    for field in reader.fields(spec.node, &spec.path, &known) {
        match field.name {
            "baseUrl" => {
                has_url = true;
                base_url = read_url(reader, &field);
            }
            "headers" => headers = read_headers(reader, &field, env),
            "clientTLS" => {
                let message = "has no effect: this sidecar speaks no TLS";
                reader.ignore(field.node.place, &field.path, message);
            }
            _ => {}
        }
    }
    if !has_url {
        reader.refuse(spec.node.place, "spec.baseUrl", "is missing; write http://host:port");
    }
    base_url.map(|url| (url, headers))
}

fn read_url(reader: &mut Reader, field: &Field<'_>) -> Option<String> {
    let text = reader.text(field)?;
    if let Err(reason) = check_url(text) {
        let message = format!("{text:?} {reason}");
        reader.refuse(field.node.place, &field.path, message);
        return None;
    }
    if text.starts_with("https://") {
        let message = "needs TLS, which this sidecar does not speak: calls of it are answered 500";
        reader.ignore(field.node.place, &field.path, message);
    }
    Some(text.to_owned())
}

/// Whether methods can be appended to it.
fn check_url(text: &str) -> Result<(), &'static str> {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let rest = rest.ok_or("is no URL; write http://host:port")?;
    if rest.contains(['?', '#']) || rest.chars().any(char::is_control) {
        return Err("has a query, a fragment or a control character; methods are appended to it");
    }
    let authority = rest.split('/').next().unwrap_or_default();
    if authority.contains('@') {
        return Err("has user information; write a header Authorization instead");
    }
    match authority.parse::<Authority>() {
        Ok(authority) if !authority.host().is_empty() => {
            let port = authority.as_str()[authority.host().len()..].trim_start_matches(':');
            let is_port = port.is_empty() || port.parse::<u16>().is_ok();
            is_port.then_some(()).ok_or("has no port between 0 and 65535")
        }
        _ => Err("has no host that can be called; write http://host:port"),
    }
}

fn read_headers(reader: &mut Reader, headers: &Field<'_>, env: Environment<'_>) -> Vec<Header> {
    let items = reader.items(headers);
    let read = |(index, node)| read_header(reader, node, format!("{}[{index}]", headers.path), env);
    items.iter().enumerate().filter_map(read).collect()
}

/// `None`: it is not sent, which was said.
fn read_header(
    reader: &mut Reader,
    node: &Node,
    path: String,
    env: Environment<'_>,
) -> Option<Header> {
    let (mut name, mut value, mut variable, mut secret) = (None, None, None, None);
    for field in reader.fields(node, &path, &["name", "value", "envRef", "secretKeyRef"]) {
        match field.name {
            "name" => name = reader.text(&field).map(str::to_owned),
            "value" => value = reader.text(&field).map(str::to_owned),
            "envRef" => variable = Some(field),
            _ => secret = SecretRef::read(reader, &field),
        }
    }
    let Some(name) = name.filter(|name| HeaderName::try_from(name).is_ok()) else {
        reader.refuse(node.place, &format!("{path}.name"), "is missing, or no name of a header");
        return None;
    };
    if OURS.iter().any(|ours| ours.eq_ignore_ascii_case(&name)) {
        let message = format!("{name} is not sent: it concerns the connection, not the server");
        reader.ignore(node.place, &path, message);
        return None;
    }
    // As daprd has it: a value that stands here beats a variable, and that one a secret.
    let value = match (value, variable, secret) {
        (Some(value), ..) => Given::Text(value),
        (None, Some(field), _) => {
            Given::Text(variable::read(reader, &field, env, "the header is sent empty"))
        }
        (None, None, Some(secret)) => Given::Secret(secret),
        (None, None, None) => Given::Text(String::new()),
    };
    if matches!(&value, Given::Text(text) if has_control(text)) {
        let message = format!("{name} is not sent: its value has a control character");
        reader.ignore(node.place, &path, message);
        return None;
    }
    Some(Header { name, value, place: reader.place(node.place), key: path })
}

/// What the data plane says itself; it would pass over these.
const OURS: [&str; 13] = [
    "Connection",
    "Content-Length",
    "Expect",
    "Host",
    "HTTP2-Settings",
    "Keep-Alive",
    "Proxy-Authenticate",
    "Proxy-Authorization",
    "Proxy-Connection",
    "TE",
    "Trailer",
    "Transfer-Encoding",
    "Upgrade",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::file::Weight, yaml};

    fn environment(name: &str) -> Option<String> {
        matches!(name, "SHOP_KEY" | "DAPR_API_TOKEN").then(|| "k3y".to_owned())
    }

    /// What was read, and what was refused or, in brackets, only said.
    fn read_one(text: &str) -> (Option<Endpoint>, Vec<String>) {
        let mut reader = Reader::new("e.yaml");
        let documents = yaml::parse(text).unwrap();
        let found = read(&mut reader, &documents[0], &environment);
        let told = reader.problems.iter().map(|problem| match problem.weight {
            Weight::Refused => problem.to_string(),
            Weight::Ignored => format!("[{problem}]"),
        });
        (found, told.collect())
    }

    /// Where there is no store.
    fn opened(endpoint: &Endpoint) -> Result<HttpEndpoint, String> {
        endpoint.open(&Stores::of(&[], "a", &|_| None))
    }

    fn with_spec(spec: &str) -> String {
        format!("kind: HTTPEndpoint\nmetadata: {{name: shop}}\nspec: {spec}")
    }

    #[test]
    fn what_cannot_be_called_is_refused_with_its_place() {
        for (case, text, want) in [
            (
                "no spec",
                "kind: HTTPEndpoint\nmetadata: {name: a}".to_owned(),
                "e.yaml:1:1: spec: is missing",
            ),
            (
                "no name",
                "kind: HTTPEndpoint\nspec: {baseUrl: \"http://h\"}".to_owned(),
                "e.yaml:1:1: metadata.name: is missing",
            ),
            ("no URL", with_spec("{version: v1}"), "e.yaml:3:7: spec.baseUrl: is missing"),
            (
                "no scheme",
                with_spec("{baseUrl: \"h:80\"}"),
                "e.yaml:3:17: spec.baseUrl: \"h:80\" is no URL",
            ),
            ("other scheme", with_spec("{baseUrl: \"ftp://h\"}"), "\"ftp://h\" is no URL"),
            ("no host", with_spec("{baseUrl: \"http:///x\"}"), "\"http:///x\" has no host"),
            ("a port alone", with_spec("{baseUrl: \"http://:80\"}"), "\"http://:80\" has no host"),
            ("bad port", with_spec("{baseUrl: \"http://h:99999\"}"), "has no port between"),
            ("user", with_spec("{baseUrl: \"http://u:p@h\"}"), "has user information"),
            ("query", with_spec("{baseUrl: \"http://h/a?b\"}"), "has a query"),
            ("a list", with_spec("{baseUrl: [a]}"), "spec.baseUrl: must be a single value"),
            (
                "no header name",
                with_spec("{baseUrl: \"http://h\", headers: [{value: x}]}"),
                "spec.headers[0].name: is missing",
            ),
            (
                "no such name",
                with_spec("{baseUrl: \"http://h\", headers: [{name: \"a b\"}]}"),
                "spec.headers[0].name: is missing, or",
            ),
            (
                "headers in a map",
                with_spec("{baseUrl: \"http://h\", headers: {a: b}}"),
                "spec.headers: must be a list, not a mapping",
            ),
        ] {
            let (_, told) = read_one(&text);
            assert_eq!(told.len(), 1, "{case}: {told:?}");
            assert!(told[0].contains(want) && !told[0].starts_with('['), "{case}: {}", told[0]);
        }
    }

    #[test]
    fn headers_have_their_values_from_here_or_the_environment() {
        for (case, header, want, told_part) in [
            ("a value", "{name: X-A, value: v}", Some(("X-A", "v")), None),
            ("a number", "{name: X-A, value: 7}", Some(("X-A", "7")), None),
            ("none", "{name: X-A}", Some(("X-A", "")), None),
            ("a variable", "{name: X-A, envRef: SHOP_KEY}", Some(("X-A", "k3y")), None),
            ("value first", "{name: X-A, value: v, envRef: SHOP_KEY}", Some(("X-A", "v")), None),
            (
                "variable before secret",
                "{name: X-A, envRef: SHOP_KEY, secretKeyRef: {name: s}}",
                Some(("X-A", "k3y")),
                None,
            ),
            (
                "unset",
                "{name: X-A, envRef: ABSENT}",
                Some(("X-A", "")),
                Some("spec.headers[0].envRef: the variable ABSENT is not set"),
            ),
            (
                "not to be read",
                "{name: X-A, envRef: DAPR_API_TOKEN}",
                Some(("X-A", "")),
                Some("DAPR_API_TOKEN may not be read from here"),
            ),
            ("the connection's", "{name: host, value: evil}", None, Some("host is not sent")),
            (
                "two lines",
                "{name: X-A, value: \"a\\r\\nX-Evil: 1\"}",
                None,
                Some("X-A is not sent: its value has a control"),
            ),
        ] {
            let text =
                with_spec(&format!("{{baseUrl: \"http://h:80/base\", headers: [{header}]}}"));
            let (found, told) = read_one(&text);
            let endpoint = opened(&found.expect(case)).unwrap();
            assert_eq!(
                (&*endpoint.name, &*endpoint.base_url),
                ("shop", "http://h:80/base"),
                "{case}"
            );
            let lines: Vec<_> =
                endpoint.headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            assert_eq!(lines, Vec::from_iter(want), "{case}");
            assert_eq!(told.len(), usize::from(told_part.is_some()), "{case}: {told:?}");
            let is_said = |part| told[0].contains(part) && told[0].starts_with("[e.yaml:3:");
            assert!(told_part.is_none_or(is_said), "{case}: {told:?}");
            assert!(!told.iter().any(|line| line.contains("k3y")), "{case}: {told:?}");
        }
    }

    #[test]
    fn what_needs_a_secret_that_is_not_there_is_left_out_and_what_needs_tls_is_told() {
        let text = with_spec(
            "{baseUrl: \"http://h\", headers: [{name: A, secretKeyRef: {name: s, key: k}}, {name: B, \
             value: b}]}",
        );
        let (found, told) = read_one(&text);
        assert_eq!(told, [""; 0]);
        let want = "e.yaml:3:39: spec.headers[0].secretKeyRef: is in a secret store, and \
                    auth.secretStore names none, so HTTPEndpoint \"shop\" is left out";
        assert_eq!(opened(&found.unwrap()), Err(want.to_owned()));
        let (found, told) =
            read_one(&with_spec("{baseUrl: \"https://h:443\", clientTLS: {rootCA: {value: x}}}"));
        assert_eq!(found.unwrap().base_url, "https://h:443");
        assert!(told[0].contains("spec.baseUrl: needs TLS"), "{told:?}");
        assert!(told[1].contains("spec.clientTLS: has no effect"), "{told:?}");
    }
}
