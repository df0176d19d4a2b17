//! One suite, run on both backends: what the trait promises, over real sockets.
//!
//! Peers are plain blocking sockets of the standard library. Nothing sleeps: a test turns the
//! engine until what it waits for is there, or the deadline fails it.

use super::*;
use crate::{
    clock,
    limits::{
        BUFFER_BYTES, BUFFERS_MAX, BUFFERS_SCARCE, EVENTS_PER_TURN, HEADROOM_BYTES,
        REARM_BUFFERS_MIN, RELAY_HIGH_BYTES, RELAY_LOW_BYTES,
    },
};
use rustix::{
    fs::readlink,
    net::{AddressFamily, SocketFlags, SocketType, socket, socketpair, sockopt},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use std::{
    collections::{HashMap, HashSet},
    fs,
    io::{ErrorKind, Read, Write},
    mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    process,
    sync::{
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
};

/// An engine, and all that it has told so far.
struct Bench<E> {
    engine: E,
    events: Vec<Event>,
    received: HashMap<SocketKey, Vec<u8>>,
    /// Chunks as they came, when `holding`.
    held: Vec<(SocketKey, Chunk)>,
    holding: bool,
    sent: HashMap<SocketKey, usize>,
    connected: HashSet<SocketKey>,
    closed: Vec<SocketKey>,
    failed: Vec<(SocketKey, Operation, Errno)>,
    accepted: Vec<(ListenerKey, OwnedFd)>,
    accept_failed: Vec<(ListenerKey, Errno)>,
    unlistened: Vec<ListenerKey>,
    woken: usize,
}

impl<E: Engine> Bench<E> {
    fn new(engine: E) -> Self {
        allow_many_descriptors();
        Self {
            engine,
            events: Vec::new(),
            received: HashMap::new(),
            held: Vec::new(),
            holding: false,
            sent: HashMap::new(),
            connected: HashSet::new(),
            closed: Vec::new(),
            failed: Vec::new(),
            accepted: Vec::new(),
            accept_failed: Vec::new(),
            unlistened: Vec::new(),
            woken: 0,
        }
    }

    /// One turn; returns how many events it brought.
    fn turn(&mut self, timeout: Option<Duration>) -> usize {
        self.engine.turn(timeout, &mut self.events).unwrap();
        let count = self.events.len();
        assert!(count <= EVENTS_PER_TURN, "{count} events in one turn");
        let events: Vec<Event> = self.events.drain(..).collect();
        for event in events {
            self.on_event(event);
        }
        count
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Accepted { listener, socket } => {
                assert!(!self.unlistened.contains(&listener), "nothing follows the last event");
                self.accepted.push((listener, socket));
            }
            Event::AcceptFailed { listener, error } => self.accept_failed.push((listener, error)),
            Event::Connected { socket } => assert!(self.connected.insert(socket)),
            Event::Received { socket, chunk } => {
                assert!(!chunk.is_empty(), "a piece is never empty");
                assert!(!self.closed.contains(&socket), "nothing follows a FIN");
                assert_eq!(chunk.start(), HEADROOM_BYTES);
                if self.holding {
                    self.held.push((socket, chunk));
                } else {
                    self.received.entry(socket).or_default().extend_from_slice(&chunk);
                }
            }
            Event::ReceiveClosed { socket } => {
                assert!(!self.closed.contains(&socket), "a FIN comes once");
                self.closed.push(socket);
            }
            Event::Sent { socket, bytes } => {
                assert!(bytes > 0);
                *self.sent.entry(socket).or_default() += bytes;
            }
            Event::Failed { socket, operation, error } => {
                let known =
                    self.failed.iter().any(|known| (known.0, known.1) == (socket, operation));
                assert!(!known, "{operation:?} fails once");
                self.failed.push((socket, operation, error));
            }
            Event::Unlistened { listener } => self.unlistened.push(listener),
            Event::Woken => self.woken += 1,
        }
    }

    #[track_caller]
    fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let start = clock::now();
        while !done(self) {
            assert!(clock::now().since(start) < DEADLINE, "{what}: not within {DEADLINE:?}");
            self.turn(Some(Duration::from_millis(100)));
        }
    }

    /// Turns while there is something to do: what the kernel has is told after this.
    fn settle(&mut self) {
        while self.turn(Some(Duration::from_millis(10))) > 0 {}
    }

    fn received(&self, key: SocketKey) -> &[u8] {
        self.received.get(&key).map_or(&[], |bytes| bytes)
    }

    fn sent(&self, key: SocketKey) -> usize {
        self.sent.get(&key).copied().unwrap_or(0)
    }

    /// A socket in the engine's care, and its peer.
    fn pair(&mut self, kind: Transport) -> (SocketKey, Peer) {
        let (ours, theirs) = kind.pair();
        (self.engine.adopt(ours), theirs)
    }
}

#[derive(Clone, Copy, Debug)]
enum Transport {
    Tcp,
    Unix,
}

impl Transport {
    const ALL: [Self; 2] = [Self::Tcp, Self::Unix];

