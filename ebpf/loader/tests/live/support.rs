//! What a live test needs: cgroups and a bpf file system of its own, and processes in them.
//!
//! Programs are attached to the test's own cgroup, so tests run beside each other and touch nothing
//! else. All of it is gone when the test ends, also when it fails.

use ebpf_loader::{
    Cgroups, Kernel, Start,
    common::{Endpoint, Event, Ip, Member, Place, PlaceKind, Role, WhenDead},
    probe::{self, Ability},
};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    net::IpAddr,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

pub(crate) struct Room {
    pub(crate) cgroup: PathBuf,
    pub(crate) file_system: PathBuf,
}

/// `None`, with a line that says so, where the machine does not allow it.
pub(crate) fn room(test: &str) -> Option<Room> {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let skip = |reason: String| {
        // Past the harness, which keeps what a test that passes prints.
        let line = format!("SKIPPED {test}: {reason}\n");
        std::io::stderr().write_all(line.as_bytes()).unwrap();
        None
    };
    if !rustix::process::geteuid().is_root() {
        return skip("it takes root".to_owned());
    }
    // As in most containers, whose root may not.
    for Ability { name, state, .. } in probe::abilities() {
        match state {
            probe::State::There => {}
            probe::State::Missing => return skip(format!("the kernel has no {name}")),
            probe::State::Unknown(reason) => return skip(format!("{name}: {reason}")),
        }
    }
    let cgroups = match Cgroups::find() {
        Ok(cgroups) => cgroups,
        Err(e) => return skip(e.to_string()),
    };
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("ringcar-test-{}-{count}", std::process::id());
    let cgroup = cgroups.directory(&name);
    if let Err(e) = fs::create_dir(&cgroup) {
        return skip(format!("{}: {e}", cgroup.display()));
    }
    let file_system = std::env::temp_dir().join(name);
    fs::create_dir(&file_system).unwrap();
    let room = Room { cgroup, file_system };
    match mount("bpf", &room.file_system, "bpf", MountFlags::empty(), None) {
        Ok(()) => Some(room),
        Err(e) => skip(format!("a bpf file system cannot be mounted: {e}")),
    }
}

impl Room {
    pub(crate) fn group(&self, name: &str) -> PathBuf {
        let path = self.cgroup.join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }

    pub(crate) fn start(&self) -> Start {
        Start {
            file_system: self.file_system.clone(),
            name: "test".to_owned(),
            cgroup: self.cgroup.clone(),
            sidecar_port: SIDECAR_PORT,
            when_dead: WhenDead::Closed,
        }
    }

    pub(crate) fn kernel(&self) -> Kernel {
        Kernel::start(&self.start()).unwrap()
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = unmount(&self.file_system, UnmountFlags::DETACH);
        let _ = fs::remove_dir(&self.file_system);
        for group in fs::read_dir(&self.cgroup).into_iter().flatten().flatten() {
            remove_group(&group.path());
        }
        remove_group(&self.cgroup);
    }
}

/// Its processes are ended already, but the kernel takes a moment to notice.
fn remove_group(path: &Path) {
    for inner in fs::read_dir(path).into_iter().flatten().flatten() {
        if inner.path().is_dir() {
            remove_group(&inner.path());
        }
    }
    for _ in 0..1000 {
        match fs::remove_dir(path) {
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) => {
                std::thread::yield_now();
            }
            _ => return,
        }
    }
}

/// A process in a group.
pub(crate) struct Agent {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Agent {
    pub(crate) fn start(group: &Path) -> Self {
        let mut child = Command::new("python3")
            .args(["-c", include_str!("agent.py")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is there");
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut agent = Self { child, input, output: BufReader::new(output) };
        agent.ask(&format!("move {}", group.display()));
        agent
    }

    pub(crate) fn ask(&mut self, command: &str) -> String {
        self.say(command);
        self.answer()
    }

    pub(crate) fn say(&mut self, command: &str) {
        writeln!(self.input, "{command}").unwrap();
    }

    pub(crate) fn answer(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the agent ended");
        line.trim_end().to_owned()
    }

    pub(crate) fn listen(&mut self, host: &str) -> u16 {
        self.ask(&format!("listen {host} 0")).parse().unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the kernel tells of who dialled: the group, the app and the process.
#[derive(Debug)]
pub(crate) struct Told {
    who: String,
    pid: u32,
}

pub(crate) fn told(group: u64, app: u64, pid: u32) -> Told {
    Told { who: format!("{group} {app}"), pid }
}

impl PartialEq<Told> for String {
    fn eq(&self, other: &Told) -> bool {
        self.rsplit_once(' ').is_some_and(|(who, pid)| {
            who == other.who && pid.parse().is_ok_and(|pid| is_pid(pid, other.pid))
        })
    }
}

/// Whether the kernel's number for a process is this process. It counts as the outermost pid
/// namespace does; whoever is in another, as in a container, cannot know those numbers.
pub(crate) fn is_pid(told: u32, pid: u32) -> bool {
    let namespace = fs::metadata("/proc/self/ns/pid").unwrap().ino();
    told == pid || namespace != OUTERMOST && told != 0
}

/// `PROC_PID_INIT_INO` of the kernel's `include/linux/proc_ns.h`.
const OUTERMOST: u64 = 0xEFFF_FFFC;

pub(crate) fn id(group: &Path) -> u64 {
    fs::metadata(group).unwrap().ino()
}

pub(crate) fn member(app: u64, api_port: u16) -> Member {
    Member { app, role: Role::App as u16, api_port, ..Member::default() }
}

pub(crate) fn place(app: u64, kind: PlaceKind, inbound_port: u16) -> Place {
    Place { app, kind: kind as u16, inbound_port, reserved: 0 }
}

pub(crate) fn any(port: u16) -> Endpoint {
    Endpoint::new(Ip::ANY_LOCAL, port)
}

pub(crate) fn ip(text: &str) -> Ip {
    match text.parse().unwrap() {
        IpAddr::V4(v4) => Ip::from_octets(v4.to_ipv6_mapped().octets()),
        IpAddr::V6(v6) => Ip::from_octets(v6.octets()),
    }
}

pub(crate) fn set_members<const N: usize>(kernel: &mut Kernel, members: [(&Path, Member); N]) {
    let members: BTreeMap<u64, Member> =
        members.into_iter().map(|(group, member)| (id(group), member)).collect();
    kernel.tables.set_members(&members).unwrap();
}

pub(crate) fn set_places<const N: usize>(kernel: &mut Kernel, places: [(Endpoint, Place); N]) {
    kernel.tables.set_places(&places.into_iter().collect()).unwrap();
}

/// The next event, within a deadline.
pub(crate) fn event(kernel: &mut Kernel) -> Event {
    loop {
        if let Some(event) = kernel.events.take() {
            return event;
        }
        let timeout = rustix::event::Timespec::try_from(Duration::from_secs(10)).unwrap();
        let mut fds = [rustix::event::PollFd::from_borrowed_fd(
            kernel.events.as_fd(),
            rustix::event::PollFlags::IN,
        )];
        assert_ne!(rustix::event::poll(&mut fds, Some(&timeout)).unwrap(), 0, "no event came");
    }
}

/// Nobody listens there.
pub(crate) const SIDECAR_PORT: u16 = 3500;

pub(crate) const ORDERS: u64 = 11;
pub(crate) const CHECKOUT: u64 = 12;
