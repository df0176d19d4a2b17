//! Which of an app's instances is called: as the caller's flags say, over real sidecars.

#![forbid(unsafe_code)]

use crate::{
    registries::{CALL, config},
    support::{App, Connection, Place, Process, eventually, free_port, get},
};
use rustix::process::Signal;
use std::{fs, path::PathBuf};

/// An instance of `orders` on a machine of its own, which another one knows by its socket only.
struct Elsewhere {
    place: Place,
    process: Process,
    app: App,
}

impl Elsewhere {
    fn start() -> Self {
        let (place, app) = (Place::new(), App::start());
        // It must not be outlived by its data plane: whoever kills it wants it gone.
        let (process, _) = place.sidecar("orders", Some(app.port), &["--keep-data-plane=0s"]);
        Self { place, process, app }
    }

    fn socket(&self) -> PathBuf {
        let name = self.place.files("sockets").into_iter().find(|name| name.ends_with(".peer"));
        self.place.path().join("run/sockets").join(name.unwrap())
    }
}

/// Calls one after the other on one connection, and so on one worker; none may fail.
fn call_often(client: &mut Connection, count: usize) {
    for _ in 0..count {
        assert_eq!(client.get(CALL).unwrap(), (200, "/x ".to_owned()));
    }
}

fn knows(client: &mut Connection) -> bool {
    client.get(CALL).is_ok_and(|(status, _)| status == 200)
}

fn counter(port: u16, name: &str) -> f64 {
    let page = get(port, "/").body;
    let value = page.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    value.unwrap_or_else(|| panic!("no {name} in {page}")).parse().unwrap()
}

#[test]
fn calls_stay_in_their_zone_until_nobody_there_takes_them() {
    let (near, far) = (Elsewhere::start(), Elsewhere::start());
    let here = Place::new();
    let list = here.path().join("apps.yaml");
    let line = |of: &Elsewhere, zone: &str| {
        format!("{{address: 'unix:{}', zone: {zone}}}", of.socket().display())
    };
    let endpoints = [line(&far, "hamburg"), line(&near, "berlin")].join(", ");
    fs::write(&list, format!("- {{id: orders, endpoints: [{endpoints}]}}\n")).unwrap();
    let flag =
        config(&here, &format!("component: file\nconfiguration: {{path: {}}}", list.display()));
    let metrics = free_port();
    let flags = [&flag, "--zone=berlin", &format!("--metrics-port={metrics}")];
    let (_caller, port) = here.sidecar("caller", None, &flags);
    let mut client = Connection::open(port).unwrap();
    eventually("the app is known", || knows(&mut client));
    call_often(&mut client, 40);
    assert_eq!(far.app.take_calls(), 0, "the zone is healthy");
    assert!(near.app.take_calls() >= 40);

    let Elsewhere { process, app, place: _place } = near;
    process.signal(Signal::KILL);
    process.kill();
    call_often(&mut client, 40);
    assert_eq!((app.take_calls(), far.app.take_calls()), (0, 40));
    assert!(counter(metrics, "ringcar_endpoint_ejections_total") >= 1.0);
}

#[test]
fn sidecars_of_one_machine_tell_each_other_their_zones() {
    let place = Place::new();
    let start = |zone: &str| {
        let app = App::start();
        let flags = [&*format!("--zone={zone}"), "--keep-data-plane=0s"];
        let (process, _) = place.sidecar("orders", Some(app.port), &flags);
        (app, process)
    };
    let ((near, process), (far, _far)) = (start("rack-1"), start("rack-2"));
    let (_caller, port) = place.sidecar("caller", None, &["--zone=rack-1"]);
    let mut client = Connection::open(port).unwrap();
    eventually("the app is known", || knows(&mut client));
    call_often(&mut client, 40);
    assert_eq!(far.take_calls(), 0);
    assert!(near.take_calls() >= 40);
    process.kill();
    call_often(&mut client, 40);
    assert!(far.take_calls() >= 40);
}

#[test]
fn turns_are_taken_exactly_where_that_is_asked_for() {
    let callees = [Elsewhere::start(), Elsewhere::start(), Elsewhere::start()];
    let here = Place::new();
    let list = here.path().join("apps.yaml");
    let line = |of: &Elsewhere| format!("'unix:{}'", of.socket().display());
    let endpoints = callees.each_ref().map(line).join(", ");
    fs::write(&list, format!("- {{id: orders, endpoints: [{endpoints}]}}\n")).unwrap();
    let flag =
        config(&here, &format!("component: file\nconfiguration: {{path: {}}}", list.display()));
    let shares = |port: u16| {
        let mut client = Connection::open(port).unwrap();
        eventually("the app is known", || knows(&mut client));
        for callee in &callees {
            callee.app.take_calls();
        }
        call_often(&mut client, 60);
        callees.each_ref().map(|callee| callee.app.take_calls())
    };
    let (_caller, port) = here.sidecar("caller", None, &[&flag, "--balance=round-robin"]);
    assert_eq!(shares(port), [20; 3]);

    // The same of an app of a node, in its file.
    let port = free_port();
    let node = here.path().join("node.yaml");
    let text = format!(
        "name: shop\nenable-metrics: false\nconfiguration: {}\n\
         defaults: {{listen-addresses: 127.0.0.1, balance: round-robin}}\n\
         apps: [{{id: other, http-port: {port}}}]\n",
        flag.trim_start_matches("--config=")
    );
    fs::write(&node, text).unwrap();
    let mut node = here.start(&["node", "--config", node.to_str().unwrap()]);
    node.wait_for("Node shop serves 1 apps");
    assert_eq!(shares(port), [20; 3]);
}
