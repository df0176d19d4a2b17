//! What breaks under way, and what each side then sees: never a cut-off body that looks whole,
//! never an answer of somebody else's, and the next call works.

#![forbid(unsafe_code)]

use crate::{
    OK, X, answer, get, post, request,
    support::{App, End, Hop, Mesh, Plane, Wire, on_both_engines},
};
use dataplane::engine::Choice;
use snapshot::wire::ToDataPlane;

/// A call after the fault reaches the app and comes back.
fn assert_works(case: &str, mesh: &Mesh, app: &App) {
    let mut client = mesh.client();
    client.send(get(X));
    let mut upstream = app.accept();
    upstream.read_request();
    upstream.send(OK);
    assert_eq!(client.read_response().text(), "ok", "{case}");
}

on_both_engines! {
    fn app_ends_a_fresh_connection_before_any_byte(engine: Choice) {
        for hop in Hop::BOTH {
            for verb in ["GET", "POST"] {
                for reset in [false, true] {
                    let app = App::listen();
                    let mesh = Mesh::start(engine, hop, app.address());
                    let case = format!("{verb}, reset {reset} ({hop:?})");
                    let mut client = mesh.client();
                    client.send(request(verb, X, "Content-Length: 5\r\n") + "hello");
                    let mut upstream = app.accept();
                    upstream.read_request();
                    if reset {
                        upstream.reset()
                    } else {
                        drop(upstream)
                    }
                    let response = client.read_response();
                    assert_eq!(response.status(), 500, "{case}: {response}");
                    let reason = if reset { "connection reset by peer" } else { "EOF" };
                    assert!(response.text().contains(reason), "{case}: {response}");
                    app.assert_untouched();
                    client.send(get("/v1.0/healthz"));
                    assert_eq!(client.read_response().status(), 204, "{case}: client kept");
                    assert_works(&case, &mesh, &app);
                }
            }
        }
    }

    fn app_ends_within_the_head(engine: Choice) {
        for hop in Hop::BOTH {
            for reset in [false, true] {
                let app = App::listen();
                let mesh = Mesh::start(engine, hop, app.address());
                let case = format!("reset {reset} ({hop:?})");
                let mut client = mesh.client();
                client.send(get(X));
                let mut upstream = app.accept();
                upstream.read_request();
                upstream.send("HTTP/1.1 200 OK\r\nContent-Le");
                mesh.settle_back();
                if reset {
                    upstream.reset()
                } else {
                    drop(upstream)
                }
                assert_eq!(client.read_response().status(), 500, "{case}");
                assert_works(&case, &mesh, &app);
            }
        }
    }

    fn body_cut_off_is_seen_as_cut_off(engine: Choice) {
        for hop in Hop::BOTH {
            for reset in [false, true] {
                for (framing, start, body) in [
                    ("length", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", "hello"),
                    (
                        "chunked",
                        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                        "5\r\nhello\r\n",
                    ),
                    (
                        "inside a chunk",
                        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                        "64\r\nhello",
                    ),
                ] {
                    let app = App::listen();
                    let mesh = Mesh::start(engine, hop, app.address());
                    let case = format!("{framing}, reset {reset} ({hop:?})");
                    let mut client = mesh.client();
                    client.send(get(X));
                    let mut upstream = app.accept();
                    upstream.read_request();
                    upstream.send(start);
                    upstream.send(body);
                    client.read_head();
                    assert_eq!(client.read_bytes(body.len()), body.as_bytes(), "{case}");
                    if reset {
                        upstream.reset()
                    } else {
                        drop(upstream)
                    }
                    client.assert_ended();
                    assert_works(&case, &mesh, &app);
                }
            }
        }
    }

    fn body_until_close_cut_off_by_a_reset_is_seen_as_cut_off(engine: Choice) {
        for hop in Hop::BOTH {
            for version in ["HTTP/1.1", "HTTP/1.0"] {
                let app = App::listen();
                let mesh = Mesh::start(engine, hop, app.address());
                let mut client = mesh.client();
                client.send(format!("GET {X} {version}\r\nHost: a\r\n\r\n"));
                let mut upstream = app.accept();
                upstream.read_request();
                upstream.send("HTTP/1.1 200 OK\r\n\r\nhello");
                client.read_head();
                mesh.settle_back();
                upstream.reset();
                let (bytes, end) = client.read_to_end();
                assert!(!bytes.ends_with(b"0\r\n\r\n"), "{hop:?}: {}", bytes.escape_ascii());
                if version == "HTTP/1.0" {
                    assert_eq!(end, End::Reset, "{hop:?}: nothing else tells it from a whole one");
                }
                assert_works(version, &mesh, &app);
            }
        }
    }

    fn broken_chunk_of_the_app_ends_the_body_visibly(engine: Choice) {
        for hop in Hop::BOTH {
            for bad in
                ["xyz\r\n", "5\r\nhelloXX", "5\nhello", "10000000000000005\r\n", "0\r\nX\r\n\r\n"]
            {
                let app = App::listen();
                let mesh = Mesh::start(engine, hop, app.address());
                let mut client = mesh.client();
                client.send(get(X));
                let mut upstream = app.accept();
                upstream.read_request();
                upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n");
                client.read_head();
                client.read_bytes(7);
                upstream.send(bad);
                let (bytes, _) = client.read_to_end();
                assert!(!bytes.ends_with(b"0\r\n\r\n"), "{bad:?} ({hop:?})");
                upstream.read_to_end();
                assert_works(bad, &mesh, &app);
            }
        }
    }

    fn client_that_leaves_within_the_head(engine: Choice) {
        let app = App::listen();
        let mesh = Mesh::start(engine, Hop::Own, app.address());
        for reset in [false, true] {
            let mut client = mesh.client();
            client.send(&get(X)[..20]);
            mesh.settle();
            if reset { client.reset() } else { drop(client) }
        }
        mesh.settle();
        app.assert_untouched();
        assert_works("within the head", &mesh, &app);
    }

    fn client_that_closes_within_the_head_is_answered_400_or_closed(engine: Choice) {
        let app = App::listen();
        let mesh = Mesh::start(engine, Hop::Own, app.address());
        let mut client = mesh.client();
        client.send(&get(X)[..20]);
        client.shutdown_write();
        let (bytes, _) = client.read_to_end();
        assert!(
            bytes.is_empty() || bytes.starts_with(b"HTTP/1.1 400 "),
            "{}",
            bytes.escape_ascii()
        );
        app.assert_untouched();
    }

    fn client_that_leaves_within_the_body_does_not_complete_it(engine: Choice) {
        for hop in Hop::BOTH {
            for reset in [false, true] {
                for (framing, lines, body) in [
                    ("length", "Content-Length: 100\r\n", "hello"),
                    ("chunked", "Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n"),
                ] {
                    let app = App::listen();
                    let mesh = Mesh::start(engine, hop, app.address());
                    let case = format!("{framing}, reset {reset} ({hop:?})");
                    let mut client = mesh.client();
                    client.send(request("POST", X, lines) + body);
                    let mut upstream = app.accept();
                    upstream.read_head();
                    assert_eq!(upstream.read_bytes(body.len()), body.as_bytes(), "{case}");
                    if reset {
                        client.reset()
                    } else {
                        drop(client)
                    }
                    upstream.assert_ended();
                    assert_works(&case, &mesh, &app);
                }
            }
        }
    }

    fn client_that_leaves_while_waiting_frees_the_app(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(post(X, "hello"));
            let mut upstream = app.accept();
            upstream.read_request();
            client.reset();
            assert!(upstream.ends(), "the app still serves a client that has left ({hop:?})");
            assert_works("reset while waiting", &mesh, &app);
        }
    }

    fn client_that_leaves_while_it_is_answered_frees_the_app(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(get(X));
            let mut upstream = app.accept();
            upstream.read_request();
            upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
            client.read_head();
            client.reset();
            assert!(upstream.ends(), "the app still serves a client that has left ({hop:?})");
            assert_works("reset while answered", &mesh, &app);
        }
    }

    fn peer_that_dies_under_a_call(engine: Choice) {
        let app = App::listen();
        let mut mesh = Mesh::start(engine, Hop::Peer, app.address());
        let mut client = mesh.client();
        client.send(post(X, "hello"));
        let mut upstream = app.accept();
        upstream.read_request();
        drop(mesh.callee.take());
        let response = client.read_response();
        assert_eq!(response.status(), 500, "{response}");
        assert!(response.text().starts_with("{\"errorCode\":\"ERR_DIRECT_INVOKE\""), "{response}");
    }

    fn peer_that_dies_within_an_answer(engine: Choice) {
        let app = App::listen();
        let mut mesh = Mesh::start(engine, Hop::Peer, app.address());
        let mut client = mesh.client();
        client.send(get(X));
        let mut upstream = app.accept();
        upstream.read_request();
        upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
        client.read_head();
        client.read_bytes(10);
        drop(mesh.callee.take());
        client.assert_ended();
    }

    fn app_that_drips_its_answer(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(get(X));
            let mut upstream = app.accept();
            upstream.read_request();
            upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n");
            client.read_head();
            for byte in "one byte at a time!!".bytes() {
                upstream.send([byte]);
                assert_eq!(client.read_bytes(1), [byte], "{hop:?}");
            }
            client.send(get(X));
            upstream.read_request();
        }
    }

    fn app_that_answers_before_it_is_asked(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(request("POST", X, "Content-Length: 5\r\n"));
            let mut upstream = app.accept();
            upstream.send(answer("200 OK", "", "early"));
            assert_eq!(client.read_response().text(), "early", "{hop:?}");
        }
    }

    fn client_that_leaves_while_the_app_is_being_reached(engine: Choice) {
        // The kernel drops the first packet of a connection that finds the queue full.
        let app = App::listen_with_backlog(0);
        let _queued: Vec<_> = (0..3).filter_map(|_| Wire::start_connect(&app.address())).collect();
        let mut plane = Plane::on(engine).app("checkout", Some(app.address())).start();
        for reset in [false, true] {
            let mut client = plane.client();
            client.send(request("POST", X, "Content-Length: 1000000\r\n"));
            client.send(vec![b'x'; 100_000]);
            plane.settle();
            client.assert_silent();
            if reset {
                client.reset()
            } else {
                drop(client)
            }
            plane.await_counter_down_to("ringcar_connections_open", 0.0);
            plane.await_counter_down_to("ringcar_buffers_leased", 0.0);
        }
    }

    fn exit_while_the_app_is_being_reached(engine: Choice) {
        let app = App::listen_with_backlog(0);
        let _queued: Vec<_> = (0..3).filter_map(|_| Wire::start_connect(&app.address())).collect();
        let mut plane = Plane::on(engine).app("checkout", Some(app.address())).start();
        let mut client = plane.client();
        client.send(post(X, "hello"));
        plane.settle();
        plane.link.send(&ToDataPlane::Exit, &[]);
        plane.assert_ends();
        client.read_to_end();
    }
}
