//! Processes that are killed: the registry forgets them at once, and a data plane comes back on the
//! same sockets.

#![forbid(unsafe_code)]

use crate::support::{App, Place, Process, eventually, free_port, get, status_of, try_call};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    net::TcpStream,
    process::Command,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

fn kill(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

fn data_plane_of(sidecar: &Process) -> u32 {
    let path = format!("/proc/{0}/task/{0}/children", sidecar.pid());
    fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

#[test]
fn a_sidecar_whose_processes_are_killed_is_gone_for_callers_at_once() {
    let place = Place::new();
    let app = App::start();
    let (_caller, port) = place.sidecar("caller", None, &[]);
    let (callee, callee_port) = place.sidecar("checkout", Some(app.port), &[]);
    eventually("the route is known", || status_of(port, "/v1.0/invoke/checkout/method/x") == 200);
    let data_plane = data_plane_of(&callee);
    callee.kill();
    kill(data_plane, Signal::KILL);
    let killed = Instant::now();
    eventually("its entry is gone", || place.files("apps").len() == 1);
    eventually("callers know no route", || {
        let answer = get(port, "/v1.0/invoke/checkout/method/x");
        answer.status == 500 && answer.body.contains("couldn't find service: checkout")
    });
    let kept = Duration::from_secs(8);
    assert!(killed.elapsed() < kept, "nothing waits for as long as a data plane is kept");
    assert!(try_call(callee_port, "GET /v1.0/healthz", &[], "").is_err());
    eventually("its sockets are gone", || place.files("sockets").len() == 1);

    // The name is free for the next one.
    let (_again, _) = place.sidecar("checkout", Some(app.port), &[]);
    eventually("the new one is called", || {
        status_of(port, "/v1.0/invoke/checkout/method/x") == 200
    });
}

#[test]
fn a_killed_data_plane_is_replaced_and_no_connection_is_refused() {
    let place = Place::new();
    let app = App::start();
    let metrics = free_port();
    let flag = format!("--metrics-port={metrics}");
    let (mut process, port) = place.sidecar("checkout", Some(app.port), &[&flag]);
    let first = data_plane_of(&process);
    let (connected, is_enough) = mpsc::channel();
    let connecting = thread::spawn(move || {
        // Ends when the test has seen enough.
        while connected.send(TcpStream::connect(("127.0.0.1", port)).map(drop)).is_ok() {}
    });
    kill(first, Signal::KILL);
    process.wait_for(&format!("Data plane (process {first}) ended: signal: 9 (SIGKILL)"));
    // What the killed process had accepted is lost; a connection made from here on is served.
    assert_eq!(get(port, "/v1.0/invoke/checkout/method/x").body, "/x ");
    let attempts: Vec<_> = is_enough.try_iter().collect();
    drop(is_enough);
    connecting.join().unwrap();
    assert!(attempts.len() > 1);
    assert!(attempts.iter().all(Result::is_ok), "{attempts:?}");
    assert_ne!(data_plane_of(&process), first);
    assert_eq!(get(port, "/v1.0/healthz").status, 204);
    let page = get(metrics, "/");
    assert!(page.body.contains("ringcar_data_plane_restarts_total 1\n"), "{}", page.body);
}

#[test]
fn a_data_plane_leaves_signals_to_its_control() {
    let place = Place::new();
    let (process, port) = place.sidecar("checkout", None, &[]);
    let data_plane = data_plane_of(&process);
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        kill(data_plane, signal);
        assert_eq!(get(port, "/v1.0/healthz").status, 204, "{signal:?}");
    }
    assert_eq!(data_plane_of(&process), data_plane);
}

#[test]
fn a_data_plane_that_cannot_start_is_reported() {
    let place = Place::new();
    let port = free_port().to_string();
    let arguments =
        ["sidecar", "--app-id", "a", "--dapr-http-port", &port, "--enable-metrics=false"];
    let mut command: Command = place.ringcar(&arguments);
    let mut process = Process::start(command.env("RINGCAR_ENGINE", "kqueue"));
    process.wait_for("RINGCAR_ENGINE=\"kqueue\" names no engine");
    process.wait_for("Data plane");
    process.signal(Signal::TERM);
    assert_eq!(process.wait().code, 0);
}

#[test]
fn a_registry_that_is_removed_does_not_stop_calls() {
    let place = Place::new();
    let app = App::start();
    let (mut caller, port) = place.sidecar("caller", None, &[]);
    let (_callee, _) = place.sidecar("checkout", Some(app.port), &[]);
    eventually("the route is known", || status_of(port, "/v1.0/invoke/checkout/method/x") == 200);
    fs::rename(place.path().join("run/apps"), place.path().join("elsewhere")).unwrap();
    caller.wait_for("the apps known so far stay reachable");
    assert_eq!(get(port, "/v1.0/invoke/checkout/method/x").status, 200);
}
