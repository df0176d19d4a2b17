//! `spec.nameResolution` of the files named by `--config`: which registries there are, and how each
//! is reached.
//!
//! daprd's component names keep their meaning and their options; `local`, `file`, `etcd` and `dns`
//! are ours. Where daprd takes one component, a list of several may stand. All problems of all
//! files are found before any is told.

#![forbid(unsafe_code)]

use super::duration;
use crate::{
    registry::{
        Settings,
        dns::{self, Names, Template},
        etcd::{self, Password, Tls},
        file, sqlite,
    },
    yaml::{Key, Node, Place, Problem, Value},
};
use snapshot::{AppId, Namespace};
use std::{
    fmt, fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

/// What the files say.
#[derive(Clone, Debug, Default)]
pub(crate) struct NameResolution {
    pub(crate) settings: Settings,
    /// For the log: what is understood and not done.
    pub(crate) warnings: Vec<String>,
}

impl NameResolution {
    /// What daprd takes in kubernetes mode when nothing else is said: the services that the cluster
    /// has for sidecars.
    pub(crate) fn of_kubernetes() -> Self {
        let names = kubernetes_names("cluster.local").ok();
        let dns = names.map(|names| dns::Settings { names, apps: Vec::new(), servers: Vec::new() });
        Self { settings: Settings { dns, ..Settings::default() }, warnings: Vec::new() }
    }
}

fn kubernetes_names(domain: &str) -> Result<Names, dns::TemplateError> {
    // The closing dot spares the resolver its search list.
    let text = format!("{{id}}-dapr.{{namespace}}.svc.{}.:{{port}}", domain.trim_matches('.'));
    Template::parse_host_port(&text).map(|(host, port)| Names::Host { host, port })
}

/// What `spec.nameResolution` of the file at `path` says, and all that is wrong with it.
pub(crate) fn read(path: &str, node: &Node) -> (NameResolution, Vec<Problem>) {
    let mut reader = Reader { path: path.to_owned(), ..Reader::default() };
    reader.name_resolution(node);
    (reader.found, reader.problems)
}

fn read_error(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::InvalidData => "is not UTF-8".to_owned(),
        _ => format!("cannot be read: {error}"),
    }
}

#[derive(Default)]
struct Reader {
    path: String,
    problems: Vec<Problem>,
    found: NameResolution,
}

/// The options of one component. Each is taken once; what is left over is not known.
struct Options<'a> {
    component: &'a str,
    place: Place,
    entries: Vec<&'a (Key, Node)>,
}

impl<'a> Options<'a> {
    /// Names are compared without case, as daprd does.
    fn take(&mut self, name: &str) -> Option<&'a Node> {
        let at = self.entries.iter().position(|(key, _)| key.text.eq_ignore_ascii_case(name))?;
        let (_, node) = self.entries.remove(at);
        (!node.is_null()).then_some(node)
    }
}

impl Reader {
    fn problem(&mut self, place: Place, message: impl fmt::Display) {
        self.problems.push(Problem::new(place, message.to_string()));
    }

    fn warning(&mut self, place: Place, message: impl fmt::Display) {
        let Place { line, column } = place;
        self.found.warnings.push(format!("{}:{line}:{column}: {message}", self.path));
    }

    fn name_resolution(&mut self, node: &Node) {
        match &node.value {
            Value::Sequence(components) => {
                components.iter().for_each(|component| self.component(component));
            }
            _ => self.component(node),
        }
    }

    fn component(&mut self, node: &Node) {
        let Some(name) = find(node, "component") else {
            return self.problem(node.place, "nameResolution: there is no component");
        };
        let component = name.text().unwrap_or_default().to_ascii_lowercase();
        if let Some(version) = find(node, "version")
            && !matches!(version.text(), None | Some("" | "v1"))
        {
            self.problem(version.place, format_args!("{component}: the only version is v1"));
        }
        let entries = match find(node, "configuration").map(|node| &node.value) {
            Some(Value::Map(entries)) => entries.iter().collect(),
            None | Some(Value::Null) => Vec::new(),
            Some(_) => {
                return self.problem(
                    node.place,
                    format_args!("{component}: configuration must be a mapping"),
                );
            }
        };
        let mut options = Options { component: &component, place: name.place, entries };
        self.configure(&mut options);
        for (key, _) in options.entries {
            self.warning(
                key.place,
                format_args!("{component}: option {:?} is not known and has no effect", key.text),
            );
        }
    }

