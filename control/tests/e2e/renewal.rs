//! Registries that change while calls are made.

#![forbid(unsafe_code)]

use crate::support::{
    App, Load, Place, Process, Server, eventually, free_port, get, replace, status_of,
};
use rustix::process::Signal;
use std::path::Path;

const CALL: &str = "/v1.0/invoke/orders/method/x";

const LOOPBACK: &str = "--dapr-internal-grpc-listen-address=127.0.0.1";

/// A Configuration with these registries.
fn configure(place: &Place, components: &str) {
    let text = format!("kind: Configuration\nspec: {{nameResolution: [{components}]}}\n");
    replace(&place.path().join("c.yaml"), &text);
}

fn file_registry(path: &Path) -> String {
    format!("{{component: file, configuration: {{path: '{}'}}}}", path.display())
}

fn etcd_registry(etcd: &Server) -> String {
    let endpoint = format!("http://127.0.0.1:{}", etcd.port);
    format!("{{component: etcd, configuration: {{endpoints: '{endpoint}', leaseTTL: 2s}}}}")
}

/// An app elsewhere that nobody told of, and a file that does.
fn orders(there: &Place, app: &App, list: &Path) -> Process {
    configure(there, "{component: local}");
    let flags = ["--config=c.yaml", LOOPBACK];
    let (callee, _) = there.sidecar("orders", Some(app.port), &flags);
    let peer = there.files("sockets").into_iter().find(|name| name.ends_with(".peer")).unwrap();
    let peer = there.path().join("run/sockets").join(peer);
    replace(list, &format!("- {{id: orders, endpoints: ['unix:{}']}}\n", peer.display()));
    callee
}

#[test]
fn a_sidecar_follows_other_registries_without_a_lost_call() {
    let Some(mut etcd) = Server::etcd() else { return };
    let (here, there) = (Place::new(), Place::new());
    let (app, metrics) = (App::start(), free_port());
    let list = here.path().join("apps.yaml");
    let mut callee = orders(&there, &app, &list);
    configure(&here, &file_registry(&list));
    let metrics_flag = format!("--metrics-port={metrics}");
    let flags = ["--config=c.yaml", LOOPBACK, &metrics_flag];
    let (mut caller, port) = here.sidecar("caller", None, &flags);
    eventually("the app is known", || status_of(port, CALL) == 200);
    let loads = [true, false].map(|keeps| Load::start(port, "orders", keeps));

    // Away at first: the file's rows stay for a while.
    configure(&here, &etcd_registry(&etcd));
    caller.wait_for("Internal server is running on 127.0.0.1:");
    caller.wait_for("Other registries are followed from now on");
    etcd.start();
    configure(&there, &etcd_registry(&etcd));
    callee.wait_for("Internal server is running on 127.0.0.1:");
    caller.wait_for("Registries that were left are forgotten");
    let page = get(metrics, "/").body;
    assert!(page.contains("ringcar_registry_up{registry=\"etcd\"} 1\n"), "{page}");
    assert!(!page.contains("registry=\"file\""), "{page}");
    replace(&list, "[]\n");
    assert_eq!(status_of(port, CALL), 200, "nobody reads the file any more");

    // What cannot be watched leaves all as it was.
    configure(&here, &file_registry(&here.path().join("none/apps.yaml")));
    let line = caller.wait_for("Registries are not changed");
    assert!(line.contains("must be a directory that exists"), "{line}");
    assert_eq!(status_of(port, CALL), 200);
    loads.into_iter().for_each(|load| assert!(load.assert_none_failed() > 0));

    // Left without another one: the app is forgotten, and so are we.
    configure(&here, &file_registry(&list));
    caller.signal(Signal::HUP);
    caller.wait_for("Registries that were left are forgotten");
    eventually("nobody knows the app", || status_of(port, CALL) == 500);
    callee.signal(Signal::TERM);
    assert_eq!(callee.wait().code, 0);
    caller.signal(Signal::TERM);
    assert_eq!(caller.wait().code, 0);
}

#[test]
fn a_node_follows_other_registries_without_a_lost_call() {
    let Some(mut etcd) = Server::etcd() else { return };
    etcd.start();
    eventually("etcd has a leader", || etcd.is_ready());
    let (here, there) = (Place::new(), Place::new());
    let (app, port, other) = (App::start(), free_port(), free_port());
    let list = here.path().join("apps.yaml");
    let mut callee = orders(&there, &app, &list);
    configure(&here, &file_registry(&list));
    let file = format!(
        "name: shop\nenable-metrics: false\nconfiguration: c.yaml\ndefaults: {{listen-addresses: 127.0.0.1, \
         internal-listen-address: 127.0.0.1}}\napps: [{{id: caller, http-port: {port}}}, {{id: other, http-port: {other}}}]\n"
    );
    replace(&here.path().join("node.yaml"), &file);
    let mut node = here.start(&["node", "--config", "node.yaml"]);
    node.wait_for("Node shop serves 2 apps");
    eventually("the app is known", || status_of(port, CALL) == 200);
    let loads = [true, false].map(|keeps| Load::start(port, "orders", keeps));
    configure(&there, &etcd_registry(&etcd));
    callee.wait_for("Internal server is running on 127.0.0.1:");
    // Later than SETTLE_TIMEOUT after the node's change its calls would be lost, as they should.
    eventually("the callee is in etcd", || etcd.row_count() == 1);
    configure(&here, &etcd_registry(&etcd));
    node.wait_for("Other registries are followed from now on");
    node.wait_for("Registries that were left are forgotten");
    replace(&list, "[]\n");
    assert_eq!(status_of(port, CALL), 200, "nobody reads the file any more");
    loads.into_iter().for_each(|load| assert!(load.assert_none_failed() > 0));
    // The node's apps are known to others, too.
    let (_sidecar, back) = there.sidecar("back", None, &["--config=c.yaml", LOOPBACK]);
    eventually("a call arrives at an app that takes none", || {
        get(back, "/v1.0/invoke/caller/method/x").body.contains("channel")
    });
}
