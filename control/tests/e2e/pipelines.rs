//! Pipelines of real sidecars and nodes: components from `--resources-path`, named by a
//! Configuration, changed live; and locks that nobody can turn.

#![forbid(unsafe_code)]

use crate::support::{App, Place, Process, call, eventually, free_port, get, try_call};
use std::{fs, path::Path};

/// As editors do it: whole or not at all.
fn write(path: &Path, text: &str) {
    let other = path.with_extension("new");
    fs::write(&other, text).unwrap();
    fs::rename(&other, path).unwrap();
}

fn component(name: &str, kind: &str, metadata: &str) -> String {
    format!(
        "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {{name: {name}}}\n\
         spec:\n  type: middleware.http.{kind}\n  version: v1\n  metadata: {metadata}\n"
    )
}

fn routes(routes: &str) -> String {
    format!("[{{name: routes, value: '{{{routes}}}'}}]")
}

fn handlers(pipeline: &str, handlers: &[(&str, &str)]) -> String {
    let lines = handlers
        .iter()
        .map(|(name, kind)| format!("    - {{name: {name}, type: middleware.http.{kind}}}\n"));
    format!("  {pipeline}:\n    handlers:\n{}", lines.collect::<String>())
}

struct Set {
    place: Place,
    app: App,
}

impl Set {
    fn new(spec: &str) -> Self {
        let place = Place::new();
        fs::create_dir(place.path().join("resources")).unwrap();
        write(&place.path().join("c.yaml"), &format!("kind: Configuration\nspec:\n{spec}"));
        Self { place, app: App::start() }
    }

    fn resource(&self, text: &str) {
        write(&self.place.path().join("resources/r.yaml"), text);
    }

    fn sidecar(&self, more: &[&str]) -> (Process, u16) {
        let arguments = [&["--config=c.yaml", "--resources-path=resources"], more].concat();
        self.place.sidecar("orders", Some(self.app.port), &arguments)
    }
}

#[test]
fn aliases_come_change_and_go_without_a_restart() {
    let names = [("one", "routeralias"), ("two", "routeralias"), ("three", "routeralias")];
    let set = Set::new(&handlers("httpPipeline", &names));
    let path = |method: &str| format!("/v1.0/invoke/orders/method/{method}");
    let first = "\"/hello\": \"/v1.0/invoke/{appID}/method/foo\"";
    let one = component("one", "routeralias", &routes(first));
    let second = |from: &str, to: &str| format!("\"{}\": \"{}\"", path(from), path(to));
    let two = component("two", "routeralias", &routes(&second("foo", "abc")));
    set.resource(&[one.as_str(), &two].join("---\n"));
    let (mut process, port) = set.sidecar(&[]);
    let reaches = || {
        set.app.take_calls();
        let answer = call(port, "POST /hello", &[], "");
        (answer.status, answer.body)
    };
    assert!(reaches().1.starts_with("/abc"), "{:?}", reaches());

    let three = component("three", "routeralias", &routes(&second("abc", "xyz")));
    set.resource(&[one.as_str(), &two, &three].join("---\n"));
    process.wait_for("Configuration reloaded");
    eventually("the third handler counts", || reaches().1.starts_with("/xyz"));
    let loaded = |names: &[&str]| {
        let one = |name: &&str| {
            format!(
                "{{\"name\":\"{name}\",\"type\":\"middleware.http.routeralias\",\"version\":\"v1\"}}"
            )
        };
        let list: Vec<String> = names.iter().map(one).collect();
        format!("\"components\":[{}],\"extended\":", list.join(","))
    };
    let metadata = get(port, "/v1.0/metadata").body;
    assert!(metadata.contains(&loaded(&["one", "three", "two"])), "{metadata}");

    set.resource(&component("one", "routeralias", "[{name: routes, value: '['}]"));
    let line = process.wait_for("is not reloaded");
    let want = "resources/r.yaml:7:14: spec.metadata[0]: failed to decode 'routes' property";
    assert!(line.contains(want), "{line}");
    assert!(reaches().1.starts_with("/xyz"), "what was in force stays");

    set.resource(&two);
    let line = process.wait_for("the handler is passed over");
    assert!(line.contains("c.yaml:5:7: spec.httpPipeline.handlers[0]"), "{line}");
    eventually("nothing is called hello", || reaches().0 == 404);
    let metadata = get(port, "/v1.0/metadata").body;
    assert!(metadata.contains(&loaded(&["two"])), "{metadata}");
}

