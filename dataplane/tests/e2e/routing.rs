//! Whom a request is for, and what the app is asked: every form of the invoke URL, their
//! precedence, and how paths are decoded, cleaned and written anew. The tables are daprd 1.18's,
//! source and integration tests.

#![forbid(unsafe_code)]

use crate::{
    X, direct_invoke_error, get, request,
    support::{Hop, Mesh, Plane, ServedApp, on_both_engines},
};
use dataplane::engine::Choice;
use snapshot::Address;

const NO_APP_ID: &str = "failed getting app id either from the URL path or the header dapr-app-id";
const GHOST: &str = "/v1.0/invoke/ghost/method/x";
/// `dapr-app-id:checkout`, and the same with the name in capitals, and other pairs.
const BASIC_CHECKOUT: &str = "Authorization: Basic ZGFwci1hcHAtaWQ6Y2hlY2tvdXQ=\r\n";
const BASIC_CAPITALS: &str = "Authorization: Basic REFQUi1BcHAtSWQ6Y2hlY2tvdXQ=\r\n";
const BASIC_NAMESPACE: &str = "Authorization: Basic ZGFwci1hcHAtaWQ6Y2hlY2tvdXQuZGVmYXVsdA==\r\n";
const BASIC_THREE_PARTS: &str = "Authorization: Basic ZGFwci1hcHAtaWQ6YTpi\r\n";
const BASIC_OTHER_USER: &str = "Authorization: Basic dXNlcjpwYXNz\r\n";
const BASIC_SMALL: &str = "Authorization: basic ZGFwci1hcHAtaWQ6Z2hvc3Q=\r\n";
const HEADER_AND_BASIC_GHOST: &str =
    "dapr-app-id: checkout\r\nAuthorization: Basic ZGFwci1hcHAtaWQ6Z2hvc3Q=\r\n";
const HEADER: &str = "dapr-app-id: checkout\r\n";

/// Each row is a case, a request, and the first line that the app gets.
fn assert_reach<'a>(engine: Choice, rows: impl Iterator<Item = (&'a str, String, String)> + Clone) {
    for hop in Hop::BOTH {
        let app = ServedApp::echoing();
        let mesh = Mesh::start(engine, hop, app.address());
        for (case, request, want) in rows.clone() {
            let mut client = mesh.client();
            client.send(request);
            let response = client.read_response();
            assert_eq!(response.status(), 200, "{case} ({hop:?}): {response}");
            let seen = response.text().split("\r\n").next().unwrap();
            assert_eq!(seen, want, "{case} ({hop:?})");
        }
    }
}

/// The call in the URL: case, target, path at the app.
const URL_FORMS: &[(&str, &str, &str)] = &[
    ("plain", "/v1.0/invoke/checkout/method/foo", "/foo"),
    ("doubled slashes before", "/v1.0////invoke/checkout/method/foo", "/foo"),
    ("doubled slashes everywhere", "//v1.0//invoke//checkout/method//foo", "/foo"),
    ("root of the app", "/v1.0/invoke/checkout/method/", "/"),
    ("root of the app with query", "/v1.0/invoke/checkout/method/?a=1", "/?a=1"),
    ("segments", "/v1.0/invoke/checkout/method/checkout/100", "/checkout/100"),
    ("trailing slash is lost", "/v1.0/invoke/checkout/method/a/b/", "/a/b"),
    ("dot segments are resolved", "/v1.0/invoke/checkout/method/a/./b/../c", "/a/c"),
    ("escaped dot segments too", "/v1.0/invoke/checkout/method/admin%2F..%2Fpublic", "/public"),
    ("dots above the root", "/v1.0/invoke/checkout/method/..%2F..%2Fpublic", "/public"),
    ("only dots", "/v1.0/invoke/checkout/method/a%2F..", "/"),
    ("the first /method/ divides", "/v1.0/invoke/checkout/method/method/x", "/method/x"),
    ("own namespace", "/v1.0/invoke/checkout.default/method/x", "/x"),
    ("escaped id", "/v1.0/invoke/check%6Fut/method/x", "/x"),
    ("twice escaped id", "/v1.0/invoke/check%256Fut/method/x", "/x"),
    ("absolute form", "http://a/v1.0/invoke/checkout/method/x", "/x"),
];

