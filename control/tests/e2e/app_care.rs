//! How an app is treated: health checks that flip its calls, a limit on calls at a time, and where
//! it may be.

#![forbid(unsafe_code)]

use crate::support::{App, Place, call, eventually, free_port, get, has_localhost, status_of};
use rustix::process::Signal;
use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering::Relaxed},
    },
    thread,
};

/// An app whose `/foo` has the status that the test gives it; everything else is 200.
fn app_with_health() -> (u16, Arc<AtomicU16>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let status = Arc::new(AtomicU16::new(200));
    let shown = Arc::clone(&status);
    thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let shown = Arc::clone(&shown);
            thread::spawn(move || {
                let mut reader = BufReader::new(stream);
                loop {
                    let mut head = String::new();
                    while !head.ends_with("\r\n\r\n") {
                        match reader.read_line(&mut head) {
                            Ok(0) | Err(_) => return,
                            Ok(_) => {}
                        }
                    }
                    let is_probe = head.starts_with("GET /foo HTTP/1.1\r\n");
                    let status = if is_probe { shown.load(Relaxed) } else { 200 };
                    let answer = format!("HTTP/1.1 {status} Any\r\nContent-Length: 2\r\n\r\nok");
                    if reader.get_mut().write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (port, status)
}

const CHECKED: [&str; 4] = [
    "--enable-app-health-check",
    "--app-health-check-path=/foo",
    "--app-health-probe-interval=1",
    "--app-health-threshold=1",
];

const UNHEALTHY: &str = "rpc error: code = Internal desc = app is not in a healthy state";

#[test]
fn calls_follow_the_health_of_the_app() {
    let place = Place::new();
    let (app_port, health) = app_with_health();
    health.store(503, Relaxed);
    let (mut process, port) = place.sidecar("orders", Some(app_port), &CHECKED);
    let (_caller, caller_port) = place.sidecar("caller", None, &[]);
    let path = "/v1.0/invoke/orders/method/x";
    // The app begins unhealthy, and readiness does not wait for it.
    assert_eq!(status_of(port, "/v1.0/healthz"), 204);
    let refused = get(port, path);
    assert_eq!(refused.status, 500, "{refused:?}");
    let text = format!(
        "{{\"errorCode\":\"ERR_DIRECT_INVOKE\",\"message\":\"failed to invoke, id: orders, err: \
         {UNHEALTHY}\"}}"
    );
    assert_eq!(refused.body, text);
    let far = || get(caller_port, path);
    let text = format!("desc = error invoking app channel: {UNHEALTHY}\"}}");
    eventually("the other sidecar says so too", || far().body.ends_with(&text));

    health.store(201, Relaxed);
    process.wait_for("App entered healthy status");
    eventually("calls pass", || status_of(port, path) == 200);
    assert_eq!(far().status, 200);

    health.store(404, Relaxed);
    process.wait_for("App entered un-healthy status");
    eventually("calls are refused", || status_of(port, path) == 500);
    assert_eq!(far().status, 500);
    assert_eq!(status_of(port, "/v1.0/healthz"), 204);
    let metadata = get(port, "/v1.0/metadata").body;
    let metadata: serde_json::Value = serde_json::from_str(&metadata).unwrap();
    let shown = &metadata["appConnectionProperties"]["health"];
    let want = serde_json::json!({
        "healthCheckPath": "/foo", "healthProbeInterval": "1s", "healthProbeTimeout": "500ms",
        "healthThreshold": 1,
    });
    assert_eq!(*shown, want);
}

#[test]
fn probes_are_counted_by_their_status() {
    let place = Place::new();
    let (app_port, health) = app_with_health();
    let metrics_port = free_port();
    let port = format!("--metrics-port={metrics_port}");
    let flags = [&CHECKED[..], &[&*port]].concat();
    let (_process, _) = place.sidecar("orders", Some(app_port), &flags);
    let page = || get(metrics_port, "/metrics").body;
    let count = "dapr_http_healthprobes_completed_count";
    let latency = "dapr_http_healthprobes_roundtrip_latency";
    eventually("a good probe is told", || {
        page().contains(&format!("{count}{{app_id=\"orders\",status=\"200\"}} "))
    });
    health.store(503, Relaxed);
    let bad = format!("{count}{{app_id=\"orders\",status=\"503\"}} ");
    eventually("a bad one is, too", || page().contains(&bad));
    let page = page();
    for want in [
        format!("# TYPE {count} counter"),
        format!("# TYPE {latency} histogram"),
        format!("{latency}_bucket{{app_id=\"orders\",status=\"503\",le=\"1\"}} "),
        format!("{latency}_bucket{{app_id=\"orders\",status=\"503\",le=\"100000\"}} "),
        format!("{latency}_sum{{app_id=\"orders\",status=\"200\"}} "),
    ] {
        assert!(page.lines().any(|line| line.starts_with(&want)), "{want} in:\n{page}");
    }
}

#[test]
fn an_unhealthy_app_ends_the_wait_of_a_shutdown() {
    let place = Place::new();
    let (app_port, health) = app_with_health();
    let more = [&CHECKED[..], &["--dapr-block-shutdown-duration=1h"]].concat();
    let (mut process, port) = place.sidecar("orders", Some(app_port), &more);
    process.wait_for("App entered healthy status");
    process.signal(Signal::TERM);
    process.wait_for("Blocking graceful shutdown for 1h0m0s or until app reports unhealthy...");
    eventually("calls pass", || status_of(port, "/v1.0/invoke/orders/method/x") == 200);
    health.store(500, Relaxed);
    process.wait_for("App reported unhealthy, entering shutdown...");
    let finished = process.wait();
    assert_eq!(finished.code, 0, "{}", finished.output);
}

#[test]
fn health_outlives_a_killed_control() {
    let place = Place::new();
    let (app_port, health) = app_with_health();
    let (mut process, port) = place.sidecar("orders", Some(app_port), &CHECKED);
    process.wait_for("App entered healthy status");
    let path = "/v1.0/invoke/orders/method/x";
    eventually("calls pass", || status_of(port, path) == 200);
    process.kill();
    assert_eq!(status_of(port, path), 200);
    let mut again = place.sidecar_at(port, "orders", Some(app_port), &CHECKED);
    again.wait_for("dapr initialized");
    assert_eq!(status_of(port, path), 200, "what was known of the app is not forgotten");
    health.store(500, Relaxed);
    again.wait_for("App entered un-healthy status");
    eventually("calls are refused", || status_of(port, path) == 500);
}

#[test]
fn a_limit_holds_calls_back_until_there_is_room() {
    let place = Place::new();
    let (app, gate) = App::start_gated();
    let metrics_port = free_port();
    let metrics_flag = format!("--metrics-port={metrics_port}");
    let more = ["--app-max-concurrency=1", &metrics_flag];
    let (_process, port) = place.sidecar("orders", Some(app.port), &more);
    let slow = thread::spawn(move || get(port, "/v1.0/invoke/orders/method/slow"));
    app.request_for("/slow");
    let next = thread::spawn(move || get(port, "/v1.0/invoke/orders/method/next"));
    eventually("the second call waits", || {
        get(metrics_port, "/").body.contains("\nringcar_app_queue_waits_total 1\n")
    });
    assert!(!app.has_request(), "the app takes one call at a time");
    gate.open();
    assert_eq!(slow.join().unwrap().body, "/slow ");
    assert_eq!(next.join().unwrap().body, "/next ");
    let metadata: serde_json::Value =
        serde_json::from_str(&get(port, "/v1.0/metadata").body).unwrap();
    assert_eq!(metadata["appConnectionProperties"]["maxConcurrency"], 1);
}

#[test]
fn an_app_is_found_by_the_name_of_its_host() {
    if !has_localhost() {
        return;
    }
    let place = Place::new();
    let app = App::start();
    let more = ["--app-channel-address", "localhost"];
    let (_process, port) = place.sidecar("orders", Some(app.port), &more);
    assert_eq!(get(port, "/v1.0/invoke/orders/method/x").body, "/x ");
    let metadata: serde_json::Value =
        serde_json::from_str(&get(port, "/v1.0/metadata").body).unwrap();
    assert_eq!(metadata["appConnectionProperties"]["channelAddress"], "localhost");
}

#[test]
fn a_host_without_address_is_named_with_its_flag() {
    let place = Place::new();
    let ports = [free_port().to_string(), free_port().to_string()];
    let finished = place.finish(&[
        "sidecar",
        "--app-id=orders",
        "--dapr-http-port",
        &ports[0],
        "--app-port",
        &ports[1],
        "--app-channel-address=nowhere.invalid",
        "--enable-metrics=false",
    ]);
    assert_eq!(finished.code, 1, "{}", finished.output);
    let want = "cannot resolve app-channel-address \\\"nowhere.invalid\\\"";
    assert!(finished.output.contains(want), "{}", finished.output);
}

#[test]
fn the_status_of_a_body_that_is_too_large_is_the_operators_choice() {
    let place = Place::new();
    let app = App::start();
    let large = "x".repeat(2000);
    for (strict, want) in [("true", 500), ("false", 413)] {
        let strict = format!("--strict-status={strict}");
        let more = ["--max-body-size=1Ki", &strict];
        let (_process, port) = place.sidecar("orders", Some(app.port), &more);
        let answer = call(port, "POST /v1.0/invoke/orders/method/x", &[], &large);
        assert_eq!(answer.status, want, "{answer:?}");
        assert!(answer.body.contains("stream too large"), "{answer:?}");
    }
}

#[test]
fn an_app_of_another_protocol_calls_others_and_is_told_that_none_call_it() {
    let place = Place::new();
    let (orders, caller) = (App::start(), App::start());
    let (_orders, _) = place.sidecar("orders", Some(orders.port), &[]);
    let more = ["--app-protocol=grpc"];
    let (mut process, port) = place.start_sidecar("caller", Some(caller.port), &more);
    process.wait_for("--app-protocol grpc: calls to the app are answered 500");
    process.wait_for("dapr initialized. Status: Running.");
    assert_eq!(get(port, "/v1.0/invoke/orders/method/x").status, 200);
    let own = get(port, "/v1.0/invoke/caller/method/x");
    assert_eq!(own.status, 500);
    assert!(own.body.contains("app channel not initialized"), "{}", own.body);
    assert!(!caller.has_request());
}
