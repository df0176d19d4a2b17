//! Machines that share nothing but a network: namespaces that `scripts/netns` makes, for as long as
//! the test runs.
//!
//! A thread that steps into a namespace is there with all it starts, processes and threads alike,
//! so whatever else the tests use works on a machine as it does elsewhere.

#![forbid(unsafe_code)]

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::{
    fs::{self, File},
    net::Ipv4Addr,
    os::fd::AsFd,
    panic,
    path::Path,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

pub(crate) struct Machines {
    name: String,
}

impl Machines {
    /// Machines 1 to `count`. Where none can be made the test has to do nothing, which this says.
    pub(crate) fn start(count: u8) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        if number == 0 {
            remove_those_of_the_dead();
        }
        let machines = Self { name: format!("{PREFIX}{}-{number}", std::process::id()) };
        match machines.script(&["up", &count.to_string()]) {
            Ok(()) => Some(machines),
            Err(reason) => {
                super::skipped(&format!("no network namespaces: {reason}"));
                None
            }
        }
    }

    pub(crate) const fn address(number: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, 0, number)
    }

    /// Does something on a machine.
    #[track_caller]
    pub(crate) fn on<R: Send>(&self, number: u8, work: impl FnOnce() -> R + Send) -> R {
        let place = format!("/run/netns/ringcar-{}-{number}", self.name);
        let there = || {
            let place = File::open(place).unwrap();
            move_into_link_name_space(place.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        };
        let result = thread::scope(|scope| scope.spawn(there).join());
        result.unwrap_or_else(|panic| panic::resume_unwind(panic))
    }

    /// Pulls the machine's cable.
    #[track_caller]
    pub(crate) fn cut(&self, number: u8) {
        self.script(&["cut", &number.to_string()]).unwrap();
    }

    #[track_caller]
    pub(crate) fn join(&self, number: u8) {
        self.script(&["join", &number.to_string()]).unwrap();
    }

    fn script(&self, arguments: &[&str]) -> Result<(), String> {
        script(&self.name, arguments)
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        let _ = self.script(&["down"]);
    }
}

fn script(name: &str, arguments: &[&str]) -> Result<(), String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/netns");
    let output = Command::new(path).args(["-n", name]).args(arguments).output();
    match output {
        Err(e) => Err(e.to_string()),
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// A test run that was killed could not clean up.
fn remove_those_of_the_dead() {
    for entry in fs::read_dir("/run/ringcar-netns").into_iter().flatten().flatten() {
        let name = entry.file_name().into_string().unwrap_or_default();
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = script(&name, &["down"]);
        }
    }
}

const PREFIX: &str = "test-";
