//! Drain, new states under load, and several workers.

#![forbid(unsafe_code)]

use crate::{
    OK, X, answer, get,
    support::{App, End, Hop, Mesh, Plane, ServedApp, TempDir, Wire, on_both_engines, route},
};
use dataplane::engine::Choice;
use snapshot::{
    Address, ListenerKind,
    wire::{FromDataPlane, ToDataPlane},
};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

on_both_engines! {
    fn drain_finishes_what_is_in_flight(engine: Choice) {
        let app = App::listen();
        let mut plane = Plane::on(engine).app("checkout", Some(app.address())).start();
        let mut idle = plane.client();
        idle.send(get("/v1.0/healthz"));
        assert_eq!(idle.read_response().status(), 204);
        let mut fresh = plane.client();
        let mut busy = plane.client();
        busy.send(get(X));
        let mut upstream = app.accept();
        upstream.read_request();
        plane.settle();

        plane.link.send(&ToDataPlane::Drain, &[]);
        assert_eq!(idle.assert_ended(), End::Fin, "an idle connection is closed");
        assert_eq!(fresh.assert_ended(), End::Fin, "one that never asked is closed");
        assert!(
            Wire::try_connect(plane.api()).is_err(),
            "nothing accepts any more once idle connections are closed"
        );
        busy.assert_silent();
        upstream.send(OK);
        let response = busy.read_response();
        assert_eq!((response.text(), response.one("connection")), ("ok", Some("close")));
        assert_eq!(busy.assert_ended(), End::Fin);
        assert_eq!(plane.link.receive(), FromDataPlane::Drained);
        plane.assert_runs();
    }

    fn drain_of_an_idle_data_plane_is_over_at_once(engine: Choice) {
        let mut plane = Plane::on(engine).app("checkout", None).workers(2).start();
        plane.link.send(&ToDataPlane::Drain, &[]);
        assert_eq!(plane.link.receive(), FromDataPlane::Drained);
    }

    fn drain_waits_for_uploads_and_streams(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mut mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(crate::request("POST", X, "Content-Length: 10\r\n") + "hello");
            let mut upstream = app.accept();
            upstream.read_head();
            upstream.read_bytes(5);
            let plane = mesh.callee.as_mut().unwrap_or(&mut mesh.caller);
            plane.link.send(&ToDataPlane::Drain, &[]);
            client.send("world");
            assert_eq!(upstream.read_bytes(5), b"world", "{hop:?}");
            upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
            client.read_head();
            assert_eq!(client.read_bytes(10), b"5\r\nhello\r\n", "{hop:?}");
            upstream.send("0\r\n\r\n");
            assert_eq!(client.read_bytes(5), b"0\r\n\r\n", "{hop:?}");
            let plane = mesh.callee.as_mut().unwrap_or(&mut mesh.caller);
            assert_eq!(plane.link.receive(), FromDataPlane::Drained, "{hop:?}");
        }
    }

    fn exit_during_a_drain_ends_at_once(engine: Choice) {
        let app = App::listen();
        let mut plane = Plane::on(engine).app("checkout", Some(app.address())).start();
        let mut client = plane.client();
        client.send(get(X));
        let mut upstream = app.accept();
        upstream.read_request();
        plane.link.send(&ToDataPlane::Drain, &[]);
        plane.link.send(&ToDataPlane::Exit, &[]);
        plane.assert_ends();
        client.read_to_end();
        upstream.read_to_end();
    }

    fn new_states_under_load_lose_no_call(engine: Choice) {
        for hop in Hop::BOTH {
            let app = ServedApp::echoing();
            let mut mesh = Mesh::start(engine, hop, app.address());
            let over = Arc::new(AtomicBool::new(false));
            let api = mesh.caller.api().clone();
            let callers: Vec<_> = (0..4)
                .map(|_| {
                    let (api, over) = (api.clone(), Arc::clone(&over));
                    std::thread::spawn(move || {
                        let mut calls = 0;
                        let mut client = Wire::connect(&api);
                        while !over.load(Ordering::Relaxed) {
                            client.send(get(X));
                            assert_eq!(client.read_response().status(), 200);
                            calls += 1;
                        }
                        calls
                    })
                })
                .collect();
            for round in 0..50 {
                mesh.caller.publish(|s| {
                    s.apps[0].metadata_json = format!("{round}\n").into();
                    s.routes.retain(|r| r.id.as_str() != "other");
                    if round % 2 == 0 {
                        s.routes.push(route("other", &[&api]));
                    }
                });
            }
            over.store(true, Ordering::Relaxed);
            let calls: u32 = callers.into_iter().map(|c| c.join().unwrap()).sum();
            assert!(calls > 0, "{hop:?}");
        }
    }

    fn call_in_flight_keeps_the_state_it_began_with(engine: Choice) {
        let app = App::listen();
        let mut mesh = Mesh::start(engine, Hop::Peer, app.address());
        let mut client = mesh.client();
        client.send(get(X));
        let mut upstream = app.accept();
        upstream.read_request();
        mesh.caller.publish(|s| s.routes.clear());
        upstream.send(OK);
        assert_eq!(client.read_response().text(), "ok");
        client.send(get(X));
        let response = client.read_response();
        assert!(response.text().contains("couldn't find service: checkout"), "{response}");
    }

    fn app_that_moves_is_called_where_it_is_now(engine: Choice) {
        let (old, new) = (App::listen(), App::listen());
        let mut plane = Plane::on(engine).app("checkout", Some(old.address())).start();
        let mut client = plane.client();
        client.send(get(X));
        let mut upstream = old.accept();
        upstream.read_request();
        upstream.send(OK);
        client.read_response();
        let address = new.address();
        plane.publish(|s| s.apps[0].channel.as_mut().unwrap().address = address);
        client.send(get(X));
        let mut upstream = new.accept();
        upstream.read_request();
        upstream.send(answer("200 OK", "", "moved"));
        assert_eq!(client.read_response().text(), "moved");
    }

    fn route_that_appears_is_called(engine: Choice) {
        let app = ServedApp::echoing();
        let callee = Plane::on(engine).app("checkout", Some(app.address())).start();
        let mut caller = Plane::on(engine).app("orders", None).start();
        let mut client = caller.client();
        client.send(get(X));
        assert_eq!(client.read_response().status(), 500);
        caller.publish(|s| s.routes.push(route("checkout", &[callee.peer()])));
        client.send(get(X));
        assert_eq!(client.read_response().status(), 200);
    }

    fn two_workers_share_one_listener(engine: Choice) {
        let app = ServedApp::echoing();
        let mut plane = Plane::on(engine).app("checkout", Some(app.address())).workers(2).start();
        let FromDataPlane::Hello { workers, .. } = plane.hello else { panic!("no hello") };
        assert_eq!(workers, 2);
        let mut clients: Vec<_> = (0..40).map(|_| plane.client()).collect();
        for _ in 0..3 {
            for client in &mut clients {
                client.send(get(X));
            }
            for client in &mut clients {
                assert_eq!(client.read_response().status(), 200);
            }
        }
        plane.publish(|s| s.apps[0].metadata_json = "new\n".into());
        for client in &mut clients {
            client.send(get("/v1.0/metadata"));
            assert_eq!(client.read_response().text(), "new\n", "live on every worker");
        }
        plane.link.send(&ToDataPlane::Drain, &[]);
        for client in &mut clients {
            assert_eq!(client.assert_ended(), End::Fin);
        }
        assert_eq!(plane.link.receive(), FromDataPlane::Drained);
    }

    fn admin_call_of_each_worker_finds_its_client(engine: Choice) {
        let mut plane = Plane::on(engine).app("checkout", None).workers(2).start();
        let mut clients: Vec<_> = (0..20).map(|_| plane.client()).collect();
        for (i, client) in clients.iter_mut().enumerate() {
            client.send(crate::request("PUT", &format!("/v1.0/metadata/{i}"), ""));
        }
        let mut calls = Vec::new();
        for _ in &clients {
            let FromDataPlane::AdminCall { call, request, .. } = plane.link.receive() else {
                panic!("not an admin call");
            };
            let snapshot::wire::AdminRequest::SetMetadata { key, .. } = request else {
                panic!("not about metadata");
            };
            calls.push((call, key));
        }
        for (call, key) in calls.into_iter().rev() {
            let reply = ToDataPlane::AdminReply {
                call,
                status: 200,
                content_type: "text/plain".to_owned(),
                body: key.into_bytes(),
            };
            plane.link.send(&reply, &[]);
        }
        for (i, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.read_response().text(), i.to_string());
        }
    }

    fn hello_names_the_engine(engine: Choice) {
        let plane = Plane::on(engine).app("checkout", None).start();
        let FromDataPlane::Hello { pid, engine: name, engine_reason, .. } = &plane.hello else {
            panic!("no hello");
        };
        assert_eq!(*pid, std::process::id());
        let want = if matches!(engine, Choice::Uring) { "io_uring" } else { "epoll" };
        assert_eq!(name, want);
        assert!(!engine_reason.is_empty());
    }

    fn app_that_is_gone_ends_its_connections_not_the_worker(engine: Choice) {
        let app = App::listen();
        let mut plane =
            Plane::on(engine).app("checkout", Some(app.address())).app("orders", None).start();
        let orders = plane.address_of(1, ListenerKind::Api).clone();
        let mut idle = Wire::connect(&orders);
        idle.send(get("/v1.0/healthz"));
        idle.read_response();
        let mut waiting = Wire::connect(&orders);
        waiting.send(get("/v1.0/invoke/checkout/method/x"));
        let mut upstream = app.accept();
        upstream.read_request();
        let mut halfway = Wire::connect(&orders);
        halfway.send(&get("/v1.0/metadata")[..10]);
        plane.settle();
        plane.publish(|s| {
            s.apps.truncate(1);
            s.listeners.truncate(3);
        });
        // Whatever becomes of these three, the worker lives and answers nothing in another app's
        // name.
        idle.try_send(get("/v1.0/metadata")).ok();
        halfway.try_send(&get("/v1.0/metadata")[10..]).ok();
        upstream.try_send(OK).ok();
        for client in [&mut idle, &mut halfway] {
            let (bytes, _) = client.read_to_end_or_silence();
            let text = String::from_utf8(bytes).unwrap();
            assert!(!text.contains("checkout"), "{text}");
        }
        waiting.try_send(get("/v1.0/metadata")).ok();
        waiting.read_to_end_or_silence();
        let mut client = plane.client();
        client.send(get("/v1.0/healthz"));
        assert_eq!(client.read_response().status(), 204);
    }

    fn connection_stays_its_apps_when_apps_are_numbered_anew(engine: Choice) {
        let mut plane = Plane::on(engine).app("checkout", None).app("orders", None).start();
        let mut client = plane.client();
        client.send(get("/v1.0/metadata"));
        assert_eq!(client.read_response().text(), "{\"id\":\"checkout\"}\n");
        plane.publish(|s| {
            for app in &mut s.apps {
                app.number = 1 - app.number;
            }
            for listener in &mut s.listeners {
                listener.app = 1 - listener.app;
            }
        });
        client.send(get("/v1.0/metadata"));
        assert_eq!(client.read_response().text(), "{\"id\":\"checkout\"}\n");
        let mut fresh = Wire::connect(plane.address_of(1, ListenerKind::Api));
        fresh.send(get("/v1.0/metadata"));
        assert_eq!(fresh.read_response().text(), "{\"id\":\"checkout\"}\n");
    }

    fn half_a_head_is_answered_during_a_drain(engine: Choice) {
        let mut plane = Plane::on(engine).app("checkout", None).start();
        let mut client = plane.client();
        let whole = get("/v1.0/metadata");
        client.send(&whole[..10]);
        plane.settle();
        let mut idle = plane.client();
        idle.send(get("/v1.0/healthz"));
        idle.read_response();
        plane.link.send(&ToDataPlane::Drain, &[]);
        idle.assert_ended();
        client.send(&whole[10..]);
        let response = client.read_response();
        assert_eq!((response.status(), response.one("connection")), (200, Some("close")));
        assert_eq!(client.assert_ended(), End::Fin);
        assert_eq!(plane.link.receive(), FromDataPlane::Drained);
    }

    fn apps_may_listen_on_unix_sockets(engine: Choice) {
        for hop in Hop::BOTH {
            let directory = TempDir::new();
            let app = App::listen_at(directory.path().join("app"));
            let mesh = Mesh::start(engine, hop, app.address());
            let mut client = mesh.client();
            client.send(get(X));
            let mut upstream = app.accept();
            let seen = upstream.read_request();
            assert_eq!(seen.one("host"), Some("localhost"), "{hop:?}");
            upstream.send(OK);
            assert_eq!(client.read_response().text(), "ok", "{hop:?}");
        }
    }

    fn peer_that_appears_while_it_is_tried_again_is_reached(engine: Choice) {
        let directory = TempDir::new();
        let path = directory.path().join("peer");
        let mut caller = Plane::on(engine)
            .app("orders", None)
            .edit(|s| s.routes.push(route("checkout", &[&Address::Unix(path.clone().into())])))
            .start();
        let mut client = caller.client();
        client.send(crate::post(X, "hello"));
        caller.await_counter("ringcar_upstream_connect_failures_total", 1.0);
        let peer = App::listen_at(path);
        let mut upstream = peer.accept();
        let seen = upstream.read_request();
        assert_eq!((seen.text(), seen.one("destination-app-id")), ("hello", Some("checkout")));
        upstream.send(OK);
        assert_eq!(client.read_response().text(), "ok");
    }

    fn nothing_is_left_when_all_is_over(engine: Choice) {
        for hop in Hop::BOTH {
            let app = App::listen();
            let mut mesh = Mesh::start(engine, hop, app.address());
            for round in 0..60 {
                let mut client = mesh.client();
                client.send(crate::request("POST", X, "Content-Length: 100000\r\n"));
                client.send(vec![b'x'; 50_000]);
                let mut upstream = app.accept();
                upstream.read_head();
                match round % 6 {
                    0 => client.reset(),
                    1 => upstream.reset(),
                    2 => drop(client),
                    3 => drop(upstream),
                    4 => {
                        upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nhalf");
                        client.read_head();
                        client.reset();
                    }
                    _ => {
                        upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nhalf");
                        client.read_head();
                        upstream.reset();
                        client.read_to_end();
                    }
                }
            }
            for plane in std::iter::once(&mut mesh.caller).chain(&mut mesh.callee) {
                plane.await_counter_down_to("ringcar_connections_open", 0.0);
                plane.await_counter_down_to("ringcar_buffers_leased", 0.0);
            }
        }
    }
}
