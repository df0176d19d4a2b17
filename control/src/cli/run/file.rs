//! A run file, `dapr.yaml`: several apps with their sidecars, in the keys of `dapr run -f`.
//!
//! What an app says stands above what is common. Relative paths of an app start at the app's
//! directory, common ones at the file's. All problems are found before any is told.

#![forbid(unsafe_code)]

use super::plan::Arguments;
use crate::{
    config::{
        closest,
        file::{self, FilePlace, Problem, Weight},
        keys as table,
    },
    yaml::{self, Key, Node, Value},
};
use clap::Parser;
use std::{
    collections::BTreeMap,
    env, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

#[derive(Debug)]
pub(super) struct RunFile {
    pub(super) path: PathBuf,
    pub(super) name: String,
    pub(super) apps: Vec<App>,
}

#[derive(Debug)]
pub(super) struct App {
    pub(super) id: String,
    pub(super) directory: PathBuf,
    /// As if they had been given to `run` for this app alone.
    pub(super) arguments: Arguments,
    pub(super) environment: Vec<(String, String)>,
    pub(super) app_log: Destination,
    pub(super) daprd_log: Destination,
}

/// Where a log goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Destination {
    Console,
    File,
    FileAndConsole,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot read the run file {path}: {reason}")]
pub(in crate::cli) struct PathError {
    path: PathBuf,
    reason: io::Error,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error("{0}")]
    Path(#[from] PathError),
    #[error("{}", lines(.0))]
    Problems(Vec<Problem>),
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n❌  ")
}

/// The file that is meant by its own path or by its directory's, without links: its name in
/// `list`, and for `stop`.
///
/// # Errors
/// When there is none.
pub(in crate::cli) fn locate(path: &Path) -> Result<PathBuf, PathError> {
    let file = if path.is_dir() { path.join(NAME) } else { path.to_owned() };
    file.canonicalize().map_err(|reason| PathError { path: file, reason })
}

/// # Errors
/// All that is wrong with the file.
pub(super) fn read(path: &Path) -> Result<RunFile, FileError> {
    let path = locate(path)?;
    let text = match fs::metadata(&path).map(|metadata| metadata.len()) {
        Ok(0..=FILE_BYTES_MAX) => fs::read_to_string(&path),
        Ok(_) => Err(io::Error::other(format!("it has more than {FILE_BYTES_MAX} bytes"))),
        Err(e) => Err(e),
    };
    let text = text.map_err(|reason| PathError { path: path.clone(), reason })?;
    let home = env::var_os("HOME").map(PathBuf::from);
    parse(&path, &text, home.as_deref()).map_err(FileError::Problems)
}

/// `home` is the user's: in its `.dapr`, `dapr init` leaves what holds for every app.
fn parse(path: &Path, text: &str, home: Option<&Path>) -> Result<RunFile, Vec<Problem>> {
    let mut reader = Reader {
        path: path.to_string_lossy().into(),
        directory: path.parent().unwrap_or(Path::new("/")).to_owned(),
        home,
        problems: Vec::new(),
    };
    let file = reader.file(path, text);
    match file {
        Some(file) if reader.problems.is_empty() => Ok(file),
        _ => Err(reader.problems),
    }
}

/// What a key of the file is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Use {
    AppDirectory,
    AppLog,
    Command,
    DaprdLog,
    Environment,
    /// A value of this flag of `run`.
    Flag(&'static str),
    /// One or several paths for this flag of `run`.
    Paths(&'static str),
    /// Where `dapr init --runtime-path` left what holds for every app.
    Runtime,
    /// Of containers: nothing that this command does.
    Skipped,
}

use Use::{AppDirectory, AppLog, Command, DaprdLog, Environment, Flag, Paths, Runtime, Skipped};

/// Of an app, and except for the first three of what is common, too.
const KEYS: &[(&str, Use)] = &[
    ("appDirPath", AppDirectory),
    ("appID", Flag("app-id")),
    ("command", Command),
    ("apiListenAddresses", Flag("dapr-listen-addresses")),
    ("appChannelAddress", Flag("app-channel-address")),
    ("appHealthCheckPath", Flag("app-health-check-path")),
    ("appHealthProbeInterval", Flag("app-health-probe-interval")),
    ("appHealthProbeTimeout", Flag("app-health-probe-timeout")),
    ("appHealthThreshold", Flag("app-health-threshold")),
    ("appLogDestination", AppLog),
    ("appMaxConcurrency", Flag("app-max-concurrency")),
    ("appPort", Flag("app-port")),
    ("appProtocol", Flag("app-protocol")),
    ("appSSL", Flag("app-ssl")),
    ("configFilePath", Paths("config")),
    ("containerImage", Skipped),
    ("containerImagePullPolicy", Skipped),
    ("createService", Skipped),
    ("daprGRPCPort", Flag("dapr-grpc-port")),
    ("daprHTTPMaxRequestSize", Flag("dapr-http-max-request-size")),
    ("daprHTTPPort", Flag("dapr-http-port")),
    ("daprHTTPReadBufferSize", Flag("dapr-http-read-buffer-size")),
    ("daprInternalGRPCPort", Flag("dapr-internal-grpc-port")),
    ("daprdLogDestination", DaprdLog),
    ("enableApiLogging", Flag("enable-api-logging")),
    ("enableAppHealthCheck", Flag("enable-app-health-check")),
    ("enableProfiling", Flag("enable-profiling")),
    ("env", Environment),
    ("logLevel", Flag("log-level")),
    ("maxBodySize", Flag("max-body-size")),
    ("metricsPort", Flag("metrics-port")),
    ("placementHostAddress", Flag("placement-host-address")),
    ("profilePort", Flag("profile-port")),
    ("readBufferSize", Flag("read-buffer-size")),
    ("resourcesPath", Paths("resources-path")),
    ("resourcesPaths", Paths("resources-path")),
    ("runtimePath", Runtime),
    ("schedulerHostAddress", Flag("scheduler-host-address")),
    ("unixDomainSocket", Paths("unix-domain-socket")),
];

/// What one mapping of the file says.
#[derive(Clone, Debug, Default)]
struct Said {
    command: Vec<String>,
    flags: BTreeMap<&'static str, String>,
    environment: BTreeMap<String, String>,
    runtime: Option<PathBuf>,
    app_log: Option<Destination>,
    daprd_log: Option<Destination>,
}

/// Where paths start.
struct Base<'a> {
    directory: &'a Path,
    home: Option<&'a Path>,
}

impl Base<'_> {
    fn path(&self, text: &str) -> String {
        let path = match (text.strip_prefix("~/"), self.home) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => self.directory.join(text),
        };
        path.to_string_lossy().into_owned()
    }
}

