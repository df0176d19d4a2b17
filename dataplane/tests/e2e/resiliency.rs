//! Resiliency policies of the caller: which calls are tried again, how long an attempt may take,
//! and when a circuit breaker lets nothing through.

#![forbid(unsafe_code)]

use crate::{
    OK, X, answer, direct_invoke_error, get, post, request,
    support::{App, DEADLINE, End, Hop, Mesh, Message, Plane, ServedApp, on_both_engines},
};
use dataplane::engine::Choice;
use snapshot::{
    Address, State,
    policy::{
        AccessPolicy, Action, Guards,
        resiliency::{Breaker, Pause, Policy, Resiliency, Retry, StatusSet},
        trip::{Count, Step, Trip},
    },
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

const MS: Duration = Duration::from_millis(1);

fn retry(count_max: u32) -> Option<Retry> {
    Some(Retry { pause: Pause::Constant(MS), count_max: Some(count_max), statuses: None })
}

/// Opens after so many failures in a row.
fn breaker(failures: i64, open_time: Duration) -> Option<Breaker> {
    let steps = vec![Step::Int(failures), Step::Count(Count::ConsecutiveFailures)];
    let trip = Trip::new([steps, vec![Step::LessOrEqual]].concat()).unwrap();
    Some(Breaker { probes_max: 1, interval: None, open_time, trip, methods_max: 10 })
}

fn towards(target: &str, policy: &Policy) -> Option<Arc<Resiliency>> {
    let targets = [(target.into(), Arc::new(policy.clone()))].into();
    Some(Arc::new(Resiliency { targets, ..Resiliency::default() }))
}

/// A call of `checkout` under this policy, which both data planes are told: the callee's must make
/// nothing of it.
fn mesh(engine: Choice, hop: Hop, app: Address, policy: &Policy) -> Mesh {
    Mesh::start_with(engine, hop, app, |state| {
        state.apps[0].resiliency = towards("checkout", policy);
    })
}

fn callee_of(mesh: &mut Mesh) -> &mut Plane {
    mesh.callee.as_mut().unwrap_or(&mut mesh.caller)
}

fn set_health(state: &mut State, is_healthy: bool) {
    let channels = state.apps.iter_mut().filter_map(|app| app.channel.as_mut());
    channels.for_each(|channel| channel.is_healthy = is_healthy);
}

/// Nobody may call the app.
fn denying() -> Arc<Guards> {
    let access = AccessPolicy {
        trust_domain: "public".to_owned(),
        default_action: Action::Deny,
        callers: Vec::new(),
        trusted_networks: Vec::new(),
    };
    Arc::new(Guards { access: Some(Arc::new(access)), ..Guards::default() })
}

/// Answers with the statuses one after the other, and with 200 after the last one.
fn failing(statuses: &'static [&'static str]) -> (ServedApp, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    let app = ServedApp::answering(move |request: &Message| {
        let call = count.fetch_add(1, SeqCst);
        let status = statuses.get(call).unwrap_or(&"200 OK");
        let lines = format!("X-Call: {call}\r\n");
        answer(status, &lines, request.text()).into_bytes()
    });
    (app, calls)
}