    fn pair(self) -> (OwnedFd, Peer) {
        match self {
            Self::Tcp => {
                let listener = TcpListener::bind(LOOPBACK).unwrap();
                let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                let (theirs, _) = listener.accept().unwrap();
                (ours.into(), Peer::Tcp(theirs))
            }
            Self::Unix => {
                let (ours, theirs) = UnixStream::pair().unwrap();
                (ours.into(), Peer::Unix(theirs))
            }
        }
    }
}

enum Peer {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Peer {
    fn shutdown(&self) {
        match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write).unwrap(),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write).unwrap(),
        }
    }

    /// Until FIN.
    fn read_all(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes).unwrap();
        bytes
    }
}

impl Read for Peer {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(bytes),
            Self::Unix(stream) => stream.read(bytes),
        }
    }
}

impl Write for Peer {
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

/// Bytes whose every stretch differs, cheap to make and to check at any offset.
struct Pattern(Vec<u8>);

impl Pattern {
    fn new() -> Self {
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let block = (0..PATTERN_BYTES).map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        });
        Self(block.collect())
    }

    fn write(&self, to: &mut impl Write, count: usize) {
        let mut left = count;
        while left > 0 {
            let bytes = left.min(PATTERN_BYTES);
            to.write_all(&self.0[..bytes]).unwrap();
            left -= bytes;
        }
    }

    #[track_caller]
    fn check(&self, offset: usize, mut bytes: &[u8]) {
        let mut at = offset % PATTERN_BYTES;
        while !bytes.is_empty() {
            let count = bytes.len().min(PATTERN_BYTES - at);
            assert!(bytes[..count] == self.0[at..at + count], "content differs near {offset}");
            bytes = &bytes[count..];
            at = 0;
        }
    }
}

fn echoes<E: Engine>(mut bench: Bench<E>) {
    let listener = TcpListener::bind(LOOPBACK).unwrap();
    let address = listener.local_addr().unwrap();
    let key = bench.engine.listen(listener.into());
    let mut client = TcpStream::connect(address).unwrap();
    bench.until("accept", |bench| !bench.accepted.is_empty());
    let (from, socket) = bench.accepted.pop().unwrap();
    assert_eq!(from, key);
    assert!(sockopt::tcp_nodelay(&socket).unwrap(), "accepted sockets send at once");
    let key = bench.engine.adopt(socket);
    bench.engine.receive_start(key);
    bench.engine.receive_start(key);
    let mut total = 0;
    for message in [&b"first"[..], b"second", b"a third one"] {
        client.write_all(message).unwrap();
        bench.holding = true;
        total += message.len();
        bench.until("receive", |bench| !bench.held.is_empty());
        for (from, chunk) in mem::take(&mut bench.held) {
            assert_eq!(from, key);
            bench.engine.send(key, chunk);
        }
        bench.until("send", |bench| bench.sent(key) == total);
        let mut answer = vec![0; message.len()];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(answer, message);
    }
    assert_eq!(bench.engine.send_queued_bytes(key), 0);
    assert_eq!(bench.engine.buffers().leased_buffers(), 0);
}

fn gathers_many_chunks<E: Engine>(mut bench: Bench<E>) {
    for transport in Transport::ALL {
        let (key, mut peer) = bench.pair(transport);
        let mut want = Vec::new();
        for index in 0..500_usize {
            let text = format!("{index}-").repeat(index % 9);
            want.extend_from_slice(text.as_bytes());
            let chunk = match index % 3 {
                0 => Chunk::from_vec(text.into_bytes(), 0),
                1 => {
                    let mut writer = bench.engine.buffers().writer();
                    writer.put(text.as_bytes());
                    writer.finish()
                }
                _ => {
                    want.truncate(want.len() - text.len());
                    want.extend_from_slice(b"static");
                    Chunk::from_static(b"static")
                }
            };
            bench.engine.send(key, chunk);
        }
        assert_eq!(bench.engine.send_queued_bytes(key), want.len());
        bench.engine.shutdown_write(key);
        let reader = thread::spawn(move || peer.read_all());
        bench.until("send", |bench| bench.sent(key) == want.len());
        bench.until("FIN", |_| reader.is_finished());
        assert_eq!(reader.join().unwrap(), want, "{transport:?}");
        assert_eq!(bench.engine.buffers().leased_buffers(), 0, "{transport:?}");
    }
}

