//! What sockmap is known to do wrong, one test each, under the rules that prevent it; and what the
//! rules cannot prevent, shown.

use crate::support::{Pair, room};
use ebpf_loader::common::accelerate::{Pace, Side, WINDOW_BYTES};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{SendFlags, SocketAddrAny, sendto, sockopt},
};
use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

const BOTH: [Side; 2] = [Side::App, Side::DataPlane];

/// The self-test that a node runs at its start.
#[test]
fn proves_itself() {
    let Some(mut room) = room("proves_itself") else { return };
    let group = room.group;
    room.kernel.prove(group).unwrap();
    // Where the programs do not know this process, nothing goes past TCP.
    let error = room.kernel.prove(group + 1).unwrap_err().to_string();
    assert!(error.contains("ticket"), "{error}");
}

/// H1: nothing holds the writer back. The window does, and then TCP.
#[test]
fn a_peer_that_does_not_read_stops_its_writer() {
    let Some(mut room) = room("a_peer_that_does_not_read_stops_its_writer") else { return };
    for listener in BOTH {
        let Pair { app, plane, mut credit } = room.pair(listener);
        let (bytes, before) = (fill(&app), room.count(Pace::Budget));
        let most = WINDOW_BYTES as usize + TCP_BUFFERS_MAX;
        assert!(bytes < most, "{bytes} bytes from the app, {listener:?}");
        // All of it arrives, in order, and then the app goes straight again.
        read_pattern(&plane, 0, bytes);
        credit.took(bytes);
        let bytes = fill(&plane);
        assert!(bytes < most, "{bytes} bytes to the app, {listener:?}");
        assert_eq!(room.count(Pace::Budget) - before, 1);
        read_pattern(&app, 0, bytes);
    }
}

/// H2: what comes straight is read before what came by TCP. So nobody goes back to straight before
/// all is read, and an app that dials begins by TCP.
#[test]
fn no_byte_overtakes_another() {
    let Some(mut room) = room("no_byte_overtakes_another") else { return };
    let Pair { mut app, plane, mut credit } = room.pair(Side::App);
    let before = room.count(Pace::Resumed);
    write_pattern(&mut app, 0, WINDOW_BYTES as usize);
    write_pattern(&mut app, WINDOW_BYTES, 10);
    // Nearly all.
    read_pattern(&plane, 0, WINDOW_BYTES as usize + 9);
    credit.took(WINDOW_BYTES as usize + 9);
    write_pattern(&mut app, WINDOW_BYTES + 10, 10);
    assert_eq!(room.count(Pace::Resumed), before);
    read_pattern(&plane, WINDOW_BYTES + 9, 11);
    credit.took(11);
    write_pattern(&mut app, WINDOW_BYTES + 20, 10);
    assert_eq!(room.count(Pace::Resumed), before + 1);
    read_pattern(&plane, WINDOW_BYTES + 20, 10);
}

/// The first miss: the other end is not in the map, since it is not connected as far as its side
/// knows. All goes by TCP then.
#[test]
fn who_finds_nobody_stays_with_tcp() {
    let Some(mut room) = room("who_finds_nobody_stays_with_tcp") else { return };
    let (listening, _) = room.listen(Side::App);
    // The callee's socket is made with its first bytes, so they cannot go straight.
    set_defer_accept(&listening);
    let (missed, straight) = (room.count(Pace::Miss), room.count(Pace::Messages));
    let mut plane = TcpStream::connect(listening.local_addr().unwrap()).unwrap();
    plane.set_nodelay(true).unwrap();
    write_pattern(&mut plane, 0, 100);
    let (app, _) = listening.accept().unwrap();
    for at in 1..20 {
        write_pattern(&mut plane, at * 100, 100);
    }
    read_pattern(&app, 0, 2000);
    assert_eq!(room.count(Pace::Miss) - missed, 1);
    assert_eq!(room.count(Pace::Messages), straight);
}

/// Bytes that are given to a socket before it is connected go by TCP, uncounted; nothing may
/// overtake them.
#[test]
fn bytes_from_before_the_connection_are_found() {
    let Some(mut room) = room("bytes_from_before_the_connection_are_found") else { return };
    let (listening, port) = room.listen(Side::DataPlane);
    let before = (room.count(Pace::Doubt), room.count(Pace::Resumed));
    let app = rustix::net::socket(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        None,
    )
    .unwrap();
    // MSG_FASTOPEN: connects, and then sends by TCP.
    let flags = SendFlags::from_bits_retain(0x2000_0000);
    let to = SocketAddrAny::from(SocketAddr::from(([127, 0, 0, 1], port)));
    assert_eq!(sendto(&app, &pattern(0, 100), flags, &to).unwrap(), 100);
    let mut app = TcpStream::from(app);
    app.set_nodelay(true).unwrap();
    let (plane, _) = listening.accept().unwrap();
    let mut credit = room.credit(&plane).unwrap();
    read_pattern(&plane, 0, 100);
    credit.took(100);
    for at in 1..10 {
        // As many as were not counted: what was read is what was counted, each time.
        write_pattern(&mut app, at * 100, 100);
        read_pattern(&plane, at * 100, 100);
        credit.took(100);
    }
    assert!(room.count(Pace::Doubt) > before.0);
    assert_eq!(room.count(Pace::Resumed), before.1);
}

