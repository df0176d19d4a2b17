//! The life of one app and its sidecar.
//!
//! ```text
//!   sidecar starts ──► its API listens ──► app starts ──► both run ──► one ends, or a signal
//!                                                             the other is ended ◄──┘
//! ```
//! The sidecar outlives the app by its drain, so that the app's last calls still go through. One
//! that is killed is started anew: its data plane serves on meanwhile, and the app need not know.

#![forbid(unsafe_code)]

use super::{
    RunError,
    child::{self, Group},
    plan::Plan,
};
use crate::{
    cli::{complain, say},
    http_client,
    signals::{Signal, Source},
};
use hyper::{Method, body::Bytes};
use snapshot::Address;
use std::{
    convert::Infallible,
    env, io,
    net::{Ipv4Addr, SocketAddr},
    os::unix::process::ExitStatusExt,
    pin::Pin,
    process::ExitStatus,
    time::Duration,
};
use tokio::{
    net::{TcpStream, UnixStream},
    process::Command,
    sync::oneshot,
    time::Instant,
};

/// Returns the exit code of `run`. `started` is told when the app runs.
pub(super) async fn run(
    plan: &Plan,
    signals: &mut impl Source,
    started: oneshot::Sender<()>,
) -> Result<u8, RunError> {
    say(format_args!(
        "ℹ️  Starting Dapr with id {}. HTTP Port: {}. gRPC Port: {}",
        plan.app_id, plan.http_port, plan.grpc_port
    ));
    let mut sidecar = start_sidecar(plan).map_err(RunError::Sidecar)?;
    let result = run_beside(plan, &mut sidecar, signals, started).await;
    let ended = sidecar.end(Signal::Terminate, SIDECAR_PATIENCE).await;
    if ended.is_some_and(|status| status.success()) {
        say(format_args!("✅  Exited Dapr{} successfully", plan.label()));
    }
    sidecar.finish_output().await;
    result
}

/// Everything between the start of the sidecar and its end.
async fn run_beside(
    plan: &Plan,
    sidecar: &mut Group,
    signals: &mut impl Source,
    started: oneshot::Sender<()>,
) -> Result<u8, RunError> {
    let address = api_address(plan);
    tokio::select! {
        result = wait_for_api(&address) => result?,
        status = sidecar.ended() => {
            return Err(RunError::SidecarEnded(status.map_err(RunError::Wait)?));
        }
        () = end_signal(signals) => return Ok(0),
    }
    say("✅  Dapr sidecar is up and running.");
    // Whoever waits for it may have left.
    let is_up = || started.send(());
    if plan.command.is_empty() {
        let _ = is_up();
        announce(&address, &entries(plan, None)).await;
        say_up(plan, "Dapr logs will appear here.");
        return watch_sidecar(plan, sidecar, signals).await;
    }
    let mut app = start_app(plan)?;
    let _ = is_up();
    let code = watch_both(plan, &address, &mut app, sidecar, signals).await;
    app.finish_output().await;
    code
}

fn say_up(plan: &Plan, text: &str) {
    match plan.is_one_of_several {
        true => say(format_args!(
            "✅  Started Dapr with app id {:?}. HTTP Port: {}. gRPC Port: {}",
            plan.app_id, plan.http_port, plan.grpc_port
        )),
        false => say(format_args!("✅  You're up and running! {text}\n")),
    }
}

fn start_sidecar(plan: &Plan) -> io::Result<Group> {
    let executable = env::current_exe()?;
    let mut command = Command::new(executable);
    // Under its file's name it might be something else.
    command.arg0("ringcar").arg("sidecar").args(&plan.sidecar_arguments);
    Group::start(&mut command, &plan.surroundings.sidecar_output)
}

fn start_app(plan: &Plan) -> Result<Group, RunError> {
    let (program, arguments) = plan.command.split_first().map_or(("", &[][..]), |(p, a)| (p, a));
    let mut command = Command::new(program);
    command.args(arguments).envs(plan.environment()).envs(plan.surroundings.environment.clone());
    if let Some(directory) = &plan.surroundings.directory {
        command.current_dir(directory);
    }
    Group::start(&mut command, &plan.surroundings.app_output)
        .map_err(|reason| RunError::App { command: plan.command.join(" "), reason })
}

