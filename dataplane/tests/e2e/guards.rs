//! The doors of an app's API: tokens, which APIs there are, and what browsers are told.

#![forbid(unsafe_code)]

use crate::{
    X, answer, direct_invoke_error, guards_of, post, request,
    support::{App, Framing, Hop, Mesh, Message, Plane, ServedApp, Wire, on_both_engines},
};
use dataplane::engine::Choice;
use snapshot::{
    ListenerKind, State,
    policy::{AllowedOrigins, ApiRule, ApiRules, Token},
};
use std::sync::Arc;

fn token(text: &str) -> Option<Token> {
    Some(Token::new(text).unwrap())
}

fn rules(texts: &[&str]) -> Vec<ApiRule> {
    let rule = |text: &&str| {
        let (version, name) = text.split_once('/').unwrap();
        ApiRule { name: name.to_owned(), version: version.to_owned() }
    };
    texts.iter().map(rule).collect()
}

fn origins(state: &mut State, list: &str) {
    let list = list.split(',').map(str::to_owned).collect();
    guards_of(state, 0).cors = Some(Arc::new(AllowedOrigins(list)));
}

fn ask(client: &mut Wire, method: &str, target: &str, lines: &str) -> Message {
    client.send(request(method, target, lines));
    client.read_response_to(method)
}

fn assert_unauthorized(response: &Message, case: &str) {
    assert_eq!(response.start_line, "HTTP/1.1 401 Unauthorized", "{case}");
    assert_eq!(response.text(), "invalid api token\n", "{case}");
    assert_eq!(response.one("content-type"), Some("text/plain; charset=utf-8"), "{case}");
    assert_eq!(response.one("x-content-type-options"), Some("nosniff"), "{case}");
    assert_eq!(response.framing, Framing::Length(18), "{case}");
}

