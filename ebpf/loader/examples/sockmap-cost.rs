//! What a small byte relay costs over TCP, past TCP on both hops, and over Unix sockets: client,
//! relay and server are threads pinned to one CPU, in rounds that alternate. Needs root; leaves
//! nothing behind.
//!
//! `cargo run --profile fast -p ringcar-ebpf-loader --example sockmap-cost`

use ebpf_loader::{
    Accelerator, Cgroups, Start,
    common::{
        WhenDead,
        accelerate::{DATA_PLANE, Hop, SLOTS, Side, Ticket, slot_of, word},
    },
    pins, ticket,
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    mm::{MapFlags, ProtFlags, mmap},
    thread::{CpuSet, sched_setaffinity},
    time::{ClockId, clock_gettime},
};
use std::{
    error::Error,
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::{
        fd::AsFd,
        unix::{fs::MetadataExt, net::UnixStream},
    },
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Instant,
};

const ROUNDS: usize = 9;
const APP: u64 = 7;
/// Bytes of the request and of the answer, and how often.
const SIZES: [(usize, usize, usize); 3] =
    [(300, 300, 8_000), (300, 64 * 1024, 2_000), (300, 1024 * 1024, 150)];

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Way {
    Tcp,
    PastTcp,
    Unix,
}

const WAYS: [Way; 3] = [Way::Tcp, Way::PastTcp, Way::Unix];

fn main() -> Result<(), Box<dyn Error>> {
    let room = Room::new()?;
    let result = run(&room);
    room.leave()?;
    result
}

fn run(room: &Room) -> Result<(), Box<dyn Error>> {
    let start = room.start();
    let mut kernel = Accelerator::start(&start)?;
    let words = words(&kernel)?;
    println!("| request, answer | way | CPU µs per exchange, least | median |");
    println!("|---|---|---:|---:|");
    for (request, answer, count) in SIZES {
        let mut costs = WAYS.map(|_| Vec::new());
        for _ in 0..ROUNDS {
            for (way, costs) in WAYS.into_iter().zip(&mut costs) {
                costs.push(measure(&mut kernel, words, room.group, way, (request, answer, count))?);
            }
        }
        for (way, mut costs) in WAYS.into_iter().zip(costs) {
            costs.sort_by(f64::total_cmp);
            let (least, median) = (costs[0], costs[ROUNDS / 2]);
            println!("| {request} B, {answer} B | {way:?} | {least:.2} | {median:.2} |");
        }
    }
    Ok(())
}

/// CPU of all three, in microseconds per exchange: work that moves from one to another counts.
fn measure(
    kernel: &mut Accelerator,
    words: &'static [AtomicU64],
    group: u64,
    way: Way,
    (request, answer, count): (usize, usize, usize),
) -> Result<f64, Box<dyn Error>> {
    let (client, downstream) = connect(kernel, group, way, Side::DataPlane)?;
    let (server, upstream) = connect(kernel, group, way, Side::App)?;
    let relay = thread::spawn(move || relay(downstream, upstream, words));
    let server = thread::spawn(move || serve(server, request, answer));
    let mut client = client;
    let mut exchange = |count: usize| {
        let (request, mut answer) = (vec![1; request], vec![0; answer]);
        for _ in 0..count {
            client.write_all(&request)?;
            client.read_exact(&mut answer)?;
        }
        Ok::<_, std::io::Error>(())
    };
    exchange(count / 10)?;
    let before = (cpu_micros(), Instant::now());
    exchange(count)?;
    let cpu = cpu_micros() - before.0;
    drop(client);
    relay.join().expect("the relay ends with its client");
    server.join().expect("the server ends with its client");
    Ok(cpu / count as f64)
}

