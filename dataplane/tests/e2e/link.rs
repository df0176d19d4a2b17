//! The link to control: states that are refused, frames that are none, control that goes away and
//! comes back, counters.

#![forbid(unsafe_code)]

use crate::{
    OK, X, get,
    support::{App, DEADLINE, Link, Plane, ServedApp, Wire, listen_tcp, on_both_engines, route},
};
use dataplane::{clock, engine::Choice};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use snapshot::{
    Address, AppChannel, AppId, Change, Delta, Listener, ListenerId, ListenerKind, Namespace,
    OnControlLost, Version,
    handover::{self, Request},
    wire::{self, AdminRequest, FromDataPlane, HoldId, ToDataPlane},
};
use std::{
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

/// The first app with another document of metadata, by which a version can be told from outside.
fn metadata(plane: &Plane, json: &str) -> Vec<Change> {
    let mut app = plane.app(0);
    app.metadata_json = json.into();
    vec![Change::App(app.into())]
}

fn gone(id: &str) -> Change {
    Change::RouteRemoved { id: AppId::new(id).unwrap(), namespace: Namespace::default() }
}

fn local_address(socket: &OwnedFd) -> Address {
    let address = rustix::net::getsockname(socket).unwrap();
    match std::net::SocketAddr::try_from(address.clone()) {
        Ok(address) => Address::Tcp(address),
        Err(_) => {
            let address = rustix::net::SocketAddrUnix::try_from(address).unwrap();
            Address::Unix(address.path().unwrap().to_str().unwrap().into())
        }
    }
}

/// A wait that is short for a test, and long for all that happens in between.
const SHORT: Duration = Duration::from_secs(1);

on_both_engines! {
    fn exit_ends_the_data_plane(engine: Choice) {
        let app = App::listen();
        let mut plane = Plane::on(engine).app("checkout", Some(app.address())).workers(2).start();
        let mut client = plane.client();
        client.send(get(X));
        let mut upstream = app.accept();
        upstream.read_request();
        plane.link.send(&ToDataPlane::Exit, &[]);
        plane.assert_ends();
        client.read_to_end();
        upstream.read_to_end();
    }

    fn sockets_are_handed_over_to_a_control_of_any_version(engine: Choice) {
        let app = App::listen();
        let mut plane = Plane::on(engine)
            .app("checkout", Some(app.address()))
            .edit(|s| s.on_control_lost = OnControlLost::Serve)
            .workers(2)
            .start();
        plane.relink();
        // A control that speaks nothing else.
        plane.link.send_bytes(&handover::encode(&Request::Sockets).unwrap(), &[]);
        let sockets = plane.link.receive_handover();
        let named: Vec<_> = sockets
            .iter()
            .map(|(name, socket)| (name.kind().unwrap(), &*name.id, local_address(socket)))
            .collect();
        assert!(named.contains(&(ListenerKind::Api, "checkout", plane.api().clone())), "{named:?}");
        assert_eq!(named.len(), 3, "{named:?}");
        let mut client = plane.client();
        client.send(get(X));
        let mut upstream = app.accept();
        upstream.read_request();

        plane.link.send_bytes(&handover::encode(&Request::Leave).unwrap(), &[]);
        let give_up = clock::now() + DEADLINE;
        let api = sockets.iter().find(|(name, _)| name.kind() == Some(ListenerKind::Api)).unwrap();
        // Whoever has the copy gets the connections from now on.
        rustix::io::ioctl_fionbio(&api.1, true).unwrap();
        loop {
            let _connection = Wire::try_connect(plane.api()).unwrap();
            if let Ok(_accepted) = rustix::net::accept(&api.1) {
                break;
            }
            assert!(clock::now() < give_up, "it still accepts");
        }
        plane.assert_runs();
        upstream.send(OK);
        assert_eq!(client.read_response().text(), "ok", "what is in flight is finished");
        plane.assert_ends();
    }

    fn lost_control_ends_a_sidecars_data_plane(engine: Choice) {
        let mut plane = Plane::on(engine).app("checkout", None).start();
        plane.link = Link::nowhere();
        plane.assert_ends();
    }

    fn lost_control_does_not_end_a_nodes_data_plane(engine: Choice) {
        let app = ServedApp::echoing();
        let mut plane = Plane::on(engine)
            .app("checkout", Some(app.address()))
            .edit(|s| s.on_control_lost = OnControlLost::Serve)
            .start();
        let mut client = plane.client();
        client.send(get(X));
        assert_eq!(client.read_response().status(), 200);
        for _ in 0..3 {
            plane.link = Link::nowhere();
            client.send(get(X));
            assert_eq!(client.read_response().status(), 200, "without control");
            let hello = plane.relink();
            assert!(matches!(hello, FromDataPlane::Hello { .. }), "{hello:?}");
            client.send(get(X));
            assert_eq!(client.read_response().status(), 200, "with the next control");
            // The next one takes over where the last one stopped, sockets included.
            plane.publish(|s| s.apps[0].metadata_json = "next\n".into());
            client.send(get("/v1.0/metadata"));
            assert_eq!(client.read_response().text(), "next\n");
            plane.settle();
        }
        plane.assert_runs();
    }

    fn lost_control_that_does_not_come_back_ends_the_data_plane_gently(engine: Choice) {
        let app = App::listen();
        let mut plane = Plane::on(engine)
            .app("checkout", Some(app.address()))
            .edit(|s| s.on_control_lost = OnControlLost::ServeFor(SHORT))
            .start();
        // Comes back in time, and stays for longer than the time it had.
        let hello = plane.relink();
        assert!(matches!(hello, FromDataPlane::Hello { .. }), "{hello:?}");
        std::thread::sleep(2 * SHORT);
        let mut client = plane.client();
        client.send(get(X));
        let mut upstream = app.accept();
        upstream.read_request();

        plane.link = Link::nowhere();
        let give_up = clock::now() + DEADLINE;
        while Wire::try_connect(plane.api()).is_ok() {
            assert!(clock::now() < give_up, "it still listens");
        }
        plane.second_link().assert_closed();
        plane.assert_runs();
        upstream.send(OK);
        assert_eq!(client.read_response().text(), "ok", "what is in flight is finished");
        plane.assert_ends();
    }

    fn lost_control_that_had_told_to_drain_is_not_waited_for(engine: Choice) {
        let app = App::listen();
        let mut plane = Plane::on(engine)
            .app("checkout", Some(app.address()))
            .edit(|s| s.on_control_lost = OnControlLost::Serve)
            .start();
        let mut client = plane.client();
        client.send(get(X));
        let mut upstream = app.accept();
        upstream.read_request();
        plane.link.send(&ToDataPlane::Drain, &[]);
        plane.link = Link::nowhere();
        plane.assert_runs();
        upstream.send(OK);
        assert_eq!(client.read_response().text(), "ok");
        plane.assert_ends();
    }

    fn descriptors_are_held_until_they_are_replaced_released_or_the_end(engine: Choice) {
        let mut plane = Plane::on(engine)
            .app("checkout", None)
            .edit(|s| s.on_control_lost = OnControlLost::Serve)
            .start();
        let pipe = || {
            let (reader, writer) = std::io::pipe().unwrap();
            (reader, Some(writer))
        };
        let mut pipes = [pipe(), pipe(), pipe(), pipe()];
        let mut hold = |plane: &mut Plane, id: u32, index: usize| {
            let writer = pipes[index].1.take().unwrap();
            plane.link.send(&ToDataPlane::Hold { ids: vec![HoldId(id)] }, &[writer.as_fd()]);
        };
        hold(&mut plane, 1, 0);
        hold(&mut plane, 2, 1);
        hold(&mut plane, 1, 2);
        hold(&mut plane, 3, 3);
        plane.link.send(&ToDataPlane::Release { ids: vec![HoldId(2), HoldId(9)] }, &[]);
        plane.publish(|_| {});
        let is_closed = |reader: &std::io::PipeReader| {
            let mut fds = [PollFd::new(reader, PollFlags::IN)];
            poll(&mut fds, Some(&Timespec::default())).unwrap() == 1
        };
        let closed = |pipes: &[(std::io::PipeReader, _)]| -> Vec<bool> {
            pipes.iter().map(|(reader, _)| is_closed(reader)).collect()
        };
        assert_eq!(closed(&pipes), [true, true, false, false]);
        plane.link = Link::nowhere();
        plane.settle();
        assert_eq!(closed(&pipes), [true, true, false, false], "without control");
        plane.relink();
        plane.link.send(&ToDataPlane::Exit, &[]);
        plane.assert_ends();
        assert_eq!(closed(&pipes), [true; 4]);
    }

    fn what_a_control_died_over_is_asked_of_the_next(engine: Choice) {
        let mut plane = Plane::on(engine)
            .app("checkout", None)
            .edit(|s| s.on_control_lost = OnControlLost::Serve)
            .start();
        let put = |key: &str| {
            format!("PUT /v1.0/metadata/{key} HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n1")
        };
        let mut clients = [plane.client(), plane.client()];
        clients[0].send(put("before"));
        let first = plane.link.receive();
        assert!(matches!(first, FromDataPlane::AdminCall { .. }), "{first:?}");
        plane.link = Link::nowhere();
        clients[1].send(put("without"));
        plane.settle();
        plane.relink();
        // Only when it has told its state: until then it may not know the app.
        let version = plane.send_state(|_| {});
        let mut calls = Vec::new();
        while calls.len() < 2 {
            match plane.link.receive() {
                FromDataPlane::AdminCall { call, request, .. } => calls.push((call, request)),
                FromDataPlane::Live { version: live } => assert_eq!(live, version),
                other => panic!("{other:?}"),
            }
        }
        let keys: Vec<&str> = calls
            .iter()
            .map(|(_, request)| match request {
                AdminRequest::SetMetadata { key, .. } => key.as_str(),
                AdminRequest::Shutdown { .. } => "shutdown",
            })
            .collect();
        assert_eq!(keys, ["before", "without"]);
        for (call, _) in calls {
            let (content_type, body) = (String::new(), Vec::new());
            let reply = ToDataPlane::AdminReply { call, status: 204, content_type, body };
            plane.link.send(&reply, &[]);
        }
        for client in &mut clients {
            assert_eq!(client.read_response().status(), 204);
        }
        // What is answered is not asked again.
        plane.relink();
        plane.publish(|_| {});
    }

    fn state_that_breaks_a_rule_is_refused_and_the_last_one_stays(engine: Choice) {
        let app = ServedApp::echoing();
        let mut plane = Plane::on(engine).app("checkout", Some(app.address())).start();
        let version = plane.send_state(|s| {
            s.apps.push(s.apps[0].clone());
            s.apps[0].metadata_json = "never\n".into();
        });
        match plane.link.receive() {
            FromDataPlane::Refused { version: refused, problems } => {
                assert_eq!(refused, version);
                assert!(problems.iter().any(|p| p.contains("served twice")), "{problems:?}");
            }
            other => panic!("not refused: {other:?}"),
        }
        let mut client = plane.client();
        client.send(get("/v1.0/metadata"));
        assert_eq!(client.read_response().text(), "{\"id\":\"checkout\"}\n");
        plane.publish(|s| {
            s.apps.truncate(1);
            s.apps[0].metadata_json = "better\n".into();
        });
        client.send(get("/v1.0/metadata"));
        assert_eq!(client.read_response().text(), "better\n");
    }

    fn listener_without_socket_is_refused(engine: Choice) {
        let mut plane = Plane::on(engine).app("checkout", None).start();
        plane.send_state(|s| {
            let mut listener = s.listeners[0].clone();
            listener.id = ListenerId(99);
            s.listeners.push(listener);
        });
        let said = plane.link.receive();
        assert!(matches!(said, FromDataPlane::Refused { .. }), "{said:?}");
        plane.publish(|s| s.listeners.truncate(3));
    }

    fn listener_that_is_gone_is_closed(engine: Choice) {
        let mut plane = Plane::on(engine).app("checkout", None).start();
        let mut client = plane.client();
        client.send(get("/v1.0/healthz"));
        client.read_response();
        let public = plane.address_of(0, ListenerKind::Public).clone();
        plane.publish(|s| s.listeners.retain(|l| l.kind != ListenerKind::Public));
        let give_up = clock::now() + DEADLINE;
        while Wire::try_connect(&public).is_ok() {
            assert!(clock::now() < give_up, "the listener still accepts");
        }
        client.send(get("/v1.0/healthz"));
        assert_eq!(client.read_response().status(), 204);
    }

    fn frames_without_an_end_close_the_link_and_harm_nobody(engine: Choice) {
        let app = App::listen();
        let mut plane = Plane::on(engine)
            .app("checkout", Some(app.address()))
            .edit(|s| s.on_control_lost = OnControlLost::Serve)
            .start();
        let mut client = plane.client();
        client.send(get(X));
        let mut upstream = app.accept();
        upstream.read_request();
        plane.link.send_bytes(&u32::MAX.to_le_bytes(), &[]);
        plane.link.assert_closed();
        upstream.send(OK);
        assert_eq!(client.read_response().text(), "ok");
        let hello = plane.relink();
        assert!(matches!(hello, FromDataPlane::Hello { .. }), "{hello:?}");
        plane.publish(|_| {});
    }

    fn frames_that_say_nothing_are_answered_by_asking_for_everything(engine: Choice) {
        let drain = wire::encode(&ToDataPlane::Drain).unwrap();
        let other_protocol = [&drain[..4], &[0xee], &drain[5..]].concat();
        let protocol = wire::PROTOCOL.to_le_bytes();
        let rubbish = [&[6, 0, 0, 0], &protocol[..], &[0xff; 4]].concat();
        for (case, bytes, why) in [
            ("too short", vec![1, 0, 0, 0, 1], "too short"),
            ("another protocol", other_protocol, "protocol 238"),
            ("rubbish", rubbish, "does not decode"),
        ] {
            let app = App::listen();
            let mut plane = Plane::on(engine).app("checkout", Some(app.address())).start();
            let mut client = plane.client();
            client.send(get(X));
            let mut upstream = app.accept();
            upstream.read_request();
            plane.link.send_bytes(&bytes, &[]);
            let (have, reason) = plane.expect_resync();
            assert_eq!(have, Version(1), "{case}");
            assert!(reason.contains(why), "{case}: {reason}");
            upstream.send(OK);
            assert_eq!(client.read_response().text(), "ok", "{case}");
            // What was lost may have been anything, so no delta is trusted before the state came.
            plane.send_changes(metadata(&plane, "never\n"), &[]);
            plane.publish(|s| s.apps[0].metadata_json = "whole\n".into());
            client.send(get("/v1.0/metadata"));
            assert_eq!(client.read_response().text(), "whole\n", "{case}");
            plane.change(metadata(&plane, "and on\n"));
            client.send(get("/v1.0/metadata"));
            assert_eq!(client.read_response().text(), "and on\n", "{case}");
        }
    }

    fn delta_from_another_version_is_answered_by_asking_for_everything(engine: Choice) {
        for (case, base) in [("missed one", 2), ("repeated", 0), ("from elsewhere", 900)] {
            let mut plane = Plane::on(engine).app("checkout", None).workers(2).start();
            let version = Version(base + 1);
            let never = metadata(&plane, "never\n");
            let delta = Delta { base: Version(base), version, changes: never };
            plane.link.send(&ToDataPlane::Delta { delta, sockets: vec![] }, &[]);
            let (have, reason) = plane.expect_resync();
            assert_eq!(have, Version(1), "{case}");
            assert!(reason.contains(&format!("version {base}")), "{case}: {reason}");
            // It asks once, however many deltas are under way.
            plane.send_changes(vec![], &[]);
            plane.send_changes(vec![], &[]);
            let mut client = plane.client();
            client.send(get("/v1.0/metadata"));
            assert_eq!(client.read_response().text(), "{\"id\":\"checkout\"}\n", "{case}");
            plane.publish(|s| s.apps[0].metadata_json = "whole\n".into());
            client.send(get("/v1.0/metadata"));
            assert_eq!(client.read_response().text(), "whole\n", "{case}");
        }
    }

    fn delta_that_breaks_a_rule_is_refused_and_changes_nothing(engine: Choice) {
        let mut plane = Plane::on(engine).app("checkout", None).start();
        let mut changes = metadata(&plane, "never\n");
        changes.push(Change::RouteRemoved {
            id: AppId::new("nobody").unwrap(),
            namespace: Namespace::default(),
        });
        let version = plane.send_changes(changes, &[]);
        match plane.link.receive() {
            FromDataPlane::Refused { version: refused, problems } => {
                assert_eq!(refused, version);
                assert_eq!(problems, ["there is no route default/nobody to remove"]);
            }
            other => panic!("not refused: {other:?}"),
        }
        let mut client = plane.client();
        client.send(get("/v1.0/metadata"));
        assert_eq!(client.read_response().text(), "{\"id\":\"checkout\"}\n");
        // What was built on it has no base.
        plane.send_changes(vec![], &[]);
        plane.expect_resync();
        plane.publish(|_| {});
    }

    fn apps_come_and_go_by_deltas(engine: Choice) {
        let app = ServedApp::echoing();
        let mut plane = Plane::on(engine).app("orders", None).workers(2).start();
        for round in 0..5 {
            let number = round << 16 | 1;
            let mut checkout = plane.app(0);
            checkout.number = number;
            checkout.id = AppId::new("checkout").unwrap();
            let channel = AppChannel::http(app.address());
            checkout.channel = Some(channel);
            let (socket, address) = listen_tcp();
            let id = ListenerId(77);
            let listener = Listener { id, kind: ListenerKind::Api, app: number, caller: None };
            let changes = vec![Change::Listener(listener), Change::App(checkout.into())];
            let version = plane.send_changes(changes, &[(id, socket.as_fd())]);
            assert_eq!(plane.link.receive(), FromDataPlane::Live { version });
            drop(socket);

            let mut orders = plane.client();
            orders.send(get(X));
            assert_eq!(orders.read_response().status(), 200, "round {round}");
            let mut own = Wire::connect(&Address::Tcp(address));
            own.send(get(X));
            assert_eq!(own.read_response().status(), 200, "round {round}");
            plane.change(vec![Change::AppRemoved { number }, Change::ListenerRemoved { id }]);
            own.assert_ended();
            orders.send(get(X));
            assert_eq!(orders.read_response().status(), 500, "round {round}: nobody serves it");
            let give_up = clock::now() + DEADLINE;
            while Wire::try_connect(&Address::Tcp(address)).is_ok() {
                assert!(clock::now() < give_up, "round {round}: the listener still accepts");
            }
        }
    }

    fn route_that_leaves_by_delta_takes_its_idle_connections_along(engine: Choice) {
        let peer = App::listen();
        let address = peer.address();
        let mut plane = Plane::on(engine).app("orders", None).knows("checkout", &[&address]).start();
        let mut client = plane.client();
        client.send(get(X));
        let mut upstream = peer.accept();
        upstream.read_request();
        upstream.send(OK);
        assert_eq!(client.read_response().text(), "ok");
        // Another name for the same address: it has not left yet.
        plane.change(vec![Change::Route(route("payments", &[&address])), gone("checkout")]);
        client.send(get("/v1.0/invoke/payments/method/x"));
        upstream.read_request();
        upstream.send(OK);
        assert_eq!(client.read_response().text(), "ok", "over the connection of before");
        plane.change(vec![gone("payments")]);
        upstream.read_to_end();
        plane.change(vec![Change::Route(route("checkout", &[&address]))]);
        client.send(get(X));
        let mut upstream = peer.accept();
        upstream.read_request();
        upstream.send(OK);
        assert_eq!(client.read_response().text(), "ok");
    }

    fn next_control_learns_what_is_held_and_goes_on_from_there(engine: Choice) {
        let mut plane = Plane::on(engine)
            .app("checkout", None)
            .app("orders", None)
            .edit(|s| s.on_control_lost = OnControlLost::Serve)
            .start();
        plane.change(metadata(&plane, "first\n"));
        let mut client = plane.client();
        let FromDataPlane::Hello { held, .. } = plane.relink() else { panic!("no hello") };
        assert_eq!(held.version, Version(2));
        let apps: Vec<(u32, &str)> = held.apps.iter().map(|a| (a.number, a.id.as_str())).collect();
        assert_eq!(apps, [(0, "checkout"), (1, "orders")]);
        assert_eq!(held.listeners.len(), 6);
        plane.change(metadata(&plane, "second\n"));
        client.send(get("/v1.0/metadata"));
        assert_eq!(client.read_response().text(), "second\n");

        let nowhere = Address::Unix("/nowhere/at/all".into());
        let elsewhere = route("elsewhere", &[&nowhere]);
        plane.change(vec![Change::Route(elsewhere.clone())]);
        plane.link.send(&ToDataPlane::ListenersWanted, &[]);
        assert_eq!(plane.link.receive(), FromDataPlane::Routes(vec![elsewhere]));
        let (said, sockets) = plane.link.receive_with_sockets();
        let FromDataPlane::Listeners { sockets: ids, is_last: true } = said else {
            panic!("{said:?}")
        };
        assert_eq!(ids, (0..6).map(ListenerId).collect::<Vec<_>>());
        for (id, socket) in ids.iter().zip(&sockets) {
            let listener = held.listeners.iter().find(|l| l.id == *id).unwrap();
            assert_eq!(local_address(socket), *plane.address_of(listener.app, listener.kind));
        }
    }

    fn state_that_comes_in_parts_is_taken_as_one(engine: Choice) {
        let app = ServedApp::echoing();
        let mut plane = Plane::on(engine).app("orders", None).start();
        let nowhere = Address::Unix("/nowhere/at/all".into());
        let parts = |count: usize, name: &str| {
            let route = |i| route(&format!("{name}-{i}"), &[&nowhere]);
            ToDataPlane::Routes((0..count).map(route).collect())
        };
        plane.link.send(&parts(2_000, "a"), &[]);
        plane.link.send(&parts(2_000, "b"), &[]);
        let address = app.address();
        let version = plane.send_state_after(2, |s| s.routes.push(route("b-7", &[&address])));
        let said = plane.link.receive();
        let FromDataPlane::Refused { version: refused, problems } = &said else {
            panic!("{said:?}")
        };
        assert_eq!((*refused, &problems[..]), (version, &["route default/b-7 appears twice".to_owned()][..]));

        plane.link.send(&parts(2_000, "a"), &[]);
        plane.link.send(&parts(2_000, "b"), &[]);
        let version =
            plane.send_state_after(2, |s| s.routes = vec![route("checkout", &[&address])]);
        assert_eq!(plane.link.receive(), FromDataPlane::Live { version });
        let mut client = plane.client();
        for (target, status) in [("checkout", 200), ("a-1999", 500), ("b-2000", 500)] {
            client.send(get(&format!("/v1.0/invoke/{target}/method/x")));
            let got = client.read_response();
            assert_eq!(got.status(), status, "{target}");
            let unknown = got.text().contains("couldn't find service");
            assert_eq!(unknown, target == "b-2000", "{target}: {}", got.text());
        }
    }

    fn state_of_which_a_part_is_lost_is_not_adopted(engine: Choice) {
        let mut plane = Plane::on(engine).app("orders", None).start();
        let mut lost = wire::encode(&ToDataPlane::Routes(vec![])).unwrap();
        lost[4] = 0xee;
        plane.link.send_bytes(&lost, &[]);
        plane.expect_resync();
        plane.send_state_after(1, |s| s.apps[0].metadata_json = "never\n".into());
        let (have, reason) = plane.expect_resync();
        assert_eq!(have, Version(1));
        assert!(reason.contains("of 1 frames"), "{reason}");
        let mut client = plane.client();
        client.send(get("/v1.0/metadata"));
        assert_eq!(client.read_response().text(), "{\"id\":\"orders\"}\n");
        plane.publish(|_| {});
    }

    fn frame_in_pieces_is_awaited(engine: Choice) {
        let mut plane = Plane::on(engine).app("checkout", None).start();
        let frame = wire::encode(&ToDataPlane::Stats { query: 7 }).unwrap();
        for byte in &frame[..frame.len() - 1] {
            plane.link.send_bytes(&[*byte], &[]);
            plane.settle();
        }
        plane.link.send_bytes(&frame[frame.len() - 1..], &[]);
        let said = plane.link.receive();
        assert!(matches!(said, FromDataPlane::Stats { query: 7, .. }), "{said:?}");
    }

    fn state_of_many_routes(engine: Choice) {
        let mut plane = Plane::on(engine).app("orders", None).start();
        let path = Address::Unix("/nowhere/at/all".into());
        plane.publish(|s| {
            s.routes = (0..50_000).map(|i| route(&format!("app-{i}"), &[&path])).collect();
        });
        let mut client = plane.client();
        client.send(get("/v1.0/healthz"));
        assert_eq!(client.read_response().status(), 204);
    }

    fn counters_are_summed_over_the_workers(engine: Choice) {
        let app = ServedApp::echoing();
        let mut plane = Plane::on(engine).app("checkout", Some(app.address())).workers(2).start();
        let mut clients: Vec<_> = (0..20).map(|_| plane.client()).collect();
        for client in &mut clients {
            client.send(get(X));
            assert_eq!(client.read_response().status(), 200);
        }
        plane.link.send(&ToDataPlane::Stats { query: 3 }, &[]);
        let FromDataPlane::Stats { query, counters, .. } = plane.link.receive() else {
            panic!("no counters");
        };
        assert_eq!(query, 3);
        let calls = |c: &&wire::Counter| c.value >= 20.0;
        assert!(counters.iter().find(calls).is_some(), "20 calls in no counter: {counters:?}");
    }

    fn versions_are_acknowledged_in_order(engine: Choice) {
        let mut plane = Plane::on(engine).app("checkout", None).workers(2).start();
        let versions: Vec<Version> = (0..20).map(|_| plane.send_state(|_| {})).collect();
        let last = *versions.last().unwrap();
        let mut seen = Version(1);
        while seen != last {
            match plane.link.receive() {
                FromDataPlane::Live { version } => {
                    assert!(version > seen, "{version:?} after {seen:?}");
                    seen = version;
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn next_control_counts_its_states_anew(engine: Choice) {
        let mut plane = Plane::on(engine)
            .app("checkout", None)
            .edit(|s| s.on_control_lost = OnControlLost::Serve)
            .start();
        for _ in 0..5 {
            plane.publish(|_| {});
        }
        plane.relink();
        plane.publish(|s| {
            s.version = Version(1);
            s.apps[0].metadata_json = "next\n".into();
        });
        let mut client = plane.client();
        client.send(get("/v1.0/metadata"));
        assert_eq!(client.read_response().text(), "next\n");
    }

    fn second_control_is_turned_away(engine: Choice) {
        let mut plane = Plane::on(engine).app("checkout", None).start();
        let mut second = plane.second_link();
        let said = second.receive();
        let FromDataPlane::Refused { version, problems } = &said else { panic!("{said:?}") };
        assert_eq!(*version, Version::default(), "it is the link that is refused");
        let first = format!("another control process ({}) is connected", std::process::id());
        assert!(problems[0].contains(&first), "{problems:?}");
        second.assert_closed();
        plane.publish(|_| {});
    }

    fn next_control_is_welcome_once_the_first_one_is_gone(engine: Choice) {
        let mut plane = Plane::on(engine)
            .app("checkout", None)
            .edit(|s| s.on_control_lost = OnControlLost::Serve)
            .start();
        plane.second_link().assert_closed();
        plane.relink();
        plane.publish(|_| {});
    }

    fn next_control_is_welcome_whatever_the_first_one_left_unread(engine: Choice) {
        let mut plane = Plane::on(engine)
            .app("checkout", None)
            .edit(|s| s.on_control_lost = OnControlLost::Serve)
            .start();
        for _ in 0..20 {
            // More than one read takes.
            let frame = wire::encode(&ToDataPlane::Routes(Vec::new())).unwrap();
            plane.link.send_bytes(&frame.repeat(100_000 / frame.len()), &[]);
            let FromDataPlane::Hello { .. } = plane.relink() else { panic!("turned away") };
        }
        plane.publish(|_| {});
    }

    fn sockets_that_were_announced_and_did_not_come_are_missed(engine: Choice) {
        let mut plane = Plane::on(engine).app("checkout", None).start();
        plane.send_state_announcing(&[ListenerId(0)], |_| {});
        let said = plane.link.receive();
        assert!(matches!(said, FromDataPlane::Refused { .. }), "{said:?}");
        plane.publish(|_| {});
        let mut client = plane.client();
        client.send(get("/v1.0/healthz"));
        assert_eq!(client.read_response().status(), 204, "the listener is still there");
    }

    fn listener_that_appears_is_accepted_from(engine: Choice) {
        let mut plane = Plane::on(engine).app("checkout", None).start();
        let mut old = plane.client();
        old.send(get("/v1.0/healthz"));
        assert_eq!(old.read_response().status(), 204);
        let address = plane.hand_over(ListenerId(7));
        for address in [&address, &plane.api().clone()] {
            let mut client = Wire::connect(address);
            client.send(get("/v1.0/healthz"));
            assert_eq!(client.read_response().status(), 204, "{address}");
        }
        old.send(get("/v1.0/healthz"));
        assert_eq!(old.read_response().status(), 204);
    }

    fn socket_in_the_place_of_another_replaces_it(engine: Choice) {
        let mut plane = Plane::on(engine).app("checkout", None).start();
        let before = plane.api().clone();
        let after = plane.hand_over(ListenerId(0));
        let mut client = Wire::connect(&after);
        client.send(get("/v1.0/healthz"));
        assert_eq!(client.read_response().status(), 204);
        let give_up = clock::now() + DEADLINE;
        while Wire::try_connect(&before).is_ok() {
            assert!(clock::now() < give_up, "the replaced listener still accepts");
        }
    }
}
