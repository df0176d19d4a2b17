//! Apps that came or went while the node ran, beside those of its file. They are written down
//! before they are in force, so that a control that dies is continued with them.
//!
//! A node that is stopped forgets them: what is to stay belongs into the file.

#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use snapshot::{AppId, Namespace};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

pub(crate) type Name = (Namespace, AppId);

#[derive(Clone, Debug, Default)]
pub(crate) struct Changes {
    path: PathBuf,
    /// As the operator gave them, which is how they are understood again.
    added: BTreeMap<Name, String>,
    removed: BTreeSet<Name>,
}

/// The file.
#[derive(Deserialize, Serialize)]
struct Written {
    added: Vec<(Namespace, AppId, String)>,
    removed: Vec<(Namespace, AppId)>,
}

impl Changes {
    /// What an earlier control wrote down, and what is wrong with it if it cannot be read.
    pub(crate) fn load(path: PathBuf) -> (Self, Option<String>) {
        let written = match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return (Self { path, ..Self::default() }, None);
            }
            Err(e) => Err(e.to_string()),
            Ok(bytes) => serde_json::from_slice::<Written>(&bytes).map_err(|e| e.to_string()),
        };
        match written {
            Ok(Written { added, removed }) => {
                let added = added.into_iter().map(|(namespace, id, text)| ((namespace, id), text));
                let (added, removed) = (added.collect(), removed.into_iter().collect());
                (Self { path, added, removed }, None)
            }
            Err(reason) => {
                let problem = format!("{}: {reason}", path.display());
                (Self { path, ..Self::default() }, Some(problem))
            }
        }
    }

    pub(crate) fn added(&self) -> impl Iterator<Item = (&Name, &str)> {
        self.added.iter().map(|(name, text)| (name, text.as_str()))
    }

    pub(crate) fn is_removed(&self, name: &Name) -> bool {
        self.removed.contains(name)
    }

    /// # Errors
    /// When it cannot be written down; nothing has changed then.
    pub(crate) fn add(&mut self, apps: &[(Name, String)]) -> io::Result<()> {
        let (mut added, mut removed) = (self.added.clone(), self.removed.clone());
        for (name, text) in apps {
            added.insert(name.clone(), text.clone());
            removed.remove(name);
        }
        self.replace(added, removed)
    }

    /// # Errors
    /// When it cannot be written down; nothing has changed then.
    pub(crate) fn remove(&mut self, name: &Name, is_in_file: bool) -> io::Result<()> {
        let (mut added, mut removed) = (self.added.clone(), self.removed.clone());
        added.remove(name);
        if is_in_file {
            removed.insert(name.clone());
        }
        self.replace(added, removed)
    }

    /// As it was before.
    ///
    /// # Errors
    /// When it cannot be written down; nothing has changed then.
    pub(crate) fn restore(&mut self, before: Self) -> io::Result<()> {
        self.replace(before.added, before.removed)
    }

    fn replace(
        &mut self,
        added: BTreeMap<Name, String>,
        removed: BTreeSet<Name>,
    ) -> io::Result<()> {
        let written = Written {
            added: added
                .iter()
                .map(|((n, id), text)| (n.clone(), id.clone(), text.clone()))
                .collect(),
            removed: removed.iter().cloned().collect(),
        };
        write_whole(&self.path, &serde_json::to_vec(&written)?)?;
        (self.added, self.removed) = (added, removed);
        Ok(())
    }

    /// The node is stopped.
    pub(crate) fn end(self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Readers see the old file or the new one, nothing else.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let hidden = path.with_extension("new");
    let mut file =
        fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(&hidden)?;
    io::Write::write_all(&mut file, bytes)?;
    fs::rename(&hidden, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_dir::TestDir;

    fn name(id: &str) -> Name {
        (Namespace::default(), AppId::new(id).unwrap())
    }

    fn ids(changes: &Changes) -> Vec<&str> {
        changes.added().map(|((_, id), _)| id.as_str()).collect()
    }

    #[test]
    fn the_next_control_finds_what_came_and_went() {
        let temp = TestDir::new();
        let path = temp.path().join("changes");
        let (mut changes, problem) = Changes::load(path.clone());
        assert_eq!((ids(&changes), problem), (vec![], None));
        changes.add(&[(name("a"), "{id: a}".into()), (name("b"), "{id: b}".into())]).unwrap();
        changes.remove(&name("a"), false).unwrap();
        changes.remove(&name("c"), true).unwrap();

        let (mut changes, _) = Changes::load(path.clone());
        assert_eq!(ids(&changes), ["b"]);
        assert!(changes.is_removed(&name("c")) && !changes.is_removed(&name("a")));
        changes.add(&[(name("c"), "{id: c}".into())]).unwrap();
        assert!(!changes.is_removed(&name("c")));
        assert_eq!(changes.added().last(), Some((&name("c"), "{id: c}")));
        changes.end();
        assert!(!path.exists());
    }

    #[test]
    fn what_cannot_be_read_is_told_and_what_cannot_be_written_changes_nothing() {
        let temp = TestDir::new();
        let path = temp.path().join("changes");
        fs::write(&path, "{").unwrap();
        let (changes, problem) = Changes::load(path.clone());
        assert!(problem.unwrap().starts_with(&path.display().to_string()));
        assert_eq!(ids(&changes), [""; 0]);
        let (mut changes, _) = Changes::load(temp.path().join("absent/changes"));
        assert!(changes.add(&[(name("a"), String::new())]).is_err());
        assert_eq!(ids(&changes), [""; 0]);
    }
}
