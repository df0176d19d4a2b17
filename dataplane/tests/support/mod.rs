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

use dataplane::{
    engine::{self, Choice},
    limits,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{
    io::Write,
    net::ToSocketAddrs,
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
    // On a thread of its own: a ring still interrupts waits of its thread when it is gone.
    let probe = || std::thread::spawn(try_rings).join().unwrap();
    match RING.get_or_init(probe) {
        Ok(()) => true,
        Err(reason) => {
            skipped(test, reason);
            false
        }
    }
}

/// One that works, and as many as tests have at one time: kernels from 6.14 on charge them to what
/// a user may lock.
fn try_rings() -> Result<(), String> {
    engine::probe(Choice::Uring).map_err(|e| e.reason)?;
    let ring = |_| {
        let mut builder = io_uring::IoUring::builder();
        builder.setup_cqsize(limits::COMPLETION_ENTRIES).build(limits::RING_ENTRIES)
    };
    let rings: Result<Vec<io_uring::IoUring>, _> = (0..RINGS_MAX).map(ring).collect();
    rings.map(drop).map_err(|e| {
        format!("no {RINGS_MAX} rings of io_uring at a time: {e}; ulimit -l, ulimit -n")
    })
}

/// Those of the conversation that has most data planes, and of what runs beside it.
const RINGS_MAX: usize = 128;

/// Whether this process may have so many descriptors for one test and as many again for those
/// beside it, after asking for all that it may have: both ends of each connection are in it.
pub(crate) fn has_descriptors(test: &str, count: u64) -> bool {
    let hard = raise_descriptor_limit();
    let is_enough = hard.is_none_or(|hard| hard >= 2 * count);
    if !is_enough {
        skipped(
            test,
            &format!("no more than {} descriptors are allowed; ulimit -n", hard.unwrap()),
        );
    }
    is_enough
}

/// Many systems allow a thousand until asked for more. Gives the most there may be.
fn raise_descriptor_limit() -> Option<u64> {
    static HARD: OnceLock<Option<u64>> = OnceLock::new();
    *HARD.get_or_init(|| {
        let maximum = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
        maximum
    })
}

/// Whether `localhost` can be looked up, which takes a line of `/etc/hosts`.
pub(crate) fn has_localhost(test: &str) -> bool {
    let found = ("localhost", 80).to_socket_addrs();
    found.inspect_err(|e| skipped(test, &format!("localhost has no address here: {e}"))).is_ok()
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
