//! `ringcar check`: each line with its remedy, and a code that scripts can act on.

#![forbid(unsafe_code)]

use crate::support::{App, Place, free_port};
use serde_json::Value;
use std::net::TcpListener;

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
