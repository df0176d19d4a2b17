//! One sidecar and its neighbours: health, metadata, calls, places to listen, logs and metrics.

#![forbid(unsafe_code)]

use crate::support::{
    App, Place, Process, call, call_unix, eventually, free_port, get, skipped, status_of,
};
use dataplane::engine::Choice;

#[test]
fn is_ready_to_call_out_before_it_is_ready() {
    let place = Place::new();
    let app_port = free_port();
    let (mut process, port) = place.start_sidecar("orders", Some(app_port), &[]);
    eventually("healthz/outbound", || status_of(port, "/v1.0/healthz/outbound") == 204);
    let unready = get(port, "/v1.0/healthz");
    assert_eq!(unready.status, 500, "{unready:?}");
    assert!(unready.body.contains("ERR_HEALTH_NOT_READY"), "{unready:?}");
    process.wait_for(&format!(
        "application protocol: http. waiting on port {app_port}.  This will block until the app is \
         listening on that port."
    ));
    let app = App::start_on(app_port);
    process.wait_for(&format!("application discovered on port {app_port}"));
    process.wait_for("dapr initialized. Status: Running. Init Elapsed ");
    let head = app.next_request();
    assert!(head.starts_with("GET /dapr/config HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("dapr-app-id: orders\r\n"), "{head}");
    eventually("healthz", || status_of(port, "/v1.0/healthz") == 204);
}

#[test]
fn leaves_out_the_start_up_call_when_told() {
    let place = Place::new();
    let app = App::start();
    let more = ["--disable-init-endpoints", "config"];
    let (_process, port) = place.sidecar("orders", Some(app.port), &more);
    assert_eq!(get(port, "/v1.0/invoke/orders/method/x").body, "/x ");
    assert!(app.next_request().starts_with("GET /x HTTP/1.1\r\n"));
}

#[test]
fn metadata_is_read_as_written() {
    let place = Place::new();
    let app = App::start();
    let (_process, port) = place.sidecar("orders", Some(app.port), &[]);
    let put = call(port, "PUT /v1.0/metadata/colour", &[], "blue \"1\"");
    assert_eq!((put.status, put.body.as_str()), (204, ""));
    let answer = get(port, "/v1.0/metadata");
    assert!(answer.head.to_lowercase().contains("content-type: application/json"), "{answer:?}");
    assert!(answer.body.ends_with("}\n"), "{answer:?}");
    let value: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(value["id"], "orders");
    assert_eq!(value["runtimeVersion"], "1.18.3");
    assert_eq!(value["extended"]["colour"], "blue \"1\"");
    assert_eq!(value["extended"]["daprRuntimeVersion"], "1.18.3");
    assert_eq!(value["appConnectionProperties"]["port"], app.port);
    assert_eq!(value["appConnectionProperties"]["protocol"], "http");
}

#[test]
fn sidecars_find_and_call_each_other_on_both_engines() {
    for (engine, choice) in [("uring", Choice::Uring), ("epoll", Choice::Epoll)] {
        if let Err(e) = dataplane::engine::probe(choice) {
            skipped(&e.reason);
            continue;
        }
        let place = Place::new();
        let (orders, checkout) = (App::start(), App::start());
        let start = |id: &str, app: &App| {
            let (http_port, app_port) = (free_port().to_string(), app.port.to_string());
            let arguments = ["sidecar", "--app-id", id, "--dapr-http-port", &http_port];
            let mut command = place.ringcar(&arguments);
            command.args(["--app-port", &app_port, "--enable-metrics=false"]);
            let mut process = Process::start(command.env("RINGCAR_ENGINE", engine));
            let line = process.wait_for("serves on ");
            assert!(line.contains(engine), "{engine}: {line}");
            process.wait_for("dapr initialized");
            (process, http_port.parse::<u16>().unwrap())
        };
        let (_first, orders_port) = start("orders", &orders);
        let (_second, checkout_port) = start("checkout", &checkout);
        for (port, target, app) in
            [(orders_port, "checkout", &checkout), (checkout_port, "orders", &orders)]
        {
            let path = format!("/v1.0/invoke/{target}/method/pay/100?x=1");
            eventually("the route is known", || status_of(port, &path) == 200);
            let answer = call(port, &format!("POST {path}"), &[], "body");
            assert_eq!(answer.body, "/pay/100?x=1 body", "{engine}");
            let head = app.request_for("/pay/100?x=1");
            assert!(head.starts_with("GET "), "{head}");
        }
    }
}

#[test]
fn calls_go_to_the_namespace_they_name() {
    let place = Place::new();
    let (here, there) = (App::start(), App::start());
    let start = |namespace: &str, id: &str, app: &App| {
        let (http_port, app_port) = (free_port().to_string(), app.port.to_string());
        let arguments = ["sidecar", "--app-id", id, "--dapr-http-port", &http_port];
        let mut command = place.ringcar(&arguments);
        command.args(["--app-port", &app_port, "--enable-metrics=false"]);
        let mut process = Process::start(command.env("NAMESPACE", namespace));
        process.wait_for("dapr initialized");
        (process, http_port.parse::<u16>().unwrap())
    };
    let (_caller, port) = start("prod", "caller", &App::start());
    let (_a, _) = start("prod", "checkout", &here);
    let (_b, _) = start("test", "checkout", &there);
    for (target, app) in [("checkout", &here), ("checkout.prod", &here), ("checkout.test", &there)]
    {
        let path = format!("/v1.0/invoke/{target}/method/in-{target}");
        eventually(target, || status_of(port, &path) == 200);
        app.request_for(&format!("/in-{target}"));
    }
}

#[test]
fn one_app_twice_is_called_at_both_places() {
    let place = Place::new();
    let (first, second) = (App::start(), App::start());
    let (_caller, port) = place.sidecar("caller", None, &[]);
    let (_a, _) = place.sidecar("checkout", Some(first.port), &[]);
    let (_b, _) = place.sidecar("checkout", Some(second.port), &[]);
    let (mut at_first, mut at_second) = (false, false);
    eventually("both are called", || {
        if status_of(port, "/v1.0/invoke/checkout/method/x") == 200 {
            at_first |= first.has_request();
            at_second |= second.has_request();
        }
        at_first && at_second
    });
}

#[test]
fn listens_on_a_unix_socket_instead_of_a_port() {
    let place = Place::new();
    let app = App::start();
    let directory = place.path().join("api");
    let more = ["--unix-domain-socket", directory.to_str().unwrap()];
    let (process, port) = place.sidecar("orders", Some(app.port), &more);
    let socket = directory.join("dapr-orders-http.socket");
    assert_eq!(call_unix(&socket, "GET /v1.0/invoke/orders/method/x").body, "/x ");
    assert_eq!(status_of(port, "/v1.0/healthz"), 0);
    process.signal(rustix::process::Signal::TERM);
    assert_eq!(process.wait().code, 0);
    assert!(!socket.exists());
}

#[test]
fn the_public_port_has_health_and_metadata_only() {
    let place = Place::new();
    let app = App::start();
    let public = free_port();
    let more = ["--dapr-public-port", &public.to_string()];
    let (_process, _) = place.sidecar("orders", Some(app.port), &more);
    assert_eq!(get(public, "/v1.0/healthz").status, 204);
    assert_eq!(get(public, "/v1.0/metadata").status, 200);
    assert_eq!(get(public, "/v1.0/invoke/orders/method/x").status, 404);
}

#[test]
fn logs_in_json_to_a_file() {
    let place = Place::new();
    let file = place.path().join("log");
    let more = ["--log-as-json", "--log-file", file.to_str().unwrap()];
    let (process, port) = place.start_sidecar("orders", None, &more);
    let read = || std::fs::read_to_string(&file).unwrap_or_default();
    eventually("the last line of the start", || read().contains("dapr initialized"));
    assert_eq!(get(port, "/v1.0/healthz").status, 204);
    process.signal(rustix::process::Signal::TERM);
    let finished = process.wait();
    assert_eq!((finished.code, finished.output.as_str()), (0, ""));
    let text = read();
    let messages: Vec<String> = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .inspect(|value| assert_eq!(value["app_id"], "orders"))
        .map(|value| value["msg"].as_str().unwrap().to_owned())
        .collect();
    assert!(messages.iter().any(|m| m.starts_with("dapr initialized. Status: Running.")), "{text}");
    assert_eq!(messages.last().unwrap(), "Daprd shutdown gracefully");
}

#[test]
fn the_metrics_page_has_counters_of_both_processes() {
    let place = Place::new();
    let app = App::start();
    let metrics = free_port();
    let flag = format!("--metrics-port={metrics}");
    let (_process, port) = place.sidecar("orders", Some(app.port), &[&flag]);
    assert_eq!(get(port, "/v1.0/invoke/orders/method/x").status, 200);
    let page = get(metrics, "/metrics");
    assert_eq!(page.status, 200);
    assert!(page.head.contains("text/plain; version=0.0.4"), "{}", page.head);
    for want in [
        "ringcar_engine_info{engine=\"",
        "ringcar_build_info{version=\"",
        "ringcar_data_plane_restarts_total 0\n",
        "process_resident_memory_bytes{process=\"control\"} ",
        "process_resident_memory_bytes{process=\"dataplane\"} ",
    ] {
        assert!(page.body.contains(want), "{want}: {}", page.body);
    }
    let samples = page.body.lines().filter(|line| !line.starts_with('#')).count();
    assert!(samples > 6, "the data plane's counters are missing: {}", page.body);
    assert_eq!(call(metrics, "POST /", &[], "").status, 405);
}

#[test]
fn waits_for_a_sidecar_that_can_call_out() {
    let place = Place::new();
    let port = free_port().to_string();
    let mut waiting = place.start(&["sidecar", "--wait", "--dapr-http-port", &port]);
    assert!(waiting.is_running());
    let arguments =
        ["sidecar", "--app-id", "a", "--dapr-http-port", &port, "--enable-metrics=false"];
    let _process = place.start(&arguments);
    assert_eq!(waiting.wait().code, 0);
}
