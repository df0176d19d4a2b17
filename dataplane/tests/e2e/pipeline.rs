//! `spec.httpPipeline` and `spec.appHttpPipeline`: rules, aliases, limits and capitals, in their
//! order, over one sidecar and over two.

#![forbid(unsafe_code)]

use crate::{
    X, answer, get, guards_of, post, request,
    support::{App, End, Framing, Hop, Mesh, Message, Plane, ServedApp, Wire, on_both_engines},
};
use dataplane::engine::Choice;
use snapshot::{
    State,
    policy::{AliasRoute, AllowedOrigins, Pattern, Pipelines, RateLimit, Step, Token},
};
use std::sync::Arc;

fn check(rule: &str) -> Step {
    Step::Check(Pattern::new(rule).unwrap())
}

fn alias(pattern: &str, variables: &[&str], path: &str) -> Step {
    Step::Alias(vec![AliasRoute {
        pattern: Pattern::new(pattern).unwrap(),
        variables: variables.iter().map(|name| (*name).to_owned()).collect(),
        path: path.to_owned(),
    }])
}

fn limit(per_second: f64) -> Step {
    Step::RateLimit(RateLimit { component: "limit".to_owned(), per_second })
}

const SHOUT: Step = Step::Uppercase { request: true, answer: true };

/// Of the first app: the client's sidecar.
fn api(steps: Vec<Step>) -> impl Fn(&mut State) {
    move |state| {
        let pipelines = Pipelines { api: steps.clone(), app: Vec::new() };
        guards_of(state, 0).pipelines = Some(Arc::new(pipelines));
    }
}

/// Of `checkout`, whoever calls it.
fn app(steps: Vec<Step>) -> impl Fn(&mut State) {
    move |state| {
        if state.apps[0].id.as_str() == "checkout" {
            let pipelines = Pipelines { api: Vec::new(), app: steps.clone() };
            guards_of(state, 0).pipelines = Some(Arc::new(pipelines));
        }
    }
}

fn ask(client: &mut Wire, target: &str, lines: &str) -> Message {
    client.send(request("GET", target, lines));
    client.read_response()
}

fn assert_refused(response: &Message, status: u16, text: &str, case: &str) {
    assert_eq!((response.status(), response.text()), (status, text), "{case}: {response}");
    assert_eq!(response.one("content-type"), Some("text/plain; charset=utf-8"), "{case}");
    assert_eq!(response.framing, Framing::Length(text.len()), "{case}");
}

const TOO_MANY: &str = "You have reached maximum request limit.";