/// Relays with the high and low marks of the relay; the reader starts only once the source was
/// stopped.
fn relays_much_to_a_slow_reader<E: Engine>(mut bench: Bench<E>) {
    for transport in Transport::ALL {
        let (source, mut writer) = bench.pair(transport);
        let (sink, mut reader) = bench.pair(transport);
        let writing = thread::spawn(move || {
            Pattern::new().write(&mut writer, LARGE_BYTES);
            writer.shutdown();
        });
        let (stopped, was_stopped) = mpsc::channel::<()>();
        let reading = thread::spawn(move || {
            was_stopped.recv().unwrap();
            let pattern = Pattern::new();
            let (mut offset, mut buffer) = (0, vec![0; 1 << 20]);
            loop {
                let count = reader.read(&mut buffer).unwrap();
                if count == 0 {
                    return offset;
                }
                pattern.check(offset, &buffer[..count]);
                offset += count;
            }
        });
        bench.holding = true;
        bench.engine.receive_start(source);
        let (mut is_stopped, mut stops, mut leased_most) = (false, 0, 0);
        bench.until("transfer", |bench| {
            for (_, chunk) in mem::take(&mut bench.held) {
                bench.engine.send(sink, chunk);
            }
            leased_most = leased_most.max(bench.engine.buffers().leased_buffers());
            let queued = bench.engine.send_queued_bytes(sink);
            if !is_stopped && queued >= RELAY_HIGH_BYTES {
                bench.engine.receive_stop(source);
                (is_stopped, stops) = (true, stops + 1);
                let _ = stopped.send(());
            } else if is_stopped && queued <= RELAY_LOW_BYTES {
                bench.engine.receive_start(source);
                is_stopped = false;
            }
            bench.closed.contains(&source) && queued == 0
        });
        bench.engine.shutdown_write(sink);
        bench.until("FIN", |_| reading.is_finished());
        assert_eq!(reading.join().unwrap(), LARGE_BYTES, "{transport:?}");
        writing.join().unwrap();
        assert!(stops > 0, "{transport:?}: the source was never stopped");
        assert!(leased_most < usize::from(BUFFERS_MAX) / 2, "{transport:?}: {leased_most} buffers");
        assert_eq!(bench.engine.buffers().leased_buffers(), 0, "{transport:?}");
    }
}

fn closes_halves_one_by_one<E: Engine>(mut bench: Bench<E>) {
    for transport in Transport::ALL {
        let (key, mut peer) = bench.pair(transport);
        bench.engine.receive_start(key);
        peer.write_all(b"request").unwrap();
        peer.shutdown();
        bench.until("FIN", |bench| bench.closed.contains(&key));
        assert_eq!(bench.received(key), b"request", "{transport:?}: peer first");
        bench.engine.send(key, Chunk::from_static(b"response"));
        bench.engine.shutdown_write(key);
        bench.until("send", |bench| bench.sent(key) == 8);
        bench.settle();
        assert_eq!(peer.read_all(), b"response", "{transport:?}: peer first");

        let (key, mut peer) = bench.pair(transport);
        bench.engine.receive_start(key);
        bench.engine.send(key, Chunk::from_static(b"request"));
        bench.engine.shutdown_write(key);
        bench.until("send", |bench| bench.sent(key) == 7);
        bench.settle();
        assert_eq!(peer.read_all(), b"request", "{transport:?}: we first");
        peer.write_all(b"response").unwrap();
        drop(peer);
        bench.until("FIN", |bench| bench.closed.contains(&key));
        assert_eq!(bench.received(key), b"response", "{transport:?}: we first");
        assert_eq!(bench.failed, [], "{transport:?}");
    }
}

fn resets_are_told_apart_from_ends<E: Engine>(mut bench: Bench<E>) {
    let (key, mut peer) = bench.pair(Transport::Tcp);
    bench.engine.receive_start(key);
    bench.settle();
    bench.engine.reset(key);
    bench.settle();
    assert_eq!(peer.read(&mut [0; 8]).unwrap_err().kind(), ErrorKind::ConnectionReset);

    let (key, Peer::Tcp(peer)) = bench.pair(Transport::Tcp) else { unreachable!() };
    bench.engine.receive_start(key);
    bench.settle();
    sockopt::set_socket_linger(&peer, Some(Duration::ZERO)).unwrap();
    drop(peer);
    bench.until("failure", |bench| !bench.failed.is_empty());
    assert_eq!(bench.failed, [(key, Operation::Receive, Errno::CONNRESET)]);
    assert_eq!(bench.closed, []);
}

fn connects<E: Engine>(mut bench: Bench<E>) {
    let directory = TemporaryDirectory::new();
    let path = directory.0.join("socket");
    let unix = UnixListener::bind(&path).unwrap();
    let four = TcpListener::bind(LOOPBACK).unwrap();
    let mut addresses = vec![
        ("IPv4", Address::Tcp(four.local_addr().unwrap())),
        ("Unix", Address::Unix(path.into())),
    ];
    let six = TcpListener::bind((Ipv6Addr::LOCALHOST, 0));
    if let Ok(six) = &six {
        addresses.push(("IPv6", Address::Tcp(six.local_addr().unwrap())));
    }
    for (case, address) in addresses {
        let key = bench.engine.connect(&address).unwrap();
        bench.engine.receive_start(key);
        bench.engine.send(key, Chunk::from_static(b"early"));
        bench.until("connect", |bench| bench.connected.contains(&key));
        bench.until("send", |bench| bench.sent(key) == 5);
        let mut peer = match case {
            "IPv4" => Peer::Tcp(four.accept().unwrap().0),
            "IPv6" => Peer::Tcp(six.as_ref().unwrap().accept().unwrap().0),
            _ => Peer::Unix(unix.accept().unwrap().0),
        };
        let mut bytes = [0; 5];
        peer.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"early", "{case}");
        peer.write_all(b"answer").unwrap();
        bench.until("answer", |bench| bench.received(key) == b"answer");
        bench.engine.close(key);
    }
    assert_eq!(bench.failed, []);
}

