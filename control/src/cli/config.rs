//! `ringcar config`: are these files sound, which values are in force and why, and which keys are
//! there.
//!
//! All three read the one table of keys, so they cannot tell anything else than what a sidecar
//! does.

#![forbid(unsafe_code)]

use super::{complain, fail, print, sidecar::environment};
use crate::{
    config::{
        Config,
        file::{Configuration, Problem, Weight},
        file_kind::FileKind,
        flags::{self, Values},
        keys::{Effect, Home, KEYS, Key},
    },
    node::Files,
    registry,
    resources::Resources,
};
use clap::{Arg, ArgMatches, Command, builder::EnumValueParser};
use serde::Serialize;
use std::{fmt::Write as _, path::Path, process::ExitCode};

pub(super) const NAME: &str = "config";

pub(super) fn command() -> Command {
    let files = Arg::new("files").value_name("FILE").required(true).num_args(1..);
    let output = Arg::new("output").short('o').long("output").default_value("table");
    let output = output.value_parser(EnumValueParser::<Output>::new());
    let show = Command::new("show").about("Print the value of every key and where it came from");
    Command::new(NAME)
        .about("Check files, or show what is in force")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("check")
                .about("Report all that is wrong with Configuration files, node files, registry files, and directories of resources")
                .arg(files),
        )
        .subcommand(Command::new("docs").about("Print the table of keys as a document").hide(true))
        .subcommand(flags::with_flags(show).arg(output))
}

#[derive(Clone, Copy, clap::ValueEnum)]
pub(super) enum Output {
    Json,
    Table,
    Yaml,
}

pub(super) fn main(matches: &ArgMatches) -> ExitCode {
    match matches.subcommand() {
        Some(("check", values)) => {
            let files = values.get_many::<String>("files").into_iter().flatten();
            check(&files.map(String::as_str).collect::<Vec<_>>())
        }
        Some(("docs", _)) => {
            print(document());
            ExitCode::SUCCESS
        }
        Some((_, values)) => show(values),
        None => ExitCode::FAILURE,
    }
}

/// All problems on standard error, the worst and the harmless ones alike.
fn check(files: &[&str]) -> ExitCode {
    let mut told = Told::default();
    let (directories, files): (Vec<&str>, Vec<&str>) =
        files.iter().partition(|path| Path::new(path).is_dir());
    told.resources(&directories);
    // A later Configuration replaces what an earlier one says, so all of them are read as one.
    let mut configurations = Vec::new();
    for path in files {
        match FileKind::of(path, &environment) {
            Ok(FileKind::Apps) => match registry::file::check(Path::new(path)) {
                Ok(count) => told.sound(path, format_args!("a registry of {count} apps")),
                Err(problems) => problems.iter().for_each(|problem| told.refused(problem)),
            },
            Ok(FileKind::Configuration) => configurations.push(path),
            Ok(FileKind::Node) => told.node(path),
            Err(problem) => told.refused(&problem),
        }
    }
    told.configurations(&configurations);
    told.end()
}

/// What was said of the files so far.
#[derive(Default)]
struct Told {
    refused: usize,
    ignored: usize,
}

impl Told {
    fn sound(&self, path: &str, what: impl std::fmt::Display) {
        complain(format_args!("{path}: {what} (no problem)"));
    }

    fn note(&self, note: &str) {
        complain(format_args!("{note} (no problem)"));
    }

    fn refused(&mut self, problem: impl std::fmt::Display) {
        self.refused += 1;
        complain(problem);
    }

    fn node(&mut self, path: &str) {
        let files = Files { path: Some(path.into()), name: None, accelerate: None };
        match files.read(&environment) {
            Ok(config) => {
                config.base.warnings.iter().for_each(|note| self.note(note));
                let count = config.apps.len();
                self.sound(path, format_args!("node {} with {count} apps", config.name));
            }
            Err(problems) => problems.iter().for_each(|problem| self.problem(problem)),
        }
    }

