//! HTTPEndpoint resources of real sidecars and nodes: called by name, changed live, in scope.

#![forbid(unsafe_code)]

use crate::support::{App, Place, Process, call, eventually, free_port, get, replace, try_call};
use std::{fs, path::Path};

fn endpoint(name: &str, base_url: &str, more: &str) -> String {
    format!(
        "apiVersion: dapr.io/v1alpha1\nkind: HTTPEndpoint\nmetadata: {{name: {name}}}\n{more}\
         spec:\n  version: v1\n  baseUrl: {base_url}\n  headers:\n\
         \x20 - {{name: Authorization, envRef: SHOP_KEY}}\n  - {{name: X-Kind, value: named}}\n"
    )
}

fn write(directory: &Path, name: &str, text: &str) {
    replace(&directory.join(name), text);
}

fn sidecar(place: &Place, port: u16) -> Process {
    let port = port.to_string();
    let mut command = place.ringcar(&["sidecar", "--app-id=orders", "--enable-metrics=false"]);
    command.args(["--dapr-listen-addresses=127.0.0.1", "--resources-path=resources"]);
    command.args(["--dapr-http-port", &port]).env("SHOP_KEY", "Bearer k3y");
    let mut process = Process::start(&mut command);
    process.wait_for("dapr initialized");
    process
}

const CALL: &str = "GET /v1.0/invoke/shop/method/pay?x=1";

#[test]
fn an_endpoint_comes_changes_goes_and_comes_back_without_a_restart() {
    let place = Place::new();
    let directory = place.path().join("resources");
    fs::create_dir(&directory).unwrap();
    let (shop, other) = (App::start(), App::start());
    let port = free_port();
    let mut process = sidecar(&place, port);
    let unknown = "couldn't find service: shop";
    assert!(call(port, CALL, &[], "").body.contains(unknown));
    assert!(!get(port, "/v1.0/metadata").body.contains("httpEndpoints"));

    for round in 0..2 {
        let url = format!("http://127.0.0.1:{}", shop.port);
        write(&directory, "e.yaml", &endpoint("shop", &url, ""));
        process.wait_for("Configuration reloaded");
        eventually("the endpoint is called", || call(port, CALL, &[], "").status == 200);
        let head = shop.request_for("/pay?x=1");
        assert!(head.contains("\r\nAuthorization: Bearer k3y\r\n"), "{round}: {head}");
        assert!(head.contains("\r\nX-Kind: named\r\n"), "{head}");
        let document = get(port, "/v1.0/metadata").body;
        assert!(document.contains("\"httpEndpoints\":[{\"name\":\"shop\"}]"), "{document}");

        let url = format!("http://127.0.0.1:{}/base", other.port);
        write(&directory, "e.yaml", &endpoint("shop", &url, ""));
        process.wait_for("Configuration reloaded");
        eventually("the new URL is called", || {
            call(port, CALL, &[], "").body.starts_with("/base/pay?x=1")
        });
        fs::remove_file(directory.join("e.yaml")).unwrap();
        process.wait_for("Configuration reloaded");
        eventually("it is gone", || call(port, CALL, &[], "").body.contains(unknown));
        assert!(!get(port, "/v1.0/metadata").body.contains("httpEndpoints"));
    }
}

#[test]
fn policies_hold_for_endpoints_by_their_names() {
    let place = Place::new();
    let directory = place.path().join("resources");
    fs::create_dir(&directory).unwrap();
    let shop = App::start();
    write(&directory, "e.yaml", &endpoint("shop", &format!("http://127.0.0.1:{}", shop.port), ""));
    let policy = "kind: Resiliency\nmetadata: {name: again}\nspec: {policies: {retries: {r: \
                  {duration: 1ms, maxRetries: 2}}}, targets: {apps: {shop: {retry: r}}}}\n";
    write(&directory, "r.yaml", policy);
    let port = free_port();
    let _process = sidecar(&place, port);
    let answer = get(port, "/v1.0/invoke/shop/method/status/503");
    assert_eq!((answer.status, shop.count_for("/status/503")), (503, 3));
    let document = get(port, "/v1.0/metadata").body;
    assert!(document.contains("\"resiliencies\":[{\"name\":\"again\"}]"), "{document}");
}

