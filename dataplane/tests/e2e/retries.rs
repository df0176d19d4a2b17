//! Calls that wait to try their peer again, and the snapshot changes meanwhile; calls whose policy
//! has their app, or their server, looked for again.

#![forbid(unsafe_code)]

use crate::{
    OK, X, answer, direct_invoke_error, get, post, request,
    support::{App, Plane, TempDir, has_localhost, on_both_engines, route},
};
use dataplane::engine::Choice;
use snapshot::{
    Address,
    policy::resiliency::{Pause, Policy, Resiliency, Retry},
};
use std::{sync::Arc, time::Duration};

/// A sidecar that calls a peer which nobody serves, with one call waiting to try again.
fn waiting_call(engine: Choice, directory: &TempDir) -> (Plane, crate::support::Wire) {
    let gone = Address::Unix(directory.path().join("gone").into());
    let mut caller = Plane::on(engine)
        .app("orders", None)
        .edit(|s| s.routes.push(route("checkout", &[&gone])))
        .start();
    let mut client = caller.client();
    client.send(post(X, "hello"));
    caller.await_counter("ringcar_peer_retries_total", 1.0);
    (caller, client)
}

on_both_engines! {
    fn route_that_goes_ends_the_wait(engine: Choice) {
        let directory = TempDir::new();
        let (mut caller, mut client) = waiting_call(engine, &directory);
        caller.publish(|s| s.routes.clear());
        let response = client.read_response();
        // Waiting would have ended in the words for a peer that cannot be reached.
        assert!(response.text().contains("couldn't find service: checkout"), "{response}");
    }

    fn peer_that_came_back_elsewhere_is_called_there(engine: Choice) {
        let directory = TempDir::new();
        let (mut caller, mut client) = waiting_call(engine, &directory);
        let path = directory.path().join("new");
        let peer = App::listen_at(path.clone());
        caller.publish(|s| s.routes = vec![route("checkout", &[&Address::Unix(path.clone().into())])]);
        let mut upstream = peer.accept();
        assert_eq!(upstream.read_request().text(), "hello");
        upstream.send(OK);
        assert_eq!(client.read_response().text(), "ok");
    }
}

/// An app without neighbours, whose calls are tried again so often, if a policy says so.
fn retrying(engine: Choice, target: &str, policy: Policy) -> Plane {
    let resiliency = Resiliency {
        targets: [(target.into(), Arc::new(policy))].into(),
        default: None,
        sources: Vec::new(),
    };
    Plane::on(engine)
        .app("orders", None)
        .edit(move |state| state.apps[0].resiliency = Some(Arc::new(resiliency)))
        .start()
}

fn retry(count_max: Option<u32>) -> Option<Retry> {
    let pause = Pause::Constant(Duration::from_millis(5));
    Some(Retry { pause, count_max, statuses: None })
}

fn unknown(id: &str) -> String {
    direct_invoke_error(&format!("failed to invoke, id: {id}, err: couldn't find service: {id}"))
}

const RETRIES: &str = "ringcar_policy_retries_total";