on_both_engines! {
    fn calls_are_tried_again_until_they_succeed(engine: Choice) {
        for hop in Hop::BOTH {
            let (app, calls) = failing(&["500 E", "502 E", "400 E"]);
            let policy = Policy { retry: retry(5), ..Policy::default() };
            let mut mesh = mesh(engine, hop, app.address(), &policy);
            let mut client = mesh.client();
            client.send(post(X, "hello"));
            let response = client.read_response();
            assert_eq!((response.status(), response.text()), (200, "hello"), "{hop:?}");
            assert_eq!(calls.load(SeqCst), 4, "{hop:?}");
            assert_eq!(mesh.caller.counter("ringcar_policy_retries_total"), 3.0);
            // The next call on the same connection starts anew.
            client.send(get(X));
            assert_eq!(client.read_response().status(), 200, "{hop:?}");
        }
    }

    fn last_answer_is_passed_on(engine: Choice) {
        for hop in Hop::BOTH {
            let (app, calls) = failing(&["500 E"; 9]);
            let policy = Policy { retry: retry(3), ..Policy::default() };
            let mesh = mesh(engine, hop, app.address(), &policy);
            let mut client = mesh.client();
            client.send(post(X, "hello"));
            let response = client.read_response();
            assert_eq!((response.status(), response.text()), (500, "hello"), "{hop:?}");
            assert_eq!(response.one("X-Call"), Some("3"), "{response}");
            assert_eq!(calls.load(SeqCst), 4, "{hop:?}");
        }
    }

    fn chunked_requests_are_never_tried_again(engine: Choice) {
        for hop in Hop::BOTH {
            let (app, calls) = failing(&["500 E"; 9]);
            let policy = Policy { retry: retry(3), ..Policy::default() };
            let mut mesh = mesh(engine, hop, app.address(), &policy);
            let mut client = mesh.client();
            let head = request("POST", X, "Transfer-Encoding: chunked\r\n");
            client.send(format!("{head}5\r\nhello\r\n0\r\n\r\n"));
            assert_eq!(client.read_response().status(), 500, "{hop:?}");
            assert_eq!(calls.load(SeqCst), 1, "{hop:?}");
            assert_eq!(mesh.caller.counter("ringcar_policy_retries_impossible_total"), 1.0);
        }
    }

    fn only_listed_statuses_are_tried_again(engine: Choice) {
        let mut statuses = StatusSet::default();
        statuses.insert(503);
        let retry = retry(1).map(|retry| Retry { statuses: Some(statuses), ..retry });
        for (status, want) in [("503 E", 2), ("500 E", 1), ("304 E", 1)] {
            let calls = Arc::new(AtomicUsize::new(0));
            let count = Arc::clone(&calls);
            let app = ServedApp::answering(move |_| {
                count.fetch_add(1, SeqCst);
                format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").into_bytes()
            });
            let policy = Policy { retry: retry.clone(), ..Policy::default() };
            let mesh = mesh(engine, Hop::Peer, app.address(), &policy);
            let mut client = mesh.client();
            client.send(get(X));
            assert_eq!(client.read_response().status().to_string(), status[..3], "{status}");
            assert_eq!(calls.load(SeqCst), want, "{status}");
        }
    }

    fn large_bodies_are_tried_again_whole(engine: Choice) {
        for hop in Hop::BOTH {
            let (app, calls) = failing(&["500 E"; 2]);
            let policy = Policy { retry: retry(3), ..Policy::default() };
            let mesh = mesh(engine, hop, app.address(), &policy);
            let body: String = (0..3_000_000).map(|n| char::from(b'a' + (n % 26) as u8)).collect();
            let mut client = mesh.client();
            client.send(post(X, &body));
            let response = client.read_response();
            assert_eq!(response.status(), 200, "{hop:?}");
            assert!(response.text() == body, "{hop:?}: the body came back otherwise");
            assert_eq!(calls.load(SeqCst), 3, "{hop:?}");
        }
    }

    fn an_app_that_does_not_answer_is_called_again(engine: Choice) {
        for hop in Hop::BOTH {
            // Whatever the list of statuses, for there is none.
            let statuses = Some(StatusSet::default());
            let retry = retry(1).map(|retry| Retry { statuses, ..retry });
            let policy = Policy { retry, ..Policy::default() };
            let app = App::listen();
            let mesh = mesh(engine, hop, app.address(), &policy);
            let mut client = mesh.client();
            client.send(post(X, "hello"));
            let mut upstream = app.accept();
            assert_eq!(upstream.read_request().text(), "hello");
            drop(upstream);
            let mut upstream = app.accept();
            assert_eq!(upstream.read_request().text(), "hello");
            upstream.send(OK);
            assert_eq!(client.read_response().text(), "ok", "{hop:?}");
        }
    }

    fn an_attempt_has_its_time(engine: Choice) {
        for hop in Hop::BOTH {
            let policy = Policy { timeout: Some(50 * MS), retry: retry(1), ..Policy::default() };
            let app = ServedApp::answering(|_| {
                std::thread::sleep(DEADLINE);
                Vec::new()
            });
            let mut mesh = mesh(engine, hop, app.address(), &policy);
            let mut client = mesh.client();
            client.send(post(X, "hello"));
            let response = client.read_response();
            assert_eq!(response.status(), 500, "{hop:?}");
            let message = "failed to invoke, id: checkout, err: context deadline exceeded";
            assert_eq!(response.text(), direct_invoke_error(message), "{hop:?}");
            assert_eq!(mesh.caller.counter("ringcar_policy_timeouts_total"), 2.0);
            assert_eq!(mesh.caller.counter("ringcar_policy_retries_total"), 1.0);
        }
    }

    fn an_answer_that_takes_too_long_is_cut(engine: Choice) {
        // Long enough for half an answer to come through on a busy machine.
        let policy = Policy { timeout: Some(1000 * MS), retry: retry(9), ..Policy::default() };
        let app = App::listen();
        let mesh = mesh(engine, Hop::Peer, app.address(), &policy);
        let mut client = mesh.client();
        client.send(get(X));
        let mut upstream = app.accept();
        upstream.read_request();
        upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf ");
        client.read_head();
        let (body, end) = client.read_to_end();
        assert_eq!((body.as_slice(), end), (&b"half "[..], End::Reset));
    }

    fn a_quick_answer_is_not_cut(engine: Choice) {
        let policy = Policy { timeout: Some(30_000 * MS), ..Policy::default() };
        let (app, calls) = failing(&[]);
        let mesh = mesh(engine, Hop::Peer, app.address(), &policy);
        let mut client = mesh.client();
        for _ in 0..3 {
            client.send(get(X));
            assert_eq!(client.read_response().status(), 200);
        }
        assert_eq!(calls.load(SeqCst), 3);
    }

    fn a_breaker_opens_and_closes(engine: Choice) {
        for hop in Hop::BOTH {
            let (app, calls) = failing(&["500 E"; 3]);
            // Open for longer than the calls take that must find it so, on a busy machine.
            let policy = Policy { breaker: breaker(3, 1000 * MS), ..Policy::default() };
            let mut mesh = mesh(engine, hop, app.address(), &policy);
            let mut client = mesh.client();
            for _ in 0..3 {
                // Chunked ones count, too.
                let head = request("POST", X, "Transfer-Encoding: chunked\r\n");
                client.send(format!("{head}5\r\nhello\r\n0\r\n\r\n"));
                assert_eq!(client.read_response().status(), 500, "{hop:?}");
            }
            client.send(post(X, "hello"));
            let response = client.read_response();
            let message = "failed to invoke, id: checkout, err: circuit breaker is open";
            assert_eq!(response.text(), direct_invoke_error(message), "{hop:?}");
            assert_eq!((response.status(), calls.load(SeqCst)), (500, 3), "{hop:?}");
            client.send(get("/v1.0/invoke/checkout/method/other"));
            assert_eq!(client.read_response().status(), 200, "each method has its own");
            assert_eq!(mesh.caller.counter("ringcar_breaker_refusals_total"), 1.0);
            loop {
                client.send(get(X));
                if client.read_response().status() == 200 {
                    break;
                }
            }
            assert_eq!(calls.load(SeqCst), 5, "{hop:?}");
            assert_eq!(mesh.caller.counter("ringcar_breaker_moves_total"), 2.0);
        }
    }

    fn an_open_breaker_ends_the_retries(engine: Choice) {
        let (app, calls) = failing(&["500 E"; 9]);
        let policy = Policy {
            retry: retry(9),
            breaker: breaker(2, 60_000 * MS),
            ..Policy::default()
        };
        let mesh = mesh(engine, Hop::Peer, app.address(), &policy);
        let mut client = mesh.client();
        client.send(post(X, "hello"));
        let response = client.read_response();
        assert!(response.text().contains("circuit breaker is open"), "{response}");
        assert_eq!(calls.load(SeqCst), 2);
    }

    fn an_unhealthy_app_is_called_again_until_it_is_healthy(engine: Choice) {
        let policy = Policy { retry: retry(u32::MAX), ..Policy::default() };
        for hop in Hop::BOTH {
            let app = App::listen();
            let mut mesh = Mesh::start_with(engine, hop, app.address(), |state| {
                state.apps[0].resiliency = towards("checkout", &policy);
                set_health(state, false);
            });
            let mut client = mesh.client();
            client.send(post(X, "hello"));
            mesh.caller.await_counter("ringcar_policy_retries_total", 2.0);
            app.assert_untouched();
            callee_of(&mut mesh).publish(|state| set_health(state, true));
            let mut upstream = app.accept();
            assert_eq!(upstream.read_request().text(), "hello", "{hop:?}");
            upstream.send(OK);
            assert_eq!(client.read_response().text(), "ok", "{hop:?}");
        }
    }

    fn what_keeps_a_call_from_its_app_counts_for_the_breaker(engine: Choice) {
        type Edit = fn(&mut State);
        let cases: [(&str, Edit, u16); 3] = [
            ("unhealthy", |state| set_health(state, false), 500),
            ("no port", |state| state.apps.iter_mut().for_each(|app| app.channel = None), 500),
            ("denied", |state| state.apps[1].guards = denying(), 403),
        ];
        for (case, edit, status) in cases {
            let app = App::listen();
            let policy = Policy { breaker: breaker(2, 60_000 * MS), ..Policy::default() };
            let plane = Plane::on(engine)
                .app("orders", None)
                .app("checkout", Some(app.address()))
                .edit(|state| {
                    edit(state);
                    state.apps[0].resiliency = towards("checkout", &policy);
                })
                .start();
            let mut client = plane.client();
            for _ in 0..2 {
                client.send(post(X, "hello"));
                assert_eq!(client.read_response().status(), status, "{case}");
            }
            client.send(post(X, "hello"));
            let message = "failed to invoke, id: checkout, err: circuit breaker is open";
            assert_eq!(client.read_response().text(), direct_invoke_error(message), "{case}");
            app.assert_untouched();
        }
    }

    fn breakers_are_those_of_all_workers(engine: Choice) {
        let (app, calls) = failing(&["500 E"; 99]);
        let policy = Policy { breaker: breaker(4, 60_000 * MS), ..Policy::default() };
        let plane = Plane::on(engine)
            .workers(4)
            .app("checkout", Some(app.address()))
            .edit(|state| state.apps[0].resiliency = towards("checkout", &policy))
            .start();
        let mut clients: Vec<_> = (0..8).map(|_| plane.client()).collect();
        for client in &mut clients {
            client.send(get(X));
            assert_eq!(client.read_response().status(), 500);
        }
        assert_eq!(calls.load(SeqCst), 4, "the fifth call and those after it were refused");
    }

    fn a_probe_that_is_under_way_keeps_others_out(engine: Choice) {
        let app = App::listen();
        let policy = Policy { breaker: breaker(1, MS), ..Policy::default() };
        let mut mesh = mesh(engine, Hop::Own, app.address(), &policy);
        let mut first = mesh.client();
        first.send(get(X));
        let mut upstream = app.accept();
        upstream.read_request();
        upstream.send(answer("500 E", "", ""));
        assert_eq!(first.read_response().status(), 500);
        // The probe, as soon as it is let through.
        loop {
            first.send(get(X));
            mesh.settle();
            if mesh.caller.counter("ringcar_upstream_reuses_total") > 0.0 {
                break;
            }
            assert_eq!(first.read_response().status(), 500);
        }
        upstream.read_request();
        let mut second = mesh.client();
        second.send(get(X));
        let response = second.read_response();
        let message = "failed to invoke, id: checkout, err: too many requests";
        assert_eq!(response.text(), direct_invoke_error(message));
        // A client that goes away leaves the probe's place to the next one.
        first.reset();
        mesh.settle();
        second.send(get(X));
        let mut upstream = app.accept();
        upstream.read_request();
        upstream.send(OK);
        assert_eq!(second.read_response().text(), "ok");
    }

    fn a_target_with_a_policy_has_no_built_in_retry(engine: Choice) {
        let directory = crate::support::TempDir::new();
        let gone = Address::Unix(directory.path().join("gone").into());
        let policy = Policy { retry: retry(2), ..Policy::default() };
        let mut caller = Plane::on(engine)
            .app("orders", None)
            .knows("checkout", &[&gone])
            .edit(|state| state.apps[0].resiliency = towards("checkout", &policy))
            .start();
        let mut client = caller.client();
        client.send(post(X, "hello"));
        let response = client.read_response();
        assert!(response.text().contains("rpc error: code = Unavailable"), "{response}");
        assert_eq!(caller.counter("ringcar_peer_retries_total"), 0.0);
        assert_eq!(caller.counter("ringcar_policy_retries_total"), 2.0);
    }

    fn a_client_that_closes_its_side_gets_one_more_attempt(engine: Choice) {
        let (app, calls) = failing(&["500 E"; 9]);
        let pause = Pause::Constant(60_000 * MS);
        let retry = Some(Retry { pause, count_max: None, statuses: None });
        let policy = Policy { retry, ..Policy::default() };
        let mut mesh = mesh(engine, Hop::Peer, app.address(), &policy);
        let mut client = mesh.client();
        client.send(get(X));
        mesh.caller.await_counter("ringcar_policy_retries_total", 1.0);
        client.shutdown_write();
        assert_eq!(client.read_response().status(), 500);
        assert_eq!(calls.load(SeqCst), 2);
    }

    fn nobody_is_worked_for_who_has_gone(engine: Choice) {
        let (app, calls) = failing(&["500 E"; 9]);
        let pause = Pause::Constant(60_000 * MS);
        let retry = Some(Retry { pause, count_max: None, statuses: None });
        let policy = Policy { retry, ..Policy::default() };
        let mut mesh = mesh(engine, Hop::Peer, app.address(), &policy);
        let mut client = mesh.client();
        client.send(get(X));
        mesh.caller.await_counter("ringcar_policy_retries_total", 1.0);
        client.reset();
        mesh.caller.await_counter_down_to("ringcar_connections_open", 1.0);
        assert_eq!(calls.load(SeqCst), 1);
    }

    fn a_change_of_protocol_that_nobody_asked_for_is_tried_again(engine: Choice) {
        for hop in Hop::BOTH {
            let calls = Arc::new(AtomicUsize::new(0));
            let count = Arc::clone(&calls);
            let app = ServedApp::answering(move |_| match count.fetch_add(1, SeqCst) {
                0 => b"HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n".to_vec(),
                _ => OK.as_bytes().to_vec(),
            });
            let mut statuses = StatusSet::default();
            statuses.insert(101);
            let retry = retry(3).map(|retry| Retry { statuses: Some(statuses), ..retry });
            let mesh = mesh(engine, hop, app.address(), &Policy { retry, ..Policy::default() });
            let mut client = mesh.client();
            client.send(get(X));
            assert_eq!(client.read_response().status(), 200, "{hop:?}");
            assert_eq!(calls.load(SeqCst), 2, "{hop:?}");
        }
    }
}