struct Reader<'a> {
    path: Arc<str>,
    directory: PathBuf,
    home: Option<&'a Path>,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn refuse(&mut self, place: yaml::Place, key: &str, message: impl Into<String>) {
        self.problems.push(Problem {
            place: FilePlace::new(Arc::clone(&self.path), Some(place)),
            key: key.to_owned(),
            message: message.into(),
            suggestion: None,
            weight: Weight::Refused,
        });
    }

    fn refuse_unknown(&mut self, key: &Key, known: impl Iterator<Item = &'static str>) {
        self.refuse(key.place, &key.text, "there is no such key");
        let names: Vec<String> = known.map(str::to_owned).collect();
        if let Some(problem) = self.problems.last_mut() {
            problem.suggestion = closest(&key.text, &names).map(|name| format!("is it {name:?}?"));
        }
    }

    fn file(&mut self, path: &Path, text: &str) -> Option<RunFile> {
        let start = yaml::Place { line: 1, column: 1 };
        let root = match yaml::parse(text) {
            Ok(documents) => documents.into_iter().next(),
            Err(e) => {
                self.refuse(e.place, "", e.message);
                return None;
            }
        };
        let Some(Node { value: Value::Map(entries), .. }) = &root else {
            let place = root.map_or(start, |root| root.place);
            self.refuse(place, "", "must be a mapping with version and apps");
            return None;
        };
        let (mut name, mut common, mut apps, mut version) = (None, None, None, None);
        for (key, node) in entries {
            match key.text.as_str() {
                "apps" => apps = Some(node),
                "common" => common = Some(node),
                "name" => name = node.text().map(str::to_owned),
                "version" => version = Some(node),
                _ => self.refuse_unknown(key, ["apps", "common", "name", "version"].into_iter()),
            }
        }
        match version {
            Some(node) if node.text() == Some("1") => {}
            Some(node) => self.refuse(node.place, "version", "must be 1"),
            None => self.refuse(start, "version", "is missing; it must be 1"),
        }
        let base = self.directory.clone();
        let common = common.map(|node| self.common(node, &base)).unwrap_or_default();
        let apps = match apps.map(|node| (node, &node.value)) {
            Some((_, Value::Sequence(nodes))) if !nodes.is_empty() => {
                nodes.iter().filter_map(|node| self.app(node, &common)).collect()
            }
            other => {
                let place = other.map_or(start, |(node, _)| node.place);
                self.refuse(place, "apps", "must be a list of apps");
                Vec::new()
            }
        };
        self.refuse_doubles(&apps, start);
        let directory = || self.directory.file_name().unwrap_or_default().to_string_lossy().into();
        let name = name.unwrap_or_else(directory);
        Some(RunFile { path: path.to_owned(), name, apps })
    }

    fn refuse_doubles(&mut self, apps: &[App], place: yaml::Place) {
        let mut seen = BTreeMap::new();
        for app in apps {
            if seen.insert(app.id.clone(), ()).is_some() {
                let message = format!("two apps are called {:?}", app.id);
                self.refuse(place, "appID", message);
            }
        }
    }

    fn common(&mut self, node: &Node, base: &Path) -> Said {
        let said = self.said(node, base);
        for flag in ["app-id", "app-port"] {
            if said.flags.contains_key(flag) {
                self.refuse(node.place, "common", format!("{flag} is each app's own"));
            }
        }
        said
    }

    fn app(&mut self, node: &Node, common: &Said) -> Option<App> {
        let directory = self.app_directory(node)?;
        let mut said = self.said(node, &directory);
        self.fill_in(&mut said, common, &directory);
        let id = said.flags.entry("app-id").or_insert_with(|| {
            directory.file_name().unwrap_or_default().to_string_lossy().into_owned()
        });
        let id = id.clone();
        if let Err(e) = snapshot::AppId::new(&id) {
            self.refuse(node.place, "appID", e.to_string());
            return None;
        }
        let arguments = match line(&said) {
            Ok(line) => line.arguments,
            Err(e) => {
                self.refuse(node.place, "", e.to_string());
                return None;
            }
        };
        Some(App {
            id,
            directory,
            arguments,
            environment: said.environment.into_iter().collect(),
            app_log: said.app_log.unwrap_or(Destination::FileAndConsole),
            daprd_log: said.daprd_log.unwrap_or(Destination::File),
        })
    }

    /// Found before the rest of an app is read: its other paths start there.
    fn app_directory(&mut self, node: &Node) -> Option<PathBuf> {
        let found = match &node.value {
            Value::Map(entries) => {
                entries.iter().find(|(key, _)| key.text == "appDirPath").map(|(_, node)| node)
            }
            _ => None,
        };
        let Some(text) = found.and_then(Node::text) else {
            self.refuse(node.place, "appDirPath", "is missing; it is the directory of the app");
            return None;
        };
        let base = Base { directory: &self.directory, home: self.home };
        let directory = PathBuf::from(base.path(text));
        match directory.canonicalize() {
            Ok(directory) if directory.is_dir() => Some(directory),
            Ok(_) => {
                self.refuse(node.place, "appDirPath", format!("{text} is not a directory"));
                None
            }
            Err(e) => {
                let message = format!("{} cannot be opened: {e}", directory.display());
                self.refuse(node.place, "appDirPath", message);
                None
            }
        }
    }

    /// What the app does not say: from its own `.dapr`, then from what is common, then from what
    /// `dapr init` left.
    fn fill_in(&self, said: &mut Said, common: &Said, directory: &Path) {
        let exists = |path: PathBuf| path.exists().then(|| path.to_string_lossy().into_owned());
        let runtime = said.runtime.as_deref().or(common.runtime.as_deref()).or(self.home);
        let of_init = |name| exists(runtime?.join(".dapr").join(name));
        for (flag, own, general) in [
            ("config", "config.yaml", "config.yaml"),
            ("resources-path", "resources", "components"),
        ] {
            if !said.flags.contains_key(flag) {
                let found = exists(directory.join(".dapr").join(own))
                    .or_else(|| common.flags.get(flag).cloned())
                    .or_else(|| of_init(general));
                said.flags.extend(found.map(|path| (flag, path)));
            }
        }
        for (flag, text) in &common.flags {
            said.flags.entry(flag).or_insert_with(|| text.clone());
        }
        for (name, value) in &common.environment {
            said.environment.entry(name.clone()).or_insert_with(|| value.clone());
        }
        said.app_log = said.app_log.or(common.app_log);
        said.daprd_log = said.daprd_log.or(common.daprd_log);
    }

    fn said(&mut self, node: &Node, directory: &Path) -> Said {
        let mut said = Said::default();
        let base = Base { directory, home: self.home };
        let Value::Map(entries) = &node.value else {
            let message = format!("must be a mapping, not {}", node.kind());
            self.refuse(node.place, "", message);
            return said;
        };
        // Of both keys for resources, the older one's come last, and what they name again counts.
        let is_old = |key: &Key| key.text == "resourcesPath";
        let (last, first): (Vec<_>, Vec<_>) = entries.iter().partition(|(key, _)| is_old(key));
        for (key, child) in first.into_iter().chain(last) {
            let known = KEYS.iter().find(|(name, _)| *name == key.text).map(|(_, what)| *what);
            if child.is_null() {
                continue;
            }
            match known {
                None => self.refuse_unknown(key, KEYS.iter().map(|(name, _)| *name)),
                Some(what) => {
                    if let Err(reason) = said.take(what, child, &base) {
                        self.refuse(child.place, &key.text, reason);
                    }
                }
            }
        }
        said
    }
}