fn connect(
    kernel: &mut Accelerator,
    group: u64,
    way: Way,
    listener: Side,
) -> Result<(Stream, Stream), Box<dyn Error>> {
    if way == Way::Unix {
        let (one, other) = UnixStream::pair()?;
        return Ok((Stream::Unix(one), Stream::Unix(other)));
    }
    let listening = TcpListener::bind("127.0.0.1:0")?;
    let port = listening.local_addr()?.port();
    let hop = Hop { app: APP, listener: listener as u64 };
    let dialer = if listener == Side::App { DATA_PLANE } else { APP };
    let port = if way == Way::PastTcp { port } else { 1 };
    kernel.set(&[(port, hop)].into(), &[(group, dialer)].into())?;
    let dialed = TcpStream::connect(listening.local_addr()?)?;
    let (accepted, _) = listening.accept()?;
    dialed.set_nodelay(true)?;
    accepted.set_nodelay(true)?;
    // The app's end first.
    Ok(match listener {
        Side::App => (Stream::Tcp(accepted), Stream::Tcp(dialed)),
        Side::DataPlane => (Stream::Tcp(dialed), Stream::Tcp(accepted)),
    })
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn ticket(&self) -> Option<Ticket> {
        match self {
            Self::Tcp(stream) => ticket(stream),
            Self::Unix(_) => None,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

fn relay(mut downstream: Stream, mut upstream: Stream, words: &[AtomicU64]) {
    let mut taken = [&downstream, &upstream].map(|stream| (stream.ticket(), 0_u64));
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let mut fds = [&downstream, &upstream].map(|stream| PollFd::new(stream, PollFlags::IN));
        if poll(&mut fds, None).is_err() {
            continue;
        }
        let ready = fds.map(|fd| !fd.revents().is_empty());
        for (index, is_ready) in ready.into_iter().enumerate() {
            let (from, to) = match index {
                0 => (&mut downstream, &mut upstream),
                _ => (&mut upstream, &mut downstream),
            };
            if !is_ready {
                continue;
            }
            let Ok(count @ 1..) = from.read(&mut buffer) else { return };
            if let (Some(ticket), read) = &mut taken[index] {
                *read += count as u64;
                words[slot_of(*ticket) as usize].store(word(*ticket, *read), Ordering::Relaxed);
            }
            if to.write_all(&buffer[..count]).is_err() {
                return;
            }
        }
    }
}

fn serve(mut stream: Stream, request: usize, answer: usize) {
    let (mut request, answer) = (vec![0; request], vec![2; answer]);
    while stream.read_exact(&mut request).is_ok() && stream.write_all(&answer).is_ok() {}
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of a few seconds")]
fn cpu_micros() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

fn words(kernel: &Accelerator) -> Result<&'static [AtomicU64], Box<dyn Error>> {
    let map = kernel.credits()?;
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a fresh mapping of the map's whole length, which stays until the process ends; words
    // are only ever touched as atomics.
    Ok(unsafe {
        let start = mmap(std::ptr::null_mut(), SLOTS * 8, access, MapFlags::SHARED, &map, 0)?;
        std::slice::from_raw_parts(start.cast(), SLOTS)
    })
}

/// A control group of our own, with this process in it.
struct Room {
    cgroup: PathBuf,
    group: u64,
    was_in: PathBuf,
    name: String,
}

impl Room {
    fn new() -> Result<Self, Box<dyn Error>> {
        let mut cpus = CpuSet::new();
        cpus.set(0);
        sched_setaffinity(None, &cpus)?;
        let cgroups = Cgroups::find()?;
        let was_in = cgroups.directory(&cgroups.own().ok_or("in no cgroup of version 2")?);
        let name = format!("ringcar-sockmap-cost-{}", std::process::id());
        let cgroup = cgroups.directory(&name);
        fs::create_dir(&cgroup)?;
        fs::write(cgroup.join("cgroup.procs"), "0")?;
        let group = fs::metadata(&cgroup)?.ino();
        Ok(Self { cgroup, group, was_in, name })
    }

    fn start(&self) -> Start {
        Start {
            file_system: pins::FILE_SYSTEM.into(),
            name: self.name.clone(),
            cgroup: self.cgroup.clone(),
            sidecar_port: 0,
            when_dead: WhenDead::Open,
        }
    }

    fn leave(self) -> Result<(), Box<dyn Error>> {
        pins::Pins::new(pins::FILE_SYSTEM.as_ref(), &self.name).remove()?;
        fs::write(self.was_in.join("cgroup.procs"), "0")?;
        fs::remove_dir(&self.cgroup)?;
        Ok(())
    }
}
