//! What operators get wrong: each with words that name it, and nothing else harmed.

#![forbid(unsafe_code)]

use crate::support::{Place, eventually, free_port, get, status_of};
use std::{fs, net::TcpListener};

#[test]
fn ids_that_daprd_refuses_are_refused_in_its_words() {
    let place = Place::new();
    let node = |id: &str| {
        fs::write(place.path().join("node.yaml"), format!("apps: [{{id: '{id}'}}]\n")).unwrap();
    };
    for (id, want) in
        [("", "parameter app-id cannot be empty"), ("a.b", "parameter app-id cannot contain dots")]
    {
        let sidecar = place.finish(&["sidecar", "--app-id", id]);
        assert_eq!(sidecar.code, 1, "{id:?}: {}", sidecar.output);
        assert!(sidecar.output.contains("level=fatal"), "{id:?}: {}", sidecar.output);
        assert!(sidecar.output.contains(want), "{id:?}: {}", sidecar.output);
        node(id);
        let node = place.finish(&["node", "--config", "node.yaml"]);
        assert_eq!(node.code, 1, "{id:?}: {}", node.output);
        assert!(node.output.contains(want), "{id:?}: {}", node.output);
    }
}

#[test]
fn one_id_twice_on_a_node_is_refused_with_both_places() {
    let place = Place::new();
    let file = "name: shop\napps:\n- {id: a, http-port: 3501}\n- {id: a, http-port: 3502}\n\
        - {id: a, namespace: prod, http-port: 3501}\n";
    fs::write(place.path().join("node.yaml"), file).unwrap();
    let node = place.finish(&["node", "--config", "node.yaml"]);
    assert_eq!(node.code, 1, "{}", node.output);
    for want in [
        "node.yaml:4:3: a: app default/a stands here a second time, after line 3 column 3",
        "node.yaml:5:3: a: port 3501 is that of app default/a already",
    ] {
        assert!(node.output.contains(want), "{want} in {}", node.output);
    }
}

#[test]
fn a_port_in_use_is_told_with_the_process_that_holds_it() {
    let place = Place::new();
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port();
    let pid = std::process::id();
    let name = fs::read_to_string("/proc/self/comm").unwrap();
    let want = format!("; the port is held by process {pid} ({})", name.trim_end());
    let mut sidecar = place.sidecar_at(port, "orders", None, &[]);
    let line = sidecar.wait_for("trying again for");
    assert!(line.contains(&format!("cannot listen on 127.0.0.1:{port}: ")), "{line}");
    assert!(line.contains(&want), "{line}");
    // It is not the end: the port is taken when it is free.
    drop(holder);
    sidecar.wait_for("dapr initialized. Status: Running.");
    assert_eq!(status_of(port, "/v1.0/healthz"), 204);
}

#[test]
fn rows_that_point_at_ourselves_lead_nowhere() {
    let place = Place::new();
    fs::write(place.path().join("apps.yaml"), "[]\n").unwrap();
    let text = "spec: {nameResolution: {component: file, configuration: {path: apps.yaml}}}\n";
    fs::write(place.path().join("c.yaml"), text).unwrap();
    let (_caller, port) = place.sidecar("caller", None, &["--config=c.yaml"]);
    let peer = place.files("sockets").into_iter().find(|name| name.ends_with(".peer")).unwrap();
    let peer = place.path().join("run/sockets").join(peer);
    let closed = free_port();
    let rows = format!(
        "- {{id: ghost, endpoints: ['unix:{0}']}}\n- {{id: caller, endpoints: ['127.0.0.1:{closed}']}}\n\
         - {{id: other, endpoints: ['127.0.0.1:{closed}']}}\n",
        peer.display()
    );
    let new = place.path().join("new");
    fs::write(&new, rows).unwrap();
    fs::rename(new, place.path().join("apps.yaml")).unwrap();
    let body = |id: &str| get(port, &format!("/v1.0/invoke/{id}/method/x")).body;
    eventually("the file is read", || !body("other").contains("couldn't find service"));
    assert!(body("ghost").contains("couldn't find service: ghost"), "{}", body("ghost"));
    // The app itself takes no calls, wherever a row says it is.
    assert!(!body("caller").contains("couldn't find service"), "{}", body("caller"));
}
