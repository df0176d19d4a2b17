//! Requests that two parsers could read differently, or that are none: refused with a clear status,
//! the connection closed, and nothing of them ever at the app. The vectors are those of public
//! corpora (http-garden, PortSwigger's smuggler, llhttp, Http11Probe); the rules RFC 9112 and RFC
//! 9110.

#![forbid(unsafe_code)]

use crate::{
    OK, X, get,
    support::{App, Framing, Hop, Mesh, Message, Plane, Wire, on_both_engines},
};
use dataplane::engine::Choice;

/// What is wrong, the status it gets, and the request. `{X}` stands for the call's path, `{G}` and
/// `{P}` for the start of a good GET and POST, `{T}` for that of a POST up to the value of its
/// `Transfer-Encoding`.
const REFUSED: &[(&str, u16, &str)] = &[
    // Request line, RFC 9112 §3.
    ("no version", 400, "GET {X}\r\nHost: a\r\n\r\n"),
    ("HTTP/0.9 with host", 400, "GET {X} \r\nHost: a\r\n\r\n"),
    ("two digits", 400, "GET {X} HTTP/1.10\r\nHost: a\r\n\r\n"),
    ("version in small letters", 400, "GET {X} http/1.1\r\nHost: a\r\n\r\n"),
    ("leading zero", 505, "GET {X} HTTP/01.1\r\nHost: a\r\n\r\n"),
    ("version 2.0", 505, "GET {X} HTTP/2.0\r\nHost: a\r\n\r\n"),
    ("version 1.2", 505, "GET {X} HTTP/1.2\r\nHost: a\r\n\r\n"),
    ("preface of HTTP/2", 505, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ("two spaces", 400, "GET  {X} HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("space in the target", 400, "GET {X} y HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("tab for space", 400, "GET\t{X} HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("space behind the version", 400, "GET {X} HTTP/1.1 \r\nHost: a\r\n\r\n"),
    ("space before the method", 400, " {G}\r\n"),
    ("method is no token", 400, "G(T {X} HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("fragment", 400, "GET {X}#f HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("NUL in the target", 400, "GET {X}\0 HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("control byte in the target", 400, "GET {X}\x1f HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("DEL in the target", 400, "GET {X}\x7f HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("target without slash", 400, "GET x HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("CONNECT", 501, "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\ndapr-app-id: checkout\r\n\r\n"),
    ("asterisk without OPTIONS", 400, "GET * HTTP/1.1\r\nHost: a\r\n\r\n"),
    ("two empty lines before", 400, "\r\n\r\n{G}\r\n"),
    // Line ends, RFC 9112 §2.2.
    ("bare LF", 400, "GET {X} HTTP/1.1\nHost: a\n\n"),
    ("bare LF behind a field", 400, "GET {X} HTTP/1.1\r\nHost: a\nX: 1\r\n\r\n"),
    ("bare LF at the end", 400, "{G}\n"),
    ("bare CR in a value", 400, "{G}X: a\rb\r\n\r\n"),
    ("bare CR for a line end", 400, "GET {X} HTTP/1.1\r\nHost: a\rX: 1\r\n\r\n"),
    ("CR CR LF", 400, "GET {X} HTTP/1.1\r\nHost: a\r\r\n\r\n"),
    // Fields, RFC 9112 §5.
    ("space before colon", 400, "{G}X : 1\r\n\r\n"),
    ("tab before colon", 400, "{G}X\t: 1\r\n\r\n"),
    ("no colon", 400, "{G}X\r\n\r\n"),
    ("empty name", 400, "{G}: 1\r\n\r\n"),
    ("space within a name", 400, "{G}X Y: 1\r\n\r\n"),
    ("folded line", 400, "{G}X: 1\r\n 2\r\n\r\n"),
    ("folded line with tab", 400, "{G}X: 1\r\n\t2\r\n\r\n"),
    ("folded first line", 400, "GET {X} HTTP/1.1\r\n Host: a\r\n\r\n"),
    ("NUL in a value", 400, "{G}X: a\0b\r\n\r\n"),
    ("NUL in a name", 400, "{G}X\0: 1\r\n\r\n"),
    ("control byte in a value", 400, "{G}X: a\x01b\r\n\r\n"),
    ("DEL in a value", 400, "{G}X: a\x7fb\r\n\r\n"),
    ("backslash in a name", 400, "{G}X\\Y: 1\r\n\r\n"),
    ("byte beyond ASCII in a name", 400, "{G}X\u{a0}: 1\r\n\r\n"),
    // Host, RFC 9112 §3.2.
    ("no host", 400, "GET {X} HTTP/1.1\r\n\r\n"),
    ("two hosts", 400, "{G}Host: a\r\n\r\n"),
    ("host with a path", 400, "GET {X} HTTP/1.1\r\nHost: a/b\r\n\r\n"),
    ("host with user", 400, "GET {X} HTTP/1.1\r\nHost: u@a\r\n\r\n"),
    ("host with space", 400, "GET {X} HTTP/1.1\r\nHost: a b\r\n\r\n"),
    // Content-Length, RFC 9112 §6.3 rule 5.
    ("different lengths", 400, "{P}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"),
    ("equal lengths", 400, "{P}Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello"),
    ("list of lengths", 400, "{P}Content-Length: 5, 5\r\n\r\nhello"),
    ("length with comma", 400, "{P}Content-Length: 5,\r\n\r\nhello"),
    ("length with plus", 400, "{P}Content-Length: +5\r\n\r\nhello"),
    ("length with minus", 400, "{P}Content-Length: -0\r\n\r\n"),
    ("length in hex", 400, "{P}Content-Length: 0x5\r\n\r\nhello"),
    ("length in octal", 400, "{P}Content-Length: 0o5\r\n\r\nhello"),
    ("length with underscore", 400, "{P}Content-Length: 5_0\r\n\r\nhello"),
    ("length with exponent", 400, "{P}Content-Length: 5e0\r\n\r\nhello"),
    ("length with point", 400, "{P}Content-Length: 5.0\r\n\r\nhello"),
    ("length in quotes", 400, "{P}Content-Length: \"5\"\r\n\r\nhello"),
    ("empty length", 400, "{P}Content-Length:\r\n\r\n"),
    ("length with vertical tab", 400, "{P}Content-Length: \x0b5\r\n\r\nhello"),
    ("length with a space inside", 400, "{P}Content-Length: 5 5\r\n\r\nhello"),
    ("length beyond 64 bits", 400, "{P}Content-Length: 18446744073709551621\r\n\r\nhello"),
    ("space before colon of the length", 400, "{P}Content-Length : 5\r\n\r\nhello"),
    // Transfer-Encoding, RFC 9112 §6.1.
    (
        "length and chunked",
        400,
        "{P}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    ("chunked and length", 400, "{T}chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"),
    ("chunked twice in a line", 400, "{T}chunked, chunked\r\n\r\n0\r\n\r\n"),
    ("chunked in two lines", 400, "{T}chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    (
        "chunked in HTTP/1.0",
        400,
        "POST {X} HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    ("another coding", 400, "{T}gzip\r\n\r\n"),
    ("another coding before", 501, "{T}gzip, chunked\r\n\r\n0\r\n\r\n"),
    ("another coding behind", 400, "{T}chunked, identity\r\n\r\n0\r\n\r\n"),
    ("misspelt", 400, "{T}xchunked\r\n\r\n0\r\n\r\n"),
    ("in quotes", 400, "{T}\"chunked\"\r\n\r\n0\r\n\r\n"),
    ("empty coding", 400, "{P}Transfer-Encoding:\r\n\r\n"),
    ("vertical tab before", 400, "{T}\x0bchunked\r\n\r\n0\r\n\r\n"),
    ("folded coding", 400, "{P}Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"),
    ("space before its colon", 400, "{P}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
    ("parameter", 400, "{T}chunked;a=b\r\n\r\n0\r\n\r\n"),
    // Not HTTP at all: refused without waiting for an empty line.
    ("TLS hello", 400, "\x16\x03\x01\x02\0\x01\0\x01\x7c\x03\x03"),
    ("binary", 400, "\0\x01\x02\x03\x04"),
];

/// Chunk framing that breaks after a good start. The app may have seen the head; it must not see an
/// end.
const BROKEN_CHUNKS: &[(&str, &str)] = &[
    ("size is no number", "xyz\r\nhello\r\n0\r\n\r\n"),
    ("empty size", "\r\nhello\r\n0\r\n\r\n"),
    ("0x before", "0x5\r\nhello\r\n0\r\n\r\n"),
    ("plus before", "+5\r\nhello\r\n0\r\n\r\n"),
    ("minus", "-5\r\nhello\r\n0\r\n\r\n"),
    ("underscore", "0_5\r\nhello\r\n0\r\n\r\n"),
    ("space before", " 5\r\nhello\r\n0\r\n\r\n"),
    ("beyond 64 bits", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
    ("LF behind the size", "5\nhello\r\n0\r\n\r\n"),
    ("CR behind the size", "5\rhello\r\n0\r\n\r\n"),
    ("LF in an extension", "5;a\nb\r\nhello\r\n0\r\n\r\n"),
    ("CR in an extension", "5;a\rb\r\nhello\r\n0\r\n\r\n"),
    ("data longer than its size", "5\r\nhelloXX0\r\n\r\n"),
    ("LF behind the data", "5\r\nhello\n0\r\n\r\n"),
    ("data without line end", "5\r\nhello0\r\n\r\n"),
    ("LF behind the last chunk", "5\r\nhello\r\n0\n\n"),
    ("trailer without colon", "5\r\nhello\r\n0\r\nX\r\n\r\n"),
    ("trailer with space before colon", "5\r\nhello\r\n0\r\nX : 1\r\n\r\n"),
    ("folded trailer", "5\r\nhello\r\n0\r\nX: 1\r\n 2\r\n\r\n"),
    ("framing in a trailer", "5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n"),
    ("coding in a trailer", "5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ("host in a trailer", "5\r\nhello\r\n0\r\nHost: b\r\n\r\n"),
    ("caller in a trailer", "5\r\nhello\r\n0\r\ndapr-caller-app-id: forged\r\n\r\n"),
];

fn spelled_out(request: &str, path: &str) -> String {
    let request = request.replace("{T}", "{P}Transfer-Encoding: ");
    let request = request.replace("{G}", "GET {X} HTTP/1.1\r\nHost: a\r\n");
    let request = request.replace("{P}", "POST {X} HTTP/1.1\r\nHost: a\r\n");
    request.replace("{X}", path)
}

/// Tells all rows that fail, not only the first.
fn assert_all_refused(
    rows: impl Iterator<Item = (&'static str, u16, String)>,
    connect: impl Fn() -> Wire,
) {
    let mut wrong = Vec::new();
    for (case, status, request) in rows {
        if let Some(got) = wrong_answer(connect(), &request, status) {
            wrong.push(format!("{case}: {got}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn assert_refused(case: &str, client: Wire, request: &str, status: u16) {
    if let Some(got) = wrong_answer(client, request, status) {
        panic!("{case}: {got}");
    }
}

/// What came in place of the refusal.
fn wrong_answer(mut client: Wire, request: &str, status: u16) -> Option<Message> {
    let bytes: Vec<u8> = request.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
    client.send(bytes);
    let response = client.read_response();
    let content_type = response.one("content-type").unwrap_or_default();
    let is_refusal = response.status() == status
        && response.one("connection") == Some("close")
        && content_type.starts_with("text/plain")
        // It says why.
        && response.framing == Framing::Length(response.body.len());
    if !is_refusal {
        return Some(response);
    }
    client.assert_ended();
    None
}

/// Framing without end: what a parser would have to remember or skip is bounded.
fn endless_chunks() -> Vec<(&'static str, String)> {
    vec![
        ("size without end", "0".repeat(20_000)),
        ("extension without end", format!("1;{}", "e".repeat(20_000))),
        ("extensions on each chunk", format!("1;{}\r\na\r\n", "e".repeat(100)).repeat(300)),
        ("trailers without end", format!("0\r\n{}", "X-T: 1\r\n".repeat(5000))),
        ("trailer without end", format!("0\r\nX-T: {}", "v".repeat(20_000))),
    ]
}

on_both_engines! {
    fn ambiguous_requests_are_refused(engine: Choice) {
        let app = App::listen();
        let plane = Plane::on(engine).app("checkout", Some(app.address())).start();
        let rows = |behind: &'static str| {
            REFUSED.iter().map(move |(case, status, request)| {
                (*case, *status, spelled_out(request, X) + behind)
            })
        };
        assert_all_refused(rows(""), || plane.client());
        // With another request behind it, which must not be read.
        assert_all_refused(rows("GET /v1.0/metadata HTTP/1.1\r\nHost: a\r\n\r\n"), || {
            plane.client()
        });
        app.assert_untouched();
        let mut client = plane.client();
        client.send(get("/v1.0/healthz"));
        assert_eq!(client.read_response().status(), 204, "the worker lives");
    }

    fn ambiguous_requests_are_refused_from_peers_too(engine: Choice) {
        let app = App::listen();
        let plane = Plane::on(engine).app("checkout", Some(app.address())).start();
        let rows = REFUSED
            .iter()
            .map(|(case, status, request)| (*case, *status, spelled_out(request, "/x")));
        assert_all_refused(rows, || Wire::connect(plane.peer()));
        app.assert_untouched();
    }

    fn ambiguous_requests_are_refused_on_a_used_connection(engine: Choice) {
        let app = App::listen();
        let plane = Plane::on(engine).app("checkout", Some(app.address())).start();
        let rows =
            REFUSED.iter().map(|(case, status, request)| (*case, *status, spelled_out(request, X)));
        assert_all_refused(rows, || {
            let mut client = plane.client();
            client.send(get("/v1.0/healthz"));
            assert_eq!(client.read_response().status(), 204);
            client
        });
        app.assert_untouched();
    }

    fn broken_chunks_never_end_well(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            for (case, body) in BROKEN_CHUNKS {
                // Together with the head, and behind it, when the app has already been called.
                for apart in [false, true] {
                    let head = crate::request("POST", X, "Transfer-Encoding: chunked\r\n");
                    let mut client = mesh.client();
                    let mut upstream = None;
                    if apart {
                        client.send(&head);
                        let mut called = app.accept();
                        called.read_head();
                        upstream = Some(called);
                        client.send(body);
                    } else {
                        client.send([head.as_str(), body].concat());
                    }
                    let response = client.read_response();
                    assert_eq!(response.status(), 400, "{case} ({hop:?}): {response}");
                    assert_eq!(response.one("connection"), Some("close"), "{case} ({hop:?})");
                    client.assert_ended();
                    let mut upstream = upstream.or_else(|| app.accept_if_called());
                    let seen = upstream.as_mut().map(|u| u.read_to_end().0).unwrap_or_default();
                    assert!(
                        !seen.ends_with(b"0\r\n\r\n"),
                        "{case} ({hop:?}): whole at the app: {}",
                        seen.escape_ascii()
                    );
                    assert!(
                        !String::from_utf8_lossy(&seen).contains("forged"),
                        "{case} ({hop:?}): {}",
                        seen.escape_ascii()
                    );
                }
            }
        }
    }

    fn too_large_heads_are_refused(engine: Choice) {
        let app = App::listen();
        let plane = Plane::on(engine).app("checkout", Some(app.address())).start();
        let line = |n: usize| format!("X-Large: {}\r\n", "v".repeat(n));
        for (case, status, request) in [
            ("one line", 431, crate::request("GET", X, &line(9000))),
            ("many lines", 431, crate::request("GET", X, &"X: 1\r\n".repeat(101))),
            ("many bytes", 431, crate::request("GET", X, &line(500).repeat(17))),
            ("target", 414, get(&format!("{X}/{}", "v".repeat(9000)))),
        ] {
            assert_refused(case, plane.client(), &request, status);
        }
        app.assert_untouched();
    }

    fn endless_head_is_refused_before_it_ends(engine: Choice) {
        let app = App::listen();
        let plane = Plane::on(engine).app("checkout", Some(app.address())).start();
        for (case, status, start) in [
            ("line", 431, format!("GET {X} HTTP/1.1\r\nHost: a\r\nX-Large: ")),
            ("target", 414, format!("GET {X}/")),
        ] {
            let mut client = plane.client();
            client.send(start);
            client.try_send("v".repeat(70_000)).ok();
            let response = client.read_response();
            assert_eq!(response.status(), status, "{case}: {response}");
            client.read_to_end();
        }
        app.assert_untouched();
    }

    fn refusal_is_not_lost_when_more_is_sent(engine: Choice) {
        let plane = Plane::on(engine).app("checkout", None).start();
        let mut client = plane.client();
        client.send(format!("GET {X} HTTP/1.1\r\nHost : a\r\n\r\n"));
        plane.settle();
        client.try_send("x".repeat(1000)).ok();
        assert_eq!(client.read_response().status(), 400);
    }

    fn names_that_only_look_like_framing_are_plain_lines(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(crate::request(
                "GET",
                X,
                "Content_Length: 5\r\nTransfer_Encoding: chunked\r\nX-Content-Length: 7\r\n",
            ));
            let mut upstream = app.accept();
            let seen = upstream.read_request();
            assert_eq!(seen.one("content_length"), Some("5"), "{hop:?}");
            assert_eq!(seen.one("transfer_encoding"), Some("chunked"), "{hop:?}");
            upstream.send(OK);
            assert_eq!(client.read_response().status(), 200, "{hop:?}");
        }
    }

    fn legal_oddities_pass(engine: Choice) {
        for hop in Hop::BOTH {
            let app = crate::support::ServedApp::echoing();
            let mesh = Mesh::start(engine, hop, app.address());
            for (case, request, want) in [
                ("spaces around a value", crate::request("GET", X, "X-T: \t v \t\r\n"), "v"),
                ("no space behind the colon", crate::request("GET", X, "X-T:v\r\n"), "v"),
                (
                    "CHUNKED",
                    crate::request("POST", X, "X-T: v\r\nTransfer-Encoding: CHUNKED\r\n")
                        + "1\r\na\r\n0\r\n\r\n",
                    "v",
                ),
                ("tab inside a value", crate::request("GET", X, "X-T: a\tb\r\n"), "a\tb"),
                (
                    "leading zeros",
                    crate::request("POST", X, "X-T: v\r\nContent-Length: 001\r\n") + "a",
                    "v",
                ),
                (
                    "chunk size with zeros",
                    crate::request("POST", X, "X-T: v\r\nTransfer-Encoding: chunked\r\n")
                        + "0001\r\na\r\n000\r\n\r\n",
                    "v",
                ),
            ] {
                let mut client = mesh.client();
                client.send(request);
                let response = client.read_response();
                assert_eq!(response.status(), 200, "{case} ({hop:?}): {response}");
                let seen = response.text().to_ascii_lowercase();
                assert!(
                    seen.contains(&format!("\r\nx-t: {want}\r\n"))
                        || seen.contains(&format!("\r\nx-t:{want}\r\n"))
                        || seen.contains("\r\nx-t: \t v \t\r\n"),
                    "{case} ({hop:?}): {seen}"
                );
            }
        }
    }

    fn ambiguous_answers_of_the_app_are_errors(engine: Choice) {
        for hop in Hop::BOTH {
            for (case, answer) in [
                (
                    "length and chunked",
                    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\
                     Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                ),
                (
                    "different lengths",
                    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!",
                ),
                ("length that is none", "HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nok"),
                ("space before colon", "HTTP/1.1 200 OK\r\nX : 1\r\nContent-Length: 2\r\n\r\nok"),
                ("folded line", "HTTP/1.1 200 OK\r\nX: 1\r\n 2\r\nContent-Length: 2\r\n\r\nok"),
                ("NUL", "HTTP/1.1 200 OK\r\nX: \0\r\nContent-Length: 2\r\n\r\nok"),
                ("bare CR", "HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 2\r\n\r\nok"),
                ("two digits", "HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok"),
                ("status 099", "HTTP/1.1 099 Odd\r\nContent-Length: 2\r\n\r\nok"),
                ("version 2", "HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok"),
                ("not HTTP", "hello, this is an echo service\r\n\r\n"),
                (
                    "not chunked last",
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
                ),
            ] {
                let app = App::listen();
                let mesh = Mesh::start(engine, hop, app.address());
                let mut client = mesh.client();
                client.send(get(X));
                let mut upstream = app.accept();
                upstream.read_request();
                upstream.send(answer);
                let response = client.read_response();
                assert_eq!(response.status(), 500, "{case} ({hop:?}): {response}");
                assert!(
                    response.text().starts_with("{\"errorCode\":\"ERR_DIRECT_INVOKE\""),
                    "{case} ({hop:?}): {response}"
                );
                upstream.read_to_end();
                client.send(get("/v1.0/healthz"));
                assert_eq!(client.read_response().status(), 204, "{case} ({hop:?}): kept");
            }
        }
    }

    fn endless_chunk_framing_is_refused(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            for (case, body) in endless_chunks() {
                let mut client = mesh.client();
                client.send(crate::request("POST", X, "Transfer-Encoding: chunked\r\n"));
                client.try_send(&body).ok();
                let response = client.read_response();
                assert_eq!(response.status(), 400, "{case} ({hop:?}): {response}");
                client.read_to_end();
                if let Some(mut upstream) = app.accept_if_called() {
                    let (seen, _) = upstream.read_to_end();
                    assert!(!seen.ends_with(b"0\r\n\r\n"), "{case} ({hop:?})");
                }
            }
        }
    }

    fn answers_with_too_many_lines_are_errors(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(get(X));
            let mut upstream = app.accept();
            upstream.read_request();
            upstream.send(crate::answer("200 OK", &"X: 1\r\n".repeat(200), "ok"));
            assert_eq!(client.read_response().status(), 500, "{hop:?}");
        }
    }
}
