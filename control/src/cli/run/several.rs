//! The apps of a run file, side by side: started one after the other, ended together.
//!
//! The next one starts when the one before it runs. An app that ends takes its own sidecar with it
//! and nobody else's; one that cannot be started ends all, since the others may need it.

#![forbid(unsafe_code)]

use super::{
    RunError,
    file::{App, Destination, RunFile},
    one::{self, ends_run},
    output::Output,
    plan::{Plan, Surroundings},
};
use crate::{
    cli::{complain, say},
    signals::{Signal, Source},
    timestamp::Timestamp,
};
use std::{
    collections::VecDeque,
    fs::{self, File},
    future, io,
    path::Path,
    sync::Arc,
};
use tokio::{
    sync::{broadcast, oneshot},
    task::JoinSet,
};

/// Returns the exit code of `run`: not 0 when one of the apps ended with another.
pub(super) async fn run(file: &RunFile, signals: &mut impl Source) -> Result<u8, RunError> {
    let plans = plans(file)?;
    let mut apps = Apps::new(plans);
    loop {
        apps.start_next();
        if apps.running.is_empty() {
            return Ok(apps.code);
        }
        tokio::select! {
            signal = signals.next() => apps.on_signal(signal),
            is_up = is_up(&mut apps.starting) => apps.on_start(is_up),
            Some(ended) = apps.running.join_next() => {
                // A task that panicked has said so.
                apps.on_end(ended.unwrap_or(1));
            }
        }
    }
}

struct Apps {
    waiting: VecDeque<Plan>,
    /// The one that was started last, until it runs.
    starting: Option<oneshot::Receiver<()>>,
    running: JoinSet<u8>,
    signals: broadcast::Sender<Signal>,
    code: u8,
}

impl Apps {
    fn new(waiting: VecDeque<Plan>) -> Self {
        let (signals, _) = broadcast::channel(SIGNALS_MAX);
        Self { waiting, starting: None, running: JoinSet::new(), signals, code: 0 }
    }

    fn start_next(&mut self) {
        if self.starting.is_some() {
            return;
        }
        let Some(plan) = self.waiting.pop_front() else { return };
        let (started, starting) = oneshot::channel();
        self.starting = Some(starting);
        let mut signals = self.signals.subscribe();
        self.running.spawn(async move {
            match one::run(&plan, &mut signals, started).await {
                Ok(code) => code,
                Err(e) => {
                    complain(format_args!("❌  App {}: {e}", plan.app_id));
                    1
                }
            }
        });
    }

    fn on_start(&mut self, is_up: bool) {
        self.starting = None;
        if !is_up {
            self.code = 1;
            self.end();
        }
    }

    fn on_end(&mut self, code: u8) {
        self.code = self.code.max(code);
    }

    fn on_signal(&mut self, signal: Signal) {
        if ends_run(signal) {
            say(format_args!(
                "\nℹ️  {} signal received: shutting down Dapr and app processes",
                signal.name()
            ));
            self.waiting.clear();
        }
        // Nobody listens when all have ended.
        let _ = self.signals.send(signal);
    }

    fn end(&mut self) {
        self.waiting.clear();
        let _ = self.signals.send(Signal::Terminate);
    }
}

/// Whether the one that is starting runs; `false` when it ended before.
async fn is_up(starting: &mut Option<oneshot::Receiver<()>>) -> bool {
    match starting {
        Some(starting) => starting.await.is_ok(),
        None => future::pending().await,
    }
}

/// All are made before any is started, so that no two get one port.
fn plans(file: &RunFile) -> Result<VecDeque<Plan>, RunError> {
    let mut held = Vec::new();
    let path = file.path.to_string_lossy().into_owned();
    let now = Timestamp::now();
    let make = |app: &App| {
        let mut surroundings = surroundings(app, now)?;
        surroundings.entries.push(("runTemplatePath", path.clone()));
        surroundings.entries.push(("runTemplateName", file.name.clone()));
        let mut plan = Plan::new(&app.arguments, surroundings, &mut held)?;
        plan.is_one_of_several = true;
        Ok(plan)
    };
    file.apps.iter().map(make).collect()
}

fn surroundings(app: &App, now: Timestamp) -> Result<Surroundings, RunError> {
    let directory = app.directory.join(".dapr/logs");
    let mut entries = Vec::new();
    let mut output = |kind: &str, destination: Destination, key: &'static str, prefix: String| {
        let mut output = Output::default();
        if destination != Destination::File {
            output.prefix = Some(prefix);
        }
        if destination != Destination::Console {
            let path = directory.join(format!("{}_{kind}_{}.log", app.id, now.digits()));
            let file =
                create(&path).map_err(|reason| RunError::Log { path: path.clone(), reason })?;
            say(format_args!("ℹ️  Writing the log of {} ({kind}) to {}", app.id, path.display()));
            output.file = Some(Arc::new(file));
            entries.push((key, path.to_string_lossy().into_owned()));
        }
        Ok::<_, RunError>(output)
    };
    let prefix = |kind: &str| format!("== {kind} - {} == ", app.id);
    let app_output = output("app", app.app_log, "appLogPath", prefix("APP"))?;
    let sidecar_output = output("daprd", app.daprd_log, "daprdLogPath", prefix("DAPR"))?;
    Ok(Surroundings {
        directory: Some(app.directory.clone()),
        environment: app.environment.clone(),
        app_output,
        sidecar_output,
        entries,
    })
}

fn create(path: &Path) -> io::Result<File> {
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    File::create(path)
}

/// More than a person sends before the apps have read them.
const SIGNALS_MAX: usize = 16;
