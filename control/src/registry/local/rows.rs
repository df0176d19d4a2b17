//! The files of the registry as last read: which are alive, and what they say.
//!
//! Whoever finds a file without an owner removes it, under that file's own lock.

#![forbid(unsafe_code)]

use super::SUFFIX;
use crate::{
    registry::{
        Entry, EntryError, RegistryError, Revision, Row, entry::ENTRY_BYTES_MAX, local::file_error,
    },
    runtime_dir::{RuntimeDir, is_still_named},
    timestamp::Timestamp,
};
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use snapshot::InstanceId;
use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, Read},
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::Arc,
    time::Duration,
};

/// The rows read so far, by file name.
pub(super) struct Rows<T> {
    pub(super) dir: RuntimeDir,
    rows: BTreeMap<OsString, Arc<T>>,
    /// Whether `rows` may differ from the last table that was taken.
    is_changed: bool,
    pub(super) complaints: Vec<String>,
}

/// What of an entry somebody wants to know. Whoever watches keeps it for as long as it runs, so
/// that a control's own apps are not there a second time with all that is written of them.
pub(super) trait Kept {
    fn of(entry: Entry) -> Self;
    fn created(&self) -> Timestamp;
    fn instance(&self) -> &InstanceId;
}

impl Kept for Entry {
    fn of(entry: Entry) -> Self {
        entry
    }

    fn created(&self) -> Timestamp {
        self.created
    }

    fn instance(&self) -> &InstanceId {
        &self.instance
    }
}

impl Kept for Row {
    fn of(Entry { id, namespace, instance, peer, pid, created, zone, .. }: Entry) -> Self {
        let revision = Revision::Local { pid, created };
        Self { id, namespace, instance, address: peer, revision, zone }
    }

    fn created(&self) -> Timestamp {
        match self.revision {
            Revision::Local { created, .. } => created,
            // None of these is made here.
            _ => Timestamp(0),
        }
    }

    fn instance(&self) -> &InstanceId {
        &self.instance
    }
}

/// What a look at one file found.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Look {
    Alive,
    Gone,
}

impl<T: Kept> Rows<T> {
    pub(super) const fn new(dir: RuntimeDir) -> Self {
        Self { dir, rows: BTreeMap::new(), is_changed: false, complaints: Vec::new() }
    }

    /// In the order of their creation. What is kept is shared, since those who watch have two
    /// tables.
    pub(super) fn table(&self) -> Vec<Arc<T>> {
        let mut table: Vec<Arc<T>> = self.rows.values().cloned().collect();
        table.sort_by(|a, b| (a.created(), a.instance()).cmp(&(b.created(), b.instance())));
        table
    }

    /// The table, if it may have changed since this was last asked.
    pub(super) fn changed_table(&mut self) -> Option<Vec<Arc<T>>> {
        std::mem::take(&mut self.is_changed).then(|| self.table())
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &OsString> {
        self.rows.keys()
    }

    pub(super) fn rescan(&mut self) -> Result<(), RegistryError> {
        self.rows.clear();
        self.is_changed = true;
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
    pub(super) fn look_at(&mut self, name: &OsStr) -> Look {
        let path = self.dir.apps().join(name);
        self.is_changed = true;
        match read_held(&path, &self.dir) {
            Ok(Some(entry)) if self.has_room_for(name) => {
                self.rows.insert(name.to_owned(), Arc::new(T::of(entry)));
                return Look::Alive;
            }
            Ok(Some(_)) => self.complain(format!(
                "registry file {} is skipped: there are {ENTRIES_MAX} others",
                path.display()
            )),
            Ok(None) => {}
            Err(reason) => {
                self.complain(format!("registry file {} is skipped: it {reason}", path.display()));
            }
        }
        self.rows.remove(name);
        Look::Gone
    }

    fn has_room_for(&self, name: &OsStr) -> bool {
        self.rows.len() < ENTRIES_MAX || self.rows.contains_key(name)
    }

    fn complain(&mut self, complaint: String) {
        if self.complaints.len() < COMPLAINTS_MAX {
            self.complaints.push(complaint);
        }
    }

    /// A file that was killed before it got its name. Old ones only: a young one may be about to be
    /// locked.
    fn sweep_hidden(&self, name: &OsStr) {
        let path = self.dir.apps().join(name);
        let age = fs::metadata(&path).and_then(|m| m.modified()).map(|time| time.elapsed());
        if matches!(age, Ok(Ok(age)) if age > HIDDEN_AGE_MIN) {
            let _ = fs::remove_file(&path);
        }
    }
}

pub(super) fn is_entry(name: &OsStr) -> bool {
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
    // The name moves to a new file when its owner updates it, so a file that lost its name is no
    // news; the bound is for an owner that does nothing else.
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
    }
    let _ = fs::remove_file(path);
}

/// Sidecars of one machine. A directory with more files than this was not filled by sidecars.
const ENTRIES_MAX: usize = 10_000;

/// Lines about broken files kept until they are logged.
const COMPLAINTS_MAX: usize = 100;

/// How often a name is opened again because it moved to a new file meanwhile.
const REOPEN_MAX: usize = 8;

/// A hidden file this old is no longer about to get its name.
const HIDDEN_AGE_MIN: Duration = Duration::from_secs(60);
