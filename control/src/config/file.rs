//! The files that `--config` names: daprd's resources of kind Configuration, in daprd's dialect.
//!
//! Keys count with their case, only the first document is read, `$VAR` and `${VAR}` are replaced in
//! the whole text first, and of several files a later one replaces what an earlier one says. All
//! problems of all files are found before any is told, each with its place.

#![forbid(unsafe_code)]

use super::{
    Environment,
    access::AccessSpec,
    api,
    keys::{self, Key, Kind},
    name_resolution::{self, NameResolution},
    pipeline::{self, PipelineSpecs},
    schema::{self, Use},
    section::Section,
    telemetry,
};
use crate::yaml::{self, Node};
use snapshot::policy::{AccessPolicy, ApiRules};
use std::{fmt, fs, io, path::Path, sync::Arc};

/// What the files say, in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Configuration {
    pub(crate) values: Vec<Found>,
    /// Of the last file that says anything about it.
    pub(crate) names: NameResolution,
    /// `None`: everything is allowed.
    pub(crate) access: Option<AccessPolicy>,
    pub(crate) api: Option<ApiRules>,
    pub(crate) pipelines: PipelineSpecs,
    pub(crate) telemetry: telemetry::Options,
    pub(crate) problems: Vec<Problem>,
    /// For the log: what is understood and not done.
    pub(crate) notes: Vec<String>,
}

/// A value of a key of the table.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// Its name.
    pub(crate) key: &'static str,
    /// One, except of lists.
    pub(crate) texts: Vec<String>,
    pub(crate) place: FilePlace,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct FilePlace {
    path: Arc<str>,
    /// Of the whole file, when there is none.
    place: Option<yaml::Place>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Problem {
    pub(crate) place: FilePlace,
    /// Empty where the problem is not one of a key.
    pub(crate) key: String,
    pub(crate) message: String,
    pub(crate) suggestion: Option<String>,
    pub(crate) weight: Weight,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Weight {
    /// A sidecar goes on without it, as daprd does.
    Ignored,
    /// A sidecar does not start with it, and one that runs keeps what it has.
    Refused,
}

impl FilePlace {
    pub(crate) const fn new(path: Arc<str>, place: Option<yaml::Place>) -> Self {
        Self { path, place }
    }
}

impl Problem {
    /// A whole file cannot be used.
    pub(crate) fn of_file(path: &str, message: String) -> Self {
        let place = FilePlace::new(path.into(), None);
        let (key, weight) = (String::new(), Weight::Refused);
        Self { place, key, message, suggestion: None, weight }
    }
}

impl fmt::Display for FilePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        match self.place {
            Some(yaml::Place { line, column }) => write!(f, ":{line}:{column}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)?;
        match &self.suggestion {
            Some(suggestion) => write!(f, "; {suggestion}"),
            None => Ok(()),
        }
    }
}

impl Configuration {
    pub(crate) fn load(paths: &[impl AsRef<str>], env: Environment<'_>) -> Self {
        let mut reader = Reader::default();
        for path in paths {
            reader.path = path.as_ref().into();
            match read(Path::new(path.as_ref())) {
                Ok(text) => reader.file(&expand(&text, env)),
                Err(reason) => reader.refuse(None, "", reason),
            }
        }
        reader.finish()
    }

    #[cfg(test)]
    pub(crate) fn parse(path: &str, text: &str) -> Self {
        Self::parse_all([(path, text)].into_iter())
    }

    #[cfg(test)]
    pub(crate) fn parse_all<'a>(files: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let mut reader = Reader::default();
        for (path, text) in files {
            reader.path = path.into();
            reader.file(text);
        }
        reader.finish()
    }

    pub(crate) fn is_refused(&self) -> bool {
        self.problems.iter().any(|problem| problem.weight == Weight::Refused)
    }
}

pub(super) fn read(path: &Path) -> Result<String, String> {
    match fs::metadata(path) {
        Ok(metadata) if metadata.len() > FILE_BYTES_MAX => {
            return Err(format!("is larger than {FILE_BYTES_MAX} bytes"));
        }
        // In daprd's words.
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(format!("stat {}: no such file or directory", path.display()));
        }
        _ => {}
    }
    fs::read_to_string(path).map_err(|e| match e.kind() {
        io::ErrorKind::InvalidData => "is not UTF-8".to_owned(),
        _ => format!("cannot be read: {e}"),
    })
}