fn tells_why_it_cannot_connect<E: Engine>(mut bench: Bench<E>) {
    let directory = TemporaryDirectory::new();
    let stale = directory.0.join("stale");
    drop(UnixListener::bind(&stale).unwrap());
    let full = directory.0.join("full");
    let (_listener, _waiting) = fill_backlog(&full);
    let unused = TcpListener::bind(LOOPBACK).unwrap().local_addr().unwrap();
    for (case, address, want) in [
        ("no listener", Address::Tcp(unused), Errno::CONNREFUSED),
        ("missing path", Address::Unix(directory.0.join("missing").into()), Errno::NOENT),
        ("stale path", Address::Unix(stale.into()), Errno::CONNREFUSED),
        ("long path", Address::Unix("x".repeat(200).into()), Errno::NAMETOOLONG),
        ("full backlog", Address::Unix(full.into()), Errno::AGAIN),
    ] {
        let key = bench.engine.connect(&address).unwrap();
        bench.engine.receive_start(key);
        bench.engine.send(key, Chunk::from_static(b"lost"));
        bench.until(case, |bench| !bench.failed.is_empty());
        assert_eq!(bench.failed, [(key, Operation::Connect, want)], "{case}");
        bench.settle();
        assert_eq!(bench.failed.len(), 1, "{case}: one word about it is enough");
        assert_eq!(bench.engine.send_queued_bytes(key), 0, "{case}");
        bench.engine.close(key);
        bench.failed.clear();
    }
}

fn closing_ends_all_that_runs<E: Engine>(mut bench: Bench<E>) {
    for transport in Transport::ALL {
        let (ours, mut peer) = transport.pair();
        let name = name_of(&ours);
        let key = bench.engine.adopt(ours);
        bench.engine.receive_start(key);
        let long = vec![b'x'; 32 << 20];
        bench.engine.send(key, Chunk::from_vec(long, 0));
        bench.until("a send that blocks", |bench| {
            bench.turn(Some(Duration::from_millis(20))) == 0 && bench.sent(key) > 0
        });
        assert!(bench.engine.send_queued_bytes(key) > 0, "{transport:?}");
        peer.write_all(b"last words").unwrap();
        bench.received.clear();
        bench.sent.clear();
        bench.engine.close(key);
        bench.settle();
        assert_eq!((bench.received(key), bench.sent(key)), (&b""[..], 0), "{transport:?}");
        assert_eq!((&bench.closed[..], &bench.failed[..]), (&[][..], &[][..]), "{transport:?}");
        bench.until("descriptor", |_| !is_open(&name));
        assert_eq!(bench.engine.buffers().leased_buffers(), 0, "{transport:?}");
        // All calls with a void key are without effect.
        bench.engine.send(key, Chunk::from_static(b"x"));
        bench.engine.receive_start(key);
        bench.engine.shutdown_write(key);
        bench.engine.reset(key);
        bench.engine.close(key);
        assert_eq!(bench.turn(Some(Duration::ZERO)), 0, "{transport:?}");
    }
}

fn closing_forgets_a_connect<E: Engine>(mut bench: Bench<E>) {
    let listener = TcpListener::bind(LOOPBACK).unwrap();
    for address in [Address::Tcp(listener.local_addr().unwrap()), Address::Unix("/missing".into())]
    {
        let key = bench.engine.connect(&address).unwrap();
        bench.engine.close(key);
        bench.settle();
        assert!(!bench.connected.contains(&key));
        assert_eq!(bench.failed, []);
    }
}

fn keys_are_not_reused<E: Engine>(mut bench: Bench<E>) {
    let (first, _first_peer) = bench.pair(Transport::Unix);
    bench.engine.close(first);
    bench.settle();
    let (second, mut peer) = bench.pair(Transport::Unix);
    assert_eq!(first.index, second.index);
    assert_ne!(first, second);
    bench.engine.send(first, Chunk::from_static(b"to the dead"));
    bench.engine.close(first);
    bench.engine.send(second, Chunk::from_static(b"to the living"));
    bench.engine.shutdown_write(second);
    bench.until("send", |bench| bench.sent(second) == 13);
    bench.settle();
    assert_eq!(peer.read_all(), b"to the living");
}

fn survives_a_lack_of_buffers<E: Engine>(mut bench: Bench<E>) {
    let count = 4;
    let bytes = 2 * usize::from(BUFFERS_MAX) * BUFFER_BYTES / count;
    let mut writers = Vec::new();
    let mut keys = Vec::new();
    for _ in 0..count {
        let (key, mut peer) = bench.pair(Transport::Tcp);
        bench.engine.receive_start(key);
        keys.push(key);
        writers.push(thread::spawn(move || {
            Pattern::new().write(&mut peer, bytes);
            peer.shutdown();
        }));
    }
    bench.holding = true;
    bench.until("all buffers leased", |bench| {
        bench.engine.buffers().free_buffers() < REARM_BUFFERS_MIN
    });
    // Peers may still fill their windows; then nothing happens, and a starved engine has to sleep.
    bench.until("sleep", |bench| {
        let start = clock::now();
        let count = bench.turn(Some(Duration::from_millis(50)));
        count == 0 && clock::now().since(start) >= Duration::from_millis(45)
    });

    let pattern = Pattern::new();
    let mut offsets: HashMap<SocketKey, usize> = HashMap::new();
    bench.until("the rest", |bench| {
        for (key, chunk) in mem::take(&mut bench.held) {
            let offset = offsets.entry(key).or_default();
            pattern.check(*offset, &chunk);
            *offset += chunk.len();
        }
        bench.closed.len() == count
    });
    assert!(keys.iter().all(|key| offsets[key] == bytes), "{offsets:?}");
    assert_eq!(bench.engine.buffers().leased_buffers(), 0);
    for writer in writers {
        writer.join().unwrap();
    }
}

