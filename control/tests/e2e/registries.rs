//! Sidecars that share nothing but a registry find each other: two places stand for two machines.

#![forbid(unsafe_code)]

use crate::support::{
    App, Place, Process, Server, call, eventually, eventually_in, free_port, get, has_descriptors,
    replace, status_of,
};
use rustix::process::Signal;
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

pub(crate) const CALL: &str = "/v1.0/invoke/orders/method/x";

/// Writes a configuration with these lines below `nameResolution`, and returns the flag for it.
pub(crate) fn config(place: &Place, lines: &str) -> String {
    let lines: String = lines.lines().map(|line| format!("    {line}\n")).collect();
    let text = format!("kind: Configuration\nspec:\n  nameResolution:\n{lines}");
    let path = place.path().join("config.yaml");
    fs::write(&path, text).unwrap();
    format!("--config={}", path.display())
}

pub(crate) const LOOPBACK: &str = "--dapr-internal-grpc-listen-address=127.0.0.1";

pub(crate) fn is_unknown(port: u16) -> bool {
    let answer = get(port, CALL);
    answer.status == 500 && answer.body.contains("couldn't find service: orders")
}

#[test]
fn an_app_in_a_file_is_called_until_it_is_taken_out() {
    let (here, there) = (Place::new(), Place::new());
    let app = App::start();
    let (_callee, _) = there.sidecar("orders", Some(app.port), &[]);
    let peer = there.files("sockets").into_iter().find(|name| name.ends_with(".peer")).unwrap();
    let peer = there.path().join("run/sockets").join(peer);
    let list = here.path().join("apps.yaml");
    let flag =
        config(&here, &format!("component: file\nconfiguration: {{path: {}}}", list.display()));
    let metrics = free_port();
    let (mut caller, port) =
        here.sidecar("caller", None, &[&flag, &format!("--metrics-port={metrics}")]);
    assert!(is_unknown(port));
    assert!(get(metrics, "/").body.contains("ringcar_registry_up{registry=\"file\"} 0\n"));
    replace(&list, &format!("- {{id: orders, endpoints: ['unix:{}']}}\n", peer.display()));
    eventually("the app is known", || status_of(port, CALL) == 200);
    replace(&list, "- {id: orders, endpoints: ['unix:relative']}\n");
    caller.wait_for("apps.yaml: line 1 column 28: the path of \\\"unix:relative\\\" must start");
    assert_eq!(get(port, CALL).status, 200, "the last good table stays");
    let page = get(metrics, "/").body;
    assert!(page.contains("ringcar_registry_up{registry=\"file\"} 0\n"), "{page}");
    assert!(page.contains("ringcar_registry_table_age_seconds{registry=\"file\"} 0."), "{page}");
    replace(&list, "[]\n");
    eventually("the app is not known any more", || is_unknown(port));
    assert!(get(metrics, "/").body.contains("ringcar_registry_up{registry=\"file\"} 1\n"));
}

#[test]
fn two_machines_meet_in_etcd() {
    let Some(mut etcd) = Server::etcd() else { return };
    let (here, there) = (Place::new(), Place::new());
    let lines = format!(
        "component: etcd\nconfiguration: {{endpoints: 'http://127.0.0.1:{}', leaseTTL: 2s}}",
        etcd.port
    );
    let app = App::start();
    // The registry is away when both start, and neither minds.
    let flags = [&config(&there, &lines), LOOPBACK];
    let (mut callee, _) = there.start_sidecar("orders", Some(app.port), &flags);
    callee.wait_for("etcd: cannot connect to http://127.0.0.1:");
    callee.wait_for("dapr initialized. Status: Running.");
    let (mut caller, port) = here.sidecar("caller", None, &[&config(&here, &lines), LOOPBACK]);
    assert!(is_unknown(port));
    etcd.start();
    eventually("the app is known", || status_of(port, CALL) == 200);
    caller.wait_for("etcd: is back after");

    // While it stands still the last table is in force.
    etcd.signal(Signal::STOP);
    assert_eq!(get(port, CALL).status, 200);
    etcd.signal(Signal::CONT);

    // A goodbye is heard at once, a kill when the lease is over.
    end_of(callee, Signal::TERM, port);
    let app_port = Some(app.port);
    let (again, _) = there.sidecar("orders", app_port, &[&config(&there, &lines), LOOPBACK]);
    eventually("the next one is known", || status_of(port, CALL) == 200);
    end_of(again, Signal::KILL, port);
}

