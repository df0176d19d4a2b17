//! Bodies of 1 GiB in both directions through two data planes, with the memory of the process held
//! flat.
//!
//! A process of its own, since what is measured is the process: the client and the app live in it
//! too, and all they keep is one buffer each. One test after the other, for the same reason.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected ends there")]

#[expect(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "the conversations in e2e use the rest"
)]
mod support;

use dataplane::engine::Choice;
use support::{App, Hop, Mesh, Wire};

const BODY_BYTES: u64 = 1 << 30;
/// By how much the process may grow over the whole body.
const GROWTH_BYTES_MAX: u64 = 8 << 20;
const PIECE_BYTES: usize = 256 * 1024;
const PATH: &str = "/v1.0/invoke/checkout/method/x";

#[test]
fn bodies_of_1_gib_leave_memory_flat() {
    let mut engines = vec![Choice::Epoll];
    if support::has_uring("bodies_of_1_gib_leave_memory_flat") {
        engines.push(Choice::Uring);
    }
    for engine in engines {
        let app = App::listen();
        let mesh = Mesh::start_with(engine, Hop::Peer, app.address(), |s| {
            s.apps[0].body_bytes_max = None;
        });
        let mut client = mesh.client();
        let mut upstream = warm_up(&mut client, &app);
        assert_flat("download", || download(&mut client, &mut upstream));
        assert_flat("upload", || upload(&mut client, &mut upstream));
    }
}

/// A smaller body each way first, so that buffers and stacks that live on are there before anything
/// is measured.
fn warm_up(client: &mut Wire, app: &App) -> Wire {
    client.send(format!("GET {PATH} HTTP/1.1\r\nHost: a\r\n\r\n"));
    let mut upstream = app.accept();
    upstream.read_head();
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    client.read_response();
    upstream
}

fn download(client: &mut Wire, upstream: &mut Wire) {
    client.send(format!("GET {PATH} HTTP/1.1\r\nHost: a\r\n\r\n"));
    upstream.read_head();
    let mut writer = upstream.split();
    let thread = std::thread::spawn(move || {
        writer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY_BYTES}\r\n\r\n"));
        send_body(&mut writer);
    });
    let head = client.read_head();
    assert_eq!(head.one("content-length"), Some(BODY_BYTES.to_string().as_str()));
    client.skip_bytes(BODY_BYTES);
    thread.join().unwrap();
}

fn upload(client: &mut Wire, upstream: &mut Wire) {
    let mut writer = client.split();
    let thread = std::thread::spawn(move || {
        writer.send(format!(
            "POST {PATH} HTTP/1.1\r\nHost: a\r\nContent-Length: {BODY_BYTES}\r\n\r\n"
        ));
        send_body(&mut writer);
    });
    upstream.read_head();
    upstream.skip_bytes(BODY_BYTES);
    thread.join().unwrap();
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    assert_eq!(client.read_response().status(), 200);
}

fn send_body(writer: &mut Wire) {
    let piece = vec![b'x'; PIECE_BYTES];
    for _ in 0..BODY_BYTES / PIECE_BYTES as u64 {
        writer.send(&piece);
    }
}

fn assert_flat(what: &str, transfer: impl FnOnce()) {
    // Resets the kernel's record of the peak, Linux 4.0.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = resident_bytes();
    transfer();
    let growth = resident_bytes_peak().saturating_sub(before);
    println!("{what}: {} KiB resident before, {} KiB more at most", before >> 10, growth >> 10);
    assert!(growth < GROWTH_BYTES_MAX, "{what}: memory grew by {growth} bytes");
}

fn resident_bytes() -> u64 {
    status_kib("VmRSS:") << 10
}

/// The highest since the last reset, which is what counts: memory may have been given back since.
fn resident_bytes_peak() -> u64 {
    status_kib("VmHWM:") << 10
}

fn status_kib(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix(name)).expect("a line of the kernel's");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
