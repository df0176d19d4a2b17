//! Dapr's own endpoints: health, metadata, shutdown, the building blocks that are not configured,
//! and the public port.

#![forbid(unsafe_code)]

use crate::{
    get, request,
    support::{App, Framing, Plane, Wire, on_both_engines},
};
use dataplane::engine::Choice;
use snapshot::{
    ListenerKind,
    wire::{AdminCallId, AdminRequest, FromDataPlane, ToDataPlane},
};

fn error(code: &str, message: &str) -> String {
    format!("{{\"errorCode\":\"{code}\",\"message\":\"{message}\"}}")
}

fn no_content(call: AdminCallId) -> ToDataPlane {
    ToDataPlane::AdminReply { call, status: 204, content_type: String::new(), body: Vec::new() }
}

on_both_engines! {
    fn healthz_tells_what_is_not_ready(engine: Choice) {
        let mut plane = Plane::on(engine).app("checkout", None).start();
        let mut client = plane.client();
        for target in ["/v1.0/healthz", "/v1.0/healthz/", "//v1.0//healthz", "/v1.0/healthz?a=b"] {
            client.send(get(target));
            let response = client.read_response();
            assert_eq!(response.start_line, "HTTP/1.1 204 No Content", "{target}");
            assert!(!response.has("content-length"), "{target}: {response}");
        }
        plane.publish(|s| {
            s.apps[0].health.unready = vec!["app".to_owned(), "grpc-api-server".to_owned()];
        });
        client.send(get("/v1.0/healthz"));
        let response = client.read_response();
        assert_eq!(response.start_line, "HTTP/1.1 500 Internal Server Error");
        assert_eq!(
            response.text(),
            error("ERR_HEALTH_NOT_READY", "dapr is not ready: [app grpc-api-server]")
        );
        client.send(get("/v1.0/healthz/outbound"));
        assert_eq!(client.read_response().status(), 204, "outbound is another question");
    }

    fn healthz_outbound(engine: Choice) {
        let mut plane = Plane::on(engine).app("checkout", None).start();
        plane.publish(|s| s.apps[0].health.outbound_ready = false);
        let mut client = plane.client();
        client.send(get("/v1.0/healthz/outbound"));
        let response = client.read_response();
        assert_eq!(response.status(), 500);
        assert_eq!(response.one("content-type"), Some("application/json"));
        assert_eq!(
            response.text(),
            error("ERR_OUTBOUND_HEALTH_NOT_READY", "dapr outbound is not ready")
        );
    }

    fn healthz_of_a_named_app(engine: Choice) {
        let plane = Plane::on(engine).app("checkout", None).start();
        let mut client = plane.client();
        client.send(get("/v1.0/healthz?appid=checkout"));
        assert_eq!(client.read_response().status(), 204);
        client.send(get("/v1.0/healthz?appid=orders"));
        let response = client.read_response();
        assert_eq!(response.status(), 500);
        assert_eq!(
            response.text(),
            error("ERR_HEALTH_APPID_NOT_MATCH", "dapr app-id does not match")
        );
    }

    fn metadata_is_what_control_said(engine: Choice) {
        let mut plane = Plane::on(engine).app("checkout", None).start();
        let mut client = plane.client();
        client.send(get("/v1.0/metadata"));
        let response = client.read_response();
        assert_eq!(response.start_line, "HTTP/1.1 200 OK");
        assert_eq!(response.one("content-type"), Some("application/json"));
        assert_eq!(response.text(), "{\"id\":\"checkout\"}\n");
        plane.publish(|s| s.apps[0].metadata_json = "{\"id\":\"new\"}\n".into());
        client.send(get("/v1.0/metadata/"));
        assert_eq!(client.read_response().text(), "{\"id\":\"new\"}\n");
    }

    fn large_metadata(engine: Choice) {
        let large = format!("{{\"id\":\"{}\"}}\n", "x".repeat(300_000));
        let plane = Plane::on(engine)
            .app("checkout", None)
            .edit(|s| s.apps[0].metadata_json = large.clone().into())
            .start();
        let mut client = plane.client();
        for _ in 0..2 {
            client.send(get("/v1.0/metadata"));
            assert!(client.read_response().text() == large);
        }
    }

    fn metadata_is_set_by_control(engine: Choice) {
        let mut plane = Plane::on(engine).app("checkout", None).start();
        let mut client = plane.client();
        client.send(request("PUT", "/v1.0/metadata/cli%20PID", "Content-Length: 2\r\n"));
        plane.settle();
        client.send("42");
        let FromDataPlane::AdminCall { call, app, request: asked } = plane.link.receive() else {
            panic!("not an admin call");
        };
        let want = AdminRequest::SetMetadata { key: "cli PID".to_owned(), value: b"42".to_vec() };
        assert_eq!((app, asked), (0, want));
        plane.settle();
        client.assert_silent();
        plane.link.send(&no_content(call), &[]);
        assert_eq!(client.read_response().start_line, "HTTP/1.1 204 No Content");
        client.send(get("/v1.0/healthz"));
        assert_eq!(client.read_response().status(), 204, "the connection is kept");
    }

    fn metadata_in_chunks_is_decoded(engine: Choice) {
        let mut plane = Plane::on(engine).app("checkout", None).start();
        let mut client = plane.client();
        client.send(
            request("PUT", "/v1.0/metadata/k", "Transfer-Encoding: chunked\r\n")
                + "2\r\nab\r\n1;x\r\nc\r\n0\r\n\r\n",
        );
        let FromDataPlane::AdminCall { call, request: asked, .. } = plane.link.receive() else {
            panic!("not an admin call");
        };
        let want = AdminRequest::SetMetadata { key: "k".to_owned(), value: b"abc".to_vec() };
        assert_eq!(asked, want);
        let reply = ToDataPlane::AdminReply {
            call,
            status: 500,
            content_type: "application/json".to_owned(),
            body: b"{}".to_vec(),
        };
        plane.link.send(&reply, &[]);
        let response = client.read_response();
        assert_eq!((response.status(), response.text()), (500, "{}"));
        assert_eq!(response.one("content-type"), Some("application/json"));
    }

    fn metadata_without_value(engine: Choice) {
        let mut plane = Plane::on(engine).app("checkout", None).start();
        let mut client = plane.client();
        client.send(request("PUT", "/v1.0/metadata/k", ""));
        let FromDataPlane::AdminCall { request: asked, .. } = plane.link.receive() else {
            panic!("not an admin call");
        };
        assert_eq!(asked, AdminRequest::SetMetadata { key: "k".to_owned(), value: Vec::new() });
    }

    fn metadata_that_is_too_large_is_refused(engine: Choice) {
        let plane = Plane::on(engine).app("checkout", None).start();
        let mut client = plane.client();
        client.send(request("PUT", "/v1.0/metadata/k", "Content-Length: 1000000\r\n"));
        client.try_send(vec![b'x'; 1_000_000]).ok();
        let response = client.read_response();
        assert!(response.status() >= 400, "{response}");
        plane.settle();
    }

    fn client_that_leaves_during_an_admin_call(engine: Choice) {
        let mut plane = Plane::on(engine).app("checkout", None).start();
        let mut client = plane.client();
        client.send(request("PUT", "/v1.0/metadata/k", "Content-Length: 1\r\n") + "v");
        let FromDataPlane::AdminCall { call, .. } = plane.link.receive() else {
            panic!("not an admin call");
        };
        client.reset();
        plane.settle();
        // Somebody else now, who must not get the answer.
        let mut other = plane.client();
        plane.link.send(&no_content(call), &[]);
        plane.publish(|_| {});
        plane.settle();
        other.assert_silent();
        other.send(get("/v1.0/metadata"));
        assert_eq!(other.read_response().status(), 200);
    }

    fn shutdown_is_controls_to_do(engine: Choice) {
        let mut plane = Plane::on(engine).app("checkout", None).start();
        for (lines, force) in [
            ("", false),
            ("dapr-force-shutdown: true\r\n", true),
            ("Dapr-Force-Shutdown: TRUE\r\n", true),
            ("dapr-force-shutdown: false\r\n", false),
        ] {
            let mut client = plane.client();
            client.send(request("POST", "/v1.0/shutdown", lines));
            let FromDataPlane::AdminCall { call, app, request: asked } = plane.link.receive()
            else {
                panic!("not an admin call");
            };
            assert_eq!((app, asked), (0, AdminRequest::Shutdown { force }), "{lines:?}");
            plane.link.send(&no_content(call), &[]);
            assert_eq!(client.read_response().status(), 204, "{lines:?}");
        }
        plane.assert_runs();
    }

    fn building_blocks_that_are_not_configured(engine: Choice) {
        let plane = Plane::on(engine).app("checkout", None).start();
        for (method, target, status, code, message) in [
            (
                "GET",
                "/v1.0/state/s/k",
                500,
                "ERR_STATE_STORE_NOT_CONFIGURED",
                "state store s is not configured",
            ),
            (
                "POST",
                "/v1.0/state/s",
                500,
                "ERR_STATE_STORE_NOT_CONFIGURED",
                "state store s is not configured",
            ),
            ("POST", "/v1.0/publish/p/t", 404, "ERR_PUBSUB_NOT_FOUND", "pubsub p is not found"),
            (
                "GET",
                "/v1.0/secrets/s/k",
                500,
                "ERR_SECRET_STORES_NOT_CONFIGURED",
                "secret store is not configured",
            ),
            (
                "GET",
                "/v1.0/configuration/s",
                500,
                "ERR_CONFIGURATION_STORE_NOT_CONFIGURED",
                "configuration stores not configured",
            ),
            (
                "POST",
                "/v1.0-alpha1/lock/s",
                500,
                "ERR_LOCK_STORE_NOT_CONFIGURED",
                "lock store is not configured",
            ),
            (
                "POST",
                "/v1.0-alpha1/unlock/s",
                500,
                "ERR_LOCK_STORE_NOT_CONFIGURED",
                "lock store is not configured",
            ),
            (
                "PUT",
                "/v1.0-alpha1/crypto/n/encrypt",
                500,
                "ERR_CRYPTO_PROVIDERS_NOT_CONFIGURED",
                "crypto providers not configured",
            ),
            (
                "POST",
                "/v1.0/bindings/b",
                500,
                "ERR_INVOKE_OUTPUT_BINDING",
                "error invoking output binding b: couldn't find output binding b",
            ),
            (
                "POST",
                "/v1.0-alpha2/conversation/c/converse",
                400,
                "ERR_CONVERSATION_NOT_FOUND",
                "failed finding conversation component c",
            ),
        ] {
            let mut client = plane.client();
            client.send(request(method, target, "Content-Length: 0\r\n"));
            let response = client.read_response();
            assert_eq!(response.status(), status, "{target}: {response}");
            assert_eq!(response.one("content-type"), Some("application/json"), "{target}");
            let start = format!("{{\"errorCode\":\"{code}\",\"message\":\"{message}\"");
            assert!(response.text().starts_with(&start), "{target}: {response}");
        }
    }

    fn body_of_an_own_answer_is_not_a_request(engine: Choice) {
        let plane = Plane::on(engine).app("checkout", None).start();
        let mut client = plane.client();
        let inner = get("/v1.0/metadata");
        client.send(crate::post("/v1.0/state/s", &inner));
        assert_eq!(client.read_response().status(), 500);
        client.send(get("/v1.0/healthz"));
        assert_eq!(client.read_response().status(), 204);
        client.send(
            request("POST", "/nowhere", "Transfer-Encoding: chunked\r\n") + "2\r\nab\r\n0\r\n\r\n",
        );
        assert_eq!(client.read_response().status(), 404);
        client.send(get("/v1.0/healthz"));
        assert_eq!(client.read_response().status(), 204);
    }

    fn public_port_answers_health_and_metadata_only(engine: Choice) {
        let app = App::listen();
        let plane = Plane::on(engine).app("checkout", Some(app.address())).start();
        let public = plane.address_of(0, ListenerKind::Public).clone();
        for (method, target, status, body) in [
            ("GET", "/v1.0/healthz", 204, ""),
            ("GET", "/v1.0/healthz/outbound", 204, ""),
            ("GET", "/v1.0/metadata", 200, "{\"id\":\"checkout\"}\n"),
            ("GET", crate::X, 404, "404 page not found\n"),
            ("GET", "/", 404, "404 page not found\n"),
            ("GET", "/v1.0/state/s/k", 404, "404 page not found\n"),
            ("POST", "/v1.0/shutdown", 404, "404 page not found\n"),
            ("POST", "/v1.0/healthz", 405, ""),
        ] {
            let mut client = Wire::connect(&public);
            client.send(request(method, target, "dapr-app-id: checkout\r\n"));
            let response = client.read_response();
            assert_eq!((response.status(), response.text()), (status, body), "{method} {target}");
            if status == 404 {
                assert_eq!(
                    response.one("content-type"),
                    Some("text/plain; charset=utf-8"),
                    "{target}"
                );
            }
            if status == 405 {
                assert_eq!(response.framing, Framing::Empty, "{target}");
            }
        }
        app.assert_untouched();
    }

    fn value_that_control_waits_for_is_invited(engine: Choice) {
        let mut plane = Plane::on(engine).app("checkout", None).start();
        let mut client = plane.client();
        client.send(request(
            "PUT",
            "/v1.0/metadata/k",
            "Content-Length: 1\r\nExpect: 100-continue\r\n",
        ));
        assert_eq!(client.read_response().status(), 100);
        client.send("v");
        let FromDataPlane::AdminCall { call, request: asked, .. } = plane.link.receive() else {
            panic!("not an admin call");
        };
        assert_eq!(asked, AdminRequest::SetMetadata { key: "k".to_owned(), value: b"v".to_vec() });
        plane.link.send(&no_content(call), &[]);
        assert_eq!(client.read_response().status(), 204);
    }

    fn body_that_follows_an_admin_call_is_not_a_request(engine: Choice) {
        let mut plane = Plane::on(engine).app("checkout", None).start();
        let inner = get("/v1.0/metadata");
        let mut client = plane.client();
        let length = format!("Content-Length: {}\r\n", inner.len());
        client.send(request("POST", "/v1.0/shutdown", &length));
        let FromDataPlane::AdminCall { call, .. } = plane.link.receive() else {
            panic!("not an admin call");
        };
        client.send(&inner);
        plane.settle();
        plane.link.send(&no_content(call), &[]);
        assert_eq!(client.read_response().status(), 204);
        client.send(get("/nowhere"));
        // Either this connection is over, or the next answer is to the next request.
        let (bytes, _) = client.read_to_end_or_silence();
        assert!(
            bytes.is_empty() || bytes.starts_with(b"HTTP/1.1 404 "),
            "{}",
            bytes.escape_ascii()
        );
    }

    fn answers_of_control_to_nobody_are_ignored(engine: Choice) {
        let mut plane = Plane::on(engine).app("checkout", None).start();
        for (worker, connection) in [(0, 0), (0, u64::MAX), (99, 1), (u32::MAX, u64::MAX)] {
            let call = AdminCallId { worker, connection };
            plane.link.send(&no_content(call), &[]);
        }
        plane.publish(|_| {});
        let mut client = plane.client();
        client.send(get("/v1.0/healthz"));
        assert_eq!(client.read_response().status(), 204);
    }
}
