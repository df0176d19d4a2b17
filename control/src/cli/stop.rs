//! `ringcar stop`: ends running apps by ending the `run` that started them, or their sidecar. One
//! that a node serves among others is served no longer, and its process is left alone: the node did
//! not start it.

#![forbid(unsafe_code)]

use super::{
    fail,
    node::{self, NodeCommandError},
    say,
};
use crate::{
    registry::{Entry, Table, local::LocalRegistry},
    runtime_dir::RuntimeDir,
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    collections::BTreeSet,
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Stop all apps of this run file, a path of its own or of its directory
    #[arg(short = 'f', long, value_name = "PATH", exclusive = true)]
    run_file: Option<PathBuf>,
    /// The app to stop; may be repeated
    #[arg(short, long = "app-id", value_name = "APP_ID", value_delimiter = ',')]
    app_ids: Vec<String>,
    /// Further apps to stop
    #[arg(value_name = "APP_ID", required_unless_present_any = ["app_ids", "run_file"])]
    more_app_ids: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
enum StopError {
    #[error(
        "its control (process {0}) is gone; the data plane ends by itself unless the next control \
         adopts it"
    )]
    Gone(u32),
    #[error("node {node}, which serves it, does not let it go: {reason}")]
    OfNode { node: String, reason: NodeCommandError },
    #[error("couldn't find app id {0}")]
    NotFound(String),
    #[error("couldn't find apps with run file {0:?}")]
    NoRun(String),
    #[error("{0}")]
    Path(#[from] super::run::PathError),
    #[error("cannot signal process {pid}: {reason}")]
    Kill { pid: u32, reason: rustix::io::Errno },
}

pub(super) async fn main(arguments: &Arguments) -> ExitCode {
    let table = match RuntimeDir::locate() {
        Ok(dir) => LocalRegistry::new(dir).read(),
        Err(e) => return fail(e),
    };
    let table = match table {
        Ok(table) => table,
        Err(e) => return fail(e),
    };
    if let Some(path) = &arguments.run_file {
        return match stop_run(path, &table).await {
            Ok(()) => {
                say("✅  Dapr and app processes stopped successfully");
                ExitCode::SUCCESS
            }
            Err(e) => fail(e),
        };
    }
    let mut code = ExitCode::SUCCESS;
    for app_id in arguments.app_ids.iter().chain(&arguments.more_app_ids) {
        match stop(app_id, &table).await {
            Ok(()) => say(format_args!("✅  app stopped successfully: {app_id}")),
            Err(e) => code = fail(format_args!("failed to stop app id {app_id}: {e}")),
        }
    }
    code
}

/// Every instance of the app.
async fn stop(app_id: &str, table: &Table) -> Result<(), StopError> {
    let mut found = table.iter().filter(|entry| entry.id.as_str() == app_id).peekable();
    if found.peek().is_none() {
        return Err(StopError::NotFound(app_id.to_owned()));
    }
    for entry in found {
        stop_one(entry).await?;
    }
    Ok(())
}

/// The one `run` that started all apps of a run file; those whose `run` is gone, one by one.
async fn stop_run(path: &Path, table: &Table) -> Result<(), StopError> {
    let path = super::run::locate(path)?.to_string_lossy().into_owned();
    let is_of_run = |entry: &&Entry| entry.run().run_template_path == path;
    let mut runs = BTreeSet::new();
    for entry in table.iter().filter(is_of_run) {
        match (entry.run().cli_pid, parent_of(entry.pid)) {
            (Some(cli), Some(parent)) if cli == parent => runs.insert(cli),
            _ => {
                stop_one(entry).await?;
                true
            }
        };
    }
    if !table.iter().any(|entry| is_of_run(&entry)) {
        return Err(StopError::NoRun(path));
    }
    runs.into_iter().try_for_each(terminate)
}

async fn stop_one(entry: &Entry) -> Result<(), StopError> {
    if let Some(node) = &entry.node {
        let removed = node::remove(node, &entry.namespace, &entry.id).await;
        return removed.map_err(|reason| StopError::OfNode { node: node.to_string(), reason });
    }
    // The data plane keeps the entry while control is away, and the process id may be somebody
    // else's by now.
    if !is_ringcar(entry.pid) {
        return Err(StopError::Gone(entry.pid));
    }
    terminate(target(entry, parent_of(entry.pid)))
}

fn is_ringcar(pid: u32) -> bool {
    let Ok(path) = fs::read_link(format!("/proc/{pid}/exe")) else { return false };
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    // An executable that was replaced has lost its name.
    let name = name.strip_suffix(" (deleted)").unwrap_or(name);
    let own = env::current_exe().ok();
    let own = own.as_deref().and_then(Path::file_name).and_then(OsStr::to_str);
    [own, Some("daprd"), Some("ringcar")].contains(&Some(name))
}

/// Whom to signal. The `run` that started the sidecar ends both; one that died before its sidecar
/// is no longer its parent, and its process id may be somebody else's by now. One that runs several
/// apps ends the app of a sidecar that ends.
fn target(entry: &Entry, sidecar_parent: Option<u32>) -> u32 {
    match (entry.run().cli_pid, sidecar_parent) {
        (Some(cli), Some(parent)) if cli == parent && entry.run().run_template_path.is_empty() => {
            cli
        }
        _ => entry.pid,
    }
}

fn terminate(pid: u32) -> Result<(), StopError> {
    let target = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let target = target.ok_or(StopError::Kill { pid, reason: rustix::io::Errno::SRCH })?;
    match kill_process(target, Signal::TERM) {
        // It ended by itself meanwhile, which is what was wanted.
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(reason) => Err(StopError::Kill { pid, reason }),
    }
}

fn parent_of(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_living_parent_is_signalled() {
        let mut entry = Entry::sample("orders", "1");
        entry.pid = 20;
        for (case, cli, parent, want) in [
            ("started by hand", None, Some(1), 20),
            ("started by run", Some(10), Some(10), 10),
            ("run was killed", Some(10), Some(1), 20),
            ("sidecar is gone", Some(10), None, 20),
        ] {
            entry.note("cliPID", &cli.map_or(String::new(), |pid: u32| pid.to_string()));
            assert_eq!(target(&entry, parent), want, "{case}");
        }
        assert_eq!(parent_of(std::process::id()), Some(std::os::unix::process::parent_id()));
    }

    #[tokio::test]
    async fn nobody_else_is_signalled() {
        let mut entry = Entry::sample("orders", "1");
        // Nobody has the largest process id there is.
        entry.pid = u32::MAX / 2;
        assert!(matches!(stop_one(&entry).await, Err(StopError::Gone(_))));
        entry.pid = std::os::unix::process::parent_id();
        assert!(
            matches!(stop_one(&entry).await, Err(StopError::Gone(_))),
            "whoever runs the tests"
        );
        assert!(is_ringcar(std::process::id()));
    }

    #[tokio::test]
    async fn an_unknown_app_is_an_error() {
        assert!(matches!(stop("nope", &Table::new()).await, Err(StopError::NotFound(_))));
    }
}
