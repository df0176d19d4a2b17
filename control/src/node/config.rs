//! A node's file: the apps it serves, and what holds for all of them.
//!
//! Its keys are those of a sidecar, by shorter names, and what they may be is judged by the same
//! code. All problems are found before any is told; with one of them the whole file counts for
//! nothing.

#![forbid(unsafe_code)]

use super::keys::{self, Use};
use crate::{
    config::{
        Common, Config, ConfigError, Environment,
        file::{self, Configuration, FilePlace, Problem, Weight},
        flags::{self, Values},
        keys as table, token,
    },
    host,
    resources::{self, InScope, Resources},
    shared::Shared,
    steering::{AppSteering, NodeSteering, settings::Key as Steer},
    yaml::{self, Key, Node, Place, Value},
};
use snapshot::{
    OnControlLost,
    policy::{Guards, Token},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    mem,
    path::PathBuf,
    sync::Arc,
};

#[derive(Clone, Debug)]
pub(crate) struct NodeConfig {
    pub(crate) name: String,
    /// Of the process. What it says of an app means nothing.
    pub(crate) base: Config,
    /// As they are kept: in one allocation all of them would be there twice.
    pub(crate) apps: Vec<Arc<Config>>,
    pub(crate) on_control_lost: OnControlLost,
    /// What it names and was read with it: Configuration files, its apps' included, and tokens.
    pub(crate) files: BTreeSet<PathBuf>,
    pub(crate) steering: NodeSteering,
    /// For apps that come while the node runs.
    pub(crate) defaults: Defaults,
}

/// What holds for apps that do not say otherwise.
#[derive(Clone, Debug)]
pub(crate) struct Defaults {
    values: Values,
    namespace: Option<String>,
    /// By the variable whose place they take.
    tokens: Tokens,
    steering: AppSteering,
}

/// Apps that come while the node runs.
#[derive(Debug)]
pub(crate) struct Added {
    /// Each with the text that is understood as the same app again.
    pub(crate) apps: Vec<(Arc<Config>, String)>,
    /// As [`NodeConfig::files`].
    pub(crate) files: BTreeSet<PathBuf>,
}

type Tokens = BTreeMap<&'static str, Token>;

impl NodeConfig {
    /// # Errors
    /// All that is wrong.
    pub(crate) fn parse(
        path: &str,
        text: &str,
        name: Option<&str>,
        env: Environment<'_>,
    ) -> Result<Self, Vec<Problem>> {
        let mut reader = Reader::new(path, env);
        let config = reader.node(text, name);
        match config {
            Some(config) if reader.problems.is_empty() => Ok(config),
            _ => Err(reader.problems),
        }
    }
}

impl Defaults {
    /// Apps as an operator gives them: one, or a list.
    ///
    /// # Errors
    /// All that is wrong.
    pub(crate) fn apps(
        &self,
        text: &str,
        base: &Config,
        env: Environment<'_>,
    ) -> Result<Added, Vec<Problem>> {
        let mut reader = Reader::new("", env);
        let mut apps = Vec::new();
        if let Some(root) = reader.document(text) {
            let list = match &root.value {
                Value::Sequence(_) => root,
                _ => Node { place: root.place, value: Value::Sequence(vec![root]) },
            };
            let configs = reader.apps(&list, self, base);
            if let Value::Sequence(nodes) = &list.value {
                let texts = nodes.iter().map(|node| node.to_json().to_string());
                apps.extend(configs.into_iter().zip(texts));
            }
        }
        let Reader { problems, files, .. } = reader;
        if problems.is_empty() { Ok(Added { apps, files }) } else { Err(problems) }
    }
}

struct Reader<'a> {
    path: Arc<str>,
    env: Environment<'a>,
    problems: Vec<Problem>,
    /// For the log.
    notes: Vec<String>,
    /// By the directories they come from, which apps have in common.
    resources: HashMap<Vec<String>, Resources>,
    commons: Shared<Common>,
    guards: Shared<Guards>,
    in_scope: Shared<InScope>,
    steerings: Shared<AppSteering>,
    files: BTreeSet<PathBuf>,
}

/// A mapping whose keys are known, each once.
type Entries<'n> = Vec<(Use, &'n Key, &'n Node)>;

