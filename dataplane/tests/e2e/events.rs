//! Server-sent events: each line is at the client before the app sends the next one, whatever is in
//! between, and an app that answers such a request with anything but a success.

#![forbid(unsafe_code)]

use crate::{
    X, answer, direct_invoke_error, get, request,
    support::{App, Framing, Hop, Mesh, Plane, ServedApp, on_both_engines},
};
use dataplane::engine::Choice;

const ACCEPT: &str = "Accept: text/event-stream\r\n";

const EVENTS: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
    Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n";

on_both_engines! {
    fn events_come_one_by_one(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(request("GET", X, ACCEPT));
            let mut upstream = app.accept();
            let seen = upstream.read_request();
            assert_eq!(seen.one("accept"), Some("text/event-stream"), "{hop:?}");
            upstream.send(EVENTS);
            let head = client.read_head();
            assert_eq!(head.status(), 200, "{hop:?}");
            assert_eq!(head.one("content-type"), Some("text/event-stream"), "{hop:?}");
            assert_eq!(head.one("cache-control"), Some("no-cache"), "{hop:?}");
            assert!(!head.has("content-length"), "{hop:?}");
            for number in 0..10 {
                // The app sends no further one before the client has this one.
                let event = format!("e\r\ndata: event {number}\n\r\n");
                upstream.send(&event);
                assert_eq!(client.read_bytes(event.len()), event.as_bytes(), "{hop:?}");
            }
            upstream.send("0\r\n\r\n");
            assert_eq!(client.read_bytes(5), b"0\r\n\r\n", "{hop:?}");
        }
    }

    fn events_without_framing_end_with_the_app(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(request("GET", X, ACCEPT));
            let mut upstream = app.accept();
            upstream.read_request();
            upstream.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n");
            assert_eq!(client.read_head().response_framing("GET"), Framing::Chunked, "{hop:?}");
            assert_eq!(client.read_bytes(14), b"9\r\ndata: 1\n\n\r\n", "{hop:?}");
            drop(upstream);
            assert_eq!(client.read_bytes(5), b"0\r\n\r\n", "{hop:?}");
        }
    }

    fn events_pass_through_a_chain_of_apps(engine: Choice) {
        // c calls b, b calls a, each through its sidecar; b is played by this test, too.
        let (a, b) = (App::listen(), App::listen());
        let serving_a = Plane::on(engine).app("a", Some(a.address())).start();
        let serving_b = Plane::on(engine).app("b", Some(b.address()));
        let serving_b = serving_b.knows("a", &[serving_a.peer()]).start();
        let caller = Plane::on(engine).app("c", None).knows("b", &[serving_b.peer()]).start();
        let mut client = caller.client();
        client.send(request("GET", "/v1.0/invoke/b/method/x", ACCEPT));
        let mut app_b = b.accept();
        app_b.read_request();
        let mut client_b = serving_b.client();
        client_b.send(request("GET", "/v1.0/invoke/a/method/x", ACCEPT));
        let mut app_a = a.accept();
        app_a.read_request();
        app_a.send(EVENTS);
        client_b.read_head();
        app_b.send(EVENTS);
        client.read_head();
        for number in 0..5 {
            let event = format!("d\r\ndata: line {number}\n\r\n");
            app_a.send(&event);
            let relayed = client_b.read_bytes(event.len());
            app_b.send(&relayed);
            assert_eq!(client.read_bytes(event.len()), event.as_bytes());
        }
    }

    fn another_sidecars_app_that_refuses_is_told_in_daprds_words(engine: Choice) {
        let app = ServedApp::answering(|_| answer("404 Not Found", "", "no such stream").into());
        let mesh = Mesh::start(engine, Hop::Peer, app.address());
        let text = "failed to invoke, id: checkout, err: rpc error: code = Internal desc = error \
            invoking app channel: no response received from stream";
        let mut client = mesh.client();
        for accept in ["text/event-stream", "  TEXT/event-stream "] {
            client.send(request("GET", X, &format!("Accept:{accept}\r\n")));
            let response = client.read_response();
            assert_eq!(response.status(), 500, "{accept}");
            assert_eq!(response.text(), direct_invoke_error(text), "{accept}");
            assert_eq!(response.one("content-type"), Some("application/json"), "{accept}");
        }
        // Whoever takes something else as well gets what the app says.
        for lines in ["", "Accept: text/event-stream, */*\r\n", "Accept: application/json\r\n"] {
            client.send(request("GET", X, lines));
            let response = client.read_response();
            assert_eq!((response.status(), response.text()), (404, "no such stream"), "{lines}");
        }
    }

    fn the_own_app_that_refuses_is_heard(engine: Choice) {
        let app = ServedApp::answering(|_| answer("404 Not Found", "", "no such stream").into());
        let mesh = Mesh::start(engine, Hop::Own, app.address());
        let mut client = mesh.client();
        client.send(request("GET", X, ACCEPT));
        let response = client.read_response();
        assert_eq!((response.status(), response.text()), (404, "no such stream"));
        client.send(get(X));
        assert_eq!(client.read_response().status(), 404);
    }
}
