//! The command line: which command, and under which name the executable was started.
//!
//! Exit codes: 0 done, 1 failed, 2 not understood; `run` returns its app's own.

#![forbid(unsafe_code)]

mod check;
mod config;
mod dataplane;
mod deny_log;
mod ebpf;
mod explain;
mod invoke;
mod list;
mod node;
mod output;
mod run;
mod sidecar;
mod stop;

use crate::config::flags;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use std::{
    ffi::OsString,
    fmt::Display,
    future::Future,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

#[derive(Parser)]
#[command(
    name = "ringcar",
    version,
    about = "Sidecar for Dapr service invocation",
    subcommand_required = true,
    arg_required_else_help = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run an app with a sidecar beside it
    Run(Box<run::Arguments>),
    /// Call a method of a running app
    Invoke(invoke::Arguments),
    /// Tell what would become of a call, without making it
    Explain(explain::Arguments),
    /// List the running apps of this machine
    List(list::Arguments),
    /// Serve the apps of a node with one control and one data plane
    Node(node::Arguments),
    /// List the connections that a node's programs in the kernel refused
    DenyLog(deny_log::Arguments),
    /// See and remove Ringcar's programs in the kernel
    Ebpf(ebpf::Arguments),
    /// Stop running apps and their sidecars
    Stop(stop::Arguments),
    /// Serve as the data plane of a control process
    #[command(hide = true)]
    Dataplane(dataplane::Arguments),
}

pub(crate) fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments = resolve_name(arguments.collect());
    if let Some(code) = stay(&arguments[1..]) {
        return code;
    }
    let matches = command().try_get_matches_from(arguments);
    let parsed = matches.and_then(|matches| match matches.subcommand() {
        Some((check::NAME, values)) => Ok(check::main(values)),
        Some((config::NAME, values)) => Ok(config::main(values)),
        Some((SIDECAR, values)) => Ok(sidecar::main(values)),
        _ => Cli::from_arg_matches(&matches).map(|cli| cli.command.execute()),
    });
    parsed.unwrap_or_else(|e| {
        // Where the explanation cannot be printed, the code still tells.
        let _ = e.print();
        u8::try_from(e.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
    })
}

/// Runs a command that stays, without the tree of all commands: making that takes more memory than
/// a sidecar's data plane needs for its state, and touches code that would stay with the process.
/// `None`: it is none of these, or its arguments want to be talked about, with help or complaints.
fn stay(arguments: &[OsString]) -> Option<ExitCode> {
    match arguments.first()?.to_str()? {
        // What control says is known by heart.
        DATA_PLANE if arguments[1..] == ["--link-stdin"] => {
            Some(dataplane::main(&dataplane::Arguments::of_control()))
        }
        DATA_PLANE => Some(dataplane::main(&parse_alone(arguments)?)),
        NODE => Some(node::main(parse_alone(arguments)?)),
        SIDECAR => Some(sidecar::main(&flags::command().try_get_matches_from(arguments).ok()?)),
        _ => None,
    }
}

fn parse_alone<A: Args + FromArgMatches>(arguments: &[OsString]) -> Option<A> {
    let command = A::augment_args(clap::Command::new("ringcar"));
    A::from_arg_matches(&command.try_get_matches_from(arguments).ok()?).ok()
}

/// The commands that are made from the table of keys stand beside the others.
fn command() -> clap::Command {
    Cli::command()
        .subcommand(flags::command())
        .subcommand(check::command())
        .subcommand(config::command())
}

impl Command {
    fn execute(self) -> ExitCode {
        match self {
            Self::Dataplane(arguments) => dataplane::main(&arguments),
            Self::DenyLog(arguments) => block_on(deny_log::main(arguments)),
            Self::Ebpf(arguments) => ebpf::main(&arguments),
            Self::Explain(arguments) => explain::main(&arguments),
            Self::Invoke(arguments) => block_on(invoke::main(arguments)),
            Self::List(arguments) => list::main(&arguments),
            Self::Node(arguments) => node::main(arguments),
            Self::Run(arguments) => block_on(run::main(*arguments)),
            Self::Stop(arguments) => block_on(stop::main(&arguments)),
        }
    }
}

