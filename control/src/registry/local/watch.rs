//! Watches the registry's directory, and tells whole tables.

#![forbid(unsafe_code)]

use super::rows::{Look, Rows, is_entry};
use crate::{
    registry::{News, RegistryError, Row, Sink, Watch},
    runtime_dir::RuntimeDir,
};
use rustix::{fs::inotify, io::Errno};
use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    io,
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::{io::unix::AsyncFd, time::Instant};

/// The directory, watched.
pub(crate) struct LocalWatch {
    rows: Rows<Row>,
    events: AsyncFd<OwnedFd>,
    rechecks: BTreeMap<OsString, Recheck>,
    last: Vec<Arc<Row>>,
}

/// A file that was closed and is still locked.
///
/// The kernel tells watchers of a close before it drops the locks of what was closed (`__fput`,
/// Linux 2.6 to 6.18), so whoever wakes at once may find the lock of a dead owner still there, and
/// nothing else will tell of its end.
struct Recheck {
    at: Instant,
    pause: Duration,
}

enum Notice {
    /// Events were lost.
    Overflow,
    Closed(OsString),
    Changed(OsString),
    DirectoryGone,
}

impl LocalWatch {
    pub(super) fn start(dir: RuntimeDir) -> Result<Self, RegistryError> {
        let events = watch_directory(&dir.apps()).map_err(|e| RegistryError::Watch(e.into()))?;
        #[expect(
            deprecated,
            reason = "its hazard is a type that changes its descriptor, which an OwnedFd does not"
        )]
        let events = AsyncFd::new(events).map_err(RegistryError::Watch)?;
        // Scanned after the watch is in place: what happens in between is seen twice rather than
        // never.
        let mut rows = Rows::new(dir);
        rows.rescan()?;
        let last = rows.table();
        Ok(Self { rows, events, rechecks: BTreeMap::new(), last })
    }

    fn on_notice(&mut self, notice: Notice) -> Result<(), RegistryError> {
        match notice {
            Notice::Changed(name) => {
                self.rows.look_at(&name);
            }
            Notice::Closed(name) => {
                if self.rows.look_at(&name) == Look::Alive {
                    self.rechecks.insert(name, Recheck::first());
                }
            }
            Notice::DirectoryGone => {
                return Err(RegistryError::Gone { path: self.rows.dir.apps() });
            }
            Notice::Overflow => {
                self.rows.rescan()?;
                let alive = self.rows.names().cloned();
                self.rechecks = alive.map(|name| (name, Recheck::first())).collect();
            }
        }
        Ok(())
    }

    fn recheck_due(&mut self) {
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.rechecks)
            .into_iter()
            .partition(|(_, recheck): &(_, Recheck)| recheck.at <= now);
        self.rechecks = later;
        let due: BTreeMap<_, _> = due;
        for (name, recheck) in due {
            if self.rows.look_at(&name) == Look::Alive
                && let Some(next) = recheck.next()
            {
                self.rechecks.insert(name, next);
            }
        }
    }

    /// Reads what the kernel has ready; `false` when that was nothing.
    fn read_notices(&mut self) -> Result<bool, RegistryError> {
        let notices = read_notices(self.events.get_ref()).map_err(RegistryError::Watch)?;
        let is_news = !notices.is_empty();
        for notice in notices {
            self.on_notice(notice)?;
        }
        Ok(is_news)
    }
}

impl LocalWatch {
    #[cfg(test)]
    pub(super) fn table(&self) -> Vec<Arc<Row>> {
        self.rows()
    }

    /// The next table that differs from the last. Dropping the future before it is ready loses
    /// nothing.
    pub(super) async fn changed(&mut self) -> Result<Vec<Arc<Row>>, RegistryError> {
        loop {
            if let Some(table) = self.rows.changed_table().filter(|table| *table != self.last) {
                self.last.clone_from(&table);
                return Ok(table);
            }
            let next_recheck = self.rechecks.values().map(|recheck| recheck.at).min();
            let recheck = async {
                match next_recheck {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = recheck => self.recheck_due(),
                ready = self.events.readable_mut() => {
                    let mut ready = ready.map_err(RegistryError::Watch)?;
                    // Cleared before the read: what comes after it sets it again.
                    ready.clear_ready();
                    while self.read_notices()? {}
                }
            }
        }
    }

    /// What was skipped since the last call, for the log.
    pub(super) fn complaints(&mut self) -> Vec<String> {
        std::mem::take(&mut self.rows.complaints)
    }
}

impl Watch for LocalWatch {
    fn is_read(&self) -> bool {
        true
    }

    fn rows(&self) -> Vec<Arc<Row>> {
        self.last.clone()
    }

