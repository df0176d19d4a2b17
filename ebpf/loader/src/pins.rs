//! Where programs and maps live on without us: directories of the bpf file system.
//!
//! ```text
//!   /sys/fs/bpf/ringcar/NAME/maps-v1/MEMBERS …          one set of maps per layout
//!   /sys/fs/bpf/ringcar/NAME/links-OBJECT-CGROUP/…      programs, attached
//! ```
//! A new build of the programs with the same layout goes on with the maps of the old one: it is
//! attached before the old one is taken off, and for that moment both do the same with the same
//! values. One of a later layout goes on with those maps that are in it as they were.

#![forbid(unsafe_code)]

use crate::{KernelError, link};
use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

pub const FILE_SYSTEM: &str = "/sys/fs/bpf";

/// Of one node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pins {
    root: PathBuf,
    name: String,
    layout: u32,
}

/// What is pinned under one name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pinned {
    pub name: String,
    pub maps: Vec<String>,
    /// Of each version that is attached: its directory, and its programs.
    pub links: Vec<(String, Vec<String>)>,
}

impl Pins {
    /// `name` may be anything; the directory's is made of it.
    pub fn new(file_system: &Path, name: &str) -> Self {
        Self::of_layout(file_system, name, ebpf_common::LAYOUT)
    }

    pub(crate) fn of_layout(file_system: &Path, name: &str, layout: u32) -> Self {
        Self { root: file_system.join("ringcar"), name: directory_name(name), layout }
    }

    pub fn directory(&self) -> PathBuf {
        self.root.join(&self.name)
    }

    pub(crate) fn maps(&self) -> PathBuf {
        self.maps_of(self.layout)
    }

    fn maps_of(&self, layout: u32) -> PathBuf {
        self.directory().join(format!("{MAPS_PREFIX}{layout}"))
    }

    /// Pins what earlier layouts have and this one has alike, under this one's name, too.
    pub(crate) fn hand_on(&self, maps: &[(&str, u32)]) -> Result<(), KernelError> {
        let named = subdirectories(&self.directory()).into_iter().map(|path| name_of(&path));
        let layouts = named.filter_map(|name| name.strip_prefix(MAPS_PREFIX)?.parse().ok());
        let mut earlier: Vec<u32> = layouts.filter(|layout| *layout < self.layout).collect();
        earlier.sort_unstable_by(|a, b| b.cmp(a));
        for (name, since) in maps {
            let to = self.maps().join(name);
            let from = earlier.iter().filter(|layout| *layout >= since);
            let from =
                from.map(|layout| self.maps_of(*layout).join(name)).find(|path| path.exists());
            if let Some(from) = from.filter(|_| !to.exists()) {
                let failed = |reason| KernelError::Pin { path: to.clone(), reason };
                link::pin_again(&from, &to).map_err(failed)?;
            }
        }
        Ok(())
    }

    pub(crate) fn links(&self, object: &str, cgroup: u64) -> PathBuf {
        self.directory().join(format!("links-{object}-{cgroup}"))
    }

    pub(crate) fn create(&self) -> Result<(), KernelError> {
        for path in [self.root.clone(), self.directory(), self.maps()] {
            make_directory(&path)?;
        }
        Ok(())
    }

    /// Takes off all that is not of this version.
    pub(crate) fn remove_others(&self, links: &Path) -> Result<(), KernelError> {
        let maps = self.maps();
        let mut others = subdirectories(&self.directory());
        others.retain(|path| path != links && *path != maps && !is_acceleration(path));
        // Programs before the maps they use.
        others.sort_by_key(|path| !is_links(path));
        others.iter().try_for_each(|path| remove_directory(path))
    }

    /// Maps and links of one build of acceleration.
    pub(crate) fn acceleration(&self, object: &str, cgroup: u64) -> (PathBuf, PathBuf) {
        let directory = self.directory();
        let maps = directory.join(format!("maps{ACCELERATION}{object}-{cgroup}"));
        (maps, directory.join(format!("links{ACCELERATION}{object}-{cgroup}")))
    }

    pub(crate) fn acceleration_maps(&self) -> Option<PathBuf> {
        let mut all = subdirectories(&self.directory()).into_iter();
        all.find(|path| is_acceleration(path) && !is_links(path))
    }

    /// Connections that are under way keep what they have.
    pub(crate) fn remove_acceleration(&self) -> Result<(), KernelError> {
        let mut all = subdirectories(&self.directory());
        all.retain(|path| is_acceleration(path));
        all.sort_by_key(|path| !is_links(path));
        all.iter().try_for_each(|path| remove_directory(path))
    }