/// A socket that is connected anew has the ticket that it had, which others may still hold.
#[test]
fn a_socket_that_connects_again_is_not_accelerated() {
    let Some(mut room) = room("a_socket_that_connects_again_is_not_accelerated") else { return };
    let (listening, port) = room.listen(Side::DataPlane);
    let mut app = TcpStream::connect(listening.local_addr().unwrap()).unwrap();
    let (plane, _) = listening.accept().unwrap();
    assert!(room.credit(&plane).is_some());
    rustix::net::connect_unspec(&app).unwrap();
    let to = SocketAddr::from(([127, 0, 0, 1], port));
    rustix::net::connect(&app, &to).unwrap();
    let (again, _) = listening.accept().unwrap();
    assert!(room.credit(&again).is_none());
    let straight = room.count(Pace::Messages);
    for at in 0..10 {
        write_pattern(&mut app, at * 100, 100);
        read_pattern(&again, at * 100, 100);
    }
    assert_eq!(room.count(Pace::Messages), straight);
}

/// H3: whoever is taken from the map loses what it has not read. Only closing takes anybody, and
/// what was sent before the other side closed is there after it.
#[test]
fn what_was_sent_before_an_end_is_read_after_it() {
    let Some(mut room) = room("what_was_sent_before_an_end_is_read_after_it") else { return };
    for listener in BOTH {
        for half in [false, true] {
            let Pair { mut app, mut plane, .. } = room.pair(listener);
            if half {
                app.shutdown(Shutdown::Write).unwrap();
                assert_eq!(plane.read(&mut [0]).unwrap(), 0);
            }
            write_pattern(&mut plane, 0, 50_000);
            drop(plane);
            // The socket is closed on both sides by now, and its bytes unread.
            read_pattern(&app, 0, 50_000);
            assert_eq!(app.read(&mut [0]).unwrap(), 0, "{listener:?}, half {half}");
        }
    }
}

/// H4, what the rules cannot prevent: a blocking read ends with EAGAIN when it is woken without
/// bytes. Here by a reset, which the next read tells of.
#[test]
fn a_blocking_read_may_end_early() {
    let Some(mut room) = room("a_blocking_read_may_end_early") else { return };
    let mut early = 0;
    for _ in 0..20 {
        let Pair { mut app, plane, .. } = room.pair(Side::App);
        let (tell, told) = std::sync::mpsc::channel();
        let reader = thread::spawn(move || {
            tell.send(rustix::thread::gettid()).unwrap();
            let outcome = app.read(&mut [0]);
            (outcome.map_err(|e| e.kind()), app)
        });
        wait_asleep(told.recv().unwrap());
        reset(plane);
        let (outcome, mut app) = reader.join().unwrap();
        if outcome == Err(ErrorKind::WouldBlock) {
            early += 1;
            assert_eq!(app.read(&mut [0]).map_err(|e| e.kind()), Err(ErrorKind::ConnectionReset));
        } else {
            assert_eq!(outcome, Err(ErrorKind::ConnectionReset));
        }
    }
    eprintln!("H4: {early} of 20 blocking reads that a reset ended say EAGAIN first");
}

/// … and one that polls first is told the truth.
#[test]
fn who_polls_is_told_of_a_reset() {
    let Some(mut room) = room("who_polls_is_told_of_a_reset") else { return };
    for listener in BOTH {
        let Pair { mut app, plane, .. } = room.pair(listener);
        app.set_nonblocking(true).unwrap();
        let reader = thread::spawn(move || {
            wait_readable(&app);
            app.read(&mut [0]).map_err(|e| e.kind())
        });
        reset(plane);
        assert_eq!(reader.join().unwrap(), Err(ErrorKind::ConnectionReset), "{listener:?}");
    }
}

