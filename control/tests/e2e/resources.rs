//! Resources in the directories of `--resources-path`: read at start, read anew, told when they are
//! broken.

#![forbid(unsafe_code)]

use crate::support::{App, Place, call, eventually, free_port, replace};
use std::{fs, path::PathBuf};

const FAIL: &str = "GET /v1.0/invoke/orders/method/status/503";

/// A retry of calls of `orders`.
fn retries(count: usize) -> String {
    format!(
        "apiVersion: dapr.io/v1alpha1
kind: Resiliency
metadata:
  name: r
spec:
  policies:
    retries:
      again: {{policy: constant, duration: 1ms, maxRetries: {count}}}
  targets:
    apps:
      orders:
        retry: again
"
    )
}

fn directory(place: &Place) -> PathBuf {
    let directory = place.path().join("resources");
    fs::create_dir(&directory).unwrap();
    directory
}

fn write(directory: &std::path::Path, text: &str) {
    replace(&directory.join("r.yaml"), text);
}

#[test]
fn policies_are_in_force_and_change_without_a_restart() {
    let place = Place::new();
    let directory = directory(&place);
    write(&directory, &retries(2));
    let app = App::start();
    let arguments = ["--resources-path=resources"];
    let (mut process, port) = place.sidecar("orders", Some(app.port), &arguments);
    let calls = || {
        app.count_for("/status/503");
        assert_eq!(call(port, FAIL, &[], "").status, 503);
        app.count_for("/status/503")
    };
    assert_eq!(calls(), 3);

    write(&directory, &retries(4));
    process.wait_for("Configuration reloaded");
    eventually("the new policy is in force", || calls() == 5);

    write(&directory, &retries(1).replace("retry: again", "retry: agian"));
    let line = process.wait_for("is not reloaded");
    let want = "resources/r.yaml:12:16: spec.targets.apps.orders.retry: there is no retry policy \
                \\\"agian\\\"; is it \\\"again\\\"?";
    assert!(line.contains(want), "{line}");
    assert_eq!(calls(), 5, "what was in force stays");

    fs::remove_file(directory.join("r.yaml")).unwrap();
    process.wait_for("Configuration reloaded");
    eventually("there is no policy", || calls() == 1);
}

#[test]
fn a_sidecar_starts_with_what_it_can_skip_and_not_with_what_is_broken() {
    let place = Place::new();
    let directory = directory(&place);
    write(&directory, "kind: Component\nmetadata: {name: s}\nspec: {type: state.redis}\n");
    let app = App::start();
    let arguments = ["--components-path=resources"];
    let (mut process, _) = place.start_sidecar("orders", Some(app.port), &arguments);
    process.wait_for("(state.redis) is skipped: service invocation needs no component");
    process.wait_for("dapr initialized");
    for (text, want) in [
        (retries(1).replace("1ms, maxRetries: 1", "1ns"), "is tried again for ever"),
        (retries(1).replace("{policy", "[policy"), "resources/r.yaml:"),
    ] {
        write(&directory, &text);
        let finished = place.finish(&["sidecar", "--app-id=x", "--resources-path=resources"]);
        assert_eq!(finished.code, 1, "{}", finished.output);
        assert!(finished.output.contains("error loading resources"), "{}", finished.output);
        assert!(finished.output.contains(want), "{}", finished.output);
    }
}

#[test]
fn check_reports_the_problems_of_a_directory() {
    let place = Place::new();
    let directory = directory(&place);
    write(&directory, &retries(1));
    let good = place.finish(&["config", "check", "resources"]);
    assert_eq!(good.code, 0, "{}", good.output);
    // What is missing is missing in the scope of one app only.
    let text =
        retries(1).replace("spec:", "scopes: [x]\nspec:").replace("retry: again", "retry: no");
    write(&directory, &text);
    let bad = place.finish(&["config", "check", "resources"]);
    assert_eq!(bad.code, 78, "{}", bad.output);
    let want =
        "resources/r.yaml:13:16: spec.targets.apps.orders.retry: there is no retry policy \"no\"";
    assert!(bad.output.contains(want), "{}", bad.output);
}

#[test]
fn apps_of_a_node_have_their_own_or_those_of_the_node() {
    let place = Place::new();
    let common = directory(&place);
    write(&common, &retries(1));
    let own = place.path().join("own");
    fs::create_dir(&own).unwrap();
    write(&own, &retries(3));
    let (orders, caller) = (App::start(), App::start());
    let ports = [free_port(), free_port()];
    let file = format!(
        "resources-paths: resources\nenable-metrics: false\napps:\n\
         - {{id: orders, address: {}, http-port: {}, listen-addresses: 127.0.0.1}}\n\
         - {{id: caller, address: {}, http-port: {}, listen-addresses: 127.0.0.1, \
         resources-paths: [own]}}\n",
        orders.port, ports[0], caller.port, ports[1]
    );
    fs::write(place.path().join("node.yaml"), file).unwrap();
    let mut process = place.start(&["node", "--config", "node.yaml"]);
    process.wait_for("serves 2 apps");
    let calls = |port| {
        orders.count_for("/status/503");
        match crate::support::try_call(port, FAIL, &[], "") {
            Ok(answer) if answer.status == 503 => orders.count_for("/status/503"),
            _ => 0,
        }
    };
    eventually("both apps have their policies", || ports.map(calls) == [2, 4]);
    write(&own, &retries(0));
    process.wait_for("reloaded");
    eventually("the new policy is in force", || ports.map(calls) == [2, 1]);
}
