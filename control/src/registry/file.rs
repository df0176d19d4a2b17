//! The registry an operator writes: a YAML or JSON list of apps in one file.
//!
//! Replaced as a whole (`mv new apps.yaml`, or a swapped symbolic link) or written in place, it is
//! read again at once. A file with a mistake changes nothing: the last good table stays, and the
//! log says what is wrong where.

#![forbid(unsafe_code)]

use super::{
    News, Registry, RegistryError, Revision, Row, Sink, Watch,
    inotify::{DirectoryWatch, Wake, directory_of},
};
use crate::{
    config::zone::{self, Zone},
    timestamp::Timestamp,
    yaml::{self, Node, Place, Problem, Value},
};
use snapshot::{Address, AppId, InstanceId, Namespace};
use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{self, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    pub(crate) path: PathBuf,
}

pub(crate) struct FileRegistry {
    settings: Settings,
}

impl FileRegistry {
    pub(crate) const fn new(settings: Settings) -> Self {
        Self { settings }
    }
}

impl Registry for FileRegistry {
    type Watch = FileWatch;

    fn watch(&self) -> Result<FileWatch, RegistryError> {
        let path = self.settings.path.clone();
        // Watched before the first read: what happens in between is seen twice rather than never.
        let directory = DirectoryWatch::start(&directory_of(&path), Wake::OnClose)?;
        let content = read(&path);
        Ok(FileWatch { path, directory, content, told: Told::Nothing })
    }
}

pub(crate) struct FileWatch {
    path: PathBuf,
    directory: DirectoryWatch,
    content: Result<String, String>,
    told: Told,
}

#[derive(Debug, Eq, PartialEq)]
enum Told {
    Nothing,
    Away(String),
    Rows,
}

impl Watch for FileWatch {
    /// Endpoints with a host name are looked up later.
    fn rows(&self) -> Vec<Arc<Row>> {
        let apps = self.content.as_ref().ok().and_then(|text| parse(text).ok());
        let modified = modified(&self.path);
        let rows = apps.into_iter().flatten().filter_map(|app| match app.endpoint {
            Endpoint::Address(ref address) => Some(app.row(address.clone(), modified)),
            Endpoint::Named { .. } => None,
        });
        rows.collect()
    }

    async fn run(mut self, news: Sink) {
        loop {
            if !self.tell(&news).await {
                return;
            }
            loop {
                let changed = tokio::select! {
                    () = news.closed() => return,
                    changed = self.directory.changed() => changed,
                };
                if let Err(e) = changed {
                    news.tell(News::Away(format!("cannot watch {}: {e}", self.path.display())))
                        .await;
                    return;
                }
                // The directory tells of its other files too.
                let content = read(&self.path);
                if content != self.content {
                    self.content = content;
                    break;
                }
            }
        }
    }
}

impl FileWatch {
    async fn tell(&mut self, news: &Sink) -> bool {
        let rows = match &self.content {
            Ok(text) => rows(text, modified(&self.path)).await,
            Err(reason) => Err(reason.clone()),
        };
        match rows {
            Ok(rows) => {
                self.told = Told::Rows;
                news.tell(News::Rows(rows)).await
            }
            Err(reason) => {
                let text = format!("{}: {reason}", self.path.display());
                let again = std::mem::replace(&mut self.told, Told::Away(text.clone()));
                match again {
                    Told::Away(last) if last == text => true,
                    Told::Away(_) => news.tell(News::Complaint(text)).await,
                    Told::Nothing | Told::Rows => news.tell(News::Away(text)).await,
                }
            }
        }
    }
}

fn read(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    let limit = FILE_BYTES_MAX.saturating_add(1);
    File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut bytes))
        .map_err(|e| reading_error(&e))?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > FILE_BYTES_MAX {
        return Err(format!("is larger than {FILE_BYTES_MAX} bytes"));
    }
    String::from_utf8(bytes).map_err(|e| {
        let good = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
        let column =
            good.len() - good.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1) + 1;
        Problem::new(Place { line, column }, "is not UTF-8").to_string()
    })
}

fn reading_error(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        _ => format!("cannot be read: {error}"),
    }
}

/// All that is wrong with the file at `path`, without looking up host names; else how many apps it
/// has.
pub(crate) fn check(path: &Path) -> Result<usize, Vec<String>> {
    let shown = path.display();
    let text = read(path).map_err(|reason| vec![format!("{shown}: {reason}")])?;
    match parse(&text) {
        Ok(apps) => {
            Ok(apps.iter().map(|app| (&app.id, &app.namespace)).collect::<HashSet<_>>().len())
        }
        Err(problems) => {
            let text = |Problem { place: Place { line, column }, message }: &Problem| {
                format!("{shown}:{line}:{column}: {message}")
            };
            Err(problems.iter().map(text).collect())
        }
    }
}