impl Said {
    fn take(&mut self, what: Use, node: &Node, base: &Base<'_>) -> Result<(), String> {
        match what {
            // The directory was read before everything that starts there.
            AppDirectory | Skipped => {}
            AppLog => self.app_log = Some(destination(single(node)?)?),
            DaprdLog => self.daprd_log = Some(destination(single(node)?)?),
            Command => self.command = list(node)?,
            Environment => self.environment = environment(node)?,
            Flag(flag) => {
                let Some(key) = table::find(flag) else { return Ok(()) };
                self.flags.insert(flag, file::texts(key, node)?.join(","));
            }
            Runtime => self.runtime = Some(base.path(single(node)?).into()),
            Paths(flag) => {
                let paths: Vec<String> = list(node)?.iter().map(|path| base.path(path)).collect();
                if let Some(missing) = paths.iter().find(|path| !Path::new(path).exists()) {
                    return Err(format!("there is no {missing}"));
                }
                let all = self.flags.entry(flag).or_default();
                for path in paths {
                    all.push_str(if all.is_empty() { "" } else { "," });
                    all.push_str(&path);
                }
            }
        }
        Ok(())
    }
}

fn single(node: &Node) -> Result<&str, String> {
    node.text().ok_or_else(|| format!("must be a single value, not {}", node.kind()))
}