    async fn run(mut self, news: Sink) {
        loop {
            for complaint in self.complaints() {
                news.tell(News::Complaint(complaint)).await;
            }
            if !news.tell(News::Rows(self.rows())).await {
                return;
            }
            let changed = tokio::select! {
                () = news.closed() => return,
                changed = self.changed() => changed,
            };
            if let Err(e) = changed {
                news.tell(News::Away(e.to_string())).await;
                return;
            }
        }
    }
}

impl Recheck {
    fn first() -> Self {
        Self { at: Instant::now() + RECHECK_PAUSE_MIN, pause: RECHECK_PAUSE_MIN }
    }

    fn next(self) -> Option<Self> {
        let pause = self.pause * 2;
        (pause <= RECHECK_PAUSE_MAX).then(|| Self { at: Instant::now() + pause, pause })
    }
}

fn watch_directory(path: &Path) -> Result<OwnedFd, Errno> {
    use inotify::{CreateFlags, WatchFlags};
    let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let wanted = WatchFlags::CLOSE_WRITE
        | WatchFlags::DELETE
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVED_FROM
        | WatchFlags::MOVED_TO
        | WatchFlags::MOVE_SELF
        | WatchFlags::ONLYDIR;
    inotify::add_watch(&events, path, wanted)?;
    Ok(events)
}

/// One buffer full of events, as what they mean here.
fn read_notices(events: &OwnedFd) -> io::Result<Vec<Notice>> {
    use inotify::ReadFlags;
    let mut buffer = [MaybeUninit::uninit(); EVENT_BUFFER_BYTES];
    let mut reader = inotify::Reader::new(events, &mut buffer);
    let mut notices = Vec::new();
    loop {
        let event = match reader.next() {
            Ok(event) => event,
            Err(Errno::WOULDBLOCK) => return Ok(notices),
            Err(Errno::INTR) => continue,
            Err(e) => return Err(e.into()),
        };
        let flags = event.events();
        let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
        let gone = ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::IGNORED;
        if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            notices.push(Notice::Overflow);
        } else if flags.intersects(gone) {
            notices.push(Notice::DirectoryGone);
        } else if let Some(name) = name.filter(|name| is_entry(name)) {
            let is_close = flags.contains(ReadFlags::CLOSE_WRITE);
            let notice = if is_close { Notice::Closed } else { Notice::Changed };
            notices.push(notice(name.to_owned()));
        }
        if reader.is_buffer_empty() {
            return Ok(notices);
        }
    }
}

/// A closed file whose lock is still there is looked at again after these times and all their
/// doublings between.
const RECHECK_PAUSE_MIN: Duration = Duration::from_millis(1);
const RECHECK_PAUSE_MAX: Duration = Duration::from_millis(1024);

const EVENT_BUFFER_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{Registrar, Sink};
    use crate::{
        registry::{Entry, Registry, local::LocalRegistry},
        test_dir::TestDir,
    };
    use rustix::fs::{FlockOperation, flock};
    use std::fs::{self, File};

    fn run(test: impl AsyncFnOnce(&RuntimeDir, &LocalRegistry)) {
        let temp = TestDir::new();
        let dir = RuntimeDir::at(&temp.path().join("run"));
        dir.create().unwrap();
        let registry = LocalRegistry::new(dir.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test(&dir, &registry));
    }

    async fn next(watch: &mut LocalWatch) -> Vec<Arc<Row>> {
        let deadline = Duration::from_secs(5);
        tokio::time::timeout(deadline, watch.changed()).await.expect("a change").unwrap()
    }

    #[test]
    fn lost_events_lead_to_a_rescan() {
        run(async |_, registry| {
            let mut watch = registry.watch().unwrap();
            let _ours = registry.register(&Entry::sample("orders", "1"), &Sink::pair().0).unwrap();
            // The real events are read and dropped, as in an overflow; only the notice of it is
            // left.
            while !read_notices(watch.events.get_ref()).unwrap().is_empty() {}
            watch.on_notice(Notice::Overflow).unwrap();
            assert_eq!(next(&mut watch).await[0].id.as_str(), "orders");
        });
    }

    #[test]
    fn a_lock_that_goes_after_the_close_is_noticed_too() {
        run(async |dir, registry| {
            let path = dir.apps().join("1.json");
            fs::write(&path, Entry::sample("orders", "1").emit().unwrap()).unwrap();
            // Closing a descriptor that only reads is told to nobody, as the end of the lock is.
            let lock = File::open(&path).unwrap();
            flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
            let writer = File::options().append(true).open(&path).unwrap();
            let mut watch = registry.watch().unwrap();
            assert_eq!(watch.table().len(), 1);
            drop(writer);
            assert!(watch.read_notices().unwrap());
            assert_eq!(watch.rechecks.len(), 1);
            drop(lock);
            assert!(next(&mut watch).await.is_empty());
            assert!(watch.rechecks.is_empty() && !path.exists());
        });
    }
}
