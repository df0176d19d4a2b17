//! Where the call may arrive: whether anybody is there, what its sidecar says of itself, and what
//! the caller's workers think of it.

#![forbid(unsafe_code)]

use super::{Target, Way};
use crate::{
    http_client,
    knowledge::{Knowledge, KnownEndpoint},
    registry::{Entry, Table},
};
use hyper::{Method, body::Bytes};
use snapshot::{
    Address,
    wire::{Score, Standing},
};
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream};

pub(super) struct Looked {
    pub(super) words: String,
    pub(super) is_reached: bool,
    /// Where the app is, if its sidecar tells.
    pub(super) app: Option<String>,
}

/// One of each endpoint, in the order of the route.
pub(super) async fn look(
    way: Way,
    target: &Target,
    caller: &Entry,
    knowledge: &Knowledge,
    table: &Table,
) -> Vec<Looked> {
    if way == Way::App {
        return vec![of_app(target, caller, table).await];
    }
    let mut looked = Vec::new();
    for KnownEndpoint { address, zone } in &knowledge.endpoints {
        let entry = table.iter().find(|entry| entry.peer == *address);
        let (health, app) = match entry {
            Some(entry) => ask(entry).await,
            None => (connect(address).await, None),
        };
        let zone = zone.as_ref().map(|zone| format!(", zone {zone}")).unwrap_or_default();
        let scores = scores(address, knowledge);
        let words = format!("{address}: {}{zone}{scores}", health.words());
        looked.push(Looked { words, is_reached: health.is_reached(), app });
    }
    looked
}

/// The caller's own app, or a neighbour on its node.
async fn of_app(target: &Target, caller: &Entry, table: &Table) -> Looked {
    let served = |entry: &&Entry| target.is_app_of(entry) && entry.pid == caller.pid;
    let place = "in the caller's own data plane, without another sidecar";
    match table.iter().find(served) {
        Some(entry) => {
            let (health, app) = ask(entry).await;
            let words = format!("{place}: {}", health.words());
            Looked { words, is_reached: health.is_reached(), app }
        }
        None => {
            let app = (caller.app_port != 0).then(|| format!("127.0.0.1:{}", caller.app_port));
            let words = format!("{place}; nothing runs that could be asked");
            Looked { words, is_reached: false, app }
        }
    }
}

fn scores(address: &Address, knowledge: &Knowledge) -> String {
    let of_it: Vec<String> = knowledge
        .scores
        .iter()
        .filter(|score| score.address == *address)
        .map(|score| format!("worker {}: {}", score.worker, thoughts(score)))
        .collect();
    match of_it.is_empty() {
        // Nobody keeps scores where there is no choice.
        true if knowledge.endpoints.len() < 2 => "; the only one".to_owned(),
        true => "; no worker has called the app since it has these endpoints".to_owned(),
        false => format!("; {}", of_it.join("; ")),
    }
}

fn thoughts(score: &Score) -> String {
    let latency = match score.latency {
        Some(latency) => format!("{:.1} ms", latency.as_secs_f64() * 1e3),
        None => "latency not known yet".to_owned(),
    };
    let standing = match score.standing {
        Standing::In => "in".to_owned(),
        Standing::Out(left) => format!("ejected for {:.1} s more", left.as_secs_f64()),
        Standing::Probed => "ejected, and being tried again".to_owned(),
    };
    format!("{} under way, {latency}, {standing}", score.outstanding)
}

/// What a sidecar says of itself.
enum Health {
    /// It takes connections; it cannot be asked for more from here.
    Reached,
    Ready,
    Silent(String),
    Unready,
}

impl Health {
    /// A sidecar that does not think its app ready calls it all the same.
    const fn is_reached(&self) -> bool {
        !matches!(self, Self::Silent(_))
    }

    fn words(&self) -> String {
        match self {
            Self::Reached => "takes connections".to_owned(),
            Self::Silent(reason) => format!("its sidecar does not answer ({reason})"),
            Self::Ready => "ready".to_owned(),
            Self::Unready => "its sidecar waits for the app".to_owned(),
        }
    }
}

/// Its health, and where its app is.
async fn ask(row: &Entry) -> (Health, Option<String>) {
    let get = async |path| {
        let request = http_client::api_request(Method::GET, path, Bytes::new()).ok()?;
        Some(http_client::call(&row.api, request, ASK_TIMEOUT).await)
    };
    let health = match get("/v1.0/healthz").await {
        Some(Ok(response)) if response.status().is_success() => Health::Ready,
        Some(Ok(_)) => Health::Unready,
        Some(Err(e)) => return (Health::Silent(e.to_string()), None),
        None => return (Health::Silent("no request".to_owned()), None),
    };
    let place = match get("/v1.0/metadata").await {
        Some(Ok(response)) => app_place(response.body()),
        _ => None,
    };
    (health, place)
}

async fn connect(address: &Address) -> Health {
    let connected = async {
        match address {
            Address::Tcp(tcp) => TcpStream::connect(tcp).await.map(drop),
            Address::Unix(path) => UnixStream::connect(path).await.map(drop),
        }
    };
    match tokio::time::timeout(ASK_TIMEOUT, connected).await {
        Ok(Ok(())) => Health::Reached,
        Ok(Err(e)) => Health::Silent(e.to_string()),
        Err(_) => Health::Silent(format!("no connection within {ASK_TIMEOUT:?}")),
    }
}

/// From the document of `/v1.0/metadata`.
fn app_place(metadata: &[u8]) -> Option<String> {
    let document: serde_json::Value = serde_json::from_slice(metadata).ok()?;
    let connection = &document["appConnectionProperties"];
    let address = connection["channelAddress"].as_str()?;
    if address.starts_with("unix:") {
        return Some(address.to_owned());
    }
    Some(format!("{address}:{}", connection["port"].as_u64()?))
}

/// A sidecar that takes longer is in trouble.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_told_by_endpoint() {
        let address = |path: &str| Address::Unix(path.into());
        let score = |worker: u32, latency: Option<u64>, standing: Standing| Score {
            worker,
            address: address("/a"),
            outstanding: worker,
            latency: latency.map(Duration::from_micros),
            standing,
        };
        let endpoint = |path: &str| KnownEndpoint { address: address(path), zone: None };
        let mut knowledge = Knowledge { endpoints: vec![endpoint("/a")], ..Knowledge::default() };
        assert_eq!(scores(&address("/a"), &knowledge), "; the only one");
        knowledge.endpoints.push(endpoint("/b"));
        assert!(scores(&address("/a"), &knowledge).starts_with("; no worker has called"));
        knowledge.scores = vec![
            score(0, Some(1250), Standing::In),
            score(1, None, Standing::Out(Duration::from_millis(600))),
        ];
        assert_eq!(
            scores(&address("/a"), &knowledge),
            "; worker 0: 0 under way, 1.2 ms, in; worker 1: 1 under way, latency not known yet, \
             ejected for 0.6 s more"
        );
        assert!(scores(&address("/b"), &knowledge).starts_with("; no worker has called"));
    }
}