/// Replaces `$VAR` and `${VAR}` as Go's `os.ExpandEnv` does: unknown variables are empty, and a `$`
/// before anything else stays.
pub(super) fn expand(text: &str, env: Environment<'_>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let (name, length) = variable_name(after);
        match name {
            Some(name) => out.push_str(&env(name).unwrap_or_default()),
            // Go eats what looks like a name and is none, such as `${}`.
            None if length == 0 => out.push('$'),
            None => {}
        }
        rest = &after[length..];
    }
    out.push_str(rest);
    out
}

/// The name at the start of `text`, and the bytes that it takes there.
fn variable_name(text: &str) -> (Option<&str>, usize) {
    let is_special = |byte: u8| matches!(byte, b'*' | b'#' | b'$' | b'@' | b'!' | b'?' | b'-');
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let bytes = text.as_bytes();
    match bytes {
        [b'{', inner @ ..] => match inner.iter().position(|byte| *byte == b'}') {
            Some(0) => (None, 2),
            Some(end) => (Some(&text[1..=end]), end + 2),
            None => (None, 1),
        },
        [first, ..] if is_special(*first) || first.is_ascii_digit() => (Some(&text[..1]), 1),
        _ => match bytes.iter().take_while(|byte| is_name(byte)).count() {
            0 => (None, 0),
            length => (Some(&text[..length]), length),
        },
    }
}

#[derive(Default)]
struct Reader {
    path: Arc<str>,
    found: Configuration,
    access: AccessSpec,
}

impl Default for FilePlace {
    fn default() -> Self {
        Self { path: "".into(), place: None }
    }
}

impl Reader {
    fn finish(mut self) -> Configuration {
        match self.access.finish() {
            Ok(access) => self.found.access = access,
            Err(problem) => self.found.problems.push(problem),
        }
        self.found
    }

    fn place(&self, place: Option<yaml::Place>) -> FilePlace {
        FilePlace { path: Arc::clone(&self.path), place }
    }

    fn refuse(&mut self, place: Option<yaml::Place>, key: &str, message: impl Into<String>) {
        self.problem(place, key, message, Weight::Refused);
    }

    fn problem(
        &mut self,
        place: Option<yaml::Place>,
        key: &str,
        message: impl Into<String>,
        weight: Weight,
    ) {
        self.found.problems.push(Problem {
            place: self.place(place),
            key: key.to_owned(),
            message: message.into(),
            suggestion: None,
            weight,
        });
    }

    fn file(&mut self, text: &str) {
        let documents = match yaml::parse(text) {
            Ok(documents) => documents,
            Err(e) => return self.refuse(Some(e.place), "", e.message),
        };
        if let Some(second) = documents.get(1) {
            let message = "only the first document of the file is read, as with daprd";
            self.problem(Some(second.place), "", message, Weight::Ignored);
        }
        if let Some(root) = documents.first() {
            self.document(root);
        }
    }

    fn document(&mut self, root: &Node) {
        if let yaml::Value::Map(entries) = &root.value {
            let kind = entries.iter().find(|(key, _)| key.text == "kind");
            if let Some((_, kind)) = kind
                && kind.text() != Some("Configuration")
            {
                let message = format!("is {:?}, not Configuration", kind.text().unwrap_or(""));
                self.problem(Some(kind.place), "kind", message, Weight::Ignored);
                // Its other keys mean something else.
                return;
            }
        }
        self.mapping(root, "");
    }

    /// The children of a key that has any by its nature.
    fn mapping(&mut self, node: &Node, path: &str) {
        let entries = match &node.value {
            yaml::Value::Map(entries) => entries,
            yaml::Value::Null => return,
            _ => {
                let message = format!("must be a mapping, not {}", node.kind());
                return self.refuse(Some(node.place), path, message);
            }
        };
        for (key, child) in entries {
            let path =
                if path.is_empty() { key.text.clone() } else { format!("{path}.{}", key.text) };
            match schema::find(&path) {
                Use::Branch => self.mapping(child, &path),
                Use::Free => {}
                Use::Access => {
                    let mut section = Section::new(&self.path, &mut self.found.problems);
                    self.access.read(child, &mut section);
                }
                Use::Api => {
                    let mut section = Section::new(&self.path, &mut self.found.problems);
                    let rules = self.found.api.get_or_insert_default();
                    api::read(rules, child, &mut section);
                }
                Use::Later => self.note(&path, key.place, "has no effect in this version"),
                Use::Mtls => {
                    if child.text() == Some("true") {
                        let words = "does not encrypt anything by itself, as with daprd; the flag \
                            --enable-mtls would, and has no effect in this version";
                        self.note(&path, key.place, words);
                    }
                }
                Use::Names if child.is_null() => {}
                Use::Names => self.names(child),
                Use::Pipeline => {
                    let mut section = Section::new(&self.path, &mut self.found.problems);
                    pipeline::read(&mut self.found.pipelines, &path, child, &mut section);
                }
                Use::Telemetry => self.telemetry(&path, child),
                Use::Unknown => self.unknown(&path, key.place),
                Use::Value(found) => self.value(found, child, &path),
            }
        }
    }