fn modified(path: &Path) -> Option<Timestamp> {
    let time = std::fs::metadata(path).and_then(|file| file.modified()).ok()?;
    let since = time.duration_since(UNIX_EPOCH).ok()?;
    Some(Timestamp(u64::try_from(since.as_nanos()).ok()?))
}

async fn rows(text: &str, modified: Option<Timestamp>) -> Result<Vec<Arc<Row>>, String> {
    let apps = parse(text).map_err(|problems| sentence(&problems))?;
    let mut rows = Vec::with_capacity(apps.len());
    let mut problems = Vec::new();
    // One name may stand in many places.
    let mut looked_up = HashMap::new();
    for app in &apps {
        match &app.endpoint {
            Endpoint::Address(address) => {
                rows.push(app.row(address.clone(), modified));
            }
            Endpoint::Named { name, place } => {
                if !looked_up.contains_key(name) {
                    looked_up.insert(name, look_up(name).await);
                }
                match &looked_up[name] {
                    Ok(addresses) => {
                        let addresses = addresses.iter().map(|address| Address::Tcp(*address));
                        rows.extend(addresses.map(|address| app.row(address, modified)));
                    }
                    Err(reason) => problems.push(Problem::new(*place, reason.clone())),
                }
            }
        }
    }
    if problems.is_empty() { Ok(rows) } else { Err(sentence(&problems)) }
}

async fn look_up(name: &str) -> Result<Vec<SocketAddr>, String> {
    match tokio::time::timeout(LOOK_UP_TIMEOUT, tokio::net::lookup_host(name)).await {
        Ok(Ok(addresses)) => {
            let mut addresses: Vec<SocketAddr> = addresses.collect();
            addresses.dedup();
            if addresses.is_empty() { Err(format!("{name} has no address")) } else { Ok(addresses) }
        }
        Ok(Err(e)) => Err(format!("cannot look up {name}: {e}")),
        Err(_) => Err(format!("cannot look up {name}: no answer within {LOOK_UP_TIMEOUT:?}")),
    }
}

impl Written {
    fn row(&self, address: Address, modified: Option<Timestamp>) -> Arc<Row> {
        let instance = InstanceId(address.to_string().into());
        let (id, namespace, zone) = (self.id.clone(), self.namespace.clone(), self.zone.clone());
        let revision = Revision::File { line: self.line, modified };
        Arc::new(Row { id, namespace, instance, address, revision, zone })
    }
}

fn sentence(problems: &[Problem]) -> String {
    let told: Vec<String> = problems.iter().take(PROBLEMS_MAX).map(ToString::to_string).collect();
    let rest = problems.len() - told.len();
    let rest = if rest == 0 { String::new() } else { format!("; and {rest} more problems") };
    format!("{}{rest}", told.join("; "))
}

/// One endpoint of an app as it is written.
#[derive(Debug, PartialEq)]
struct Written {
    id: AppId,
    namespace: Namespace,
    line: usize,
    endpoint: Endpoint,
    zone: Option<Zone>,
}

#[derive(Debug, PartialEq)]
enum Endpoint {
    Address(Address),
    Named { name: String, place: Place },
}

/// Pure: all apps, or everything that is wrong.
fn parse(text: &str) -> Result<Vec<Written>, Vec<Problem>> {
    let documents = yaml::parse(text).map_err(|problem| vec![problem])?;
    let mut reader = Reader::default();
    match &documents[..] {
        // A file that is being written is empty for a moment, and must not empty the table.
        [] => {
            reader.problem(Place { line: 1, column: 1 }, "the file is empty; write [] for no apps")
        }
        [document] => reader.list(document),
        [_, second, ..] => reader.problem(second.place, "a second document; write one list"),
    }
    if reader.problems.is_empty() { Ok(reader.written) } else { Err(reader.problems) }
}

#[derive(Default)]
struct Reader {
    written: Vec<Written>,
    problems: Vec<Problem>,
    /// Where each app stood first.
    seen: HashMap<(String, String), Place>,
}

impl Reader {
    fn problem(&mut self, place: Place, message: impl Into<String>) {
        self.problems.push(Problem::new(place, message));
    }

    fn list(&mut self, node: &Node) {
        match &node.value {
            Value::Sequence(apps) => apps.iter().for_each(|app| self.app(app)),
            _ => {
                self.problem(node.place, format!("expected a list of apps, found {}", node.kind()))
            }
        }
    }

