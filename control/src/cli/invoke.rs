//! `ringcar invoke`: calls a method of an app through the app's own sidecar, as `dapr invoke` does.

#![forbid(unsafe_code)]

use super::{fail, say};
use crate::{
    http_client::{self, CallError},
    listen::prefer_ipv4,
    registry::{Entry, RegistryError, local::LocalRegistry},
    runtime_dir::{RuntimeDir, RuntimeDirError},
};
use http_body_util::Full;
use hyper::{Method, Request, Response, body::Bytes, header};
use snapshot::Address;
use std::{
    io::{self, Write},
    net::ToSocketAddrs,
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
    #[error("error invoking app {0}: stopped after {REDIRECTS_MAX} redirects")]
    Redirects(String),
    #[error("error invoking app {app_id}: it redirects to {location:?}, which cannot be followed")]
    Location { app_id: String, location: String },
    #[error("{0}")]
    Registry(#[from] RegistryError),
    #[error("{0}")]
    RuntimeDir(#[from] RuntimeDirError),
}

pub(super) async fn main(arguments: Arguments) -> ExitCode {
    match invoke(arguments).await {
        Ok(response) => {
            if !response.body().is_empty() {
                let mut stdout = io::stdout().lock();
                // A reader that left early has seen what it wanted.
                let _ = stdout.write_all(response.body()).and_then(|()| stdout.write_all(b"\n"));
            }
            say("✅  App invoked successfully");
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
    let mut step = Step { address, verb, path, body, is_redirected: false };
    let mut redirects = 0;
    let response = loop {
        let request = step.request().map_err(|e| InvokeError::Method(method.clone(), e))?;
        let response = match http_client::call(&step.address, request, CALL_TIMEOUT).await {
            Ok(response) => response,
            Err(e) => return Err(InvokeError::Call(app_id, e)),
        };
        match step.after(&response) {
            Ok(None) => break response,
            Ok(Some(_)) if redirects == REDIRECTS_MAX => {
                return Err(InvokeError::Redirects(app_id));
            }
            Ok(Some(next)) => step = next,
            Err(location) => return Err(InvokeError::Location { app_id, location }),
        }
        redirects += 1;
    };
    let status = response.status();
    if status.is_client_error() || status.is_server_error() {
        let body = String::from_utf8_lossy(response.body()).into_owned();
        return Err(InvokeError::Status { app_id, status, body });
    }
    Ok(response)
}

/// One request of those that redirects make of one.
struct Step {
    address: Address,
    verb: Method,
    path: String,
    body: Bytes,
    is_redirected: bool,
}

impl Step {
    fn request(&self) -> hyper::http::Result<Request<Full<Bytes>>> {
        let body = self.body.clone();
        let mut request = match self.is_redirected {
            // Wherever that leads, it is none of our APIs.
            true => http_client::request(self.verb.clone(), &self.path, body)?,
            false => http_client::api_request(self.verb.clone(), &self.path, body)?,
        };
        let json = header::HeaderValue::from_static("application/json");
        request.headers_mut().insert(header::CONTENT_TYPE, json);
        Ok(request)
    }

    /// Where a response leads, as Go's client reads it: 301, 302 and 303 to a GET without a body,
    /// 307 and 308 to the same request elsewhere.
    ///
    /// # Errors
    /// The location, where it cannot be followed.
    fn after(&self, response: &Response<Bytes>) -> Result<Option<Self>, String> {
        let keeps_request = match response.status().as_u16() {
            301..=303 => matches!(self.verb, Method::GET | Method::HEAD),
            307 | 308 => true,
            _ => return Ok(None),
        };
        let Some(location) = response.headers().get(header::LOCATION) else { return Ok(None) };
        let location = String::from_utf8_lossy(location.as_bytes()).into_owned();
        let (address, path) = self.resolve(&location).ok_or(location)?;
        let (verb, body) = match keeps_request {
            true => (self.verb.clone(), self.body.clone()),
            false => (Method::GET, Bytes::new()),
        };
        Ok(Some(Self { address, verb, path, body, is_redirected: true }))
    }

    fn resolve(&self, location: &str) -> Option<(Address, String)> {
        let location = location.split('#').next()?;
        if let Some(rest) = location.strip_prefix("http://") {
            let split = rest.find(['/', '?']).unwrap_or(rest.len());
            let (authority, path) = rest.split_at(split);
            let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
            let has_port =
                authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
            let place = if has_port { authority.to_owned() } else { format!("{authority}:80") };
            let address = prefer_ipv4(place.to_socket_addrs().ok()?)?;
            return Some((Address::Tcp(address), path));
        }
        if location.starts_with("//") || location.contains("://") {
            return None;
        }
        let base = self.path.split('?').next()?;
        let path = match location.as_bytes().first() {
            Some(b'/') => location.to_owned(),
            Some(b'?') => format!("{base}{location}"),
            None => base.to_owned(),
            Some(_) => format!("{}/{location}", base.rsplit_once('/').map_or("", |(up, _)| up)),
        };
        Some((self.address.clone(), path))
    }
}

/// The API of the app's own sidecar.
fn address(arguments: &Arguments) -> Result<Address, InvokeError> {
    if let Some(directory) = &arguments.unix_domain_socket {
        let name = format!("dapr-{}-http.socket", arguments.app_id);
        return Ok(Address::Unix(directory.join(name).into()));
    }
    let table = LocalRegistry::new(RuntimeDir::locate()?).read()?;
    let is_it = |entry: &Entry| entry.id.as_str() == arguments.app_id;
    let entry = table.into_iter().find(is_it);
    entry.map(|entry| entry.api).ok_or_else(|| InvokeError::NotFound(arguments.app_id.clone()))
}

/// A person waits at the other end; a method that takes longer is better called by something else.
const CALL_TIMEOUT: Duration = Duration::from_secs(300);

/// Go's client gives up after as many.
const REDIRECTS_MAX: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn next(verb: Method, status: u16, location: Option<&str>) -> Result<Option<String>, String> {
        let address = Address::Unix("/api".into());
        let step = Step {
            address,
            verb,
            path: "/v1.0/a?x=1".into(),
            body: "b".into(),
            is_redirected: false,
        };
        let mut response = Response::builder().status(status);
        if let Some(location) = location {
            response = response.header(header::LOCATION, location);
        }
        let next = step.after(&response.body(Bytes::new()).unwrap())?;
        Ok(next.map(|next| {
            format!("{} {} {} {}", next.verb, next.address, next.path, next.body.len())
        }))
    }

    #[test]
    fn follows_redirects_as_go_does() {
        for (case, verb, status, location, want) in [
            ("https", Method::GET, 302, Some("https://h/"), Err("https://h/")),
            ("another host", Method::GET, 302, Some("//h/x"), Err("//h/x")),
            ("no redirect", Method::POST, 200, Some("/b"), Ok(None)),
            ("nowhere", Method::POST, 302, None, Ok(None)),
            ("not modified", Method::GET, 304, Some("/b"), Ok(None)),
            ("301", Method::POST, 301, Some("/b"), Ok(Some("GET /api /b 0"))),
            ("302", Method::PUT, 302, Some("/b"), Ok(Some("GET /api /b 0"))),
            ("303", Method::DELETE, 303, Some("/b"), Ok(Some("GET /api /b 0"))),
            ("HEAD stays", Method::HEAD, 302, Some("/b"), Ok(Some("HEAD /api /b 1"))),
            ("307", Method::POST, 307, Some("/b#c"), Ok(Some("POST /api /b 1"))),
            ("308", Method::PUT, 308, Some("?y=2"), Ok(Some("PUT /api /v1.0/a?y=2 1"))),
            ("relative", Method::POST, 308, Some("b"), Ok(Some("POST /api /v1.0/b 1"))),
            (
                "absolute",
                Method::POST,
                307,
                Some("http://127.0.0.1:81/b"),
                Ok(Some("POST 127.0.0.1:81 /b 1")),
            ),
            (
                "without a path",
                Method::POST,
                307,
                Some("http://127.0.0.1"),
                Ok(Some("POST 127.0.0.1:80 / 1")),
            ),
        ] {
            let want = want.map(|next| next.map(str::to_owned)).map_err(str::to_owned);
            assert_eq!(next(verb, status, location), want, "{case}");
        }
    }
}