fn list(node: &Node) -> Result<Vec<String>, String> {
    match &node.value {
        Value::Sequence(nodes) => {
            nodes.iter().map(|node| single(node).map(str::to_owned)).collect()
        }
        _ => Ok(vec![single(node)?.to_owned()]),
    }
}

fn environment(node: &Node) -> Result<BTreeMap<String, String>, String> {
    let Value::Map(entries) = &node.value else {
        return Err(format!("must be a mapping, not {}", node.kind()));
    };
    let pair = |(key, node): &(Key, Node)| {
        let value = if node.is_null() { "" } else { single(node)? };
        Ok((key.text.clone(), value.to_owned()))
    };
    entries.iter().map(pair).collect()
}

fn destination(text: &str) -> Result<Destination, String> {
    match text {
        "console" => Ok(Destination::Console),
        "file" => Ok(Destination::File),
        "fileAndConsole" => Ok(Destination::FileAndConsole),
        _ => Err(format!("must be console, file or fileAndConsole, not {text:?}")),
    }
}

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    arguments: Arguments,
}

/// The command line that says the same.
fn line(said: &Said) -> Result<Line, clap::Error> {
    let mut words = vec!["run".to_owned()];
    for (flag, text) in &said.flags {
        match (BOOLS.contains(flag), text.as_str()) {
            (false, _) => words.push(format!("--{flag}={text}")),
            (true, "true") => words.push(format!("--{flag}")),
            (true, _) => {}
        }
    }
    words.push("--".to_owned());
    words.extend(said.command.iter().cloned());
    Line::try_parse_from(words)
}

