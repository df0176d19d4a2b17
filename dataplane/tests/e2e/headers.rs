//! Which lines of a request reach the app and which of an answer reach the client; what is added,
//! and what nobody may smuggle in.

#![forbid(unsafe_code)]

use crate::{
    OK, X, get, request,
    support::{App, Hop, Mesh, Message, Plane, on_both_engines},
};
use dataplane::engine::Choice;

/// What the app sees of a request with these lines.
fn seen_by_app(engine: Choice, hop: Hop, lines: &str) -> (Message, App) {
    let app = App::listen();
    let mesh = Mesh::start(engine, hop, app.address());
    let mut client = mesh.client();
    client.send(request("GET", X, lines));
    let mut upstream = app.accept();
    let seen = upstream.read_request();
    upstream.send(OK);
    assert_eq!(client.read_response().status(), 200);
    (seen, app)
}

/// What the client sees of an answer with these lines.
fn seen_by_client(engine: Choice, hop: Hop, status: &str, lines: &str) -> Message {
    let app = App::listen();
    let mesh = Mesh::start(engine, hop, app.address());
    let mut client = mesh.client();
    client.send(get(X));
    let mut upstream = app.accept();
    upstream.read_request();
    upstream.send(crate::answer(status, lines, "ok"));
    client.read_response()
}

