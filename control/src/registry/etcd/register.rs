//! Our own rows in etcd, all of them under one lease: written, kept alive, and taken back, by one
//! task on one connection, however many apps are served.
//!
//! ```text
//!   Idle ──a row is wanted──► connect ──► lease granted or renewed ──► rows written ──► renewing
//!    ▲                           ▲                                          ▲              │
//!    │                           └──── pause, longer each time ◄── error ───┼──────────────┤
//!    │                                                                      └── changed ───┤
//!    └── lease revoked ◄──────────────────────────────────── no row is wanted any more ────┘
//! ```
//! The invariant: what etcd holds of us is what is wanted, or our lease is running out. A lease
//! that ran out (we were stopped, or cut off for longer than it lasts) is replaced, and all rows
//! written anew; a lease that is still there after a lost connection goes on, so readers never see
//! rows go and come.

#![forbid(unsafe_code)]

use super::{
    Pause, Settings,
    client::{CHANGES_MAX, Change, Client, EtcdError, KeepAlive},
    row,
};
use crate::registry::{Entry, News, Registration, RegistryError, Sink};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{sync::watch, task::JoinHandle, time::Instant};

/// Rows by key. No two apps have the same key, and no app has two.
type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// Where registrations say what is wanted, and hear how far that has come.
#[derive(Clone)]
pub(super) struct Desk {
    wanted: Arc<watch::Sender<Wanted>>,
    /// The last change that etcd has.
    done: watch::Receiver<u64>,
}

#[derive(Clone, Debug, Default)]
struct Wanted {
    rows: Rows,
    /// Counts the changes.
    change: u64,
}

impl Desk {
    /// The task ends when nobody can want anything any more.
    pub(super) fn open(settings: Settings, news: Sink) -> Self {
        let (wanted, receiver) = watch::channel(Wanted::default());
        let (done_sender, done) = watch::channel(0);
        let (lease, written) = (None, Rows::new());
        let holder = Holder { settings, wanted: receiver, done: done_sender, lease, written };
        tokio::spawn(holder.run(news));
        Self { wanted: Arc::new(wanted), done }
    }

    pub(super) fn register(&self, prefix: &str, entry: &Entry) -> impl Registration + use<> {
        let mut registration =
            EtcdRegistration { desk: self.clone(), prefix: prefix.to_owned(), key: None };
        registration.put(entry);
        registration
    }

    /// Returns the number of the change.
    fn change(&self, change: impl FnOnce(&mut Rows)) -> u64 {
        let mut number = 0;
        self.wanted.send_modify(|wanted| {
            change(&mut wanted.rows);
            wanted.change += 1;
            number = wanted.change;
        });
        number
    }
}

struct EtcdRegistration {
    desk: Desk,
    prefix: String,
    /// `None` while the sidecar has no address that other machines can call.
    key: Option<Vec<u8>>,
}

impl EtcdRegistration {
    fn put(&mut self, entry: &Entry) {
        let row = row::emit(entry).map(|value| (row::key(&self.prefix, entry), value));
        let key = row.as_ref().map(|(key, _)| key.clone());
        let old = std::mem::replace(&mut self.key, key);
        self.desk.change(|rows| {
            old.map(|key| rows.remove(&key));
            rows.extend(row);
        });
    }

    fn take_back(&mut self) -> Option<u64> {
        let key = self.key.take()?;
        Some(self.desk.change(|rows| drop(rows.remove(&key))))
    }
}

impl Registration for EtcdRegistration {
    fn update(&mut self, entry: &Entry) -> Result<(), RegistryError> {
        self.put(entry);
        Ok(())
    }

    fn end(mut self: Box<Self>) -> Option<JoinHandle<()>> {
        let change = self.take_back()?;
        let mut done = self.desk.done.clone();
        Some(tokio::spawn(async move {
            // An error: the task is gone, and with it whatever could be waited for.
            let _ = done.wait_for(|done| *done >= change).await;
        }))
    }
}

impl Drop for EtcdRegistration {
    fn drop(&mut self) {
        self.take_back();
    }
}

struct Holder {
    settings: Settings,
    wanted: watch::Receiver<Wanted>,
    done: watch::Sender<u64>,
    lease: Option<i64>,
    /// Rows that the lease holds.
    written: Rows,
}

/// Nobody can want anything any more.
struct Ended;

/// Why a connection is not needed any more.
enum Rest {
    Ended,
    Idle,
}

impl Holder {
    async fn run(mut self, news: Sink) {
        let mut pause = Pause::default();
        let mut last_complaint = None;
        let mut goodbyes = 0;
        loop {
            if self.idle().await.is_some() {
                return;
            }
            let error = match self.hold(&mut pause).await {
                Ok(Rest::Ended) => return,
                Ok(Rest::Idle) => continue,
                Err(e) => e,
            };
            if matches!(error, EtcdError::LeaseGone) {
                self.lease = None;
                self.written.clear();
                // The server is there, and readers may be waiting for our rows.
                pause = Pause::default();
            }
            // That the registry is away is the watch's to tell.
            let complaint = error.is_verdict().then(|| format!("cannot register: {error}"));
            if let Some(text) = complaint.clone().filter(|_| complaint != last_complaint) {
                news.tell(News::Complaint(text)).await;
            }
            last_complaint = complaint;
            goodbyes += u32::from(self.wanted.has_changed().is_err());
            if goodbyes > GOODBYES_MAX {
                return;
            }
            self.wait(pause.next()).await;
        }
    }