on_both_engines! {
    fn the_api_wants_its_token(engine: Choice) {
        let app = App::listen();
        let guard = |state: &mut State| guards_of(state, 0).api_token = token("secret");
        let mut plane =
            Plane::on(engine).app("checkout", Some(app.address())).edit(guard).start();
        let mut client = plane.client();
        for (case, method, target, lines) in [
            ("none", "GET", X, ""),
            ("empty", "GET", X, "dapr-api-token: \r\n"),
            ("wrong", "GET", X, "dapr-api-token: Secret\r\n"),
            ("longer", "GET", X, "dapr-api-token: secret2\r\n"),
            ("twice as long", "GET", X, "dapr-api-token: secretsecret\r\n"),
            ("the first of two counts", "GET", X, "dapr-api-token: a\r\ndapr-api-token: secret\r\n"),
            ("metadata", "GET", "/v1.0/metadata", ""),
            ("shutdown", "POST", "/v1.0/shutdown", ""),
            ("unknown path", "GET", "/nothing", ""),
            ("health with another verb", "PUT", "/v1.0/healthz", ""),
            ("health as a method", "GET", "/v1.0/invoke/checkout/method/healthz", ""),
            ("health as a header's method", "GET", "/healthz", "dapr-app-id: checkout\r\n"),
            ("health in disguise", "GET", "/v1.0/%68ealthz", "dapr-app-id: checkout\r\n"),
            ("OPTIONS", "OPTIONS", "/v1.0/metadata", ""),
        ] {
            assert_unauthorized(&ask(&mut client, method, target, lines), case);
        }
        client.send(post(X, "a body that nobody reads"));
        assert_unauthorized(&client.read_response(), "with a body");
        app.assert_untouched();
        for (case, target) in [
            ("health", "/v1.0/healthz"),
            ("with a query", "/v1.0/healthz?x=1"),
            ("with a slash", "/v1.0/healthz/"),
            ("outbound health", "/v1.0/healthz/outbound"),
        ] {
            assert_eq!(ask(&mut client, "GET", target, "").status(), 204, "{case}");
        }
        let allowed = ask(&mut client, "GET", "/v1.0/metadata", "Dapr-API-Token: secret\r\n");
        assert_eq!(allowed.status(), 200);
        let mut public = Wire::connect(plane.address_of(0, ListenerKind::Public));
        assert_eq!(ask(&mut public, "GET", "/v1.0/metadata", "").status(), 200);
        assert_eq!(plane.counter("ringcar_requests_denied_total"), 15.0);
    }

    fn the_apis_token_goes_no_further(engine: Choice) {
        for hop in Hop::BOTH {
            for (has_token, want) in [(true, None), (false, Some("secret"))] {
                let app = ServedApp::echoing();
                let guard = |state: &mut State| {
                    if has_token {
                        guards_of(state, 0).api_token = token("secret");
                    }
                };
                let mesh = Mesh::start_with(engine, hop, app.address(), guard);
                let mut client = mesh.client();
                let response = ask(&mut client, "GET", X, "dapr-api-token: secret\r\n");
                assert_eq!(response.status(), 200, "{hop:?}");
                let seen = Message::parse_head(&response.body);
                assert_eq!(seen.one("dapr-api-token"), want, "{hop:?}");
            }
        }
    }

    fn the_app_gets_its_own_token(engine: Choice) {
        for hop in Hop::BOTH {
            let app = ServedApp::echoing();
            let guard = |state: &mut State| {
                let name = state.apps[0].id.as_str().to_owned();
                guards_of(state, 0).app_token = token(&format!("of-{name}"));
            };
            let mesh = Mesh::start_with(engine, hop, app.address(), guard);
            let mut client = mesh.client();
            for lines in ["", "dapr-api-token: forged\r\n"] {
                let response = ask(&mut client, "GET", X, lines);
                let seen = Message::parse_head(&response.body);
                assert_eq!(seen.one("dapr-api-token"), Some("of-checkout"), "{hop:?} {lines:?}");
            }
        }
    }

    fn the_app_of_a_neighbour_gets_its_own_token(engine: Choice) {
        let app = ServedApp::echoing();
        let guard = |state: &mut State| {
            guards_of(state, 0).app_token = token("of-orders");
            guards_of(state, 1).app_token = token("of-checkout");
        };
        let plane = Plane::on(engine).app("orders", None).app("checkout", Some(app.address()));
        let plane = plane.edit(guard).start();
        let response = ask(&mut plane.client(), "GET", X, "dapr-api-token: x\r\n");
        let seen = Message::parse_head(&response.body);
        assert_eq!(seen.one("dapr-api-token"), Some("of-checkout"));
    }

    fn a_new_token_holds_from_the_next_request_on(engine: Choice) {
        let mut plane = Plane::on(engine).app("checkout", None).start();
        let mut client = plane.client();
        for (api_token, status) in [(token("a"), 200), (token("b"), 401), (None, 200)] {
            plane.publish(|state| guards_of(state, 0).api_token = api_token);
            let response = ask(&mut client, "GET", "/v1.0/metadata", "dapr-api-token: a\r\n");
            assert_eq!(response.status(), status);
        }
    }

    fn an_api_that_is_not_allowed_is_not_there(engine: Choice) {
        let guard = |state: &mut State| {
            let (allowed, denied) = (rules(&["v1/invoke", "v1.0/metadata"]), Vec::new());
            guards_of(state, 0).api = Some(Arc::new(ApiRules { allowed, denied }));
        };
        let app = ServedApp::echoing();
        let plane = Plane::on(engine).app("checkout", Some(app.address())).edit(guard).start();
        let mut client = plane.client();
        let nothing = direct_invoke_error(
            "failed getting app id either from the URL path or the header dapr-app-id",
        );
        for (method, target) in [("GET", "/v1.0/state/s/k"), ("POST", "/v1.0/shutdown")] {
            let response = ask(&mut client, method, target, "");
            assert_eq!((response.status(), response.text()), (404, nothing.as_str()), "{target}");
        }
        let lines = "dapr-app-id: checkout\r\n";
        let response = ask(&mut client, "GET", "/v1.0/state/s/k", lines);
        assert!(response.text().starts_with("GET /v1.0/state/s/k HTTP/1.1\r\n"), "{response}");
        assert_eq!(ask(&mut client, "GET", "/v1.0/metadata", "").status(), 200);
        assert_eq!(ask(&mut client, "GET", X, "").status(), 200);
        assert_eq!(ask(&mut client, "GET", "/v1.0/healthz", "").status(), 204);
    }

    fn without_invocation_unknown_paths_are_gos(engine: Choice) {
        let guard = |state: &mut State| {
            let (allowed, denied) = (Vec::new(), rules(&["v1.0/invoke"]));
            guards_of(state, 0).api = Some(Arc::new(ApiRules { allowed, denied }));
        };
        let app = App::listen();
        let plane = Plane::on(engine).app("checkout", Some(app.address())).edit(guard).start();
        let mut client = plane.client();
        for (target, lines) in [(X, ""), ("/x", "dapr-app-id: checkout\r\n"), ("/", "")] {
            let response = ask(&mut client, "GET", target, lines);
            assert_eq!((response.status(), response.text()), (404, "404 page not found\n"));
            assert_eq!(response.one("content-type"), Some("text/plain; charset=utf-8"));
            assert_eq!(response.one("x-content-type-options"), Some("nosniff"));
        }
        for (method, target, allow) in [
            ("PATCH", "/v1.0/state/s/k", &["DELETE", "GET"][..]),
            ("POST", "/v1.0/healthz", &["GET"]),
            ("PROPFIND", "/v1.0/healthz", &[]),
        ] {
            let response = ask(&mut client, method, target, "");
            assert_eq!((response.status(), response.text()), (405, ""), "{target}");
            assert_eq!(response.all("allow"), allow, "{target}");
        }
        assert_eq!(ask(&mut client, "GET", "/v1.0/state/s/k", "").status(), 500);
        app.assert_untouched();
    }

    fn without_origins_nothing_is_said_of_them(engine: Choice) {
        let plane = Plane::on(engine).app("checkout", None).start();
        let lines = "Origin: https://a\r\nAccess-Control-Request-Method: GET\r\n";
        let response = ask(&mut plane.client(), "OPTIONS", "/v1.0/metadata", lines);
        assert_eq!(response.status(), 404);
        assert!(!response.has("vary") && !response.has("access-control-allow-origin"));
    }

    fn preflights_are_answered_before_the_token_is_asked_for(engine: Choice) {
        const VARY: [&str; 3] =
            ["Origin", "Access-Control-Request-Method", "Access-Control-Request-Headers"];
        const WISH: &str = "Access-Control-Request-Method: POST\r\n\
            Access-Control-Request-Headers: dapr-api-token, content-type\r\n";
        for (list, origin, want) in [
            ("https://a.example", "https://b.example", None),
            ("https://a.example", "https://a.example", Some("https://a.example")),
            ("*", "https://b.example", Some("*")),
        ] {
            let app = App::listen();
            let guard = |state: &mut State| {
                origins(state, list);
                guards_of(state, 0).api_token = token("secret");
            };
            let plane = Plane::on(engine).app("checkout", Some(app.address())).edit(guard).start();
            let mut client = plane.client();
            let lines = format!("Origin: {origin}\r\n{WISH}");
            let response = ask(&mut client, "OPTIONS", X, &lines);
            assert_eq!((response.start_line.as_str(), response.text()), ("HTTP/1.1 200 OK", ""));
            assert_eq!(response.one("content-length"), Some("0"));
            assert_eq!(response.all("vary"), VARY);
            assert_eq!(response.one("access-control-allow-origin"), want);
            assert_eq!(response.one("access-control-allow-methods"), want.map(|_| "POST"));
            let headers = want.map(|_| "Dapr-Api-Token, Content-Type");
            assert_eq!(response.one("access-control-allow-headers"), headers);
            assert!(!response.has("access-control-allow-credentials"));
            app.assert_untouched();

            let lines = format!("Origin: {origin}\r\n");
            let refused = ask(&mut client, "OPTIONS", X, &lines);
            assert_unauthorized(&refused, "no preflight");
            assert_eq!(refused.all("vary"), ["Origin"]);
            assert_eq!(refused.one("access-control-allow-origin"), want);
        }
    }

    fn every_answer_tells_browsers_where_it_may_be_read(engine: Choice) {
        for hop in Hop::BOTH {
            let answering = |_: &Message| answer("200 OK", "Vary: Accept\r\n", "ok").into_bytes();
            let app = ServedApp::answering(answering);
            let guard = |state: &mut State| origins(state, "https://a.example");
            let mesh = Mesh::start_with(engine, hop, app.address(), guard);
            for (origin, want) in [
                ("", None),
                ("Origin: https://b.example\r\n", None),
                ("Origin: https://a.example\r\n", Some("https://a.example")),
            ] {
                let mut client = mesh.client();
                for target in [X, "/nothing", "/v1.0/healthz", "/v1.0/metadata"] {
                    let response = ask(&mut client, "GET", target, origin);
                    let from_app = if target == X { vec!["Origin", "Accept"] } else { vec!["Origin"] };
                    assert_eq!(response.all("vary"), from_app, "{target} ({hop:?})");
                    let allowed = response.one("access-control-allow-origin");
                    assert_eq!(allowed, want, "{target} ({hop:?})");
                }
            }
        }
    }
}
