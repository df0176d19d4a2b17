//! The registry of one machine: a directory with one file per running sidecar, each locked by its owner.
//!
//! A file counts for as long as somebody holds a lock on it. The owner locks it before it gets its name, and the
//! kernel drops the lock when the owner ends, however it ends; closing the descriptor it was written through then
//! wakes every watcher (`IN_CLOSE_WRITE`). Nobody waits for a time to pass, and nobody has to clean up after a kill.
//!
//! The invariant: a name is unlinked only by its owner, or by somebody who holds the lock of the very file it names.

#![forbid(unsafe_code)]

use super::entry::ENTRY_BYTES_MAX;
use super::{Entry, EntryError, Registration, Registry, RegistryError, Table, Watch};
use crate::runtime_dir::RuntimeDir;
use rustix::{
    fs::{FlockOperation, flock, inotify},
    io::Errno,
};
use snapshot::InstanceId;
use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::OwnedFd,
        unix::{
            ffi::OsStrExt,
            fs::{MetadataExt, OpenOptionsExt},
        },
    },
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{io::unix::AsyncFd, time::Instant};

pub(crate) struct LocalRegistry {
    dir: RuntimeDir,
}

impl LocalRegistry {
    pub(crate) const fn new(dir: RuntimeDir) -> Self {
        Self { dir }
    }

    /// The table as it is now, for commands that do not stay.
    ///
    /// # Errors
    /// When the directory cannot be read; one that does not exist is an empty table.
    pub(crate) fn read(&self) -> Result<Table, RegistryError> {
        let mut rows = Rows::new(self.dir.clone());
        match rows.rescan() {
            Err(RegistryError::Gone { .. }) => Ok(Table::new()),
            result => result.map(|()| rows.table()),
        }
    }
}

impl Registry for LocalRegistry {
    type Registration = LocalRegistration;
    type Watch = LocalWatch;

    fn register(&self, entry: &Entry) -> Result<LocalRegistration, RegistryError> {
        let path = self.dir.apps().join(file_name(&entry.instance));
        let file = write_locked(&path, entry).map_err(|e| file_error(&path, e))?;
        Ok(LocalRegistration { path, _locked: file })
    }

    fn watch(&self) -> Result<LocalWatch, RegistryError> {
        LocalWatch::start(self.dir.clone())
    }
}

fn file_name(instance: &InstanceId) -> String {
    format!("{}{SUFFIX}", instance.0)
}

fn file_error(path: &Path, reason: io::Error) -> RegistryError {
    RegistryError::File { path: path.to_owned(), reason }
}

/// Writes the entry beside its place, locks it, and moves it there: whoever sees the name sees it locked and whole.
fn write_locked(path: &Path, entry: &Entry) -> io::Result<File> {
    let bytes = entry.emit().map_err(io::Error::other)?;
    let mut hidden = OsString::from(".");
    hidden.push(path.file_name().unwrap_or_default());
    let hidden = path.with_file_name(hidden);
    let mut file =
        File::options().write(true).create(true).truncate(true).mode(0o600).open(&hidden)?;
    let written = flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(io::Error::from)
        .and_then(|()| file.write_all(&bytes))
        .and_then(|()| fs::rename(&hidden, path));
    if let Err(reason) = written {
        let _ = fs::remove_file(&hidden);
        return Err(reason);
    }
    Ok(file)
}

pub(crate) struct LocalRegistration {
    path: PathBuf,
    _locked: File,
}

impl Registration for LocalRegistration {
    fn update(&mut self, entry: &Entry) -> Result<(), RegistryError> {
        let file = write_locked(&self.path, entry).map_err(|e| file_error(&self.path, e))?;
        // The old file lost its name to the new one before its lock goes, so no watcher can take the name for stale.
        self._locked = file;
        Ok(())
    }
}

impl Drop for LocalRegistration {
    fn drop(&mut self) {
        // Somebody may have removed the whole directory; then there is nothing left to take back.
        let _ = fs::remove_file(&self.path);
    }
}

/// The rows read so far, by file name.
struct Rows {
    dir: RuntimeDir,
    rows: BTreeMap<OsString, Entry>,
    complaints: Vec<String>,
}

