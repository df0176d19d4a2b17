//! What operators get wrong: each with words that name it, and nothing else harmed.

#![forbid(unsafe_code)]

use crate::support::{App, Place, Process, call, eventually, free_port, get, replace, status_of};
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
    replace(&place.path().join("apps.yaml"), &rows);
    let body = |id: &str| get(port, &format!("/v1.0/invoke/{id}/method/x")).body;
    eventually("the file is read", || !body("other").contains("couldn't find service"));
    assert!(body("ghost").contains("couldn't find service: ghost"), "{}", body("ghost"));
    // The app itself takes no calls, wherever a row says it is.
    assert!(!body("caller").contains("couldn't find service"), "{}", body("caller"));
}

#[test]
fn files_that_would_harm_are_refused_and_what_was_in_force_stays() {
    let place = Place::new();
    let app = App::start();
    let resources = place.path().join("resources");
    fs::create_dir(&resources).unwrap();
    let (configuration, policies) = (place.path().join("c.yaml"), resources.join("r.yaml"));
    let denied = "spec: {api: {denied: [{name: shutdown, version: v1, protocol: http}]}}\n";
    replace(&configuration, denied);
    let resource = |policies: &str| {
        format!("kind: Resiliency\nmetadata: {{name: r}}\nspec: {{policies: {policies}}}\n")
    };
    replace(&policies, &resource("{timeouts: {t: 5s}}"));
    let flags = ["--config=c.yaml", "--resources-path=resources"];
    let (mut sidecar, port) = place.sidecar("orders", Some(app.port), &flags);
    let levels: String = ('b'..='z')
        .map(|next| {
            format!("{next}: &{next} [{}]\n", vec![format!("*{}", prior(next)); 9].join(", "))
        })
        .collect();
    let bomb = format!("a: &a [x, x, x, x, x, x, x, x, x]\n{levels}spec: *z\n");
    let deep = format!("spec: {}1{}\n", "[".repeat(20_000), "]".repeat(20_000));
    for (case, path, text, good, want) in [
        ("a bomb", &configuration, bomb.clone(), denied.to_owned(), "c.yaml:"),
        ("a deep one", &configuration, deep, denied.to_owned(), "c.yaml:"),
        ("a bomb of policies", &policies, bomb, resource("{timeouts: {t: 5s}}"), "r.yaml:"),
        (
            "an endless retry without a pause",
            &policies,
            resource("{retries: {endless: {duration: 1ns}}}"),
            resource("{timeouts: {t: 6s}}"),
            "or at least 1ms",
        ),
        (
            "a breaker that divides by zero",
            &policies,
            resource("{circuitBreakers: {zero: {trip: totalFailures / 0 > 1}}}"),
            resource("{timeouts: {t: 7s}}"),
            "divides by zero",
        ),
    ] {
        replace(path, &text);
        let line = sidecar.wait_for("what was in force stays");
        assert!(line.contains(want), "{case}: {line}");
        assert_eq!(call(port, "POST /v1.0/shutdown", &[], "").status, 404, "{case}");
        assert_eq!(get(port, "/v1.0/invoke/orders/method/x").status, 200, "{case}");
        replace(path, &good);
        sidecar.wait_for("Configuration reloaded");
    }
}

fn prior(letter: char) -> char {
    char::from_u32(u32::from(letter) - 1).unwrap()
}

#[test]
fn hostile_requests_are_refused_and_the_next_one_is_served() {
    let place = Place::new();
    let app = App::start();
    let port = free_port();
    let ports = [port.to_string(), app.port.to_string()];
    let mut command = place.ringcar(&[
        "sidecar",
        "--app-id=orders",
        "--dapr-http-port",
        &ports[0],
        "--app-port",
        &ports[1],
        "--dapr-listen-addresses=127.0.0.1",
        "--enable-metrics=false",
    ]);
    let mut sidecar = Process::start(command.env("DAPR_API_TOKEN", "s3cret"));
    sidecar.wait_for("dapr initialized. Status: Running.");
    let path = "GET /v1.0/invoke/orders/method/x";
    let right = "dapr-api-token: s3cret".to_owned();
    let flood: Vec<String> = (0..120).map(|number| format!("X-{number}: y")).collect();
    let cases: Vec<(&str, Vec<String>, u16)> = vec![
        ("no token", vec![], 401),
        ("an empty one", vec!["dapr-api-token:".into()], 401),
        ("a part of it", vec!["dapr-api-token: s3cre".into()], 401),
        ("more than it", vec!["dapr-api-token: s3crets3cret".into()], 401),
        ("a long one", vec![format!("dapr-api-token: {}", "s".repeat(50_000))], 401),
        ("no text", vec!["dapr-api-token: s3cret\u{7f}".into()], 400),
        ("a wrong one first", vec!["dapr-api-token: x".into(), right.clone()], 401),
        ("a folded one", vec!["dapr-api-token: s3\r\n cret".into()], 400),
        ("as another's", vec!["app-api-token: s3cret".into()], 401),
        ("a flood of lines", [vec![right.clone()], flood].concat(), 431),
        ("a line without end", vec![right.clone(), format!("X: {}", "y".repeat(100_000))], 431),
    ];
    for (case, lines, want) in cases {
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        assert_eq!(call(port, path, &lines, "").status, want, "{case}");
        assert_eq!(call(port, path, &[&right], "").status, 200, "after {case}");
    }
}