impl<'a> Reader<'a> {
    fn new(path: &str, env: Environment<'a>) -> Self {
        Self {
            path: path.into(),
            env,
            problems: Vec::new(),
            notes: Vec::new(),
            resources: HashMap::new(),
            commons: Shared::default(),
            guards: Shared::default(),
            in_scope: Shared::default(),
            steerings: Shared::default(),
            files: BTreeSet::new(),
        }
    }

    fn place(&self, place: Place) -> FilePlace {
        FilePlace::new(Arc::clone(&self.path), Some(place))
    }

    fn refuse(&mut self, place: Place, key: &str, message: impl Into<String>) {
        self.problems.push(Problem {
            place: self.place(place),
            key: key.to_owned(),
            message: message.into(),
            suggestion: None,
            weight: Weight::Refused,
        });
    }

    /// `None` for an empty text.
    fn document(&mut self, text: &str) -> Option<Node> {
        match yaml::parse(text) {
            Ok(documents) => {
                if let Some(second) = documents.get(1) {
                    self.refuse(second.place, "", "a second document has no meaning here");
                }
                documents.into_iter().next().filter(|root| !root.is_null())
            }
            Err(e) => {
                self.refuse(e.place, "", e.message);
                None
            }
        }
    }

    fn entries<'n>(&mut self, node: &'n Node, known: &[(&str, Use)]) -> Entries<'n> {
        let entries = match &node.value {
            Value::Map(entries) => entries,
            Value::Null => return Vec::new(),
            _ => {
                let message = format!("must be a mapping, not {}", node.kind());
                self.refuse(node.place, "", message);
                return Vec::new();
            }
        };
        let mut found = Vec::new();
        for (key, child) in entries {
            match keys::find(known, &key.text) {
                Some(_) if child.is_null() => {}
                Some(what) => found.push((what, key, child)),
                None => {
                    self.refuse(key.place, &key.text, "there is no such key");
                    let names: Vec<String> = known.iter().map(|(name, _)| (*name).into()).collect();
                    let meant = crate::config::closest(&key.text, &names);
                    if let Some(problem) = self.problems.last_mut() {
                        problem.suggestion = meant.map(|name| format!("is it {name:?}?"));
                    }
                }
            }
        }
        found
    }

    fn node(&mut self, text: &str, name: Option<&str>) -> Option<NodeConfig> {
        let root = self.document(text);
        let entries = root.as_ref().map(|root| self.entries(root, keys::NODE)).unwrap_or_default();
        let mut values = self.of_environment();
        let mut own_name = None;
        let mut steering = NodeSteering::default();
        let (mut defaults, mut apps) = (None, None);
        for (what, key, node) in entries {
            match what {
                Use::Flag(flag) => self.value(flag, key, node, &mut values),
                Use::Name => own_name = self.text(key, node),
                Use::Defaults => defaults = Some(node),
                Use::Apps => apps = Some(node),
                Use::Steering(steer) => self.node_steering(steer, key, node, &mut steering),
                Use::Address | Use::Namespace | Use::Token(_) => {}
            }
        }
        let mut base = self.base(&mut values)?;
        let mut defaults = self.defaults(defaults);
        if !defaults.values.is_given(RESOURCES) && values.is_given(RESOURCES) {
            let paths = values.list(RESOURCES).into_iter().map(str::to_owned).collect();
            let place = FilePlace::new(Arc::clone(&self.path), None);
            defaults.values.set(RESOURCES, paths, place);
        }
        let apps = apps.map(|node| self.apps(node, &defaults, &base)).unwrap_or_default();
        base.warnings.append(&mut self.notes);
        let name = name.map(str::to_owned).or(own_name).or_else(host::name);
        let on_control_lost = match base.process.keep_data_plane {
            _ if !values.is_given(KEEP) => OnControlLost::Serve,
            time if time.is_zero() => OnControlLost::Exit,
            time => OnControlLost::ServeFor(time),
        };
        let name = name.unwrap_or_else(|| "node".to_owned());
        let files = mem::take(&mut self.files);
        Some(NodeConfig { name, base, apps, on_control_lost, files, steering, defaults })
    }

    /// Variables stand above the file, for the keys of the process.
    fn of_environment(&mut self) -> Values {
        let mut values = Values::defaults();
        for (_, what) in keys::NODE {
            let Use::Flag(flag) = *what else { continue };
            let Some(key) = table::find(flag) else { continue };
            let Some((name, text)) = key.variable().and_then(|name| {
                let text = (self.env)(&name).filter(|text| !text.is_empty())?;
                Some((name, text))
            }) else {
                continue;
            };
            match key.check(&text) {
                Ok(()) => values.set_variable(flag, text, name),
                Err(reason) => self.problems.push(Problem::of_file(&name, reason)),
            }
        }
        values
    }

    fn value(&mut self, flag: &'static str, key: &Key, node: &Node, values: &mut Values) {
        let Some(found) = table::find(flag) else { return };
        match file::texts(found, node) {
            Ok(texts) => values.set(flag, texts, self.place(node.place)),
            Err(reason) => self.refuse(node.place, &key.text, reason),
        }
    }

    fn text(&mut self, key: &Key, node: &Node) -> Option<String> {
        let text = node.text().map(str::to_owned);
        if text.is_none() {
            let message = format!("must be a single value, not {}", node.kind());
            self.refuse(node.place, &key.text, message);
        }
        text
    }

    /// What holds for the process, with its Configuration files.
    fn base(&mut self, values: &mut Values) -> Option<Config> {
        values.default_to("app-id", "node");
        self.files.extend(values.list("config").into_iter().map(PathBuf::from));
        let configuration = match flags::read_files(values, self.env) {
            Ok(configuration) => configuration,
            Err(ConfigError::Files(problems)) => {
                self.problems.extend(problems);
                return None;
            }
            Err(e) => {
                self.problems.push(Problem::of_file(&self.path, e.to_string()));
                return None;
            }
        };
        match Config::from_flags(values, self.env) {
            Ok(mut config) => {
                config.take(configuration);
                Some(config)
            }
            Err(e) => {
                self.problems.push(Problem::of_file(&self.path, e.to_string()));
                None
            }
        }
    }

    fn defaults(&mut self, node: Option<&Node>) -> Defaults {
        let mut defaults = Defaults {
            values: Values::defaults(),
            namespace: None,
            tokens: BTreeMap::new(),
            steering: AppSteering::default(),
        };
        let entries = node.map(|node| self.entries(node, keys::APP)).unwrap_or_default();
        for (what, key, node) in entries {
            match what {
                Use::Flag("app-id") => self.refuse(key.place, "id", "each app has its own"),
                Use::Flag(flag) => self.value(flag, key, node, &mut defaults.values),
                Use::Namespace => defaults.namespace = self.text(key, node),
                Use::Address => self.refuse(key.place, "address", "each app has its own"),
                Use::Steering(Steer::Cgroup) => {
                    self.refuse(key.place, "cgroup", "each app has its own");
                }
                Use::Steering(what) => self.steering(what, key, node, &mut defaults.steering),
                Use::Token(name) => self.token(name, key, node, &mut defaults.tokens),
                Use::Apps | Use::Defaults | Use::Name => {}
            }
        }
        defaults
    }

    /// The Configuration of an app that has one of its own: its policies are that app's alone.
    fn files_of_app(&mut self, values: &mut Values, place: Place) -> Option<Configuration> {
        if !values.is_given("config") {
            return None;
        }
        self.files.extend(values.list("config").into_iter().map(PathBuf::from));
        match flags::read_files(values, self.env) {
            Ok(files) => Some(files),
            Err(e) => {
                self.refuse(place, "configuration", e.to_string());
                None
            }
        }
    }

    /// A node's file is read by many, so tokens stand elsewhere.
    fn token(&mut self, variable: &'static str, key: &Key, node: &Node, tokens: &mut Tokens) {
        let found = match &node.value {
            Value::Map(entries) => match &entries[..] {
                [(kind, place)] => place.text().map(|text| (kind.text.as_str(), text)),
                _ => None,
            },
            _ => None,
        };
        let token = match found {
            Some(("env", name)) => match (self.env)(name).filter(|text| !text.is_empty()) {
                Some(text) => Token::new(&text).map_err(|e| format!("the variable {name} {e}")),
                None => Err(format!("the variable {name} is not set")),
            },
            Some(("file", path)) => {
                self.files.insert(path.into());
                token::of_file(path.as_ref())
            }
            _ => {
                Err("write {env: NAME} or {file: PATH}, so that it does not stand here".to_owned())
            }
        };
        match token {
            Ok(token) => {
                tokens.insert(variable, token);
            }
            Err(reason) => self.refuse(node.place, &key.text, reason),
        }
    }

    fn apps(&mut self, node: &Node, defaults: &Defaults, base: &Config) -> Vec<Arc<Config>> {
        let Value::Sequence(nodes) = &node.value else {
            let message = format!("must be a list, not {}", node.kind());
            self.refuse(node.place, "apps", message);
            return Vec::new();
        };
        let mut apps = Vec::new();
        let mut known = Known::default();
        for node in nodes {
            if let Some(app) = self.app(node, defaults, base) {
                for problem in known.problems(&app, node.place) {
                    self.refuse(node.place, app.app_id.as_str(), problem);
                }
                apps.push(Arc::new(app));
            }
        }
        apps
    }

    fn app(&mut self, node: &Node, defaults: &Defaults, base: &Config) -> Option<Config> {
        let problem_count = self.problems.len();
        let entries = self.entries(node, keys::APP);
        let mut values = defaults.values.clone();
        let mut namespace = defaults.namespace.clone();
        let mut tokens = defaults.tokens.clone();
        let mut steering = defaults.steering.clone();
        let mut places: BTreeMap<&str, Place> = BTreeMap::new();
        for (what, key, child) in &entries {
            places.insert(&key.text, child.place);
            match *what {
                Use::Flag(flag) => self.value(flag, key, child, &mut values),
                Use::Namespace => namespace = self.text(key, child),
                Use::Address => self.address(key, child, &mut values),
                Use::Steering(what) => self.steering(what, key, child, &mut steering),
                Use::Token(name) => self.token(name, key, child, &mut tokens),
                Use::Apps | Use::Defaults | Use::Name => {}
            }
        }
        let place = places.get("configuration").copied().unwrap_or(node.place);
        let files = self.files_of_app(&mut values, place);
        if self.problems.len() > problem_count {
            return None;
        }
        let env = |name: &str| match name {
            "NAMESPACE" => namespace.clone(),
            name => match tokens.get(name) {
                Some(token) => Some(token.secret().to_owned()),
                None => (self.env)(name),
            },
        };
        match Config::of_node(&values, &env) {
            Ok(mut config) => {
                let (telemetry, pipelines) = match files {
                    Some(files) => {
                        config.guard(files.access.map(Arc::new), files.api.map(Arc::new));
                        (Arc::new(files.telemetry), Arc::new(files.pipelines))
                    }
                    None => {
                        config.guard(base.guards.access.clone(), base.guards.api.clone());
                        (Arc::clone(&base.telemetry), Arc::clone(&base.pipelines))
                    }
                };
                config.steering = self.steerings.of(Arc::new(steering));
                let common: &mut Common = &mut config;
                common.process = Arc::clone(&base.process);
                common.registries = Arc::clone(&base.registries);
                common.zone.clone_from(&base.zone);
                common.tells_metrics = base.tells_metrics;
                common.logs_calls |= base.logs_calls;
                common.telemetry = telemetry;
                common.pipelines = pipelines;
                self.with_resources(config, &values, node.place)
            }
            Err(e) => {
                let key = e.flag().and_then(keys::name_of);
                let place = key.and_then(|key| places.get(key)).copied().unwrap_or(node.place);
                self.refuse(place, key.unwrap_or_default(), e.to_string());
                None
            }
        }
    }

    /// Each set of directories is read once.
    fn with_resources(
        &mut self,
        mut config: Config,
        values: &Values,
        place: Place,
    ) -> Option<Config> {
        let paths = resources::paths(values);
        if !self.resources.contains_key(&paths) {
            let found = Resources::load(&paths, self.env).unwrap_or_else(|problems| {
                self.problems.extend(problems);
                Resources::default()
            });
            self.notes.extend(found.notes.iter().cloned());
            self.resources.insert(paths.clone(), found);
        }
        if let Err(problems) = self.resources[&paths].apply(&mut config, paths, self.env) {
            let app = config.app_id.as_str();
            self.refuse(place, app, "its resources do not fit together");
            self.problems.extend(problems);
            return None;
        }
        config.guards = self.guards.of(config.guards);
        config.in_scope = self.in_scope.of(config.in_scope);
        config.common = self.commons.of(config.common);
        let warnings = config.warnings.iter();
        self.notes.extend(warnings.map(|warning| format!("app {}: {warning}", config.app_id)));
        Some(config)
    }

    fn node_steering(&mut self, what: Steer, key: &Key, node: &Node, into: &mut NodeSteering) {
        let text = match &node.value {
            Value::Sequence(nodes) if what == Steer::NodeCaptureNames => nodes
                .iter()
                .map(Node::text)
                .collect::<Option<Vec<_>>>()
                .map(|texts| texts.join(",")),
            _ => self.text(key, node),
        };
        if let Some(text) = text
            && let Err(reason) = into.set(what, &text)
        {
            self.refuse(node.place, &key.text, reason);
        }
    }

    fn steering(&mut self, what: Steer, key: &Key, node: &Node, into: &mut AppSteering) {
        let texts = match &node.value {
            Value::Sequence(nodes) => nodes.iter().map(Node::text).collect::<Option<Vec<_>>>(),
            _ => node.text().map(|text| vec![text]),
        };
        let Some(texts) = texts else {
            return self.refuse(node.place, &key.text, "must be a value or a list of values");
        };
        if let Err(reason) = into.set(what, texts.into_iter().map(str::to_owned).collect()) {
            self.refuse(node.place, &key.text, reason);
        }
    }

    /// A port, host and port, or `unix:///path`.
    fn address(&mut self, key: &Key, node: &Node, values: &mut Values) {
        let Some(text) = self.text(key, node) else { return };
        let (text, place) = (text.as_str(), node.place);
        let (host, port) = match text.rsplit_once(':') {
            _ if text.starts_with("unix:") => (Some(text), None),
            Some((host, port)) => (Some(host), Some(port)),
            None => (None, Some(text)),
        };
        if port.is_some_and(|port| port.parse::<u16>().is_err()) {
            let message = format!("{text:?} is no port, no host:port and no unix:///path");
            return self.refuse(place, "address", message);
        }
        for (flag, text) in [("app-channel-address", host), ("app-port", port)] {
            if let Some(text) = text {
                values.set(flag, vec![text.to_owned()], self.place(place));
            }
        }
    }
}

