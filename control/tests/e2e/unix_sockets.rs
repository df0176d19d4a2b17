//! The API on a Unix socket, the app on another: no port on either hop.

#![forbid(unsafe_code)]

use crate::support::{App, Place, Process, call_unix, eventually, free_port, get};
use std::{fs, os::unix::net::UnixListener};

/// A sidecar with its API socket in `place`, not yet ready.
fn start(place: &Place, id: &str, app_address: &str) -> Process {
    let directory = place.path().join("api");
    let app_address = app_address.to_owned();
    let mut arguments = vec!["sidecar", "--app-id", id, "--enable-metrics=false"];
    arguments.extend(["--unix-domain-socket", directory.to_str().unwrap()]);
    arguments.extend(["--app-channel-address", &app_address]);
    place.start(&arguments)
}

#[test]
fn calls_take_sockets_on_both_hops() {
    let place = Place::new();
    let path = place.path().join("app");
    let app = App::start_on_socket(&path);
    let mut process = start(&place, "orders", &format!("unix://{}", path.display()));
    process.wait_for("dapr initialized");
    let api = place.path().join("api/dapr-orders-http.socket");
    let answer = call_unix(&api, "POST /v1.0/invoke/orders/method/pay?x=1");
    assert_eq!((answer.status, answer.body.as_str()), (200, "/pay?x=1 "));
    assert!(app.request_for("/dapr/config").starts_with("GET "));
    assert!(app.request_for("/pay?x=1").starts_with("POST "));
    let metadata = call_unix(&api, "GET /v1.0/metadata");
    let metadata: serde_json::Value = serde_json::from_str(&metadata.body).unwrap();
    let channel = &metadata["appConnectionProperties"]["channelAddress"];
    assert_eq!(*channel, format!("unix://{}", path.display()));
}

#[test]
fn health_waits_for_the_socket() {
    let place = Place::new();
    let path = place.path().join("app");
    // What an app that was killed leaves behind.
    drop(UnixListener::bind(&path).unwrap());
    let mut process = start(&place, "orders", &format!("unix:{}", path.display()));
    process.wait_for(&format!("waiting on socket {}", path.display()));
    let api = place.path().join("api/dapr-orders-http.socket");
    eventually("the API answers", || api.exists());
    assert_eq!(call_unix(&api, "GET /v1.0/healthz").status, 500);
    fs::remove_file(&path).unwrap();
    let _app = App::start_on_socket(&path);
    process.wait_for("dapr initialized");
    eventually("healthz", || call_unix(&api, "GET /v1.0/healthz").status == 204);
}

#[test]
fn other_sidecars_reach_an_app_on_a_socket() {
    let place = Place::new();
    let path = place.path().join("app");
    let _app = App::start_on_socket(&path);
    let (_caller, port) = place.sidecar("caller", None, &[]);
    let mut process = start(&place, "orders", &format!("unix:{}", path.display()));
    process.wait_for("dapr initialized");
    let call = || get(port, "/v1.0/invoke/orders/method/x");
    eventually("the route is known", || call().status == 200);
    assert_eq!(call().body, "/x ");
}

#[test]
fn an_api_socket_is_replaced_only_when_nobody_listens() {
    let place = Place::new();
    let path = place.path().join("app");
    let _app = App::start_on_socket(&path);
    let address = format!("unix:{}", path.display());
    let api = place.path().join("api/dapr-orders-http.socket");
    fs::create_dir(api.parent().unwrap()).unwrap();
    let other = UnixListener::bind(&api).unwrap();
    let refused = start(&place, "orders", &address).wait();
    assert_eq!(refused.code, 1, "{}", refused.output);
    assert!(refused.output.contains("dapr-orders-http.socket: "), "{}", refused.output);
    assert!(api.exists());
    drop(other);
    let mut process = start(&place, "orders", &address);
    process.wait_for("dapr initialized");
    assert_eq!(call_unix(&api, "GET /v1.0/healthz").status, 204);
}

#[test]
fn an_api_socket_outlives_its_control() {
    let place = Place::new();
    let path = place.path().join("app");
    let _app = App::start_on_socket(&path);
    let address = format!("unix:{}", path.display());
    let mut first = start(&place, "orders", &address);
    first.wait_for("dapr initialized");
    let api = place.path().join("api/dapr-orders-http.socket");
    first.signal(rustix::process::Signal::KILL);
    first.wait();
    assert_eq!(call_unix(&api, "GET /v1.0/healthz").status, 204);
    let mut again = start(&place, "orders", &address);
    again.wait_for("dapr initialized");
    assert_eq!(call_unix(&api, "GET /v1.0/invoke/orders/method/x").status, 200);
}

#[test]
fn refuses_a_path_that_names_no_socket() {
    let place = Place::new();
    let port = free_port().to_string();
    let arguments = ["sidecar", "--app-id=a", "--dapr-http-port", &port];
    for (address, want) in [
        ("unix:app.sock", "\\\"app.sock\\\" is not an absolute path"),
        ("unix://host/app.sock", "\\\"host/app.sock\\\" is not an absolute path"),
    ] {
        let arguments = [&arguments[..], &["--app-channel-address", address]].concat();
        let finished = place.finish(&arguments);
        assert_eq!(finished.code, 1, "{address}");
        assert!(finished.output.contains(want), "{}", finished.output);
    }
}