/// The target in a line: case, lines, target, path at the app.
const HEADER_FORMS: &[(&str, &str, &str, &str)] = &[
    ("header", HEADER, "/mymethod", "/mymethod"),
    ("header, root", HEADER, "/", "/"),
    ("header, any case", "DAPR-APP-ID: checkout\r\n", "/x", "/x"),
    ("header, namespace", "dapr-app-id: checkout.default\r\n", "/x", "/x"),
    ("header, doubled slashes", HEADER, "///foo//bar", "/foo/bar"),
    ("header, dot segments", HEADER, "/admin/../public", "/public"),
    ("header, escaped dot segments", HEADER, "/admin%2F..%2Fpublic", "/public"),
    ("header beats URL", HEADER, GHOST, GHOST),
    ("header beats basic auth", HEADER_AND_BASIC_GHOST, "/x", "/x"),
    ("empty header is none", "dapr-app-id: \r\n", X, "/x"),
    ("basic auth", BASIC_CHECKOUT, "/checkout/100", "/checkout/100"),
    ("basic auth, name in capitals", BASIC_CAPITALS, "/x", "/x"),
    ("basic auth, namespace", BASIC_NAMESPACE, "/x", "/x"),
    ("basic auth beats URL", BASIC_CHECKOUT, GHOST, GHOST),
    ("basic auth of three parts is none", BASIC_THREE_PARTS, X, "/x"),
    ("basic auth of another user is none", BASIC_OTHER_USER, X, "/x"),
    ("basic auth with a scheme in small letters is none", BASIC_SMALL, X, "/x"),
];

/// Case, target, path and query at the app.
const QUERIES: &[(&str, &str, &str)] = &[
    (
        "escapes stay",
        "/v1.0/invoke/checkout/method/x?x=1%202&y=%2F..%2F&z",
        "/x?x=1%202&y=%2F..%2F&z",
    ),
    ("slashes and dots stay", "/v1.0/invoke/checkout/method/x?a=/../b//c", "/x?a=/../b//c"),
    ("a second question mark stays", "/v1.0/invoke/checkout/method/x?a?b", "/x?a?b"),
    ("an empty one is dropped", "/v1.0/invoke/checkout/method/x?", "/x"),
    (
        "a literal one is not the method's",
        "/v1.0/invoke/checkout/method/test?stream",
        "/test?stream",
    ),
    (
        "/method/ in a query divides nothing",
        "/v1.0/invoke/checkout/method/x?/method/y",
        "/x?/method/y",
    ),
];

/// What stands behind `/method/`, and the path at the app.
const PATHS: &[(&str, &str, &str)] = &[
    ("quote", "test%22stream", "/test%22stream"),
    ("literal quote", "test\"stream", "/test%22stream"),
    ("asterisk", "test%2Astream", "/test*stream"),
    ("literal asterisk", "test*stream", "/test*stream"),
    ("backslash", "test%5Cstream", "/test%5Cstream"),
    ("literal backslash", "test\\stream", "/test%5Cstream"),
    ("space", "a%20b", "/a%20b"),
    ("plus", "a+b", "/a+b"),
    ("beyond ASCII", "caf%C3%A9", "/caf%C3%A9"),
    ("semicolon", "a;b", "/a;b"),
    ("decoded once more by the app", "x%2541", "/x%41"),
    ("slash escaped twice", "a%252Fb", "/a%2Fb"),
    ("dots escaped twice are opaque", "admin%252F..%252Fpublic", "/admin%2F..%2Fpublic"),
    ("colon and at", "a:b@c", "/a:b@c"),
    ("all of daprd's fuzz alphabet", "Az09-._~:/[]@!$'()+,=z", "/Az09-._~:/[]@!$'()+,=z"),
];