/// What the apps before this one have.
#[derive(Default)]
struct Known {
    names: HashMap<String, Place>,
    /// By port: hosts, and whose they are.
    ports: HashMap<u16, Vec<(String, String)>>,
}

impl Known {
    fn problems(&mut self, app: &Config, place: Place) -> Vec<String> {
        let name = format!("{}/{}", app.namespace, app.app_id);
        let mut problems = Vec::new();
        if let Some(first) = self.names.insert(name.clone(), place) {
            problems.push(format!("app {name} stands here a second time, after {first}"));
        }
        for (host, port) in listens_on(app) {
            let users = self.ports.entry(port).or_default();
            let overlaps = |(other, _): &&(String, String)| {
                other.is_empty() || host.is_empty() || *other == host
            };
            if let Some((_, user)) = users.iter().find(overlaps) {
                problems.push(format!("port {port} is that of app {user} already"));
            }
            users.push((host, name.clone()));
        }
        problems
    }
}

fn listens_on(app: &Config) -> Vec<(String, u16)> {
    let mut ports = Vec::new();
    if app.unix_socket_directory.is_none() {
        let every = [String::new()];
        let hosts = if app.listen_hosts.is_empty() { &every[..] } else { &app.listen_hosts };
        ports.extend(hosts.iter().map(|host| (host.clone(), app.http_port)));
    }
    ports.extend(app.public.as_ref().map(|place| (place.host.clone(), place.port)));
    ports.retain(|(_, port)| *port != 0);
    ports
}

