//! `ringcar sidecar`, and `daprd`: reads the flags, prepares the sidecar, and runs it until its
//! end.

#![forbid(unsafe_code)]

use super::{block_on, say};
use crate::{
    config::{
        Config, ConfigError, LogChoice,
        flags::{self, Values},
    },
    host, http_client,
    log::{Format, Level, Log, Settings},
    resources,
    sidecar::{self, Configure, StartError},
    signals::Signals,
    version,
};
use clap::ArgMatches;
use hyper::{Method, body::Bytes};
use snapshot::Address;
use std::{
    env, io,
    net::{Ipv4Addr, SocketAddr},
    process::ExitCode,
    time::{Duration, Instant},
};

#[derive(Debug, thiserror::Error)]
pub(super) enum SidecarError {
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error("{error} (from {origin})")]
    ConfigFrom { error: ConfigError, origin: String },
    #[error("cannot open the log file: {0}")]
    LogFile(io::Error),
    #[error("cannot listen for signals: {0}")]
    Signals(io::Error),
    #[error("{0}")]
    Start(#[from] StartError),
}

pub(super) fn main(matches: &ArgMatches) -> ExitCode {
    match Values::new(matches, &environment) {
        Ok(values) => execute(values),
        Err(e) => refuse(&plain_log(String::new()), e.into()),
    }
}

pub(super) fn environment(name: &str) -> Option<String> {
    env::var(name).ok()
}

fn execute(values: Values) -> ExitCode {
    if values.is_set("version") {
        say(version::DAPR);
        return ExitCode::SUCCESS;
    }
    if values.is_set("build-info") {
        say(format_args!(
            "Version: {}\nGit Commit: {}\nRingcar Version: {}",
            version::DAPR,
            version::COMMIT,
            version::RINGCAR
        ));
        return ExitCode::SUCCESS;
    }
    if values.is_set("wait") {
        return block_on(wait(values.text("dapr-http-port").to_owned()));
    }
    serve(values)
}

fn serve(given: Values) -> ExitCode {
    let app_id = given.text("app-id").to_owned();
    let mut values = given.clone();
    let config = match configure(&mut values) {
        Ok(config) => config,
        Err(e) => return refuse(&plain_log(app_id), e),
    };
    let log = match open_log(app_id.clone(), &config.process.log) {
        Ok(log) => log,
        Err(e) => return refuse(&plain_log(app_id), SidecarError::LogFile(e)),
    };
    block_on(async {
        match start(&config, &log).await {
            Ok((mut sidecar, signals)) => {
                sidecar.watch_files(again(given), values, &config);
                sidecar.run(signals).await
            }
            Err(e) => refuse(&log, e),
        }
    })
}

/// The same once more, with what the files say then.
fn again(given: Values) -> Configure {
    Box::new(move || {
        let mut values = given.clone();
        let config = configure(&mut values).map_err(|e| e.to_string())?;
        Ok((values, config))
    })
}

/// From all that flags, variables and files say.
pub(super) fn configure(values: &mut Values) -> Result<Config, SidecarError> {
    let configuration = flags::read_files(values, &environment)?;
    let mut config = Config::from_flags(values, &environment).map_err(|error| {
        match error.flag().and_then(|flag| values.origin(flag)) {
            Some(origin) => SidecarError::ConfigFrom { error, origin },
            None => error.into(),
        }
    })?;
    config.take(configuration);
    resources::configure(&mut config, values, &environment).map_err(ConfigError::Resources)?;
    Ok(config)
}

fn refuse(log: &Log, error: SidecarError) -> ExitCode {
    log.fatal(error);
    ExitCode::FAILURE
}

async fn start(config: &Config, log: &Log) -> Result<(sidecar::Sidecar, Signals), SidecarError> {
    let sidecar = sidecar::prepare(config, log).await?;
    // Only now: until here a signal may simply end the process, also while it waits for a port.
    let signals = Signals::listen().map_err(SidecarError::Signals)?;
    Ok((sidecar, signals))
}

fn open_log(app_id: String, choice: &LogChoice) -> io::Result<Log> {
    Log::open(Settings {
        format: choice.format,
        threshold: choice.threshold,
        app_id,
        instance: host::name().unwrap_or_default(),
        file: choice.file.clone(),
    })
}

/// For what goes wrong before the log's own flags are known to be sound.
fn plain_log(app_id: String) -> Log {
    let choice = LogChoice { format: Format::Text, threshold: Level::Info, file: None };
    open_log(app_id, &choice).expect("standard output needs no opening")
}

/// Waits until the sidecar on this port can call out. Always succeeds, as daprd's: it is for
/// scripts that go on either way.
async fn wait(port: String) -> ExitCode {
    let Ok(port) = port.parse() else { return ExitCode::SUCCESS };
    let address = Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let deadline = Instant::now() + WAIT_MAX;
    while Instant::now() < deadline && !is_outbound_ready(&address).await {
        tokio::time::sleep(WAIT_PAUSE).await;
    }
    ExitCode::SUCCESS
}

async fn is_outbound_ready(address: &Address) -> bool {
    let request = http_client::request(Method::GET, "/v1.0/healthz/outbound", Bytes::new());
    let Ok(request) = request else { return false };
    let response = http_client::call(address, request, WAIT_CALL_TIMEOUT).await;
    response.is_ok_and(|response| response.status().is_success())
}

const WAIT_MAX: Duration = Duration::from_secs(60);
const WAIT_PAUSE: Duration = Duration::from_millis(100);
const WAIT_CALL_TIMEOUT: Duration = Duration::from_millis(500);
