//! A server of the system's, run for one test: ended by its process id when the test ends.

#![forbid(unsafe_code)]

use std::{
    io::Write,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

pub(crate) struct TestProgram(Child);

impl TestProgram {
    pub(crate) fn start(program: &Path, arguments: &[String]) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    pub(crate) fn kill(mut self) {
        self.end();
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for TestProgram {
    fn drop(&mut self) {
        self.end();
    }
}

/// Where the program is; without it the test has to say that it did nothing, past the harness,
/// which keeps what a test that passes prints.
pub(crate) fn find(name: &str, package: &str) -> Option<PathBuf> {
    let places = ["/usr/bin", "/usr/sbin", "/usr/local/bin"];
    let found =
        places.map(|place| Path::new(place).join(name)).into_iter().find(|path| path.exists());
    if found.is_none() {
        let thread = std::thread::current();
        let test = thread.name().unwrap_or("a test");
        let line = format!("SKIPPED {test}: there is no {name}; install Debian's {package}\n");
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
    found
}

/// A port nobody listens on.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}
