//! Which control a data plane belongs to: a name, a lock that one process can hold, and the socket
//! where the data plane of that name is met.
//!
//! The lock goes with its process, however that ends, so whoever holds it knows that no other
//! control lives. What is met at the socket then was left behind, and is adopted.

#![forbid(unsafe_code)]

use crate::{
    listen,
    runtime_dir::{RuntimeDir, is_still_named},
};
use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// What two controls have in common that would serve the same thing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct PlaneName(String);

#[derive(Debug, thiserror::Error)]
pub(crate) enum ClaimError {
    #[error("{name} is controlled by process {pid}; end that one first")]
    Held { name: String, pid: String },
    #[error("cannot lock {path}: {reason}")]
    File { path: PathBuf, reason: io::Error },
}

/// The right to control one data plane, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Claim {
    _lock: File,
    lock_path: PathBuf,
    link_socket: PathBuf,
}

impl PlaneName {
    /// `whole` is all that tells it from others; `label` is for people who look at the directory.
    pub(crate) fn new(label: &str, whole: &str) -> Self {
        let is_plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let label: String = label.chars().filter(is_plain).take(LABEL_MAX).collect();
        Self(format!("{label}-{:016x}", fnv1a(whole.as_bytes())))
    }

    pub(crate) fn of_node(name: &str) -> Self {
        Self::new(name, &format!("node {name}"))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// FNV-1a, 64 bits: the same in every build, which the standard library's hasher does not promise.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

impl Claim {
    /// Waits for `patience` while another process has it: one that is replaced holds it while it
    /// drains. `on_wait` is told once whom it waits for.
    ///
    /// # Errors
    /// When another process keeps it.
    pub(crate) async fn take(
        dir: &RuntimeDir,
        name: &PlaneName,
        patience: Duration,
        on_wait: impl FnOnce(&ClaimError),
    ) -> Result<Self, ClaimError> {
        sweep(dir, name);
        let deadline = Instant::now() + patience;
        let mut on_wait = Some(on_wait);
        loop {
            let error = match Self::try_take(dir, name) {
                Err(error @ ClaimError::Held { .. }) => error,
                result => return result,
            };
            if Instant::now() + listen::RETRY_PAUSE_MIN > deadline {
                return Err(error);
            }
            if let Some(on_wait) = on_wait.take() {
                on_wait(&error);
            }
            tokio::time::sleep(listen::RETRY_PAUSE_MIN).await;
        }
    }

    fn try_take(dir: &RuntimeDir, name: &PlaneName) -> Result<Self, ClaimError> {
        let lock_path = dir.control_lock(name);
        let failed = |reason| ClaimError::File { path: lock_path.clone(), reason };
        for _ in 0..REOPEN_MAX {
            let mut file = open(&lock_path).map_err(failed)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) if is_still_named(&file, &lock_path) => {
                    let pid = std::process::id();
                    let noted = file.set_len(0).and_then(|()| writeln!(file, "{pid}"));
                    noted.map_err(failed)?;
                    let link_socket = dir.link_socket(name);
                    return Ok(Self { _lock: file, lock_path, link_socket });
                }
                // Its owner removed it meanwhile; the next one has another file.
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => {
                    let mut pid = String::new();
                    // Without it the message is poorer, no more.
                    let _ = file.take(PID_BYTES_MAX).read_to_string(&mut pid);
                    let pid = pid.trim().to_owned();
                    return Err(ClaimError::Held { name: name.0.clone(), pid });
                }
                Err(e) => return Err(failed(e.into())),
            }
        }
        Err(failed(io::Error::other("it is replaced again and again")))
    }

    pub(crate) fn link_socket(&self) -> &Path {
        &self.link_socket
    }

    /// Nothing is left to be adopted.
    pub(crate) fn end(self) {
        let _ = fs::remove_file(&self.link_socket);
        let _ = fs::remove_file(&self.lock_path);
    }
}

fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Removes what controls left whose data planes are gone, too: an app that is never started again
/// would leave its files for ever.
fn sweep(dir: &RuntimeDir, own: &PlaneName) {
    let Ok(files) = fs::read_dir(dir.data_planes()) else { return };
    for path in files.take(SWEEP_MAX).flatten().map(|file| file.path()) {
        let is_lock = path.extension().is_some_and(|extension| extension == "lock");
        if !is_lock || path.file_stem().is_some_and(|stem| stem == own.as_str()) {
            continue;
        }
        let Ok(file) = File::open(&path) else { continue };
        let is_free = flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        let socket = path.with_extension(SOCKET_EXTENSION);
        if is_free && is_still_named(&file, &path) && !listen::is_answered(&socket) {
            let _ = fs::remove_file(&socket);
            let _ = fs::remove_file(path.with_extension(ADMIN_EXTENSION));
            let _ = fs::remove_file(path.with_extension(QUESTION_EXTENSION));
            let _ = fs::remove_file(&path);
        }
    }
}