/// What the client sends and what the app gets.
const VERBS: &[(&str, &str)] = &[
    ("GET", "GET"),
    ("POST", "POST"),
    ("PUT", "PUT"),
    ("PATCH", "PATCH"),
    ("DELETE", "DELETE"),
    ("OPTIONS", "OPTIONS"),
    ("TRACE", "TRACE"),
    ("PROPFIND", "POST"),
];

on_both_engines! {
    fn invoke_url_names_target_and_method(engine: Choice) {
        assert_reach(
            engine,
            URL_FORMS
                .iter()
                .map(|(case, target, path)| (*case, get(target), format!("GET {path} HTTP/1.1"))),
        );
    }

    fn header_and_basic_auth_name_the_target(engine: Choice) {
        assert_reach(
            engine,
            HEADER_FORMS.iter().map(|(case, lines, target, path)| {
                (*case, request("GET", target, lines), format!("GET {path} HTTP/1.1"))
            }),
        );
    }

    fn query_is_untouched(engine: Choice) {
        assert_reach(
            engine,
            QUERIES
                .iter()
                .map(|(case, target, path)| (*case, get(target), format!("GET {path} HTTP/1.1"))),
        );
    }

    fn path_is_written_as_go_writes_it(engine: Choice) {
        assert_reach(
            engine,
            PATHS.iter().map(|(case, method, path)| {
                (
                    *case,
                    get(&format!("/v1.0/invoke/checkout/method/{method}")),
                    format!("GET {path} HTTP/1.1"),
                )
            }),
        );
    }

    fn every_verb_reaches_the_app(engine: Choice) {
        assert_reach(
            engine,
            VERBS.iter().map(|(sent, seen)| {
                (*sent, request(sent, X, "Content-Length: 0\r\n"), format!("{seen} /x HTTP/1.1"))
            }),
        );
    }

    fn head_reaches_the_app_as_head(engine: Choice) {
        for hop in Hop::BOTH {
            let app = crate::support::App::listen();
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(request("HEAD", X, ""));
            let mut upstream = app.accept();
            assert_eq!(upstream.read_request().start_line, "HEAD /x HTTP/1.1");
            upstream.send("HTTP/1.1 200 OK\r\nX-Seen: yes\r\nContent-Length: 3\r\n\r\n");
            let response = client.read_response_to("HEAD");
            assert_eq!((response.status(), response.one("x-seen")), (200, Some("yes")));
            assert_eq!(response.one("content-length"), Some("3"), "{hop:?}: as the app says");
            client.send(get(X));
            assert_eq!(upstream.read_request().start_line, "GET /x HTTP/1.1", "both ends kept");
        }
    }

    fn requests_without_target_are_answered_404(engine: Choice) {
        let app = crate::support::App::listen();
        let plane = Plane::on(engine).app("checkout", Some(app.address())).start();
        for (case, method, target) in [
            ("no slash after method", "GET", "/v1.0/invoke/checkout/method"),
            ("id only", "GET", "/v1.0/invoke/checkout"),
            ("no id", "GET", "/v1.0/invoke/method/x"),
            ("empty id", "GET", "/v1.0/invoke//method/x"),
            ("unknown path", "GET", "/foo"),
            ("root", "GET", "/"),
            ("other version", "GET", "/v2.0/invoke/checkout/method/x"),
            ("version in capitals", "GET", "/V1.0/invoke/checkout/method/x"),
            ("HEAD is not implied by GET", "HEAD", "/v1.0/healthz"),
            ("no POST on healthz", "POST", "/v1.0/healthz"),
            ("no PUT on shutdown", "PUT", "/v1.0/shutdown"),
            ("preflight", "OPTIONS", "/v1.0/metadata"),
            ("asterisk", "OPTIONS", "*"),
        ] {
            let mut client = plane.client();
            client.send(request(method, target, ""));
            let response = client.read_response_to(method);
            assert_eq!(response.start_line, "HTTP/1.1 404 Not Found", "{case}");
            assert_eq!(response.one("content-type"), Some("application/json"), "{case}");
            if method != "HEAD" {
                assert_eq!(response.text(), direct_invoke_error(NO_APP_ID), "{case}");
            }
        }
        app.assert_untouched();
    }

    fn own_endpoints_win_over_the_header(engine: Choice) {
        let app = crate::support::App::listen();
        let plane = Plane::on(engine).app("checkout", Some(app.address())).start();
        for (target, status) in [
            ("/v1.0/metadata", 200),
            ("/v1.0/healthz", 204),
            ("/v1.0/healthz/outbound", 204),
            ("/v1.0/state/s/k", 500),
        ] {
            let mut client = plane.client();
            client.send(request("GET", target, HEADER));
            assert_eq!(client.read_response().status(), status, "{target}");
        }
        app.assert_untouched();
    }

    fn another_app_of_the_same_data_plane_is_called_directly(engine: Choice) {
        let app = ServedApp::echoing();
        let plane =
            Plane::on(engine).app("orders", None).app("checkout", Some(app.address())).start();
        let mut client = plane.client();
        client.send(get(X));
        let response = client.read_response();
        assert_eq!(response.status(), 200, "{response}");
        assert!(response.text().starts_with("GET /x HTTP/1.1\r\n"), "{response}");
        assert!(response.text().contains("Dapr-Caller-App-Id: orders\r\n"), "{response}");
    }

    fn other_namespaces_are_other_apps(engine: Choice) {
        let (here, there) = (
            ServedApp::echoing(),
            ServedApp::answering(|_| b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nthere".to_vec()),
        );
        let elsewhere = Plane::on(engine)
            .app("checkout", Some(there.address()))
            .edit(|s| s.apps[0].namespace = snapshot::Namespace::new("prod").unwrap())
            .start();
        let plane = Plane::on(engine)
            .app("checkout", Some(here.address()))
            .knows("checkout", &[elsewhere.peer()])
            .edit(|s| s.routes[0].namespace = snapshot::Namespace::new("prod").unwrap())
            .start();
        let mut client = plane.client();
        client.send(get("/v1.0/invoke/checkout.prod/method/x"));
        assert_eq!(client.read_response().text(), "there");
        client.send(get("/v1.0/invoke/checkout.default/method/x"));
        assert!(client.read_response().text().starts_with("GET /x "));
        client.send(get(X));
        assert!(client.read_response().text().starts_with("GET /x "));
    }

    fn several_endpoints_share_the_calls(engine: Choice) {
        let named = |name: &'static str| {
            ServedApp::answering(move |_| crate::answer("200 OK", "", name).into_bytes())
        };
        let (one, two) = (named("one"), named("two"));
        let first = Plane::on(engine).app("checkout", Some(one.address())).start();
        let second = Plane::on(engine).app("checkout", Some(two.address())).start();
        let caller = Plane::on(engine)
            .app("orders", None)
            .knows("checkout", &[first.peer(), second.peer()])
            .edit(|s| s.apps[0].balance = snapshot::Balance::RoundRobin)
            .start();
        let mut client = caller.client();
        let mut counts = [0, 0];
        for _ in 0..50 {
            client.send(get(X));
            let response = client.read_response();
            counts[usize::from(response.text() == "two")] += 1;
        }
        assert_eq!(counts, [25, 25]);
    }

    fn clients_may_come_over_unix_sockets_and_peers_over_tcp(engine: Choice) {
        let app = ServedApp::echoing();
        let callee = Plane::on(engine).app("checkout", Some(app.address())).swapped().start();
        let caller = Plane::on(engine)
            .app("orders", None)
            .knows("checkout", &[callee.peer()])
            .swapped()
            .start();
        assert!(
            matches!(caller.api(), Address::Unix(_)) && matches!(callee.peer(), Address::Tcp(_))
        );
        let mut client = caller.client();
        for _ in 0..3 {
            client.send(crate::post(X, "hello"));
            let response = client.read_response();
            assert!(response.text().starts_with("POST /x HTTP/1.1\r\n"), "{response}");
            assert!(response.text().ends_with("hello"), "{response}");
        }
    }
}
