//! What the tests share: a place with a registry of its own, processes that end with the test,
//! apps, and a client.

#![forbid(unsafe_code)]

mod app;
mod client;
mod collector;
mod etcd;
mod load;
mod machines;
mod mortal;
mod place;
mod process;
#[path = "../../../src/test_program.rs"]
mod program;
mod server;

pub(crate) use app::App;
pub(crate) use client::{Connection, call, call_unix, get, try_call};
pub(crate) use collector::{Batch, Collector, Manner};
pub(crate) use etcd::Etcd;
pub(crate) use load::Load;
pub(crate) use machines::Machines;
pub(crate) use mortal::MortalApp;
pub(crate) use place::{Place, replace, status_of};
pub(crate) use process::{Finished, Process};
pub(crate) use program::{free_port, has_localhost, skipped};
pub(crate) use server::Server;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::time::{Duration, Instant};

/// Longer than anything takes that works, on two cores that others use, too.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Whether tests and what they start may have so many descriptors each, after asking for all that
/// they may have; says of the test that it did nothing where they may not.
pub(crate) fn has_descriptors(count: u64) -> bool {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    let is_enough = maximum.is_none_or(|maximum| maximum >= count);
    if !is_enough {
        skipped(&format!("no more than {} descriptors are allowed; ulimit -n", maximum.unwrap()));
    }
    is_enough
}

/// Asks again until the answer is yes.
#[track_caller]
pub(crate) fn eventually(what: &str, is_so: impl FnMut() -> bool) {
    eventually_in(DEADLINE, what, is_so);
}

/// For what takes as long as something lasts: a lease, a connection that is silent, a thousand
/// apps.
#[track_caller]
pub(crate) fn eventually_in(time: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + time;
    while !is_so() {
        assert!(Instant::now() < deadline, "not in {time:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
