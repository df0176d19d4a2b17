//! Every yardstick carries every byte, both ways at once, and passes FIN on. A relay that loses
//! bytes would be fast.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use loadtests::{address, socket};
use snapshot::Address;
use socket2::Socket;
use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::Shutdown,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

const DEADLINE: Duration = Duration::from_secs(20);
/// More than both sockets and the relay hold, so that each relay meets a full socket.
const STREAM_BYTES: usize = 24 * 1024 * 1024;

struct Relay {
    process: Child,
    address: Address,
    directory: PathBuf,
}

impl Relay {
    /// Starts the relay, and a listener that it connects to.
    fn start(program: &str, unix: bool) -> (Self, Socket) {
        let name = PathBuf::from(program).file_name().unwrap().to_string_lossy().into_owned();
        let directory = std::env::temp_dir().join(format!("{name}-{unix}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let address_of = |name: &str| match unix {
            true => Address::Unix(directory.join(name).into()),
            false => Address::Tcp("127.0.0.1:0".parse().unwrap()),
        };
        let (listener, upstream) = socket::listen(&address_of("upstream")).unwrap();
        let mut process = Command::new(program)
            .args(["--listen", &address::spell(&address_of("listen"))])
            .args(["--upstream", &address::spell(&upstream)])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = address::parse(line.trim()).unwrap();
        (Self { process, address, directory }, listener)
    }

    /// A client connection and the upstream one that the relay made for it.
    fn connect(&self, listener: &Socket) -> (Socket, Socket) {
        let client = socket::connect(&self.address).unwrap();
        listener.set_read_timeout(Some(DEADLINE)).unwrap();
        let upstream = loop {
            match listener.accept() {
                Ok((upstream, _)) => break upstream,
                // With a timeout the kernel does not begin it anew, whatever the handler
                // (signal(7)).
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => panic!("the relay does not connect: {e}"),
            }
        };
        for socket in [&client, &upstream] {
            socket.set_read_timeout(Some(DEADLINE)).unwrap();
            socket.set_write_timeout(Some(DEADLINE)).unwrap();
        }
        (client, upstream)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        std::fs::remove_dir_all(&self.directory).unwrap();
    }
}

/// Bytes that tell their place, different for each `seed`.
fn pattern(seed: u32, len: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_le_bytes()[3]
    };
    (0..len).map(|_| next()).collect()
}

fn send_all(socket: &Socket, bytes: &[u8]) {
    let mut socket = socket;
    socket.write_all(bytes).unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
}

fn receive_all(socket: &Socket) -> Vec<u8> {
    let mut socket = socket;
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Both directions at once, each reader slower than its writer.
fn carries_streams_both_ways(relay: &Relay, listener: &Socket) {
    let (client, upstream) = relay.connect(listener);
    let (up, down) = (pattern(1, STREAM_BYTES), pattern(2, STREAM_BYTES));
    thread::scope(|scope| {
        scope.spawn(|| send_all(&client, &up));
        scope.spawn(|| send_all(&upstream, &down));
        let at_upstream = scope.spawn(|| receive_all(&upstream));
        assert!(receive_all(&client) == down, "downstream bytes differ");
        assert!(at_upstream.join().unwrap() == up, "upstream bytes differ");
    });
}

/// FIN from the client does not cut off the answer.
fn passes_fin_and_still_answers(relay: &Relay, listener: &Socket) {
    let (client, upstream) = relay.connect(listener);
    send_all(&client, b"question");
    assert_eq!(receive_all(&upstream), b"question");
    send_all(&upstream, b"answer");
    assert_eq!(receive_all(&client), b"answer");
}

fn carries_messages_of_many_connections(relay: &Relay, listener: &Socket) {
    let pairs: Vec<_> = (0..100).map(|_| relay.connect(listener)).collect();
    let mut received = [0; 200];
    for round in 0..5 {
        for (seed, (client, upstream)) in (round * 1000..).zip(&pairs) {
            let message = pattern(seed, received.len());
            for (from, to) in [(client, upstream), (upstream, client)] {
                let (mut from, mut to) = (from, to);
                from.write_all(&message).unwrap();
                to.read_exact(&mut received).unwrap();
                assert!(received == message[..], "message of connection {seed}");
            }
        }
    }
}

/// The relay lives on when a peer resets in the middle of a stream.
fn survives_a_reset(relay: &Relay, listener: &Socket) {
    for _ in 0..20 {
        let (client, upstream) = relay.connect(listener);
        let mut to = &client;
        to.write_all(&pattern(3, 100_000)).unwrap();
        let mut from = &upstream;
        from.read_exact(&mut [0; 10]).unwrap();
        // Closing with bytes unread, or with no linger time, resets.
        upstream.set_linger(Some(Duration::ZERO)).unwrap();
        drop(upstream);
        drop(client);
    }
    passes_fin_and_still_answers(relay, listener);
}

fn check(program: &str, unix: bool) {
    let (relay, listener) = Relay::start(program, unix);
    passes_fin_and_still_answers(&relay, &listener);
    carries_messages_of_many_connections(&relay, &listener);
    carries_streams_both_ways(&relay, &listener);
    survives_a_reset(&relay, &listener);
}

#[test]
fn epoll_over_tcp() {
    check(env!("CARGO_BIN_EXE_relay-epoll"), false);
}

#[test]
fn epoll_over_unix() {
    check(env!("CARGO_BIN_EXE_relay-epoll"), true);
}

/// The yardsticks on io_uring measure nothing where a container's seccomp profile forbids it, or no
/// memory may be locked for their rings; that is said, past the harness, not failed.
fn check_if_permitted(program: &str, unix: bool) {
    if let Err(error) = io_uring::IoUring::new(PROBE_ENTRIES) {
        let line = format!("SKIPPED {program}: no ring of io_uring: {error}\n");
        std::io::stderr().write_all(line.as_bytes()).unwrap();
        return;
    }
    check(program, unix);
}

/// More than the rings of all yardsticks have together, as their tests run at one time.
const PROBE_ENTRIES: u32 = 16 * 1024;

#[test]
fn uring_over_tcp() {
    check_if_permitted(env!("CARGO_BIN_EXE_relay-uring"), false);
}

#[test]
fn uring_over_unix() {
    check_if_permitted(env!("CARGO_BIN_EXE_relay-uring"), true);
}

#[test]
fn monoio_over_tcp() {
    check_if_permitted(env!("CARGO_BIN_EXE_relay-monoio"), false);
}

#[test]
fn monoio_over_unix() {
    check_if_permitted(env!("CARGO_BIN_EXE_relay-monoio"), true);
}

#[test]
fn tokio_uring_over_tcp() {
    check_if_permitted(env!("CARGO_BIN_EXE_relay-tokio-uring"), false);
}
