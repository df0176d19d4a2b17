//! `ringcar dataplane`: the data plane's process. Control starts it; people rarely do.
//!
//! No runtime is started here: the workers are threads of the data plane's own.

#![forbid(unsafe_code)]

use super::fail;
use crate::{adopt::PROCESS_NAME, listen, open_files};
use dataplane::engine::Choice;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::{
    env, io,
    num::NonZeroUsize,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
};

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The link's listening socket is standard input
    #[arg(long, required_unless_present = "link_path", conflicts_with = "link_path")]
    link_stdin: bool,
    /// Listen for control on this Unix socket
    #[arg(long, value_name = "PATH")]
    link_path: Option<PathBuf>,
    /// Worker threads; one per CPU, up to four, unless told otherwise
    #[arg(long, value_name = "COUNT")]
    workers: Option<NonZeroUsize>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum DataPlaneError {
    #[error("RINGCAR_ENGINE={0:?} names no engine; use auto, uring or epoll")]
    Engine(String),
    #[error("{0}")]
    Link(String),
    #[error("{0}")]
    Run(#[from] dataplane::RunError),
}

impl Arguments {
    /// `--link-stdin` and nothing else.
    pub(super) const fn of_control() -> Self {
        Self { link_stdin: true, link_path: None, workers: None }
    }
}

pub(super) fn main(arguments: &Arguments) -> ExitCode {
    match serve(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => fail(format_args!("data plane: {e}")),
    }
}

fn serve(arguments: &Arguments) -> Result<(), DataPlaneError> {
    leave_signals_to_control();
    open_files::raise();
    // `ps` would show `exe`, after the path it was started by. A name that is refused is no reason
    // to stop.
    let _ = rustix::thread::set_name(PROCESS_NAME);
    let engine = engine(env::var("RINGCAR_ENGINE").ok())?;
    let link = link(arguments)?;
    dataplane::run(dataplane::Options { link, workers: arguments.workers, engine })?;
    Ok(())
}

/// systemd and terminals signal every process of a service, but only control knows when calls are
/// finished. Handlers that do nothing, since ignoring would be inherited; control's death is told
/// by the link.
fn leave_signals_to_control() {
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        // Without the handler the process ends sooner than it should; control then says so.
        let _ = signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)));
    }
}

pub(super) fn engine(name: Option<String>) -> Result<Choice, DataPlaneError> {
    match name.as_deref() {
        None | Some("" | "auto") => Ok(Choice::Auto),
        Some("epoll") => Ok(Choice::Epoll),
        Some("uring") => Ok(Choice::Uring),
        Some(other) => Err(DataPlaneError::Engine(other.to_owned())),
    }
}

fn link(arguments: &Arguments) -> Result<OwnedFd, DataPlaneError> {
    let failed = |e: &dyn std::fmt::Display| DataPlaneError::Link(format!("link socket: {e}"));
    match &arguments.link_path {
        Some(path) => listen::unix(path).map_err(|e| failed(&e)),
        None => own_stdin().map_err(|e| failed(&e)),
    }
}

/// Control made the socket, and whoever connects would be told control's process for it. Listening
/// on it again puts this process in its place (`SO_PEERCRED` is taken at `listen`, unix(7)).
fn own_stdin() -> io::Result<OwnedFd> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    rustix::net::listen(&socket, LINK_BACKLOG)?;
    Ok(socket)
}

/// One control at a time, and those that are turned away.
const LINK_BACKLOG: i32 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_is_chosen_by_name() {
        assert!(matches!(engine(Some("kqueue".into())), Err(DataPlaneError::Engine(_))));
        for (name, want) in [
            (None, "Auto"),
            (Some("auto"), "Auto"),
            (Some("uring"), "Uring"),
            (Some("epoll"), "Epoll"),
        ] {
            let choice = engine(name.map(str::to_owned)).unwrap();
            assert_eq!(format!("{choice:?}"), want, "{name:?}");
        }
    }
}
