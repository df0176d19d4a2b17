//! Many apps with one control and one data plane: from a file, and as they come and go.

#![forbid(unsafe_code)]

use crate::support::{
    App, Connection, Finished, Load, MortalApp, Place, Process, call, eventually, free_port, get,
    has_descriptors, replace, status_of, try_call,
};
use rustix::process::Signal;
use std::{
    fs,
    net::TcpListener,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// A node's file in a place of its own.
struct NodeFile {
    path: PathBuf,
}

impl NodeFile {
    fn new(place: &Place, text: &str) -> Self {
        let directory = place.path().join("etc");
        fs::create_dir_all(&directory).unwrap();
        let file = Self { path: directory.join("node.yaml") };
        file.replace(text);
        file
    }

    fn replace(&self, text: &str) {
        replace(&self.path, text);
    }

    fn start(&self, place: &Place) -> Process {
        place.start(&["node", "--config", self.path.to_str().unwrap()])
    }
}

const HEAD: &str = "name: shop\nenable-metrics: false\ndefaults: {listen-addresses: 127.0.0.1}\n";

fn invoke(id: &str) -> String {
    format!("/v1.0/invoke/{id}/method/x")
}

#[track_caller]
fn succeed(place: &Place, arguments: &[&str]) -> String {
    let Finished { code, output } = place.finish(arguments);
    assert_eq!(code, 0, "{arguments:?}: {output}");
    output
}

fn states(place: &Place) -> Vec<(String, String)> {
    let mut rows = String::new();
    // On a busy machine a thousand apps may take longer to tell than the command waits.
    eventually("the node tells its apps", || {
        let Finished { code, output } = place.finish(&["node", "list", "-o", "json"]);
        assert!(code == 0 || output.contains("no response within"), "{output}");
        rows = output;
        code == 0
    });
    let rows: serde_json::Value = serde_json::from_str(&rows).unwrap();
    let text = |row: &serde_json::Value, key: &str| row[key].as_str().unwrap().to_owned();
    rows.as_array().unwrap().iter().map(|row| (text(row, "id"), text(row, "state"))).collect()
}

#[test]
fn three_apps_of_a_file_call_each_other_in_one_hop() {
    let place = Place::new();
    let (orders, checkout) = (App::start(), App::start());
    let ports = [free_port(), free_port(), free_port()];
    let file = NodeFile::new(
        &place,
        &format!(
            "{HEAD}apps:
- {{id: orders, http-port: {}, address: {}}}
- {{id: checkout, http-port: {}, address: '127.0.0.1:{}'}}
- {{id: caller, http-port: {}}}
",
            ports[0], orders.port, ports[1], checkout.port, ports[2]
        ),
    );
    let mut node = file.start(&place);
    node.wait_for("Node shop serves 3 apps");
    for port in ports {
        eventually("each is ready", || status_of(port, "/v1.0/healthz") == 204);
    }
    for port in ports {
        for id in ["orders", "checkout"] {
            assert_eq!(get(port, &invoke(id)).body, "/x ", "{id} by {port}");
        }
        let answer = get(port, &invoke("caller"));
        assert_eq!(answer.status, 500, "an app that takes no calls: {}", answer.body);
    }
    let metadata = get(ports[1], "/v1.0/metadata").body;
    assert!(metadata.contains("\"id\":\"checkout\""), "{metadata}");
    let head = checkout.request_for("/x");
    assert!(head.to_ascii_lowercase().contains("dapr-caller-app-id: orders"), "{head}");
    assert_eq!(place.data_planes().len(), 1);
    assert_eq!(place.files("apps").len(), 3);

    // Sidecars of the same machine call in, and are called.
    let (_sidecar, port) = place.sidecar("outside", Some(orders.port), &[]);
    eventually("the node is known outside", || status_of(port, &invoke("checkout")) == 200);
    eventually("the outside is known here", || status_of(ports[2], &invoke("outside")) == 200);

    let stopped = succeed(&place, &["stop", "orders"]);
    assert!(stopped.contains("app stopped successfully: orders"), "{stopped}");
    eventually("its sidecar is gone", || try_call(ports[0], "GET /", &[], "").is_err());
    assert_eq!(status_of(ports[2], &invoke("orders")), 500);
    assert_eq!(get(ports[2], &invoke("checkout")).status, 200, "not the node for one app");
    let again = place.finish(&["stop", "orders"]);
    assert!(again.output.contains("couldn't find app id orders"), "{}", again.output);

    node.signal(Signal::TERM);
    let finished = node.wait();
    assert_eq!(finished.code, 0, "{}", finished.output);
    assert_eq!(place.files("apps").len(), 1);
    assert_eq!(place.files("dataplane").iter().filter(|name| name.starts_with("shop")).count(), 0);
}

#[test]
fn apps_are_added_changed_and_removed_while_it_runs() {
    let place = Place::new();
    let (first, second) = (App::start(), App::start());
    let caller = free_port();
    let file = NodeFile::new(&place, &format!("{HEAD}apps: [{{id: caller, http-port: {caller}}}]"));
    let mut node = file.start(&place);
    node.wait_for("Node shop serves 1 apps");
    assert_eq!(status_of(caller, &invoke("orders")), 500);
    let add = |port: u16, app: u16| {
        let ports = [port.to_string(), app.to_string()];
        place.finish(&[
            "node",
            "add",
            "--id",
            "orders",
            "--http-port",
            &ports[0],
            "--address",
            &ports[1],
        ])
    };
    let port = free_port();
    assert_eq!(add(port, first.port).code, 0);
    assert_eq!(get(caller, &invoke("orders")).status, 200, "in force when it is answered");
    assert_eq!(get(port, &invoke("orders")).status, 200);
    eventually("it is ready", || states(&place).contains(&("orders".into(), "ready".into())));
    call(port, "PUT /v1.0/metadata/colour", &[], "blue");

    // Served otherwise: at another port, with another app. What clients said of it stays.
    let other = free_port();
    let mut kept = Connection::open(caller).unwrap();
    assert_eq!(add(other, second.port).code, 0);
    assert_eq!(kept.get(&invoke("orders")).unwrap().0, 200);
    assert!(second.has_request());
    assert!(get(other, "/v1.0/metadata").body.contains("blue"));
    eventually("the old port is closed", || try_call(port, "GET /", &[], "").is_err());

    let refused = add(caller, first.port);
    assert_eq!(refused.code, 1);
    assert!(refused.output.contains("could not listen on any endpoint"), "{}", refused.output);
    assert_eq!(get(caller, &invoke("orders")).status, 200, "as it was");
    let refused = place.finish(&["node", "add", "--id", "a.b", "--http-port", "1"]);
    assert!(refused.output.contains("parameter app-id cannot contain dots"), "{}", refused.output);

    succeed(&place, &["node", "remove", "orders"]);
    assert_eq!(get(caller, &invoke("orders")).status, 500);
    eventually("its port is closed", || try_call(other, "GET /", &[], "").is_err());
    assert_eq!(place.files("apps").len(), 1);
    let again = place.finish(&["node", "remove", "orders"]);
    assert_eq!(again.code, 1);
    assert!(again.output.contains("app default/orders is not served here"), "{}", again.output);
    // Its port is free for the next one.
    assert_eq!(add(other, first.port).code, 0);
    assert_eq!(get(other, &invoke("orders")).status, 200);
}

/// The id of the app whose port this is.
fn id_at(port: u16) -> String {
    let metadata: serde_json::Value =
        serde_json::from_str(&get(port, "/v1.0/metadata").body).unwrap();
    metadata["id"].as_str().unwrap().to_owned()
}

#[test]
fn apps_that_swap_their_ports_get_each_others() {
    let place = Place::new();
    let ports = [free_port(), free_port(), free_port()];
    let file = |order: [usize; 3], more: &str| {
        let app = |id: &str, at: usize| format!("- {{id: {id}, http-port: {}", ports[at]);
        let [a, b, c] = order;
        format!("{HEAD}apps:\n{}}}\n{}}}\n{}{more}}}\n", app("a", a), app("b", b), app("c", c))
    };
    let node_file = NodeFile::new(&place, &file([0, 1, 2], ""));
    let mut node = node_file.start(&place);
    node.wait_for("Node shop serves 3 apps");
    let is_enough = Arc::new(AtomicBool::new(false));
    let clients = ports.map(|port| {
        let is_enough = Arc::clone(&is_enough);
        thread::spawn(move || {
            let mut refused = 0;
            while !is_enough.load(Ordering::Relaxed) {
                refused += usize::from(try_call(port, "GET /v1.0/healthz", &[], "").is_err());
            }
            refused
        })
    });
    for order in [[1, 0, 2], [1, 2, 0], [0, 1, 2], [2, 0, 1]] {
        node_file.replace(&file(order, ""));
        succeed(&place, &["node", "reload"]);
        let ids = order.map(|at| id_at(ports[at]));
        assert_eq!(ids, ["a", "b", "c"], "{order:?}");
    }
    // One that cannot be had keeps its port, and so do those that wanted it.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let public = taken.local_addr().unwrap().port();
    let more = format!(", public-port: {public}, public-listen-address: 127.0.0.1");
    node_file.replace(&file([2, 1, 0], &more));
    node.wait_for("App default/c cannot be served so: cannot listen on 127.0.0.1:");
    let line = node.wait_for("App default/b cannot be served so");
    assert!(line.contains(&format!("127.0.0.1:{} stays with the app that has it", ports[1])));
    assert_eq!([2, 0, 1].map(|at| id_at(ports[at])), ["a", "b", "c"]);
    is_enough.store(true, Ordering::Relaxed);
    let refused = clients.map(|client| client.join().unwrap());
    assert_eq!(refused, [0; 3], "connections refused, by port");
}

#[test]
fn a_changed_file_is_in_force_and_a_broken_one_changes_nothing() {
    let place = Place::new();
    let app = App::start();
    let (a, b) = (free_port(), free_port());
    let one = format!("{HEAD}apps:\n- {{id: a, http-port: {a}, address: {}}}\n", app.port);
    let file = NodeFile::new(&place, &one);
    let mut node = file.start(&place);
    node.wait_for("Node shop serves 1 apps");
    let two = format!("{one}- {{id: b, http-port: {b}, address: {}}}\n", app.port);
    file.replace(&two);
    eventually("the second one is served", || status_of(a, &invoke("b")) == 200);

    file.replace(&format!("{two}- {{id: c.d, http-port: 1}}\n- {{id: e, htp-port: 2}}\n"));
    node.wait_for("what was in force stays");
    assert_eq!(get(b, &invoke("a")).status, 200);
    let broken = place.finish(&["node", "reload"]);
    assert_eq!(broken.code, 1);
    for want in ["node.yaml:7:8: id: parameter app-id cannot contain dots", "is it \"http-port\"?"]
    {
        assert!(broken.output.contains(want), "{}", broken.output);
    }

    // Without an event of the directory, by signal.
    file.replace(&one);
    node.wait_for("Node's file reloaded: 1 apps");
    eventually("the second one is gone", || status_of(a, &invoke("b")) == 500);
    node.signal(Signal::HUP);
    node.wait_for("reading configuration anew");
    assert_eq!(get(a, &invoke("a")).status, 200);
    succeed(&place, &["node", "reload"]);

    let broken = NodeFile::new(&place, "apps: [{id: x}, {id: x}]");
    let refused = broken.start(&place).wait();
    assert_eq!(refused.code, 1);
    assert!(refused.output.contains("stands here a second time"), "{}", refused.output);
}

#[test]
fn an_app_that_is_removed_loses_no_call_that_must_not_be_repeated() {
    let place = Place::new();
    let (stays, comes) = (MortalApp::start(), MortalApp::start());
    let mut node = NodeFile::new(&place, HEAD).start(&place);
    node.wait_for("Node shop serves 0 apps");
    let (_sidecar, _) = place.sidecar("checkout", Some(stays.port), &[]);
    let (_caller, port) = place.sidecar("caller", None, &[]);
    eventually("the app is known", || status_of(port, &invoke("checkout")) == 200);
    let loads: Vec<Load> = (0..6).map(|_| Load::posting(port, "checkout")).collect();
    let (http_port, address) = (free_port().to_string(), comes.port.to_string());
    let add = ["node", "add", "--id", "checkout", "--http-port", &http_port, "--address", &address];
    for _ in 0..4 {
        let called = comes.calls_of("caller");
        succeed(&place, &add);
        eventually("it is called", || comes.calls_of("caller") > called);
        succeed(&place, &["node", "remove", "checkout"]);
    }
    let calls: usize = loads.into_iter().map(Load::assert_none_failed).sum();
    println!("{calls} calls while an app came and went");
}

#[test]
fn tokens_and_configurations_of_its_apps_are_in_force_when_they_change() {
    let place = Place::new();
    let (a, b, c) = (free_port(), free_port(), free_port());
    let write = |name: &str, text: &str| {
        let path = place.path().join(name);
        replace(&path, text);
        path.display().to_string()
    };
    let (first, second) = (write("a.token", "one\n"), write("c.token", "one\n"));
    let configuration = write("b.yaml", "spec: {}\n");
    let file = NodeFile::new(
        &place,
        &format!(
            "{HEAD}apps:
- {{id: a, http-port: {a}, token: {{file: {first}}}}}
- {{id: b, http-port: {b}, configuration: {configuration}}}
"
        ),
    );
    let mut node = file.start(&place);
    node.wait_for("Node shop serves 2 apps");
    let added = write("c.yaml", &format!("{{id: c, http-port: {c}, token: {{file: {second}}}}}"));
    succeed(&place, &["node", "add", &added]);
    let status = |port: u16, token: &str| {
        let line = format!("dapr-api-token: {token}");
        call(port, "GET /v1.0/metadata", &[&line], "").status
    };
    for port in [a, c] {
        assert_eq!((status(port, "one"), status(port, "two")), (200, 401));
    }
    assert_eq!(status(b, ""), 200);

    write("a.token", "two\n");
    eventually("another token", || (status(a, "one"), status(a, "two")) == (401, 200));
    write("c.token", "two\n");
    eventually("that of an app that was added", || status(c, "two") == 200);
    write("b.yaml", "spec: {api: {denied: [{name: metadata, version: v1, protocol: http}]}}\n");
    eventually("another Configuration", || status(b, "") == 404);
    write("b.yaml", "spec: {api: nonsense}\n");
    node.wait_for("what was in force stays");
    assert_eq!(status(b, ""), 404);
}

#[test]
fn a_killed_control_is_continued_with_what_was_changed_meanwhile() {
    let place = Place::new();
    let app = App::start();
    let (a, b, c) = (free_port(), free_port(), free_port());
    let file = NodeFile::new(
        &place,
        &format!(
            "{HEAD}apps:\n- {{id: a, http-port: {a}, address: {0}}}\n- {{id: b, http-port: {b}, address: {0}}}\n",
            app.port
        ),
    );
    let mut node = file.start(&place);
    node.wait_for("Node shop serves 2 apps");
    let ports = [c.to_string(), app.port.to_string()];
    succeed(&place, &["node", "add", "--id=c", "--http-port", &ports[0], "--address", &ports[1]]);
    succeed(&place, &["node", "remove", "b"]);
    let before = (place.data_planes(), place.files("apps").len());
    let mut kept = Connection::open(a).unwrap();
    assert_eq!(kept.get(&invoke("c")).unwrap().0, 200);
    node.kill();
    assert_eq!(kept.get(&invoke("c")).unwrap().0, 200);
    assert_eq!(place.files("apps").len(), 2);

    let mut node = file.start(&place);
    node.wait_for("Adopted the running data plane");
    node.wait_for("Node shop serves 2 apps");
    eventually("it answers", || states(&place).len() == 2);
    assert_eq!(kept.get(&invoke("c")).unwrap().0, 200);
    assert_eq!((place.data_planes(), place.files("apps").len()), before);
    assert_eq!(get(a, &invoke("b")).status, 500);
    succeed(&place, &["node", "remove", "c"]);
    assert_eq!(kept.get(&invoke("c")).unwrap().0, 500);

    // A second control of the same node.
    let mut second = file.start(&place);
    let line = second.wait_for("is controlled by process");
    assert!(line.contains(&format!("process {};", node.pid())), "{line}");
}

#[test]
fn a_shutdown_at_one_port_ends_one_app() {
    let place = Place::new();
    let (a, b) = (free_port(), free_port());
    let file = NodeFile::new(
        &place,
        &format!("{HEAD}apps: [{{id: a, http-port: {a}}}, {{id: b, http-port: {b}}}]"),
    );
    let mut node = file.start(&place);
    node.wait_for("Node shop serves 2 apps");
    assert_eq!(call(a, "POST /v1.0/shutdown", &[], "").status, 204);
    eventually("it is gone", || try_call(a, "GET /v1.0/healthz", &[], "").is_err());
    assert_eq!(get(b, "/v1.0/healthz").status, 204);
    assert_eq!(states(&place).len(), 1);
}

fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

fn threads(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).unwrap().count()
}

fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn a_thousand_apps_come_are_called_and_leave_nothing() {
    if !has_descriptors(DESCRIPTORS) {
        return;
    }
    const APPS: usize = 1000;
    let place = Place::new();
    let app = App::start();
    let caller = free_port();
    let one = format!("{HEAD}apps:\n- {{id: caller, http-port: {caller}}}\n");
    let file = NodeFile::new(&place, &one);
    let mut node = file.start(&place);
    node.wait_for("Node shop serves 1 apps");
    eventually("it is ready", || status_of(caller, "/v1.0/healthz") == 204);
    let [data_plane] = place.data_planes()[..] else { panic!("one data plane") };
    let before = [node.pid(), data_plane].map(|pid| (descriptors(pid), threads(pid)));

    let started = Instant::now();
    let app_line = |n: usize| format!("- {{id: app-{n}, http-port: 0, address: {}}}\n", app.port);
    let all: String = one.clone() + &(0..APPS).map(app_line).collect::<String>();
    file.replace(&all);
    node.wait_for(&format!("Node's file reloaded: {} apps", APPS + 1));
    let mut connection = Connection::open(caller).unwrap();
    eventually("the last one is served", || {
        connection.get(&invoke(&format!("app-{}", APPS - 1))).is_ok_and(|(status, _)| status == 200)
    });
    for n in 0..APPS {
        let answer = connection.get(&invoke(&format!("app-{n}"))).unwrap();
        assert_eq!(answer, (200, "/x ".to_owned()), "app-{n}");
    }
    eventually("all are ready", || states(&place).iter().all(|(_, state)| state == "ready"));
    println!("{APPS} apps were served and called after {:?}", started.elapsed());
    println!(
        "control {} KiB, data plane {} KiB resident, {} and {} descriptors",
        resident_kib(node.pid()),
        resident_kib(data_plane),
        descriptors(node.pid()),
        descriptors(data_plane)
    );

    // They are a control's to adopt like any other.
    node.kill();
    assert_eq!(connection.get(&invoke("app-0")).unwrap().0, 200);
    let mut node = file.start(&place);
    node.wait_for(&format!("Node shop serves {} apps", APPS + 1));
    eventually("it answers", || states(&place).iter().all(|(_, state)| state == "ready"));
    assert_eq!(place.data_planes(), [data_plane]);
    assert_eq!(connection.get(&invoke("app-999")).unwrap().0, 200);

    // Nothing polls.
    let quiet = || [node.pid(), data_plane].map(cpu_ticks);
    let mut last = quiet();
    eventually("both are idle", || {
        std::thread::sleep(Duration::from_millis(500));
        let now = quiet();
        std::mem::replace(&mut last, now) == now
    });

    file.replace(&one);
    node.wait_for("Node's file reloaded: 1 apps");
    eventually("none is served", || connection.get(&invoke("app-0")).unwrap().0 == 500);
    drop(connection);
    eventually("their entries are gone", || place.files("apps").len() == 1);
    eventually("their sockets are gone", || place.files("sockets").len() == 1);
    eventually("nothing is left open", || {
        let now = [node.pid(), data_plane].map(|pid| (descriptors(pid), threads(pid)));
        now.iter().zip(before).all(|(now, before)| now.0 <= before.0 + SLACK && now.1 <= before.1)
    });
}

/// Of a node with a thousand apps, and of what runs beside it.
const DESCRIPTORS: u64 = 8192;

/// Descriptors that come and go by themselves: pooled connections, a client that was just here.
const SLACK: usize = 8;