const KEEP: &str = "keep-data-plane";

const RESOURCES: &str = "resources-path";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AppPlace;
    use snapshot::Balance;
    use std::time::Duration;

    fn parse(text: &str) -> Result<NodeConfig, Vec<Problem>> {
        NodeConfig::parse("n.yaml", text, None, &|_| None)
    }

    #[test]
    fn tells_every_problem_with_its_place() {
        let text = "
name: [x]
log-levle: debug
metrics-port: many
defaults: {id: x, token: {env: ABSENT}, app-token: {file: /absent/token}}
apps:
- {id: a.b, http-port: 1}
- {id: a, http-port: 3500, address: here}
- {id: b, http-port: 3500, token: secret}
- id: c
  http-port: 3500
- {id: d, http-port: 3500, listen-addresses: 127.0.0.1}
- {id: c, http-port: 3502}
- {id: e, http-port: 3503, namespace: x.y}
- {id: f, http-port: 3504, max-body-size: 4MB}
- {id: g, http-port: 3505, balance: fair}
- 7
";
        let problems: Vec<String> =
            parse(text).unwrap_err().iter().map(ToString::to_string).collect();
        let want = [
            "n.yaml:3:1: log-levle: there is no such key; is it \"log-level\"?",
            "n.yaml:2:7: name: must be a single value, not a list",
            "n.yaml:4:15: metrics-port: \"many\" is not a port",
            "n.yaml:5:12: id: each app has its own",
            "n.yaml:5:26: token: the variable ABSENT is not set",
            "n.yaml:5:52: app-token: /absent/token: No such file",
            "n.yaml:7:8: id: parameter app-id cannot contain dots",
            "n.yaml:8:37: address: \"here\" is no port, no host:port and no unix:///path",
            "n.yaml:9:35: token: write {env: NAME} or {file: PATH}, so that it does not stand here",
            "n.yaml:12:3: d: port 3500 is that of app default/c already",
            "n.yaml:13:3: c: app default/c stands here a second time, after line 10 column 3",
            "n.yaml:14:3: NAMESPACE \"x.y\" is not a namespace",
            "n.yaml:15:43: max-body-size: \"4MB\" is not a quantity",
            "n.yaml:16:37: balance: invalid value for 'balance': \"fair\"; write p2c or round-robin",
            "n.yaml:17:3: must be a mapping, not a single value",
        ];
        for (problem, want) in problems.iter().zip(want) {
            assert!(problem.starts_with(want), "{problem}\nwant {want}");
        }
        assert_eq!(problems.len(), want.len(), "{problems:#?}");
    }

    #[test]
    fn reads_apps_with_what_holds_for_all_of_them() {
        let config = parse(
            "
name: shop
zone: berlin
keep-data-plane: 30s
enable-metrics: no
defaults: {listen-addresses: 127.0.0.1, max-body-size: 1Ki, namespace: prod, balance: round-robin}
apps:
- {id: orders, http-port: 3501, address: 6001, balance: p2c}
- {id: checkout, http-port: 3502, address: 'localhost:6002', namespace: test}
- {id: stock, unix-domain-socket: /run/api, address: 'unix:///run/stock', max-body-size: 2Ki}
- {id: caller, http-port: 3503}
",
        )
        .unwrap();
        assert_eq!(config.name, "shop");
        assert_eq!(config.base.process.metrics, None);
        assert_eq!(config.on_control_lost, OnControlLost::ServeFor(Duration::from_secs(30)));
        let tcp = |host: &str, port| Some(AppPlace::Tcp { host: host.to_owned(), port });
        let got: Vec<_> = config
            .apps
            .iter()
            .map(|app| (app.app_id.as_str(), app.namespace.as_str(), app.app.clone()))
            .collect();
        assert_eq!(
            got,
            [
                ("orders", "prod", tcp("127.0.0.1", 6001)),
                ("checkout", "test", tcp("localhost", 6002)),
                ("stock", "prod", Some(AppPlace::Unix("/run/stock".into()))),
                ("caller", "prod", None),
            ]
        );
        let sizes: Vec<_> = config.apps.iter().map(|app| app.body_bytes_max).collect();
        assert_eq!(sizes, [Some(1024), Some(1024), Some(2048), Some(1024)]);
        assert!(config.apps.iter().all(|app| Arc::ptr_eq(&app.process, &config.base.process)));
        assert!(config.apps.iter().all(|app| app.zone.as_deref() == Some("berlin")));
        let balances: Vec<_> = config.apps.iter().map(|app| app.balance).collect();
        assert_eq!(balances[..2], [Balance::PowerOfTwo, Balance::RoundRobin]);
        assert_eq!(config.apps[0].listen_hosts, ["127.0.0.1"]);

        let added = config.defaults.apps("{id: new, http-port: 3504}", &config.base, &|_| None);
        let (app, text) = added.unwrap().apps.remove(0);
        assert_eq!(app.namespace.as_str(), "prod");
        let again = config.defaults.apps(&text, &config.base, &|_| None).unwrap().apps;
        assert_eq!(again, [(app, text)]);
    }

    #[test]
    fn an_empty_file_is_a_node_without_apps() {
        let config = parse("# nothing yet\n").unwrap();
        assert_eq!((config.apps.len(), config.on_control_lost), (0, OnControlLost::Serve));
        let env = |name: &str| (name == "RINGCAR_LOG_LEVEL").then(|| "warn".to_owned());
        let config = NodeConfig::parse("n", "log-level: debug", Some("other"), &env).unwrap();
        assert_eq!(config.base.process.log.threshold, crate::log::Level::Warning);
        assert_eq!(config.name, "other");
    }
}
