//! `ringcar check`: each line with its remedy, and a code that scripts can act on.

#![forbid(unsafe_code)]

use crate::support::{App, Place, Server, free_port};
use serde_json::Value;
use std::{fs, net::TcpListener};

/// The code, and a function from a check's name to its state and words.
fn check(place: &Place, arguments: &[&str]) -> (i32, impl Fn(&str) -> (String, String) + use<>) {
    let arguments = [&["check", "-o", "json", "--enable-metrics=false"], arguments].concat();
    let finished = place.finish(&arguments);
    // The two streams are read side by side, in no order.
    let lines = finished.output.lines().filter(|line| !line.starts_with('❌'));
    let json: String = lines.collect();
    let findings: Value = serde_json::from_str(&json).unwrap_or_else(|e| panic!("{e}: {json}"));
    let of = move |check: &str| {
        let list = findings.as_array().unwrap();
        let found = list.iter().find(|finding| finding["check"] == check);
        let found = found.unwrap_or_else(|| panic!("no {check} in {findings}"));
        let text = |key: &str| found[key].as_str().unwrap().to_owned();
        assert_eq!(found["state"] == "ok", found["remedy"].is_null(), "{found}");
        (text("state"), text("found"))
    };
    (finished.code, of)
}

#[test]
fn succeeds_where_a_sidecar_would_start() {
    let place = Place::new();
    let app = App::start();
    let ports = [free_port().to_string(), app.port.to_string()];
    let (code, of) = check(&place, &["--dapr-http-port", &ports[0], "--app-port", &ports[1]]);
    for name in ["configuration", "runtime directory", "registry local", "api port", "app"] {
        assert_eq!(of(name).0, "ok", "{name}: {}", of(name).1);
    }
    for name in ["kernel", "io_uring", "clock source", "descriptors", "locked memory", "cpu"] {
        assert_ne!(of(name).0, "failure", "{name}: {}", of(name).1);
    }
    assert_eq!(code, 0);
    assert!(!place.path().join("run").exists(), "a check makes nothing");
}

#[test]
fn fails_and_names_who_is_in_the_way() {
    let place = Place::new();
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let arguments = ["--dapr-http-port", &port, "--dapr-listen-addresses", "127.0.0.1"];
    let (code, of) = check(&place, &arguments);
    let (state, words) = of("api port");
    assert_eq!((code, state.as_str()), (1, "failure"), "{words}");
    assert!(words.contains(&format!("held by process {} (", std::process::id())), "{words}");
}

#[test]
fn an_api_socket_in_use_is_a_failure() {
    let place = Place::new();
    let directory = place.path().join("api");
    let arguments = ["--app-id=orders", "--unix-domain-socket", directory.to_str().unwrap()];
    assert_eq!(check(&place, &arguments).1("api socket").0, "ok");
    let mut command = vec!["sidecar", "--enable-metrics=false"];
    command.extend(arguments);
    let mut process = place.start(&command);
    process.wait_for("dapr initialized");
    let (code, of) = check(&place, &arguments);
    assert_eq!((code, of("api socket").0.as_str()), (1, "failure"));
    assert_eq!(of("registry local"), ("ok".to_owned(), "1 sidecars".to_owned()));
}

#[test]
fn a_configuration_that_would_be_refused_fails() {
    let place = Place::new();
    let (code, of) = check(&place, &["--config=none.yaml"]);
    let (state, words) = of("configuration");
    assert_eq!((code, state.as_str()), (1, "failure"));
    assert!(words.contains("none.yaml: no such file or directory"), "{words}");
    let (code, of) = check(&place, &["--app-ssl", "--dapr-http-port", &free_port().to_string()]);
    assert_eq!((code, of("configuration").0.as_str()), (0, "warning"));
}

/// Every finding of a registry: name, state, words.
fn registries(place: &Place, arguments: &[&str]) -> (i32, Vec<[String; 3]>) {
    let http = free_port().to_string();
    let flags = ["check", "-o", "json", "--enable-metrics=false", "--dapr-http-port", &http];
    let finished = place.finish(&[&flags[..], arguments].concat());
    let lines = finished.output.lines().filter(|line| !line.starts_with('❌'));
    let findings: Value = serde_json::from_str(&lines.collect::<String>()).unwrap();
    let text = |finding: &Value| {
        ["check", "state", "found"].map(|key| finding[key].as_str().unwrap().to_owned())
    };
    let all = findings.as_array().unwrap().iter().map(text);
    (finished.code, all.filter(|[name, ..]| name.starts_with("registry ")).collect())
}