#[test]
fn the_apps_own_pipeline_is_for_whoever_calls_it() {
    let set = Set::new(&handlers("appHttpPipeline", &[("check", "routerchecker")]));
    set.resource(&component("check", "routerchecker", "[{name: rule, value: \"^/pay$\"}]"));
    let (_process, port) = set.sidecar(&[]);
    let (_other, caller) = set.place.sidecar("caller", None, &[]);
    let statuses = |method: &str| {
        let path = format!("/v1.0/invoke/orders/method/{method}");
        [port, caller].map(|port| get(port, &path).status)
    };
    eventually("the caller knows the app", || statuses("pay") == [200, 200]);
    assert_eq!(statuses("other"), [400, 400]);
    assert_eq!(get(port, "/v1.0/metadata").status, 200);
}

#[test]
fn nothing_runs_open_where_a_lock_cannot_be_turned() {
    for (pipeline, kind) in [("httpPipeline", "bearer"), ("appHttpPipeline", "opa")] {
        let set = Set::new(&handlers(pipeline, &[("door", kind)]));
        set.resource(&component("door", kind, "[]"));
        let arguments = ["sidecar", "--app-id=x", "--config=c.yaml", "--resources-path=resources"];
        let finished = set.place.finish(&arguments);
        assert_eq!(finished.code, 1, "{}", finished.output);
        for want in [
            format!("resources/r.yaml:1:1: Component \\\"door\\\": middleware.http.{kind}"),
            "cannot be enforced, and nothing may pass without it".to_owned(),
            format!("it is needed at c.yaml:5:7: spec.{pipeline}.handlers[0]"),
        ] {
            assert!(finished.output.contains(&want), "{want} in:\n{}", finished.output);
        }
    }
    let set = Set::new(&handlers("httpPipeline", &[("door", "opa")]));
    let (mut process, port) = set.sidecar(&[]);
    set.resource(&component("door", "opa", "[]"));
    process.wait_for("is not reloaded");
    assert_eq!(get(port, "/v1.0/healthz").status, 204, "what was in force stays");
}

#[test]
fn apps_of_a_node_have_their_own_pipelines() {
    let set = Set::new(&handlers("httpPipeline", &[("check", "routerchecker")]));
    let text = component("check", "routerchecker", "[{name: rule, value: \"^/v1.0/metadata\"}]");
    set.resource(&text.replace("spec:", "scopes: [orders]\nspec:"));
    let ports = [free_port(), free_port()];
    let file = format!(
        "configuration: c.yaml\nresources-paths: resources\nenable-metrics: false\ndefaults: \
         {{listen-addresses: 127.0.0.1}}\napps:\n- {{id: orders, http-port: {}}}\n- {{id: caller, \
         http-port: {}}}\n",
        ports[0], ports[1]
    );
    fs::write(set.place.path().join("node.yaml"), file).unwrap();
    let mut process = set.place.start(&["node", "--config", "node.yaml"]);
    process.wait_for("serves 2 apps");
    let status =
        |port, path: &str| try_call(port, &format!("GET {path}"), &[], "").map_or(0, |a| a.status);
    let statuses = |path: &str| ports.map(|port| status(port, path));
    eventually("both answer", || statuses("/v1.0/metadata") == [200, 200]);
    assert_eq!(statuses("/v1.0/healthz"), [400, 204]);
}