    fn app(&mut self, node: &Node) {
        let Value::Map(entries) = &node.value else {
            return self
                .problem(node.place, format!("expected an app with an id, found {}", node.kind()));
        };
        let (mut id, mut namespace, mut endpoints) = (None, Some(Namespace::default()), None);
        for (key, value) in entries {
            match key.text.as_str() {
                "endpoints" => endpoints = Some(value),
                "id" => id = Some(self.name(value, "id", AppId::new)),
                "namespace" => {
                    namespace = self.name(value, "namespace", Namespace::new);
                }
                other => self.problem(
                    key.place,
                    format!("unknown key {other:?}; an app has id, namespace and endpoints"),
                ),
            }
        }
        if id.is_none() {
            self.problem(node.place, "this app has no id");
        }
        let Some(endpoints) = endpoints else {
            return self.problem(node.place, "this app has no endpoints");
        };
        let endpoints = self.endpoints(endpoints);
        if let (Some(Some(id)), Some(namespace)) = (id, namespace) {
            self.add(node.place, &id, &namespace, endpoints);
        }
    }

    fn add(
        &mut self,
        place: Place,
        id: &AppId,
        namespace: &Namespace,
        endpoints: Vec<(Endpoint, Option<Zone>)>,
    ) {
        let key = (id.to_string(), namespace.to_string());
        if let Some(first) = self.seen.get(&key) {
            let message = format!("app {namespace}/{id} stands here a second time, after {first}");
            return self.problem(place, message);
        }
        self.seen.insert(key, place);
        let written = endpoints.into_iter().map(|(endpoint, zone)| Written {
            id: id.clone(),
            namespace: namespace.clone(),
            line: place.line,
            endpoint,
            zone,
        });
        self.written.extend(written);
    }

    fn name<T>(
        &mut self,
        node: &Node,
        key: &str,
        check: impl Fn(&str) -> Result<T, snapshot::IdError>,
    ) -> Option<T> {
        let Some(text) = node.text() else {
            self.problem(node.place, format!("{key} must be a name, not {}", node.kind()));
            return None;
        };
        check(text).map_err(|e| self.problem(node.place, format!("{key} {text:?}: {e}"))).ok()
    }

    fn endpoints(&mut self, node: &Node) -> Vec<(Endpoint, Option<Zone>)> {
        let nodes = match &node.value {
            Value::Sequence(nodes) if !nodes.is_empty() => nodes,
            Value::Sequence(_) => {
                self.problem(node.place, "endpoints is empty");
                return Vec::new();
            }
            _ => {
                self.problem(node.place, format!("endpoints must be a list, not {}", node.kind()));
                return Vec::new();
            }
        };
        let mut endpoints = Vec::with_capacity(nodes.len());
        for node in nodes {
            endpoints.extend(self.endpoint(node));
        }
        endpoints
    }

    /// An address, or a mapping that says more of it.
    fn endpoint(&mut self, node: &Node) -> Option<(Endpoint, Option<Zone>)> {
        let Value::Map(entries) = &node.value else {
            return Some((self.address(node)?, None));
        };
        let (mut address, mut zone) = (None, None);
        let problem_count = self.problems.len();
        for (key, value) in entries {
            match key.text.as_str() {
                "address" => address = self.address(value),
                "zone" => zone = self.zone(value),
                other => self.problem(
                    key.place,
                    format!("unknown key {other:?}; an endpoint has address and zone"),
                ),
            }
        }
        if address.is_none() && self.problems.len() == problem_count {
            self.problem(node.place, "this endpoint has no address");
        }
        Some((address?, zone))
    }

    fn address(&mut self, node: &Node) -> Option<Endpoint> {
        let parsed = match node.text() {
            Some(text) => endpoint(text, node.place),
            None => Err(format!("an endpoint must be an address, not {}", node.kind())),
        };
        parsed.map_err(|message| self.problem(node.place, message)).ok()
    }

    fn zone(&mut self, node: &Node) -> Option<Zone> {
        let Some(text) = node.text() else {
            self.problem(node.place, format!("zone must be a name, not {}", node.kind()));
            return None;
        };
        zone::parse(text).map_err(|e| self.problem(node.place, format!("zone {text:?}: {e}"))).ok()
    }
}