fn stalled_sends_do_not_hold_buffers<E: Engine>(mut bench: Bench<E>) {
    // More than all buffers, received and passed on to peers that do not read.
    let (source, mut writer) = bench.pair(Transport::Tcp);
    let stalled: Vec<(SocketKey, Peer)> = (0..64).map(|_| bench.pair(Transport::Unix)).collect();
    bench.engine.receive_start(source);
    bench.holding = true;
    let total = 2 * usize::from(BUFFERS_MAX) * BUFFER_BYTES;
    let thread = thread::spawn(move || {
        Pattern::new().write(&mut writer, total);
        writer
    });
    let mut passed = 0;
    let mut streams = vec![Vec::new(); stalled.len()];
    bench.until("all received", |bench| {
        for (_, chunk) in mem::take(&mut bench.held) {
            let to = passed / BUFFER_BYTES % stalled.len();
            streams[to].push((passed, chunk.len()));
            passed += chunk.len();
            bench.engine.send(stalled[to].0, chunk);
        }
        passed == total
    });
    bench.settle();
    assert!(bench.engine.buffers().free_buffers() >= BUFFERS_SCARCE - stalled.len());
    // And nothing of it is lost.
    let pattern = Pattern::new();
    for ((key, mut peer), pieces) in stalled.into_iter().zip(streams) {
        let bytes = pieces.iter().map(|(_, length)| length).sum();
        let reader = thread::spawn(move || {
            let mut seen = vec![0; bytes];
            peer.read_exact(&mut seen).unwrap();
            seen
        });
        bench.until("all sent", |bench| bench.engine.send_queued_bytes(key) == 0);
        let seen = reader.join().unwrap();
        let mut rest = &seen[..];
        for (offset, length) in pieces {
            pattern.check(offset, &rest[..length]);
            rest = &rest[length..];
        }
    }
    drop(thread.join().unwrap());
}

fn accepts_many<E: Engine>(mut bench: Bench<E>) {
    if !has_many_descriptors("accepts_many") {
        return;
    }
    let directory = TemporaryDirectory::new();
    let tcp = TcpListener::bind(LOOPBACK).unwrap();
    let address = tcp.local_addr().unwrap();
    let path = directory.0.join("socket");
    let unix = UnixListener::bind(&path).unwrap();
    let (tcp, unix) = (bench.engine.listen(tcp.into()), bench.engine.listen(unix.into()));
    assert_ne!(tcp, unix);
    let connecting = thread::spawn(move || {
        (0..MANY)
            .map(|_| (TcpStream::connect(address).unwrap(), UnixStream::connect(&path).unwrap()))
            .collect::<Vec<_>>()
    });
    bench.until("accepts", |bench| bench.accepted.len() == 2 * MANY);
    let of_tcp = bench.accepted.iter().filter(|(listener, _)| *listener == tcp).count();
    assert_eq!(of_tcp, MANY);
    bench.settle();
    assert_eq!(bench.accepted.len(), 2 * MANY);
    connecting.join().unwrap();
}

fn stops_listening<E: Engine>(mut bench: Bench<E>) {
    let listener = TcpListener::bind(LOOPBACK).unwrap();
    let address = listener.local_addr().unwrap();
    let key = bench.engine.listen(listener.into());
    let _first = TcpStream::connect(address).unwrap();
    bench.until("accept", |bench| bench.accepted.len() == 1);
    bench.engine.unlisten(key);
    bench.engine.unlisten(key);
    bench.engine.accept_resume(key);
    bench.settle();
    assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!((bench.accepted.len(), &bench.accept_failed[..]), (1, &[][..]));
    assert_eq!(bench.unlistened, [key], "told once");
}

fn loses_no_connection_when_it_stops_listening<E: Engine>(mut bench: Bench<E>) {
    let listener = TcpListener::bind(LOOPBACK).unwrap();
    let address = listener.local_addr().unwrap();
    let (before, after) = (QUEUED, 20);
    // More than one turn takes on epoll: some are told of, some are in the queue.
    let mut clients: Vec<TcpStream> =
        (0..before).map(|_| TcpStream::connect(address).unwrap()).collect();
    let key = bench.engine.listen(listener.into());
    bench.turn(Some(Duration::ZERO));
    clients.extend((0..after).map(|_| TcpStream::connect(address).unwrap()));
    bench.engine.unlisten(key);
    bench.until("the end", |bench| !bench.unlistened.is_empty());
    assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(bench.accepted.len(), before + after);
    bench.accepted.clear();
    for mut client in clients {
        assert_eq!(client.read(&mut [0]).unwrap(), 0, "a FIN, and no reset");
    }
}

