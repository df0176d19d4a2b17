//! `ringcar node`: serves the apps of a machine, and changes which ones they are while it does.

#![forbid(unsafe_code)]

use super::{block_on, fail, output, print, say};
use crate::{
    claim::{ADMIN_EXTENSION, PlaneName},
    config::LogChoice,
    host, http_client,
    log::{Format, Level, Log, Settings},
    node::{Files, config::NodeConfig, environment},
    open_files,
    runtime_dir::{RuntimeDir, RuntimeDirError},
    sidecar::{self, StartError},
    signals::Signals,
    steering::settings::Accelerate,
};
use hyper::{Method, body::Bytes};
use serde::{Deserialize, Serialize};
use snapshot::{Address, AppId, Namespace};
use std::{
    fs,
    io::{self, Read},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Option<NodeCommand>,
    /// The node's file; without one, all apps are added while it runs
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The node's name, instead of the one in its file
    #[arg(long)]
    name: Option<String>,
    /// Let bytes between apps and the data plane go past TCP: on, off or auto, instead of what the
    /// file says
    #[arg(long, value_name = "WHEN", value_parser = Accelerate::parse)]
    accelerate: Option<Accelerate>,
    /// Take the programs of the node that runs out of the kernel, and let it serve on
    #[arg(long, conflicts_with = "config")]
    detach: bool,
}

#[derive(clap::Subcommand)]
enum NodeCommand {
    /// Serve an app, or serve it otherwise, until the node is stopped
    Add(Add),
    /// Serve an app no longer
    Remove(Remove),
    /// List the apps that are served
    List(List),
    /// As --detach
    #[command(hide = true)]
    Detach(Which),
    /// Read the node's file anew
    Reload(Which),
}

#[derive(clap::Args)]
pub(super) struct Which {
    /// The node's name, where several run
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
}

/// Has the node serve this app no longer.
///
/// # Errors
/// When it does not run, or refuses.
pub(super) async fn remove(
    node: &str,
    namespace: &Namespace,
    id: &AppId,
) -> Result<(), NodeCommandError> {
    let which = Which { node: Some(node.to_owned()) };
    ask(&which, Method::DELETE, &path_of(namespace.as_str(), id.as_str()), String::new())
        .await
        .map(drop)
}

fn path_of(namespace: &str, id: &str) -> String {
    format!("/v1/apps/{namespace}/{id}")
}

#[derive(clap::Args)]
struct Add {
    #[command(flatten)]
    which: Which,
    /// Apps as in the node's file, one or a list; - is standard input
    #[arg(value_name = "FILE", required_unless_present = "id", conflicts_with = "id")]
    file: Option<PathBuf>,
    /// Name under which other apps call this one
    #[arg(long)]
    id: Option<String>,
    /// The app's namespace
    #[arg(long)]
    namespace: Option<String>,
    /// Where the app listens: a port, host:port, or unix:///path
    #[arg(long)]
    address: Option<String>,
    /// Port of the app's HTTP API
    #[arg(long)]
    http_port: Option<u16>,
    /// Addresses of that port, comma-separated; all unless given
    #[arg(long)]
    listen_addresses: Option<String>,
    /// Directory for the app's API socket, instead of a port
    #[arg(long)]
    unix_domain_socket: Option<String>,
    /// Largest request body, such as 4Mi
    #[arg(long)]
    max_body_size: Option<String>,
}

#[derive(clap::Args)]
struct Remove {
    #[command(flatten)]
    which: Which,
    /// The app's namespace
    #[arg(long, default_value = "default")]
    namespace: String,
    /// The app's id
    id: String,
}

#[derive(clap::Args)]
struct List {
    #[command(flatten)]
    which: Which,
    #[arg(short, long, value_enum, default_value_t = super::config::Output::Table)]
    output: super::config::Output,
}

