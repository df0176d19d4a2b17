//! A registry's server on loopback, where the machine has one.

#![forbid(unsafe_code)]

use super::{
    DEADLINE,
    program::{self, TestProgram},
};
use rustix::process::Signal;
use std::{
    fs,
    net::{Ipv4Addr, TcpStream},
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::Instant,
};

pub(crate) struct Server {
    pub(super) host: Ipv4Addr,
    pub(crate) port: u16,
    directory: PathBuf,
    binary: PathBuf,
    arguments: Vec<String>,
    program: Option<TestProgram>,
}

impl Server {
    fn prepare(name: &str, package: &str, host: Ipv4Addr) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let binary = program::find(name, package)?;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = format!("ringcar-server-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(directory);
        fs::create_dir(&directory).unwrap();
        let port = program::free_port();
        Some(Self { host, port, directory, binary, arguments: Vec::new(), program: None })
    }

    /// Not started yet.
    pub(crate) fn etcd() -> Option<Self> {
        Self::etcd_at(Ipv4Addr::LOCALHOST)
    }

    /// As [`Self::etcd`], for others than this machine.
    pub(crate) fn etcd_at(host: Ipv4Addr) -> Option<Self> {
        let mut server = Self::prepare("etcd", "etcd-server", host)?;
        let client = server.url();
        let peer = format!("http://127.0.0.1:{}", program::free_port());
        let arguments = [
            ("--data-dir", server.directory.to_str().unwrap()),
            ("--listen-client-urls", &client),
            ("--advertise-client-urls", &client),
            ("--listen-peer-urls", &peer),
            ("--initial-advertise-peer-urls", &peer),
            ("--initial-cluster", &format!("default={peer}")),
        ];
        server.arguments =
            arguments.into_iter().map(|(flag, value)| format!("{flag}={value}")).collect();
        Some(server)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}:{}", self.host, self.port)
    }

    /// Serves these lines of an `/etc/hosts`.
    pub(crate) fn dnsmasq(hosts: &str) -> Option<Self> {
        let mut server = Self::prepare("dnsmasq", "dnsmasq-base", Ipv4Addr::LOCALHOST)?;
        let path = server.directory.join("hosts");
        fs::write(&path, hosts).unwrap();
        server.arguments = [
            "--keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --bind-interfaces",
            "--local-ttl=1 --user=root --listen-address=127.0.0.1 --pid-file= --local=/example/",
            &format!("--port={} --addn-hosts={}", server.port, path.display()),
        ]
        .iter()
        .flat_map(|line| line.split(' '))
        .map(str::to_owned)
        .collect();
        server.start();
        Some(server)
    }

    /// Serves other lines from now on.
    pub(crate) fn change_hosts(&self, hosts: &str) {
        fs::write(self.directory.join("hosts"), hosts).unwrap();
        self.signal(Signal::HUP);
    }

    pub(crate) fn start(&mut self) {
        self.program = Some(TestProgram::start(&self.binary, &self.arguments));
        let deadline = Instant::now() + DEADLINE;
        while TcpStream::connect((self.host, self.port)).is_err() {
            assert!(Instant::now() < deadline, "{} does not start", self.binary.display());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    /// As a crash ends it; it can be started again with what it had written.
    pub(crate) fn stop(&mut self) {
        self.program.take().unwrap().kill();
    }

    /// What it had written is lost. Not while it runs.
    pub(crate) fn forget(&self) {
        fs::remove_dir_all(&self.directory).unwrap();
        fs::create_dir(&self.directory).unwrap();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.program.as_ref().unwrap().signal(signal);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(program) = self.program.take() {
            program.kill();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}