on_both_engines! {
    fn app_that_nobody_serves_yet_is_looked_for_again(engine: Choice) {
        let policy = Policy { retry: retry(None), ..Policy::default() };
        let mut caller = retrying(engine, "checkout", policy);
        let mut client = caller.client();
        client.send(post(X, "hello"));
        caller.await_counter(RETRIES, 2.0);
        let peer = App::listen();
        caller.publish(|s| s.routes = vec![route("checkout", &[&peer.address()])]);
        let mut upstream = peer.accept();
        let seen = upstream.read_request();
        assert_eq!((seen.text(), seen.one("dapr-callee-app-id")), ("hello", Some("checkout")));
        upstream.send(OK);
        assert_eq!(client.read_response().text(), "ok");
    }

    fn app_that_joins_the_data_plane_meanwhile_is_called(engine: Choice) {
        let policy = Policy { retry: retry(None), ..Policy::default() };
        let mut caller = retrying(engine, "checkout", policy);
        let peer = App::listen();
        let mut client = caller.client();
        client.send(format!("{}he", request("POST", X, "Content-Length: 5\r\nX-A: b\r\n")));
        caller.await_counter(RETRIES, 2.0);
        client.send("llo");
        caller.join("checkout", peer.address());
        let mut upstream = peer.accept();
        let seen = upstream.read_request();
        assert_eq!((seen.text(), seen.one("x-a")), ("hello", Some("b")));
        assert_eq!(seen.one("dapr-caller-app-id"), Some("orders"));
        assert_eq!(seen.one("dapr-callee-app-id"), Some("checkout"));
        assert_eq!(seen.one("destination-app-id"), None);
        upstream.send(OK);
        assert_eq!(client.read_response().text(), "ok");
    }

    fn body_that_comes_while_its_app_is_looked_for_is_sent_whole(engine: Choice) {
        let policy = Policy { retry: retry(None), ..Policy::default() };
        let mut caller = retrying(engine, "checkout", policy);
        let mut client = caller.client();
        client.send(format!("{}he", request("POST", X, "Content-Length: 5\r\n")));
        caller.await_counter(RETRIES, 2.0);
        client.send("llo");
        caller.settle();
        let peer = App::listen();
        caller.publish(|s| s.routes = vec![route("checkout", &[&peer.address()])]);
        let mut upstream = peer.accept();
        assert_eq!(upstream.read_request().text(), "hello");
        upstream.send(OK);
        assert_eq!(client.read_response().text(), "ok");
    }

    fn app_that_nobody_ever_serves_is_unknown_after_the_last_retry(engine: Choice) {
        let policy = Policy { retry: retry(Some(3)), ..Policy::default() };
        let mut caller = retrying(engine, "checkout", policy);
        let chunked = request("POST", X, "Transfer-Encoding: chunked\r\n") + "0\r\n\r\n";
        for (case, text, retries) in [
            ("known length", post(X, "hello"), 3.0),
            ("chunked", chunked, 3.0),
            ("no body", get(X), 6.0),
            ("no policy", get("/v1.0/invoke/ghost/method/x"), 6.0),
        ] {
            let mut client = caller.client();
            client.send(text);
            let response = client.read_response();
            let id = if case == "no policy" { "ghost" } else { "checkout" };
            assert_eq!((response.status(), response.text()), (500, &*unknown(id)), "{case}");
            assert_eq!(caller.counter(RETRIES), retries, "{case}");
        }
    }

    fn names_that_have_no_address_are_looked_up_again(engine: Choice) {
        const NOWHERE: &str = "http://nowhere.invalid:81";
        let policy = Policy { retry: retry(Some(2)), ..Policy::default() };
        let mut caller = retrying(engine, NOWHERE, policy);
        let mut client = caller.client();
        client.send(get(&format!("/v1.0/invoke/{NOWHERE}/method/x")));
        let response = client.read_response();
        assert!(response.text().contains("lookup nowhere.invalid: "), "{response}");
        assert_eq!(caller.counter(RETRIES), 2.0);
    }

    fn named_servers_are_called_again(engine: Choice) {
        if !has_localhost("named_servers_are_called_again") {
            return;
        }
        let server = App::listen();
        let port = server.host().rsplit_once(':').unwrap().1.to_owned();
        let url = format!("http://localhost:{port}");
        let policy = Policy { retry: retry(Some(2)), ..Policy::default() };
        let caller = retrying(engine, &url, policy);
        let mut client = caller.client();
        client.send(post(&format!("/v1.0/invoke/{url}/method/x"), "hello"));
        for status in ["500 E", "200 OK"] {
            let mut upstream = server.accept();
            assert_eq!(upstream.read_request().text(), "hello");
            upstream.send(answer(status, "", status));
        }
        assert_eq!(client.read_response().text(), "200 OK");
    }
}
