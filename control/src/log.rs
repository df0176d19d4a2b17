//! Log lines in daprd's two formats, logrus text and JSON, so that what parses daprd's logs parses
//! ours.
//!
//! One line is one `write`: lines of control and of what it starts never mix within a line.

#![forbid(unsafe_code)]

use crate::timestamp::Timestamp;
use std::{
    fmt::{Display, Write as _},
    fs::File,
    io::{self, Write as _},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

/// A cheap handle; `scope` says which part speaks.
#[derive(Clone)]
pub(crate) struct Log {
    shared: Arc<Shared>,
    scope: &'static str,
}

struct Shared {
    output: Output,
    format: Format,
    /// A [`Level`], which a reload may change.
    threshold: AtomicU8,
    app_id: String,
    instance: String,
}

/// The value of a field.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Field<'a> {
    Number(u64),
    Text(&'a str),
}

enum Output {
    Stdout,
    File(File),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Format {
    Json,
    Text,
}

/// In order of weight.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Level {
    Debug,
    Info,
    Warning,
    Error,
    Fatal,
}

impl Level {
    /// daprd's names for `--log-level`, in any case.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "debug" => Some(Self::Debug),
            "info" => Some(Self::Info),
            "warn" | "warning" => Some(Self::Warning),
            "error" => Some(Self::Error),
            "fatal" => Some(Self::Fatal),
            _ => None,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Fatal => "fatal",
        }
    }
}

/// What every line of one process carries.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) format: Format,
    pub(crate) threshold: Level,
    pub(crate) app_id: String,
    /// The host's name.
    pub(crate) instance: String,
    pub(crate) file: Option<String>,
}

impl Log {
    /// # Errors
    /// When the log file cannot be opened for appending.
    pub(crate) fn open(settings: Settings) -> io::Result<Self> {
        let output = match &settings.file {
            Some(path) => Output::File(File::options().create(true).append(true).open(path)?),
            None => Output::Stdout,
        };
        let Settings { format, threshold, app_id, instance, file: _ } = settings;
        let threshold = AtomicU8::new(threshold as u8);
        let shared = Shared { output, format, threshold, app_id, instance };
        Ok(Self { shared: Arc::new(shared), scope: "dapr.runtime" })
    }

    pub(crate) fn scoped(&self, scope: &'static str) -> Self {
        Self { shared: Arc::clone(&self.shared), scope }
    }

    /// Of this handle and all others of the same log.
    pub(crate) fn set_threshold(&self, threshold: Level) {
        self.shared.threshold.store(threshold as u8, Ordering::Relaxed);
    }

    pub(crate) fn debug(&self, message: impl Display) {
        self.write(Level::Debug, &message);
    }

    pub(crate) fn info(&self, message: impl Display) {
        self.write(Level::Info, &message);
    }

    pub(crate) fn warning(&self, message: impl Display) {
        self.write(Level::Warning, &message);
    }

    pub(crate) fn error(&self, message: impl Display) {
        self.write(Level::Error, &message);
    }

    pub(crate) fn fatal(&self, message: impl Display) {
        self.write(Level::Fatal, &message);
    }

    pub(crate) fn write(&self, level: Level, message: &dyn Display) {
        if !self.is_written(level) {
            return;
        }
        self.put(&self.line(Timestamp::now(), level, &message.to_string(), &[]));
    }

    /// A line with more than the usual fields, of a time that may have passed.
    pub(crate) fn write_fields(
        &self,
        time: Timestamp,
        level: Level,
        message: &str,
        fields: &[(&str, Field<'_>)],
    ) {
        if self.is_written(level) {
            self.put(&self.line(time, level, message, fields));
        }
    }

    /// Whether lines of this weight go anywhere.
    pub(crate) fn is_written(&self, level: Level) -> bool {
        (level as u8) >= self.shared.threshold.load(Ordering::Relaxed)
    }

    fn put(&self, line: &str) {
        // A log that cannot be written has nobody left to tell; the sidecar serves on.
        let _ = match &self.shared.output {
            Output::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush())
            }
            Output::File(file) => (&*file).write_all(line.as_bytes()),
        };
    }