    fn note(&mut self, path: &str, place: yaml::Place, words: &str) {
        let place = self.place(Some(place));
        self.found.notes.push(format!("{place}: {path} {words}"));
    }

    fn names(&mut self, node: &Node) {
        let (names, problems) = name_resolution::read(&self.path, node);
        for problem in problems {
            self.refuse(Some(problem.place), "", problem.message);
        }
        self.found.names = names;
    }

    fn telemetry(&mut self, path: &str, node: &Node) {
        for finding in telemetry::read(path, node, &mut self.found.telemetry) {
            let Some(weight) = finding.weight else {
                self.note(&finding.key, finding.place, &finding.message);
                continue;
            };
            self.problem(Some(finding.place), &finding.key, finding.message, weight);
            if let Some(problem) = self.found.problems.last_mut() {
                problem.suggestion = finding.suggestion;
            }
        }
    }

    fn unknown(&mut self, path: &str, place: yaml::Place) {
        let message = "there is no such key; it is ignored, as with daprd";
        self.problem(Some(place), path, message, Weight::Ignored);
        let suggestion = schema::suggestion(path).map(|other| format!("is it {other:?}?"));
        if let Some(problem) = self.found.problems.last_mut() {
            problem.suggestion = suggestion;
        }
    }

    fn value(&mut self, key: &'static Key, node: &Node, path: &str) {
        if node.is_null() {
            return;
        }
        let texts = match texts(key, node) {
            Ok(texts) => texts,
            Err(reason) => return self.refuse(Some(node.place), path, reason),
        };
        if key.effect == keys::Effect::Later && texts.iter().any(|text| text != key.default) {
            self.note(path, node.place, "has no effect in this version");
        }
        let place = self.place(Some(node.place));
        self.found.values.push(Found { key: key.name, texts, place });
    }
}

/// The value of a key as texts, one except of lists.
///
/// # Errors
/// Why it can be no value of this key.
pub(crate) fn texts(key: &Key, node: &Node) -> Result<Vec<String>, String> {
    let texts: Vec<String> = match &node.value {
        yaml::Value::Text(text) if key.kind == Kind::List => {
            text.split(',').map(str::to_owned).collect()
        }
        yaml::Value::Text(text) if key.kind == Kind::Bool => vec![bool_of(text)],
        yaml::Value::Text(text) => vec![text.clone()],
        yaml::Value::Sequence(nodes) if key.kind == Kind::List => {
            nodes.iter().filter_map(|node| node.text().map(str::to_owned)).collect()
        }
        _ => return Err(format!("must be a single value, not {}", node.kind())),
    };
    match texts.iter().find_map(|text| key.check(text).err()) {
        Some(reason) => Err(reason),
        None => Ok(texts),
    }
}

/// YAML 1.1's other spellings, which daprd's parser takes where a bool is wanted.
fn bool_of(text: &str) -> String {
    match text {
        "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => "true".to_owned(),
        "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => "false".to_owned(),
        _ => text.to_owned(),
    }
}

/// A Configuration is written by hand.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_every_problem_with_its_place() {
        let text = "\
kind: Configuration
sepc: {}
spec:
  metric:
    enabeld: false
    enabled: perhaps
  Tracing: {}
  accessControl:
    defaultAction: [deny]
  nameResolution:
    component: etcd
  mtls: yes
  ringcar:
    maxBodySize: 4MB
    logLevel: [debug]
    max-body-size: 4Mi
    zzzzzz: 1