    /// Detaches all programs of this name and drops its maps. Whether there was anything.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn remove(&self) -> Result<bool, KernelError> {
        let directory = self.directory();
        if !directory.exists() {
            return Ok(false);
        }
        let mut all = subdirectories(&directory);
        all.sort_by_key(|path| !is_links(path));
        all.iter().try_for_each(|path| remove_directory(path))?;
        remove_directory(&directory)?;
        // Another node may have its own.
        let _ = fs::remove_dir(&self.root);
        Ok(true)
    }
}

/// All that is pinned, by name.
pub fn list(file_system: &Path) -> Vec<Pinned> {
    let mut found: Vec<Pinned> = subdirectories(&file_system.join("ringcar"))
        .into_iter()
        .map(|directory| {
            let mut pinned =
                Pinned { name: name_of(&directory), maps: Vec::new(), links: Vec::new() };
            for path in subdirectories(&directory) {
                match is_links(&path) {
                    true => pinned.links.push((name_of(&path), files(&path))),
                    false => pinned.maps.extend(files(&path)),
                }
            }
            pinned
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// Mounts the bpf file system where it is missing, which takes CAP_SYS_ADMIN.
///
/// # Errors
/// When it is missing and cannot be mounted.
pub fn ensure_file_system(path: &Path) -> Result<(), KernelError> {
    let is_there = rustix::fs::statfs(path).is_ok_and(|found| found.f_type == BPF_FS_MAGIC);
    if is_there {
        return Ok(());
    }
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("bpf", path, "bpf", flags, None).map_err(|reason| {
        KernelError::NoFileSystem { path: path.to_owned(), reason: reason.into() }
    })
}

pub(crate) fn make_directory(path: &Path) -> Result<(), KernelError> {
    let failed = |reason| KernelError::Pin { path: path.to_owned(), reason };
    match fs::create_dir(path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(e) => return Err(failed(e)),
    }
    // Whoever could write here could say who is who.
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(failed)
}

pub(crate) fn remove_directory(path: &Path) -> Result<(), KernelError> {
    let is_links = is_links(path);
    let mut names = files(path);
    names.sort_by_key(|name| order_of_removal(name));
    for name in names {
        let path = path.join(name);
        if is_links {
            link::detach(&path)
                .map_err(|reason| KernelError::Pin { path: path.clone(), reason })?;
        }
        fs::remove_file(&path).map_err(|reason| KernelError::Pin { path, reason })?;
    }
    fs::remove_dir(path).map_err(|reason| KernelError::Pin { path: path.to_owned(), reason })
}

/// First what sends connections on their way, last what tells who came.
fn order_of_removal(name: &str) -> usize {
    const ORDER: [&str; 3] = ["connect", "getpeername", "sock_ops"];
    ORDER.iter().position(|part| name.contains(part)).unwrap_or(ORDER.len())
}

fn is_links(path: &Path) -> bool {
    name_of(path).starts_with("links-")
}

fn is_acceleration(path: &Path) -> bool {
    name_of(path).contains(ACCELERATION)
}

fn subdirectories(path: &Path) -> Vec<PathBuf> {
    entries(path).filter(|path| path.is_dir()).collect()
}

fn files(path: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        entries(path).filter(|path| !path.is_dir()).map(|path| name_of(&path)).collect();
    names.sort();
    names
}

fn entries(path: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The file system takes no dots.
fn directory_name(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let name: String = name.chars().map(plain).take(NAME_BYTES_MAX).collect();
    if name.is_empty() { "_".to_owned() } else { name }
}

const MAPS_PREFIX: &str = "maps-v";
/// In the names of what acceleration has.
const ACCELERATION: &str = "-accelerate-";

/// Of a directory's name; a host's name has at most 64.
const NAME_BYTES_MAX: usize = 64;

const BPF_FS_MAGIC: rustix::fs::FsWord = 0xcafe_4a11;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_directories_that_the_file_system_takes() {
        for (name, want) in [("", "_"), ("shop", "shop"), ("a.b/../c", "a_b____c"), ("é", "_")] {
            assert_eq!(directory_name(name), want, "{name}");
        }
        assert_eq!(directory_name(&"x".repeat(300)).len(), NAME_BYTES_MAX);
    }

    #[test]
    fn what_tells_who_came_goes_last() {
        let mut names =
            ["getsockopt", "sock_ops", "connect6", "getpeername4", "connect4"].map(str::to_owned);
        names.sort_by_key(|name| order_of_removal(name));
        assert_eq!(names, ["connect6", "connect4", "getpeername4", "sock_ops", "getsockopt"]);
    }
}
