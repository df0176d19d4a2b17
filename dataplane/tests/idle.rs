//! What connections cost that do nothing: user memory per connection, measured on the whole
//! process.
//!
//! A process of its own, since what is measured is the process. The clients live in it, too, and
//! cost a few bytes each.

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
use support::{Plane, Wire};

const CONNECTIONS: usize = 4000;
/// Two descriptors per connection, since both ends are here, and some for everything else.
const DESCRIPTORS: u64 = 2 * CONNECTIONS as u64;
/// What DESIGN promises per idle connection, with the client's end in it.
const BYTES_MAX: usize = 1024;

/// Names the engine to a process that this test starts: what one engine leaves behind in a heap is
/// not the other's.
const ENGINE: &str = "RINGCAR_TEST_IDLE_ENGINE";

#[test]
fn idle_connections_cost_less_than_1_kib() {
    if !support::has_descriptors("idle_connections_cost_less_than_1_kib", DESCRIPTORS) {
        return;
    }
    match std::env::var(ENGINE).as_deref() {
        Ok("epoll") => return measure(Choice::Epoll),
        Ok("uring") => return measure(Choice::Uring),
        _ => {}
    }
    let mut engines = vec!["epoll"];
    if support::has_uring("idle_connections_cost_less_than_1_kib") {
        engines.push("uring");
    }
    for engine in engines {
        let mut process = std::process::Command::new(std::env::current_exe().unwrap());
        let status = process.arg("--nocapture").env(ENGINE, engine).status().unwrap();
        assert!(status.success(), "{engine}");
    }
}

fn measure(engine: Choice) {
    let plane = Plane::on(engine).app("checkout", None).start();
    // What is there after the first hundred is not there for each connection; nor are the receive
    // buffers, all of which have been used once when each of these clients has called often.
    let mut clients: Vec<Wire> = Vec::with_capacity(CONNECTIONS);
    clients.extend((0..100).map(|_| used_client(&plane)));
    for _ in 0..20 {
        clients.iter_mut().for_each(call);
    }
    let before = resident_bytes();
    clients.extend((100..CONNECTIONS).map(|_| used_client(&plane)));
    let each = resident_bytes().saturating_sub(before) / (CONNECTIONS - 100);
    println!("{engine:?}: {each} bytes per idle connection");
    assert!(each < BYTES_MAX, "{each} bytes per idle connection on {engine:?}");
    clients.iter_mut().step_by(100).for_each(call);
}

/// A connection that has served a request and waits for the next.
fn used_client(plane: &Plane) -> Wire {
    let mut client = plane.client();
    call(&mut client);
    client
}

fn call(client: &mut Wire) {
    client.send("GET /v1.0/healthz HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.read_response().status(), 204);
}

fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line =
        status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("a line of the kernel's");
    let kib: usize = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib << 10
}
