//! Apps that no state names: control is asked, the call waits, and either leaves or ends as one to
//! nobody.

#![forbid(unsafe_code)]

use crate::{
    OK, X, answer, direct_invoke_error, get, post, request,
    support::{App, Link, Plane, ServedApp, Wire, has_descriptors, on_both_engines, route},
};
use dataplane::{engine::Choice, limits};
use snapshot::{
    Address, AppId, Change, Namespace, OnControlLost,
    policy::resiliency::{Pause, Policy, Resiliency, Retry},
    wire::{FromDataPlane, ToDataPlane},
};
use std::{sync::Arc, time::Duration};

const PARKED: &str = "ringcar_calls_parked_total";
const UNRESOLVED: &str = "ringcar_calls_unresolved_total";
const OPEN: &str = "ringcar_connections_open";

/// More than the kernel's buffers take.
const LARGE: usize = 32 << 20;

/// A socket that takes nothing for this long is full.
const PATIENCE: Duration = Duration::from_millis(300);

fn unknown(id: &str) -> String {
    direct_invoke_error(&format!("failed to invoke, id: {id}, err: couldn't find service: {id}"))
}

/// A sidecar whose control can be asked.
fn asking(engine: Choice) -> Plane {
    let mut caller = Plane::on(engine).app("orders", None).start();
    caller.set_resolver(true);
    caller
}

fn found(address: &Address) -> Vec<Change> {
    vec![Change::Route(route("checkout", &[address]))]
}

impl Plane {
    /// The next question of the data plane: its number, and for whom.
    fn expect_question(&mut self) -> (u64, String) {
        match self.link.receive() {
            FromDataPlane::Resolve { query, id, namespace, .. } => {
                assert_eq!(namespace, Namespace::default());
                (query, id.to_string())
            }
            other => panic!("no question, but {other:?}"),
        }
    }

    /// Every worker knows it when this returns.
    fn set_resolver(&mut self, exists: bool) {
        self.link.send(&ToDataPlane::Resolver { exists }, &[]);
        self.publish(|_| {});
    }

    fn say_resolved(&mut self, query: u64) {
        self.link.send(&ToDataPlane::Resolved { query }, &[]);
    }

    /// What the data plane says from now on comes after an answer to this; nothing came before it.
    fn assert_nothing_asked(&mut self) {
        self.settle();
        self.counter(PARKED);
    }

    fn lose_link(&mut self) {
        self.link = Link::nowhere();
    }
}

fn is_unknown(client: &mut Wire, id: &str) {
    let response = client.read_response();
    assert_eq!((response.status(), response.text()), (500, &*unknown(id)));
}

