//! Our own row in etcd: written with a lease that we keep alive, and taken back when we end.
//!
//! A lease that ran out (we were stopped, or cut off for longer than it lasts) is replaced, and the
//! row written anew; a lease that is still there after a lost connection goes on, so readers never
//! see the row go and come.

#![forbid(unsafe_code)]

use super::{
    Pause, Settings,
    client::{Client, EtcdError},
    row,
    wire::PutRequest,
};
use crate::registry::{Entry, News, Registration, RegistryError, Sink};
use std::time::Duration;
use tokio::{sync::watch, task::JoinHandle};

struct EtcdRegistration {
    entries: watch::Sender<Entry>,
    task: JoinHandle<()>,
}

impl Registration for EtcdRegistration {
    fn update(&mut self, entry: &Entry) -> Result<(), RegistryError> {
        self.entries.send_replace(entry.clone());
        Ok(())
    }

    fn end(self: Box<Self>) -> Option<JoinHandle<()>> {
        // Without a sender the task revokes the lease and ends.
        Some(self.task)
    }
}

pub(super) fn start(settings: Settings, entry: Entry, news: Sink) -> impl Registration {
    let (entries, receiver) = watch::channel(entry);
    let holder = Holder { settings, lease: None, entries: receiver };
    EtcdRegistration { entries, task: tokio::spawn(holder.run(news)) }
}

struct Holder {
    settings: Settings,
    lease: Option<i64>,
    entries: watch::Receiver<Entry>,
}

/// The registration was dropped.
struct Ended;

impl Holder {
    async fn run(mut self, news: Sink) {
        let mut pause = Pause::default();
        let mut last_complaint = None;
        loop {
            let error = match self.hold(&mut pause).await {
                Ok(Ended) => return,
                Err(e) => e,
            };
            if matches!(error, EtcdError::LeaseGone) {
                self.lease = None;
            }
            // That the registry is away is the watch's to tell.
            let complaint = error.is_verdict().then(|| format!("cannot register: {error}"));
            if let Some(text) = complaint.clone().filter(|_| complaint != last_complaint) {
                news.tell(News::Complaint(text)).await;
            }
            last_complaint = complaint;
            if self.wait(pause.next()).await.is_some() {
                return;
            }
        }
    }

    /// One connection, from its beginning to its end.
    async fn hold(&mut self, pause: &mut Pause) -> Result<Ended, EtcdError> {
        let client = Client::connect(&self.settings).await?;
        let lease = match self.lease {
            Some(lease) => lease,
            None => client.grant(self.settings.lease_ttl).await?,
        };
        self.lease = Some(lease);
        client.keep_alive(lease).await?;
        loop {
            let entry = self.entries.borrow_and_update().clone();
            self.write(&client, lease, &entry).await?;
            *pause = Pause::default();
            if self.keep(&client, lease).await?.is_some() {
                // Best effort: a lease that is not revoked runs out.
                let _ = client.revoke(lease).await;
                return Ok(Ended);
            }
        }
    }

    async fn write(&self, client: &Client, lease: i64, entry: &Entry) -> Result<(), EtcdError> {
        let Some(value) = row::emit(entry) else { return Ok(()) };
        let key = row::key(&self.settings.prefix, entry);
        client.put(PutRequest { key, value, lease }).await.map(|_| ())
    }

    /// Renews the lease until the entry changes, or there is none any more.
    async fn keep(&mut self, client: &Client, lease: i64) -> Result<Option<Ended>, EtcdError> {
        let interval = self.settings.lease_ttl / RENEWALS_PER_LEASE;
        loop {
            match tokio::time::timeout(interval, self.entries.changed()).await {
                Ok(Ok(())) => return Ok(None),
                Ok(Err(_)) => return Ok(Some(Ended)),
                Err(_) => client.keep_alive(lease).await?,
            }
        }
    }

    /// Waits before the next attempt, for as long as there is something to register.
    async fn wait(&self, pause: Duration) -> Option<Ended> {
        tokio::time::sleep(pause).await;
        self.entries.has_changed().err().map(|_| Ended)
    }
}

/// Two may be lost before the row goes.
const RENEWALS_PER_LEASE: u32 = 3;
