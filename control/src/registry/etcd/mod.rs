//! The registry of several machines: rows under a prefix of an etcd cluster, each held by a lease
//! of its owner.
//!
//! ```text
//!   connect ──► read all at revision R ──► watch from R+1 ──► events…
//!      ▲                 ▲                       │
//!      │                 └── compacted, replaced ┤
//!      └───── pause, longer each time ◄── error ─┘      a new watch goes on where it stopped
//! ```
//! The invariant: what is told is the table of one revision plus every event since, without a gap.
//! Where that cannot be had (what happened meanwhile was compacted away, or another cluster
//! answers), all is read again. A cluster that was made anew knows nobody at first: what the one
//! before it had told stands until everybody had time to come back.

#![forbid(unsafe_code)]

mod client;
mod examine;
mod register;
mod row;
mod wire;

pub(crate) use examine::{Examination, Obstacle, examine};

use super::{
    Entry, News, Registrar, Registration, Registry, RegistryError, Revision, Row, Sink, Watch,
};
use client::{Client, EtcdError};
use register::Desk;
use std::{cell::OnceCell, collections::BTreeMap, fmt, path::PathBuf, sync::Arc, time::Duration};
use tokio::time::Instant;
use tonic::Streaming;
use wire::{EVENT_DELETE, Event, KeyValue, RangeRequest, WatchCreateRequest, WatchResponse};

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    /// `http://` or `https://`, host and port; not empty.
    pub(crate) endpoints: Vec<String>,
    /// Ends with a slash.
    pub(crate) prefix: String,
    /// How long our row stays when we end without a word; whole seconds.
    pub(crate) lease_ttl: Duration,
    pub(crate) user: Option<(String, Password)>,
    pub(crate) tls: Tls,
}

/// For `https://` endpoints.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Tls {
    /// `None`: what the system trusts.
    pub(crate) ca: Option<PathBuf>,
    /// Certificate and key.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
    /// Where it is another than that of the endpoint.
    pub(crate) server_name: Option<String>,
}

/// Not for logs.
#[derive(Clone, PartialEq)]
pub(crate) struct Password(pub(crate) String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

#[derive(Clone)]
pub(crate) struct EtcdRegistry {
    settings: Settings,
    /// From the first registration on.
    desk: OnceCell<Desk>,
}

impl EtcdRegistry {
    /// # Errors
    /// When an endpoint is no address.
    pub(crate) fn new(settings: Settings) -> Result<Self, RegistryError> {
        let problem = |reason| Err(RegistryError::Settings { name: "etcd", reason });
        if settings.endpoints.is_empty() {
            return problem("there is no endpoint".to_owned());
        }
        for uri in &settings.endpoints {
            if let Err(e) = tonic::transport::Endpoint::from_shared(uri.clone()) {
                return problem(format!("endpoint {uri:?}: {e}"));
            }
        }
        Ok(Self { settings, desk: OnceCell::new() })
    }
}

impl Registry for EtcdRegistry {
    type Watch = EtcdWatch;

    fn watch(&self) -> Result<EtcdWatch, RegistryError> {
        Ok(EtcdWatch {
            settings: self.settings.clone(),
            rows: BTreeMap::new(),
            position: None,
            witness: None,
            departed: Departed::default(),
            rubbish: Rubbish::default(),
        })
    }
}

impl Registrar for EtcdRegistry {
    fn register(&self, entry: &Entry, news: &Sink) -> Result<Box<dyn Registration>, RegistryError> {
        let desk = self.desk.get_or_init(|| Desk::open(self.settings.clone(), news.clone()));
        Ok(Box::new(desk.register(&self.settings.prefix, entry)))
    }
}

pub(crate) struct EtcdWatch {
    settings: Settings,
    /// By key.
    rows: BTreeMap<Vec<u8>, Arc<Row>>,
    /// `None`: nothing was read, or what was read cannot be continued.
    position: Option<Position>,
    /// `None`: the newest row is gone, or there was none. Then nothing can be continued.
    witness: Option<Witness>,
    departed: Departed,
    rubbish: Rubbish,
}

/// Rows of a history that is over. They count until they are written again or their time is over.
#[derive(Default)]
struct Departed {
    rows: BTreeMap<Vec<u8>, Arc<Row>>,
    until: Option<Instant>,
}

impl Departed {
    async fn time_is_over(&self) {
        match self.until {
            Some(until) => tokio::time::sleep_until(until).await,
            None => std::future::pending().await,
        }
    }
}

/// The row that was written last. Only the history that the table was made of has it at the same
/// revision, under the same lease: another one may have the same name, and be further on.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Witness {
    key: Vec<u8>,
    mod_revision: i64,
    lease: i64,
}

