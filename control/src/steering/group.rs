//! The control group of control and data plane: what they connect to is what they were asked to
//! carry, so the kernel must know them by more than their names.
//!
//! Control moves into a group of its own below the one it was started in, before it starts a data
//! plane, which then is in it from its first moment on.

#![forbid(unsafe_code)]

use ebpf_loader::Cgroups;
use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

pub(super) struct OwnGroup {
    directory: PathBuf,
    pub(super) id: u64,
}

impl OwnGroup {
    /// # Errors
    /// When the group cannot be made or entered, naming it.
    pub(super) fn enter(cgroups: &Cgroups, name: &str) -> Result<Self, String> {
        let own = cgroups.own().ok_or("this process is in no control group of version 2")?;
        let name = format!("{PREFIX}{name}");
        let parent = match own.strip_suffix(&name) {
            Some(parent) => cgroups.directory(parent),
            None => cgroups.directory(&own),
        };
        let directory = parent.join(&name);
        let failed = |reason: io::Error| format!("control group {}: {reason}", directory.display());
        match fs::create_dir(&directory) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(failed(e)),
            _ => {}
        }
        move_to(&directory).map_err(failed)?;
        let id = fs::metadata(&directory).map_err(failed)?.ino();
        Ok(Self { directory, id })
    }

    /// Back to where it was started, and no group is left. While a data plane serves on, it stays.
    pub(super) fn leave(self) {
        let Some(parent) = self.directory.parent() else { return };
        if move_to(parent).is_ok() {
            let _ = fs::remove_dir(&self.directory);
        }
    }
}

/// The id of the group that another process is in, if it is one of ours.
pub(super) fn of_process(cgroups: &Cgroups, pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let group = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    let is_ours = Path::new(group).file_name()?.to_str()?.starts_with(PREFIX);
    if is_ours { cgroups.id(group).ok() } else { None }
}

fn move_to(directory: &Path) -> io::Result<()> {
    fs::write(directory.join("cgroup.procs"), std::process::id().to_string())
}

const PREFIX: &str = "ringcar-";