#[test]
fn each_registry_is_asked() {
    let (Some(mut etcd), Some(dns)) = (Server::etcd(), Server::dnsmasq("127.0.0.1 a.example\n"))
    else {
        return;
    };
    let place = Place::new();
    let closed = free_port();
    let file = format!(
        "kind: Configuration
spec:
  nameResolution:
  - {{component: file, configuration: {{path: apps.yaml}}}}
  - {{component: sqlite, configuration: {{connectionString: none/hosts.db}}}}
  - component: etcd
    configuration: {{endpoints: '127.0.0.1:{}, 127.0.0.1:{closed}'}}
  - component: dns
    configuration: {{format: '{{id}}.example.:1', servers: ['127.0.0.1:{}', '127.0.0.1:{closed}']}}
",
        etcd.port, dns.port
    );
    fs::write(place.path().join("c.yaml"), file).unwrap();
    fs::write(place.path().join("apps.yaml"), "- {id: a, endpoints: [here]}\n").unwrap();
    let expect = |want: &[(&str, &str, &str)], code: i32| {
        let (got_code, got) = registries(&place, &["--config=c.yaml"]);
        assert_eq!(got.len(), want.len(), "{got:#?}");
        for ([name, state, found], want) in got.iter().zip(want) {
            assert_eq!((&**name, &**state), (want.0, want.1), "{found}");
            assert!(found.contains(want.2), "{} in {found}", want.2);
        }
        assert_eq!(got_code, code);
    };
    let away = format!("127.0.0.1:{closed} does not answer: ");
    let dns_at = format!("127.0.0.1:{} answers, ", dns.port);
    expect(
        &[
            ("registry local", "ok", "0 sidecars"),
            ("registry file", "failure", "apps.yaml:1:23: "),
            ("registry sqlite", "failure", "none/hosts.db cannot be made"),
            ("registry etcd", "failure", "cannot connect to http://127.0.0.1:"),
            ("registry etcd", "failure", "cannot connect to http://127.0.0.1:"),
            ("registry dns", "ok", &dns_at),
            ("registry dns", "warning", &away),
        ],
        1,
    );
    etcd.start();
    fs::write(place.path().join("apps.yaml"), "[]\n").unwrap();
    fs::create_dir(place.path().join("none")).unwrap();
    expect(
        &[
            ("registry local", "ok", "0 sidecars"),
            ("registry file", "ok", "apps.yaml has 0 apps"),
            ("registry sqlite", "ok", "none/hosts.db, to be made"),
            ("registry etcd", "ok", "0 rows under /ringcar/apps/ readable, "),
            // The other one is enough.
            ("registry etcd", "warning", "cannot connect to http://127.0.0.1:"),
            ("registry dns", "ok", &dns_at),
            ("registry dns", "warning", &away),
        ],
        0,
    );
    assert!(!place.path().join("none/hosts.db").exists(), "a check makes nothing");
}

#[test]
fn a_node_is_checked_by_its_file() {
    let place = Place::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let (free, port) = (free_port(), taken.local_addr().unwrap().port());
    let file = format!(
        "name: shop\nenable-metrics: false\ndefaults: {{listen-addresses: 127.0.0.1}}\n\
         apps: [{{id: a, http-port: {free}}}, {{id: b, http-port: {port}}}]\n"
    );
    fs::write(place.path().join("node.yaml"), file).unwrap();
    let finished = place.finish(&["check", "--node", "node.yaml"]);
    assert_eq!(finished.code, 1, "{}", finished.output);
    for want in [
        "node.yaml is sound: node shop with 2 apps",
        &format!("127.0.0.1:{free} is free"),
        &format!("cannot listen on 127.0.0.1:{port}: "),
        &format!("held by process {} (", std::process::id()),
        "1 check failed",
    ] {
        assert!(finished.output.contains(want), "{want} in {}", finished.output);
    }
    fs::write(place.path().join("node.yaml"), "apps: [{id: a.b}]\n").unwrap();
    let finished = place.finish(&["check", "--node", "node.yaml"]);
    assert_eq!(finished.code, 1, "{}", finished.output);
    assert!(finished.output.contains("node.yaml:1:13: id: parameter app-id cannot contain dots"));
}

#[test]
fn the_table_has_a_remedy_below_each_problem() {
    let place = Place::new();
    let port = free_port().to_string();
    let arguments =
        ["check", "--dapr-http-port", &port, "--enable-metrics=false", "-app-port", &port];
    let finished = place.finish(&arguments);
    assert_eq!(finished.code, 1, "{}", finished.output);
    assert!(finished.output.contains("conflicts with 'app-port'"), "{}", finished.output);
    assert!(finished.output.contains("→ ringcar config check"), "{}", finished.output);
}
