//! Configuration files: checked, shown, read at start, read anew.

#![forbid(unsafe_code)]

use crate::support::{App, Place, Process, call, eventually, replace};
use rustix::process::Signal;
use std::fs;

#[test]
fn check_reports_all_problems_with_code_78() {
    let place = Place::new();
    fs::write(place.path().join("good.yaml"), "kind: Configuration\nspec: {}\n").unwrap();
    fs::write(
        place.path().join("bad.yaml"),
        "kind: Configuration\nspec:\n  metric:\n    enabeld: false\n  ringcar: {logLevel: loud}\n",
    )
    .unwrap();
    let good = place.finish(&["config", "check", "good.yaml"]);
    assert_eq!(good.code, 0, "{}", good.output);
    let bad = place.finish(&["config", "check", "good.yaml", "bad.yaml", "none.yaml"]);
    assert_eq!(bad.code, 78, "{}", bad.output);
    for want in [
        "bad.yaml:4:5: spec.metric.enabeld: there is no such key; it is ignored, as with daprd; is it \"enabled\"?",
        "bad.yaml:5:23: spec.ringcar.logLevel: \"loud\" is none of debug, info, warn, error and fatal",
        "none.yaml: stat none.yaml: no such file or directory",
        "2 problems keep a sidecar or a node from starting, 1 would be ignored",
    ] {
        assert!(bad.output.contains(want), "{want} in:\n{}", bad.output);
    }
    assert_eq!(place.finish(&["config", "check"]).code, 2);
}

#[test]
fn check_tells_node_files_and_registries_from_configurations() {
    let place = Place::new();
    let write = |name: &str, text: &str| fs::write(place.path().join(name), text).unwrap();
    write("node.yaml", "name: shop\napps: [{id: a, http-port: 3501}]\n");
    write("apps.yaml", "- {id: a, endpoints: ['10.0.0.1:1']}\n");
    write("c.yaml", "spec: {ringcar: {maxBodySize: ${SIZE}}}\n");
    let mut command = place.ringcar(&["config", "check", "node.yaml", "apps.yaml", "c.yaml"]);
    let good = Process::start(command.env("SIZE", "1Mi")).wait();
    assert_eq!(good.code, 0, "{}", good.output);
    for want in ["node.yaml: node shop with 1 apps", "apps.yaml: a registry of 1 apps"] {
        assert!(good.output.contains(want), "{want} in:\n{}", good.output);
    }
    write(
        "node.yaml",
        "aps: []\nconfiguration: c.yaml\napps: [{id: a.b}, {id: c, http-port: x}]\n",
    );
    write("apps.yaml", "- {id: a, endpoints: [here]}\n- {endpoints: ['10.0.0.1:1']}\n");
    write("c.yaml", "spec: {ringcar: {maxBodySize: 4MB}}\n");
    write("component.yaml", "kind: Component\n");
    write("other.yaml", "version: 3\n");
    let files = ["node.yaml", "apps.yaml", "component.yaml", "other.yaml"];
    let bad = place.finish(&[&["config", "check"][..], &files].concat());
    assert_eq!(bad.code, 78, "{}", bad.output);
    for want in [
        "node.yaml:1:1: aps: there is no such key; is it \"apps\"?",
        "c.yaml:1:31: spec.ringcar.maxBodySize: \"4MB\" is not a quantity",
        "apps.yaml:1:23: ",
        "apps.yaml:2:3: this app has no id",
        "component.yaml:1:1: is of kind \"Component\", which is not checked",
        "other.yaml:1:1: unknown; a Configuration has kind: Configuration",
    ] {
        assert!(bad.output.contains(want), "{want} in:\n{}", bad.output);
    }
}

#[test]
fn show_tells_where_each_value_comes_from() {
    let place = Place::new();
    let file =
        "spec: {ringcar: {maxBodySize: ${SIZE}, logLevel: error}, metric: {enabled: false}}\n";
    fs::write(place.path().join("c.yaml"), file).unwrap();
    let arguments = ["config", "show", "-app-id", "a", "--config=c.yaml", "-o", "json"];
    let mut command = place.ringcar(&arguments);
    command.env("SIZE", "1Mi").env("RINGCAR_LOG_LEVEL", "warn").env("APP_API_TOKEN", "secret");
    let finished = Process::start(&mut command).wait();
    assert_eq!(finished.code, 0, "{}", finished.output);
    let rows: serde_json::Value = serde_json::from_str(&finished.output).unwrap();
    let row = |key: &str| {
        let row = rows.as_array().unwrap().iter().find(|row| row["key"] == key).unwrap();
        (row["value"].as_str().unwrap().to_owned(), row["from"].as_str().unwrap().to_owned())
    };
    for (key, value, from) in [
        ("app-id", "a", "flag"),
        ("log-level", "warn", "$RINGCAR_LOG_LEVEL"),
        ("max-body-size", "1Mi", "c.yaml:1:31"),
        ("enable-metrics", "false", "c.yaml:1:72"),
        ("dapr-http-port", "3500", "default"),
        ("APP_API_TOKEN", "(hidden)", "$APP_API_TOKEN"),
    ] {
        assert_eq!(row(key), (value.to_owned(), from.to_owned()), "{key}");
    }
    let yaml = place.finish(&["config", "show", "-o", "yaml", "--log-level=debug"]);
    assert_eq!(yaml.code, 0, "{}", yaml.output);
    assert!(yaml.output.contains("- from: \"flag\"\n  key: \"log-level\"\n  value: \"debug\"\n"));
    let table = place.finish(&["config", "show"]);
    assert!(table.output.starts_with("KEY "), "{}", table.output);
    let bad = place.finish(&["config", "show", "--config=none.yaml"]);
    assert_eq!(bad.code, 78, "{}", bad.output);
    assert!(bad.output.contains("stat none.yaml: no such file or directory"), "{}", bad.output);
}