/// Where `run` itself reaches the sidecar.
fn api_address(plan: &Plan) -> Address {
    match &plan.unix_domain_socket {
        Some(directory) => {
            Address::Unix(directory.join(format!("dapr-{}-http.socket", plan.app_id)).into())
        }
        None => Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, plan.http_port))),
    }
}

async fn wait_for_api(address: &Address) -> Result<(), RunError> {
    match address {
        Address::Tcp(tcp) => {
            let port = tcp.port();
            say(format_args!("ℹ️  Checking if Dapr sidecar is listening on HTTP port {port}"));
        }
        Address::Unix(path) => {
            say(format_args!("ℹ️  Checking if Dapr sidecar is listening on {}", path.display()));
        }
    }
    let deadline = Instant::now() + API_TIMEOUT;
    let mut pause = POLL_PAUSE_MIN;
    while !is_listening(address).await {
        if Instant::now() > deadline {
            return Err(RunError::Silent(API_TIMEOUT));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(POLL_PAUSE_MAX);
    }
    Ok(())
}

async fn is_listening(address: &Address) -> bool {
    match address {
        Address::Tcp(address) => TcpStream::connect(address).await.is_ok(),
        Address::Unix(path) => UnixStream::connect(path).await.is_ok(),
    }
}

async fn end_signal(signals: &mut impl Source) {
    while !ends_run(signals.next().await) {}
}

/// A terminal that is closed ends what runs in it.
pub(super) const fn ends_run(signal: Signal) -> bool {
    signal.is_end() || matches!(signal, Signal::Hangup)
}

async fn watch_sidecar(
    plan: &Plan,
    sidecar: &mut Group,
    signals: &mut impl Source,
) -> Result<u8, RunError> {
    let mut revival = Revival::default();
    loop {
        tokio::select! {
            status = sidecar.ended() => {
                let status = status.map_err(RunError::Wait)?;
                match revival.try_again(plan, status).map_err(RunError::Sidecar)? {
                    Some(next) => *sidecar = next,
                    None => return Ok(child::code(status)),
                }
            }
            () = end_signal(signals) => return Ok(0),
        }
    }
}

/// A sidecar that was killed is started again, unless it never lives for long.
#[derive(Default)]
struct Revival {
    last: Option<Instant>,
    early_deaths: u32,
}

impl Revival {
    /// `None` for one that ended by itself, or too often.
    fn try_again(&mut self, plan: &Plan, status: ExitStatus) -> io::Result<Option<Group>> {
        if status.signal().is_none() {
            return Ok(None);
        }
        let now = Instant::now();
        let is_early = self.last.is_some_and(|last| now - last < EARLY_DEATH);
        self.early_deaths = if is_early { self.early_deaths + 1 } else { 0 };
        self.last = Some(now);
        if self.early_deaths >= EARLY_DEATHS_MAX {
            return Ok(None);
        }
        complain(format_args!(
            "⚠️  The daprd process{} ended: {status}; starting it anew",
            plan.label()
        ));
        start_sidecar(plan).map(Some)
    }
}

/// Returns `run`'s exit code once app and sidecar have had enough of each other; the app has ended
/// then.
async fn watch_both(
    plan: &Plan,
    address: &Address,
    app: &mut Group,
    sidecar: &mut Group,
    signals: &mut impl Source,
) -> Result<u8, RunError> {
    let entries = entries(plan, app.pid());
    let mut announcing: Announcing<'_> = Box::pin(async {
        announce(address, &entries).await;
        say_up(plan, "Both Dapr and your app logs will appear here.");
        std::future::pending().await
    });
    let mut revival = Revival::default();
    loop {
        tokio::select! {
            status = app.ended() => {
                let code = child::code(status.map_err(RunError::Wait)?);
                if code == 0 {
                    say(format_args!("✅  Exited App{} successfully", plan.label()));
                } else {
                    let label = plan.label();
                    complain(format_args!(
                        "❌  The App process{label} exited with error code: {code}"
                    ));
                }
                return Ok(code);
            }
            status = sidecar.ended() => {
                let status = status.map_err(RunError::Wait)?;
                if let Some(next) = revival.try_again(plan, status).map_err(RunError::Sidecar)? {
                    *sidecar = next;
                    announcing = Box::pin(announce_again(address, &entries));
                    continue;
                }
                complain(format_args!("❌  The daprd process{} ended: {status}", plan.label()));
                let app_status = app.end(Signal::Terminate, APP_PATIENCE).await;
                let code = app_status.map_or(1, child::code);
                // An app without its sidecar is no success, even if it ends as one.
                return Ok(if status.success() { code } else { code.max(1) });
            }
            signal = signals.next() => {
                if !ends_run(signal) {
                    app.signal(signal.number());
                    continue;
                }
                if !plan.is_one_of_several {
                    say(format_args!("\nℹ️  {} signal received: shutting down", signal.name()));
                }
                return end_app(plan, app, signal, signals).await;
            }
            never = &mut announcing => match never {},
        }
    }
}