/// Under the name `daprd` the executable is the sidecar, and a sidecar's flags come in daprd's
/// spellings.
fn resolve_name(arguments: Vec<OsString>) -> Vec<OsString> {
    let mut arguments = arguments.into_iter();
    let name = arguments.next().unwrap_or_else(|| "ringcar".into());
    let is_daprd = Path::new(&name).file_name().is_some_and(|name| name == "daprd");
    let mut rest: Vec<OsString> = arguments.collect();
    if is_daprd {
        rest.insert(0, SIDECAR.into());
    }
    if rest.first().is_some_and(|first| WITH_FLAGS.iter().any(|name| first == name)) {
        rest = flags::normalise(rest.into_iter());
    }
    rest.insert(0, "ringcar".into());
    rest
}

/// Runs a command's future on this thread; control has no other.
fn block_on(command: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(command);
            // A lookup or a write that hangs must not keep the process.
            runtime.shutdown_background();
            code
        }
        Err(e) => fail(format_args!("cannot start: {e}")),
    }
}

/// Says on standard error why a command failed, in the manner of Dapr's command line.
fn fail(reason: impl Display) -> ExitCode {
    complain(format_args!("❌  {reason}"));
    ExitCode::FAILURE
}

/// A line on standard output. Unlike `println!` it survives a reader that left: a command must
/// still end what it started.
fn say(line: impl Display) {
    let _ = writeln!(io::stdout().lock(), "{line}");
}

/// A whole text on standard output, with the same care.
fn print(text: impl Display) {
    let _ = write!(io::stdout().lock(), "{text}");
}

/// A line on standard error, with the same care.
fn complain(line: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

const DATA_PLANE: &str = "dataplane";
const NODE: &str = "node";
const SIDECAR: &str = "sidecar";

/// The commands that take the sidecar's flags, in its spellings.
const WITH_FLAGS: [&str; 3] = [check::NAME, config::NAME, SIDECAR];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn what_stays_is_understood_alone_as_in_the_tree_of_all() {
        let words = |text: &str| -> Vec<OsString> { text.split(' ').map(OsString::from).collect() };
        for (case, name) in [("data plane", DATA_PLANE), ("node", NODE), ("sidecar", SIDECAR)] {
            assert!(command().find_subcommand(name).is_some(), "{case}");
        }
        for (text, want) in [
            ("dataplane --link-stdin --workers 3", true),
            ("dataplane", false),
            ("dataplane --link-stdin --link-path /x", false),
            ("dataplane --help", false),
        ] {
            let alone = parse_alone::<dataplane::Arguments>(&words(text)).is_some();
            let all = command().try_get_matches_from(words(&format!("ringcar {text}"))).is_ok();
            assert_eq!((alone, all), (want, want), "{text}");
        }
        for (text, want) in [
            ("node --config /x", true),
            ("node list -o json", true),
            ("node remove a", true),
            ("node --confg /x", false),
            ("node list -h", false),
        ] {
            let alone = parse_alone::<node::Arguments>(&words(text)).is_some();
            let all = command().try_get_matches_from(words(&format!("ringcar {text}"))).is_ok();
            assert_eq!((alone, all), (want, want), "{text}");
        }
    }

    #[test]
    fn the_name_decides() {
        for (case, given, want) in [
            ("no name", &[][..], &["ringcar"][..]),
            ("ringcar", &["/bin/ringcar", "list"], &["ringcar", "list"]),
            ("daprd", &["/bin/daprd", "-app-id", "x"], &["ringcar", "sidecar", "--app-id", "x"]),
            ("daprd-like", &["daprd2", "-a"], &["ringcar", "-a"]),
            (
                "sidecar's single dashes",
                &["ringcar", "sidecar", "-app-id=x", "-h", "-1"],
                &["ringcar", "sidecar", "--app-id=x", "-h", "-1"],
            ),
            ("others keep theirs", &["ringcar", "run", "-app"], &["ringcar", "run", "-app"]),
        ] {
            let got = resolve_name(given.iter().map(OsString::from).collect());
            assert_eq!(got, want.iter().map(OsString::from).collect::<Vec<_>>(), "{case}");
        }
    }
}