impl Witness {
    fn of(kv: &KeyValue) -> Self {
        Self { key: kv.key.clone(), mod_revision: kv.mod_revision, lease: kv.lease }
    }
}

/// Up to where the table is complete.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Position {
    cluster_id: u64,
    /// First revision whose events are not in the table.
    next_revision: i64,
}

impl Watch for EtcdWatch {
    fn rows(&self) -> Vec<Arc<Row>> {
        Vec::new()
    }

    async fn run(mut self, news: Sink) {
        let mut pause = Pause::default();
        loop {
            let started = Instant::now();
            let error = tokio::select! {
                () = news.closed() => return,
                error = self.follow(&news) => error,
            };
            let is_replaced = matches!(error, EtcdError::Replaced);
            if is_replaced {
                self.departed.rows.append(&mut self.rows);
                self.departed.until = Some(Instant::now() + RETURN_TIME);
            }
            if is_replaced || error.is_compacted() {
                // The table stands until the new one is there.
                self.position = None;
                news.tell(News::Complaint(format!("{error}; reading all rows again"))).await;
            } else {
                news.tell(News::Away(error.to_string())).await;
            }
            if started.elapsed() > PAUSE_RESET {
                pause = Pause::default();
            }
            tokio::select! {
                () = news.closed() => return,
                () = tokio::time::sleep(pause.next()) => {}
            }
        }
    }
}

impl EtcdWatch {
    /// One connection, from its beginning to its end.
    async fn follow(&mut self, news: &Sink) -> EtcdError {
        match self.try_follow(news).await {
            Err(e) => e,
            Ok(never) => match never {},
        }
    }

    async fn try_follow(&mut self, news: &Sink) -> Result<std::convert::Infallible, EtcdError> {
        let client = Client::connect(&self.settings).await?;
        let position = match (self.position, &self.witness) {
            (Some(position), Some(witness)) => {
                recognise(&client, position, witness).await?;
                position
            }
            _ => {
                let position = self.read_all(&client).await?;
                self.position = Some(position);
                self.tell_rows(news).await;
                position
            }
        };
        let mut watch = client
            .watch(WatchCreateRequest {
                key: self.settings.prefix.clone().into_bytes(),
                range_end: prefix_end(&self.settings.prefix),
                start_revision: position.next_revision,
                progress_notify: true,
                fragment: true,
            })
            .await?;
        loop {
            let response = tokio::select! {
                response = next_response(&mut watch) => response?,
                () = self.departed.time_is_over() => {
                    self.departed = Departed::default();
                    self.tell_rows(news).await;
                    continue;
                }
            };
            let mut is_changed = self.on_response(response, news).await?;
            // What has arrived along with it becomes one table.
            while let Ok(response) =
                tokio::time::timeout(Duration::ZERO, next_response(&mut watch)).await
            {
                is_changed |= self.on_response(response?, news).await?;
            }
            if is_changed {
                self.tell_rows(news).await;
            }
        }
    }