    /// `more` may give a usual field another value.
    fn line(
        &self,
        time: Timestamp,
        level: Level,
        message: &str,
        more: &[(&str, Field<'_>)],
    ) -> String {
        let (time, version) = (time.rfc3339(), crate::version::DAPR);
        let Shared { app_id, instance, .. } = &*self.shared;
        let usual = [
            ("app_id", app_id.as_str()),
            ("instance", instance),
            ("level", level.name()),
            ("msg", message),
            ("scope", self.scope),
            ("time", &time),
            ("type", "log"),
            ("ver", version),
        ];
        let mut fields: Vec<(&str, Field<'_>)> = more.to_vec();
        for (key, value) in usual {
            if !more.iter().any(|(other, _)| *other == key) {
                fields.push((key, Field::Text(value)));
            }
        }
        fields.sort_unstable_by_key(|(key, _)| *key);
        match self.shared.format {
            Format::Json => json_line(&fields),
            Format::Text => text_line(&fields),
        }
    }
}

/// Keys in alphabetical order, as Go's JSON encoder has them.
fn json_line(fields: &[(&str, Field<'_>)]) -> String {
    let mut line = String::with_capacity(256);
    for (index, (key, value)) in fields.iter().enumerate() {
        let separator = if index == 0 { '{' } else { ',' };
        let value = match *value {
            Field::Number(number) => serde_json::Value::from(number),
            Field::Text(text) => serde_json::Value::from(text),
        };
        let _ = write!(line, "{separator}\"{key}\":{value}");
    }
    line.push_str("}\n");
    line
}

/// logrus' text formatter: time, level and message first, then the fields in alphabetical order.
fn text_line(fields: &[(&str, Field<'_>)]) -> String {
    let value_of =
        |key| fields.iter().find(|(k, _)| *k == key).map_or(Field::Text(""), |(_, v)| *v);
    let first = ["time", "level", "msg"];
    let rest = fields.iter().filter(|(key, _)| !first.contains(key)).copied();
    let mut line = String::with_capacity(256);
    for (key, value) in first.map(|key| (key, value_of(key))).into_iter().chain(rest) {
        let separator = if line.is_empty() { "" } else { " " };
        let _ = write!(line, "{separator}{key}=");
        match value {
            Field::Number(number) => _ = write!(line, "{number}"),
            Field::Text(text) => push_text_value(&mut line, text),
        }
    }
    line.push('\n');
    line
}

/// Bare where logrus leaves it bare, else quoted with the escapes of a Go string.
fn push_text_value(line: &mut String, value: &str) {
    let is_bare =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '/' | '@' | '^' | '+');
    if !value.is_empty() && value.chars().all(is_bare) {
        line.push_str(value);
        return;
    }
    line.push('"');
    for c in value.chars() {
        match c {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(line, "\\u{:04x}", u32::from(c));
            }
            c => line.push(c),
        }
    }
    line.push('"');
}

impl Log {
    /// A log whose lines nobody reads.
    pub(crate) fn silent() -> Self {
        let settings = Settings {
            format: Format::Text,
            threshold: Level::Fatal,
            app_id: String::new(),
            instance: String::new(),
            file: None,
        };
        Self::open(settings).expect("standard output needs no opening")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(format: Format, message: &str) -> String {
        let settings = Settings {
            format,
            threshold: Level::Info,
            app_id: "orders".to_owned(),
            instance: "box 1".to_owned(),
            file: None,
        };
        Log::open(settings).unwrap().line(Timestamp(0), Level::Warning, message, &[])
    }

    #[test]
    fn writes_logrus_text() {
        let ver = crate::version::DAPR;
        for (case, message, want) in [
            ("plain", "ready", "ready"),
            ("words", "it is so", "\"it is so\""),
            ("empty", "", "\"\""),
            ("forged line", "a\ntime=\"x\"", "\"a\\ntime=\\\"x\\\"\""),
            ("escape sequence", "\u{1b}[31m", "\"\\u001b[31m\""),
        ] {
            let want = format!(
                "time=\"1970-01-01T00:00:00.000000000Z\" level=warning msg={want} app_id=orders \
                 instance=\"box 1\" scope=dapr.runtime type=log ver={ver}\n"
            );
            assert_eq!(line(Format::Text, message), want, "{case}");
        }
    }

    #[test]
    fn writes_json() {
        let text = line(Format::Json, "a\n\"b\"");
        assert!(text.ends_with("}\n"), "{text}");
        assert_eq!(text.matches('\n').count(), 1, "{text}");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        for (key, want) in [
            ("app_id", "orders"),
            ("instance", "box 1"),
            ("level", "warning"),
            ("msg", "a\n\"b\""),
            ("scope", "dapr.runtime"),
            ("time", "1970-01-01T00:00:00.000000000Z"),
            ("type", "log"),
        ] {
            assert_eq!(value[key], want, "{key}");
        }
    }

    #[test]
    fn more_fields_stand_among_the_usual_ones() {
        for (format, want) in [
            (
                Format::Text,
                "msg=Called app_id=other code=200 instance= method=\"GET /a b\" scope=dapr.runtime",
            ),
            (
                Format::Json,
                "{\"app_id\":\"other\",\"code\":200,\"instance\":\"\",\"level\":\"info\",\
                 \"method\":\"GET /a b\",\"msg\":\"Called\"",
            ),
        ] {
            let settings = Settings {
                format,
                threshold: Level::Info,
                app_id: "orders".to_owned(),
                instance: String::new(),
                file: None,
            };
            let fields = [
                ("method", Field::Text("GET /a b")),
                ("code", Field::Number(200)),
                ("app_id", Field::Text("other")),
            ];
            let log = Log::open(settings).unwrap();
            let line = log.line(Timestamp(0), Level::Info, "Called", &fields);
            assert!(line.replace("instance=\"\"", "instance=").contains(want), "{line}");
        }
    }

    #[test]
    fn knows_the_levels_by_name() {
        for (text, want) in [
            ("loud", None),
            ("", None),
            ("warn", Some(Level::Warning)),
            ("INFO", Some(Level::Info)),
            ("fatal", Some(Level::Fatal)),
        ] {
            assert_eq!(Level::parse(text), want, "{text:?}");
        }
    }
}
