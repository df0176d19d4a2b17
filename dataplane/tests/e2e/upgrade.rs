//! Upgrade: a tunnel once the app has agreed, and not a byte before.

#![forbid(unsafe_code)]

use crate::{
    OK, X, answer, request,
    support::{App, End, Hop, Mesh, on_both_engines},
};
use dataplane::engine::Choice;

const ASK: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
const AGREE: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

on_both_engines! {
    fn agreed_upgrade_is_a_tunnel(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(request("GET", X, ASK));
            let mut upstream = app.accept();
            let seen = upstream.read_head();
            assert_eq!(seen.one("upgrade"), Some("websocket"), "{hop:?}");
            assert!(seen.one("connection").unwrap().eq_ignore_ascii_case("upgrade"), "{hop:?}");
            assert_eq!(seen.one("sec-websocket-version"), Some("13"), "{hop:?}");
            upstream.send(AGREE);
            let response = client.read_response();
            assert_eq!(response.status(), 101, "{hop:?}");
            assert_eq!(response.one("upgrade"), Some("websocket"), "{hop:?}");
            assert!(response.one("connection").unwrap().eq_ignore_ascii_case("upgrade"));
            assert!(response.has("sec-websocket-accept"), "{hop:?}");
            for round in 0..3 {
                let down = format!("\x01down {round}\0GET / HTTP/1.1\r\n\r\n");
                let up = format!("\x02up {round}\0");
                client.send(&up);
                assert_eq!(upstream.read_bytes(up.len()), up.as_bytes(), "{hop:?}");
                upstream.send(&down);
                assert_eq!(client.read_bytes(down.len()), down.as_bytes(), "{hop:?}");
            }
        }
    }

    fn bytes_right_behind_the_agreement_are_the_tunnels(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(request("GET", X, ASK));
            let mut upstream = app.accept();
            upstream.read_head();
            upstream.send(format!("{AGREE}hello"));
            assert_eq!(client.read_response().status(), 101, "{hop:?}");
            assert_eq!(client.read_bytes(5), b"hello", "{hop:?}");
        }
    }

    fn bytes_right_behind_the_question_wait_for_the_answer(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(format!("{}early", request("GET", X, ASK)));
            let mut upstream = app.accept();
            upstream.read_head();
            mesh.settle();
            upstream.assert_silent();
            upstream.send(AGREE);
            assert_eq!(client.read_response().status(), 101, "{hop:?}");
            assert_eq!(upstream.read_bytes(5), b"early", "{hop:?}");
        }
    }

    fn each_direction_ends_by_itself(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(request("GET", X, ASK));
            let mut upstream = app.accept();
            upstream.read_head();
            upstream.send(AGREE);
            client.read_response();
            client.send("last words");
            client.shutdown_write();
            assert_eq!(upstream.read_to_end(), (b"last words".to_vec(), End::Fin), "{hop:?}");
            upstream.send("still here");
            assert_eq!(client.read_bytes(10), b"still here", "{hop:?}");
            drop(upstream);
            assert_eq!(client.assert_ended(), End::Fin, "{hop:?}");
        }
    }

    fn end_of_the_app_ends_the_client_and_back(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(request("GET", X, ASK));
            let mut upstream = app.accept();
            upstream.read_head();
            upstream.send(AGREE);
            client.read_response();
            upstream.reset();
            client.read_to_end();

            let mut client = mesh.client();
            client.send(request("GET", X, ASK));
            let mut upstream = app.accept();
            upstream.read_head();
            upstream.send(AGREE);
            client.read_response();
            client.reset();
            upstream.read_to_end();
        }
    }

    fn refused_upgrade_leaves_http(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send([request("GET", X, ASK), crate::get(X)].concat());
            let mut upstream = app.accept();
            upstream.read_head();
            upstream.send(answer("403 Forbidden", "", "no"));
            let response = client.read_response();
            assert_eq!((response.status(), response.text()), (403, "no"), "{hop:?}");
            // The bytes behind the question are a request again.
            assert_eq!(upstream.read_request().start_line, "GET /x HTTP/1.1", "{hop:?}");
            upstream.send(OK);
            assert_eq!(client.read_response().status(), 200, "{hop:?}");
        }
    }

    fn agreement_that_nobody_asked_for_is_an_error(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(crate::get(X));
            let mut upstream = app.accept();
            upstream.read_request();
            upstream.send(format!("{AGREE}HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"));
            let response = client.read_response();
            assert_eq!(response.status(), 500, "{hop:?}: {response}");
            upstream.read_to_end();
        }
    }

    fn questions_that_are_none_are_plain_requests(engine: Choice) {
        for hop in Hop::BOTH {
            for (case, request) in [
                ("not named in Connection", request("GET", X, "Upgrade: websocket\r\n")),
                (
                    "h2c",
                    request(
                        "GET",
                        X,
                        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
                         HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
                    ),
                ),
                (
                    "HTTP/1.0",
                    format!(
                        "GET {X} HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
                    ),
                ),
            ] {
                let app = App::listen();
                let mesh = Mesh::start(engine, hop, app.address());
                let mut client = mesh.client();
                client.send(request);
                let mut upstream = app.accept();
                let seen = upstream.read_request();
                assert!(!seen.has("upgrade"), "{case} ({hop:?}): {seen}");
                assert!(!seen.has("connection"), "{case} ({hop:?}): {seen}");
                upstream.send(OK);
                let head = client.read_bytes(12);
                assert!(head.ends_with(b" 200"), "{case} ({hop:?}): {}", head.escape_ascii());
            }
        }
    }
}
