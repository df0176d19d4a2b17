//! Directories in which something may change that the configuration is read from.
//!
//! One that is no longer of interest is watched on until the end: to read the same files once more
//! changes nothing.

#![forbid(unsafe_code)]

use crate::{
    log::Log,
    registry::inotify::{DirectoryWatch, Wake},
};
use std::{collections::BTreeSet, path::PathBuf, sync::Arc};
use tokio::{sync::Notify, task::JoinSet};

#[derive(Default)]
pub(super) struct Watches {
    changed: Arc<Notify>,
    /// End with this.
    tasks: JoinSet<()>,
    watched: BTreeSet<PathBuf>,
}

impl Watches {
    /// Must be called within the runtime.
    pub(super) fn add(&mut self, directories: impl IntoIterator<Item = PathBuf>, log: &Log) {
        for directory in directories {
            if self.watched.contains(&directory) {
                continue;
            }
            match DirectoryWatch::start(&directory, Wake::OnClose) {
                Ok(mut watch) => {
                    let changed = Arc::clone(&self.changed);
                    self.tasks.spawn(async move {
                        while watch.changed().await.is_ok() {
                            changed.notify_one();
                        }
                    });
                }
                Err(e) => log.warning(format_args!("{e}; SIGHUP reads the configuration anew")),
            }
            // One that cannot be watched is not complained of again.
            self.watched.insert(directory);
        }
    }

    /// Ready when a file may have changed.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}