/// Done beside everything else, and never done with.
type Announcing<'a> = Pin<Box<dyn Future<Output = Infallible> + Send + 'a>>;

/// A sidecar whose data plane died too knows nothing any more.
async fn announce_again(address: &Address, entries: &[(&str, String)]) -> Infallible {
    if wait_for_api(address).await.is_ok() {
        announce(address, entries).await;
    }
    std::future::pending().await
}

/// A second signal ends the app's time.
async fn end_app(
    plan: &Plan,
    app: &mut Group,
    signal: Signal,
    signals: &mut impl Source,
) -> Result<u8, RunError> {
    let status = tokio::select! {
        status = app.end(signal, APP_PATIENCE) => status,
        () = end_signal(signals) => None,
    };
    let status = match status {
        Some(status) => Some(status),
        None => app.end(Signal::Terminate, Duration::ZERO).await,
    };
    say(format_args!("✅  Exited App{} successfully", plan.label()));
    Ok(status.map_or(1, child::code))
}

/// What the sidecar is told of itself and its app.
fn entries(plan: &Plan, app_pid: Option<u32>) -> Vec<(&'static str, String)> {
    let mut entries = vec![("cliPID", std::process::id().to_string())];
    if !plan.command.is_empty() {
        entries.push(("appPID", app_pid.map_or(String::new(), |pid| pid.to_string())));
        entries.push(("appCommand", plan.command.join(" ")));
    }
    entries.extend(plan.surroundings.entries.iter().cloned());
    entries
}

/// Tells the sidecar who runs it, for `list` and `stop`. A sidecar that does not take it serves all
/// the same.
async fn announce(address: &Address, entries: &[(&str, String)]) {
    for (key, value) in entries {
        let path = format!("/v1.0/metadata/{key}");
        let body = Bytes::from(value.clone());
        let Ok(request) = http_client::api_request(Method::PUT, &path, body) else { continue };
        match http_client::call(address, request, ANNOUNCE_TIMEOUT).await {
            Ok(response) if response.status().is_success() => {}
            Ok(response) => {
                complain(format_args!(
                    "⚠️  Could not update sidecar metadata for {key}: {}",
                    response.status()
                ));
            }
            Err(e) => {
                complain(format_args!("⚠️  Could not update sidecar metadata for {key}: {e}"))
            }
        }
    }
}

/// A sidecar that is killed again within this time will probably be again.
const EARLY_DEATH: Duration = Duration::from_secs(1);
const EARLY_DEATHS_MAX: u32 = 5;

/// `dapr run`'s.
const API_TIMEOUT: Duration = Duration::from_secs(60);

const POLL_PAUSE_MIN: Duration = Duration::from_millis(1);
const POLL_PAUSE_MAX: Duration = Duration::from_millis(50);

/// From the signal to SIGKILL: daprd's graceful time, granted to the app too.
const APP_PATIENCE: Duration = Duration::from_secs(5);

/// The sidecar's own graceful time, and some for its end.
const SIDECAR_PATIENCE: Duration = Duration::from_secs(7);

const ANNOUNCE_TIMEOUT: Duration = Duration::from_secs(5);
