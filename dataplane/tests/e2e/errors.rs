//! Failures of a call, byte for byte: status line, content type and body as daprd 1.18 gives them.

#![forbid(unsafe_code)]

use crate::{
    X, direct_invoke_error, get, post, request,
    support::{App, Framing, Hop, Mesh, Message, Plane, on_both_engines, route},
};
use dataplane::engine::Choice;
use snapshot::Address;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// An address at which nobody listens.
fn nobody() -> Address {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    Address::Tcp(listener.local_addr().unwrap())
}

fn assert_error(case: &str, response: &Message, status_line: &str, message: &str) {
    assert_eq!(response.start_line, status_line, "{case}: {response}");
    assert_eq!(response.text(), direct_invoke_error(message), "{case}");
    assert_eq!(response.one("content-type"), Some("application/json"), "{case}");
    assert_eq!(response.framing, Framing::Length(response.body.len()), "{case}");
}

const INTERNAL: &str = "HTTP/1.1 500 Internal Server Error";

on_both_engines! {
    fn targets_that_are_none(engine: Choice) {
        let app = App::listen();
        let plane = Plane::on(engine).app("checkout", Some(app.address())).start();
        for (case, target, lines, message) in [
            (
                "unknown app",
                "/v1.0/invoke/ghost/method/x",
                "",
                "failed to invoke, id: ghost, err: couldn't find service: ghost",
            ),
            (
                "unknown namespace",
                "/v1.0/invoke/checkout.prod/method/x",
                "",
                "failed to invoke, id: checkout.prod, err: couldn't find service: checkout",
            ),
            (
                "two dots",
                "/v1.0/invoke/a.b.c/method/x",
                "",
                "failed to invoke, id: a.b.c, err: invalid app id a.b.c",
            ),
            (
                "by header",
                "/x",
                "dapr-app-id: ghost\r\n",
                "failed to invoke, id: ghost, err: couldn't find service: ghost",
            ),
            (
                "by basic auth",
                "/x",
                "Authorization: Basic ZGFwci1hcHAtaWQ6Z2hvc3Q=\r\n",
                "failed to invoke, id: ghost, err: couldn't find service: ghost",
            ),
            (
                "plus is a space",
                "/v1.0/invoke/check+out/method/x",
                "",
                "failed to invoke, id: check out, err: couldn't find service: check out",
            ),
            (
                "escaped for JSON",
                "/v1.0/invoke/%3Cb%3E&/method/x",
                "",
                "failed to invoke, id: \\u003cb\\u003e\\u0026, err: couldn't find service: \
                 \\u003cb\\u003e\\u0026",
            ),
            (
                "line ends",
                "/v1.0/invoke/a%0D%0AX:%20b/method/x",
                "",
                "failed to invoke, id: a\\r\\nX: b, err: couldn't find service: a\\r\\nX: b",
            ),
            (
                "quote",
                "/v1.0/invoke/a%22b/method/x",
                "",
                "failed to invoke, id: a\\\"b, err: couldn't find service: a\\\"b",
            ),
        ] {
            let mut client = plane.client();
            client.send(request("GET", target, lines));
            assert_error(case, &client.read_response(), INTERNAL, message);
            client.send(get("/v1.0/healthz"));
            assert_eq!(client.read_response().status(), 204, "{case}: the connection is kept");
        }
        app.assert_untouched();
    }

    fn methods_with_forbidden_characters(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            for (method, reason) in [
                ("test%23stream", "forbidden character: \\\"test#stream\\\""),
                ("test%3Fstream", "forbidden character: \\\"test?stream\\\""),
                ("a%23b%3Fc%25d", "forbidden character: \\\"a#b?c%d\\\""),
                ("test%00stream", "forbidden character: \\\"test\\\\x00stream\\\""),
                ("test%0Dstream", "control character at position 4: \\\"test\\\\rstream\\\""),
                ("test%0Astream", "control character at position 4: \\\"test\\\\nstream\\\""),
                ("test%7Fstream", "control character at position 4: \\\"test\\\\x7fstream\\\""),
            ] {
                let message = format!(
                    "failed to invoke, id: checkout, err: rpc error: code = InvalidArgument \
                     desc = invalid method: method contains {reason}"
                );
                let mut client = mesh.client();
                client.send(get(&format!("/v1.0/invoke/checkout/method/{method}")));
                assert_error(method, &client.read_response(), INTERNAL, &message);
                client.send(request("GET", &format!("/{method}"), "dapr-app-id: checkout\r\n"));
                assert_error(method, &client.read_response(), INTERNAL, &message);
            }
            app.assert_untouched();
        }
    }

    fn percent_that_escapes_nothing(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(get("/v1.0/invoke/checkout/method/test%25stream"));
            let response = client.read_response();
            assert_eq!(response.start_line, INTERNAL, "{hop:?}");
            assert!(
                response.text().contains("invalid URL escape \\\"%st\\\""),
                "{hop:?}: {response}"
            );
            app.assert_untouched();
        }
    }

    fn app_without_port(engine: Choice) {
        let plane = Plane::on(engine).app("checkout", None).start();
        let mut client = plane.client();
        client.send(get(X));
        assert_error(
            "self",
            &client.read_response(),
            INTERNAL,
            "failed to invoke, id: checkout, err: cannot invoke local endpoint: app channel not \
             initialized",
        );

        let caller =
            Plane::on(engine).app("orders", None).knows("checkout", &[plane.peer()]).start();
        let mut client = caller.client();
        client.send(get(X));
        assert_error(
            "remote",
            &client.read_response(),
            INTERNAL,
            "failed to invoke, id: checkout, err: rpc error: code = Internal desc = app channel \
             is not initialized",
        );
    }

    fn app_that_does_not_listen(engine: Choice) {
        for (hop, before) in [
            (Hop::Own, ""),
            (Hop::Peer, "rpc error: code = Internal desc = error invoking app channel: "),
        ] {
            let address = nobody();
            let mesh = Mesh::start(engine, hop, address.clone());
            for (verb, go_verb) in [("GET", "Get"), ("POST", "Post"), ("DELETE", "Delete")] {
                let mut client = mesh.client();
                client.send(request(verb, &format!("{X}?a=1"), "Content-Length: 0\r\n"));
                let message = format!(
                    "failed to invoke, id: checkout, err: {before}{go_verb} \
                     \\\"http://{address}/x?a=1\\\": dial tcp {address}: connect: \
                     connection refused"
                );
                assert_error(verb, &client.read_response(), INTERNAL, &message);
                client.send(get("/v1.0/healthz"));
                assert_eq!(client.read_response().status(), 204, "{verb}: connection kept");
            }
        }
    }

    fn app_that_does_not_listen_gets_no_body(engine: Choice) {
        for hop in Hop::BOTH {
            let mesh = Mesh::start(engine, hop, nobody());
            let mut client = mesh.client();
            client.send(post(X, "hello"));
            assert_eq!(client.read_response().status(), 500, "{hop:?}");
            client.send(get("/v1.0/healthz"));
            assert_eq!(client.read_response().status(), 204, "{hop:?}: the body was not a request");
        }
    }

    fn peer_that_serves_another_app(engine: Choice) {
        let app = App::listen();
        let callee = Plane::on(engine).app("checkout", Some(app.address())).start();
        let caller =
            Plane::on(engine).app("orders", None).knows("billing", &[callee.peer()]).start();
        let mut client = caller.client();
        client.send(get("/v1.0/invoke/billing/method/x"));
        assert_error(
            "misdirected",
            &client.read_response(),
            INTERNAL,
            "failed to invoke, id: billing, err: couldn't find service: billing",
        );
        app.assert_untouched();

        let mut peer = crate::support::Wire::connect(callee.peer());
        peer.send(request("GET", "/x", "destination-app-id: billing\r\n"));
        let response = peer.read_response();
        assert_eq!(response.status(), 421, "{response}");
        assert_eq!(response.one("ringcar-error"), Some("misdirected"));
        app.assert_untouched();
    }

    fn an_apps_own_421_is_the_apps(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(get(X));
            let mut upstream = app.accept();
            upstream.read_request();
            upstream.send(crate::answer(
                "421 Misdirected Request",
                "ringcar-error: misdirected\r\n",
                "mine",
            ));
            let response = client.read_response();
            assert_eq!((response.status(), response.text()), (421, "mine"), "{hop:?}");
            assert!(!response.has("ringcar-error"), "{hop:?}: {response}");
        }
    }

    fn body_beyond_the_limit(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start_with(engine, hop, app.address(), |s| {
                s.apps[0].body_bytes_max = Some(10);
            });
            let mut client = mesh.client();
            client.send(post(X, "0123456789"));
            let mut upstream = app.accept();
            assert_eq!(upstream.read_request().text(), "0123456789", "{hop:?}: the limit passes");
            upstream.send(crate::OK);
            assert_eq!(client.read_response().status(), 200, "{hop:?}");

            client.send(post(X, "0123456789a"));
            let response = client.read_response();
            assert_eq!(response.start_line, INTERNAL, "{hop:?}: {response}");
            assert!(response.text().contains("stream too large"), "{hop:?}: {response}");
            assert!(
                response.text().starts_with(
                    "{\"errorCode\":\"ERR_DIRECT_INVOKE\",\"message\":\"failed to invoke, id: \
                     checkout, err: "
                ),
                "{hop:?}: {response}"
            );
        }
    }

    fn chunked_body_beyond_the_limit(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start_with(engine, hop, app.address(), |s| {
                s.apps[0].body_bytes_max = Some(10);
            });
            let mut client = mesh.client();
            client.send(request("POST", X, "Transfer-Encoding: chunked\r\n"));
            client.send("a\r\n0123456789\r\n");
            let mut upstream = app.accept();
            upstream.read_head();
            assert_eq!(upstream.read_bytes(15), b"a\r\n0123456789\r\n", "{hop:?}");
            client.send("1\r\na\r\n0\r\n\r\n");
            let response = client.read_response();
            assert_eq!(response.start_line, INTERNAL, "{hop:?}: {response}");
            assert!(response.text().contains("stream too large"), "{hop:?}: {response}");
            let (rest, _) = upstream.read_to_end();
            assert!(
                !rest.ends_with(b"0\r\n\r\n"),
                "{hop:?}: the app must not take the cut-off body for a whole one: {}",
                rest.escape_ascii()
            );
        }
    }

    fn dead_peer_is_tried_again_and_then_named(engine: Choice) {
        let directory = crate::support::TempDir::new();
        let path = directory.path().join("gone");
        let caller = Plane::on(engine)
            .app("orders", None)
            .edit(|s| s.routes.push(route("checkout", &[&Address::Unix(path.clone().into())])))
            .start();
        let mut client = caller.client();
        client.send(get(X));
        let path = path.display();
        let message = format!(
            "failed to invoke, id: checkout, err: failed to invoke target checkout after 3 \
             retries. Error: rpc error: code = Unavailable desc = connection error: desc = \
             \\\"transport: Error while dialing: dial unix {path}: connect: no such file or \
             directory\\\""
        );
        assert_error("gone", &client.read_response(), INTERNAL, &message);
    }

    fn error_says_close_when_the_rest_of_the_body_is_too_much_to_read(engine: Choice) {
        let plane = Plane::on(engine).app("checkout", None).start();
        const GHOST: &str = "/v1.0/invoke/ghost/method/x";
        for (case, lines, keeps) in [
            ("short", "Content-Length: 262144\r\n", true),
            ("long", "Content-Length: 262145\r\n", false),
        ] {
            let mut client = plane.client();
            client.send(request("POST", GHOST, lines));
            let response = client.read_response();
            assert_eq!(response.status(), 500, "{case}");
            assert_eq!(response.has("connection"), !keeps, "{case}: {response}");
            if keeps {
                client.send(vec![b'x'; 262_144]);
                client.send(get(GHOST));
                assert_eq!(client.read_response().status(), 500, "{case}");
            } else {
                assert_eq!(response.one("connection"), Some("close"), "{case}");
                client.assert_ended();
            }
        }
    }

    fn status_of_a_body_beyond_the_limit(engine: Choice) {
        for (says_too_large, status) in [(false, 500), (true, 413)] {
            let app = App::listen();
            let mesh = Mesh::start_with(engine, Hop::Peer, app.address(), |state| {
                state.apps[0].body_bytes_max = Some(10);
                std::sync::Arc::make_mut(&mut state.apps[0].outbound).says_too_large = says_too_large;
            });
            let mut client = mesh.client();
            client.send(post(X, "0123456789+"));
            let response = client.read_response();
            assert_eq!(response.status(), status);
            let text = "failed to invoke, id: checkout, err: stream too large";
            assert_eq!(response.text(), direct_invoke_error(text));
            app.assert_untouched();
        }
    }

    fn calls_of_an_unhealthy_app(engine: Choice) {
        const UNHEALTHY: &str = "rpc error: code = Internal desc = app is not in a healthy state";
        for (hop, start) in [
            (Hop::Own, ""),
            (Hop::Peer, "rpc error: code = Internal desc = error invoking app channel: "),
        ] {
            let app = App::listen();
            let mesh = Mesh::start_with(engine, hop, app.address(), |state| {
                for channel in state.apps.iter_mut().filter_map(|app| app.channel.as_mut()) {
                    channel.is_healthy = false;
                }
            });
            let mut client = mesh.client();
            client.send(get(X));
            let response = client.read_response();
            let message = format!("failed to invoke, id: checkout, err: {start}{UNHEALTHY}");
            assert_error(&format!("{hop:?}"), &response, INTERNAL, &message);
            app.assert_untouched();
        }
    }
}