fn endpoint(text: &str, place: Place) -> Result<Endpoint, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        return match path.len() {
            _ if !path.starts_with('/') => Err(format!("the path of {text:?} must start with /")),
            ..=UNIX_PATH_BYTES_MAX => Ok(Endpoint::Address(Address::Unix(path.into()))),
            bytes => Err(format!(
                "the path of {text:?} is {bytes} bytes long; Unix sockets end at {UNIX_PATH_BYTES_MAX}"
            )),
        };
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return match address {
            _ if address.port() == 0 => Err(format!("{text:?} has port 0")),
            _ if address.ip().is_unspecified() => Err(format!("{text:?} is no place to call")),
            _ => Ok(Endpoint::Address(Address::Tcp(address))),
        };
    }
    let is_name = |host: &str| {
        !host.is_empty()
            && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))
    };
    match text.rsplit_once(':') {
        Some((host, port)) if is_name(host) && port.parse::<u16>().is_ok_and(|port| port != 0) => {
            Ok(Endpoint::Named { name: text.to_owned(), place })
        }
        _ => Err(format!("{text:?} is no address; write host:port or unix:/path")),
    }
}

/// A file of 100,000 apps is some 10 MB.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Problems named in one line of the log.
const PROBLEMS_MAX: usize = 10;

/// `sun_path` without its closing zero.
const UNIX_PATH_BYTES_MAX: usize = 107;