    fn configurations(&mut self, paths: &[&str]) {
        let configuration = Configuration::load(paths, &environment);
        configuration.problems.iter().for_each(|problem| self.problem(problem));
        let warnings = &configuration.names.warnings;
        configuration.notes.iter().chain(warnings).for_each(|note| self.note(note));
    }

    fn resources(&mut self, directories: &[&str]) {
        let directories: Vec<String> = directories.iter().map(|path| (*path).to_owned()).collect();
        let (problems, notes) = Resources::check(&directories, &environment);
        problems.iter().for_each(|problem| self.problem(problem));
        notes.iter().for_each(|note| self.note(note));
    }

    fn problem(&mut self, problem: &Problem) {
        match problem.weight {
            Weight::Refused => self.refused(problem),
            Weight::Ignored => {
                self.ignored += 1;
                complain(problem);
            }
        }
    }

    fn end(self) -> ExitCode {
        let Self { refused, ignored } = self;
        if refused + ignored == 0 {
            complain("✅  sound");
            return ExitCode::SUCCESS;
        }
        fail(format_args!(
            "{refused} problems keep a sidecar or a node from starting, {ignored} would be ignored"
        ));
        ExitCode::from(EX_CONFIG)
    }
}

/// One key, as it is shown.
#[derive(Serialize)]
struct Row {
    key: &'static str,
    value: String,
    from: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<&'static str>,
}

fn show(matches: &ArgMatches) -> ExitCode {
    let mut values = match Values::new(matches, &environment) {
        Ok(values) => values,
        Err(e) => {
            fail(e);
            return ExitCode::from(EX_CONFIG);
        }
    };
    let read = flags::read_files(&mut values, &environment);
    let rows: Vec<Row> = values.iter().filter_map(|(key, value)| row(key, value)).collect();
    print(match matches.get_one::<Output>("output") {
        Some(Output::Json) => super::output::json(&rows),
        Some(Output::Yaml) => super::output::yaml(&rows),
        Some(Output::Table) | None => table(&rows),
    });
    match read {
        Err(e) => fail(e),
        // The rest is there to be looked at all the same, so a missing app id is no error here.
        Ok(_) if values.text("app-id").is_empty() => return ExitCode::SUCCESS,
        Ok(_) => match Config::from_flags(&values, &environment) {
            Err(e) => fail(e),
            Ok(_) => return ExitCode::SUCCESS,
        },
    };
    ExitCode::from(EX_CONFIG)
}

fn row(key: &'static Key, value: &flags::Value) -> Option<Row> {
    if key.help.is_empty() || key.home == Home::File {
        return None;
    }
    let text = value.text();
    let is_hidden = key.is_secret && !text.is_empty();
    let note = match key.effect {
        Effect::Later => Some("no effect in this version"),
        Effect::Never => Some("no effect"),
        Effect::Now => None,
    };
    Some(Row {
        key: key.name,
        value: if is_hidden { "(hidden)".to_owned() } else { text },
        from: value.source.to_string(),
        note,
    })
}

fn table(rows: &[Row]) -> String {
    let cells = rows.iter().map(|row| {
        let note = row.note.unwrap_or_default().to_owned();
        vec![row.key.to_owned(), row.value.clone(), row.from.clone(), note]
    });
    super::output::table(&["KEY", "VALUE", "FROM", "NOTE"], cells)
}

/// docs/config.md.
fn document() -> String {
    let mut text = HEAD.to_owned();
    for (title, words, home) in [
        ("Flags", FLAGS, Home::Flag),
        ("Variables", VARIABLES, Home::Environment),
        ("Keys of files", FILES, Home::File),
    ] {
        let _ = writeln!(text, "\n## {title}\n\n{words}\n");
        text.push_str(match home {
            Home::Flag => {
                "| flag | variable | file | default | reloaded | meaning |\n\
                 |---|---|---|---|---|---|\n"
            }
            Home::Environment => "| variable | default | meaning |\n|---|---|---|\n",
            Home::File => "| file | meaning |\n|---|---|\n",
        });
        let keys = KEYS.iter().filter(|key| key.home == home && !key.help.is_empty());
        keys.for_each(|key| document_row(key, &mut text));
    }
    text.push_str(TAIL);
    text
}