/// One app, as the node tells it.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    id: String,
    namespace: String,
    api: String,
    address: String,
    state: String,
    source: String,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum NodeCommandError {
    #[error("{0}")]
    Answer(String),
    #[error("{0}")]
    Call(#[from] http_client::CallError),
    #[error("cannot read {path}: {reason}")]
    File { path: PathBuf, reason: io::Error },
    #[error("no node runs here{}", .0.as_ref().map(|name| format!(" under the name {name}")).unwrap_or_default())]
    NoNode(Option<String>),
    #[error("the request cannot be made: {0}")]
    Request(#[from] hyper::http::Error),
    #[error("{0}")]
    RuntimeDir(#[from] RuntimeDirError),
    #[error("several nodes run here ({0}); say which one with --node")]
    Several(String),
}

pub(super) fn main(arguments: Arguments) -> ExitCode {
    let Arguments { command, config, name, accelerate, detach } = arguments;
    let command =
        if detach { Some(NodeCommand::Detach(Which { node: name.clone() })) } else { command };
    let Some(command) = command else { return serve(Files { path: config, name, accelerate }) };
    block_on(async {
        match command.execute().await {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => fail(e),
        }
    })
}

fn serve(files: Files) -> ExitCode {
    let config = match files.read(&environment) {
        Ok(config) => config,
        Err(problems) => {
            let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
            return fail(texts.join("\n❌  "));
        }
    };
    open_files::raise();
    let log = match open_log(&config) {
        Ok(log) => log,
        Err(e) => return fail(format_args!("cannot open the log file: {e}")),
    };
    block_on(async {
        match start(config, files, &log).await {
            Ok((control, signals)) => control.run(signals).await,
            Err(e) => {
                log.fatal(e);
                ExitCode::FAILURE
            }
        }
    })
}

async fn start(
    config: NodeConfig,
    files: Files,
    log: &Log,
) -> Result<(sidecar::Sidecar, Signals), StartError> {
    let control = sidecar::prepare_node(config, files, log).await?;
    // Only now: until here a signal may simply end the process, also while it waits for a port.
    let signals = Signals::listen().map_err(StartError::Signals)?;
    Ok((control, signals))
}

fn open_log(config: &NodeConfig) -> io::Result<Log> {
    let LogChoice { format, threshold, file } = &config.base.process.log;
    let (format, threshold): (Format, Level) = (*format, *threshold);
    Log::open(Settings {
        format,
        threshold,
        app_id: config.name.clone(),
        instance: host::name().unwrap_or_default(),
        file: file.clone(),
    })
}

impl NodeCommand {
    async fn execute(self) -> Result<(), NodeCommandError> {
        match self {
            Self::Add(add) => {
                let body = add.body()?;
                ask(&add.which, Method::PUT, "/v1/apps", body).await.map(drop)
            }
            Self::Remove(Remove { which, namespace, id }) => {
                let path = path_of(&namespace, &id);
                ask(&which, Method::DELETE, &path, String::new()).await.map(drop)
            }
            Self::List(List { which, output }) => {
                let text = ask(&which, Method::GET, "/v1/apps", String::new()).await?;
                let rows: Vec<Row> = serde_json::from_str(&text)
                    .map_err(|e| NodeCommandError::Answer(format!("not understood: {e}")))?;
                print(match output {
                    super::config::Output::Json => output::json(&rows),
                    super::config::Output::Table => table(&rows),
                    super::config::Output::Yaml => output::yaml(&rows),
                });
                Ok(())
            }
            Self::Detach(which) => {
                ask(&which, Method::POST, "/v1/detach", String::new()).await?;
                say("✅  Connections are steered no longer");
                Ok(())
            }
            Self::Reload(which) => {
                ask(&which, Method::POST, "/v1/reload", String::new()).await?;
                say("✅  The node's file is in force");
                Ok(())
            }
        }
    }
}

impl Add {
    /// The file as it is, or one app out of the flags.
    fn body(&self) -> Result<String, NodeCommandError> {
        if let Some(path) = &self.file {
            return read(path)
                .map_err(|reason| NodeCommandError::File { path: path.clone(), reason });
        }
        let port = self.http_port.map(|port| port.to_string());
        let fields = [
            ("id", self.id.as_ref()),
            ("namespace", self.namespace.as_ref()),
            ("address", self.address.as_ref()),
            ("http-port", port.as_ref()),
            ("listen-addresses", self.listen_addresses.as_ref()),
            ("unix-domain-socket", self.unix_domain_socket.as_ref()),
            ("max-body-size", self.max_body_size.as_ref()),
        ];
        let given = fields.into_iter().filter_map(|(key, value)| {
            Some((key.to_owned(), serde_json::Value::from(value?.clone())))
        });
        Ok(serde_json::Value::Object(given.collect()).to_string())
    }
}

fn read(path: &Path) -> io::Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    fs::read_to_string(path)
}

/// The node's answer to an order, once it is in force.
pub(super) async fn ask(
    which: &Which,
    method: Method,
    path: &str,
    body: String,
) -> Result<String, NodeCommandError> {
    let socket = socket(which.node.as_deref())?;
    let request = http_client::request(method, path, Bytes::from(body))?;
    let response = http_client::call(&Address::Unix(socket.into()), request, CALL_TIMEOUT).await?;
    let text = String::from_utf8_lossy(response.body()).into_owned();
    if response.status().is_success() { Ok(text) } else { Err(NodeCommandError::Answer(text)) }
}

/// Where the node of this name is reached, or the only one there is.
fn socket(name: Option<&str>) -> Result<PathBuf, NodeCommandError> {
    let dir = RuntimeDir::locate()?;
    if let Some(name) = name {
        let path = dir.admin_socket(&PlaneName::of_node(name));
        let no_node = || NodeCommandError::NoNode(Some(name.to_owned()));
        return UnixStream::connect(&path).map(|_| path).map_err(|_| no_node());
    }
    let files = fs::read_dir(dir.data_planes()).into_iter().flatten().flatten();
    let is_admin = |path: &PathBuf| path.extension().is_some_and(|e| e == ADMIN_EXTENSION);
    let sockets = files.map(|file| file.path()).filter(is_admin);
    let mut running: Vec<PathBuf> =
        sockets.filter(|path| UnixStream::connect(path).is_ok()).collect();
    match running.len() {
        0 => Err(NodeCommandError::NoNode(None)),
        1 => Ok(running.remove(0)),
        _ => {
            let names = running.iter().filter_map(|path| path.file_stem()?.to_str());
            let names = names.map(|stem| stem.rsplit_once('-').map_or(stem, |(label, _)| label));
            Err(NodeCommandError::Several(names.collect::<Vec<_>>().join(", ")))
        }
    }
}

fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "The node serves no apps.\n".to_owned();
    }
    let head = ["APP ID", "NAMESPACE", "API", "APP", "STATE", "FROM"];
    let cells = rows.iter().map(|row| {
        let Row { id, namespace, api, address, state, source } = row;
        [id, namespace, api, address, state, source].map(Clone::clone).to_vec()
    });
    output::table(&head, cells)
}

/// Longer than the node takes before it gives up itself.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