    /// Reads page by page at the revision of the first page.
    async fn read_all(&mut self, client: &Client) -> Result<Position, EtcdError> {
        let mut rows = BTreeMap::new();
        let mut witness = None;
        self.rubbish = Rubbish::default();
        let mut request = RangeRequest {
            key: self.settings.prefix.clone().into_bytes(),
            range_end: prefix_end(&self.settings.prefix),
            limit: PAGE_ROWS,
            revision: 0,
        };
        let mut position = None;
        loop {
            let page = match client.range(request.clone()).await {
                // Rubbish may be large; at one row a page etcd's own bound on values is below ours.
                Err(e) if e.is_too_large() && request.limit > 1 => {
                    request.limit /= 2;
                    continue;
                }
                result => result?,
            };
            let header = page.header.unwrap_or_default();
            let position = *position.get_or_insert(Position {
                cluster_id: header.cluster_id,
                next_revision: header.revision + 1,
            });
            request.revision = position.next_revision - 1;
            let last = page.kvs.last().map(|kv| kv.key.clone());
            for kv in page.kvs {
                note(&mut witness, &kv);
                self.rubbish.sort(&self.settings.prefix, kv, &mut rows);
            }
            match last.filter(|_| page.more) {
                Some(mut key) => {
                    // The key that follows it immediately.
                    key.push(0);
                    request.key = key;
                }
                None => {
                    self.rows = rows;
                    self.witness = witness;
                    return Ok(position);
                }
            }
        }
    }

    /// Whether the table changed.
    async fn on_response(
        &mut self,
        response: WatchResponse,
        news: &Sink,
    ) -> Result<bool, EtcdError> {
        if response.compact_revision != 0 {
            return Err(EtcdError::Compacted(response.compact_revision));
        }
        if response.canceled {
            return Err(EtcdError::WatchEnded(response.cancel_reason));
        }
        let Some(position) = &mut self.position else { return Err(EtcdError::Replaced) };
        let header = response.header.unwrap_or_default();
        // A revision behind ours, or another name, means that the data is not what our table was
        // made of.
        if header.cluster_id != position.cluster_id || header.revision < position.next_revision - 1
        {
            return Err(EtcdError::Replaced);
        }
        if response.created {
            news.tell(News::Back).await;
            return Ok(false);
        }
        let last_event = response.events.last().and_then(|event| event.kv.as_ref());
        match last_event {
            // Later events of the same revision may still come.
            _ if response.fragment => {}
            Some(kv) => position.next_revision = position.next_revision.max(kv.mod_revision + 1),
            None => position.next_revision = header.revision + 1,
        }
        Ok(response
            .events
            .into_iter()
            .fold(false, |is_changed, event| self.on_event(event) | is_changed))
    }

    fn on_event(&mut self, event: Event) -> bool {
        let Some(kv) = event.kv else { return false };
        let departed = self.departed.rows.remove(&kv.key);
        let was = self.rows.remove(&kv.key).or(departed);
        if event.kind == EVENT_DELETE {
            self.witness.take_if(|witness| witness.key == kv.key);
            return was.is_some();
        }
        note(&mut self.witness, &kv);
        let key = kv.key.clone();
        self.rubbish.sort(&self.settings.prefix, kv, &mut self.rows);
        self.rows.get(&key) != was.as_ref()
    }

    async fn tell_rows(&mut self, news: &Sink) {
        if let Some(line) = self.rubbish.line(&self.settings.prefix) {
            news.tell(News::Complaint(line)).await;
        }
        let is_back = |key: &Vec<u8>| self.rows.contains_key(key);
        let departed = self.departed.rows.iter().filter(|(key, _)| !is_back(key));
        let rows = self.rows.values().chain(departed.map(|(_, row)| row)).cloned().collect();
        news.tell(News::Rows(rows)).await;
    }
}

