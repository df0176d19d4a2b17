//! A client's connection from request to request: pipelining, keep-alive, `Expect`, interim and
//! early answers, half-close.

#![forbid(unsafe_code)]

use crate::{
    OK, X, answer, get, post, request,
    support::{App, End, Hop, Mesh, Plane, ServedApp, on_both_engines},
};
use dataplane::engine::Choice;

on_both_engines! {
    fn both_connections_are_kept(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(get(X));
            let mut upstream = app.accept();
            for _ in 0..3 {
                upstream.read_request();
                upstream.send(OK);
                let response = client.read_response();
                assert_eq!(response.status(), 200, "{hop:?}");
                assert!(!response.has("connection"), "{hop:?}: {response}");
                client.send(post(X, "hello"));
            }
            upstream.read_request();
            app.assert_untouched();
        }
    }

    fn pipelined_requests_are_answered_in_order(engine: Choice) {
        for hop in Hop::BOTH {
            let app = ServedApp::answering(|r| {
                answer("200 OK", "", r.start_line.split(' ').nth(1).unwrap()).into_bytes()
            });
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            let target = |i| format!("/v1.0/invoke/checkout/method/{i}");
            let burst: String = (0..20)
                .map(|i| if i % 3 == 0 { post(&target(i), "hello") } else { get(&target(i)) })
                .collect();
            client.send(burst);
            for i in 0..20 {
                assert_eq!(client.read_response().text(), format!("/{i}"), "{hop:?}");
            }
        }
    }

    fn pipelined_own_answers_keep_their_place(engine: Choice) {
        let app = App::listen();
        let mesh = Mesh::start(engine, Hop::Own, app.address());
        let mut client = mesh.client();
        client.send([get(X), get("/v1.0/healthz"), get("/nowhere"), get(X)].concat());
        let mut upstream = app.accept();
        upstream.read_request();
        mesh.settle();
        client.assert_silent();
        upstream.send(OK);
        assert_eq!(client.read_response().status(), 200);
        assert_eq!(client.read_response().status(), 204);
        assert_eq!(client.read_response().status(), 404);
        upstream.read_request();
        upstream.send(OK);
        assert_eq!(client.read_response().status(), 200);
    }

    fn client_that_says_close_gets_close(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(request("GET", X, "Connection: close\r\n"));
            let mut upstream = app.accept();
            let seen = upstream.read_request();
            assert!(!seen.has("connection"), "the app's connection is another: {seen}");
            upstream.send(OK);
            let response = client.read_response();
            assert_eq!(response.one("connection"), Some("close"), "{hop:?}: {response}");
            assert_eq!(client.assert_ended(), End::Fin, "{hop:?}");
            // The app's connection outlives the client's.
            let mut other = mesh.client();
            other.send(get(X));
            upstream.read_request();
        }
    }

    fn nothing_is_read_after_close(engine: Choice) {
        let app = App::listen();
        let mesh = Mesh::start(engine, Hop::Own, app.address());
        let mut client = mesh.client();
        client.send([request("GET", X, "Connection: close\r\n"), get("/never")].concat());
        let mut upstream = app.accept();
        upstream.read_request();
        upstream.send(OK);
        assert_eq!(client.read_response().status(), 200);
        let (bytes, _) = client.read_to_end();
        assert!(bytes.is_empty(), "{}", bytes.escape_ascii());
    }

    fn own_answer_to_a_client_that_says_close(engine: Choice) {
        let app = App::listen();
        let mesh = Mesh::start(engine, Hop::Own, app.address());
        for target in ["/v1.0/healthz", "/v1.0/metadata", "/nowhere"] {
            let mut client = mesh.client();
            client.send(request("GET", target, "Connection: close\r\n"));
            assert_eq!(client.read_response().one("connection"), Some("close"), "{target}");
            assert_eq!(client.assert_ended(), End::Fin, "{target}");
        }
    }

    fn an_app_that_closes_does_not_close_the_client(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            for _ in 0..3 {
                client.send(get(X));
                let mut upstream = app.accept();
                upstream.read_request();
                upstream.send(answer("200 OK", "Connection: close\r\n", "ok"));
                let response = client.read_response();
                assert_eq!((response.status(), response.has("connection")), (200, false));
            }
        }
    }

    fn half_closed_client_gets_its_answer(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(post(X, "hello"));
            client.shutdown_write();
            let mut upstream = app.accept();
            assert_eq!(upstream.read_request().text(), "hello");
            mesh.settle();
            upstream.send(OK);
            assert_eq!(client.read_response().text(), "ok", "{hop:?}");
            assert_eq!(client.assert_ended(), End::Fin, "{hop:?}");
        }
    }

    fn expectation_is_the_apps_to_meet(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(request("POST", X, "Content-Length: 5\r\nExpect: 100-continue\r\n"));
            let mut upstream = app.accept();
            let seen = upstream.read_head();
            assert_eq!(seen.one("expect"), Some("100-continue"), "{hop:?}: {seen}");
            upstream.send("HTTP/1.1 100 Continue\r\n\r\n");
            assert_eq!(client.read_response().status(), 100, "{hop:?}");
            client.send("hello");
            assert_eq!(upstream.read_bytes(5), b"hello", "{hop:?}");
            upstream.send(OK);
            assert_eq!(client.read_response().status(), 200, "{hop:?}");
            client.send(get(X));
            upstream.read_request();
        }
    }

    fn expectation_may_be_refused_by_the_app(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(request("POST", X, "Content-Length: 5\r\nExpect: 100-continue\r\n"));
            let mut upstream = app.accept();
            upstream.read_head();
            upstream.send(answer("401 Unauthorized", "", "no"));
            let response = client.read_response();
            assert_eq!((response.status(), response.text()), (401, "no"), "{hop:?}");
            // Whether the body follows is the client's choice, so this connection can carry no
            // other request unless it does; what must not happen is that a body is taken for a
            // request.
            client.try_send("hello").ok();
            client.try_send(get("/v1.0/healthz")).ok();
            let (bytes, _) = client.read_to_end_or_silence();
            assert!(
                bytes.is_empty() || bytes.starts_with(b"HTTP/1.1 204 "),
                "{hop:?}: {}",
                bytes.escape_ascii()
            );
        }
    }

    fn other_expectations_are_refused(engine: Choice) {
        let app = App::listen();
        let mesh = Mesh::start(engine, Hop::Own, app.address());
        let mut client = mesh.client();
        client.send(request("POST", X, "Content-Length: 5\r\nExpect: 200-ok\r\n"));
        assert_eq!(client.read_response().status(), 417);
        app.assert_untouched();
    }

    fn interim_answers_are_relayed(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(get(X));
            let mut upstream = app.accept();
            upstream.read_request();
            upstream.send("HTTP/1.1 103 Early Hints\r\nLink: </s.css>\r\nConnection: x\r\n\r\n");
            let interim = client.read_response();
            assert_eq!((interim.status(), interim.one("link")), (103, Some("</s.css>")), "{hop:?}");
            assert!(!interim.has("connection"), "{hop:?}: {interim}");
            upstream.send("HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n");
            assert_eq!(client.read_response().status(), 102, "{hop:?}");
            assert_eq!(client.read_response().status(), 103, "{hop:?}");
            upstream.send(OK);
            assert_eq!(client.read_response().text(), "ok", "{hop:?}");
            client.send(get(X));
            upstream.read_request();
        }
    }

    fn interim_answers_are_not_for_http_1_0(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(format!("GET {X} HTTP/1.0\r\n\r\n"));
            let mut upstream = app.accept();
            upstream.read_request();
            upstream.send(["HTTP/1.1 103 Early Hints\r\n\r\n", OK].concat());
            let (bytes, _) = client.read_to_end();
            let text = String::from_utf8(bytes).unwrap();
            assert!(text.contains(" 200 OK\r\n") && !text.contains(" 103 "), "{hop:?}: {text}");
        }
    }

    fn too_many_interim_answers_are_the_apps_fault(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(get(X));
            let mut upstream = app.accept();
            upstream.read_request();
            upstream.try_send("HTTP/1.1 103 Early Hints\r\n\r\n".repeat(1000)).ok();
            let mut interim = 0;
            let response = loop {
                let response = client.read_response();
                if response.status() != 103 {
                    break response;
                }
                interim += 1;
            };
            assert_eq!(response.status(), 500, "{hop:?}: {response}");
            assert!(interim < 1000, "{hop:?}");
            upstream.read_to_end();
        }
    }

    fn early_answer_with_length_is_whole_and_the_rest_is_not_a_request(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(request("POST", X, "Content-Length: 100\r\n"));
            let mut upstream = app.accept();
            upstream.read_head();
            upstream.send(answer("413 Content Too Large", "", "too big"));
            let response = client.read_response();
            assert_eq!((response.status(), response.text()), (413, "too big"), "{hop:?}");
            assert_eq!(response.one("connection"), Some("close"), "{hop:?}: {response}");
            client.try_send("GET /v1.0/metadata HTTP/1.1\r\nHost: a\r\n\r\n").ok();
            let (bytes, _) = client.read_to_end_or_silence();
            assert!(bytes.is_empty(), "{hop:?}: {}", bytes.escape_ascii());
        }
    }

    fn early_answer_is_not_lost_while_the_body_is_sent(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            let size = 1 << 20;
            client.send(request("POST", X, &format!("Content-Length: {size}\r\n")));
            let mut upstream = app.accept();
            upstream.read_head();
            upstream.send(answer("413 Content Too Large", "Connection: close\r\n", "too big"));
            drop(upstream);
            // All of it may be sent, or none: the answer is there in any case.
            client.try_send(vec![b'x'; size]).ok();
            let response = client.read_response();
            assert_eq!((response.status(), response.text()), (413, "too big"), "{hop:?}");
        }
    }

    fn app_connection_with_unfinished_request_is_not_used_again(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(request("POST", X, "Content-Length: 100\r\n"));
            let mut upstream = app.accept();
            upstream.read_head();
            upstream.send(OK);
            assert_eq!(client.read_response().status(), 200);
            drop(client);
            let mut other = mesh.client();
            other.send(get(X));
            let seen = app.accept().read_request();
            assert_eq!(seen.start_line, "GET /x HTTP/1.1", "{hop:?}: on a fresh connection");
        }
    }

    fn one_empty_line_before_a_request_is_skipped(engine: Choice) {
        let app = ServedApp::echoing();
        let mesh = Mesh::start(engine, Hop::Own, app.address());
        let mut client = mesh.client();
        client.send(format!("\r\n{}", post(X, "hello")));
        assert_eq!(client.read_response().status(), 200);
        client.send(format!("\r\n{}", get(X)));
        let response = client.read_response();
        assert!(response.text().starts_with("GET /x HTTP/1.1\r\n"), "{response}");
    }

    fn http_1_0_client_is_closed_after_its_answer(engine: Choice) {
        let app = ServedApp::echoing();
        let mesh = Mesh::start(engine, Hop::Own, app.address());
        let mut client = mesh.client();
        client.send(format!("GET {X} HTTP/1.0\r\n\r\n"));
        let (bytes, end) = client.read_to_end();
        assert!(bytes.starts_with(b"HTTP/1."), "{}", bytes.escape_ascii());
        assert_eq!(end, End::Fin);
    }

    fn many_connections_at_once(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut clients: Vec<_> = (0..50).map(|_| mesh.client()).collect();
            for (i, client) in clients.iter_mut().enumerate() {
                client.send(get(&format!("/v1.0/invoke/checkout/method/{i}")));
            }
            let mut upstreams: Vec<_> = clients.iter().map(|_| app.accept()).collect();
            for upstream in upstreams.iter_mut().rev() {
                let seen = upstream.read_request();
                upstream.send(answer("200 OK", "", seen.start_line.split(' ').nth(1).unwrap()));
            }
            for (i, client) in clients.iter_mut().enumerate() {
                assert_eq!(client.read_response().text(), format!("/{i}"), "{hop:?}");
            }
        }
    }

    fn a_call_that_hangs_holds_up_no_other(engine: Choice) {
        let app = App::listen();
        let mesh = Mesh::start(engine, Hop::Own, app.address());
        let mut hanging: Vec<_> = (0..200).map(|_| mesh.client()).collect();
        for client in &mut hanging {
            client.send(get(X));
        }
        let held: Vec<_> = hanging.iter().map(|_| app.accept()).collect();
        let mut client = mesh.client();
        client.send(get(X));
        let mut upstream = app.accept();
        upstream.read_request();
        upstream.send(OK);
        assert_eq!(client.read_response().status(), 200);
        drop(held);
    }

    fn half_closed_client_gets_all_its_answers(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send([get(X), get(X)].concat());
            client.shutdown_write();
            let mut upstream = app.accept();
            upstream.read_request();
            mesh.settle();
            upstream.send(OK);
            assert_eq!(client.read_response().text(), "ok", "{hop:?}");
            upstream.read_request();
            upstream.send(OK);
            assert_eq!(client.read_response().text(), "ok", "{hop:?}");
            assert_eq!(client.assert_ended(), End::Fin, "{hop:?}");
        }
    }

    fn own_answer_does_not_wait_for_the_body(engine: Choice) {
        let app = App::listen();
        let mesh = Mesh::start(engine, Hop::Own, app.address());
        for (target, status) in [("/nowhere", 404), ("/v1.0/invoke/ghost/method/x", 500)] {
            let mut client = mesh.client();
            client.send(request("POST", target, "Content-Length: 100000\r\n"));
            assert_eq!(client.read_response().status(), status, "{target}");
            client.send(vec![b'x'; 100_000]);
            client.send(get("/v1.0/healthz"));
            assert_eq!(client.read_response().status(), 204, "{target}: the body is dropped");
        }
        app.assert_untouched();
    }

    fn body_that_nobody_wants_is_not_read_for_ever(engine: Choice) {
        let app = App::listen();
        let mesh = Mesh::start(engine, Hop::Own, app.address());
        let mut client = mesh.client();
        client.send(request("POST", "/nowhere", "Content-Length: 1000000000\r\n"));
        assert_eq!(client.read_response().status(), 404);
        let sent = (0..1000).take_while(|_| client.try_send(vec![b'x'; 100_000]).is_ok()).count();
        assert!(sent < 1000, "100 MB were read and dropped");
    }

    fn one_hundred_lines_pass_and_more_do_not(engine: Choice) {
        let app = ServedApp::echoing();
        let mesh = Mesh::start(engine, Hop::Own, app.address());
        // Host is one of them.
        for (count, status) in [(99, 200), (100, 431)] {
            let mut client = mesh.client();
            client.send(request("GET", X, &"X-T: 1\r\n".repeat(count)));
            let response = client.read_response();
            assert_eq!(response.status(), status, "{count} lines and Host");
            let seen = response.text().matches("X-T: 1\r\n").count();
            assert_eq!(seen, if status == 200 { count } else { 0 });
        }
    }

    fn head_of_exactly_the_limit_passes(engine: Choice) {
        for hop in Hop::BOTH {
            let app = ServedApp::echoing();
            let bare = request("GET", X, "X-T: \r\n").len();
            // 64 KiB are the most there can be.
            for (said, limit) in [(8192, 8192), (65_536, 65_536), (1 << 20, 65_536)] {
                let mesh = Mesh::start_with(engine, hop, app.address(), |state| {
                    state.apps[0].head_bytes_max = said;
                });
                for (bytes, status) in [(limit, 200), (limit + 1, 431)] {
                    let mut client = mesh.client();
                    let value = "v".repeat(bytes - bare);
                    client.send(request("GET", X, &format!("X-T: {value}\r\n")));
                    let response = client.read_response();
                    assert_eq!(response.status(), status, "{bytes} bytes of {said} ({hop:?})");
                }
            }
        }
    }

    fn path_that_grows_by_its_escapes_passes(engine: Choice) {
        for hop in Hop::BOTH {
            let app = ServedApp::echoing();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(get(&format!("{X}{}", "\"".repeat(7000))));
            let response = client.read_response();
            assert_eq!(response.status(), 200, "{hop:?}: {response}");
            let want = format!("GET /x{} HTTP/1.1\r\n", "%22".repeat(7000));
            assert!(response.text().starts_with(&want), "{hop:?}");
        }
    }

    fn lines_that_do_not_fit_in_front_of_a_head_are_added_all_the_same(engine: Choice) {
        let app = ServedApp::echoing();
        let name = "h".repeat(250);
        let callee = Plane::on(engine).app("checkout", Some(app.address())).start();
        let caller = Plane::on(engine)
            .app(&"o".repeat(253), None)
            .knows("checkout", &[callee.peer()])
            .edit(|s| s.apps[0].origin.host_name = Some(name.clone()))
            .start();
        let mut client = caller.client();
        // In one piece, so that all of it lies in one buffer.
        client.send([post(X, "hello"), post(X, "world"), get(X)].concat());
        for body in ["hello", "world", ""] {
            let response = client.read_response();
            let text = response.text();
            assert!(text.contains(&"o".repeat(253)) && text.contains(&name), "{response}");
            assert!(text.ends_with(&format!("\r\n\r\n{body}")), "{response}");
        }
    }

    fn http_1_0_client_that_asks_to_be_kept_is_kept(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(format!("GET {X} HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"));
            let mut upstream = app.accept();
            upstream.read_request();
            upstream.send(OK);
            let head = client.read_head();
            let said = head.one("connection").unwrap_or_default();
            assert!(said.eq_ignore_ascii_case("keep-alive"), "{hop:?}: {head}");
            assert_eq!(client.read_bytes(2), b"ok", "{hop:?}");
            client.send(format!("GET {X} HTTP/1.0\r\n\r\n"));
            upstream.read_request();
            upstream.send(OK);
            let (bytes, _) = client.read_to_end();
            assert!(bytes.ends_with(b"\r\n\r\nok"), "{hop:?}: {}", bytes.escape_ascii());
        }
    }
}
