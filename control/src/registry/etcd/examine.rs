//! One look at an etcd server, for operators: is it there, does it know us, may we read?

#![forbid(unsafe_code)]

use super::{
    Settings,
    client::{Client, EtcdError},
    prefix_end,
    wire::RangeRequest,
};
use std::time::{Duration, Instant};

/// What a server that can be used is like.
#[derive(Debug)]
pub(crate) struct Examination {
    pub(crate) version: String,
    /// Keys under the prefix, rubbish included.
    pub(crate) row_count: i64,
    /// Of one read.
    pub(crate) latency: Duration,
}

#[derive(Debug)]
pub(crate) struct Obstacle {
    pub(crate) reason: String,
    pub(crate) remedy: &'static str,
}

/// # Errors
/// What keeps a sidecar from using this endpoint.
pub(crate) async fn examine(endpoint: &str, settings: &Settings) -> Result<Examination, Obstacle> {
    let obstacle = |e: EtcdError| Obstacle { reason: e.to_string(), remedy: remedy(&e) };
    let client = Client::connect_to(endpoint, settings).await.map_err(obstacle)?;
    let request = RangeRequest {
        key: settings.prefix.clone().into_bytes(),
        range_end: prefix_end(&settings.prefix),
        limit: 1,
        revision: 0,
    };
    let asked = Instant::now();
    let row_count = client.range(request).await.map_err(obstacle)?.count;
    let latency = asked.elapsed();
    // Some servers tell it to administrators only; that does not matter to a sidecar.
    let version = client.version().await.unwrap_or_else(|_| "of a version it does not tell".into());
    Ok(Examination { version, row_count, latency })
}

fn remedy(error: &EtcdError) -> &'static str {
    match error {
        EtcdError::TlsFile { .. } => "make the file readable: caFile, certFile, keyFile",
        EtcdError::Refused { call: "authenticating", .. } => "put username and password right",
        EtcdError::Refused { call: "reading", .. } => {
            "give the user read and write permission on the prefix; name one with username"
        }
        EtcdError::Connect { .. } | EtcdError::Timeout(_) => {
            "start it, open the way to it, or put endpoints right (https:// where it speaks TLS)"
        }
        _ => "see the log of the server",
    }
}
