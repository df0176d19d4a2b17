//! Control groups: where version 2 is mounted, and the id that the kernel knows a group by.

#![forbid(unsafe_code)]

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// The hierarchy of version 2.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cgroups {
    root: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("there is no cgroup v2; mount -t cgroup2 cgroup2 /sys/fs/cgroup")]
    None,
    #[error("cgroup {path}: {reason}")]
    Path { path: PathBuf, reason: io::Error },
}

impl Cgroups {
    /// # Errors
    /// When none is mounted.
    pub fn find() -> Result<Self, CgroupError> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        Self::of_mounts(&mounts).ok_or(CgroupError::None)
    }

    fn of_mounts(mounts: &str) -> Option<Self> {
        let mut lines = mounts.lines().map(|line| line.split(' '));
        let root = lines.find_map(|mut fields| {
            let path = fields.nth(1)?;
            (fields.next()? == "cgroup2").then(|| PathBuf::from(path))
        })?;
        Some(Self { root })
    }

    /// The group's directory. `/` is the hierarchy's root, and a path below the mount point is
    /// taken as it is.
    pub fn directory(&self, group: &str) -> PathBuf {
        let path = Path::new(group);
        if path.starts_with(&self.root) {
            return path.to_owned();
        }
        self.root.join(group.trim_start_matches('/'))
    }

    /// # Errors
    /// When there is no such group.
    pub fn id(&self, group: &str) -> Result<u64, CgroupError> {
        let path = self.directory(group);
        match fs::metadata(path.join("cgroup.procs")).and_then(|_| fs::metadata(&path)) {
            Ok(metadata) => Ok(metadata.ino()),
            Err(reason) => Err(CgroupError::Path { path, reason }),
        }
    }

    /// The group of this process.
    pub fn own(&self) -> Option<String> {
        let text = fs::read_to_string("/proc/self/cgroup").ok()?;
        text.lines().find_map(|line| line.strip_prefix("0::").map(str::to_owned))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_second_version_among_mounts() {
        let first = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n";
        assert_eq!(Cgroups::of_mounts(first), None);
        let both = format!("{first}cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n");
        let cgroups = Cgroups::of_mounts(&both).unwrap();
        for (group, want) in [
            ("/", "/sys/fs/cgroup/unified/"),
            ("/a/b", "/sys/fs/cgroup/unified/a/b"),
            ("a", "/sys/fs/cgroup/unified/a"),
            ("/sys/fs/cgroup/unified/a", "/sys/fs/cgroup/unified/a"),
        ] {
            assert_eq!(cgroups.directory(group), Path::new(want), "{group}");
        }
    }
}