    fn configure(&mut self, options: &mut Options<'_>) {
        let place = options.place;
        let is_twice = match options.component {
            "dns" => self.found.settings.dns.is_some(),
            "kubernetes" | "nameformat" => self.found.settings.dns.is_some(),
            "etcd" => self.found.settings.etcd.is_some(),
            "file" => self.found.settings.file.is_some(),
            "sqlite" => self.found.settings.sqlite.is_some(),
            _ => false,
        };
        if is_twice {
            let message = format_args!("{}: there is one of its kind already", options.component);
            self.problem(place, message);
        }
        match options.component {
            "dns" => self.found.settings.dns = self.dns(options),
            "etcd" => self.found.settings.etcd = self.etcd(options),
            "file" => self.found.settings.file = self.file_registry(options),
            "kubernetes" => self.found.settings.dns = self.kubernetes(options),
            "local" => {}
            "mdns" => {
                options.entries.clear();
                self.warning(place, "mdns: multicast is not spoken; sidecars of one host meet in the local registry, for several hosts configure etcd");
            }
            "nameformat" => self.found.settings.dns = self.nameformat(options),
            "sqlite" => self.found.settings.sqlite = self.sqlite(options),
            other => {
                options.entries.clear();
                self.problem(
                    place,
                    format_args!("component {other:?} is not there; there are {COMPONENTS}"),
                );
            }
        }
    }

    fn file_registry(&mut self, options: &mut Options<'_>) -> Option<file::Settings> {
        let path = self.required(options, "path")?;
        Some(file::Settings { path: path.into() })
    }

