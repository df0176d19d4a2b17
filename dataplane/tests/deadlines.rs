//! Clocks that run for seconds, all at once in one test, so that they cost the time of the longest.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected ends there")]

#[expect(
    dead_code,
    unused_imports,
    unused_macros,
    reason = "the conversations in e2e use the rest"
)]
mod support;

use dataplane::{clock, engine::Choice};
use std::time::Duration;
use support::{Plane, Wire};

/// daprd's, for a whole head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// What control may take for an answer.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(5);
/// A clock may be early by rounding, and late by that and a busy machine.
const EARLY: Duration = Duration::from_millis(200);
const LATE: Duration = Duration::from_secs(20);

#[test]
fn whoever_is_too_slow_is_let_go() {
    let mut engines = vec![Choice::Epoll];
    if support::has_uring("whoever_is_too_slow_is_let_go") {
        engines.push(Choice::Uring);
    }
    std::thread::scope(|scope| {
        for engine in engines {
            let start = move || Plane::on(engine).app("checkout", None).start();
            scope.spawn(move || silent_client(&start()));
            scope.spawn(move || client_that_stops_within_its_first_head(&start()));
            scope.spawn(move || client_that_stops_within_its_second_head(&start()));
            scope.spawn(move || client_that_drips(&start()));
            scope.spawn(move || control_that_does_not_answer(&start()));
        }
    });
}

fn silent_client(plane: &Plane) {
    let mut client = plane.client();
    assert_ends_after("silent client", HEAD_TIMEOUT, &mut client);
}

fn client_that_stops_within_its_first_head(plane: &Plane) {
    let mut client = plane.client();
    client.send("GET /v1.0/heal");
    assert_ends_after("first head", HEAD_TIMEOUT, &mut client);
}

fn client_that_stops_within_its_second_head(plane: &Plane) {
    let mut client = plane.client();
    client.send("GET /v1.0/healthz HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.read_response().status(), 204);
    client.send("GET /v1.0/heal");
    assert_ends_after("second head", HEAD_TIMEOUT, &mut client);
}

/// A byte now and then does not turn the clock back.
fn client_that_drips(plane: &Plane) {
    let mut client = plane.client();
    client.send("GET /v1.0/healthz HTTP/1.1\r\nX-Drip: ");
    let start = clock::now();
    while client.read_to_end_or_silence().1.is_none() {
        client.try_send("x").ok();
        assert!(clock::now().since(start) < HEAD_TIMEOUT + LATE, "the dripping client is held");
    }
    assert!(clock::now().since(start) > HEAD_TIMEOUT - EARLY, "the dripping client left too soon");
}

fn control_that_does_not_answer(plane: &Plane) {
    let mut client = plane.client();
    client.send("PUT /v1.0/metadata/k HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nv");
    client.set_deadline(ADMIN_TIMEOUT + LATE);
    let start = clock::now();
    let response = client.read_response();
    assert_eq!(response.status(), 503, "{response}");
    assert!(clock::now().since(start) > ADMIN_TIMEOUT - EARLY, "control had less time");
    client.send("GET /v1.0/healthz HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.read_response().status(), 204, "the client is kept");
}

fn assert_ends_after(case: &str, timeout: Duration, client: &mut Wire) {
    let start = clock::now();
    client.set_deadline(timeout + LATE);
    assert!(client.ends(), "{case}: not let go");
    let took = clock::now().since(start);
    assert!(took > timeout - EARLY, "{case}: let go after {took:?}");
}