#[test]
fn control_that_comes_back_while_etcd_is_away_takes_nobody_away() {
    let Some(mut etcd) = Server::etcd() else { return };
    etcd.start();
    let (here, there) = (Place::new(), Place::new());
    let lines =
        format!("component: etcd\nconfiguration: {{endpoints: 'http://127.0.0.1:{}'}}", etcd.port);
    let app = App::start();
    let (callee, _) = there.sidecar("orders", Some(app.port), &[&config(&there, &lines), LOOPBACK]);
    let flag = config(&here, &lines);
    let (caller, port) = here.sidecar("caller", None, &[&flag, LOOPBACK]);
    eventually("the app is known", || status_of(port, CALL) == 200);
    etcd.stop();
    for _ in 0..3 {
        caller.signal(Signal::KILL);
        let mut next = here.sidecar_at(port, "caller", None, &[&flag, LOOPBACK]);
        next.wait_for("Adopted the running data plane");
        next.wait_for("etcd: cannot connect to http://127.0.0.1:");
        assert_eq!(get(port, CALL).status, 200, "what was known last stays");
        drop(next);
    }
    // What is gone by then goes when the registry is read.
    let _next = here.sidecar_at(port, "caller", None, &[&flag, LOOPBACK]);
    callee.kill();
    drop(there);
    etcd.forget();
    etcd.start();
    eventually("it is gone", || is_unknown(port));
}

#[test]
fn a_node_has_one_lease_for_all_its_apps() {
    if !has_descriptors(DESCRIPTORS) {
        return;
    }
    const APPS: usize = 1000;
    /// Other tests may be doing the same.
    const PATIENCE: Duration = Duration::from_secs(180);
    let Some(mut etcd) = Server::etcd() else { return };
    etcd.start();
    eventually("etcd answers", || etcd.is_ready());
    let (here, there) = (Place::new(), Place::new());
    // None runs out while this test runs.
    let settings = format!("{{endpoints: '{}', leaseTTL: 1h}}", etcd.url());
    let lines = format!("component: etcd\nconfiguration: {settings}");
    let flag = config(&there, &lines);
    let app = App::start();
    let head = "name: shop\nenable-metrics: false\ndefaults: {listen-addresses: 127.0.0.1}\n";
    let configuration = flag.strip_prefix("--config=").unwrap();
    let line = |n: usize| {
        format!(
            "- {{id: app-{n}, http-port: 0, address: {}, internal-listen-address: 127.0.0.1}}\n",
            app.port
        )
    };
    let apps: String = (0..APPS).map(line).collect();
    let path = there.path().join("node.yaml");
    fs::write(&path, format!("{head}configuration: {configuration}\napps:\n{apps}")).unwrap();
    let began = Instant::now();
    let mut node = there.start(&["node", "--config", path.to_str().unwrap()]);
    node.wait_longer_for(PATIENCE, &format!("Node shop serves {APPS} apps"));
    eventually_in(PATIENCE, "all are registered", || etcd.row_count() == APPS as u64);
    println!("{APPS} apps were registered after {:?}", began.elapsed());
    assert_eq!(etcd.lease_count(), 1);
    let killed = etcd.leases_of_rows();
    assert_eq!(connections_to(node.pid(), etcd.port), 2, "one that reads, one that writes");

    let (_caller, port) = here.sidecar("caller", None, &[&config(&here, &lines), LOOPBACK]);
    let call = |n: usize| status_of(port, &format!("/v1.0/invoke/app-{n}/method/x"));
    eventually("they are known elsewhere", || call(7) == 200 && call(APPS - 1) == 200);
    let rows = APPS as u64 + 1;
    eventually("the caller is registered, too", || etcd.row_count() == rows);
    assert_eq!(there.finish(&["node", "remove", "app-7"]).code, 0);
    eventually("its row is gone", || etcd.row_count() == rows - 1);
    eventually("callers know that", || call(7) == 500);
    assert_eq!(call(8), 200);

    // A killed control leaves its lease behind; the next one has its own, for the same rows.
    node.kill();
    let mut node = there.start(&["node", "--config", path.to_str().unwrap()]);
    node.wait_longer_for(PATIENCE, &format!("Node shop serves {} apps", APPS - 1));
    let callers = 1;
    eventually_in(PATIENCE, "it holds all rows", || {
        let leases = etcd.leases_of_rows();
        leases.len() == callers + 1 && leases.is_disjoint(&killed)
    });
    assert_eq!((etcd.lease_count(), etcd.row_count()), (3, rows - 1));
    assert_eq!(call(8), 200);
    node.signal(Signal::TERM);
    assert_eq!(node.wait().code, 0);
    eventually("its rows are gone", || etcd.row_count() == 1);
}

/// Of a node with a thousand apps, and of what runs beside it.
const DESCRIPTORS: u64 = 8192;

