//! A directory that tells when something in it changed, whatever it was.
//!
//! For registries that read one file: what stands at its name may be replaced, swapped through a
//! symbolic link, or written in place, and all of these are events of the directory.

#![forbid(unsafe_code)]

use super::RegistryError;
use rustix::{
    fs::inotify::{self, CreateFlags, WatchFlags},
    io::Errno,
};
use std::{
    io,
    mem::MaybeUninit,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};
use tokio::io::unix::AsyncFd;

pub(crate) struct DirectoryWatch {
    events: AsyncFd<OwnedFd>,
}

/// When a file that is written in place counts as changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Wake {
    /// When its writer is done with it.
    OnClose,
    /// At each write, for files that are never closed.
    OnWrite,
}

impl DirectoryWatch {
    /// # Errors
    /// When the directory does not exist, or the user has no inotify instance left.
    pub(crate) fn start(path: &Path, wake: Wake) -> Result<Self, RegistryError> {
        let failed = |e: Errno| RegistryError::WatchDirectory {
            path: path.to_owned(),
            reason: io::Error::from(e),
        };
        let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(failed)?;
        let writes = match wake {
            Wake::OnClose => WatchFlags::CLOSE_WRITE,
            Wake::OnWrite => WatchFlags::CLOSE_WRITE | WatchFlags::MODIFY,
        };
        let wanted = writes
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::CREATE
            | WatchFlags::ONLYDIR;
        inotify::add_watch(&events, path, wanted).map_err(failed)?;
        #[expect(
            deprecated,
            reason = "its hazard is a type that changes its descriptor, which an OwnedFd does not; the successor is unsafe"
        )]
        let events = AsyncFd::new(events).map_err(RegistryError::Watch)?;
        Ok(Self { events })
    }

    /// Ready once for all that happened since the last call. Dropping the future loses nothing.
    pub(crate) async fn changed(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.events.readable_mut().await?;
            // Cleared before the read: what comes after it sets it again.
            ready.clear_ready();
            if drain(self.events.get_ref())? {
                return Ok(());
            }
        }
    }
}

/// Reads all events; `true` when there was one. Lost events are an event too.
fn drain(events: &OwnedFd) -> io::Result<bool> {
    let mut buffer = [MaybeUninit::uninit(); EVENT_BUFFER_BYTES];
    let mut reader = inotify::Reader::new(events, &mut buffer);
    let mut is_any = false;
    loop {
        match reader.next() {
            Ok(_) => is_any = true,
            Err(Errno::WOULDBLOCK) => return Ok(is_any),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// The directory a file stands in.
pub(crate) fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

const EVENT_BUFFER_BYTES: usize = 4096;