#[test]
fn what_is_broken_is_told_and_what_was_in_force_stays() {
    let place = Place::new();
    let directory = place.path().join("resources");
    fs::create_dir(&directory).unwrap();
    let shop = App::start();
    let good = endpoint("shop", &format!("http://127.0.0.1:{}", shop.port), "");
    write(&directory, "e.yaml", &good);
    let port = free_port();
    let mut process = sidecar(&place, port);
    write(&directory, "e.yaml", &endpoint("shop", "shop:80", ""));
    let line = process.wait_for("is not reloaded");
    assert!(line.contains("resources/e.yaml:6:12: spec.baseUrl: "), "{line}");
    assert_eq!(call(port, CALL, &[], "").status, 200, "what was in force stays");
    let finished = place.finish(&["sidecar", "--app-id=x", "--resources-path=resources"]);
    assert_eq!(finished.code, 1, "{}", finished.output);
    assert!(finished.output.contains("is no URL; write http://host:port"), "{}", finished.output);

    write(&directory, "e.yaml", &endpoint("shop", "https://shop.example", ""));
    process.wait_for("needs TLS, which this sidecar does not speak");
    eventually("the call says so", || {
        call(port, CALL, &[], "")
            .body
            .contains("https needs TLS, which this sidecar does not speak")
    });
    let secret = good.replace("envRef: SHOP_KEY", "secretKeyRef: {name: s, key: k}");
    write(&directory, "e.yaml", &secret);
    process.wait_for(
        "spec.headers[0].secretKeyRef: is in a secret store, and auth.secretStore names none",
    );
    eventually("no call goes without its key", || {
        call(port, CALL, &[], "").body.contains("couldn't find service: shop")
    });
}

#[test]
fn apps_of_a_node_call_the_endpoints_in_their_scope() {
    let place = Place::new();
    let directory = place.path().join("resources");
    fs::create_dir(&directory).unwrap();
    let shop = App::start();
    let url = format!("http://127.0.0.1:{}", shop.port);
    write(&directory, "e.yaml", &endpoint("shop", &url, "scopes: [orders]\n"));
    let ports = [free_port(), free_port()];
    let file = format!(
        "resources-paths: resources\nenable-metrics: false\ndefaults: {{listen-addresses: \
         127.0.0.1}}\napps:\n- {{id: orders, http-port: {}}}\n- {{id: caller, http-port: {}, protocol: grpc}}\n",
        ports[0], ports[1]
    );
    fs::write(place.path().join("node.yaml"), file).unwrap();
    let mut process = place.start(&["node", "--config", "node.yaml"]);
    process.wait_for("app caller: --app-protocol grpc: calls to the app are answered 500");
    process.wait_for("serves 2 apps");
    let statuses = || ports.map(|port| try_call(port, CALL, &[], "").map_or(0, |a| a.status));
    eventually("it is one app's", || statuses() == [200, 500]);
    write(&directory, "e.yaml", &endpoint("shop", &url, "scopes: [caller]\n"));
    process.wait_for("reloaded");
    eventually("it is the other app's", || statuses() == [500, 200]);
    let listed = |port| get(port, "/v1.0/metadata").body.contains("httpEndpoints");
    assert_eq!(ports.map(listed), [false, true]);
    let text = endpoint("shop", &url, "").replace("envRef: SHOP_KEY", "secretKeyRef: {name: s}");
    write(&directory, "e.yaml", &text);
    process.wait_for("is in a secret store, and auth.secretStore names none");
    eventually("it is nobody's", || statuses() == [500, 500]);
}