";
        let configuration = Configuration::parse("c.yaml", text);
        let problems: Vec<String> =
            configuration.problems.iter().map(ToString::to_string).collect();
        let unknown = "there is no such key; it is ignored, as with daprd";
        assert_eq!(
            problems,
            [
                format!("c.yaml:2:1: sepc: {unknown}; is it \"spec\"?"),
                format!("c.yaml:5:5: spec.metric.enabeld: {unknown}; is it \"enabled\"?"),
                "c.yaml:6:14: spec.metric.enabled: write true or false".to_owned(),
                format!("c.yaml:7:3: spec.Tracing: {unknown}; is it \"tracing\"?"),
                "c.yaml:9:20: spec.accessControl.defaultAction: must be a single value, not a list"
                    .to_owned(),
                "c.yaml:11:16: etcd: endpoints is missing".to_owned(),
                "c.yaml:12:9: spec.mtls: must be a mapping, not a single value".to_owned(),
                "c.yaml:14:18: spec.ringcar.maxBodySize: \"4MB\" is not a quantity; write a number \
                 with an optional unit, such as 4Mi, 500k or 1048576"
                    .to_owned(),
                "c.yaml:15:15: spec.ringcar.logLevel: must be a single value, not a list".to_owned(),
                format!("c.yaml:16:5: spec.ringcar.max-body-size: {unknown}; is it \"maxBodySize\"?"),
                format!("c.yaml:17:5: spec.ringcar.zzzzzz: {unknown}"),
            ]
        );
        assert!(configuration.is_refused());
    }

    #[test]
    fn refuses_what_is_no_configuration() {
        for (case, text, want, is_refused) in [
            ("no YAML", "spec: [", "c.yaml:", true),
            ("a list", "- a", "c.yaml:1:1: must be a mapping, not a list", true),
            ("another kind", "kind: Component\nspecs: 1", "kind: is \"Component\"", false),
            ("a second document", "spec: {}\n---\nx: 1", "c.yaml:3:1: only the first", false),
        ] {
            let configuration = Configuration::parse("c.yaml", text);
            assert_eq!(configuration.problems.len(), 1, "{case}: {:?}", configuration.problems);
            let problem = configuration.problems[0].to_string();
            assert!(problem.contains(want), "{case}: {problem}");
            assert_eq!(configuration.is_refused(), is_refused, "{case}");
        }
        let missing = Configuration::load(&["/no/such/file"], &|_| None);
        let problem = missing.problems[0].to_string();
        assert_eq!(problem, "/no/such/file: stat /no/such/file: no such file or directory");
        assert!(missing.is_refused());
    }

    #[test]
    fn takes_what_dapr_init_writes() {
        let text = "\
apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata:
  name: daprConfig
spec:
  tracing:
    samplingRate: \"1\"
    zipkin:
      endpointAddress: http://localhost:9411/api/v2/spans
";
        let configuration = Configuration::parse("c.yaml", text);
        assert_eq!(configuration.problems, []);
        assert_eq!(configuration.notes, [""; 0]);
        for text in ["", "# nothing", "spec:\n  metric:\n"] {
            let configuration = Configuration::parse("c.yaml", text);
            assert!(configuration.problems.is_empty() && configuration.values.is_empty());
        }
    }

    #[test]
    fn reads_values_of_the_table() {
        let text = "spec: {metrics: {enabled: off}, ringcar: {metricsPort: 7, \
                    disableInitEndpoints: [config, subscribe]}, mtls: {enabled: true}}";
        let configuration = Configuration::parse("c.yaml", text);
        let values: Vec<(&str, String)> =
            configuration.values.iter().map(|found| (found.key, found.texts.join(","))).collect();
        let want = [
            ("enable-metrics", "false"),
            ("metrics-port", "7"),
            ("disable-init-endpoints", "config,subscribe"),
        ];
        assert_eq!(values, want.map(|(key, value)| (key, value.to_owned())));
        assert_eq!(configuration.notes.len(), 1, "{:?}", configuration.notes);
        assert!(configuration.notes[0].contains("spec.mtls.enabled does not encrypt"));
    }

    #[test]
    fn replaces_variables_as_go_does() {
        let env = |name: &str| match name {
            "A" => Some("1".to_owned()),
            "A_B" => Some("2".to_owned()),
            "5" => Some("five".to_owned()),
            _ => None,
        };
        for (text, want) in [
            ("none", "none"),
            ("$A", "1"),
            ("${A}", "1"),
            ("x$A_B-$A.y", "x2-1.y"),
            ("$NONE|${NONE}", "|"),
            ("${}a", "a"),
            ("${A", "A"),
            ("$ $. %$", "$ $. %$"),
            ("$56", "five6"),
            ("é$Aé", "é1é"),
        ] {
            assert_eq!(expand(text, &env), want, "{text:?}");
        }
    }
}
