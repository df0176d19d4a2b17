//! Where bodies end, in both directions: RFC 9112 §6.3, between every version of client and app.

#![forbid(unsafe_code)]

use crate::{
    X, get, request,
    support::{App, End, Framing, Hop, Mesh, on_both_engines},
};
use dataplane::engine::Choice;

on_both_engines! {
    fn request_with_length(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(crate::post(X, "hello"));
            let mut upstream = app.accept();
            let seen = upstream.read_request();
            assert_eq!((seen.framing, seen.text()), (Framing::Length(5), "hello"), "{hop:?}");
        }
    }

    fn request_with_length_zero(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(request("POST", X, "Content-Length: 0\r\n"));
            let seen = app.accept().read_request();
            assert_eq!(seen.one("content-length"), Some("0"), "{hop:?}: {seen}");
        }
    }

    fn request_in_chunks_with_trailers(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(request("POST", X, "Transfer-Encoding: chunked\r\n"));
            client.send("5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nX-Sum: 7\r\n\r\n");
            let mut upstream = app.accept();
            let seen = upstream.read_request();
            assert_eq!((seen.framing, seen.text()), (Framing::Chunked, "hello world"), "{hop:?}");
            assert_eq!(seen.trailers, [("X-Sum".to_owned(), "7".to_owned())], "{hop:?}");
            upstream.send(crate::OK);
            assert_eq!(client.read_response().status(), 200, "{hop:?}");
            client.send(get(X));
            upstream.read_request();
        }
    }

    fn request_chunk_reaches_the_app_before_the_next_is_sent(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(request("POST", X, "Transfer-Encoding: chunked\r\n"));
            let mut upstream = app.accept();
            upstream.read_head();
            for chunk in ["5\r\nhello\r\n", "1\r\n!\r\n", "0\r\n\r\n"] {
                client.send(chunk);
                assert_eq!(upstream.read_bytes(chunk.len()), chunk.as_bytes(), "{hop:?}");
            }
            upstream.send(crate::OK);
            assert_eq!(client.read_response().status(), 200, "{hop:?}");
        }
    }

    fn response_with_length(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(get(X));
            let mut upstream = app.accept();
            upstream.read_request();
            upstream.send(crate::OK);
            let response = client.read_response();
            assert_eq!((response.framing, response.text()), (Framing::Length(2), "ok"), "{hop:?}");
        }
    }

    fn response_with_length_zero(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(get(X));
            let mut upstream = app.accept();
            upstream.read_request();
            upstream.send(crate::answer("404 Not Found", "", ""));
            let response = client.read_response();
            assert_eq!(response.one("content-length"), Some("0"), "{hop:?}: {response}");
            client.send(get(X));
            upstream.read_request();
        }
    }

    fn response_in_chunks_with_trailers(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(get(X));
            let mut upstream = app.accept();
            upstream.read_request();
            upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            upstream.send("5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nX-Sum: 7\r\n\r\n");
            let response = client.read_response();
            assert_eq!(
                (response.framing, response.text()),
                (Framing::Chunked, "hello world"),
                "{hop:?}"
            );
            assert_eq!(response.trailers, [("X-Sum".to_owned(), "7".to_owned())], "{hop:?}");
            client.send(get(X));
            upstream.read_request();
        }
    }

    fn response_chunk_reaches_the_client_before_the_next_is_sent(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(get(X));
            let mut upstream = app.accept();
            upstream.read_request();
            upstream.send(
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                 Transfer-Encoding: chunked\r\n\r\n",
            );
            let head = client.read_head();
            assert_eq!(head.one("content-type"), Some("text/event-stream"), "{hop:?}");
            for chunk in ["9\r\ndata: 1\n\n\r\n", "9\r\ndata: 2\n\n\r\n", "0\r\n\r\n"] {
                upstream.send(chunk);
                assert_eq!(client.read_bytes(chunk.len()), chunk.as_bytes(), "{hop:?}");
            }
        }
    }

    fn response_until_close_becomes_chunked(engine: Choice) {
        for hop in Hop::BOTH {
            for version in ["HTTP/1.1", "HTTP/1.0"] {
                let app = App::listen();
                let mesh = Mesh::start(engine, hop, app.address());
                let mut client = mesh.client();
                client.send(get(X));
                let mut upstream = app.accept();
                upstream.read_request();
                upstream.send(format!("{version} 200 OK\r\nX-R: 1\r\n\r\nhello"));
                let head = client.read_head();
                assert_eq!(head.response_framing("GET"), Framing::Chunked, "{hop:?} {version}");
                assert_eq!(client.read_bytes(10), b"5\r\nhello\r\n", "{hop:?} {version}");
                drop(upstream);
                assert_eq!(client.read_bytes(5), b"0\r\n\r\n", "{hop:?} {version}");
                client.send(get(X));
                app.accept().read_request();
            }
        }
    }

    fn empty_response_until_close(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(get(X));
            let mut upstream = app.accept();
            upstream.read_request();
            upstream.send("HTTP/1.1 200 OK\r\n\r\n");
            drop(upstream);
            let response = client.read_response();
            assert_eq!((response.status(), response.text()), (200, ""), "{hop:?}");
        }
    }

    fn answers_without_body_whatever_their_lines_say(engine: Choice) {
        for hop in Hop::BOTH {
            for (case, method, answer) in [
                ("HEAD with length", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n"),
                ("HEAD chunked", "HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
                ("HEAD without framing", "HEAD", "HTTP/1.1 200 OK\r\nX-R: 1\r\n\r\n"),
                (
                    "304 with length",
                    "GET",
                    "HTTP/1.1 304 Not Modified\r\nContent-Length: 999\r\n\r\n",
                ),
                ("304", "GET", "HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n\r\n"),
                ("204", "GET", "HTTP/1.1 204 No Content\r\nX-R: 1\r\n\r\n"),
                (
                    "204 with length",
                    "DELETE",
                    "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
                ),
            ] {
                let app = App::listen();
                let mesh = Mesh::start(engine, hop, app.address());
                let mut client = mesh.client();
                client.send(request(method, X, ""));
                let mut upstream = app.accept();
                upstream.read_request();
                upstream.send(answer);
                let response = client.read_response_to(method);
                assert_eq!(answer.split(' ').nth(1).unwrap(), response.status().to_string());
                if response.status() == 204 {
                    // RFC 9110 §8.6, RFC 9112 §6.1.
                    assert!(!response.has("content-length"), "{case} ({hop:?}): {response}");
                    assert!(!response.has("transfer-encoding"), "{case} ({hop:?}): {response}");
                }
                client.send(get(X));
                let next = upstream.read_request();
                assert_eq!(next.start_line, "GET /x HTTP/1.1", "{case} ({hop:?}): both kept");
                upstream.send(crate::OK);
                assert_eq!(client.read_response().text(), "ok", "{case} ({hop:?})");
            }
        }
    }

    fn client_of_http_1_0(engine: Choice) {
        for hop in Hop::BOTH {
            for (case, answer, want) in [
                ("length", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "hello"),
                (
                    "chunked",
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                    5\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 7\r\n\r\n",
                    "hello world",
                ),
                ("until close", "HTTP/1.0 200 OK\r\n\r\nhello", "hello"),
            ] {
                let app = App::listen();
                let mesh = Mesh::start(engine, hop, app.address());
                let mut client = mesh.client();
                client.send(format!("GET {X} HTTP/1.0\r\n\r\n"));
                let mut upstream = app.accept();
                let seen = upstream.read_request();
                assert_eq!(seen.start_line, "GET /x HTTP/1.1", "{case} ({hop:?})");
                assert_eq!(seen.one("host"), Some(app.host().as_str()), "{case} ({hop:?})");
                upstream.send(answer);
                drop(upstream);
                let (bytes, end) = client.read_to_end();
                let text = String::from_utf8(bytes).unwrap();
                let (head, body) = text.split_once("\r\n\r\n").unwrap();
                assert_eq!((body, end), (want, End::Fin), "{case} ({hop:?})");
                assert!(!head.to_ascii_lowercase().contains("transfer-encoding"), "{head}");
            }
        }
    }

    fn client_of_http_1_0_with_body(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(format!("POST {X} HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello"));
            let mut upstream = app.accept();
            let seen = upstream.read_request();
            assert_eq!((seen.text(), seen.start_line.as_str()), ("hello", "POST /x HTTP/1.1"));
            upstream.send(crate::OK);
            let (bytes, _) = client.read_to_end();
            assert!(bytes.ends_with(b"\r\n\r\nok"), "{hop:?}: {}", bytes.escape_ascii());
        }
    }

    fn response_of_http_1_0_with_length_is_ours_in_1_1(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(get(X));
            let mut upstream = app.accept();
            upstream.read_request();
            upstream.send("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok");
            assert_eq!(client.read_response().start_line, "HTTP/1.1 200 OK", "{hop:?}");
            client.send(get(X));
            // Kept by the client; a 1.0 app that did not ask to be kept is called anew.
            app.accept().read_request();
        }
    }

    fn response_without_reason(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(get(X));
            let mut upstream = app.accept();
            upstream.read_request();
            upstream.send("HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nok");
            let response = client.read_response();
            assert_eq!((response.status(), response.text()), (200, "ok"), "{hop:?}");
        }
    }

    fn bodies_of_many_sizes(engine: Choice) {
        for hop in Hop::BOTH {
            let app = crate::support::ServedApp::answering(|request| {
                let length = request.body.len();
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
                [head.as_bytes(), &request.body].concat()
            });
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            // Around the sizes of receive buffers, with and without room for a head.
            for size in
                [1_usize, 100, 8192, 16_000, 16_383, 16_384, 16_385, 32_768, 100_000, 1 << 20]
            {
                let body: Vec<u8> = (b'a'..=b'w').cycle().take(size).collect();
                let head = request("POST", X, &format!("Content-Length: {size}\r\n"));
                client.send([head.as_bytes(), &body].concat());
                assert!(client.read_response().body == body, "{size} bytes ({hop:?})");
            }
        }
    }

    fn trailers_that_connection_names_do_not_pass(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let head = "Transfer-Encoding: chunked\r\nConnection: X-Hop, keep-alive\r\n";
            for (case, trailer, passes) in [
                ("another one", "X-Sum: 1\r\n", true),
                ("named", "x-hop: 1\r\n", false),
                ("named, behind another", "X-Sum: 1\r\nX-HOP: 1\r\n", false),
            ] {
                let body = format!("2\r\nhi\r\n0\r\n{trailer}\r\n");
                let mut client = mesh.client();
                client.send(request("POST", X, head));
                let mut upstream = app.accept();
                upstream.read_head();
                client.send(&body);
                if passes {
                    assert_eq!(upstream.read_bytes(body.len()), body.as_bytes(), "{hop:?} {case}");
                } else {
                    assert_eq!(client.read_response().status(), 400, "{hop:?} {case}");
                    let (seen, _) = upstream.read_to_end();
                    let seen = String::from_utf8_lossy(&seen).to_ascii_lowercase();
                    assert!(!seen.contains("x-hop"), "{hop:?} {case}: {seen}");
                    continue;
                }
                upstream.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n{body}"));
                assert_eq!(client.read_response().text(), "hi", "{hop:?} {case}");
            }
            let mut client = mesh.client();
            client.send(get(X));
            let mut upstream = app.accept_if_called().unwrap_or_else(|| app.accept());
            upstream.read_request();
            upstream.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n2\r\nhi\r\n"));
            client.read_head();
            upstream.send("0\r\nX-Hop: 1\r\n\r\n");
            let (seen, end) = client.read_to_end();
            assert!(!String::from_utf8_lossy(&seen).contains("X-Hop"), "{hop:?}: {seen:?}");
            assert_eq!(end, End::Reset, "{hop:?}: a body that is cut must not look whole");
        }
    }
}