/// H7: a close with unread bytes is a FIN. The writer learns of it with a later write, as with TCP
/// it would with the next.
#[test]
fn a_close_with_unread_bytes_is_noticed() {
    let Some(mut room) = room("a_close_with_unread_bytes_is_noticed") else { return };
    for listener in BOTH {
        let Pair { mut app, mut plane, .. } = room.pair(listener);
        write_pattern(&mut plane, 0, 100);
        write_pattern(&mut app, 0, 100);
        drop(app);
        let deadline = Instant::now() + PATIENCE;
        let error = loop {
            assert!(Instant::now() < deadline, "writes go on and on");
            if let Err(e) = plane.write_all(&[0]) {
                break e.kind();
            }
        };
        assert!(matches!(error, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{error:?}");
    }
}

/// Strangers' connections to the same ports are nobody's business.
#[test]
fn only_app_and_data_plane_are_accelerated() {
    let Some(mut room) = room("only_app_and_data_plane_are_accelerated") else { return };
    let before = room.count(Pace::Connections);
    for (case, listener, party) in [
        ("another app", Side::DataPlane, 99),
        ("an app, not the data plane", Side::App, crate::support::APP),
        ("the data plane itself", Side::DataPlane, u64::MAX),
    ] {
        let (listening, port) = room.listen(listener);
        let hop = ebpf_loader::common::accelerate::Hop {
            app: crate::support::APP,
            listener: listener as u64,
        };
        let group = room.group;
        room.kernel.set(&[(port, hop)].into(), &[(group, party)].into()).unwrap();
        let dialed = TcpStream::connect(listening.local_addr().unwrap()).unwrap();
        let (accepted, _) = listening.accept().unwrap();
        assert!(room.credit(&dialed).is_none() && room.credit(&accepted).is_none(), "{case}");
    }
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dialed = TcpStream::connect(other.local_addr().unwrap()).unwrap();
    assert!(room.credit(&dialed).is_none(), "another port");
    assert_eq!(room.count(Pace::Connections), before);
}

/// Writes until the socket takes no more.
fn fill(mut socket: &TcpStream) -> usize {
    socket.set_nonblocking(true).unwrap();
    let mut written = 0;
    // Buffers grow while they are filled, so the end is where nothing moves for a while.
    loop {
        match socket.write(&pattern(written as u64, 16 * 1024)) {
            Ok(count) => written += count,
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                let mut fds =
                    [PollFd::from_borrowed_fd(std::os::fd::AsFd::as_fd(&socket), PollFlags::OUT)];
                let timeout = Timespec::try_from(Duration::from_millis(50)).unwrap();
                if poll(&mut fds, Some(&timeout)).unwrap() == 0 {
                    socket.set_nonblocking(false).unwrap();
                    return written;
                }
            }
            Err(e) => panic!("{e}"),
        }
        assert!(written < 1 << 27, "nothing holds the writer back");
    }
}

pub(crate) fn pattern(from: u64, count: usize) -> Vec<u8> {
    (from..).take(count).map(byte_at).collect()
}

pub(crate) fn byte_at(at: u64) -> u8 {
    (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32).to_be_bytes()[7]
}

fn write_pattern(socket: &mut TcpStream, from: u64, count: usize) {
    socket.write_all(&pattern(from, count)).unwrap();
}

fn read_pattern(mut socket: &TcpStream, from: u64, count: usize) {
    let mut buffer = vec![0; count];
    let mut read = 0;
    while read < count {
        wait_readable(socket);
        match socket.read(&mut buffer[read..]) {
            Ok(0) => panic!("the end after {read} of {count} bytes"),
            Ok(bytes) => read += bytes,
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(e) => panic!("{e}"),
        }
    }
    let wrong = buffer.iter().zip(from..).position(|(byte, at)| *byte != byte_at(at));
    assert_eq!(wrong, None, "of {count} bytes from {from} on");
}

pub(crate) fn wait_readable(socket: &TcpStream) {
    let fd = std::os::fd::AsFd::as_fd(socket);
    let timeout = Timespec::try_from(PATIENCE).unwrap();
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    assert_ne!(poll(&mut fds, Some(&timeout)).unwrap(), 0, "no bytes came");
}

/// Until the thread waits inside a system call.
fn wait_asleep(reader: rustix::process::Pid) {
    let path = format!("/proc/self/task/{}/stat", reader.as_raw_nonzero());
    let deadline = Instant::now() + PATIENCE;
    while !std::fs::read_to_string(&path).unwrap().contains(") S ") {
        assert!(Instant::now() < deadline, "the reader does not wait");
        thread::yield_now();
    }
}

fn reset(socket: TcpStream) {
    sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).unwrap();
}

fn set_defer_accept(listener: &std::net::TcpListener) {
    use std::os::fd::AsRawFd;
    let seconds: libc::c_int = 5;
    // SAFETY: the option is an int, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_DEFER_ACCEPT,
            (&raw const seconds).cast(),
            4,
        )
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

/// What TCP takes for a peer that does not read: both buffers at their largest.
const TCP_BUFFERS_MAX: usize = 16 << 20;

const PATIENCE: Duration = Duration::from_secs(20);
