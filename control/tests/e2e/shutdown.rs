//! How a sidecar ends: gently, after a while, at once, and by request.

#![forbid(unsafe_code)]

use crate::support::{
    App, Load, MortalApp, Place, Server, call, eventually, get, status_of, try_call,
};
use rustix::process::Signal;
use std::{fs, thread};

#[test]
fn calls_in_flight_finish_before_the_end() {
    let place = Place::new();
    let (app, gate) = App::start_gated();
    let (caller, caller_port) = place.sidecar("caller", None, &[]);
    let (mut callee, _) = place.sidecar("checkout", Some(app.port), &[]);
    eventually("the route is known", || {
        status_of(caller_port, "/v1.0/invoke/checkout/method/x") == 200
    });
    let call = thread::spawn(move || {
        try_call(caller_port, "POST /v1.0/invoke/checkout/method/slow", &[], "body")
    });
    app.request_for("/slow");
    callee.signal(Signal::TERM);
    callee.wait_for("Received signal 'terminated'; beginning shutdown");
    eventually("the name is gone", || place.files("apps").len() == 1);
    caller.signal(Signal::TERM);
    gate.open();
    let answer = call.join().unwrap().unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "/slow body"));
    for process in [callee, caller] {
        let finished = process.wait();
        assert_eq!(finished.code, 0, "{}", finished.output);
        assert!(finished.output.contains("Daprd shutdown gracefully"), "{}", finished.output);
    }
    assert!(place.files("apps").is_empty() && place.files("sockets").is_empty());
}

#[test]
fn calls_that_take_too_long_are_cut_off_with_code_1() {
    let place = Place::new();
    let (app, _gate) = App::start_gated();
    let more = ["--dapr-graceful-shutdown-seconds", "1"];
    let (process, port) = place.sidecar("checkout", Some(app.port), &more);
    let call = thread::spawn(move || {
        try_call(port, "GET /v1.0/invoke/checkout/method/slow", &[], "").map(|answer| answer.status)
    });
    app.request_for("/slow");
    process.signal(Signal::TERM);
    let finished = process.wait();
    assert_eq!(finished.code, 1, "{}", finished.output);
    let want = "Graceful shutdown timeout exceeded, forcing shutdown";
    assert!(finished.output.contains(want), "{}", finished.output);
    assert!(call.join().unwrap().is_err());
}

#[test]
fn a_second_signal_ends_at_once() {
    let place = Place::new();
    let (app, _gate) = App::start_gated();
    let more = ["--dapr-graceful-shutdown-seconds", "600"];
    let (mut process, port) = place.sidecar("checkout", Some(app.port), &more);
    let call =
        thread::spawn(move || try_call(port, "GET /v1.0/invoke/checkout/method/slow", &[], ""));
    app.request_for("/slow");
    process.signal(Signal::INT);
    process.wait_for("Received signal 'interrupt'; beginning shutdown");
    process.signal(Signal::TERM);
    let finished = process.wait();
    assert_eq!(finished.code, 1, "{}", finished.output);
    assert!(call.join().unwrap().is_err());
}

#[test]
fn serves_on_while_the_shutdown_is_blocked() {
    let place = Place::new();
    let app = App::start();
    let more = ["--dapr-block-shutdown-duration", "1s"];
    let (mut process, port) = place.sidecar("checkout", Some(app.port), &more);
    process.signal(Signal::TERM);
    process.wait_for("Blocking graceful shutdown for 1s or until app reports unhealthy...");
    assert_eq!(get(port, "/v1.0/invoke/checkout/method/x").status, 200);
    let finished = process.wait();
    assert_eq!(finished.code, 0, "{}", finished.output);
    let want = "Block shutdown period expired, entering shutdown...";
    assert!(finished.output.contains(want), "{}", finished.output);
}

#[test]
fn the_api_shuts_down_gently_or_by_force() {
    let place = Place::new();
    for (case, headers, code, want) in [
        ("gently", &[][..], 0, "Shutdown requested via API"),
        ("by force", &["dapr-force-shutdown: TRUE"], 1, "Force shutdown requested, exiting"),
    ] {
        let (process, port) = place.sidecar("checkout", None, &[]);
        assert_eq!(call(port, "POST /v1.0/shutdown", headers, "").status, 204, "{case}");
        let finished = process.wait();
        assert_eq!(finished.code, code, "{case}: {}", finished.output);
        assert!(finished.output.contains(want), "{case}: {}", finished.output);
        assert_eq!(status_of(port, "/v1.0/healthz"), 0, "{case}");
    }
}

#[test]
fn a_hangup_changes_nothing() {
    let place = Place::new();
    let (mut process, port) = place.sidecar("checkout", None, &[]);
    process.signal(Signal::HUP);
    process.wait_for("Received signal 'hangup'; there is nothing to reload");
    assert_eq!(get(port, "/v1.0/healthz").status, 204);
}

/// Instances of one machine, and of another one that etcd tells of.
#[test]
fn instances_that_go_gently_lose_no_call_that_must_not_be_repeated() {
    let Some(mut etcd) = Server::etcd() else { return };
    etcd.start();
    eventually("etcd answers", || etcd.is_ready());
    let here = Place::new();
    let there = Place::new();
    let flags = [&here, &there].map(|place| {
        let lines = format!("{{component: etcd, configuration: {{endpoints: '{}'}}}}", etcd.url());
        let path = place.path().join("config.yaml");
        let text = format!("{{kind: Configuration, spec: {{nameResolution: {lines}}}}}");
        fs::write(&path, text).unwrap();
        format!("--config={}", path.display())
    });
    let loopback = "--dapr-internal-grpc-listen-address=127.0.0.1";
    let (_caller, port) = here.sidecar("caller", None, &[&flags[0], loopback]);
    for (case, place, flag) in [("one machine", &here, &flags[0]), ("two", &there, &flags[1])] {
        let id = if case == "two" { "far" } else { "near" };
        let start = || {
            let app = MortalApp::start();
            let sidecar = place.sidecar(id, Some(app.port), &[flag, loopback]).0;
            (sidecar, app)
        };
        let mut instances = vec![start(), start()];
        let path = format!("/v1.0/invoke/{id}/method/x");
        eventually("the app is known", || status_of(port, &path) == 200);
        let loads: Vec<Load> = (0..6).map(|_| Load::posting(port, id)).collect();
        for _ in 0..4 {
            let next = start();
            eventually("it is called", || next.1.calls_of("caller") > 0);
            instances.push(next);
            let (sidecar, app) = instances.remove(0);
            sidecar.signal(Signal::TERM);
            let finished = sidecar.wait();
            assert_eq!(finished.code, 0, "{case}: {}", finished.output);
            drop(app);
        }
        let calls: usize = loads.into_iter().map(Load::assert_none_failed).sum();
        println!("{case}: {calls} calls while instances went");
    }
}