    fn etcd(&mut self, options: &mut Options<'_>) -> Option<etcd::Settings> {
        let endpoints = options.take("endpoints");
        let endpoints = match endpoints {
            Some(node) => self.endpoints(node),
            None => {
                self.problem(options.place, "etcd: endpoints is missing");
                Vec::new()
            }
        };
        let mut prefix = self.text(options, "prefix").unwrap_or_else(|| ETCD_PREFIX.to_owned());
        if !prefix.ends_with('/') {
            prefix.push('/');
        }
        let lease_ttl = self.seconds(options, "leaseTTL", LEASE_TTL);
        if !(LEASE_TTL_MIN..=LEASE_TTL_MAX).contains(&lease_ttl) {
            self.problem(options.place, "etcd: leaseTTL must be between 2s and 1h");
        }
        let user = self.user(options);
        let certificate = self.text(options, "certFile").map(PathBuf::from);
        let key = self.text(options, "keyFile").map(PathBuf::from);
        let identity = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => {
                self.problem(options.place, "etcd: certFile and keyFile belong together");
                None
            }
        };
        let tls = Tls {
            ca: self.text(options, "caFile").map(PathBuf::from),
            identity,
            server_name: self.text(options, "serverName"),
        };
        let is_plain = endpoints.iter().any(|uri| uri.starts_with("http://"));
        if is_plain && tls != Tls::default() {
            self.problem(
                options.place,
                "etcd: certificates are for https:// endpoints, and one is http://",
            );
        }
        Some(etcd::Settings { endpoints, prefix, lease_ttl, user, tls })
    }

    /// With or without a scheme; without one it is plain HTTP, as with etcdctl.
    fn endpoints(&mut self, node: &Node) -> Vec<String> {
        let mut endpoints = Vec::new();
        for (text, place) in self.texts(node, "etcd: endpoints") {
            let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
            let authority = rest.unwrap_or(&text).trim_end_matches('/');
            let is_sound = authority
                .rsplit_once(':')
                .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
                && !authority.contains('/');
            if is_sound {
                let scheme = if text.starts_with("https://") { "https" } else { "http" };
                endpoints.push(format!("{scheme}://{authority}"));
            } else {
                self.problem(
                    place,
                    format_args!("etcd: endpoint {text:?} is no address; write https://host:2379"),
                );
            }
        }
        if endpoints.is_empty() && self.problems.is_empty() {
            self.problem(node.place, "etcd: endpoints is empty");
        }
        endpoints
    }

    /// The password may stand in a file of its own, which is where it belongs.
    fn user(&mut self, options: &mut Options<'_>) -> Option<(String, Password)> {
        let name = self.text(options, "username");
        let password = self.text(options, "password");
        let file = options.take("passwordFile");
        let password = match (password, file) {
            (Some(_), Some(node)) => {
                self.problem(node.place, "etcd: write password or passwordFile, not both");
                None
            }
            (None, Some(node)) => self.password_file(node),
            (password, None) => password,
        };
        match (name, password) {
            (Some(name), Some(password)) => Some((name, Password(password))),
            (None, None) => None,
            _ => {
                self.problem(options.place, "etcd: username and password belong together");
                None
            }
        }
    }

    fn password_file(&mut self, node: &Node) -> Option<String> {
        let path = Path::new(node.text()?);
        match fs::read_to_string(path) {
            Ok(text) => Some(text.trim_end_matches(['\r', '\n']).to_owned()),
            Err(e) => {
                let message = format!("etcd: passwordFile {}: {}", path.display(), read_error(&e));
                self.problem(node.place, message);
                None
            }
        }
    }

    fn dns(&mut self, options: &mut Options<'_>) -> Option<dns::Settings> {
        let (format, service) = (options.take("format"), options.take("service"));
        let names = match (format, service) {
            (Some(node), None) => self.host_template(node, options.component),
            (None, Some(node)) => {
                let parsed = Template::parse(node.text().unwrap_or_default());
                let parsed =
                    parsed.map_err(|e| self.problem(node.place, format_args!("dns: service: {e}")));
                parsed.ok().map(|name| Names::Service { name })
            }
            _ => {
                self.problem(
                    options.place,
                    "dns: write either format (host:port) or service (SRV records)",
                );
                None
            }
        };
        self.dns_settings(options, names)
    }

    fn nameformat(&mut self, options: &mut Options<'_>) -> Option<dns::Settings> {
        let names = match options.take("format") {
            Some(node) => self.host_template(node, options.component),
            None => {
                self.problem(options.place, "nameformat: format is missing");
                None
            }
        };
        self.dns_settings(options, names)
    }

    fn kubernetes(&mut self, options: &mut Options<'_>) -> Option<dns::Settings> {
        let domain = self.text(options, "clusterDomain").unwrap_or_else(|| "cluster.local".into());
        let names = match options.take("template") {
            Some(node) => self.go_template(node),
            None => {
                let names = kubernetes_names(&domain).map_err(|e| {
                    self.problem(options.place, format_args!("kubernetes: clusterDomain: {e}"))
                });
                names.ok()
            }
        };
        self.dns_settings(options, names)
    }

    /// `{{.ID}}` and its like; other actions of Go's template language cannot be followed.
    fn go_template(&mut self, node: &Node) -> Option<Names> {
        let mut text = String::new();
        let mut rest = node.text().unwrap_or_default();
        while let Some((before, after)) = rest.split_once("{{") {
            text.push_str(before);
            let (action, after) = after.split_once("}}").unwrap_or((after, ""));
            match action.trim_matches(|c: char| c == '-' || c.is_whitespace()) {
                ".ID" => text.push_str("{id}"),
                ".Namespace" => text.push_str("{namespace}"),
                ".Port" => text.push_str("{port}"),
                other => {
                    self.problem(node.place, format_args!("kubernetes: template: {{{{{other}}}}} is not understood; there are {{{{.ID}}}}, {{{{.Namespace}}}} and {{{{.Port}}}}"));
                    return None;
                }
            }
            rest = after;
        }
        text.push_str(rest);
        self.host_port(&text, node.place, "kubernetes: template")
    }

    fn host_template(&mut self, node: &Node, component: &str) -> Option<Names> {
        self.host_port(node.text().unwrap_or_default(), node.place, &format!("{component}: format"))
    }

    fn host_port(&mut self, text: &str, place: Place, what: &str) -> Option<Names> {
        match Template::parse_host_port(text) {
            Ok((host, port)) => Some(Names::Host { host, port }),
            Err(e) => {
                self.problem(place, format_args!("{what} {text:?}: {e}"));
                None
            }
        }
    }

    /// What all components over DNS share.
    fn dns_settings(
        &mut self,
        options: &mut Options<'_>,
        names: Option<Names>,
    ) -> Option<dns::Settings> {
        let component = options.component;
        let apps = options.take("apps").map(|node| self.apps(node, component));
        let servers = options.take("servers").map(|node| self.servers(node, component));
        Some(dns::Settings {
            names: names?,
            apps: apps.unwrap_or_default(),
            servers: servers.unwrap_or_default(),
        })
    }

    /// `id` or `namespace/id`.
    fn apps(&mut self, node: &Node, component: &str) -> Vec<(AppId, Namespace)> {
        let mut apps = Vec::new();
        for (text, place) in self.texts(node, &format!("{component}: apps")) {
            let (namespace, id) = match text.split_once('/') {
                Some((namespace, id)) => (Namespace::new(namespace), id),
                None => (Ok(Namespace::default()), text.as_str()),
            };
            match (AppId::new(id), namespace) {
                (Ok(id), Ok(namespace)) => apps.push((id, namespace)),
                (Err(e), _) | (_, Err(e)) => {
                    self.problem(place, format_args!("{component}: app {text:?}: {e}"));
                }
            }
        }
        apps
    }

    fn servers(&mut self, node: &Node, component: &str) -> Vec<SocketAddr> {
        let mut servers = Vec::new();
        for (text, place) in self.texts(node, &format!("{component}: servers")) {
            let with_port = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, DNS_PORT));
            match with_port.or_else(|_| text.parse()) {
                Ok(server) => servers.push(server),
                Err(_) => {
                    self.problem(
                        place,
                        format_args!("{component}: server {text:?} is no IP address"),
                    );
                }
            }
        }
        servers
    }

    fn sqlite(&mut self, options: &mut Options<'_>) -> Option<sqlite::Settings> {
        let connection = self.required(options, "connectionString");
        let table = self.identifier(options, "tableName", "hosts");
        let metadata_table = self.identifier(options, "metadataTableName", "metadata");
        let timeout = self.duration(options, "timeout", Duration::from_secs(1));
        let busy_timeout = self.duration(options, "busyTimeout", Duration::from_millis(800));
        let update_interval = self.seconds(options, "updateInterval", Duration::from_secs(5));
        if update_interval.saturating_sub(timeout) < Duration::from_secs(1) {
            self.problem(
                options.place,
                "sqlite: updateInterval must be at least 1s longer than timeout",
            );
        }
        let cleanup_interval = self.duration(options, "cleanupInterval", Duration::from_secs(3600));
        let is_wal = !self.flag(options, "disableWAL");
        let path = self.database_path(&connection?, options.place)?;
        Some(sqlite::Settings {
            path,
            table,
            metadata_table,
            update_interval,
            timeout,
            busy_timeout,
            cleanup_interval,
            is_wal,
        })
    }

    /// daprd takes a path or a `file:` URI whose parameters are for its driver.
    fn database_path(&mut self, connection: &str, place: Place) -> Option<PathBuf> {
        let path = connection.strip_prefix("file:").unwrap_or(connection);
        let (path, parameters) = path.split_once('?').unwrap_or((path, ""));
        let path = path.strip_prefix("//").unwrap_or(path);
        if path.is_empty() || path == ":memory:" || parameters.contains("mode=memory") {
            self.problem(place, "sqlite: connectionString names a database in memory, which no other sidecar could see; name a file");
            return None;
        }
        Some(path.into())
    }

    fn identifier(&mut self, options: &mut Options<'_>, name: &str, default: &str) -> String {
        let Some((text, place)) = self.text_at(options, name) else { return default.to_owned() };
        let is_sound = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !is_sound {
            let message = format!("{}: {name} {text:?} is no identifier", options.component);
            self.problem(place, message);
        }
        text
    }

    fn flag(&mut self, options: &mut Options<'_>, name: &str) -> bool {
        let Some((text, place)) = self.text_at(options, name) else { return false };
        match text.to_ascii_lowercase().as_str() {
            "false" | "0" | "no" | "n" | "f" | "off" => false,
            "true" | "1" | "yes" | "y" | "t" | "on" => true,
            _ => {
                let component = options.component;
                let message = format!("{component}: {name} {text:?} is neither true nor false");
                self.problem(place, message);
                false
            }
        }
    }

    fn required(&mut self, options: &mut Options<'_>, name: &str) -> Option<String> {
        let count = self.problems.len();
        let text = self.text(options, name).filter(|text| !text.is_empty());
        if text.is_none() && self.problems.len() == count {
            self.problem(options.place, format_args!("{}: {name} is missing", options.component));
        }
        text
    }

    fn text(&mut self, options: &mut Options<'_>, name: &str) -> Option<String> {
        self.text_at(options, name).map(|(text, _)| text)
    }

    fn text_at(&mut self, options: &mut Options<'_>, name: &str) -> Option<(String, Place)> {
        let node = options.take(name)?;
        let text = node.text().map(|text| (text.to_owned(), node.place));
        if text.is_none() {
            let message = format!(
                "{}: {name} must be a single value, not {}",
                options.component,
                node.kind()
            );
            self.problem(node.place, message);
        }
        text
    }

    /// A list, or one text with commas.
    fn texts(&mut self, node: &Node, what: &str) -> Vec<(String, Place)> {
        match &node.value {
            Value::Text(text) => {
                let texts = text.split(',').map(str::trim).filter(|text| !text.is_empty());
                texts.map(|text| (text.to_owned(), node.place)).collect()
            }
            Value::Sequence(nodes) => {
                let mut texts = Vec::new();
                for node in nodes {
                    match node.text() {
                        Some(text) => texts.push((text.to_owned(), node.place)),
                        None => self.problem(
                            node.place,
                            format_args!("{what}: expected a text, found {}", node.kind()),
                        ),
                    }
                }
                texts
            }
            _ => {
                self.problem(
                    node.place,
                    format_args!("{what} must be a list, not {}", node.kind()),
                );
                Vec::new()
            }
        }
    }

    /// A Go duration, or seconds.
    fn duration(&mut self, options: &mut Options<'_>, name: &str, default: Duration) -> Duration {
        let Some((text, place)) = self.text_at(options, name) else { return default };
        if let Ok(seconds) = text.parse::<u32>() {
            return Duration::from_secs(seconds.into());
        }
        match duration::parse(&text) {
            Ok(duration) => duration,
            Err(e) => {
                self.problem(place, format_args!("{}: {name}: {e}", options.component));
                default
            }
        }
    }

    fn seconds(&mut self, options: &mut Options<'_>, name: &str, default: Duration) -> Duration {
        let duration = self.duration(options, name, default);
        if duration.subsec_nanos() != 0 {
            let message = format!("{}: {name} must be whole seconds", options.component);
            self.problem(options.place, message);
        }
        duration
    }
}

