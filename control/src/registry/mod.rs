//! Who runs where: a sidecar registers itself, and watches for the others.
//!
//! A registry is one file here: [`local`] for one machine, [`etcd`] for several, [`sqlite`] for
//! daprd's host database, [`mod@file`] for what an operator wrote down, [`dns`] for names. Each
//! watches in a task of its own and tells whole tables; [`registries`] keeps them, and knows how
//! old each one is, and [`merge`] makes one table of all. A registry that is away never takes back
//! what it said: its last table stays in force.

#![forbid(unsafe_code)]

pub(crate) mod dns;
mod entry;
pub(crate) mod etcd;
pub(crate) mod file;
pub(crate) mod inotify;
mod known;
pub(crate) mod local;
mod merge;
mod own;
mod registries;
mod remembered;
mod renew;
mod revision;
mod source;
pub(crate) mod sqlite;
mod steps;

pub(crate) use entry::{Entry, EntryError, Identity};
pub(crate) use registries::{Change, Registries};
pub(crate) use revision::Revision;

use crate::config::zone::Zone;
use snapshot::{Address, AppId, InstanceId, Namespace};
use std::{future::Future, io, os::fd::OwnedFd, path::PathBuf, sync::Arc};
use tokio::{sync::mpsc, task::JoinHandle};

/// Every sidecar of this machine, in the order of their creation.
pub(crate) type Table = Vec<Entry>;

/// One place where an app can be called.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Row {
    pub(crate) id: AppId,
    pub(crate) namespace: Namespace,
    pub(crate) instance: InstanceId,
    pub(crate) address: Address,
    pub(crate) revision: Revision,
    /// Where it runs, if the registry knows.
    pub(crate) zone: Option<Zone>,
}

/// Which registries there are beside the local one, in any order.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Settings {
    pub(crate) dns: Option<dns::Settings>,
    pub(crate) etcd: Option<etcd::Settings>,
    pub(crate) file: Option<file::Settings>,
    pub(crate) sqlite: Option<sqlite::Settings>,
}

impl Settings {
    /// Whether others call this sidecar at an address that a Unix socket cannot be.
    pub(crate) const fn needs_tcp_peer(&self) -> bool {
        self.dns.is_some() || self.etcd.is_some() || self.sqlite.is_some()
    }
}

/// Something that knows apps. Must be called within the runtime the sidecar runs on.
pub(crate) trait Registry {
    type Watch: Watch;

    /// # Errors
    /// When the registry can never be read as it is configured; one that is only away is no error.
    fn watch(&self) -> Result<Self::Watch, RegistryError>;
}

pub(crate) trait Watch: Send + 'static {
    /// What is known before [`Watch::run`] is first polled.
    fn rows(&self) -> Vec<Arc<Row>>;

    /// Whether [`Watch::rows`] is all that the registry knows now.
    fn is_read(&self) -> bool {
        false
    }

    /// Tells all that changes, until the receiver is gone or there is nothing more to tell.
    fn run(self, news: Sink) -> impl Future<Output = ()> + Send;
}

/// A registry that others read.
pub(crate) trait Registrar {
    /// The local registry has the entry when this returns; one that is reached over a network has
    /// it as soon as it can be reached.
    ///
    /// # Errors
    /// When the registry cannot be written.
    fn register(&self, entry: &Entry, news: &Sink) -> Result<Box<dyn Registration>, RegistryError>;
}

/// One's own entry. Dropping it takes the entry back, and so does the end of the process, however
/// it ends: at once where the kernel sees to it, else after the time for which an entry counts
/// without being renewed.
pub(crate) trait Registration: Send {
    /// Readers see the old entry or the new one, nothing else.
    ///
    /// # Errors
    /// When the registry cannot be written; the old entry stays.
    fn update(&mut self, entry: &Entry) -> Result<(), RegistryError>;

    /// What keeps the entry counting for as long as it is open, in whatever process; `None` where
    /// nothing does.
    fn hold(&self) -> Option<Arc<OwnedFd>> {
        None
    }

    /// Takes the entry back; what is returned ends when that is done.
    fn end(self: Box<Self>) -> Option<JoinHandle<()>>;
}

/// What a registry tells.
#[derive(Debug)]
pub(crate) enum News {
    /// It cannot be read.
    Away(String),
    /// It can be read again, and says what it said before.
    Back,
    /// For the log: something was skipped.
    Complaint(String),
    /// All it knows. It can be read. Shared, since whoever watches keeps what it told.
    Rows(Vec<Arc<Row>>),
    /// This question was answered; rows that came with it were told before.
    Resolved(u64),
}

/// Where a registry's news go.
#[derive(Clone)]
pub(crate) struct Sink {
    source: usize,
    sender: mpsc::Sender<(usize, News)>,
}

impl Sink {
    /// Waits while there is too much news; `false` when nobody listens any more.
    pub(crate) async fn tell(&self, news: News) -> bool {
        self.sender.send((self.source, news)).await.is_ok()
    }

    pub(crate) async fn closed(&self) {
        self.sender.closed().await;
    }

    #[cfg(test)]
    pub(crate) fn pair() -> (Self, mpsc::Receiver<(usize, News)>) {
        let (sender, receiver) = mpsc::channel(registries::NEWS_MAX);
        (Self { source: 0, sender }, receiver)
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum RegistryError {
    #[error("registry file {path}: {reason}")]
    File { path: PathBuf, reason: io::Error },
    #[error("registry {path} was removed")]
    Gone { path: PathBuf },
    #[error("registry {name}: {reason}")]
    Settings { name: &'static str, reason: String },
    #[error("cannot watch the registry: {0}")]
    Watch(io::Error),
    #[error("cannot watch {path}: {reason}; it must be a directory that exists")]
    WatchDirectory { path: PathBuf, reason: io::Error },
}
