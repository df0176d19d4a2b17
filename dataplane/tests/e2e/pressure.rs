//! Slow ends: whoever is not read is not read from, so that what waits inside stays small.

#![forbid(unsafe_code)]

use crate::{
    X, get, request,
    support::{App, End, Hop, Mesh, Wire, on_both_engines},
};
use dataplane::engine::Choice;
use std::time::Duration;

const LARGE: usize = 64 << 20;
/// More than the data plane and the kernel's buffers hold of one body.
const MEDIUM: usize = 24 << 20;
/// How long a socket must take nothing to count as full.
const PATIENCE: Duration = Duration::from_millis(100);

/// Bytes of which a lost, doubled or displaced piece would show.
fn pattern(bytes: usize) -> Vec<u8> {
    let period: Vec<u8> = (0..=250).collect();
    let mut pattern = period.repeat(bytes / period.len() + 1);
    pattern.truncate(bytes);
    pattern
}

on_both_engines! {
    fn app_stops_when_the_client_does_not_read(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(get(X));
            let mut upstream = app.accept();
            upstream.read_request();
            upstream.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n"));
            let sent = upstream.send_until_full(&vec![b'x'; LARGE], PATIENCE);
            assert!(sent < LARGE / 2, "{sent} bytes taken from the app and nobody read ({hop:?})");
            // The worker serves others meanwhile.
            mesh.settle();
            // And goes on where it stopped.
            let head = client.read_head();
            assert_eq!(head.one("content-length"), Some(LARGE.to_string().as_str()));
            let rest = upstream;
            let writer = std::thread::spawn(move || {
                let mut rest = rest;
                rest.send(vec![b'x'; LARGE - sent]);
            });
            client.skip_bytes(LARGE as u64);
            writer.join().unwrap();
            client.assert_silent();
        }
    }

    fn client_stops_when_the_app_does_not_read(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start_with(engine, hop, app.address(), |s| {
                s.apps[0].body_bytes_max = None;
            });
            let mut client = mesh.client();
            client.send(request("POST", X, &format!("Content-Length: {LARGE}\r\n")));
            let mut upstream = app.accept();
            let sent = client.send_until_full(&vec![b'x'; LARGE], PATIENCE);
            assert!(sent < LARGE / 2, "{sent} bytes taken from the client, none read ({hop:?})");
            mesh.settle();
            upstream.read_head();
            let mut rest = client.split();
            let writer = std::thread::spawn(move || rest.send(vec![b'x'; LARGE - sent]));
            upstream.skip_bytes(LARGE as u64);
            writer.join().unwrap();
            upstream.send(crate::OK);
            assert_eq!(client.read_response().status(), 200, "{hop:?}");
        }
    }

    fn pipelining_client_that_does_not_read_is_not_read(engine: Choice) {
        let app = crate::support::ServedApp::answering(|_| {
            crate::answer("200 OK", "", &"x".repeat(10_000)).into_bytes()
        });
        let mesh = Mesh::start(engine, Hop::Own, app.address());
        let mut client = mesh.client();
        let requests = get(X).repeat(1_000_000);
        // Full for good, not only while the worker is busy.
        let mut sent = 0;
        loop {
            let taken = client.send_until_full(&requests.as_bytes()[sent..], PATIENCE);
            sent += taken;
            mesh.settle();
            if taken == 0 {
                break;
            }
        }
        assert!(sent < requests.len() / 2, "{sent} bytes of requests taken, no answer read");
        let whole = sent / get(X).len();
        for i in 0..whole.min(200) {
            assert_eq!(client.read_response().body.len(), 10_000, "answer {i}");
        }
    }

    fn slow_reader_holds_up_no_other(engine: Choice) {
        let app = App::listen();
        let mesh = Mesh::start(engine, Hop::Own, app.address());
        let mut slow = Vec::new();
        let body = vec![b'x'; LARGE];
        // More than the buffers a worker starts with can hold.
        for _ in 0..20 {
            let mut client = mesh.client();
            client.send(get(X));
            let mut upstream = app.accept();
            upstream.read_request();
            upstream.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n"));
            upstream.send_until_full(&body, Duration::from_millis(10));
            slow.push((client, upstream));
        }
        for _ in 0..10 {
            let mut client = mesh.client();
            client.send(get(X));
            let mut upstream = app.accept();
            upstream.read_request();
            upstream.send(crate::OK);
            assert_eq!(client.read_response().text(), "ok");
        }
    }

    fn slow_reader_gets_all_of_a_body_whose_app_has_left(engine: Choice) {
        for hop in Hop::BOTH {
            for (case, head) in [
                ("length", format!("HTTP/1.1 200 OK\r\nContent-Length: {MEDIUM}\r\n\r\n")),
                ("until close", "HTTP/1.1 200 OK\r\n\r\n".to_owned()),
            ] {
                let app = App::listen();
                let mesh = Mesh::start(engine, hop, app.address());
                let mut client = mesh.client();
                client.send(get(X));
                let mut upstream = app.accept();
                upstream.read_request();
                let writer = std::thread::spawn(move || {
                    upstream.send(head);
                    upstream.send(pattern(MEDIUM));
                });
                mesh.settle_back();
                let response = client.read_response();
                assert!(response.body == pattern(MEDIUM), "{case} ({hop:?})");
                writer.join().unwrap();
            }
        }
    }

    fn slow_app_gets_all_of_a_body_whose_client_has_half_closed(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start_with(engine, hop, app.address(), |s| {
                s.apps[0].body_bytes_max = None;
            });
            let mut client = mesh.client();
            client.send(request("POST", X, &format!("Content-Length: {MEDIUM}\r\n")));
            let mut upstream = app.accept();
            let mut writer = client.split();
            let writer = std::thread::spawn(move || {
                writer.send(pattern(MEDIUM));
                writer.shutdown_write();
            });
            mesh.settle();
            assert!(upstream.read_request().body == pattern(MEDIUM), "{hop:?}");
            writer.join().unwrap();
            upstream.send(crate::OK);
            assert_eq!(client.read_response().text(), "ok", "{hop:?}");
        }
    }

    fn cut_off_body_is_cut_off_for_a_slow_reader_too(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(get(X));
            let mut upstream = app.accept();
            upstream.read_request();
            upstream.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n"));
            upstream.send_until_full(&pattern(MEDIUM), PATIENCE);
            drop(upstream);
            mesh.settle_back();
            client.read_head();
            let (bytes, _) = client.read_to_end();
            assert!(bytes.len() <= MEDIUM, "{hop:?}");
            assert!(pattern(MEDIUM).starts_with(&bytes), "{hop:?}");
        }
    }

    fn tunnel_holds_back_and_loses_nothing(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(request("GET", X, "Connection: Upgrade\r\nUpgrade: raw\r\n"));
            let mut upstream = app.accept();
            upstream.read_head();
            upstream.send(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n",
            );
            client.read_response();
            let body = pattern(LARGE);
            let up = client.send_until_full(&body, PATIENCE);
            let down = upstream.send_until_full(&body, PATIENCE);
            assert!(up < LARGE / 2 && down < LARGE / 2, "{up} up, {down} down ({hop:?})");
            client.shutdown_write();
            upstream.shutdown_write();
            let (got_up, end) = upstream.read_to_end();
            assert!(got_up == body[..up] && end == End::Fin, "{hop:?}: {} of {up}", got_up.len());
            let (got_down, end) = client.read_to_end();
            assert!(got_down == body[..down] && end == End::Fin, "{hop:?}");
        }
    }

    fn slow_readers_do_not_use_up_what_others_receive_with(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let body = vec![b'x'; LARGE];
            let mut slow = Vec::new();
            // As many as would hold every receive buffer a worker may have, were each to hold all
            // it may.
            for _ in 0..80 {
                let mut client = Wire::connect_narrow(mesh.caller.api());
                client.send(get(X));
                let mut upstream = app.accept();
                upstream.read_request();
                upstream.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n"));
                upstream.send_until_full(&body, Duration::from_millis(5));
                slow.push((client, upstream));
            }
            for round in 0..5 {
                let mut client = mesh.client();
                client.send(get(X));
                let mut upstream = app.accept();
                upstream.read_request();
                upstream.send(crate::answer("200 OK", "", &"y".repeat(50_000)));
                assert_eq!(client.read_response().body.len(), 50_000, "{round} ({hop:?})");
            }
        }
    }
}