pub(crate) const SOCKET_EXTENSION: &str = "sock";
pub(crate) const ADMIN_EXTENSION: &str = "admin";
pub(crate) const QUESTION_EXTENSION: &str = "ask";

/// Of a name: a socket's path has 108 bytes for everything.
const LABEL_MAX: usize = 20;

const PID_BYTES_MAX: u64 = 16;

/// How often a lock is taken of a file that lost its name meanwhile.
const REOPEN_MAX: usize = 8;

const SWEEP_MAX: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_dir::TestDir;
    use std::os::unix::net::UnixListener;

    fn dir(temp: &TestDir) -> RuntimeDir {
        let dir = RuntimeDir::at(&temp.path().join("run"));
        dir.create().unwrap();
        dir
    }

    fn take(dir: &RuntimeDir, name: &PlaneName, patience: Duration) -> Result<Claim, ClaimError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(Claim::take(dir, name, patience, |_| {}))
    }

    #[test]
    fn a_second_claim_is_refused_with_the_first_ones_process() {
        let temp = TestDir::new();
        let dir = dir(&temp);
        let name = PlaneName::new("orders", "default/orders at 3500");
        let first = take(&dir, &name, Duration::ZERO).unwrap();
        let text = take(&dir, &name, Duration::ZERO).unwrap_err().to_string();
        let pid = std::process::id();
        assert!(text.contains(&format!("is controlled by process {pid};")), "{text}");
        let other = PlaneName::new("orders", "default/orders at 3501");
        take(&dir, &other, Duration::ZERO).unwrap().end();
        first.end();
        take(&dir, &name, Duration::ZERO).unwrap().end();
        assert_eq!(fs::read_dir(dir.data_planes()).unwrap().count(), 0);
    }

    #[test]
    fn a_claim_that_becomes_free_is_taken() {
        let temp = TestDir::new();
        let dir = dir(&temp);
        let name = PlaneName::new("orders", "x");
        let first = take(&dir, &name, Duration::ZERO).unwrap();
        let (told, waiting) = std::sync::mpsc::channel();
        let second = std::thread::spawn({
            let (dir, name) = (dir.clone(), name.clone());
            move || {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let on_wait = |error: &ClaimError| told.send(error.to_string()).unwrap();
                runtime.block_on(Claim::take(&dir, &name, Duration::from_secs(10), on_wait))
            }
        });
        assert!(waiting.recv().unwrap().contains("is controlled by"));
        // One is removed by its owner, the other is left by one that was killed.
        first.end();
        drop(second.join().unwrap().unwrap());
        take(&dir, &name, Duration::ZERO).unwrap();
    }

    #[test]
    fn what_nobody_holds_or_answers_is_swept() {
        let temp = TestDir::new();
        let dir = dir(&temp);
        let names = ["gone", "left", "held"].map(|label| PlaneName::new(label, label));
        let claims = names.each_ref().map(|name| take(&dir, name, Duration::ZERO).unwrap());
        let [gone, left, held] = claims;
        drop(UnixListener::bind(gone.link_socket()).unwrap());
        let _data_plane = UnixListener::bind(left.link_socket()).unwrap();
        drop((gone, left));
        drop(take(&dir, &PlaneName::new("new", "new"), Duration::ZERO).unwrap());
        let there = names.each_ref().map(|name| dir.control_lock(name).exists());
        assert_eq!(there, [false, true, true]);
        assert!(dir.link_socket(&names[1]).exists() && !dir.link_socket(&names[0]).exists());
        held.end();
    }

    #[test]
    fn names_fit_and_differ() {
        let long = "x".repeat(253);
        let name = PlaneName::new(&long, "a");
        assert_eq!(name.as_str().len(), LABEL_MAX + 17);
        assert_ne!(name, PlaneName::new(&long, "b"));
        assert_eq!(PlaneName::new("a/b c", "").as_str(), "abc-cbf29ce484222325");
    }
}
