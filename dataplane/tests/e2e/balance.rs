//! An app with several endpoints: which one is called, what happens when one does not take the
//! call, and that no app is ever called for another.

#![forbid(unsafe_code)]

use crate::{
    OK, X, answer, direct_invoke_error, get, post, request,
    support::{App, DEADLINE, Message, Plane, ServedApp, TempDir, Wire, on_both_engines},
};
use dataplane::{clock, engine::Choice};
use snapshot::{Address, Balance};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, channel},
    },
    time::Duration,
};

const EJECTIONS: &str = "ringcar_endpoint_ejections_total";
const READMISSIONS: &str = "ringcar_endpoint_readmissions_total";
const MISDIRECTED: &str = "ringcar_misdirected_total";

/// Another sidecar, which answers with its name.
fn named(name: &'static str) -> ServedApp {
    ServedApp::answering(move |_| answer("200 OK", "", name).into_bytes())
}

/// Another sidecar with another app, and the requests that it refused.
fn misdirected() -> (ServedApp, Receiver<Message>) {
    let (seen, requests) = channel();
    let peer = ServedApp::answering(move |request| {
        seen.send(request.clone()).ok();
        answer("421 Misdirected Request", "Ringcar-Error: misdirected\r\n", "wrong").into_bytes()
    });
    (peer, requests)
}

/// A Unix socket that nobody listens on.
fn dead(directory: &TempDir, name: &str) -> Address {
    Address::Unix(directory.path().join(name).into())
}

fn caller(engine: Choice, balance: Balance, endpoints: &[&Address]) -> Plane {
    let caller = Plane::on(engine).app("orders", None).knows("checkout", endpoints);
    caller.edit(|s| s.apps[0].balance = balance).start()
}

/// Calls one after the other, which all succeed: how often each peer answered.
fn shares<const N: usize>(client: &mut Wire, names: [&str; N], count: usize) -> [usize; N] {
    let mut shares = [0; N];
    for _ in 0..count {
        client.send(get(X));
        let response = client.read_response();
        assert_eq!(response.status(), 200, "{response}");
        let index = names.iter().position(|name| *name == response.text());
        shares[index.unwrap_or_else(|| panic!("{response}"))] += 1;
    }
    shares
}