#[test]
fn a_sidecar_does_not_start_with_a_file_it_must_refuse() {
    let place = Place::new();
    fs::write(place.path().join("c.yaml"), "spec: {accessControl: {policies: [{appId: a}]}}")
        .unwrap();
    for (file, want) in [
        ("none.yaml", "error loading configuration: none.yaml: stat none.yaml: no such file"),
        (
            "c.yaml",
            "c.yaml:1:34: spec.accessControl.policies: invalid access control spec. missing \
             trustdomain for apps: [a], missing namespace for apps: [a]",
        ),
    ] {
        let finished = place.finish(&["sidecar", "--app-id=a", "--config", file]);
        assert_eq!(finished.code, 1, "{file}: {}", finished.output);
        assert!(finished.output.contains("level=fatal"), "{file}: {}", finished.output);
        assert!(finished.output.contains(want), "{file}: {}", finished.output);
    }
}

#[test]
fn a_sidecar_says_what_it_ignores() {
    let place = Place::new();
    let file = "spec:\n  tracing: {zipkin: {endpointAddress: 'https://z'}}\n  sepc: 1\n";
    fs::write(place.path().join("c.yaml"), file).unwrap();
    let (mut process, _) = place.start_sidecar("a", None, &["--config", "c.yaml"]);
    process.wait_for("c.yaml:3:3: spec.sepc: there is no such key");
    process.wait_for("spec.tracing.zipkin.endpointAddress https://z is reached over TLS");
    process.wait_for("dapr initialized");
}

#[test]
fn a_changed_file_is_in_force_without_a_restart() {
    let place = Place::new();
    let app = App::start();
    let path = place.path().join("c.yaml");
    let write = |text: &str| replace(&path, text);
    write("spec: {ringcar: {maxBodySize: 1Ki}}\n");
    let (mut process, port) = place.sidecar("orders", Some(app.port), &["--config=c.yaml"]);
    let body = "x".repeat(1500);
    let status = || call(port, "POST /v1.0/invoke/orders/method/x", &[], &body).status;
    assert_ne!(status(), 200);
    write("spec: {ringcar: {maxBodySize: 2Ki, metricsPort: 7}}\n");
    let line = process.wait_for("wait for the next start");
    assert!(line.contains("Changes of metrics-port wait"), "{line}");
    process.wait_for("Configuration reloaded");
    eventually("the new limit is in force", || status() == 200);
    write("spec: {ringcar: {maxBodySize: 2KB}}\n");
    let line = process.wait_for("Configuration is not reloaded");
    assert!(line.contains("spec.ringcar.maxBodySize"), "{line}");
    assert_eq!(status(), 200);
    // Read again, and refused again without a word.
    process.signal(Signal::HUP);
    process.wait_for("reading configuration anew");
    write("spec: {ringcar: {maxBodySize: 1Ki, metricsPort: 7}}\n");
    let line = process.wait_for("Configuration");
    assert!(line.contains("Configuration reloaded"), "{line}");
    eventually("the new limit is in force", || status() != 200);
}

#[test]
fn strict_status_changes_without_a_restart() {
    let place = Place::new();
    let write = |strict: bool| {
        let text = format!("spec: {{ringcar: {{maxBodySize: 10, strictStatus: {strict}}}}}\n");
        replace(&place.path().join("c.yaml"), &text);
    };
    write(true);
    let app = App::start();
    let (mut process, port) = place.sidecar("orders", Some(app.port), &["--config=c.yaml"]);
    let status = || call(port, "POST /v1.0/invoke/orders/method/x", &[], "more than ten").status;
    assert_eq!(status(), 500);
    for (strict, want) in [(false, 413), (true, 500)] {
        write(strict);
        process.wait_for("Configuration reloaded");
        eventually("the status is the new one", || status() == want);
    }
}