on_both_engines! {
    fn request_lines_pass(engine: Choice) {
        for hop in Hop::BOTH {
            let (seen, app) = seen_by_app(
                engine,
                hop,
                "X-T: 1\r\nAccept: text/html\r\nx-t: 2\r\nAuthorization: Bearer t\r\n\
                 X-Request-Id: 7\r\nX_Under: u\r\nX-Empty:\r\nX-Latin: caf\u{e9}\r\n\
                 Cookie: a=b; c=d\r\nUser-Agent: curl/8\r\ndapr-api-token: secret\r\n\
                 traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n",
            );
            assert_eq!(seen.one("host"), Some(app.host().as_str()), "{hop:?}");
            assert_eq!(seen.all("x-t"), ["1", "2"], "{hop:?}: order kept");
            for (name, value) in [
                ("accept", "text/html"),
                ("authorization", "Bearer t"),
                ("x-request-id", "7"),
                ("x_under", "u"),
                ("x-empty", ""),
                ("cookie", "a=b; c=d"),
                ("user-agent", "curl/8"),
                ("dapr-api-token", "secret"),
                ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
            ] {
                assert_eq!(seen.one(name), Some(value), "{name} ({hop:?})");
            }
            for name in ["content-type", "content-length", "transfer-encoding", "accept-encoding"] {
                assert!(!seen.has(name), "{name} is not invented ({hop:?}): {seen}");
            }
        }
    }

    fn request_lines_between_two_hops_only_are_removed(engine: Choice) {
        for hop in Hop::BOTH {
            let (seen, _) = seen_by_app(
                engine,
                hop,
                "Connection: keep-alive, X-Drop\r\nConnection: x-DROP-too ,Te\r\nX-Drop: 1\r\n\
                 X-Drop-Too: 1\r\nx-drop: 2\r\nKeep-Alive: timeout=5\r\nTE: trailers\r\n\
                 Trailer: X-T\r\nProxy-Connection: keep-alive\r\nHTTP2-Settings: AAMA\r\n\
                 Proxy-Authorization: Basic eA==\r\nProxy-Authenticate: Basic\r\nX-Kept: yes\r\n",
            );
            assert_eq!(seen.one("x-kept"), Some("yes"), "{hop:?}");
            for name in [
                "connection",
                "keep-alive",
                "te",
                "trailer",
                "proxy-connection",
                "http2-settings",
                "proxy-authorization",
                "proxy-authenticate",
                "x-drop",
                "x-drop-too",
                "upgrade",
            ] {
                assert!(!seen.has(name), "{name} ({hop:?}): {seen}");
            }
        }
    }

    fn nominating_a_line_that_matters_does_not_remove_it(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(format!(
                "POST {X} HTTP/1.1\r\nHost: a\r\nConnection: Host, Content-Length\r\n\
                 Content-Length: 5\r\n\r\nhello"
            ));
            let mut upstream = app.accept();
            let seen = upstream.read_request();
            assert_eq!(seen.text(), "hello", "{hop:?}");
            assert_eq!(seen.one("host"), Some(app.host().as_str()), "{hop:?}");
        }
    }

    fn dapr_lines_do_not_reach_the_app(engine: Choice) {
        for hop in Hop::BOTH {
            let (seen, _) = seen_by_app(
                engine,
                hop,
                "destination-app-id: ghost\r\ntrace-bin: AAEC\r\ngrpc-timeout: 1S\r\n\
                 baggage: a=1\r\nbaggage: b=2\r\nDapr-Caller-App-Id: forged\r\n\
                 dapr-caller-namespace: forged\r\nDAPR-CALLEE-APP-ID: forged\r\n",
            );
            assert!(!seen.has("destination-app-id"), "{hop:?}: {seen}");
            assert!(!seen.has("trace-bin"), "{hop:?}: binary metadata: {seen}");
            assert!(!seen.has("grpc-timeout"), "{hop:?}: {seen}");
            assert_eq!(seen.one("dapr-grpc-timeout"), Some("1S"), "{hop:?}: renamed");
            assert_eq!(seen.all("baggage"), ["a=1"], "{hop:?}: the first only");
            assert!(!seen.to_string().contains("forged"), "{hop:?}: {seen}");
        }
    }

    fn app_id_header_is_removed_and_basic_auth_kept(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(request(
                "GET",
                "/x",
                "dapr-app-id: checkout\r\nAuthorization: Basic eDp5\r\n",
            ));
            let mut upstream = app.accept();
            let seen = upstream.read_request();
            assert!(!seen.has("dapr-app-id"), "{hop:?}: {seen}");
            assert_eq!(seen.one("authorization"), Some("Basic eDp5"), "{hop:?}");
            upstream.send(OK);
            client.read_response();

            let basic = "Basic ZGFwci1hcHAtaWQ6Y2hlY2tvdXQ=";
            client.send(request("GET", "/x", &format!("Authorization: {basic}\r\n")));
            let seen = upstream.read_request();
            assert_eq!(seen.one("authorization"), Some(basic), "{hop:?}");
        }
    }

    fn caller_introduces_itself_to_another_app(engine: Choice) {
        let (seen, _) = seen_by_app(engine, Hop::Peer, "");
        for (name, value) in [
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-host", "h1"),
            ("forwarded", "for=10.0.0.1;by=10.0.0.1;host=h1"),
            ("dapr-caller-namespace", "default"),
            ("dapr-caller-app-id", "orders"),
            ("dapr-callee-app-id", "checkout"),
        ] {
            assert_eq!(seen.one(name), Some(value), "{name}: {seen}");
        }
    }

    fn nothing_is_added_when_an_app_calls_itself(engine: Choice) {
        let (seen, app) = seen_by_app(engine, Hop::Own, "Accept: */*\r\n");
        let mut names: Vec<_> = seen.lines.iter().map(|(n, _)| n.to_ascii_lowercase()).collect();
        names.sort();
        assert_eq!(names, ["accept", "host"], "{seen}");
        assert_eq!(seen.one("host"), Some(app.host().as_str()));
    }

    fn forwarded_lines_are_appended(engine: Choice) {
        let (seen, _) = seen_by_app(
            engine,
            Hop::Peer,
            "X-Forwarded-For: 192.0.2.9\r\nForwarded: for=192.0.2.9\r\n\
             X-Forwarded-Host: front\r\nX-Forwarded-Proto: https\r\n",
        );
        assert_eq!(seen.all("x-forwarded-for"), ["192.0.2.9", "10.0.0.1"], "{seen}");
        assert_eq!(seen.all("x-forwarded-host"), ["front", "h1"], "{seen}");
        assert_eq!(
            seen.all("forwarded"),
            ["for=192.0.2.9", "for=10.0.0.1;by=10.0.0.1;host=h1"],
            "{seen}"
        );
        assert_eq!(seen.one("x-forwarded-proto"), Some("https"));
    }

    fn origin_of_ipv6_is_quoted_and_unknown_parts_are_left_out(engine: Choice) {
        for (ip, host, want_for, want_host, want_forwarded) in [
            (
                Some("2001:db8::1"),
                Some("h1"),
                vec!["2001:db8::1"],
                vec!["h1"],
                vec!["for=\"[2001:db8::1]\";by=\"[2001:db8::1]\";host=h1"],
            ),
            (Some("10.0.0.1"), None, vec!["10.0.0.1"], vec![], vec!["for=10.0.0.1;by=10.0.0.1"]),
            (None, Some("h1"), vec![], vec!["h1"], vec!["host=h1"]),
            (None, None, vec![], vec![], vec![]),
        ] {
            let app = App::listen();
            let mesh = Mesh::start_with(engine, Hop::Peer, app.address(), |s| {
                s.apps[0].origin.host_ip = ip.map(str::to_owned);
                s.apps[0].origin.host_name = host.map(str::to_owned);
            });
            let mut client = mesh.client();
            client.send(get(X));
            let seen = app.accept().read_request();
            assert_eq!(seen.all("x-forwarded-for"), want_for, "{ip:?} {host:?}");
            assert_eq!(seen.all("x-forwarded-host"), want_host, "{ip:?} {host:?}");
            assert_eq!(seen.all("forwarded"), want_forwarded, "{ip:?} {host:?}");
        }
    }

    fn response_lines_pass(engine: Choice) {
        for hop in Hop::BOTH {
            let seen = seen_by_client(
                engine,
                hop,
                "201 Created Here",
                "Set-Cookie: a=1\r\nContent-Type: text/plain\r\nSet-Cookie: b=2\r\n\
                 Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nServer: app/1\r\nX-R: 9\r\n\
                 dapr-app-id: mine\r\nETag: \"7\"\r\nLocation: /there\r\n",
            );
            assert_eq!(seen.status(), 201);
            assert_eq!(seen.all("set-cookie"), ["a=1", "b=2"], "{hop:?}: order kept");
            for (name, value) in [
                ("content-type", "text/plain"),
                ("date", "Sun, 06 Nov 1994 08:49:37 GMT"),
                ("server", "app/1"),
                ("x-r", "9"),
                ("etag", "\"7\""),
                ("location", "/there"),
                ("content-length", "2"),
            ] {
                assert_eq!(seen.one(name), Some(value), "{name} ({hop:?}): {seen}");
            }
        }
    }

    fn response_lines_between_two_hops_only_are_removed(engine: Choice) {
        for hop in Hop::BOTH {
            let seen = seen_by_client(
                engine,
                hop,
                "200 OK",
                "Connection: keep-alive, X-Drop\r\nX-Drop: 1\r\nKeep-Alive: timeout=5\r\n\
                 Proxy-Connection: keep-alive\r\nProxy-Authenticate: Basic\r\nTE: x\r\n\
                 Trailer: X-T\r\nHTTP2-Settings: AAMA\r\nProxy-Authorization: x\r\n\
                 Upgrade: h2c\r\nX-Custom-Response: yes\r\n",
            );
            assert_eq!((seen.status(), seen.text()), (200, "ok"), "{hop:?}");
            assert_eq!(seen.one("x-custom-response"), Some("yes"), "{hop:?}");
            for name in [
                "connection",
                "x-drop",
                "keep-alive",
                "proxy-connection",
                "proxy-authenticate",
                "te",
                "trailer",
                "http2-settings",
                "proxy-authorization",
                "upgrade",
            ] {
                assert!(!seen.has(name), "{name} ({hop:?}): {seen}");
            }
        }
    }

    fn statuses_pass(engine: Choice) {
        for hop in Hop::BOTH {
            for status in [
                "200 OK",
                "201 Created",
                "202 Accepted",
                "206 Partial Content",
                "301 Moved Permanently",
                "302 Found",
                "307 Temporary Redirect",
                "400 Bad Request",
                "401 Unauthorized",
                "403 Forbidden",
                "404 Not Found",
                "409 Conflict",
                "418 Teapot",
                "421 Misdirected Request",
                "429 Too Many Requests",
                "500 Internal Server Error",
                "502 Bad Gateway",
                "503 Service Unavailable",
                "504 Gateway Timeout",
                "599 Odd",
            ] {
                let seen = seen_by_client(engine, hop, status, "Location: /elsewhere\r\n");
                assert_eq!(seen.status().to_string(), status[..3], "{hop:?}");
                assert_eq!(seen.text(), "ok", "{status} ({hop:?})");
            }
        }
    }

    fn large_response_head_passes_up_to_the_limit(engine: Choice) {
        for hop in Hop::BOTH {
            let large = "v".repeat(6000);
            let seen = seen_by_client(engine, hop, "200 OK", &format!("X-Large: {large}\r\n"));
            assert_eq!(seen.one("x-large"), Some(large.as_str()), "{hop:?}");
        }
    }

    fn response_head_without_end_is_an_error(engine: Choice) {
        for hop in Hop::BOTH {
            let lines = format!("X-Large: {}\r\n", "v".repeat(100_000));
            let seen = seen_by_client(engine, hop, "200 OK", &lines);
            assert_eq!(seen.status(), 500, "{hop:?}");
            assert!(seen.text().starts_with("{\"errorCode\":\"ERR_DIRECT_INVOKE\""), "{hop:?}");
        }
    }

    fn own_answers_carry_a_date(engine: Choice) {
        let plane = Plane::on(engine).app("checkout", None).start();
        for target in ["/v1.0/healthz", "/v1.0/metadata", "/nowhere", X] {
            let mut client = plane.client();
            client.send(get(target));
            let response = client.read_response();
            let date = response.one("date").unwrap_or_else(|| panic!("no date in {response}"));
            assert!(date.len() == 29 && date.ends_with(" GMT"), "{target}: {date}");
            assert!(!response.has("server"), "{target}");
        }
    }

    // RFC 9110 §6.6.1: whoever has a clock and forwards an answer without a date gives it one.
    fn an_answer_without_date_gets_one(engine: Choice) {
        for hop in Hop::BOTH {
            let seen = seen_by_client(engine, hop, "200 OK", "");
            let date = seen.one("date").unwrap_or_else(|| panic!("no date ({hop:?}): {seen}"));
            assert!(date.len() == 29 && date.ends_with(" GMT"), "{date}");
        }
    }

    fn an_error_without_content_type_is_json_and_nothing_else_is_guessed(engine: Choice) {
        for hop in Hop::BOTH {
            for (status, lines, want) in [
                ("400 Bad", "", Some("application/json")),
                ("404 Not Found", "", Some("application/json")),
                ("599 X", "", Some("application/json")),
                ("500 E", "content-type: text/x\r\n", Some("text/x")),
                ("200 OK", "", None),
                ("302 Found", "", None),
                ("399 X", "", None),
            ] {
                let seen = seen_by_client(engine, hop, status, lines);
                let all = seen.all("content-type");
                assert_eq!(all, Vec::from_iter(want), "{status} {lines} ({hop:?}): {seen}");
            }
        }
    }
}
