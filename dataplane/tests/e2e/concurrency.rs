//! `--app-max-concurrency`: never more calls at the app than it takes, over all workers; the others
//! wait their turn, in the order in which they came.

#![forbid(unsafe_code)]

use crate::{
    OK, X, answer, direct_invoke_error, get, post,
    support::{App, Hop, Mesh, Plane, ServedApp, Wire, on_both_engines},
};
use dataplane::engine::Choice;
use snapshot::{Change, State, wire::ToDataPlane};
use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
};

fn limit_to(limit: u32) -> impl Fn(&mut State) {
    move |state| {
        for channel in state.apps.iter_mut().filter_map(|app| app.channel.as_mut()) {
            channel.concurrency_max = NonZeroU32::new(limit);
        }
    }
}

/// How many requests an app works on, and how many it ever did.
#[derive(Default)]
struct Work {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Work {
    fn begin(&self) {
        let now = self.now.fetch_add(1, SeqCst) + 1;
        self.most.fetch_max(now, SeqCst);
    }

    fn end(&self) {
        self.now.fetch_sub(1, SeqCst);
    }
}

on_both_engines! {
    fn limit_of_one_is_one_for_all_workers(engine: Choice) {
        let work = Arc::new(Work::default());
        let seen = Arc::clone(&work);
        let app = ServedApp::answering(move |_| {
            seen.begin();
            // Whoever is let through too early has the time to come.
            thread::yield_now();
            seen.end();
            OK.into()
        });
        let builder = Plane::on(engine).workers(4).app("checkout", Some(app.address()));
        let mut plane = builder.edit(limit_to(1)).start();
        let calls = |mut client: Wire| {
            for _ in 0..20 {
                client.send(get(X));
                assert_eq!(client.read_response().status(), 200);
            }
        };
        thread::scope(|scope| {
            for _ in 0..16 {
                let client = plane.client();
                scope.spawn(move || calls(client));
            }
        });
        assert_eq!(work.most.load(SeqCst), 1);
        assert!(plane.counter("ringcar_app_queue_waits_total") > 0.0, "nobody had to wait");
    }

    fn as_many_as_the_limit_work_at_a_time(engine: Choice) {
        const LIMIT: u32 = 3;
        let app = App::listen();
        let builder = Plane::on(engine).workers(4).app("checkout", Some(app.address()));
        let mut plane = builder.edit(limit_to(LIMIT)).start();
        let mut clients: Vec<Wire> = (0..2 * LIMIT).map(|_| plane.client()).collect();
        for client in &mut clients {
            client.send(get(X));
        }
        let mut at_work: Vec<Wire> = (0..LIMIT).map(|_| app.accept()).collect();
        for upstream in &mut at_work {
            upstream.read_request();
        }
        plane.await_counter("ringcar_app_queue_waits_total", f64::from(LIMIT));
        app.assert_untouched();
    }

    fn calls_are_served_in_the_order_in_which_they_came(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start_with(engine, hop, app.address(), limit_to(1));
            let mut clients: Vec<Wire> = Vec::new();
            for number in 0..5 {
                let mut client = mesh.client();
                client.send(post(&format!("{X}/{number}"), "body"));
                mesh.settle();
                clients.push(client);
            }
            let mut upstream = app.accept();
            for (number, client) in clients.iter_mut().enumerate() {
                let seen = upstream.read_request();
                assert!(seen.start_line.starts_with(&format!("POST /x/{number} ")), "{seen:?}");
                assert_eq!(seen.body, b"body", "{hop:?}");
                mesh.settle();
                upstream.assert_silent();
                upstream.send(OK);
                assert_eq!(client.read_response().status(), 200, "{hop:?}");
            }
            app.assert_untouched();
        }
    }

