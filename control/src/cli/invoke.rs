//! `ringcar invoke`: calls a method of an app through the app's own sidecar, as `dapr invoke` does.

#![forbid(unsafe_code)]

use super::{complain, fail};
use crate::{
    http_client::{self, CallError},
    registry::{Entry, RegistryError, local::LocalRegistry},
    runtime_dir::{RuntimeDir, RuntimeDirError},
};
use hyper::{Method, Response, body::Bytes, header};
use snapshot::Address;
use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The app to call
    #[arg(short, long)]
    app_id: String,
    /// The method to call, with its query
    #[arg(short, long)]
    method: String,
    /// The request's body
    #[arg(short, long, conflicts_with = "data_file")]
    data: Option<String>,
    /// A file with the request's body
    #[arg(short = 'f', long, value_name = "PATH")]
    data_file: Option<PathBuf>,
    /// The HTTP verb
    #[arg(short, long, default_value = "POST")]
    verb: String,
    /// Directory of the sidecar's API sockets
    #[arg(short, long, value_name = "DIRECTORY")]
    unix_domain_socket: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
enum InvokeError {
    #[error("app ID {0} not found")]
    NotFound(String),
    #[error("{0:?} is not an HTTP verb")]
    Verb(String),
    #[error("method {0:?} cannot be part of a URL: {1}")]
    Method(String, hyper::http::Error),
    #[error("cannot read {0}: {1}")]
    DataFile(PathBuf, io::Error),
    #[error("error invoking app {0}: {1}")]
    Call(String, CallError),
    #[error("error invoking app {app_id}: {status}{}{body}", if .body.is_empty() { "" } else { ": " })]
    Status { app_id: String, status: hyper::StatusCode, body: String },
    #[error("{0}")]
    Registry(#[from] RegistryError),
    #[error("{0}")]
    RuntimeDir(#[from] RuntimeDirError),
}

pub(super) async fn main(arguments: Arguments) -> ExitCode {
    match invoke(arguments).await {
        Ok(response) => {
            let mut stdout = io::stdout().lock();
            // A reader that left early has seen what it wanted.
            let _ = stdout.write_all(response.body()).and_then(|()| stdout.write_all(b"\n"));
            drop(stdout);
            complain("✅  App invoked successfully");
            ExitCode::SUCCESS
        }
        Err(e) => fail(e),
    }
}

async fn invoke(arguments: Arguments) -> Result<Response<Bytes>, InvokeError> {
    let address = address(&arguments)?;
    let Arguments { app_id, method, data, data_file, verb, .. } = arguments;
    let verb = Method::from_bytes(verb.to_ascii_uppercase().as_bytes())
        .map_err(|_| InvokeError::Verb(verb))?;
    let body = match (data, data_file) {
        (Some(data), _) => Bytes::from(data),
        (None, Some(path)) => {
            std::fs::read(&path).map_err(|e| InvokeError::DataFile(path, e))?.into()
        }
        (None, None) => Bytes::new(),
    };
    let path = format!("/v1.0/invoke/{app_id}/method/{}", method.trim_start_matches('/'));
    let mut request =
        http_client::request(verb, &path, body).map_err(|e| InvokeError::Method(method, e))?;
    let json = header::HeaderValue::from_static("application/json");
    request.headers_mut().insert(header::CONTENT_TYPE, json);
    let response = match http_client::call(&address, request, CALL_TIMEOUT).await {
        Ok(response) => response,
        Err(e) => return Err(InvokeError::Call(app_id, e)),
    };
    let status = response.status();
    if status.is_client_error() || status.is_server_error() {
        let body = String::from_utf8_lossy(response.body()).into_owned();
        return Err(InvokeError::Status { app_id, status, body });
    }
    Ok(response)
}

/// The API of the app's own sidecar.
fn address(arguments: &Arguments) -> Result<Address, InvokeError> {
    if let Some(directory) = &arguments.unix_domain_socket {
        let name = format!("dapr-{}-http.socket", arguments.app_id);
        return Ok(Address::Unix(directory.join(name)));
    }
    let table = LocalRegistry::new(RuntimeDir::locate()?).read()?;
    let is_it = |entry: &Entry| entry.id.as_str() == arguments.app_id;
    let entry = table.into_iter().find(is_it);
    entry.map(|entry| entry.api).ok_or_else(|| InvokeError::NotFound(arguments.app_id.clone()))
}

/// A person waits at the other end; a method that takes longer is better called by something else.
const CALL_TIMEOUT: Duration = Duration::from_secs(300);
