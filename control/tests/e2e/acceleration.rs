//! Apps in four languages whose bytes go past TCP, on both hops, with every byte checked; and a
//! data plane that is killed meanwhile. Needs root and cgroup v2, and what runs the apps; where one
//! of them is missing the tests say so and pass.

#![forbid(unsafe_code)]

use crate::{
    steering::Groups,
    support::{App, Place, Process, eventually},
};
use rustix::process::Signal;
use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

/// How a language's peer is run.
struct Peer {
    name: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
}

impl Peer {
    /// `None`, with a line that says so, where it cannot be made.
    fn make(name: &'static str, place: &Place) -> Option<Self> {
        let source = |file: &str| {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/peers/");
            format!("{path}{file}")
        };
        let build = |program: &str, arguments: &[&str]| {
            let mut command = Command::new(program);
            command.args(arguments).current_dir(place.path()).stdin(Stdio::null());
            command.env("GO111MODULE", "off");
            command.output().is_ok_and(|output| output.status.success())
        };
        let directory = place.path().to_str().unwrap().to_owned();
        let (is_there, program, arguments) = match name {
            "python" => (build("python3", &["-V"]), "python3".into(), vec![source("peer.py")]),
            "node" => (build("node", &["-v"]), "node".into(), vec![source("peer.js")]),
            "go" => {
                let is_built = build("go", &["build", "-o", "peer-go", &source("peer.go")]);
                (is_built, place.path().join("peer-go"), Vec::new())
            }
            _ => {
                let is_built = build("javac", &["-d", &directory, &source("Peer.java")]);
                let arguments = vec!["-cp".to_owned(), directory, "Peer".to_owned()];
                (is_built, "java".into(), arguments)
            }
        };
        if !is_there {
            eprintln!("skipped: apps in {name}: they cannot be run here");
            return None;
        }
        Some(Self { name, program, arguments })
    }

    /// In checkout's group; gives its port, too.
    fn serve(&self, groups: &Groups) -> (Process, String) {
        let mut server = Process::start(&mut self.command(groups, "checkout", &["serve"]));
        let line = server.wait_for("listening at ");
        let port = line.rsplit(' ').next().unwrap().to_owned();
        (server, port)
    }

    fn command(&self, groups: &Groups, group: &str, more: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).args(more);
        groups.command(group, &command)
    }
}

/// By event, of the node of this test.
fn counts(place: &Place, groups: &Groups) -> serde_json::Map<String, serde_json::Value> {
    let rows = place.finish(&["ebpf", "status", "-o", "json"]).output;
    let rows: serde_json::Value = serde_json::from_str(&rows).unwrap();
    let is_ours = |row: &&serde_json::Value| {
        row["node"].as_str().unwrap().starts_with(&groups.name) && row["acceleration"].is_object()
    };
    let row = rows.as_array().unwrap().iter().find(is_ours);
    row.and_then(|row| row["acceleration"].as_object()).cloned().unwrap_or_default()
}

fn count(place: &Place, groups: &Groups, event: &str) -> u64 {
    counts(place, groups).get(event).and_then(serde_json::Value::as_u64).unwrap_or_default()
}

fn prepare(place: &Place, more: &str) -> Option<(Groups, String)> {
    let groups = Groups::new(place)?;
    for group in ["orders", "checkout"] {
        fs::create_dir(groups.root.join(group)).unwrap();
    }
    let apps = format!(
        "- {{id: orders, cgroup: /{0}/orders}}\n- {{id: checkout, cgroup: /{0}/checkout, \
         address: PORT{more}}}\n",
        groups.name
    );
    Some((groups, apps))
}

const ECHO: &str = "http://localhost:3500/v1.0/invoke/checkout/method/echo";