/// Whether the server goes on with the history that our table was made of.
async fn recognise(
    client: &Client,
    position: Position,
    witness: &Witness,
) -> Result<(), EtcdError> {
    let request = RangeRequest {
        key: witness.key.clone(),
        revision: position.next_revision - 1,
        ..RangeRequest::default()
    };
    let row = match client.range(request).await {
        Err(e) if e.is_future() => return Err(EtcdError::Replaced),
        answer => answer?.kvs.into_iter().next(),
    };
    match row {
        Some(kv) if Witness::of(&kv) == *witness => Ok(()),
        _ => Err(EtcdError::Replaced),
    }
}

/// The newer one stays.
fn note(witness: &mut Option<Witness>, kv: &KeyValue) {
    if witness.as_ref().is_none_or(|witness| witness.mod_revision < kv.mod_revision) {
        *witness = Some(Witness::of(kv));
    }
}

async fn next_response(watch: &mut Streaming<WatchResponse>) -> Result<WatchResponse, EtcdError> {
    match watch.message().await {
        Ok(Some(response)) => Ok(response),
        Ok(None) => Err(EtcdError::WatchEnded("the server closed it".into())),
        Err(status) => Err(EtcdError::WatchEnded(status.message().to_owned())),
    }
}

/// The first key after all that start with the prefix. It ends with a slash, so its last byte can
/// be counted up.
fn prefix_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// What stands under the prefix and is no row: counted, and told in one line, however much it is.
#[derive(Default)]
struct Rubbish {
    count: u64,
    first: Option<String>,
    told_at: Option<Instant>,
}

impl Rubbish {
    fn sort(&mut self, prefix: &str, kv: KeyValue, rows: &mut BTreeMap<Vec<u8>, Arc<Row>>) {
        let reason = match row::parse(prefix, &kv.key, &kv.value) {
            Ok(row) if rows.len() < ROWS_MAX => {
                let revision = Revision::Etcd { mod_revision: kv.mod_revision };
                rows.insert(kv.key, Arc::new(Row { revision, ..row }));
                return;
            }
            Ok(_) => format!("there are more than {ROWS_MAX} rows"),
            Err(e) => e.to_string(),
        };
        self.count += 1;
        self.first.get_or_insert_with(|| {
            let key: String =
                String::from_utf8_lossy(&kv.key).chars().take(KEY_CHARS_MAX).collect();
            format!("{key:?}: {reason}")
        });
    }

    /// Once per read of the table, then at most once in a while.
    fn line(&mut self, prefix: &str) -> Option<String> {
        let first = self.first.as_ref()?;
        if self.told_at.is_some_and(|at| at.elapsed() < RUBBISH_PAUSE) {
            return None;
        }
        let line = format!(
            "{} keys under {prefix} are no rows and are skipped; the first: {first}",
            self.count
        );
        *self = Self { told_at: Some(Instant::now()), ..Self::default() };
        Some(line)
    }
}

/// Between attempts: doubling, and never the same for two sidecars, so that they do not come back
/// all at once.
#[derive(Default)]
struct Pause {
    attempts: u32,
}

impl Pause {
    fn next(&mut self) -> Duration {
        let longest = PAUSE_MIN.saturating_mul(1 << self.attempts.min(16)).min(PAUSE_MAX);
        self.attempts = self.attempts.saturating_add(1);
        longest.mul_f64(0.5 + fastrand::f64() / 2.0)
    }
}

const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A connection that lasted this long did not fail for the same reason as the one before it.
const PAUSE_RESET: Duration = Duration::from_secs(1);

/// After a cluster was made anew: those who registered with the old one come back after a pause,
/// and another one for a new lease.
const RETURN_TIME: Duration = Duration::from_secs(2 * PAUSE_MAX.as_secs());

/// Rows of one page.
const PAGE_ROWS: i64 = 1000;

/// Rows kept; a row costs some 300 bytes.
const ROWS_MAX: usize = 1_000_000;

/// Of a key in a log line.
const KEY_CHARS_MAX: usize = 100;

const RUBBISH_PAUSE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
