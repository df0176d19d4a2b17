//! Targets outside of Dapr: URLs in place of app ids, and HTTPEndpoints by name.

#![forbid(unsafe_code)]

use crate::{
    answer, direct_invoke_error, get, post, request,
    support::{App, Plane, ServedApp, has_localhost, on_both_engines},
};
use dataplane::engine::Choice;
use snapshot::{Address, Change, HttpEndpoint, policy::Token};
use std::{net::TcpListener, sync::Arc};

fn port_of(address: &Address) -> u16 {
    match address {
        Address::Tcp(address) => address.port(),
        Address::Unix(_) => panic!("a TCP address"),
    }
}

fn endpoint(name: &str, base_url: String, headers: &[(&str, &str)]) -> HttpEndpoint {
    let headers = headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    HttpEndpoint { name: name.to_owned(), base_url, headers }
}

fn refusal(target: &str, reason: &str) -> String {
    direct_invoke_error(&format!("failed to invoke, id: {target}, err: {reason}"))
}

on_both_engines! {
    fn urls_are_called_in_place_of_app_ids(engine: Choice) {
        let server = ServedApp::echoing();
        let port = port_of(&server.address());
        let host = format!("127.0.0.1:{port}");
        let plane = Plane::on(engine).app("checkout", None).start();
        let mut client = plane.client();
        for (case, target, lines, want) in [
            ("plain", format!("/v1.0/invoke/http://{host}/method/a/b?x=1&y"), String::new(), "/a/b?x=1&y"),
            ("escaped", format!("/v1.0/invoke/http%3A%2F%2F{host}/method/a"), String::new(), "/a"),
            ("half escaped", format!("/v1.0/invoke/http%3A/%2F{host}/method/a"), String::new(), "/a"),
            ("a path in the base", format!("/v1.0/invoke/http://{host}/base/path/method/a"), String::new(), "/base/path/a"),
            ("no method", format!("/v1.0/invoke/http://{host}/method/"), String::new(), "/"),
            ("dots are resolved", format!("/v1.0/invoke/http://{host}/method/a/../b%20c"), String::new(), "/b%20c"),
            ("by header", "/a/b".to_owned(), format!("dapr-app-id: http://{host}\r\n"), "/a/b"),
        ] {
            client.send(request("GET", &target, &lines));
            let response = client.read_response();
            assert_eq!(response.status(), 200, "{case}: {response}");
            let start = format!("GET {want} HTTP/1.1\r\n");
            assert!(response.text().starts_with(&start), "{case}: {response}");
            let seen = response.text().to_ascii_lowercase();
            assert!(seen.contains(&format!("\r\nhost: {host}\r\n")), "{case}: {response}");
            for name in ["dapr-", "forwarded", "destination-app-id"] {
                assert!(!seen.contains(&format!("\r\n{name}")), "{case}: {name} in {response}");
                assert!(!seen.contains("x-forwarded"), "{case}: {response}");
            }
        }
    }

    fn bodies_lines_and_answers_pass(engine: Choice) {
        let server = App::listen();
        let plane = Plane::on(engine).app("checkout", None).start();
        let target = format!("/v1.0/invoke/http://{}/method/events", server.host());
        let mut client = plane.client();
        client.send(post(&target, "body").replace("Host: a\r\n", "Host: a\r\nX-A: 1\r\nX-A: 2\r\n"));
        let mut upstream = server.accept();
        let seen = upstream.read_request();
        assert_eq!((seen.text(), seen.all("x-a")), ("body", vec!["1", "2"]));
        // A redirect is the client's to follow.
        upstream.send(answer("301 Moved Permanently", "Location: /helloworld\r\n", ""));
        let response = client.read_response();
        assert_eq!((response.status(), response.one("location")), (301, Some("/helloworld")));
        client.send(get(&target));
        upstream.read_request();
        upstream.send(answer("500 Broken", "X-B: 3\r\n", "whole"));
        let response = client.read_response();
        assert_eq!((response.status(), response.text()), (500, "whole"));
        assert_eq!(response.one("x-b"), Some("3"));
    }

    fn hosts_are_found_by_their_names(engine: Choice) {
        if !has_localhost("hosts_are_found_by_their_names") {
            return;
        }
        // `localhost` may have two addresses, and nobody listens on one of them.
        let server = ServedApp::echoing();
        let port = port_of(&server.address());
        let plane = Plane::on(engine).workers(2).app("checkout", None).start();
        for name in ["localhost", "LocalHost", "localhost"] {
            let mut client = plane.client();
            client.send(get(&format!("/v1.0/invoke/http://{name}:{port}/method/x")));
            let response = client.read_response();
            assert_eq!(response.status(), 200, "{name}: {response}");
            let seen = response.text();
            assert!(seen.contains(&format!("Host: {name}:{port}\r\n")), "{name}: {seen}");
        }
    }

    fn names_without_address_are_told(engine: Choice) {
        let plane = Plane::on(engine).app("checkout", None).start();
        let mut clients: Vec<_> = (0..5).map(|_| plane.client()).collect();
        for client in &mut clients {
            client.send(get("/v1.0/invoke/http://nowhere.invalid:81/method/x"));
        }
        for client in &mut clients {
            let response = client.read_response();
            assert_eq!(response.status(), 500, "{response}");
            let text = |reason| refusal(
                "http://nowhere.invalid:81",
                &format!(
                    "Get \\\"http://nowhere.invalid:81/x\\\": dial tcp: lookup nowhere.invalid: {reason}"
                ),
            );
            // Whether there is a server to ask is the machine's.
            let texts = [text("no such host"), text("server misbehaving")];
            assert!(texts.contains(&response.text().to_owned()), "{response}");
        }
    }

    fn servers_that_cannot_be_called_are_told_of(engine: Choice) {
        let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let plane = Plane::on(engine).app("checkout", None).start();
        for (case, method, url, path, reason) in [
            (
                "nobody listens", "GET", format!("http://{dead}"), "x?y=1",
                format!("Get \\\"http://{dead}/x?y=1\\\": dial tcp {dead}: connect: connection refused"),
            ),
            (
                "another verb", "DELETE", format!("http://{dead}/base"), "x",
                format!("Delete \\\"http://{dead}/x\\\": dial tcp {dead}: connect: connection refused")
                    .replace("/x\\\"", "/base/x\\\""),
            ),
            (
                "TLS", "GET", "https://h.example".to_owned(), "x",
                "parse \\\"https://h.example\\\": https needs TLS, which this sidecar does not speak; use \
                 http".to_owned(),
            ),
            (
                "user", "GET", "http://u:p@h".to_owned(), "x",
                "parse \\\"http://u:p@h\\\": user information in front of the host; send an Authorization \
                 header instead".to_owned(),
            ),
            (
                "port", "GET", "http://h:99999".to_owned(), "x",
                "parse \\\"http://h:99999\\\": invalid port after host".to_owned(),
            ),
            (
                "escape", "GET", format!("http://{dead}"), "a%25st",
                format!("parse \\\"http://{dead}/a%st\\\": invalid URL escape \\\"%st\\\""),
            ),
        ] {
            let mut client = plane.client();
            client.send(request(method, &format!("/v1.0/invoke/{url}/method/{path}"), ""));
            let response = client.read_response();
            assert_eq!(response.status(), 500, "{case}: {response}");
            assert_eq!(response.text(), refusal(&url, &reason), "{case}");
        }
    }

    fn endpoints_are_called_by_their_names(engine: Choice) {
        let server = ServedApp::echoing();
        let app = ServedApp::answering(|_| answer("200 OK", "", "the app").into_bytes());
        let port = port_of(&server.address());
        let base = format!("http://127.0.0.1:{port}/base");
        let headers = [
            ("Authorization", "Bearer s3cret"), ("X-Key", "k"), ("Host", "evil"),
            ("Content-Length", "7"), ("bad name", "x"), ("X-Split", "a\r\nX-Evil: 1"),
        ];
        let builder = Plane::on(engine).app("checkout", Some(app.address()));
        let mut plane = builder.edit(|state| {
            Arc::make_mut(&mut state.apps[0].outbound).http_endpoints = vec![
                endpoint("shop", base.clone(), &headers),
                endpoint("checkout", base.clone(), &[]),
                endpoint("secure", "https://h".to_owned(), &[]),
            ];
        }).start();
        let mut client = plane.client();
        client.send(
            post("/v1.0/invoke/shop/method/a?b=1", "x")
                .replace("Host: a\r\n", "Host: a\r\nx-key: theirs\r\nAuthorization: Basic no\r\nX-Own: 1\r\n"),
        );
        let seen = client.read_response();
        let text = seen.text();
        assert!(text.starts_with("POST /base/a?b=1 HTTP/1.1\r\n"), "{text}");
        for line in ["Authorization: Bearer s3cret", "X-Key: k", "X-Own: 1", "Content-Length: 1"] {
            assert_eq!(text.matches(&format!("\r\n{line}\r\n")).count(), 1, "{line} in {text}");
        }
        for part in ["theirs", "Basic no", "evil", "Evil", "Content-Length: 7", "bad name"] {
            assert!(!text.contains(part), "{part} in {text}");
        }
        // The name wins over the app of the same id.
        client.send(get("/v1.0/invoke/checkout/method/a"));
        assert!(client.read_response().text().starts_with("GET /base/a HTTP/1.1\r\n"));
        client.send(get("/v1.0/invoke/secure/method/a"));
        let response = client.read_response();
        let reason = "parse \\\"https://h\\\": https needs TLS, which this sidecar does not speak; use http";
        assert_eq!(response.text(), refusal("secure", reason));
        // Without them the app is itself again.
        let mut app = plane.app(0);
        app.outbound = Arc::default();
        plane.change(vec![Change::App(app.into())]);
        client.send(get("/v1.0/invoke/checkout/method/a"));
        assert_eq!(client.read_response().text(), "the app");
        client.send(get("/v1.0/invoke/shop/method/a"));
        assert_eq!(client.read_response().text(), refusal("shop", "couldn't find service: shop"));
    }

    fn an_endpoints_own_token_gives_way_to_the_apps(engine: Choice) {
        let server = ServedApp::echoing();
        let base = format!("http://127.0.0.1:{}", port_of(&server.address()));
        for (app_token, want) in [(None, "named"), (Some("ours"), "ours")] {
            let plane = Plane::on(engine).app("checkout", None).edit(|state| {
                let app = &mut state.apps[0];
                Arc::make_mut(&mut app.outbound).http_endpoints =
                    vec![endpoint("shop", base.clone(), &[("Dapr-Api-Token", "named")])];
                let token = app_token.map(|token| Token::new(token).unwrap());
                Arc::make_mut(&mut app.guards).app_token = token;
            }).start();
            let mut client = plane.client();
            client.send(request("GET", "/v1.0/invoke/shop/method/x", "dapr-api-token: theirs\r\n"));
            let seen = client.read_response().text().to_ascii_lowercase();
            assert_eq!(seen.matches("dapr-api-token").count(), 1, "{seen}");
            assert!(seen.contains(&format!("dapr-api-token: {want}\r\n")), "{seen}");
        }
    }

    fn pooled_connection_that_died_is_replaced(engine: Choice) {
        let server = App::listen();
        let plane = Plane::on(engine).app("checkout", None).start();
        let target = format!("/v1.0/invoke/http://{}/method/x", server.host());
        let mut client = plane.client();
        client.send(get(&target));
        let mut upstream = server.accept();
        upstream.read_request();
        upstream.send(answer("200 OK", "", "one"));
        assert_eq!(client.read_response().text(), "one");
        drop(upstream);
        client.send(get(&target));
        let mut upstream = server.accept();
        upstream.read_request();
        upstream.send(answer("200 OK", "", "two"));
        assert_eq!(client.read_response().text(), "two");
    }

    fn the_apps_token_goes_with_the_call_and_the_apis_does_not(engine: Choice) {
        let server = ServedApp::echoing();
        let port = port_of(&server.address());
        for (api_token, app_token, want) in [
            (None, None, Some("theirs")),
            (Some("theirs"), None, None),
            (None, Some("ours"), Some("ours")),
            (Some("theirs"), Some("ours"), Some("ours")),
        ] {
            let plane = Plane::on(engine).app("checkout", None).edit(|state| {
                let guards = Arc::make_mut(&mut state.apps[0].guards);
                guards.api_token = api_token.map(|token| Token::new(token).unwrap());
                guards.app_token = app_token.map(|token| Token::new(token).unwrap());
            }).start();
            let mut client = plane.client();
            let target = format!("/v1.0/invoke/http://127.0.0.1:{port}/method/x");
            client.send(request("GET", &target, "dapr-api-token: theirs\r\n"));
            let response = client.read_response();
            let seen: Vec<&str> = response
                .text()
                .lines()
                .filter_map(|line| line.split_once(": "))
                .filter(|(name, _)| name.eq_ignore_ascii_case("dapr-api-token"))
                .map(|(_, value)| value)
                .collect();
            assert_eq!(seen, Vec::from_iter(want), "{api_token:?} {app_token:?}");
        }
    }
}