fn talks(name: &'static str) {
    let place = Place::new();
    let Some(peer) = Peer::make(name, &place) else { return };
    let Some((groups, apps)) = prepare(&place, "") else { return };
    let (server, port) = peer.serve(&groups);
    let apps = apps.replace("PORT", &port);
    let mut node = groups.node_with(&place, &apps, &["--accelerate", "on"]);
    node.wait_for("the self-test passed");
    node.wait_for("Node ");
    eventually("checkout is ready", || {
        groups.curl("orders", "http://localhost:3500/v1.0/healthz").0 == 0
    });
    eventually("checkout is called", || {
        let arguments = ["--silent", "--fail", "--data", "x", ECHO];
        let mut curl = Command::new("curl");
        curl.args(arguments);
        groups.command("orders", &curl).output().unwrap().stdout == b"x"
    });
    let before = counts(&place, &groups);
    let output = peer.command(&groups, "orders", &["call", ECHO, CALLS]).output().unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(text.contains("all right"), "{}: {text}", peer.name);
    // Four messages a call, but for large ones and the first of a connection.
    let straight = count(&place, &groups, "messages") - before["messages"].as_u64().unwrap();
    assert!(straight > 300, "{straight} messages: {:?}", counts(&place, &groups));
    eprintln!("{}: {:?}", peer.name, counts(&place, &groups));
    node.signal(Signal::TERM);
    assert_eq!(node.wait().code, 0);
    assert!(counts(&place, &groups).is_empty(), "a node that ends leaves nothing attached");
    server.kill();
}

#[test]
fn bytes_of_python_go_past_tcp() {
    talks("python");
}

#[test]
fn bytes_of_node_go_past_tcp() {
    talks("node");
}

#[test]
fn bytes_of_go_go_past_tcp() {
    talks("go");
}

#[test]
fn bytes_of_java_go_past_tcp() {
    talks("java");
}

#[test]
fn only_the_apps_that_are_named_are_accelerated() {
    let place = Place::new();
    let checkout = App::start();
    let more = ", accelerate: off";
    let Some((groups, apps)) = prepare(&place, more) else { return };
    let apps = apps.replace("PORT", &checkout.port.to_string());
    let apps = apps.replace("/orders}", "/orders, accelerate: on}");
    let mut node = groups.node_with(&place, &apps, &[]);
    node.wait_for("Node ");
    let url = "http://localhost:3500/v1.0/invoke/checkout/method/x";
    eventually("checkout is called", || groups.curl("orders", url).1 == "/x ");
    assert_eq!(groups.curl("checkout", url).1, "/x ");
    let before = count(&place, &groups, "connections");
    assert!(before > 0);
    // Its API and its port are its own affair; orders' are accelerated.
    assert_eq!(groups.curl("checkout", url).1, "/x ");
    assert_eq!(count(&place, &groups, "connections"), before);
    assert_eq!(groups.curl("orders", url).1, "/x ");
    assert_eq!(count(&place, &groups, "connections"), before + 1);
    node.signal(Signal::TERM);
    assert_eq!(node.wait().code, 0);
}

/// What a data plane leaves behind when it is killed: connections that end, and nothing in the way
/// of the next ones.
#[test]
fn a_data_plane_that_dies_leaves_no_wrong_byte() {
    let place = Place::new();
    let Some(peer) = Peer::make("python", &place) else { return };
    let Some((groups, apps)) = prepare(&place, "") else { return };
    let (server, port) = peer.serve(&groups);
    let apps = apps.replace("PORT", &port);
    let mut node = groups.node_with(&place, &apps, &["--accelerate", "on"]);
    node.wait_for("Node ");
    for round in 0..4 {
        let client =
            Process::start(&mut peer.command(&groups, "orders", &["call", ECHO, "100000"]));
        let before = count(&place, &groups, "messages");
        eventually("calls go past TCP", || count(&place, &groups, "messages") > before + 40);
        let plane = place.data_planes()[0];
        let pid = rustix::process::Pid::from_raw(plane.cast_signed()).unwrap();
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
        let finished = client.wait().output;
        // Its connection ended; no answer was another one.
        assert!(!finished.contains("bytes, or others"), "round {round}: {finished}");
        eventually("another data plane serves", || {
            place.data_planes().first().is_some_and(|pid| *pid != plane)
        });
    }
    node.signal(Signal::TERM);
    assert_eq!(node.wait().code, 0);
    server.kill();
}

/// One connection's worth; sizes go to some 300 KB.
const CALLS: &str = "200";