/// The flags of `run` that take no value.
const BOOLS: [&str; 4] =
    ["app-ssl", "enable-api-logging", "enable-app-health-check", "enable-profiling"];

/// What the file is called in the directory that is named instead of it.
const NAME: &str = "dapr.yaml";

/// A run file is written by hand.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::run::plan::{Plan, Surroundings},
        test_dir::TestDir,
    };

    fn problems(text: &str) -> String {
        let temp = TestDir::new();
        fs::create_dir(temp.path().join("orders")).unwrap();
        let found = parse(&temp.path().join("dapr.yaml"), text, None).expect_err(text);
        let place = format!("{}/dapr.yaml:", temp.path().display());
        lines(&found).replace(&place, "").replace(&temp.path().display().to_string(), "TEMP")
    }

    #[test]
    fn all_that_is_wrong_is_told() {
        for (case, text, want) in [
            ("empty", "", "1:1: must be a mapping with version and apps"),
            ("no YAML", "apps: [", "2:1: "),
            ("no version", "apps:\n- appDirPath: orders", "1:1: version: is missing; it must be 1"),
            ("a version", "version: 2\napps:\n- appDirPath: orders", "1:10: version: must be 1"),
            ("no apps", "version: 1", "1:1: apps: must be a list of apps"),
            ("apps of none", "version: 1\napps: []", "2:7: apps: must be a list of apps"),
            ("a top key", "version: 1\napp:\n", "2:1: app: there is no such key; is it \"apps\"?"),
            ("no directory", "version: 1\napps:\n- appID: a", "3:3: appDirPath: is missing"),
            (
                "a directory that is not there",
                "version: 1\napps:\n- appDirPath: nowhere",
                "3:3: appDirPath: TEMP/nowhere cannot be opened: No such file",
            ),
            (
                "a key",
                "version: 1\napps:\n- appDirPath: orders\n  appport: 1",
                "4:3: appport: there is no such key; is it \"appPort\"?",
            ),
            (
                "a port",
                "version: 1\napps:\n- appDirPath: orders\n  daprHTTPPort: many",
                "4:17: daprHTTPPort: ",
            ),
            (
                "a bool",
                "version: 1\napps:\n- appDirPath: orders\n  enableApiLogging: perhaps",
                "4:21: enableApiLogging: ",
            ),
            (
                "a destination",
                "version: 1\napps:\n- appDirPath: orders\n  appLogDestination: printer",
                "4:22: appLogDestination: must be console, file or fileAndConsole",
            ),
            (
                "a file that is not there",
                "version: 1\napps:\n- appDirPath: orders\n  configFilePath: c.yaml",
                "4:19: configFilePath: there is no TEMP/orders/c.yaml",
            ),
            ("an app id", "version: 1\napps:\n- appDirPath: orders\n  appID: a.b", "3:3: appID: "),
            (
                "two of one id",
                "version: 1\napps:\n- appDirPath: orders\n- appDirPath: orders",
                "1:1: appID: two apps are called \"orders\"",
            ),
            (
                "an id for all",
                "version: 1\ncommon: { appID: x }\napps:\n- appDirPath: orders",
                "2:9: common: app-id is each app's own",
            ),
        ] {
            let found = problems(text);
            assert!(found.starts_with(want), "{case}: {found}");
        }
        let two = problems("version: 3\napps:\n- appDirPath: orders\n  logLevel: loud");
        assert_eq!(two.lines().count(), 2, "{two}");
    }

    fn plan(app: &App) -> Plan {
        Plan::new(&app.arguments, Surroundings::default(), &mut Vec::new()).unwrap()
    }

    fn value_of<'a>(plan: &'a Plan, flag: &str) -> Option<&'a str> {
        let index = plan.sidecar_arguments.iter().position(|argument| argument == flag)?;
        plan.sidecar_arguments.get(index + 1).map(String::as_str)
    }

    #[test]
    fn what_an_app_says_stands_above_what_is_common() {
        let temp = TestDir::new();
        for path in [
            "orders/.dapr/resources",
            "stock",
            "home/.dapr/components",
            "home/own",
            "shared",
            "runtime/.dapr",
        ] {
            fs::create_dir_all(temp.path().join(path)).unwrap();
        }
        for path in ["orders/own.yaml", "home/.dapr/config.yaml", "runtime/.dapr/config.yaml"] {
            fs::write(temp.path().join(path), "").unwrap();
        }
        let text = "version: 1
name: shop
common:
  logLevel: debug
  env: { A: common, B: common }
  daprdLogDestination: console
apps:
- appDirPath: ./orders
  appID: ordering
  appPort: 6001
  configFilePath: own.yaml
  logLevel: warn
  env:
    B: own
    C: 3
  command: [\"python3\", \"app.py\", \"-v\"]
- appDirPath: stock/
  resourcesPath: ~/own
  resourcesPaths: [../shared, ../orders]
  enableApiLogging: true
  appLogDestination: file
- appDirPath: ~/own
  appSSL: true
  runtimePath: ../../runtime
";
        let home = temp.path().join("home");
        let file = parse(&temp.path().join("dapr.yaml"), text, Some(&home)).unwrap();
        assert_eq!(file.name, "shop");
        let [orders, stock, own] = &file.apps[..] else { panic!("{file:?}") };
        let path = |name: &str| temp.path().join(name).to_string_lossy().into_owned();

        let plan_of = plan(orders);
        assert_eq!((orders.id.as_str(), plan_of.app_id.as_str()), ("ordering", "ordering"));
        assert_eq!(plan_of.app_port, 6001);
        assert_eq!(plan_of.command, ["python3", "app.py", "-v"]);
        assert_eq!(value_of(&plan_of, "--config"), Some(&*path("orders/own.yaml")));
        assert_eq!(value_of(&plan_of, "--resources-path"), Some(&*path("orders/.dapr/resources")));
        assert_eq!(value_of(&plan_of, "--log-level"), Some("warn"));
        let pairs: Vec<_> = orders.environment.iter().map(|(a, b)| (&**a, &**b)).collect();
        assert_eq!(pairs, [("A", "common"), ("B", "own"), ("C", "3")]);
        assert_eq!(orders.app_log, Destination::FileAndConsole);
        assert_eq!(orders.daprd_log, Destination::Console);

        let plan_of = plan(stock);
        assert_eq!(plan_of.app_id, "stock", "that of its directory");
        assert_eq!(value_of(&plan_of, "--config"), Some(&*path("home/.dapr/config.yaml")));
        let both = ["stock/../shared", "stock/../orders", "home/own"].map(path).join(",");
        assert_eq!(value_of(&plan_of, "--resources-path"), Some(&*both));
        assert_eq!(value_of(&plan_of, "--log-level"), Some("debug"));
        assert!(plan_of.sidecar_arguments.contains(&"--enable-api-logging".to_owned()));
        assert!(plan_of.command.is_empty());
        assert_eq!(stock.app_log, Destination::File);

        let plan_of = plan(own);
        assert_eq!((&*plan_of.app_id, &own.directory), ("own", &temp.path().join("home/own")));
        let config = path("home/own/../../runtime/.dapr/config.yaml");
        assert_eq!(value_of(&plan_of, "--config"), Some(&*config), "of the runtime it names");
        assert!(plan_of.sidecar_arguments.contains(&"--app-ssl".to_owned()));
    }
}