/// What a look at one file found.
#[derive(Debug, Eq, PartialEq)]
enum Look {
    Alive,
    Gone,
}

impl Rows {
    const fn new(dir: RuntimeDir) -> Self {
        Self { dir, rows: BTreeMap::new(), complaints: Vec::new() }
    }

    fn table(&self) -> Table {
        let mut table: Table = self.rows.values().cloned().collect();
        table.sort_by(|a, b| (a.created, &a.instance).cmp(&(b.created, &b.instance)));
        table
    }

    fn rescan(&mut self) -> Result<(), RegistryError> {
        self.rows.clear();
        let path = self.dir.apps();
        let files = match fs::read_dir(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(RegistryError::Gone { path });
            }
            result => result.map_err(|e| file_error(&path, e))?,
        };
        for file in files.take(ENTRIES_MAX) {
            let name = file.map_err(|e| file_error(&path, e))?.file_name();
            if is_entry(&name) {
                self.look_at(&name);
            } else if is_hidden_entry(&name) {
                self.sweep_hidden(&name);
            }
        }
        Ok(())
    }

    /// Reads one file again, and removes it when nobody holds it any more.
    fn look_at(&mut self, name: &OsStr) -> Look {
        let path = self.dir.apps().join(name);
        match read_held(&path, &self.dir) {
            Ok(Some(entry)) => {
                self.rows.insert(name.to_owned(), entry);
                Look::Alive
            }
            Ok(None) => {
                self.rows.remove(name);
                Look::Gone
            }
            Err(reason) => {
                self.rows.remove(name);
                self.complain(format!("registry file {} is skipped: it {reason}", path.display()));
                Look::Gone
            }
        }
    }

    fn complain(&mut self, complaint: String) {
        if self.complaints.len() < COMPLAINTS_MAX {
            self.complaints.push(complaint);
        }
    }

    /// A file that was killed before it got its name. Old ones only: a young one may be about to be locked.
    fn sweep_hidden(&self, name: &OsStr) {
        let path = self.dir.apps().join(name);
        let age = fs::metadata(&path).and_then(|m| m.modified()).map(|time| time.elapsed());
        if matches!(age, Ok(Ok(age)) if age > HIDDEN_AGE_MIN) {
            let _ = fs::remove_file(&path);
        }
    }
}

fn is_entry(name: &OsStr) -> bool {
    name.as_bytes().ends_with(SUFFIX.as_bytes()) && !name.as_bytes().starts_with(b".")
}

fn is_hidden_entry(name: &OsStr) -> bool {
    name.as_bytes().ends_with(SUFFIX.as_bytes()) && name.as_bytes().starts_with(b".")
}

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Entry(#[from] EntryError),
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// Reads the entry if its owner still holds the lock; removes the file if nobody does.
fn read_held(path: &Path, dir: &RuntimeDir) -> Result<Option<Entry>, ReadError> {
    // The name moves to a new file when its owner updates it, so a file that lost its name is no news; the bound
    // is for an owner that does nothing else.
    for _ in 0..REOPEN_MAX {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) if is_still_named(&file, path) => {
                remove_stale(path, dir);
                return Ok(None);
            }
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(Some(read_entry(file)?)),
            Err(e) => return Err(io::Error::from(e).into()),
        }
    }
    Ok(None)
}

fn read_entry(file: File) -> Result<Entry, ReadError> {
    let limit = u64::try_from(ENTRY_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(Entry::parse(&bytes)?)
}

/// What a killed sidecar left: its entry and its sockets. The caller holds the lock of the file.
fn remove_stale(path: &Path, dir: &RuntimeDir) {
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    if let Some(instance) = name.strip_suffix(SUFFIX) {
        let instance = InstanceId(instance.into());
        let _ = fs::remove_file(dir.peer_socket(&instance));
        let _ = fs::remove_file(dir.link_socket(&instance));
    }
    let _ = fs::remove_file(path);
}

fn is_still_named(file: &File, path: &Path) -> bool {
    let place = |m: fs::Metadata| (m.dev(), m.ino());
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(named)) => place(ours) == place(named),
        _ => false,
    }
}