on_both_engines! {
    fn app_that_joins_the_data_plane_meanwhile_gets_no_more_than_it_may(engine: Choice) {
        let mut caller = Plane::on(engine)
            .app("orders", None)
            .edit(|state| state.apps[0].body_bytes_max = Some(10))
            .start();
        caller.set_resolver(true);
        let app = App::listen();
        let mut client = caller.client();
        client.send(request("POST", X, "Transfer-Encoding: chunked\r\n") + "5\r\nhello\r\n");
        caller.expect_question();
        caller.join("checkout", app.address());
        let mut upstream = app.accept();
        let head = upstream.read_head();
        assert_eq!(head.one("dapr-caller-app-id"), Some("orders"));
        assert_eq!(upstream.read_bytes(10), b"5\r\nhello\r\n");
        client.send("6\r\n world\r\n0\r\n\r\n");
        let response = client.read_response();
        assert!(response.text().contains("stream too large"), "{response}");
    }

    fn call_leaves_when_its_app_is_found(engine: Choice) {
        let peer = ServedApp::answering(|request| {
            let told = request.one("dapr-callee-app-id").unwrap().to_owned();
            answer("200 OK", "", &format!("{told} {}", request.text())).into_bytes()
        });
        let mut caller = asking(engine);
        let mut client = caller.client();
        client.send(post(X, "hello"));
        let (query, id) = caller.expect_question();
        assert_eq!(id, "checkout");
        caller.change(found(&peer.address()));
        // The route is enough; that the question is answered adds nothing.
        assert_eq!(client.read_response().text(), "checkout hello");
        caller.say_resolved(query);
        client.send(post(X, "again"));
        assert_eq!(client.read_response().text(), "checkout again");
        assert_eq!((caller.counter(PARKED), caller.counter(UNRESOLVED)), (1.0, 0.0));
    }

    fn app_that_is_not_found_is_unknown(engine: Choice) {
        let mut caller = asking(engine);
        let mut client = caller.client();
        // Each call asks anew: how long a no counts is control's to say.
        for _ in 0..2 {
            client.send(get(X));
            let (query, _) = caller.expect_question();
            client.assert_silent();
            caller.say_resolved(query);
            is_unknown(&mut client, "checkout");
        }
        assert_eq!(caller.counter(UNRESOLVED), 2.0);
    }

    fn nobody_is_asked_where_nobody_knows(engine: Choice) {
        let mut caller = Plane::on(engine).app("orders", None).start();
        let mut client = caller.client();
        client.send(get(X));
        is_unknown(&mut client, "checkout");
        caller.assert_nothing_asked();
        caller.set_resolver(true);
        caller.set_resolver(false);
        client.send(get(X));
        is_unknown(&mut client, "checkout");
        caller.assert_nothing_asked();
    }

    fn address_that_is_another_apps_is_asked_for_anew(engine: Choice) {
        let wrong = || ServedApp::answering(|_| {
            answer("421 Misdirected Request", "Ringcar-Error: misdirected\r\n", "").into_bytes()
        });
        let (first, second) = (wrong(), wrong());
        let right = ServedApp::answering(|_| OK.into());
        let caller = Plane::on(engine).app("orders", None).knows("checkout", &[&first.address()]);
        let mut caller = caller.start();
        caller.set_resolver(true);
        let expect_stale = |caller: &mut Plane| match caller.link.receive() {
            FromDataPlane::Resolve { query, is_stale: true, .. } => query,
            other => panic!("nothing is stale, but {other:?}"),
        };
        let mut client = caller.client();
        client.send(get(X));
        let query = expect_stale(&mut caller);
        caller.change(vec![Change::Route(route("other", &[&right.address()]))]);
        client.assert_silent();
        caller.change(found(&right.address()));
        caller.say_resolved(query);
        assert_eq!(client.read_response().text(), "ok");

        // One that is not remembered fails, and the next one finds what it has led to.
        caller.change(found(&first.address()));
        client.send(post(X, "once"));
        is_unknown(&mut client, "checkout");
        let query = expect_stale(&mut caller);
        caller.say_resolved(query);
        // Else the next question might join this one.
        caller.counter(PARKED);

        // Nobody waits for one wrong address after the other.
        client.send(get(X));
        let query = expect_stale(&mut caller);
        caller.change(found(&second.address()));
        is_unknown(&mut client, "checkout");
        caller.say_resolved(query);
    }

    fn what_can_be_no_app_is_not_asked_for(engine: Choice) {
        let mut caller = asking(engine);
        let mut client = caller.client();
        client.send(get("/v1.0/invoke/check%20out/method/x"));
        is_unknown(&mut client, "check out");
        caller.assert_nothing_asked();
    }

    fn thousand_calls_ask_once(engine: Choice) {
        if !has_descriptors("thousand_calls_ask_once", 2_500) {
            return;
        }
        let peer = ServedApp::answering(|_| OK.into());
        let mut caller = asking(engine);
        let mut clients: Vec<Wire> = (0..1000).map(|_| caller.client()).collect();
        for client in &mut clients {
            client.send(get(X));
        }
        let (query, _) = caller.expect_question();
        caller.await_counter(PARKED, 1000.0);
        caller.change(found(&peer.address()));
        caller.say_resolved(query);
        for client in &mut clients {
            assert_eq!(client.read_response().text(), "ok");
        }
        assert_eq!(caller.counter(PARKED), 1000.0);
    }

    fn calls_that_may_wait_are_bounded(engine: Choice) {
        if !has_descriptors("calls_that_may_wait_are_bounded", 4_500) {
            return;
        }
        let mut caller = asking(engine);
        let mut clients: Vec<Wire> = (0..limits::PARKED_MAX).map(|_| caller.client()).collect();
        for client in &mut clients {
            client.send(get(X));
        }
        let (query, _) = caller.expect_question();
        caller.await_counter(PARKED, f64::from(u32::try_from(limits::PARKED_MAX).unwrap()));
        let mut one_more = caller.client();
        one_more.send(get(X));
        is_unknown(&mut one_more, "checkout");
        // One that leaves makes room.
        clients.pop();
        caller.await_counter_down_to(OPEN, f64::from(u32::try_from(limits::PARKED_MAX).unwrap()));
        one_more.send(get(X));
        one_more.assert_silent();
        caller.say_resolved(query);
        for client in &mut clients {
            is_unknown(client, "checkout");
        }
        is_unknown(&mut one_more, "checkout");
    }

    fn names_that_may_be_asked_for_are_bounded(engine: Choice) {
        if !has_descriptors("names_that_may_be_asked_for_are_bounded", 2_500) {
            return;
        }
        let mut caller = asking(engine);
        let ask = |client: &mut Wire, name: usize| {
            client.send(get(&format!("/v1.0/invoke/made-up-{name}/method/x")));
        };
        let mut clients: Vec<Wire> =
            (0..limits::RESOLVING_NAMES_MAX).map(|_| caller.client()).collect();
        let mut queries = Vec::new();
        for (name, client) in clients.iter_mut().enumerate() {
            ask(client, name);
            queries.push(caller.expect_question().0);
        }
        let mut one_more = caller.client();
        ask(&mut one_more, 9999);
        is_unknown(&mut one_more, "made-up-9999");
        caller.say_resolved(queries[0]);
        is_unknown(&mut clients[0], "made-up-0");
        ask(&mut one_more, 9999);
        assert_eq!(caller.expect_question().1, "made-up-9999");
    }

    fn long_body_waits_without_being_kept(engine: Choice) {
        let peer = App::listen();
        let caller = Plane::on(engine).app("orders", None);
        let mut caller = caller.edit(|s| s.apps[0].body_bytes_max = None).start();
        caller.set_resolver(true);
        let mut client = caller.client();
        client.send(request("POST", X, &format!("Content-Length: {LARGE}\r\n")));
        let (query, _) = caller.expect_question();
        let sent = client.send_until_full(&vec![b'x'; LARGE], PATIENCE);
        assert!(sent < LARGE / 2, "{sent} bytes taken for an app that may not exist");
        caller.change(found(&peer.address()));
        caller.say_resolved(query);
        let mut rest = client.split();
        let writer = std::thread::spawn(move || rest.send(vec![b'x'; LARGE - sent]));
        let mut upstream = peer.accept();
        upstream.read_head();
        upstream.skip_bytes(LARGE as u64);
        writer.join().unwrap();
        upstream.send(OK);
        assert_eq!(client.read_response().text(), "ok");
    }

    fn client_that_leaves_is_not_called_for(engine: Choice) {
        let peer = App::listen();
        let mut caller = asking(engine);
        let mut client = caller.client();
        client.send(format!("POST {X} HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf"));
        let (query, _) = caller.expect_question();
        drop(client);
        caller.await_counter_down_to(OPEN, 0.0);
        caller.change(found(&peer.address()));
        caller.say_resolved(query);
        caller.settle();
        peer.assert_untouched();
    }

    fn connection_that_waits_for_another_app_by_now_is_not_mixed_up(engine: Choice) {
        let mut caller = asking(engine);
        let mut client = caller.client();
        client.send(get(X));
        let (first, _) = caller.expect_question();
        // Its own time is over before control knows.
        client.set_deadline(2 * limits::RESOLVE_TIMEOUT);
        is_unknown(&mut client, "checkout");
        client.send(get("/v1.0/invoke/other/method/x"));
        let (second, id) = caller.expect_question();
        assert_eq!(id, "other");
        caller.say_resolved(first);
        client.assert_silent();
        caller.say_resolved(second);
        is_unknown(&mut client, "other");
    }

    fn next_control_is_asked_what_the_first_one_left(engine: Choice) {
        let peer = ServedApp::answering(|_| OK.into());
        let caller = Plane::on(engine).app("orders", None);
        let mut caller = caller.edit(|s| s.on_control_lost = OnControlLost::Serve).start();
        caller.set_resolver(true);
        let (mut before, mut while_away) = (caller.client(), caller.client());
        before.send(get(X));
        caller.expect_question();
        caller.lose_link();
        while_away.send(get("/v1.0/invoke/ghost/method/x"));
        caller.settle();
        caller.relink();
        let version = caller.send_state(|_| {});
        let mut questions = Vec::new();
        while questions.len() < 2 {
            match caller.link.receive() {
                FromDataPlane::Resolve { query, id, .. } => questions.push((id.to_string(), query)),
                other => assert_eq!(other, FromDataPlane::Live { version }),
            }
        }
        questions.sort();
        assert_eq!((&*questions[0].0, &*questions[1].0), ("checkout", "ghost"));
        caller.send_changes(found(&peer.address()), &[]);
        questions.iter().for_each(|(_, query)| caller.say_resolved(*query));
        assert_eq!(before.read_response().text(), "ok");
        is_unknown(&mut while_away, "ghost");
    }

    fn calls_end_although_control_never_comes_back(engine: Choice) {
        let caller = Plane::on(engine).app("orders", None);
        let mut caller = caller.edit(|s| s.on_control_lost = OnControlLost::Serve).start();
        caller.set_resolver(true);
        let mut client = caller.client();
        client.set_deadline(2 * limits::RESOLVE_TIMEOUT);
        client.send(get(X));
        caller.expect_question();
        caller.lose_link();
        is_unknown(&mut client, "checkout");
        caller.relink();
        let version = caller.send_state(|_| {});
        // The next control may still be asked what the last one was.
        loop {
            match caller.link.receive() {
                FromDataPlane::Resolve { .. } => {}
                other => break assert_eq!(other, FromDataPlane::Live { version }),
            }
        }
    }

    fn answer_that_overtakes_the_state_waits_for_it(engine: Choice) {
        let peer = ServedApp::answering(|_| OK.into());
        let mut caller = asking(engine);
        let mut client = caller.client();
        client.send(get(X));
        let (query, _) = caller.expect_question();
        // A delta is missed, and with it the route.
        caller.send_changes(Vec::new(), &[]);
        let FromDataPlane::Live { .. } = caller.link.receive() else { panic!("not live") };
        let gone = Change::RouteRemoved {
            id: AppId::new("x").unwrap(),
            namespace: Namespace::default(),
        };
        let delta = snapshot::Delta {
            base: snapshot::Version(90),
            version: snapshot::Version(91),
            changes: vec![gone],
        };
        caller.link.send(&ToDataPlane::Delta { delta, sockets: Vec::new() }, &[]);
        caller.expect_resync();
        caller.say_resolved(query);
        client.assert_silent();
        let route = route("checkout", &[&peer.address()]);
        caller.publish(|state| state.routes.push(route));
        assert_eq!(client.read_response().text(), "ok");
    }

    fn each_attempt_of_a_policy_asks_anew(engine: Choice) {
        let pause = Pause::Constant(Duration::from_millis(5));
        let retry = Retry { pause, count_max: Some(2), statuses: None };
        let policy = Policy { retry: Some(retry), ..Policy::default() };
        let mut caller = asking(engine);
        caller.publish(|state| {
            let default = Some(Arc::new(policy));
            let resiliency = Resiliency { default, ..Resiliency::default() };
            state.apps[0].resiliency = Some(Arc::new(resiliency));
        });
        let mut client = caller.client();
        client.send(post(X, "hello"));
        let (query, _) = caller.expect_question();
        caller.say_resolved(query);
        caller.expect_question();
        let peer = ServedApp::answering(|r| answer("200 OK", "", r.text()).into_bytes());
        caller.change(found(&peer.address()));
        assert_eq!(client.read_response().text(), "hello");
        assert_eq!((caller.counter(PARKED), caller.counter(UNRESOLVED)), (2.0, 1.0));
    }

    fn the_time_of_an_attempt_ends_its_waiting(engine: Choice) {
        let mut caller = asking(engine);
        caller.publish(|state| {
            let timeout = Some(Duration::from_millis(20));
            let default = Some(Arc::new(Policy { timeout, ..Policy::default() }));
            let resiliency = Resiliency { default, ..Resiliency::default() };
            state.apps[0].resiliency = Some(Arc::new(resiliency));
        });
        let mut client = caller.client();
        client.send(get(X));
        caller.expect_question();
        let response = client.read_response();
        assert!(response.text().contains("context deadline exceeded"), "{response}");
    }
}