    /// Until there is something to do.
    async fn idle(&mut self) -> Option<Ended> {
        loop {
            let (is_empty, change) = {
                let wanted = self.wanted.borrow_and_update();
                (wanted.rows.is_empty(), wanted.change)
            };
            if !is_empty || self.lease.is_some() {
                return None;
            }
            self.done.send_replace(change);
            if self.wanted.changed().await.is_err() {
                return Some(Ended);
            }
        }
    }

    /// One connection, from its beginning to its end.
    async fn hold(&mut self, pause: &mut Pause) -> Result<Rest, EtcdError> {
        let client = Client::connect(&self.settings).await?;
        let lease = match self.lease {
            Some(lease) => lease,
            None => client.grant(self.settings.lease_ttl).await?,
        };
        self.lease = Some(lease);
        let mut renewals = client.keep_alive(lease).await?;
        // What somebody deleted by hand comes back with the next connection at the latest.
        self.written.values_mut().for_each(Vec::clear);
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            if wanted.rows.is_empty() {
                return self.let_go(&client, lease, wanted.change).await;
            }
            self.write(&client, lease, &wanted.rows).await?;
            self.done.send_replace(wanted.change);
            *pause = Pause::default();
            self.renew(&mut renewals).await?;
        }
    }

    /// All rows go with their lease.
    async fn let_go(
        &mut self,
        client: &Client,
        lease: i64,
        change: u64,
    ) -> Result<Rest, EtcdError> {
        match client.revoke(lease).await {
            Err(e) if !e.is_unknown_lease() => return Err(e),
            _ => {}
        }
        self.lease = None;
        self.written.clear();
        self.done.send_replace(change);
        let is_ended = self.wanted.has_changed().is_err();
        Ok(if is_ended { Rest::Ended } else { Rest::Idle })
    }

    /// Writes what differs, and remembers what is certain to have been written.
    async fn write(&mut self, client: &Client, lease: i64, rows: &Rows) -> Result<(), EtcdError> {
        let gone = self.written.keys().filter(|key| !rows.contains_key(*key));
        let gone = gone.map(|key| Change::Delete { key: key.clone() });
        let new = rows.iter().filter(|(key, value)| self.written.get(*key) != Some(value));
        let new =
            new.map(|(key, value)| Change::Put { key: key.clone(), value: value.clone(), lease });
        let changes: Vec<Change> = gone.chain(new).collect();
        for part in changes.chunks(CHANGES_MAX) {
            let result = client.change(part).await;
            for change in part {
                match change {
                    Change::Put { key, value, .. } if result.is_ok() => {
                        self.written.insert(key.clone(), value.clone());
                    }
                    // It may have arrived: the next attempt writes it again, or deletes it.
                    Change::Put { key, .. } => drop(self.written.insert(key.clone(), Vec::new())),
                    Change::Delete { key } if result.is_ok() => drop(self.written.remove(key)),
                    Change::Delete { .. } => {}
                }
            }
            match result {
                Err(e) if e.is_unknown_lease() => return Err(EtcdError::LeaseGone),
                result => result?,
            }
        }
        Ok(())
    }

    /// Renews the lease until what is wanted changes.
    async fn renew(&mut self, renewals: &mut KeepAlive) -> Result<(), EtcdError> {
        let interval = self.settings.lease_ttl / RENEWALS_PER_LEASE;
        loop {
            let due = renewals.renewed_at() + interval;
            tokio::select! {
                // Whoever drops the last sender has taken the last row back.
                _ = self.wanted.changed() => return Ok(()),
                lost = renewals.lost() => return Err(lost),
                () = tokio::time::sleep_until(due) => renewals.renew().await?,
            }
        }
    }

    /// Between attempts. Whoever wants the last row taken back may be about to end, and does not
    /// wait for long: that is tried at once.
    async fn wait(&mut self, pause: Duration) {
        let until = Instant::now() + pause;
        let is_last = |wanted: &Wanted| wanted.rows.is_empty();
        let was_last = is_last(&self.wanted.borrow());
        loop {
            let changed = tokio::time::timeout_at(until, self.wanted.changed()).await;
            match changed {
                Ok(Ok(())) if was_last || !is_last(&self.wanted.borrow()) => {}
                Ok(Ok(())) => return,
                // With nobody left to tell of a change, only the time is waited for.
                Ok(Err(_)) => return tokio::time::sleep_until(until).await,
                Err(_) => return,
            }
        }
    }
}

/// Attempts to take the rows back once nobody can want anything any more: the lease runs out
/// anyway.
const GOODBYES_MAX: u32 = 3;

/// Two may be lost before the rows go.
const RENEWALS_PER_LEASE: u32 = 3;
