//! Messages in pieces of any size: cut at every offset, and byte by byte. Between two pieces the
//! worker answers another client, so each piece has been received by itself.

#![forbid(unsafe_code)]

use crate::{
    OK, X,
    support::{App, Hop, Mesh, ServedApp, on_both_engines},
};
use dataplane::engine::Choice;

fn chunked_request() -> String {
    format!(
        "POST {X} HTTP/1.1\r\nHost: a\r\nX-T: 1\r\nConnection: X-T\r\nTransfer-Encoding: \
         chunked\r\n\r\n5\r\nhello\r\n6;e=1\r\n world\r\n0\r\nX-Sum: 7\r\n\r\n"
    )
}

const CHUNKED_RESPONSE: &str = "HTTP/1.1 200 OK\r\nX-T: 1\r\nConnection: X-T\r\n\
    Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;e=1\r\n world\r\n0\r\nX-Sum: 7\r\n\r\n";

on_both_engines! {
    fn request_cut_at_each_offset(engine: Choice) {
        let app = ServedApp::echoing();
        let mesh = Mesh::start(engine, Hop::Own, app.address());
        let mut client = mesh.client();
        let whole = chunked_request();
        client.send(&whole);
        let want = client.read_response().body;
        assert!(want.ends_with(b"0\r\nX-Sum: 7\r\n\r\n"), "{}", want.escape_ascii());
        for cut in 1..whole.len() {
            client.send(&whole[..cut]);
            mesh.settle();
            client.send(&whole[cut..]);
            let seen = client.read_response().body;
            assert_eq!(seen.escape_ascii().to_string(), want.escape_ascii().to_string(), "{cut}");
        }
    }

    fn request_byte_by_byte(engine: Choice) {
        for hop in Hop::BOTH {
            let app = ServedApp::echoing();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            for byte in chunked_request().bytes() {
                client.send([byte]);
                mesh.settle();
            }
            let response = client.read_response();
            let seen = response.text();
            assert!(seen.starts_with("POST /x HTTP/1.1\r\n"), "{hop:?}: {seen}");
            assert!(!seen.contains("X-T"), "{hop:?}: {seen}");
            assert!(
                seen.ends_with("\r\n\r\n5\r\nhello\r\n6;e=1\r\n world\r\n0\r\nX-Sum: 7\r\n\r\n"),
                "{hop:?}: {seen}"
            );
        }
    }

    fn response_cut_at_each_offset(engine: Choice) {
        let app = App::listen();
        let mesh = Mesh::start(engine, Hop::Own, app.address());
        let mut client = mesh.client();
        client.send(crate::get(X));
        let mut upstream = app.accept();
        for cut in 1..CHUNKED_RESPONSE.len() {
            upstream.read_request();
            upstream.send(&CHUNKED_RESPONSE[..cut]);
            mesh.settle_back();
            upstream.send(&CHUNKED_RESPONSE[cut..]);
            let response = client.read_response();
            assert_eq!((response.status(), response.text()), (200, "hello world"), "{cut}");
            assert_eq!(response.trailers, [("X-Sum".to_owned(), "7".to_owned())], "{cut}");
            assert!(!response.has("x-t"), "{cut}: {response}");
            client.send(crate::get(X));
        }
        app.assert_untouched();
    }

    fn response_byte_by_byte(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(crate::get(X));
            let mut upstream = app.accept();
            upstream.read_request();
            for byte in CHUNKED_RESPONSE.bytes() {
                upstream.send([byte]);
                mesh.settle_back();
            }
            let response = client.read_response();
            assert_eq!((response.status(), response.text()), (200, "hello world"), "{hop:?}");
        }
    }

    fn interim_and_final_answers_cut_at_each_offset(engine: Choice) {
        let whole = ["HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", OK].concat();
        let app = App::listen();
        let mesh = Mesh::start(engine, Hop::Own, app.address());
        let mut client = mesh.client();
        client.send(crate::get(X));
        let mut upstream = app.accept();
        for cut in 1..whole.len() {
            upstream.read_request();
            upstream.send(&whole[..cut]);
            mesh.settle_back();
            upstream.send(&whole[cut..]);
            assert_eq!(client.read_response().status(), 103, "{cut}");
            assert_eq!(client.read_response().text(), "ok", "{cut}");
            client.send(crate::get(X));
        }
    }

    fn pipelined_requests_cut_at_each_offset(engine: Choice) {
        let app = ServedApp::echoing();
        let mesh = Mesh::start(engine, Hop::Own, app.address());
        let mut client = mesh.client();
        let whole = [crate::post(X, "hello"), crate::get(X)].concat();
        for cut in 1..whole.len() {
            client.send(&whole[..cut]);
            mesh.settle();
            client.send(&whole[cut..]);
            assert!(client.read_response().text().ends_with("hello"), "{cut}");
            assert!(client.read_response().text().starts_with("GET /x "), "{cut}");
        }
    }

    fn head_larger_than_one_receive(engine: Choice) {
        for hop in Hop::BOTH {
            let app = ServedApp::echoing();
            let mesh = Mesh::start_with(engine, hop, app.address(), |s| {
                s.apps[0].head_bytes_max = 64 * 1024;
            });
            let mut client = mesh.client();
            let value = "v".repeat(40_000);
            for _ in 0..2 {
                client.send(crate::request("GET", X, &format!("X-Large: {value}\r\n")));
                let response = client.read_response();
                assert!(response.text().contains(&value), "{hop:?}");
            }
        }
    }
}
