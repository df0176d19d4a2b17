//! What the conversations are made of: a data plane on threads of its own, driven over the real
//! control link; apps whose every byte the test writes; clients that see every byte of an answer.
//!
//! Nothing in here uses the code under test to build or to read HTTP, so that a mistake cannot hide
//! in both. Every wait has a deadline and ends with an event; nothing sleeps.

#![forbid(unsafe_code)]

mod app;
mod link;
mod message;
mod plane;
mod wire;

pub(crate) use app::{App, ServedApp, listen_tcp};
pub(crate) use link::Link;
pub(crate) use message::{Framing, Message};
pub(crate) use plane::{Hop, Mesh, Plane, route};
pub(crate) use wire::{End, Wire};

use std::{
    io::Write,
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

/// How long any single step may take before the test fails. Generous: it only passes when something
/// is wrong.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Each test once on io_uring and once on epoll, as `name::uring` and `name::epoll`.
macro_rules! on_both_engines {
    ($($(#[$meta:meta])* fn $name:ident($engine:ident: Choice) $body:block)+) => {$(
        mod $name {
            use super::*;

            $(#[$meta])*
            fn conversation($engine: Choice) $body

            #[test]
            fn uring() {
                if crate::support::has_uring(concat!(module_path!(), "::uring")) {
                    conversation(Choice::Uring);
                }
            }

            #[test]
            fn epoll() {
                conversation(Choice::Epoll);
            }
        }
    )+};
}
pub(crate) use on_both_engines;

/// Whether this machine lets us have a ring. Said aloud where it does not: a skipped test must not
/// look like a passed one. Written past libtest's capture, which only takes `print!`.
pub(crate) fn has_uring(test: &str) -> bool {
    static RING: OnceLock<Result<(), String>> = OnceLock::new();
    let probe = || {
        let mut builder = io_uring::IoUring::builder();
        builder.setup_single_issuer().setup_defer_taskrun();
        builder.build(2).map(|_: io_uring::IoUring| ()).map_err(|e| e.to_string())
    };
    match RING.get_or_init(probe) {
        Ok(()) => true,
        Err(reason) => {
            skipped(test, &format!("no io_uring here: {reason}"));
            false
        }
    }
}

/// Says so of a test that cannot run here.
pub(crate) fn skipped(test: &str, reason: &str) {
    let line = format!("SKIPPED {test}: {reason}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// A directory of its own for the sockets of one test; gone with it.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("ringcar-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}
