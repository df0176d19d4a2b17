//! Calls that wait to try their peer again, and the snapshot changes meanwhile.

#![forbid(unsafe_code)]

use crate::{
    OK, X, post,
    support::{App, Plane, TempDir, on_both_engines, route},
};
use dataplane::engine::Choice;
use snapshot::Address;

/// A sidecar that calls a peer which nobody serves, with one call waiting to try again.
fn waiting_call(engine: Choice, directory: &TempDir) -> (Plane, crate::support::Wire) {
    let gone = Address::Unix(directory.path().join("gone"));
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
        caller.publish(|s| s.routes = vec![route("checkout", &[&Address::Unix(path.clone())])]);
        let mut upstream = peer.accept();
        assert_eq!(upstream.read_request().text(), "hello");
        upstream.send(OK);
        assert_eq!(client.read_response().text(), "ok");
    }
}