/// The directory, watched.
pub(crate) struct LocalWatch {
    rows: Rows,
    events: AsyncFd<OwnedFd>,
    rechecks: BTreeMap<OsString, Recheck>,
    last: Table,
}

/// A file that was closed and is still locked.
///
/// The kernel tells watchers of a close before it drops the locks of what was closed (`__fput`, Linux 2.6 to 6.18),
/// so whoever wakes at once may find the lock of a dead owner still there, and nothing else will tell of its end.
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
    fn start(dir: RuntimeDir) -> Result<Self, RegistryError> {
        let events = watch_directory(&dir.apps()).map_err(|e| RegistryError::Watch(e.into()))?;
        #[expect(
            deprecated,
            reason = "its hazard is a type that changes its descriptor, which an OwnedFd does not; the successor is unsafe"
        )]
        let events = AsyncFd::new(events).map_err(RegistryError::Watch)?;
        // Scanned after the watch is in place: what happens in between is seen twice rather than never.
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
                let alive = self.rows.rows.keys().cloned();
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

impl Watch for LocalWatch {
    fn table(&self) -> Table {
        self.last.clone()
    }

    async fn changed(&mut self) -> Result<Table, RegistryError> {
        loop {
            let table = self.rows.table();
            if table != self.last {
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

    fn complaints(&mut self) -> Vec<String> {
        std::mem::take(&mut self.rows.complaints)
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

const SUFFIX: &str = ".json";

/// Sidecars of one machine. A directory with more files than this was not filled by sidecars.
const ENTRIES_MAX: usize = 10_000;

/// Lines about broken files kept until they are logged.
const COMPLAINTS_MAX: usize = 100;

/// How often a name is opened again because it moved to a new file meanwhile.
const REOPEN_MAX: usize = 8;

/// A hidden file this old is no longer about to get its name.
const HIDDEN_AGE_MIN: Duration = Duration::from_secs(60);

/// A closed file whose lock is still there is looked at again after these times and all their doublings between.
const RECHECK_PAUSE_MIN: Duration = Duration::from_millis(1);
const RECHECK_PAUSE_MAX: Duration = Duration::from_millis(1024);

const EVENT_BUFFER_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_dir::TestDir;
    use std::process::{Child, Command, Stdio};

    struct Place {
        _temp: TestDir,
        dir: RuntimeDir,
        registry: LocalRegistry,
    }

    fn place() -> Place {
        let temp = TestDir::new();
        let dir = RuntimeDir::at(&temp.path().join("run"));
        dir.create().unwrap();
        Place { registry: LocalRegistry::new(dir.clone()), dir, _temp: temp }
    }

    fn ids(table: &[Entry]) -> Vec<&str> {
        table.iter().map(|entry| entry.id.as_str()).collect()
    }

    async fn next(watch: &mut LocalWatch) -> Table {
        let deadline = Duration::from_secs(5);
        tokio::time::timeout(deadline, watch.changed()).await.expect("a change").unwrap()
    }

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test);
    }

    /// A process that holds the lock on a file, as a sidecar does, until it is killed.
    fn holder(path: &Path) -> Child {
        let script = "exec 9>>\"$0\" && flock -x 9 && echo held && exec sleep 60";
        let mut child = Command::new("bash")
            .args(["-c", script])
            .arg(path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0; 5];
        child.stdout.take().unwrap().read_exact(&mut line).unwrap();
        child
    }

    #[test]
    fn a_missing_directory_is_an_empty_table() {
        let temp = TestDir::new();
        let registry = LocalRegistry::new(RuntimeDir::at(&temp.path().join("absent")));
        assert!(registry.read().unwrap().is_empty());
    }

    #[test]
    fn skips_broken_files_and_says_so() {
        let place = place();
        let path = place.dir.apps().join("broken.json");
        fs::write(&path, "{").unwrap();
        let mut owner = holder(&path);
        fs::write(place.dir.apps().join("README"), "no entry").unwrap();
        let _ours = place.registry.register(&Entry::sample("orders", "1")).unwrap();
        run(async {
            let mut watch = place.registry.watch().unwrap();
            assert_eq!(ids(&watch.table()), ["orders"]);
            let complaints = watch.complaints();
            assert_eq!(complaints.len(), 1, "{complaints:?}");
            assert!(complaints[0].contains("broken.json is skipped: it is not an entry"));
            assert!(watch.complaints().is_empty());
        });
        owner.kill().unwrap();
        owner.wait().unwrap();
    }

    #[test]
    fn a_registration_is_seen_updated_and_gone() {
        let place = place();
        run(async {
            let mut watch = place.registry.watch().unwrap();
            assert!(watch.table().is_empty());
            let mut entry = Entry::sample("orders", "1");
            let mut ours = place.registry.register(&entry).unwrap();
            assert_eq!(next(&mut watch).await, [entry.clone()]);
            entry.cli_pid = Some(7);
            ours.update(&entry).unwrap();
            assert_eq!(next(&mut watch).await, [entry]);
            drop(ours);
            assert!(next(&mut watch).await.is_empty());
        });
        assert_eq!(fs::read_dir(place.dir.apps()).unwrap().count(), 0);
    }

    #[test]
    fn a_killed_owner_is_gone_at_once_with_its_sockets() {
        let place = place();
        let entry = Entry::sample("orders", "9-9");
        let path = place.dir.apps().join("9-9.json");
        fs::write(&path, entry.emit().unwrap()).unwrap();
        let peer = place.dir.peer_socket(&entry.instance);
        fs::write(&peer, "").unwrap();
        let mut owner = holder(&path);
        run(async {
            let mut watch = place.registry.watch().unwrap();
            assert_eq!(ids(&watch.table()), ["orders"]);
            owner.kill().unwrap();
            assert!(next(&mut watch).await.is_empty());
        });
        owner.wait().unwrap();
        assert!(!path.exists() && !peer.exists());
    }

    #[test]
    fn a_file_without_an_owner_does_not_count() {
        let place = place();
        let path = place.dir.apps().join("7-7.json");
        fs::write(&path, Entry::sample("orders", "7-7").emit().unwrap()).unwrap();
        assert!(place.registry.read().unwrap().is_empty());
        assert!(!path.exists());
    }

    #[test]
    fn updates_never_make_the_entry_flicker() {
        let place = place();
        let mut entry = Entry::sample("orders", "1");
        let mut ours = place.registry.register(&entry).unwrap();
        let updates = std::thread::spawn(move || {
            for pid in 0..2000 {
                entry.app_pid = Some(pid);
                ours.update(&entry).unwrap();
            }
            ours
        });
        let mut reads = 0;
        while !updates.is_finished() {
            assert_eq!(ids(&place.registry.read().unwrap()), ["orders"], "read {reads}");
            reads += 1;
        }
        drop(updates.join().unwrap());
    }

    #[test]
    fn one_app_twice_is_two_rows_in_order_of_creation() {
        let place = place();
        let first = place.registry.register(&Entry::sample("orders", "2")).unwrap();
        let _second = place.registry.register(&Entry::sample("orders", "1")).unwrap();
        let instances = |table: &Table| -> Vec<String> {
            table.iter().map(|entry| entry.instance.0.to_string()).collect()
        };
        assert_eq!(instances(&place.registry.read().unwrap()), ["2", "1"]);
        drop(first);
        assert_eq!(instances(&place.registry.read().unwrap()), ["1"]);
    }

    #[test]
    fn lost_events_lead_to_a_rescan() {
        let place = place();
        run(async {
            let mut watch = place.registry.watch().unwrap();
            let _ours = place.registry.register(&Entry::sample("orders", "1")).unwrap();
            // The real events are read and dropped, as in an overflow; only the notice of it is left.
            while !read_notices(watch.events.get_ref()).unwrap().is_empty() {}
            watch.on_notice(Notice::Overflow).unwrap();
            assert_eq!(ids(&next(&mut watch).await), ["orders"]);
        });
    }

    #[test]
    fn a_removed_directory_is_told() {
        let place = place();
        run(async {
            let mut watch = place.registry.watch().unwrap();
            fs::remove_dir(place.dir.apps()).unwrap();
            assert!(matches!(watch.changed().await, Err(RegistryError::Gone { .. })));
        });
    }
}
