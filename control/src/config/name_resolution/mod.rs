//! `spec.nameResolution` of the files named by `--config`: which registries there are, and how each
//! is reached.
//!
//! daprd's component names keep their meaning and their options; `local`, `file`, `etcd` and `dns`
//! are ours. Where daprd takes one component, a list of several may stand. All problems of all
//! files are found before any is told.

#![forbid(unsafe_code)]

mod dns;
mod etcd;
mod options;
mod sqlite;

use crate::{
    registry::{self, Settings, file},
    yaml::{Node, Place, Problem, Value},
};
use options::Options;
use std::fmt;

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
        let names = dns::kubernetes_names("cluster.local").ok();
        let dns = names.map(|names| registry::dns::Settings {
            names,
            apps: Vec::new(),
            servers: Vec::new(),
        });
        Self { settings: Settings { dns, ..Settings::default() }, warnings: Vec::new() }
    }
}

/// What `spec.nameResolution` of the file at `path` says, and all that is wrong with it.
pub(crate) fn read(path: &str, node: &Node) -> (NameResolution, Vec<Problem>) {
    let mut reader = Reader { path: path.to_owned(), ..Reader::default() };
    reader.name_resolution(node);
    (reader.found, reader.problems)
}

#[derive(Default)]
struct Reader {
    path: String,
    problems: Vec<Problem>,
    found: NameResolution,
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
}

fn find<'a>(node: &'a Node, name: &str) -> Option<&'a Node> {
    let Value::Map(entries) = &node.value else { return None };
    entries.iter().find(|(key, _)| key.text == name).map(|(_, node)| node)
}

const COMPONENTS: &str =
    "dns, etcd, file, kubernetes, local, nameformat and sqlite (mdns is accepted without effect)";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{ConfigError, file::Configuration},
        registry::{
            dns::{Names, Template},
            etcd::Password,
        },
        test_dir::TestDir,
    };
    use std::{
        fs,
        path::{Path, PathBuf},
        time::Duration,
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