fn find<'a>(node: &'a Node, name: &str) -> Option<&'a Node> {
    let Value::Map(entries) = &node.value else { return None };
    entries.iter().find(|(key, _)| key.text == name).map(|(_, node)| node)
}

const COMPONENTS: &str =
    "dns, etcd, file, kubernetes, local, nameformat and sqlite (mdns is accepted without effect)";

const ETCD_PREFIX: &str = "/ringcar/apps/";

/// How long the row of a sidecar that was killed stays.
const LEASE_TTL: Duration = Duration::from_secs(10);
const LEASE_TTL_MIN: Duration = Duration::from_secs(2);
const LEASE_TTL_MAX: Duration = Duration::from_secs(3600);

const DNS_PORT: u16 = 53;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{ConfigError, file::Configuration},
        test_dir::TestDir,
    };

    fn load(paths: &[PathBuf]) -> Result<NameResolution, ConfigError> {
        let paths: Vec<&str> = paths.iter().map(|path| path.to_str().unwrap()).collect();
        let configuration = Configuration::load(&paths, &|_| None);
        if configuration.is_refused() {
            return Err(ConfigError::Files(configuration.problems));
        }
        Ok(configuration.names)
    }

    fn load_text(text: &str) -> Result<NameResolution, ConfigError> {
        let temp = TestDir::new();
        let path = temp.path().join("config.yaml");
        fs::write(&path, text).unwrap();
        load(&[path])
    }

    fn with_component(lines: &str) -> String {
        let spec: String = lines.lines().map(|line| format!("    {line}\n")).collect();
        format!("kind: Configuration\nspec:\n  nameResolution:\n{spec}")
    }

    #[test]
    fn names_every_problem_with_its_place() {
        for (case, lines, want) in [
            ("no component", "version: v1", &["4:5: nameResolution: there is no component"][..]),
            (
                "unknown component",
                "component: consul",
                &["4:16: component \"consul\" is not there; there are dns, etcd"],
            ),
            ("version", "component: local\nversion: v2", &["5:14: local: the only version is v1"]),
            (
                "no mapping",
                "component: local\nconfiguration: [1]",
                &["local: configuration must be a mapping"],
            ),
            ("file without path", "component: file", &["4:16: file: path is missing"]),
            (
                "path is a list",
                "component: file\nconfiguration: {path: [a]}",
                &["5:27: file: path must be a single value, not a list"],
            ),
            (
                "all of etcd",
                "component: etcd\nconfiguration:\n  endpoints: [ftp://a, 'b:2379']\n  leaseTTL: 1500ms\n  username: u\n  certFile: /c\n  caFile: /d",
                &[
                    "6:19: etcd: endpoint \"ftp://a\" is no address",
                    "leaseTTL must be whole seconds",
                    "leaseTTL must be between",
                    "username and password belong together",
                    "certFile and keyFile belong together",
                    "certificates are for https:// endpoints",
                ],
            ),
            ("etcd without endpoints", "component: etcd", &["4:16: etcd: endpoints is missing"]),
            (
                "password file",
                "component: etcd\nconfiguration: {endpoints: 'a:1', username: u, passwordFile: /no/such}",
                &["etcd: passwordFile /no/such: there is no such file"],
            ),
            ("dns with neither", "component: dns", &["dns: write either format"]),
            (
                "dns placeholder",
                "component: dns\nconfiguration: {format: '{name}:1'}",
                &["dns: format \"{name}:1\": \"{name}\" stands for nothing"],
            ),
            (
                "dns without port",
                "component: nameformat\nconfiguration: {format: '{appid}.svc'}",
                &["it must end with a port"],
            ),
            (
                "dns app",
                "component: dns\nconfiguration: {format: '{id}:1', apps: [a.b], servers: [ns1]}",
                &[
                    "dns: app \"a.b\": parameter app-id cannot contain dots",
                    "dns: server \"ns1\" is no IP address",
                ],
            ),
            (
                "template",
                "component: kubernetes\nconfiguration: {template: '{{.Data.x}}:{{.Port}}'}",
                &["{{.Data.x}} is not understood"],
            ),
            ("sqlite without file", "component: sqlite", &["sqlite: connectionString is missing"]),
            (
                "all of sqlite",
                "component: sqlite\nconfiguration:\n  connectionString: ':memory:'\n  tableName: 'a b'\n  updateInterval: 1s\n  busyTimeout: soon\n  disableWAL: maybe",
                &[
                    "tableName \"a b\" is no identifier",
                    "busyTimeout: \"soon\" is not a duration",
                    "updateInterval must be at least 1s longer",
                    "disableWAL \"maybe\" is neither",
                    "database in memory",
                ],
            ),
            (
                "twice",
                "- component: dns\n  configuration: {format: '{id}:1'}\n- component: kubernetes",
                &["kubernetes: there is one of its kind already"],
            ),
        ] {
            let text = load_text(&with_component(lines)).expect_err(case).to_string();
            assert!(text.starts_with("error loading configuration: "), "{case}: {text}");
            let mut rest = text.as_str();
            for want in want {
                let at = rest.find(want).unwrap_or_else(|| panic!("{case}: no {want:?} in {text}"));
                rest = &rest[at + want.len()..];
            }
        }
        let text = load(&["/no/such.yaml".into()]).unwrap_err().to_string();
        assert_eq!(
            text,
            "error loading configuration: /no/such.yaml: stat /no/such.yaml: no such file or directory"
        );
        let text = load_text("a: [\n").unwrap_err().to_string();
        assert!(text.contains("config.yaml:2:"), "{text}");
    }

    #[test]
    fn reads_each_component() {
        let settings = |lines: &str| load_text(&with_component(lines)).unwrap().settings;
        assert_eq!(settings("component: local"), Settings::default());
        assert_eq!(
            settings("component: file\nconfiguration: {path: /etc/apps.yaml}").file,
            Some(file::Settings { path: "/etc/apps.yaml".into() })
        );
        let etcd = settings(
            "component: etcd\nconfiguration: {endpoints: 'a:1, https://b:2/', prefix: /x, username: u, password: p}",
        );
        let etcd = etcd.etcd.unwrap();
        assert_eq!(etcd.endpoints, ["http://a:1", "https://b:2"]);
        assert_eq!((etcd.prefix.as_str(), etcd.lease_ttl), ("/x/", Duration::from_secs(10)));
        assert_eq!(etcd.user, Some(("u".into(), Password("p".into()))));
        assert!(!format!("{etcd:?}").contains("\"p\""), "{etcd:?}");
        let sqlite = settings(
            "component: sqlite\nconfiguration: {connectionString: 'file:/d/n.db?_txlock=immediate', updateInterval: 10, disableWAL: 'true'}",
        );
        let sqlite = sqlite.sqlite.unwrap();
        assert_eq!(sqlite.path, Path::new("/d/n.db"));
        assert_eq!((sqlite.update_interval, sqlite.is_wal), (Duration::from_secs(10), false));
        let host = |text: &str| {
            let (host, port) = Template::parse_host_port(text).unwrap();
            Some(Names::Host { host, port })
        };
        for (lines, want) in [
            ("component: kubernetes", host("{id}-dapr.{namespace}.svc.cluster.local.:{port}")),
            (
                "component: kubernetes\nconfiguration: {clusterDomain: c.d}",
                host("{id}-dapr.{namespace}.svc.c.d.:{port}"),
            ),
            (
                "component: kubernetes\nconfiguration: {template: '{{.ID}}.x:{{ .Port }}'}",
                host("{id}.x:{port}"),
            ),
            (
                "component: nameformat\nconfiguration: {format: '{appid}.svc:80'}",
                host("{id}.svc:80"),
            ),
            (
                "component: dns\nconfiguration: {service: '_d._tcp.{id}'}",
                Some(Names::Service { name: Template::parse("_d._tcp.{id}").unwrap() }),
            ),
        ] {
            assert_eq!(settings(lines).dns.map(|dns| dns.names), want, "{lines}");
        }
        let dns = settings(
            "component: dns\nconfiguration: {format: '{id}:1', apps: [a, n/b], servers: [127.0.0.1, '[::1]:5353']}",
        );
        let dns = dns.dns.unwrap();
        let apps: Vec<String> = dns.apps.iter().map(|(id, ns)| format!("{ns}/{id}")).collect();
        assert_eq!(apps, ["default/a", "n/b"]);
        assert_eq!(dns.servers, ["127.0.0.1:53".parse().unwrap(), "[::1]:5353".parse().unwrap()]);
    }

    #[test]
    fn several_components_and_several_files() {
        let both = load_text(&with_component("- component: file\n  configuration: {path: /a}\n- component: mdns\n- component: etcd\n  configuration: {endpoints: 'a:1', colour: red}")).unwrap();
        assert!(both.settings.file.is_some() && both.settings.etcd.is_some());
        assert_eq!(both.warnings.len(), 2, "{:?}", both.warnings);
        assert!(both.warnings[0].contains("multicast is not spoken"));
        assert!(both.warnings[1].contains("option \"colour\" is not known"));
        let temp = TestDir::new();
        let path = |name: &str, text: &str| {
            let path = temp.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let first = path("1", &with_component("component: file\nconfiguration: {path: /a}"));
        let other = path("2", "kind: Configuration\nspec: {tracing: {samplingRate: '1'}}\n");
        let kind = path("3", "kind: Resiliency\nspec: {nameResolution: {component: nonsense}}\n");
        let all = load(&[first.clone(), other, kind]).unwrap();
        assert!(all.settings.file.is_some(), "a file without the key changes nothing");
        let last = path("4", &with_component("component: local"));
        assert!(load(&[first, last]).unwrap().settings.file.is_none());
    }
}
