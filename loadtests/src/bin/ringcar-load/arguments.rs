//! The command line, and the plan that it amounts to.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, bail};
use clap::Parser;
use loadtests::address;
use snapshot::Address;
use std::{fs, path::PathBuf, time::Duration};

/// Sends HTTP/1.1 requests over keep-alive connections and checks each answer's status and size.
#[derive(Parser)]
pub(crate) struct Arguments {
    /// Whom to call: http://host:port/path. `--target` and `--path` say the same in parts.
    #[arg(long, required_unless_present = "target", conflicts_with_all = ["target", "path"])]
    url: Option<String>,
    /// Whom to call: 127.0.0.1:8080 or unix:/path.
    #[arg(long, value_parser = address::parse)]
    target: Option<Address>,
    #[arg(long, default_value = "/")]
    path: String,
    #[arg(long, default_value = "GET")]
    method: String,
    /// A header line, `name: value`; may be repeated.
    #[arg(long)]
    header: Vec<String>,
    /// Size of each request's body.
    #[arg(long, default_value_t = 0)]
    body_bytes: usize,
    /// Sends this file as it is instead, head and body.
    #[arg(long, conflicts_with_all = ["method", "header", "body_bytes"])]
    request_file: Option<PathBuf>,
    /// Connections in use.
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Further connections that make one request each and then only stay open.
    #[arg(long, default_value_t = 0)]
    connections_idle: usize,
    /// Seconds to measure.
    #[arg(long, default_value_t = 5.0)]
    duration: f64,
    /// Ends after this many measured requests, if that is earlier.
    #[arg(long)]
    requests: Option<u64>,
    /// Seconds before measuring begins.
    #[arg(long, default_value_t = 0.2)]
    warmup: f64,
    /// Open loop: requests per second. Latency counts from when a request was due, not from when it
    /// could be sent.
    #[arg(long)]
    rate: Option<f64>,
    /// Status that each answer must have.
    #[arg(long, default_value_t = 200)]
    expect_status: u16,
    /// Body size that each answer must have.
    #[arg(long)]
    expect_bytes: Option<u64>,
    /// A process whose CPU time and memory are reported; may be repeated.
    #[arg(long)]
    watch_pid: Vec<u32>,
}

pub(crate) struct Plan {
    pub(crate) target: Address,
    /// Head and body of every request.
    pub(crate) request: Vec<u8>,
    pub(crate) to_head: bool,
    pub(crate) connections: usize,
    pub(crate) connections_idle: usize,
    pub(crate) duration: Duration,
    pub(crate) requests_max: u64,
    pub(crate) warmup: Duration,
    /// Time between two requests of an open loop.
    pub(crate) interval: Option<Duration>,
    pub(crate) expect_status: u16,
    pub(crate) expect_bytes: Option<u64>,
    pub(crate) watched: Vec<u32>,
}

impl Arguments {
    pub(crate) fn plan(self) -> Result<Plan> {
        if self.connections == 0 {
            bail!("--connections must be at least 1");
        }
        let (target, host, path) = self.whom()?;
        let request = match &self.request_file {
            Some(file) => fs::read(file).with_context(|| format!("{}", file.display()))?,
            None => self.request(&host, &path),
        };
        let interval = match self.rate {
            Some(rate) if rate > 0.0 => Some(Duration::from_secs_f64(1.0 / rate)),
            Some(rate) => bail!("--rate {rate}: must be above 0"),
            None => None,
        };
        Ok(Plan {
            target,
            to_head: request.starts_with(b"HEAD "),
            request,
            connections: self.connections,
            connections_idle: self.connections_idle,
            duration: Duration::try_from_secs_f64(self.duration).context("--duration")?,
            requests_max: self.requests.unwrap_or(u64::MAX),
            warmup: Duration::try_from_secs_f64(self.warmup).context("--warmup")?,
            interval,
            expect_status: self.expect_status,
            expect_bytes: self.expect_bytes,
            watched: self.watch_pid,
        })
    }

    /// Address, `Host` and path.
    fn whom(&self) -> Result<(Address, String, String)> {
        if let Some(target) = &self.target {
            let host = match target {
                Address::Tcp(address) => address.to_string(),
                Address::Unix(_) => "localhost".to_owned(),
            };
            return Ok((target.clone(), host, self.path.clone()));
        }
        let url = self.url.as_deref().unwrap_or_default();
        let rest = url.strip_prefix("http://").with_context(|| {
            format!("--url {url}: only http:// can be called, e.g. http://127.0.0.1:3500/path")
        })?;
        let (host, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        let with_port = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
        Ok((address::parse(&with_port)?, host.to_owned(), path.to_owned()))
    }

    fn request(&self, host: &str, path: &str) -> Vec<u8> {
        let mut request = format!("{} {path} HTTP/1.1\r\nHost: {host}\r\n", self.method);
        for line in &self.header {
            request += line;
            request += "\r\n";
        }
        if self.body_bytes > 0 || !matches!(self.method.as_str(), "GET" | "HEAD" | "DELETE") {
            request += &format!("Content-Length: {}\r\n", self.body_bytes);
        }
        request += "\r\n";
        let mut request = request.into_bytes();
        request.resize(request.len() + self.body_bytes, b'x');
        request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(arguments: &[&str]) -> Result<Plan> {
        Arguments::try_parse_from([&["ringcar-load"], arguments].concat())?.plan()
    }

    #[test]
    fn refuses_what_cannot_be_called() {
        for arguments in [
            &[][..],
            &["--url", "https://127.0.0.1:1/"],
            &["--url", "http://127.0.0.1:1/", "--target", "127.0.0.1:1"],
            &["--target", "127.0.0.1:1", "--connections", "0"],
            &["--target", "127.0.0.1:1", "--rate", "0"],
            &["--target", "127.0.0.1:1", "--request-file", "/nowhere"],
        ] {
            assert!(plan(arguments).is_err(), "{arguments:?}");
        }
    }

    #[test]
    fn writes_the_request() {
        for (case, arguments, want) in [
            (
                "url",
                &["--url", "http://127.0.0.1:81/a?b=c"][..],
                "GET /a?b=c HTTP/1.1\r\nHost: 127.0.0.1:81\r\n\r\n",
            ),
            (
                "url without path",
                &["--url", "http://127.0.0.1:81"],
                "GET / HTTP/1.1\r\nHost: 127.0.0.1:81\r\n\r\n",
            ),
            (
                "header and body",
                &[
                    "--target",
                    "unix:/x",
                    "--method",
                    "POST",
                    "--header",
                    "a: b",
                    "--body-bytes",
                    "3",
                ],
                "POST / HTTP/1.1\r\nHost: localhost\r\na: b\r\nContent-Length: 3\r\n\r\nxxx",
            ),
            (
                "empty POST",
                &["--target", "unix:/x", "--method", "POST"],
                "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n",
            ),
        ] {
            let request = plan(arguments).unwrap().request;
            assert_eq!(String::from_utf8(request).unwrap(), want, "{case}");
        }
    }
}
