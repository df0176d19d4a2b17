//! The one room of this process: its control group, its bpf file system, the programs; and pairs of
//! sockets in it.

use ebpf_loader::{
    Accelerator, Cgroups, Start,
    common::{
        WhenDead,
        accelerate::{DATA_PLANE, Hop, Pace, Side, Ticket, slot_of, word},
    },
    ticket,
};
use rustix::mm::{MapFlags, ProtFlags, mmap};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::{
    fs,
    net::{TcpListener, TcpStream},
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::{
        Mutex, MutexGuard, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

pub(crate) struct Room {
    pub(crate) kernel: Accelerator,
    pub(crate) group: u64,
    words: &'static [AtomicU64],
    _pins: fs::File,
}

pub(crate) const APP: u64 = 7;

/// `None`, with a line that says so, where the machine does not allow it.
pub(crate) fn room(test: &str) -> Option<MutexGuard<'static, Room>> {
    static ROOM: OnceLock<Result<Mutex<Room>, String>> = OnceLock::new();
    match ROOM.get_or_init(|| Room::new().map(Mutex::new)) {
        Ok(room) => Some(room.lock().unwrap_or_else(std::sync::PoisonError::into_inner)),
        Err(reason) => {
            eprintln!("skipped: {test}: {reason}");
            None
        }
    }
}

impl Room {
    fn new() -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("it takes root".to_owned());
        }
        let cgroups = Cgroups::find().map_err(|e| e.to_string())?;
        let name = format!("ringcar-test-accelerate-{}", std::process::id());
        let cgroup = cgroups.directory(&name);
        fs::create_dir(&cgroup).map_err(|e| format!("{}: {e}", cgroup.display()))?;
        let file_system = std::env::temp_dir().join(&name);
        fs::create_dir(&file_system).unwrap();
        mount("bpf", &file_system, "bpf", MountFlags::empty(), None)
            .map_err(|e| format!("a bpf file system cannot be mounted: {e}"))?;
        let start = Start {
            file_system: file_system.clone(),
            name: "test".to_owned(),
            cgroup: cgroup.clone(),
            sidecar_port: 3500,
            when_dead: WhenDead::Closed,
        };
        let kernel = Accelerator::start(&start);
        // Whatever becomes of this process, nothing is left: the pins live as long as this file.
        let pins = fs::File::open(&file_system).unwrap();
        unmount(&file_system, UnmountFlags::DETACH).unwrap();
        let _ = fs::remove_dir(&file_system);
        let kernel = kernel.map_err(|e| e.to_string())?;
        leave_at_exit(cgroup.clone());
        fs::write(cgroup.join("cgroup.procs"), "0").map_err(|e| e.to_string())?;
        let group = fs::metadata(&cgroup).unwrap().ino();
        let words = words(&kernel);
        Ok(Self { kernel, group, words, _pins: pins })
    }

    /// A connection between an app and the data plane; `listener` is the side that accepts.
    pub(crate) fn pair(&mut self, listener: Side) -> Pair {
        let (listening, _) = self.listen(listener);
        let dialed = TcpStream::connect(listening.local_addr().unwrap()).unwrap();
        let (accepted, _) = listening.accept().unwrap();
        let (app, plane) = match listener {
            Side::App => (accepted, dialed),
            Side::DataPlane => (dialed, accepted),
        };
        for socket in [&app, &plane] {
            socket.set_nodelay(true).unwrap();
        }
        let credit = self.credit(&plane).expect("the connection is accelerated");
        Pair { app, plane, credit }
    }

    /// Connections to this listener are accelerated, and no others.
    pub(crate) fn listen(&mut self, listener: Side) -> (TcpListener, u16) {
        let listening = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listening.local_addr().unwrap().port();
        self.allow(port, listener);
        (listening, port)
    }

    pub(crate) fn allow(&mut self, port: u16, listener: Side) {
        let hop = Hop { app: APP, listener: listener as u64 };
        let dialer = if listener == Side::App { DATA_PLANE } else { APP };
        self.kernel.set(&[(port, hop)].into(), &[(self.group, dialer)].into()).unwrap();
    }

    /// What the data plane tells of what it read from this socket.
    pub(crate) fn credit(&self, socket: &TcpStream) -> Option<Credit> {
        let ticket = ticket(socket)?;
        Some(Credit { ticket, word: &self.words[slot_of(ticket) as usize], read: 0 })
    }

    pub(crate) fn count(&self, pace: Pace) -> u64 {
        self.kernel.count(pace).unwrap()
    }
}

pub(crate) struct Pair {
    pub(crate) app: TcpStream,
    pub(crate) plane: TcpStream,
    pub(crate) credit: Credit,
}

pub(crate) struct Credit {
    ticket: Ticket,
    word: &'static AtomicU64,
    read: u64,
}

impl Credit {
    pub(crate) fn took(&mut self, bytes: usize) {
        self.read += bytes as u64;
        self.word.store(word(self.ticket, self.read), Ordering::Relaxed);
    }
}

fn words(kernel: &Accelerator) -> &'static [AtomicU64] {
    const COUNT: usize = ebpf_loader::common::accelerate::SLOTS;
    let credits = kernel.credits().unwrap();
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a fresh mapping of the map's whole length, which stays until the process ends; words
    // are only ever touched as atomics.
    unsafe {
        let at = mmap(std::ptr::null_mut(), COUNT * 8, protection, MapFlags::SHARED, &credits, 0);
        std::slice::from_raw_parts(at.unwrap().cast(), COUNT)
    }
}

/// A thread cannot leave its group on its own, and statics are not dropped: a shell does it, once
/// this process is gone.
fn leave_at_exit(cgroup: PathBuf) {
    use std::os::unix::process::CommandExt;
    let script = format!(
        "while kill -0 {} 2>/dev/null; do sleep 0.2; done; \
         for i in $(seq 50); do rmdir '{}' && exit; sleep 0.1; done",
        std::process::id(),
        cgroup.display()
    );
    let null = std::process::Stdio::null;
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &script]).stdin(null()).stdout(null()).stderr(null()).process_group(0);
    drop(command.spawn());
}