fn document_row(key: &Key, text: &mut String) {
    let code = |words: Option<String>| match words {
        Some(words) if !words.is_empty() => format!("`{words}`"),
        _ => String::new(),
    };
    let default = code(Some(key.default.to_owned()));
    let help = key.help.replace('|', "\\|");
    let help = match key.effect {
        Effect::Later => format!("*No effect in this version.* {help}"),
        Effect::Never => format!("*No effect, as with daprd.* {help}"),
        Effect::Now => help,
    };
    let _ = match key.home {
        Home::Environment => writeln!(text, "| `{}` | {default} | {help} |", key.name),
        Home::File => writeln!(text, "| `{}` | {help} |", key.name),
        Home::Flag => {
            let (variable, file) = (code(key.variable()), code(key.file()));
            let is_reloaded = if key.is_reloaded { "yes" } else { "" };
            writeln!(
                text,
                "| `--{}` | {variable} | {file} | {default} | {is_reloaded} | {help} |",
                key.name
            )
        }
    };
}

const HEAD: &str = "\
# Configuration

`ringcar config docs` prints this page from the table the sidecar itself reads; a test holds the
two together.

A flag beats a variable, a variable beats a file, a file beats the default. `ringcar config show`
takes the flags of `ringcar sidecar` and prints every value that would be in force with where it
came from. `ringcar config check FILE…` tells Configuration files, node files ([node.md](node.md)) and
files of the registry `file` by what stands in them, takes a directory as one of resources
([resiliency.md](resiliency.md)), and reports all their problems with line, column and suggestion; any
other file is a problem, too. It ends with 0 when there is none, else with 78.
";

const FLAGS: &str = "\
Those of daprd 1.18, in all its spellings. An empty variable counts as unset.";

const VARIABLES: &str = "Without a flag.";

const FILES: &str = "Without a flag.";

const TAIL: &str = "
## Files

`--config` names daprd's resources of kind Configuration; it may be repeated. They are read as
daprd reads them: keys count with their case, only the first document of a file counts, `$VAR` and
`${VAR}` are replaced in the whole text before it is read, and of several files a later one
replaces what an earlier one says. The section `spec.ringcar` is Ringcar's own; daprd ignores it.

| in a file | what becomes of it |
|---|---|
| a key of the tables above | used |
| `spec.metrics`, `spec.logging` | used, and reloaded: [metrics.md](metrics.md) |
| `spec.tracing` | used, and reloaded: [tracing.md](tracing.md) |
| a key of daprd without effect here | one line in the log |
| `spec.accessControl`, `spec.api` | enforced, see docs/access-control.md; a rule without effect is named in the log |
| a key nobody knows | ignored with a line in the log; a problem for `config check` |
| a value of the wrong kind, a file that cannot be read | refused |

A running sidecar reads its files anew when one of them is replaced or written, and at SIGHUP; so it
does those in the directories of `--resources-path` ([resiliency.md](resiliency.md)).
Keys marked as reloaded and `spec.nameResolution` ([registries.md](registries.md)) are then in force
without a restart and without a lost call; a change of another key is named in the log and waits for
the next start. Files that are refused leave all as
it was, which the log says once.
";

/// `EX_CONFIG` of sysexits.h.
const EX_CONFIG: u8 = 78;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_what_is_printed() {
        let written = include_str!("../../../docs/config.md");
        assert_eq!(written, document(), "write it anew: ringcar config docs > docs/config.md");
    }

    #[test]
    fn secrets_are_not_shown() {
        let env = |name: &str| (name == "APP_API_TOKEN").then(|| "secret".to_owned());
        let matches = flags::matches(&[]).unwrap();
        let values = Values::new(&matches, &env).unwrap();
        let rows: Vec<Row> = values.iter().filter_map(|(key, value)| row(key, value)).collect();
        let text = table(&rows);
        assert!(!text.contains("secret "), "{text}");
        let line = text.lines().find(|line| line.starts_with("APP_API_TOKEN")).unwrap();
        assert!(line.contains("(hidden)") && line.contains("$APP_API_TOKEN"), "{line}");
    }
}