/// As two data planes do while one takes over from the other.
fn shares_a_listener_with_either_engine<E: Engine>(mut bench: Bench<E>) {
    let listener = TcpListener::bind(LOOPBACK).unwrap();
    let address = listener.local_addr().unwrap();
    let others: [fn() -> AnyEngine; 2] = [
        || Some(Box::new((Bench::new(epoll().unwrap()), None))),
        || Some(Box::new((Bench::new(uring().ok()?), None))),
    ];
    for other in others {
        let Some(mut other) = other() else { continue };
        for ours_is_first in [true, false] {
            let copy = |listener: &TcpListener| OwnedFd::from(listener.try_clone().unwrap());
            let key = ours_is_first.then(|| bench.engine.listen(copy(&listener)));
            if key.is_some() {
                bench.settle();
            }
            other.listen(copy(&listener));
            let key = key.unwrap_or_else(|| bench.engine.listen(copy(&listener)));
            bench.accepted.clear();
            let clients: Vec<TcpStream> =
                (0..QUEUED).map(|_| TcpStream::connect(address).unwrap()).collect();
            let mut theirs = 0;
            bench.until("accepts", |bench| {
                theirs += other.accept();
                bench.accepted.len() + theirs == QUEUED
            });
            bench.settle();
            assert_eq!((other.accept(), &bench.accept_failed[..]), (0, &[][..]));
            drop(clients);
            // Whichever is left accepts alone, and does not wait for what the other one took.
            bench.engine.unlisten(key);
            bench.until("the end", |bench| bench.unlistened.contains(&key));
            let _client = TcpStream::connect(address).unwrap();
            let start = clock::now();
            while other.accept() == 0 {
                assert!(clock::now().since(start) < DEADLINE, "not accepted");
            }
            other.unlisten();
        }
    }
}

/// `None` where the machine refuses it.
type AnyEngine = Option<Box<dyn Accepts>>;

/// An engine of whichever kind, as far as the test above goes.
trait Accepts {
    fn listen(&mut self, listener: OwnedFd);
    fn accept(&mut self) -> usize;
    fn unlisten(&mut self);
}

impl<E: Engine> Accepts for (Bench<E>, Option<ListenerKey>) {
    fn listen(&mut self, listener: OwnedFd) {
        self.1 = Some(self.0.engine.listen(listener));
        self.0.settle();
    }

    fn accept(&mut self) -> usize {
        self.0.turn(Some(Duration::ZERO));
        assert_eq!(self.0.accept_failed, []);
        self.0.accepted.drain(..).count()
    }

    fn unlisten(&mut self) {
        let key = self.1.take().unwrap();
        self.0.engine.unlisten(key);
        self.0.until("the end", |bench| bench.unlistened.contains(&key));
    }
}

fn tells_when_accepting_fails<E: Engine>(mut bench: Bench<E>) {
    let not_listening = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    let key = bench.engine.listen(not_listening);
    for round in 1..=3 {
        bench.until("failure", |bench| bench.accept_failed.len() == round);
        bench.settle();
        assert_eq!(bench.accept_failed, vec![(key, Errno::INVAL); round], "stops until resumed");
        bench.engine.accept_resume(key);
    }
}

/// Whoever asks over one connection must not take the answer for bytes that nobody asked for,
/// because another connection has no room.
fn tells_of_sends_before_answers<E: Engine>(mut bench: Bench<E>) {
    for kind in Transport::ALL {
        let (stalled, _reader) = bench.pair(kind);
        let (asking, mut peer) = bench.pair(kind);
        peer.write_all(b"answer").unwrap();
        bench.engine.relax_sent(asking, true);
        bench.engine.receive_start(asking);
        bench.engine.send(stalled, Chunk::from_vec(vec![0; 32 << 20], 0));
        bench.engine.send(asking, Chunk::from_vec(b"question".to_vec(), 0));
        let mut seen = Vec::new();
        let start = clock::now();
        while !seen.contains(&"received") {
            assert!(clock::now().since(start) < DEADLINE, "{kind:?}: {seen:?}");
            bench.engine.turn(Some(Duration::from_millis(100)), &mut bench.events).unwrap();
            seen.extend(bench.events.drain(..).filter_map(|event| match event {
                Event::Received { socket, .. } if socket == asking => Some("received"),
                Event::Sent { socket, .. } if socket == asking => Some("sent"),
                _ => None,
            }));
        }
        assert_eq!(seen, ["sent", "received"], "{kind:?}");
    }
}

fn wakes_from_another_thread<E: Engine>(mut bench: Bench<E>) {
    for round in 1..=3 {
        let waker = bench.engine.waker();
        let other = thread::spawn(move || waker.wake());
        assert_eq!(bench.turn(None), 1);
        assert_eq!(bench.woken, round);
        other.join().unwrap();
    }
    let waker = bench.engine.waker();
    waker.wake();
    waker.wake();
    bench.settle();
    assert_eq!(bench.woken, 4, "two wakes before a turn are one");
}