on_both_engines! {
    fn a_path_that_no_rule_fits_is_refused(engine: Choice) {
        let guard = |state: &mut State| {
            api(vec![check(r"^/v1\.0/invoke/[a-z]+/method/x(\?q=[0-9]+)?$")])(state);
            guards_of(state, 0).api_token = Some(Token::new("secret").unwrap());
            guards_of(state, 0).cors = Some(Arc::new(AllowedOrigins(vec!["*".to_owned()])));
        };
        let app = App::listen();
        let mut plane =
            Plane::on(engine).app("checkout", Some(app.address())).edit(guard).start();
        let mut client = plane.client();
        let token = "dapr-api-token: secret\r\n";
        for (case, target) in [
            ("another method", "/v1.0/invoke/checkout/method/xy"),
            ("another query", "/v1.0/invoke/checkout/method/x?q=a"),
            ("a query that is empty", "/v1.0/invoke/checkout/method/x?"),
            ("metadata", "/v1.0/metadata"),
            ("health", "/v1.0/healthz"),
            ("nothing", "/nothing"),
            ("as it is written", "/v1.0/invoke/checkout/method/%78"),
        ] {
            assert_refused(&ask(&mut client, target, token), 400, "invalid router", case);
        }
        client.send(post("/nothing", "x").replace("\r\n\r\n", &format!("\r\n{token}\r\n")));
        assert_refused(&client.read_response(), 400, "invalid router", "with a body");
        let response = ask(&mut client, "/nothing", "");
        assert_eq!((response.status(), response.text()), (401, "invalid api token\n"));
        let wish = "Origin: https://a\r\nAccess-Control-Request-Method: GET\r\n";
        client.send(request("OPTIONS", "/nothing", wish));
        assert_eq!(client.read_response().status(), 200, "preflights come before it");
        app.assert_untouched();
        client.send(request("GET", &format!("{X}?q=7"), token));
        let mut upstream = app.accept();
        upstream.read_request();
        upstream.send(crate::OK);
        assert_eq!(client.read_response().status(), 200);
        assert_eq!(plane.counter("ringcar_requests_denied_total"), 9.0);
    }

    fn the_apps_own_rule_sees_the_path_that_it_gets(engine: Choice) {
        for hop in Hop::BOTH {
            let served = ServedApp::echoing();
            let mesh = Mesh::start_with(engine, hop, served.address(), app(vec![check("^/x$")]));
            let mut client = mesh.client();
            for target in ["/v1.0/invoke/checkout/method/y", "/v1.0/invoke/checkout/method/x?q"] {
                let response = ask(&mut client, target, "");
                assert_refused(&response, 400, "invalid router", &format!("{hop:?} {target}"));
            }
            assert_eq!(ask(&mut client, X, "").status(), 200, "{hop:?}");
            assert_eq!(ask(&mut client, "/v1.0/healthz", "").status(), 204, "{hop:?}");
        }
    }

    fn an_alias_leads_to_a_call(engine: Choice) {
        let steps = vec![
            alias("^/hello$", &[], "/v1.0/invoke/checkout/method/foo"),
            alias("^/v1.0/invoke/checkout/method/foo$", &[], "/v1.0/invoke/checkout/method/abc"),
            alias("^/shops/([^/]+)$", &["id"], "/v1.0/invoke/checkout/method/shop"),
            alias("^/v1.0/metadata$", &[], "/v1.0/invoke/checkout/method/never"),
            alias("^/mine$", &[], "/other"),
        ];
        let served = ServedApp::echoing();
        for hop in Hop::BOTH {
            let mesh = Mesh::start_with(engine, hop, served.address(), api(steps.clone()));
            let mut client = mesh.client();
            for (target, lines, want) in [
                ("/hello", "", "GET /abc HTTP/1.1"),
                ("/hello?q=%20&a", "", "GET /abc?q=%20&a HTTP/1.1"),
                ("/shops/7%2B8?z=1&b", "", "GET /shop?b=&id=7%2B8&z=1 HTTP/1.1"),
                ("/v1.0/invoke/checkout/method/foo", "", "GET /abc HTTP/1.1"),
                ("/v1.0/invoke/checkout/method/bar", "", "GET /bar HTTP/1.1"),
                ("/mine", "dapr-app-id: checkout\r\n", "GET /other HTTP/1.1"),
            ] {
                let response = ask(&mut client, target, lines);
                assert_eq!(response.status(), 200, "{hop:?} {target}: {response}");
                let seen = Message::parse_head(&response.body);
                assert_eq!(seen.start_line, want, "{hop:?} {target}");
                assert!(!seen.has("dapr-app-id"), "{hop:?} {target}: {seen}");
            }
            assert_eq!(ask(&mut client, "/mine", "").status(), 404, "{hop:?}: it leads nowhere");
            let own = ask(&mut client, "/v1.0/metadata", "");
            assert!(own.text().starts_with("{\"id\":"), "{hop:?}: Dapr's own endpoints stay: {own}");
        }
    }

    fn an_alias_of_the_app_leads_to_another_path(engine: Choice) {
        let steps = vec![
            alias("^/helloworld$", &[], "/foobar"),
            alias("^/foobar$", &[], "/ab c"),
            alias("^/v/(.+)$", &["v"], "/w"),
        ];
        for hop in Hop::BOTH {
            let served = ServedApp::echoing();
            let mesh = Mesh::start_with(engine, hop, served.address(), app(steps.clone()));
            let mut client = mesh.client();
            for (method, want) in [
                ("helloworld?x=1", "GET /ab%20c?x=1 HTTP/1.1"),
                ("v/a/b", "GET /w?v=a%2Fb HTTP/1.1"),
                ("ab", "GET /ab HTTP/1.1"),
            ] {
                let response = ask(&mut client, &format!("/v1.0/invoke/checkout/method/{method}"), "");
                let seen = Message::parse_head(&response.body);
                assert_eq!(seen.start_line, want, "{hop:?}");
            }
        }
    }

    fn a_limit_counts_clients_and_paths(engine: Choice) {
        let served = ServedApp::answering(|_| crate::OK.as_bytes().to_vec());
        let plane = Plane::on(engine).app("checkout", Some(served.address()));
        // A tenth of one comes back each second, so one is all there is while this runs.
        let plane = plane.edit(api(vec![limit(0.1)])).workers(3).start();
        let y = "/v1.0/invoke/checkout/method/y";
        let first = ask(&mut plane.client(), X, "");
        assert_eq!(first.status(), 200);
        assert_eq!(first.one("x-rate-limit-limit"), Some("0.10"));
        assert_eq!(first.one("x-rate-limit-duration"), Some("1"));
        let address = first.one("x-rate-limit-request-remote-addr").unwrap();
        assert!(address.starts_with("127.0.0.1:"), "{address}");
        assert_eq!(first.one("ratelimit-limit"), Some("0"));
        assert_eq!(first.one("ratelimit-reset"), Some("1"));
        assert_eq!(first.one("ratelimit-remaining"), Some("0"));
        assert!(!first.has("x-rate-limit-request-forwarded-for"));
        for (case, target, lines, is_refused) in [
            ("the same again, at whichever worker", X, "", true),
            ("the same again", X, "", true),
            ("another path", y, "", false),
            ("another path again", y, "", true),
            ("somebody else", X, "X-Forwarded-For: 10.0.0.1, 10.0.0.2\r\n", false),
            ("who came another way", X, "X-Forwarded-For: 10.0.0.2\r\n", true),
            ("Dapr's own endpoints", "/v1.0/healthz", "", false),
            ("these, too", "/v1.0/healthz", "", true),
        ] {
            let response = ask(&mut plane.client(), target, lines);
            if is_refused {
                assert_refused(&response, 429, TOO_MANY, case);
                assert_eq!(response.one("ratelimit-remaining"), Some("0"), "{case}");
            } else {
                assert!(response.status() < 300, "{case}: {response}");
            }
            let said = response.one("x-rate-limit-request-forwarded-for");
            assert_eq!(said.is_some(), !lines.is_empty(), "{case}");
        }
    }

    fn a_limit_of_the_app_counts_its_callers(engine: Choice) {
        for hop in Hop::BOTH {
            let served = ServedApp::echoing();
            let mesh = Mesh::start_with(engine, hop, served.address(), app(vec![limit(0.1)]));
            let mut client = mesh.client();
            let response = ask(&mut client, X, "");
            assert_eq!(response.status(), 200, "{hop:?}");
            let from = response.one("x-rate-limit-request-forwarded-for");
            // Of a call that no other sidecar made nobody knows where it comes from.
            let want = if hop == Hop::Own { "0.0.0.0" } else { "10.0.0.1" };
            assert_eq!(from, Some(want), "{hop:?}");
            assert_eq!(response.one("x-rate-limit-request-remote-addr"), Some(""), "{hop:?}");
            let seen = Message::parse_head(&response.body);
            assert_eq!(seen.one("x-forwarded-for"), Some(want), "{hop:?}");
            assert_refused(&ask(&mut client, X, ""), 429, TOO_MANY, &format!("{hop:?}"));
            assert_eq!(ask(&mut client, "/v1.0/healthz", "").status(), 204, "{hop:?}");
        }
    }

    fn bodies_are_put_in_capitals(engine: Choice) {
        type Pipeline = fn(Vec<Step>) -> Box<dyn Fn(&mut State)>;
        let pipelines: [Pipeline; 2] = [|steps| Box::new(api(steps)), |steps| Box::new(app(steps))];
        for pipeline in pipelines {
            for hop in Hop::BOTH {
                let app = App::listen();
                let mesh = Mesh::start_with(engine, hop, app.address(), pipeline(vec![SHOUT]));
                let mut client = mesh.client();
                client.send(post(X, "héllo\u{ff}"));
                let mut upstream = app.accept();
                assert_eq!(upstream.read_request().text(), "HéLLO\u{ff}", "{hop:?}");
                upstream.send(answer("404 Not Found", "X-A: b\r\n", "not found"));
                let response = client.read_response();
                assert_eq!((response.status(), response.text()), (404, "NOT FOUND"), "{hop:?}");
                assert_eq!(response.one("x-a"), Some("b"), "{hop:?}: heads stay as they are");

                client.send(request("POST", X, "Transfer-Encoding: chunked\r\n"));
                upstream.read_head();
                for (chunk, want) in
                    [("a;b=c\r\n0123456abc\r\n", "a;b=c\r\n0123456ABC\r\n"), ("1\r\nx\r\n", "1\r\nX\r\n")]
                {
                    client.send(chunk);
                    assert_eq!(upstream.read_bytes(want.len()), want.as_bytes(), "{hop:?}");
                }
                client.send("0\r\nx-sum: a\r\n\r\n");
                assert_eq!(upstream.read_bytes(15), b"0\r\nx-sum: a\r\n\r\n");
                upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n");
                assert_eq!(client.read_response().text(), "OK", "{hop:?}");

                client.send(get(X));
                upstream.read_request();
                upstream.send("HTTP/1.1 200 OK\r\n\r\nuntil close");
                drop(upstream);
                assert_eq!(client.read_response().text(), "UNTIL CLOSE", "{hop:?}");

                let mut old = mesh.client();
                old.send(format!("GET {X} HTTP/1.0\r\nHost: a\r\n\r\n"));
                let mut upstream = app.accept();
                upstream.read_request();
                upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n");
                let (bytes, end) = old.read_to_end();
                assert!(bytes.ends_with(b"\r\n\r\nOK"), "{hop:?}: {}", bytes.escape_ascii());
                assert_eq!(end, End::Fin, "{hop:?}");
            }
        }
    }

    fn answers_of_the_sidecar_are_in_capitals_behind_its_own_pipeline_only(engine: Choice) {
        for (guard, want) in [
            (Box::new(api(vec![SHOUT])) as Box<dyn Fn(&mut State)>, "{\"ID\":\"CHECKOUT\"}\n"),
            (Box::new(app(vec![SHOUT])), "{\"id\":\"checkout\"}\n"),
            (
                Box::new(api(vec![Step::Uppercase { request: true, answer: false }])),
                "{\"id\":\"checkout\"}\n",
            ),
        ] {
            let plane = Plane::on(engine).app("checkout", None).edit(guard).start();
            let mut client = plane.client();
            assert_eq!(ask(&mut client, "/v1.0/metadata", "").text(), want);
        }
        let steps = vec![SHOUT, check("^/v1.0/metadata$"), limit(100.0)];
        let plane = Plane::on(engine).app("checkout", None).edit(api(steps)).start();
        let response = ask(&mut plane.client(), X, "");
        assert_refused(&response, 400, "INVALID ROUTER", "a step behind is heard through it");
        assert!(!response.has("x-rate-limit-limit"), "what comes behind is never asked");
    }

    fn a_new_pipeline_holds_from_the_next_request_on(engine: Choice) {
        let served = ServedApp::echoing();
        let mut plane = Plane::on(engine).app("checkout", Some(served.address())).start();
        let mut client = plane.client();
        for (steps, status) in
            [(vec![check("^/y")], 400), (Vec::new(), 200), (vec![limit(0.1), limit(0.1)], 429)]
        {
            plane.publish(api(steps));
            assert_eq!(ask(&mut client, X, "").status(), status);
        }
    }

    fn calls_out_of_dapr_go_through_the_apps_own_pipeline(engine: Choice) {
        let server = ServedApp::echoing();
        let snapshot::Address::Tcp(address) = server.address() else { panic!("TCP") };
        let steps = vec![alias("^/base/hello$", &[], "/abc"), SHOUT];
        let plane = Plane::on(engine).app("checkout", None).edit(app(steps)).start();
        let target = format!("/v1.0/invoke/http://{address}/base/method/hello?q=1");
        let response = ask(&mut plane.client(), &target, "");
        assert!(response.text().starts_with("GET /ABC?Q=1 HTTP/1.1\r\n"), "{response}");
    }
}
