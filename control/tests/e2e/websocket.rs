//! WebSocket through invoke, as a library on either end speaks it: over one sidecar and over two.
//!
//! Needs Python's `websockets` package; where it is missing, the test says so and does nothing.

#![forbid(unsafe_code)]

use crate::support::{Place, eventually, skipped, status_of};
use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

/// Ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `RINGCAR_TEST_PYTHON`, where the package is not the system's.
fn python() -> Option<String> {
    let python = std::env::var("RINGCAR_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let probe = Command::new(&python).args(["-c", "import websockets"]).output();
    if probe.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    skipped(&format!("{python} has no package `websockets`"));
    None
}

fn script() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/websocket.py")
}

fn serve(python: &str) -> (Server, u16) {
    let mut command = Command::new(python);
    let child = command.arg(script()).arg("serve").stdout(Stdio::piped()).spawn().unwrap();
    let mut server = Server(child);
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    (server, line.trim().parse().unwrap())
}

fn talk(python: &str, port: u16) {
    let url = format!("ws://127.0.0.1:{port}/v1.0/invoke/chat/method/rooms/1?x=%20y");
    let output = Command::new(python).arg(script()).args(["call", &url]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{complaint}");
    assert_eq!(
        said,
        "hello /rooms/1?x=%20y\nmessages came back\npings came back\n4000 as you wish\n"
    );
}

#[test]
fn websockets_pass_one_sidecar_and_two() {
    let Some(python) = python() else { return };
    let (_server, app_port) = serve(&python);
    let place = Place::new();
    let more = ["--disable-init-endpoints", "config"];
    let (_chat, port) = place.sidecar("chat", Some(app_port), &more);
    talk(&python, port);
    let (_caller, caller_port) = place.sidecar("caller", None, &[]);
    // Anything but an upgrade is refused by such an app, which shows that it is reached.
    eventually("the route is known", || {
        status_of(caller_port, "/v1.0/invoke/chat/method/x") == 426
    });
    talk(&python, caller_port);
}
