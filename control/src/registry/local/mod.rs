//! The registry of one machine: a directory with one file per running sidecar, each locked by its
//! owner.
//!
//! A file counts for as long as somebody holds a lock on it. The owner locks it before it gets its
//! name, and the kernel drops the lock when the owner ends, however it ends; closing the descriptor
//! it was written through then wakes every watcher (`IN_CLOSE_WRITE`). Nobody waits for a time to
//! pass, and nobody has to clean up after a kill.
//!
//! The invariant: a name is unlinked only by its owner, or by somebody who holds the lock of the
//! very file it names.

#![forbid(unsafe_code)]

mod rows;
mod watch;

pub(crate) use watch::LocalWatch;

use super::{Entry, Registrar, Registration, Registry, RegistryError, Sink, Table};
use crate::runtime_dir::RuntimeDir;
use rows::Rows;
use rustix::fs::{FlockOperation, flock};
use snapshot::InstanceId;
use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Write},
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::task::JoinHandle;

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
            result => result.map(|()| owned(rows.table())),
        }
    }
}

impl LocalRegistry {
    /// The entry of this instance, whether anybody holds it or not; `None` when there is none to
    /// read.
    pub(crate) fn find(&self, instance: &InstanceId) -> Option<Entry> {
        let bytes = fs::read(self.dir.apps().join(file_name(instance))).ok()?;
        Entry::parse(&bytes).ok()
    }
}

impl Registrar for LocalRegistry {
    fn register(
        &self,
        entry: &Entry,
        _news: &Sink,
    ) -> Result<Box<dyn Registration>, RegistryError> {
        let path = self.dir.apps().join(file_name(&entry.instance));
        let file = write_locked(&path, entry).map_err(|e| file_error(&path, e))?;
        Ok(Box::new(LocalRegistration { path, locked: Arc::new(file.into()) }))
    }
}

impl Registry for LocalRegistry {
    type Watch = LocalWatch;

    fn watch(&self) -> Result<LocalWatch, RegistryError> {
        LocalWatch::start(self.dir.clone())
    }
}

fn owned(table: Vec<Arc<Entry>>) -> Table {
    table.into_iter().map(Arc::unwrap_or_clone).collect()
}

fn file_name(instance: &InstanceId) -> String {
    format!("{}{SUFFIX}", instance.0)
}

fn file_error(path: &Path, reason: io::Error) -> RegistryError {
    RegistryError::File { path: path.to_owned(), reason }
}

/// Writes the entry beside its place, locks it, and moves it there: whoever sees the name sees it
/// locked and whole.
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

struct LocalRegistration {
    path: PathBuf,
    locked: Arc<OwnedFd>,
}

impl Registration for LocalRegistration {
    fn update(&mut self, entry: &Entry) -> Result<(), RegistryError> {
        let file = write_locked(&self.path, entry).map_err(|e| file_error(&self.path, e))?;
        // The old file lost its name to the new one before its lock goes, so no watcher can take
        // the name for stale.
        self.locked = Arc::new(file.into());
        Ok(())
    }

    fn hold(&self) -> Option<Arc<OwnedFd>> {
        Some(Arc::clone(&self.locked))
    }

    fn end(self: Box<Self>) -> Option<JoinHandle<()>> {
        None
    }
}

impl Drop for LocalRegistration {
    fn drop(&mut self) {
        // Somebody may have removed the whole directory; then there is nothing left to take back.
        let _ = fs::remove_file(&self.path);
    }
}

const SUFFIX: &str = ".json";

#[cfg(test)]
mod tests {
    use super::{rows::Kept, *};
    use crate::{registry::Row, test_dir::TestDir};
    use std::{
        io::Read,
        process::{Child, Command, Stdio},
        time::Duration,
    };

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

    fn ids(table: &[Arc<Row>]) -> Vec<&str> {
        table.iter().map(|row| row.id.as_str()).collect()
    }

    fn listed(place: &Place) -> Vec<String> {
        let table = place.registry.read().unwrap();
        table.iter().map(|entry| entry.id.as_str().to_owned()).collect()
    }

    async fn next(watch: &mut LocalWatch) -> Vec<Arc<Row>> {
        let deadline = Duration::from_secs(5);
        let table = tokio::time::timeout(deadline, watch.changed()).await.expect("a change");
        table.unwrap()
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
        let _ours =
            place.registry.register(&Entry::sample("orders", "1"), &Sink::pair().0).unwrap();
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
            let mut ours = place.registry.register(&entry, &Sink::pair().0).unwrap();
            assert_eq!(next(&mut watch).await, [Arc::new(Row::of(entry.clone()))]);
            // Of interest to whoever lists, and to nobody who calls.
            entry.note("cliPID", "7");
            ours.update(&entry).unwrap();
            assert_eq!(place.registry.read().unwrap(), [entry.clone()]);
            entry.zone = Some("eu".into());
            ours.update(&entry).unwrap();
            assert_eq!(next(&mut watch).await, [Arc::new(Row::of(entry))]);
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
    fn a_copy_of_the_lock_keeps_the_entry_of_a_killed_owner() {
        let place = place();
        let entry = Entry::sample("orders", "1");
        let owner = write_locked(&place.dir.apps().join("1.json"), &entry).unwrap();
        let copy = owner.try_clone().unwrap();
        run(async {
            let mut watch = place.registry.watch().unwrap();
            drop(owner);
            assert_eq!(listed(&place), ["orders"]);
            assert_eq!(place.registry.find(&entry.instance), Some(entry.clone()));
            drop(copy);
            assert!(next(&mut watch).await.is_empty());
        });
        assert_eq!(place.registry.find(&entry.instance), None);
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
        let mut ours = place.registry.register(&entry, &Sink::pair().0).unwrap();
        let updates = std::thread::spawn(move || {
            for pid in 0..2000 {
                entry.note("appPID", &pid.to_string());
                ours.update(&entry).unwrap();
            }
            ours
        });
        let mut reads = 0;
        while !updates.is_finished() {
            assert_eq!(listed(&place), ["orders"], "read {reads}");
            reads += 1;
        }
        drop(updates.join().unwrap());
    }

    #[test]
    fn one_app_twice_is_two_rows_in_order_of_creation() {
        let place = place();
        let first =
            place.registry.register(&Entry::sample("orders", "2"), &Sink::pair().0).unwrap();
        let _second =
            place.registry.register(&Entry::sample("orders", "1"), &Sink::pair().0).unwrap();
        let instances = |table: &Table| -> Vec<String> {
            table.iter().map(|entry| entry.instance.0.to_string()).collect()
        };
        assert_eq!(instances(&place.registry.read().unwrap()), ["2", "1"]);
        drop(first);
        assert_eq!(instances(&place.registry.read().unwrap()), ["1"]);
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
