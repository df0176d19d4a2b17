//! `ringcar run`: an app and its sidecar as one command, as `dapr run` has it; with `--run-file`
//! several of them.

#![forbid(unsafe_code)]

mod child;
mod file;
mod one;
mod output;
mod plan;
mod several;

pub(super) use file::{PathError, locate};
pub(super) use plan::Arguments;

use super::fail;
use crate::signals::Signals;
use plan::{Plan, PlanError, Surroundings};
use std::{
    env, io,
    path::{Path, PathBuf},
    process::{ExitCode, ExitStatus},
    time::Duration,
};
use tokio::sync::oneshot;

#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error("{0}")]
    File(#[from] file::FileError),
    #[error("{0}")]
    Plan(#[from] PlanError),
    #[error("cannot listen for signals: {0}")]
    Signals(io::Error),
    #[error("cannot start the sidecar: {0}")]
    Sidecar(io::Error),
    #[error("the sidecar ended before it listened ({0}); its log says why")]
    SidecarEnded(ExitStatus),
    #[error("the sidecar does not listen after {0:?}")]
    Silent(Duration),
    #[error("cannot start {command:?}: {reason}")]
    App { command: String, reason: io::Error },
    #[error("cannot write the log {path}: {reason}")]
    Log { path: PathBuf, reason: io::Error },
    #[error("cannot wait for a process: {0}")]
    Wait(io::Error),
}

pub(super) async fn main(arguments: Arguments) -> ExitCode {
    match run(arguments).await {
        Ok(code) => ExitCode::from(code),
        Err(e) => fail(e),
    }
}

async fn run(mut arguments: Arguments) -> Result<u8, RunError> {
    let mut signals = Signals::listen().map_err(RunError::Signals)?;
    if let Some(path) = &arguments.run_file {
        return several::run(&file::read(path)?, &mut signals).await;
    }
    if let Some(home) = env::var_os("HOME") {
        arguments.fill_in_home(Path::new(&home));
    }
    let plan = Plan::new(&arguments, Surroundings::of_terminal(), &mut Vec::new())?;
    let (started, _) = oneshot::channel();
    one::run(&plan, &mut signals, started).await
}