const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_dir::TestDir;
    use std::fs;
    use tokio::sync::mpsc::Receiver;

    #[test]
    fn names_every_problem_with_its_place() {
        let long = format!("[{{id: a, endpoints: ['unix:/{}']}}]", "x".repeat(107));
        for (case, text, want) in [
            (
                "nothing",
                "# nothing yet\n",
                "line 1 column 1: the file is empty; write [] for no apps",
            ),
            ("no list", "id: a\n", "line 1 column 1: expected a list of apps, found a mapping"),
            (
                "no app",
                "- a\n",
                "line 1 column 3: expected an app with an id, found a single value",
            ),
            ("no id", "- endpoints: ['h:1']\n", "line 1 column 3: this app has no id"),
            ("no endpoints", "- id: a\n", "line 1 column 3: this app has no endpoints"),
            (
                "empty endpoints",
                "- id: a\n  endpoints: []\n",
                "line 2 column 14: endpoints is empty",
            ),
            (
                "a dot",
                "- {id: a.b, endpoints: ['h:1']}",
                "line 1 column 8: id \"a.b\": parameter app-id cannot contain dots",
            ),
            (
                "unknown key",
                "- {id: a, endpoints: ['h:1'], port: 2}",
                "line 1 column 31: unknown key \"port\"; an app has id, namespace and endpoints",
            ),
            (
                "no port",
                "- {id: a, endpoints: [h]}",
                "line 1 column 23: \"h\" is no address; write host:port or unix:/path",
            ),
            (
                "port too large",
                "- {id: a, endpoints: ['h:65536']}",
                "line 1 column 23: \"h:65536\" is no address; write host:port or unix:/path",
            ),
            (
                "everywhere",
                "- {id: a, endpoints: ['0.0.0.0:1']}",
                "line 1 column 23: \"0.0.0.0:1\" is no place to call",
            ),
            (
                "relative path",
                "- {id: a, endpoints: ['unix:x']}",
                "line 1 column 23: the path of \"unix:x\" must start with /",
            ),
            ("long path", &long, "Unix sockets end at 107"),
            (
                "twice",
                "- {id: a, endpoints: ['h:1']}\n- {id: a, endpoints: ['h:2']}\n",
                "line 2 column 3: app default/a stands here a second time, after line 1 column 3",
            ),
            (
                "two problems",
                "- {id: '', endpoints: [x]}",
                "line 1 column 8: id \"\": parameter app-id cannot be empty; line 1 column 24: \"x\" is no address",
            ),
            (
                "a zone alone",
                "- {id: a, endpoints: [{zone: b}]}",
                "line 1 column 23: this endpoint has no address",
            ),
            (
                "a zone that is none",
                "- {id: a, endpoints: [{address: 'h:1', zone: 'rack 7'}]}",
                "line 1 column 46: zone \"rack 7\": it contains the character ' '",
            ),
            (
                "more of an endpoint",
                "- {id: a, endpoints: [{address: 'h:1', weight: 2}]}",
                "line 1 column 40: unknown key \"weight\"; an endpoint has address and zone",
            ),
            ("not yaml", "- {id: a\n- b\n", "line 3 column 1: "),
            (
                "two documents",
                "- {id: a, endpoints: ['h:1']}\n---\n[]\n",
                "line 3 column 1: a second document",
            ),
        ] {
            let text = sentence(&parse(text).expect_err(case));
            assert!(text.contains(want), "{case}: {text}");
        }
        let many: String = (0..30).map(|_| "- x\n").collect();
        let text = sentence(&parse(&many).unwrap_err());
        assert!(text.ends_with("; and 20 more problems"), "{text}");
    }

    #[test]
    fn reads_yaml_and_json() {
        let yaml = "- id: orders\n  endpoints: ['10.0.0.1:3500', '[::1]:1', unix:/run/o, 'unix:///run/p']\n\
                    - {id: orders, namespace: prod, endpoints: ['host.example:80']}\n";
        let json = r#"[{"id": "orders", "endpoints": ["10.0.0.1:3500", "[::1]:1", "unix:/run/o", "unix:///run/p"]},
{"id": "orders",     "namespace": "prod",   "endpoints": [  "host.example:80"]}]"#;
        let text = |text: &str| -> Vec<String> {
            let written = parse(text).unwrap();
            let line = |w: &Written| match &w.endpoint {
                Endpoint::Address(address) => format!("{}/{} {address}", w.namespace, w.id),
                Endpoint::Named { name, .. } => format!("{}/{} {name}?", w.namespace, w.id),
            };
            written.iter().map(line).collect()
        };
        let want = [
            "default/orders 10.0.0.1:3500",
            "default/orders [::1]:1",
            "default/orders /run/o",
            "default/orders /run/p",
            "prod/orders host.example:80?",
        ];
        assert_eq!(text(yaml), want);
        assert_eq!(text(json), want);
        assert_eq!(text("[]\n"), [""; 0]);
        let zones = "- {id: a, endpoints: [{address: '10.0.0.1:1', zone: berlin}, '10.0.0.2:1']}";
        assert_eq!(text(zones), ["default/a 10.0.0.1:1", "default/a 10.0.0.2:1"]);
        let zones = parse(zones).unwrap().into_iter().map(|written| written.zone);
        assert_eq!(zones.collect::<Vec<_>>(), [Some("berlin".into()), None]);
    }

    async fn next(news: &mut Receiver<(usize, News)>) -> News {
        let deadline = Duration::from_secs(5);
        tokio::time::timeout(deadline, news.recv()).await.expect("news in time").unwrap().1
    }

    fn addresses(news: News) -> Vec<String> {
        match news {
            News::Rows(rows) => rows.iter().map(|row| row.address.to_string()).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn follows_replacement_and_keeps_the_last_good_table() {
        if !crate::test_program::has_localhost() {
            return;
        }
        let temp = TestDir::new();
        let path = temp.path().join("apps.yaml");
        let replace = |text: &str| {
            let new = temp.path().join("new");
            fs::write(&new, text).unwrap();
            fs::rename(&new, &path).unwrap();
        };
        let registry = FileRegistry::new(Settings { path: path.clone() });
        let (sink, mut news) = Sink::pair();
        let watch = registry.watch().unwrap();
        assert!(watch.rows().is_empty());
        let task = tokio::spawn(watch.run(sink));
        assert!(
            matches!(next(&mut news).await, News::Away(text) if text.ends_with("no such file"))
        );
        replace("- {id: a, endpoints: ['10.0.0.1:1', 'localhost:2']}");
        let first = addresses(next(&mut news).await);
        assert_eq!(first[0], "10.0.0.1:1");
        assert!(first[1..].contains(&"127.0.0.1:2".to_owned()), "{first:?}");
        replace("- {id: a, endpoints: [x]}");
        let News::Away(text) = next(&mut news).await else { panic!("a broken file is told") };
        assert!(text.contains("apps.yaml: line 1 column 23: \"x\" is no address"), "{text}");
        replace("- {id: a, endpoints: [y]}");
        assert!(matches!(next(&mut news).await, News::Complaint(text) if text.contains("\"y\"")));
        // The same in place, as an editor that does not rename.
        fs::write(&path, "- {id: a, endpoints: ['10.0.0.1:3']}").unwrap();
        assert_eq!(addresses(next(&mut news).await), ["10.0.0.1:3"]);
        // A symbolic link swapped for another, as a mounted ConfigMap does.
        fs::write(temp.path().join("elsewhere"), "- {id: a, endpoints: ['10.0.0.1:4']}").unwrap();
        std::os::unix::fs::symlink("elsewhere", temp.path().join("link")).unwrap();
        fs::rename(temp.path().join("link"), &path).unwrap();
        assert_eq!(addresses(next(&mut news).await), ["10.0.0.1:4"]);
        drop(news);
        tokio::time::timeout(Duration::from_secs(60), task).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_directory_that_does_not_exist_is_a_mistake() {
        let registry = FileRegistry::new(Settings { path: "/nowhere/apps.yaml".into() });
        let error = registry.watch().err().expect("refused").to_string();
        assert!(error.starts_with("cannot watch /nowhere: "), "{error}");
    }
}
