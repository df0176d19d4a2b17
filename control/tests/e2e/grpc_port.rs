//! The port of daprd's gRPC API: `dapr run` waits for it, and whoever calls there is told.

#![forbid(unsafe_code)]

use crate::support::{Place, Process, eventually, free_port, get};
use rustix::process::Signal;
use std::{
    net::{TcpListener, TcpStream},
    process::Command,
};

/// The head of the answer to a call; `None` where curl cannot make one.
fn call(more: &[&str]) -> Option<String> {
    let path = "http://localhost/dapr.proto.runtime.v1.Dapr/InvokeService";
    let mut curl = Command::new("curl");
    curl.args(["-s", "--max-time", "10", "-D", "-", "--http2-prior-knowledge", "-X", "POST"]);
    match curl.args(more).arg(path).output() {
        Ok(output) => Some(String::from_utf8(output.stdout).unwrap()),
        Err(e) => {
            eprintln!("SKIPPED grpc_port: curl cannot be run: {e}");
            None
        }
    }
}

fn assert_refused(more: &[&str]) {
    let Some(head) = call(more) else { return };
    let head = head.to_lowercase();
    for line in ["http/2 200", "content-type: application/grpc", "grpc-status: 12"] {
        assert!(head.contains(line), "{line}: {head}");
    }
}

fn start(place: &Place, http_port: u16, more: &[&str]) -> Process {
    let http_port = http_port.to_string();
    let arguments = ["sidecar", "--app-id", "a", "--dapr-http-port", &http_port];
    let all = [&arguments[..], &["--enable-metrics=false"], more].concat();
    let mut process = place.start(&all);
    process.wait_for("dapr initialized");
    process
}

#[test]
fn calls_are_refused_in_the_words_of_grpc() {
    let (place, http_port, port) = (Place::new(), free_port(), free_port().to_string());
    let process = start(&place, http_port, &["--dapr-grpc-port", &port]);
    let connects = || TcpStream::connect(("127.0.0.1", port.parse().unwrap())).is_ok();
    eventually("it listens", connects);
    assert_refused(&["--connect-to", &format!("::127.0.0.1:{port}")]);
    process.signal(Signal::TERM);
    assert_eq!(process.wait().code, 0);
    assert!(!connects());
}

#[test]
fn its_socket_stands_beside_the_other_one_and_goes_with_it() {
    let place = Place::new();
    let directory = place.path().to_str().unwrap().to_owned();
    let process = start(&place, free_port(), &["--unix-domain-socket", &directory]);
    let socket = place.path().join("dapr-a-grpc.socket");
    assert_refused(&["--unix-socket", socket.to_str().unwrap()]);
    process.signal(Signal::TERM);
    assert_eq!(process.wait().code, 0);
    assert!(!socket.exists());
}

#[test]
fn a_port_that_is_taken_keeps_nothing_from_starting() {
    let (place, http_port) = (Place::new(), free_port());
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    let _process = start(&place, http_port, &["--dapr-grpc-port", &port.to_string()]);
    assert_eq!(get(http_port, "/v1.0/healthz").status, 204);
    drop(holder);
    eventually("it listens once the port is free", || {
        TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
}
