//! A server of the system's, run for one test: ended by its process id when the test ends.

#![forbid(unsafe_code)]

use std::{
    io::Write,
    net::{Ipv4Addr, TcpListener, ToSocketAddrs},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
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

/// Says of the test on this thread that it did nothing, and why: past the harness, which keeps what
/// a test that passes prints.
pub(crate) fn skipped(reason: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let line = format!("SKIPPED {test}: {}\n", reason.trim_end());
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Where the program is; without it the test has to do nothing, which this says.
pub(crate) fn find(name: &str, package: &str) -> Option<PathBuf> {
    let places = ["/usr/bin", "/usr/sbin", "/usr/local/bin"];
    let found =
        places.map(|place| Path::new(place).join(name)).into_iter().find(|path| path.exists());
    if found.is_none() {
        skipped(&format!("there is no {name}; install Debian's {package}"));
    }
    found
}

/// Whether `localhost` can be looked up, which takes a line of `/etc/hosts`.
pub(crate) fn has_localhost() -> bool {
    let found = ("localhost", 80).to_socket_addrs();
    found.inspect_err(|e| skipped(&format!("localhost has no address here: {e}"))).is_ok()
}

/// A port that nobody has, and that nobody is given unless he asks for it by its number.
///
/// Those are the ports below the ones that the kernel chooses from: one of the kernel's own choice
/// is anybody's again as soon as it is let go, and connections of other tests take such ports all
/// the time. No port is given twice; test processes that run at one time keep apart by a socket
/// with an abstract name for each block of ports, which is of this network only, as ports are.
pub(crate) fn free_port() -> u16 {
    static BLOCK: Mutex<Vec<u16>> = Mutex::new(Vec::new());
    static RESERVED: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());
    let mut ports = BLOCK.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        while let Some(port) = ports.pop() {
            if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
                return port;
            }
        }
        let mut reserved = RESERVED.lock().unwrap_or_else(PoisonError::into_inner);
        let (block, listener) = (FIRST_PORT..LAST_PORT)
            .step_by(BLOCK_PORTS.into())
            .find_map(|block| {
                let name = format!("ringcar-test-ports-{block}");
                let name = SocketAddr::from_abstract_name(name).ok()?;
                Some((block, UnixListener::bind_addr(&name).ok()?))
            })
            .expect("no test needs all of the ports");
        reserved.push(listener);
        ports.extend((block..block + BLOCK_PORTS).rev());
    }
}

/// Above what services have by custom; below what Linux chooses from, unless told otherwise.
const FIRST_PORT: u16 = 20_000;
const LAST_PORT: u16 = 32_000;
const BLOCK_PORTS: u16 = 50;