    fn answer_that_is_not_whole_keeps_the_place(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start_with(engine, hop, app.address(), limit_to(1));
            let (mut first, mut second) = (mesh.client(), mesh.client());
            first.send(get(X));
            let mut upstream = app.accept();
            upstream.read_request();
            second.send(get(&format!("{X}/2")));
            upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha");
            assert_eq!(first.read_head().status(), 200, "{hop:?}");
            mesh.settle();
            upstream.assert_silent();
            app.assert_untouched();
            upstream.send("lf");
            assert_eq!(first.read_bytes(4), b"half", "{hop:?}");
            assert!(upstream.read_request().start_line.starts_with("GET /x/2 "), "{hop:?}");
            upstream.send(OK);
            assert_eq!(second.read_response().status(), 200, "{hop:?}");
        }
    }

    fn client_that_leaves_gives_up_its_place(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start_with(engine, hop, app.address(), limit_to(1));
            let [mut first, mut second, mut third] = [(); 3].map(|()| mesh.client());
            first.send(get(X));
            let mut upstream = app.accept();
            upstream.read_request();
            for (number, client) in [(2, &mut second), (3, &mut third)] {
                client.send(get(&format!("{X}/{number}")));
                mesh.settle();
            }
            second.reset();
            mesh.settle();
            upstream.send(OK);
            assert_eq!(first.read_response().status(), 200, "{hop:?}");
            assert!(upstream.read_request().start_line.starts_with("GET /x/3 "), "{hop:?}");
            upstream.send(OK);
            assert_eq!(third.read_response().status(), 200, "{hop:?}");
        }
    }

    fn client_that_is_at_the_app_and_leaves_makes_room(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start_with(engine, hop, app.address(), limit_to(1));
            let (mut first, mut second) = (mesh.client(), mesh.client());
            first.send(get(X));
            app.accept().read_request();
            second.send(get(&format!("{X}/2")));
            mesh.settle();
            first.reset();
            let mut upstream = app.accept();
            assert!(upstream.read_request().start_line.starts_with("GET /x/2 "), "{hop:?}");
            upstream.send(OK);
            assert_eq!(second.read_response().status(), 200, "{hop:?}");
        }
    }

    fn client_that_half_closes_while_it_waits_is_told(engine: Choice) {
        let app = App::listen();
        let mesh = Mesh::start_with(engine, Hop::Own, app.address(), limit_to(1));
        let (mut first, mut second) = (mesh.client(), mesh.client());
        first.send(get(X));
        let mut upstream = app.accept();
        upstream.read_request();
        second.send(get(X));
        mesh.settle();
        second.shutdown_write();
        let response = second.read_response();
        assert_eq!(response.status(), 500);
        let text = "failed to invoke, id: checkout, err: context canceled";
        assert_eq!(response.text(), direct_invoke_error(text));
        upstream.send(OK);
        assert_eq!(first.read_response().status(), 200);
        upstream.assert_silent();
    }

    fn failed_calls_make_room(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mesh = Mesh::start_with(engine, hop, app.address(), limit_to(1));
            for _ in 0..3 {
                let mut client = mesh.client();
                client.send(post(X, "a"));
                let mut upstream = app.accept();
                upstream.read_request();
                drop(upstream);
                assert_eq!(client.read_response().status(), 500, "{hop:?}");
            }
            let mut client = mesh.client();
            client.send(get(X));
            let mut upstream = app.accept();
            upstream.read_request();
            upstream.send(answer("404 Not Found", "", "no"));
            assert_eq!(client.read_response().status(), 404, "{hop:?}");
        }
    }

    fn changed_limit_is_in_force_at_once(engine: Choice) {
        let app = App::listen();
        let builder = Plane::on(engine).app("checkout", Some(app.address()));
        let mut plane = builder.edit(limit_to(1)).start();
        let [mut first, mut second, mut third] = [(); 3].map(|()| plane.client());
        first.send(get(X));
        let mut upstream = app.accept();
        upstream.read_request();
        second.send(get(X));
        plane.settle();
        third.send(get(X));
        plane.settle();
        app.assert_untouched();
        plane.publish(limit_to(2));
        let mut upstream_two = app.accept();
        upstream_two.read_request();
        plane.settle();
        app.assert_untouched();
        // And none at all, by a delta.
        let mut unlimited = plane.app(0);
        unlimited.channel.as_mut().unwrap().concurrency_max = None;
        plane.change(vec![Change::App(unlimited.into())]);
        let mut upstream_three = app.accept();
        upstream_three.read_request();
        for upstream in [&mut upstream, &mut upstream_two, &mut upstream_three] {
            upstream.send(OK);
        }
        for client in [&mut first, &mut second, &mut third] {
            assert_eq!(client.read_response().status(), 200);
        }
    }

    fn those_who_wait_are_served_while_draining(engine: Choice) {
        let app = App::listen();
        let builder = Plane::on(engine).workers(2).app("checkout", Some(app.address()));
        let mut plane = builder.edit(limit_to(1)).start();
        let (mut first, mut second) = (plane.client(), plane.client());
        first.send(get(X));
        let mut upstream = app.accept();
        upstream.read_request();
        second.send(get(X));
        plane.await_counter("ringcar_app_queue_waits_total", 1.0);
        plane.link.send(&ToDataPlane::Drain, &[]);
        upstream.send(OK);
        assert_eq!(first.read_response().status(), 200);
        // A connection that carried a call while draining is not kept.
        let mut upstream = app.accept();
        upstream.read_request();
        upstream.send(OK);
        assert_eq!(second.read_response().status(), 200);
        assert_eq!(plane.link.receive(), snapshot::wire::FromDataPlane::Drained);
    }

    fn tunnel_holds_its_place_until_it_ends(engine: Choice) {
        let app = App::listen();
        let mesh = Mesh::start_with(engine, Hop::Own, app.address(), limit_to(1));
        let (mut tunnel, mut client) = (mesh.client(), mesh.client());
        tunnel.send(crate::request("GET", X, "Connection: Upgrade\r\nUpgrade: websocket\r\n"));
        let mut upstream = app.accept();
        upstream.read_head();
        upstream.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        );
        assert_eq!(tunnel.read_head().status(), 101);
        client.send(get(X));
        mesh.settle();
        app.assert_untouched();
        tunnel.reset();
        let mut upstream = app.accept();
        upstream.read_request();
        upstream.send(OK);
        assert_eq!(client.read_response().status(), 200);
    }
}