on_both_engines! {
    fn turns_are_taken_evenly(engine: Choice) {
        let peers = [named("1"), named("2"), named("3")];
        let addresses = peers.each_ref().map(ServedApp::address);
        let caller = caller(engine, Balance::RoundRobin, &addresses.each_ref());
        assert_eq!(shares(&mut caller.client(), ["1", "2", "3"], 30), [10; 3]);
    }

    fn slow_endpoint_gets_few_calls(engine: Choice) {
        let slow = ServedApp::answering(|_| {
            // Slower than the quick ones are on a busy machine.
            std::thread::sleep(Duration::from_millis(200));
            answer("200 OK", "", "slow").into_bytes()
        });
        let (one, two) = (named("1"), named("2"));
        let addresses = [slow.address(), one.address(), two.address()];
        let caller = caller(engine, Balance::PowerOfTwo, &addresses.each_ref());
        // How the other two share the rest is a matter of what else this machine does meanwhile.
        let [slow, one, two] = shares(&mut caller.client(), ["slow", "1", "2"], 100);
        assert!(slow < 15, "slow {slow}, quick {one} and {two}");
    }

    fn requests_under_way_are_spread(engine: Choice) {
        let peers = [App::listen(), App::listen(), App::listen()];
        let addresses = peers.each_ref().map(App::address);
        let caller = caller(engine, Balance::PowerOfTwo, &addresses.each_ref());
        let mut clients: Vec<Wire> = (0..30).map(|_| caller.client()).collect();
        for client in &mut clients {
            client.send(get(X));
        }
        let mut upstreams = peers.each_ref().map(|_| Vec::new());
        let give_up = clock::now() + DEADLINE;
        while upstreams.iter().map(Vec::len).sum::<usize>() < clients.len() {
            caller.settle();
            for (peer, upstreams) in peers.iter().zip(&mut upstreams) {
                upstreams.extend(peer.accept_if_called());
            }
            assert!(clock::now() < give_up, "not all calls have come");
        }
        let counts = upstreams.each_ref().map(Vec::len);
        for upstream in upstreams.iter_mut().flatten() {
            upstream.read_request();
            upstream.send(OK);
        }
        // Of two at random the one with fewer: nobody falls far behind.
        assert!(counts.iter().all(|count| (8..=12).contains(count)), "{counts:?}");
        for client in &mut clients {
            assert_eq!(client.read_response().text(), "ok");
        }
    }

    fn endpoint_in_the_own_zone_is_called(engine: Choice) {
        let peers = [named("far"), named("near"), named("nowhere")];
        let addresses = peers.each_ref().map(ServedApp::address);
        let mut caller = Plane::on(engine)
            .app("orders", None)
            .knows("checkout", &addresses.each_ref())
            .edit(|s| {
                s.apps[0].zone = Some("a".into());
                let endpoints = Arc::make_mut(&mut s.routes[0].endpoints);
                for (endpoint, zone) in endpoints.iter_mut().zip(["b", "a"]) {
                    endpoint.zone = Some(zone.into());
                }
            })
            .start();
        let names = ["far", "near", "nowhere"];
        assert_eq!(shares(&mut caller.client(), names, 20), [0, 20, 0]);
        caller.publish(|s| s.apps[0].zone = Some("b".into()));
        assert_eq!(shares(&mut caller.client(), names, 20), [20, 0, 0]);
        caller.publish(|s| {
            s.apps[0].zone = None;
            s.apps[0].balance = Balance::RoundRobin;
        });
        assert_eq!(shares(&mut caller.client(), names, 30), [10; 3]);
    }

    fn dead_endpoint_costs_no_call_and_is_soon_left_alone(engine: Choice) {
        let directory = TempDir::new();
        let alive = named("alive");
        let (alive, dead) = (alive.address(), dead(&directory, "dead"));
        let mut caller = caller(engine, Balance::RoundRobin, &[&alive, &dead]);
        let mut client = caller.client();
        let started = clock::now();
        assert_eq!(shares(&mut client, ["alive"], 200), [200]);
        let seconds = clock::now().since(started).as_secs_f64();
        assert_eq!(caller.counter(EJECTIONS), 1.0);
        assert_eq!(caller.counter(READMISSIONS), 0.0);
        // Five until it is out, then at most one each 0.75 s.
        let failures = caller.counter("ringcar_upstream_connect_failures_total");
        assert!(failures >= 5.0 && failures <= 5.0 + seconds / 0.75, "{failures} in {seconds} s");
    }

    fn endpoint_that_breaks_its_connections_is_left_alone(engine: Choice) {
        let alive = named("alive");
        let broken = ServedApp::serving(|mut wire| {
            wire.read_request();
        });
        let (alive, broken) = (alive.address(), broken.address());
        let mut caller = caller(engine, Balance::RoundRobin, &[&alive, &broken]);
        let mut client = caller.client();
        let mut failures = 0;
        for _ in 0..10 {
            client.send(post(X, "hello"));
            failures += usize::from(client.read_response().status() == 500);
        }
        assert_eq!(failures, 5, "a POST that may have been delivered is not sent again");
        assert_eq!(caller.counter(EJECTIONS), 1.0);
        assert_eq!(shares(&mut client, ["alive"], 10), [10]);
    }

    fn call_that_may_be_repeated_outlives_the_peer_that_took_it(engine: Choice) {
        let alive = named("alive");
        let (seen, deaths) = channel();
        let dying = ServedApp::serving(move |mut wire| {
            seen.send(wire.read_request()).ok();
        });
        let (alive, dying) = (alive.address(), dying.address());
        let mut caller = caller(engine, Balance::RoundRobin, &[&alive, &dying]);
        let mut client = caller.client();
        assert_eq!(shares(&mut client, ["alive"], 20), [20]);
        assert_eq!(deaths.try_iter().count(), 5, "then it is left alone");
        assert_eq!(caller.counter(EJECTIONS), 1.0);
    }

    fn endpoint_that_was_left_alone_takes_the_call_when_the_last_other_one_dies(engine: Choice) {
        let is_dead = Arc::new(AtomicBool::new(false));
        let dies = Arc::clone(&is_dead);
        let first = ServedApp::serving(move |mut wire| {
            while wire.await_more() {
                wire.read_request();
                if dies.load(Ordering::Relaxed) {
                    return;
                }
                wire.send(answer("200 OK", "", "first"));
            }
        });
        let directory = TempDir::new();
        let (first, second) = (first.address(), dead(&directory, "second"));
        let mut caller = caller(engine, Balance::RoundRobin, &[&first, &second]);
        let mut client = caller.client();
        let give_up = clock::now() + DEADLINE;
        while caller.counter(EJECTIONS) < 1.0 {
            assert_eq!(shares(&mut client, ["first"], 1), [1]);
            assert!(clock::now() < give_up, "it is never ejected");
        }
        let Address::Unix(path) = second else { unreachable!("it is a path") };
        let back = App::listen_at(path.to_path_buf());
        let serving = std::thread::spawn(move || {
            let mut wire = back.accept();
            wire.read_request();
            wire.send(answer("200 OK", "", "second"));
        });
        is_dead.store(true, Ordering::Relaxed);
        assert_eq!(shares(&mut client, ["second"], 1), [1]);
        serving.join().unwrap();
    }

    fn call_that_kills_whoever_takes_it_does_not_go_round(engine: Choice) {
        let (seen, deaths) = channel();
        let peers: Vec<ServedApp> = (0..6)
            .map(|_| {
                let seen = seen.clone();
                ServedApp::serving(move |mut wire| {
                    seen.send(wire.read_request()).ok();
                })
            })
            .collect();
        let addresses: Vec<Address> = peers.iter().map(ServedApp::address).collect();
        let addresses: Vec<&Address> = addresses.iter().collect();
        let caller = caller(engine, Balance::RoundRobin, &addresses);
        let mut client = caller.client();
        client.send(get(X));
        let response = client.read_response();
        assert_eq!(response.status(), 500, "{response}");
        assert_eq!(deaths.try_iter().count(), 4, "once, and three times again");
    }

    fn endpoint_that_comes_back_is_called_again(engine: Choice) {
        let directory = TempDir::new();
        let first = named("first");
        let (first, second) = (first.address(), dead(&directory, "second"));
        let mut caller = caller(engine, Balance::RoundRobin, &[&first, &second]);
        let mut client = caller.client();
        let give_up = clock::now() + DEADLINE;
        while caller.counter(EJECTIONS) < 1.0 {
            assert_eq!(shares(&mut client, ["first"], 1), [1]);
            assert!(clock::now() < give_up, "it is never ejected");
        }
        let Address::Unix(path) = second else { unreachable!("it is a path") };
        let back = App::listen_at(path.to_path_buf());
        let serving = std::thread::spawn(move || {
            let mut wire = back.accept();
            while wire.await_more() {
                wire.read_request();
                wire.send(answer("200 OK", "", "second"));
            }
        });
        let give_up = clock::now() + DEADLINE;
        while shares(&mut client, ["first", "second"], 1) == [1, 0] {
            assert!(clock::now() < give_up, "it is never called again");
        }
        assert_eq!(caller.counter(READMISSIONS), 1.0);
        assert_eq!(shares(&mut client, ["first", "second"], 40), [20; 2]);
        drop((client, caller));
        serving.join().unwrap();
    }

    fn all_endpoints_are_tried_before_a_call_fails(engine: Choice) {
        let directory = TempDir::new();
        let addresses = ["1", "2", "3"].map(|name| dead(&directory, name));
        let mut caller = caller(engine, Balance::PowerOfTwo, &addresses.each_ref());
        let mut client = caller.client();
        client.send(post(X, "hello"));
        let response = client.read_response();
        assert_eq!(response.status(), 500, "{response}");
        let words = "failed to invoke target checkout after 3 retries.";
        assert!(response.text().contains(words), "{response}");
        assert_eq!(caller.counter("ringcar_upstream_connect_failures_total"), 12.0);
    }

    fn unreachable_endpoint_loses_no_byte_of_a_body_in_pieces(engine: Choice) {
        let directory = TempDir::new();
        let (app, dead) = (App::listen(), dead(&directory, "dead"));
        let mut caller = caller(engine, Balance::RoundRobin, &[&app.address(), &dead]);
        let mut upstream = None;
        for _ in 0..2 {
            let mut client = caller.client();
            client.send(request("POST", X, "Transfer-Encoding: chunked\r\n") + "5\r\nhello\r\n");
            let upstream = upstream.get_or_insert_with(|| app.accept());
            let head = upstream.read_head();
            assert_eq!(head.all("transfer-encoding"), ["chunked"]);
            client.send("6\r\n world\r\n0\r\n\r\n");
            assert_eq!(upstream.read_bytes(26), b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n");
            upstream.send(OK);
            assert_eq!(client.read_response().text(), "ok");
        }
        assert_eq!(caller.counter("ringcar_upstream_connect_failures_total"), 1.0);
    }

    fn misdirected_call_reaches_its_app_once(engine: Choice) {
        let chunked = "Transfer-Encoding: chunked\r\n";
        let large = "x".repeat(10_000);
        for (case, head, body, want) in [
            ("GET", get(X), "", ""),
            ("POST", request("POST", X, "Content-Length: 5\r\n"), "hello", "hello"),
            ("POST of some size", request("POST", X, "Content-Length: 10000\r\n"), &*large, &*large),
            ("in chunks", request("POST", X, chunked), "5\r\nhello\r\n0\r\n\r\n", "hello"),
        ] {
            for in_pieces in [false, true] {
                let case = format!("{case}, in pieces: {in_pieces}");
                let (wrong, refused) = misdirected();
                let (seen, requests) = channel();
                let right = ServedApp::answering(move |request| {
                    seen.send(request.clone()).unwrap();
                    OK.into()
                });
                let addresses = [wrong.address(), right.address()];
                let mut caller = caller(engine, Balance::RoundRobin, &addresses.each_ref());
                let mut client = caller.client();
                for _ in 0..2 {
                    client.send(&head);
                    if in_pieces {
                        caller.settle();
                    }
                    client.send(body);
                    assert_eq!(client.read_response().text(), "ok", "{case}");
                }
                assert_eq!(caller.counter(MISDIRECTED), 1.0, "{case}");
                assert_eq!(caller.counter(EJECTIONS), 1.0, "{case}: what it says it is sure of");
                let refused = refused.try_recv().unwrap();
                let seen: Vec<Message> = requests.try_iter().collect();
                assert_eq!(seen.len(), 2, "{case}");
                for request in seen {
                    assert_eq!(request.text(), want, "{case}");
                    assert_eq!(request.to_string(), refused.to_string(), "{case}");
                }
            }
        }
    }

    fn misdirected_call_that_is_not_remembered_is_an_error(engine: Choice) {
        let (wrong, _refused) = misdirected();
        let right = named("right");
        let addresses = [wrong.address(), right.address()];
        let mut caller = caller(engine, Balance::RoundRobin, &addresses.each_ref());
        let mut client = caller.client();
        let body = "x".repeat(100_000);
        let mut errors = 0;
        for _ in 0..2 {
            client.send(post(X, &body));
            let response = client.read_response();
            if response.status() != 200 {
                errors += 1;
                let message =
                    "failed to invoke, id: checkout, err: couldn't find service: checkout";
                assert_eq!(response.text(), direct_invoke_error(message));
            }
        }
        assert_eq!((errors, caller.counter(MISDIRECTED)), (1, 1.0));
        assert_eq!(shares(&mut client, ["right"], 20), [20], "it is left alone at once");
    }

    fn call_that_all_endpoints_refuse_is_an_error(engine: Choice) {
        let ((one, _one), (two, _two)) = (misdirected(), misdirected());
        let addresses = [one.address(), two.address()];
        let mut caller = caller(engine, Balance::PowerOfTwo, &addresses.each_ref());
        let mut client = caller.client();
        client.send(post(X, "hello"));
        let response = client.read_response();
        let message = "failed to invoke, id: checkout, err: couldn't find service: checkout";
        assert_eq!(response.text(), direct_invoke_error(message));
        assert_eq!(caller.counter(MISDIRECTED), 2.0);
    }

    fn address_that_another_app_took_over_is_not_called(engine: Choice) {
        let (checkout, billing) = (named("checkout"), App::listen());
        let right = Plane::on(engine).app("checkout", Some(checkout.address())).start();
        let wrong = Plane::on(engine).app("billing", Some(billing.address())).start();
        let mut caller =
            caller(engine, Balance::RoundRobin, &[wrong.peer(), right.peer()]);
        assert_eq!(shares(&mut caller.client(), ["checkout"], 20), [20]);
        billing.assert_untouched();
        assert!(caller.counter(MISDIRECTED) >= 1.0);
    }
}