fn waits_no_longer_than_asked<E: Engine>(mut bench: Bench<E>) {
    let (key, _peer) = bench.pair(Transport::Tcp);
    bench.engine.receive_start(key);
    for millis in [0, 1, 30] {
        let timeout = Duration::from_millis(millis);
        let start = clock::now();
        assert_eq!(bench.turn(Some(timeout)), 0);
        let waited = clock::now().since(start);
        assert!(waited >= timeout && waited < timeout + Duration::from_secs(1), "{waited:?}");
    }
}

fn a_peer_that_has_gone_fails_the_send<E: Engine>(mut bench: Bench<E>) {
    // SAFETY: the default action of a signal is no code of ours. The standard library ignores
    // SIGPIPE at start, which would hide what this test is about: that none is raised.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    for transport in Transport::ALL {
        let (key, peer) = bench.pair(transport);
        drop(peer);
        bench.until("failure", |bench| {
            bench.engine.send(key, Chunk::from_static(b"hello?"));
            !bench.failed.is_empty()
        });
        let (failed, operation, error) = bench.failed.pop().unwrap();
        assert_eq!((failed, operation), (key, Operation::Send), "{transport:?}");
        assert!([Errno::PIPE, Errno::CONNRESET].contains(&error), "{transport:?}: {error}");
        bench.engine.send(key, Chunk::from_static(b"never"));
        bench.engine.shutdown_write(key);
        assert_eq!(bench.engine.send_queued_bytes(key), 0, "{transport:?}");
        bench.settle();
        assert_eq!(bench.failed, [], "{transport:?}: one word about it is enough");
        bench.engine.close(key);
    }
}

fn receiving_stops_and_starts<E: Engine>(mut bench: Bench<E>) {
    for transport in Transport::ALL {
        let (key, mut peer) = bench.pair(transport);
        peer.write_all(b"a").unwrap();
        bench.settle();
        assert_eq!(bench.received(key), b"", "{transport:?}: not before it was started");
        bench.engine.receive_start(key);
        bench.until("start", |bench| bench.received(key) == b"a");
        bench.engine.receive_stop(key);
        bench.settle();
        peer.write_all(b"b").unwrap();
        bench.settle();
        assert_eq!(bench.received(key), b"a", "{transport:?}: stopped");
        bench.engine.receive_start(key);
        bench.until("second start", |bench| bench.received(key) == b"ab");
        // Each order within one turn ends in the last one's state.
        bench.engine.receive_stop(key);
        bench.engine.receive_start(key);
        peer.write_all(b"c").unwrap();
        bench.until("stop and start", |bench| bench.received(key) == b"abc");
        bench.engine.receive_stop(key);
        bench.engine.receive_start(key);
        bench.engine.receive_stop(key);
        bench.settle();
        peer.write_all(b"d").unwrap();
        bench.settle();
        assert_eq!(bench.received(key), b"abc", "{transport:?}: stopped last");
        bench.engine.receive_start(key);
        peer.shutdown();
        bench.until("FIN", |bench| bench.closed.contains(&key));
        assert_eq!(bench.received(key), b"abcd", "{transport:?}");
        bench.engine.receive_start(key);
        bench.settle();
    }
}

fn a_relaxed_send_does_not_end_the_wait<E: Engine>(mut bench: Bench<E>) {
    let (key, mut peer) = bench.pair(Transport::Unix);
    let echo = thread::spawn(move || {
        let mut bytes = [0; 4];
        while peer.read_exact(&mut bytes).is_ok() && peer.write_all(&bytes).is_ok() {}
    });
    bench.engine.receive_start(key);
    bench.engine.relax_sent(key, true);
    for _ in 0..100 {
        bench.engine.send(key, Chunk::from_static(b"ping"));
        bench.engine.turn(None, &mut bench.events).unwrap();
        let events: Vec<Event> = bench.events.drain(..).collect();
        let in_order = matches!(
            &events[..],
            [Event::Sent { bytes: 4, .. }, Event::Received { chunk, .. }] if **chunk == *b"ping"
        );
        assert!(in_order, "{events:?}");
    }
    // What does not fit is told as it progresses, relaxed or not: somebody may wait for room.
    let (blocked, _reader) = bench.pair(Transport::Unix);
    bench.engine.relax_sent(blocked, true);
    bench.engine.send(blocked, Chunk::from_vec(vec![0; 8 << 20], 0));
    while bench.sent(blocked) == 0 {
        bench.turn(None);
    }
    bench.engine.relax_sent(key, false);
    bench.engine.receive_stop(key);
    bench.settle();
    bench.engine.send(key, Chunk::from_static(b"ping"));
    bench.turn(None);
    assert_eq!(bench.sent(key), 4);
    bench.engine.close(key);
    bench.settle();
    echo.join().unwrap();
}

/// More operations in one turn than the submission ring has entries.
fn takes_many_operations_in_one_turn<E: Engine>(mut bench: Bench<E>) {
    if !has_many_descriptors("takes_many_operations_in_one_turn") {
        return;
    }
    let mut keys = Vec::new();
    for _ in 0..MANY {
        let flags = SocketFlags::CLOEXEC;
        let pair = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        keys.push([bench.engine.adopt(pair.0), bench.engine.adopt(pair.1)]);
    }
    for round in 1..=3_usize {
        for key in keys.as_flattened() {
            bench.engine.receive_start(*key);
            bench.engine.send(*key, Chunk::from_static(b"crossing"));
        }
        bench.until("all", |bench| {
            let done = |key: &SocketKey| {
                bench.received(*key).len() == 8 * round && bench.sent(*key) == 8 * round
            };
            keys.as_flattened().iter().all(done)
        });
        for key in keys.as_flattened() {
            bench.engine.receive_stop(*key);
        }
    }
    for key in keys.as_flattened() {
        bench.engine.close(*key);
    }
    bench.settle();
    assert_eq!(bench.engine.buffers().leased_buffers(), 0);
}