/// Connections that a process has to a port of this machine.
fn connections_to(pid: u32, port: u16) -> usize {
    let is_one = |line: &&str| {
        let mut fields = line.split_whitespace().skip(2);
        let (remote, state) = (fields.next().unwrap_or(""), fields.next().unwrap_or(""));
        remote.ends_with(&format!(":{port:04X}")) && state == "01"
    };
    let of_process: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|link| {
            let link = link.to_str()?;
            Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
        })
        .collect();
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap();
    let sockets = table.lines().filter(is_one).filter_map(|line| line.split_whitespace().nth(9));
    sockets.filter(|inode| of_process.iter().any(|own| own == inode)).count()
}

fn end_of(callee: Process, signal: Signal, port: u16) {
    callee.signal(signal);
    eventually("it is gone", || is_unknown(port));
}

#[test]
fn sidecars_of_one_host_meet_in_a_database() {
    let (here, there) = (Place::new(), Place::new());
    let lines = format!(
        "component: sqlite\nconfiguration: {{connectionString: '{}'}}",
        here.path().join("hosts.db").display()
    );
    let app = App::start();
    let (_caller, port) = here.sidecar("caller", None, &[&config(&here, &lines), LOOPBACK]);
    let flags = [&config(&there, &lines), LOOPBACK];
    let (callee, _) = there.sidecar("orders", Some(app.port), &flags);
    eventually("the app is known", || status_of(port, CALL) == 200);
    end_of(callee, Signal::TERM, port);
}

/// The other sidecar says whom it serves, so nothing is delivered to an app that has come to an
/// address since it was written down.
#[test]
fn an_address_that_has_changed_hands_delivers_nothing() {
    let (here, there) = (Place::new(), Place::new());
    let (wrong, right) = (App::start(), App::start());
    let peer = |place: &Place| {
        let name = place.files("sockets").into_iter().find(|name| name.ends_with(".peer"));
        place.path().join("run/sockets").join(name.unwrap())
    };
    let (_billing, _) = there.sidecar("billing", Some(wrong.port), &[]);
    let changed_hands = peer(&there);
    let elsewhere = Place::new();
    let (_orders, _) = elsewhere.sidecar("orders", Some(right.port), &[]);
    let list = here.path().join("apps.yaml");
    let write = |endpoints: &[&Path]| {
        let endpoints: Vec<String> =
            endpoints.iter().map(|path| format!("'unix:{}'", path.display())).collect();
        replace(&list, &format!("- {{id: orders, endpoints: [{}]}}\n", endpoints.join(", ")));
    };
    write(&[&changed_hands, &peer(&elsewhere)]);
    let flag =
        config(&here, &format!("component: file\nconfiguration: {{path: {}}}", list.display()));
    let metrics = free_port();
    let (_caller, port) =
        here.sidecar("caller", None, &[&flag, &format!("--metrics-port={metrics}")]);
    for body in ["1", "2", "3", "4", "5", "6", "7", "8"] {
        let answer = call(port, &format!("POST {CALL}"), &[], body);
        assert_eq!((answer.status, answer.body), (200, format!("/x {body}")));
    }
    write(&[&changed_hands]);
    eventually("only the wrong one is left", || status_of(port, CALL) != 200);
    assert!(is_unknown(port));
    assert!(!wrong.has_request(), "the other app was called");
    let page = get(metrics, "/").body;
    let count = page.lines().find_map(|line| line.strip_prefix("ringcar_misdirected_total "));
    assert!(count.unwrap().parse::<f64>().unwrap() >= 1.0, "{page}");
}

#[test]
fn a_configuration_with_mistakes_names_them_all_and_serves_nothing() {
    let place = Place::new();
    let flag = config(&place, "- component: consul\n- component: file");
    let finished = place.finish(&["sidecar", "--app-id", "a", &flag]);
    assert_eq!(finished.code, 1, "{}", finished.output);
    for want in
        ["error loading configuration: ", ":4:18: component", ":5:18: file: path is missing"]
    {
        assert!(finished.output.contains(want), "no {want:?} in {}", finished.output);
    }
}

#[test]
fn kubernetes_mode_asks_for_names_of_services() {
    let place = Place::new();
    let metrics = free_port();
    let flags = ["--mode=kubernetes", "--config=daprsystem", LOOPBACK];
    let metrics_flag = format!("--metrics-port={metrics}");
    let (mut sidecar, _) =
        place.start_sidecar("caller", None, &[&flags[..], &[&metrics_flag]].concat());
    sidecar.wait_for("--config daprsystem names a resource of the cluster");
    sidecar.wait_for("dapr initialized. Status: Running.");
    let page = get(metrics, "/").body;
    assert!(page.contains("ringcar_registry_up{registry=\"dns\"} 1\n"), "{page}");
}
