//! The directory where the sidecars of one user meet: registry entries in `apps/`, Unix sockets in
//! `sockets/`, and in `dataplane/` what lets a control find the data plane of an earlier one.
//!
//! Whoever can write here can answer for any app, so it is 0700 and must belong to the user who
//! runs the sidecar.

#![forbid(unsafe_code)]

use crate::claim::{ADMIN_EXTENSION, PlaneName, QUESTION_EXTENSION, SOCKET_EXTENSION};
use snapshot::InstanceId;
use std::{
    env,
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

#[derive(Clone, Debug)]
pub(crate) struct RuntimeDir {
    path: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum RuntimeDirError {
    #[error(
        "XDG_RUNTIME_DIR is not set, so there is no place for the registry; set it, or set RINGCAR_RUNTIME_DIR \
         to a directory of your own"
    )]
    NoPlace,
    #[error("cannot create {path}: {reason}; RINGCAR_RUNTIME_DIR names another place")]
    Create { path: PathBuf, reason: io::Error },
    #[error("{path} belongs to user {owner}; sidecars that meet there must run as that user")]
    Owner { path: PathBuf, owner: u32 },
    #[error("{path} is open to other users (mode {mode:o}); make it 0700")]
    Mode { path: PathBuf, mode: u32 },
}

impl RuntimeDir {
    /// The directory this environment names, whether it exists or not.
    ///
    /// # Errors
    /// When it names none.
    pub(crate) fn locate() -> Result<Self, RuntimeDirError> {
        let is_root = rustix::process::geteuid().is_root();
        place(is_root, &|name| {
            env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
        })
        .map(|path| Self { path })
        .ok_or(RuntimeDirError::NoPlace)
    }

    #[cfg(test)]
    pub(crate) fn at(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Makes what is missing and checks who can write there.
    ///
    /// # Errors
    /// When it cannot be made, or is not ours alone.
    pub(crate) fn create(&self) -> Result<(), RuntimeDirError> {
        for path in [&self.path, &self.apps(), &self.sockets(), &self.data_planes()] {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .map_err(|reason| RuntimeDirError::Create { path: path.clone(), reason })?;
        }
        self.check()
    }

    /// Who can write there.
    ///
    /// # Errors
    /// When it does not exist, or is not ours alone.
    pub(crate) fn check(&self) -> Result<(), RuntimeDirError> {
        let path = self.path.clone();
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(reason) => return Err(RuntimeDirError::Create { path, reason }),
        };
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(RuntimeDirError::Owner { path, owner: metadata.uid() });
        }
        match metadata.permissions().mode() & 0o777 {
            mode if mode & 0o022 != 0 => Err(RuntimeDirError::Mode { path, mode }),
            _ => Ok(()),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn apps(&self) -> PathBuf {
        self.path.join("apps")
    }

    pub(crate) fn sockets(&self) -> PathBuf {
        self.path.join("sockets")
    }

    /// Where other sidecars call this instance.
    pub(crate) fn peer_socket(&self, instance: &InstanceId) -> PathBuf {
        self.sockets().join(format!("{}.peer", instance.0))
    }

    /// The instance that is called at this path, the other way round.
    pub(crate) fn instance_at(&self, peer_socket: &Path) -> Option<InstanceId> {
        let name = peer_socket.strip_prefix(self.sockets()).ok()?.to_str()?;
        let instance = name.strip_suffix(".peer").filter(|name| !name.contains('/'))?;
        Some(InstanceId(instance.into()))
    }

    pub(crate) fn data_planes(&self) -> PathBuf {
        self.path.join("dataplane")
    }

    /// Where control meets the data plane of this name.
    pub(crate) fn link_socket(&self, name: &PlaneName) -> PathBuf {
        self.data_planes().join(format!("{}.{SOCKET_EXTENSION}", name.as_str()))
    }

    /// Where operators reach the node of this name.
    pub(crate) fn admin_socket(&self, name: &PlaneName) -> PathBuf {
        self.data_planes().join(format!("{}.{ADMIN_EXTENSION}", name.as_str()))
    }

    /// Where operators ask the sidecar of this name.
    pub(crate) fn question_socket(&self, name: &PlaneName) -> PathBuf {
        self.data_planes().join(format!("{}.{QUESTION_EXTENSION}", name.as_str()))
    }

    /// What was changed of the node of this name while it ran.
    pub(crate) fn node_changes(&self, name: &PlaneName) -> PathBuf {
        self.data_planes().join(format!("{}.changes", name.as_str()))
    }

    /// Locked by the control of the data plane of this name.
    pub(crate) fn control_lock(&self, name: &PlaneName) -> PathBuf {
        self.data_planes().join(format!("{}.lock", name.as_str()))
    }
}

/// Whether the open file is the one that its path names now.
pub(crate) fn is_still_named(file: &File, path: &Path) -> bool {
    let place = |m: fs::Metadata| (m.dev(), m.ino());
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(named)) => place(ours) == place(named),
        _ => false,
    }
}

fn place(is_root: bool, env: &dyn Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    env("RINGCAR_RUNTIME_DIR")
        .or_else(|| is_root.then(|| PathBuf::from("/run/ringcar")))
        .or_else(|| env("XDG_RUNTIME_DIR").map(|path| path.join("ringcar")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_dir::TestDir;

    #[test]
    fn is_where_the_environment_says() {
        let env = |set: &'static [(&str, &str)]| {
            move |name: &str| {
                set.iter().find(|(key, _)| *key == name).map(|(_, value)| PathBuf::from(value))
            }
        };
        for (case, is_root, set, want) in [
            ("user without a session", false, &[][..], None),
            ("user", false, &[("XDG_RUNTIME_DIR", "/run/user/7")], Some("/run/user/7/ringcar")),
            ("root", true, &[("XDG_RUNTIME_DIR", "/run/user/0")], Some("/run/ringcar")),
            ("told", true, &[("RINGCAR_RUNTIME_DIR", "/tmp/x")], Some("/tmp/x")),
        ] {
            assert_eq!(place(is_root, &env(set)), want.map(PathBuf::from), "{case}");
        }
    }

    #[test]
    fn refuses_a_directory_that_others_can_write() {
        let temp = TestDir::new();
        let dir = RuntimeDir::at(&temp.path().join("made"));
        dir.create().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir.path), 0o700);
        assert_eq!(mode(&dir.apps()), 0o700);
        dir.create().unwrap();
        fs::set_permissions(&dir.path, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(dir.create(), Err(RuntimeDirError::Mode { mode: 0o777, .. })));
    }
}