fn dropping_lets_go_of_everything<E: Engine>(mut bench: Bench<E>) {
    let (ours, mut peer) = Transport::Tcp.pair();
    let listener = TcpListener::bind(LOOPBACK).unwrap();
    let address = listener.local_addr().unwrap();
    let names = [name_of(&ours), name_of(&listener)];
    bench.engine.listen(listener.into());
    let key = bench.engine.adopt(ours);
    bench.engine.receive_start(key);
    peer.write_all(b"keep").unwrap();
    bench.holding = true;
    bench.until("receive", |bench| !bench.held.is_empty());
    bench.engine.send(key, Chunk::from_vec(vec![0; 32 << 20], 0));
    bench.settle();
    let _connected = TcpStream::connect(address).unwrap();
    peer.write_all(b"unread").unwrap();
    let Bench { engine, held, .. } = bench;
    drop(engine);
    assert_eq!(&*held[0].1, b"keep", "a chunk outlives its engine");
    assert!(names.iter().all(|name| !is_open(name)));
}

macro_rules! suite {
    ($($test:ident),* $(,)?) => {
        mod on_epoll {
            $(#[test] fn $test() { super::$test(super::Bench::new(super::epoll().unwrap())); })*
        }

        mod on_uring {
            $(#[test] fn $test() {
                // A machine that refuses io_uring says so. One that does not, but where it fails,
                // fails here.
                match super::uring() {
                    Ok(engine) => super::$test(super::Bench::new(engine)),
                    Err(error) => super::skipped(stringify!($test), &error.to_string()),
                }
            })*
        }
    };
}

suite! {
    a_peer_that_has_gone_fails_the_send,
    a_relaxed_send_does_not_end_the_wait,
    accepts_many,
    closes_halves_one_by_one,
    closing_ends_all_that_runs,
    closing_forgets_a_connect,
    connects,
    dropping_lets_go_of_everything,
    echoes,
    gathers_many_chunks,
    keys_are_not_reused,
    loses_no_connection_when_it_stops_listening,
    receiving_stops_and_starts,
    relays_much_to_a_slow_reader,
    resets_are_told_apart_from_ends,
    shares_a_listener_with_either_engine,
    stalled_sends_do_not_hold_buffers,
    stops_listening,
    survives_a_lack_of_buffers,
    takes_many_operations_in_one_turn,
    tells_of_sends_before_answers,
    tells_when_accepting_fails,
    tells_why_it_cannot_connect,
    waits_no_longer_than_asked,
    wakes_from_another_thread,
}

struct TemporaryDirectory(PathBuf);

impl TemporaryDirectory {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("ringcar-engine-{}-{count}", process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A listener nobody accepts from, with as many connections as it queues.
fn fill_backlog(path: &std::path::Path) -> (OwnedFd, Vec<socket2::Socket>) {
    let new = || socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    let address = socket2::SockAddr::unix(path).unwrap();
    let listener = new();
    listener.bind(&address).unwrap();
    listener.listen(0).unwrap();
    let mut waiting = Vec::new();
    loop {
        let socket = new();
        socket.set_nonblocking(true).unwrap();
        if socket.connect(&address).is_err() {
            return (listener.into(), waiting);
        }
        waiting.push(socket);
    }
}

/// What the kernel calls the socket behind a descriptor; unique while it lives.
fn name_of(file: &impl AsRawFd) -> Vec<u8> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    readlink(path, Vec::new()).unwrap().into_bytes()
}

/// Whether any descriptor of this process is that socket.
fn is_open(name: &[u8]) -> bool {
    fs::read_dir("/proc/self/fd")
        .unwrap()
        .flatten()
        .any(|entry| readlink(entry.path(), Vec::new()).is_ok_and(|link| link.as_bytes() == name))
}

fn allow_many_descriptors() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

/// Whether both ends of [`MANY`] sockets, twice, and what other tests have can be open at a time;
/// says so where they cannot.
fn has_many_descriptors(test: &str) -> bool {
    let maximum = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    if maximum < 8 * MANY as u64 {
        skipped(test, &format!("no more than {maximum} descriptors are allowed"));
    }
    maximum >= 8 * MANY as u64
}

/// Past the harness, which keeps what a test that passes prints.
fn skipped(test: &str, reason: &str) {
    let line = format!("SKIPPED {test}: {reason}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const DEADLINE: Duration = Duration::from_secs(30);
const LARGE_BYTES: usize = 64 << 20;
/// A prime, so that no power of two repeats it.
const PATTERN_BYTES: usize = 65_521;
const MANY: usize = 300;
/// More than ACCEPTS_PER_TURN, and what the backlog of the standard library's listeners holds.
const QUEUED: usize = 100;
