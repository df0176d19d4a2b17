//! The link to control: states that are refused, frames that are none, control that goes away and
//! comes back, counters.

#![forbid(unsafe_code)]

use crate::{
    OK, X, get,
    support::{App, DEADLINE, Link, Plane, ServedApp, Wire, on_both_engines, route},
};
use dataplane::{clock, engine::Choice};
use snapshot::{
    Address, ListenerId, ListenerKind, OnControlLost, Version,
    wire::{self, FromDataPlane, ToDataPlane},
};

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
            plane.publish(|s| s.apps[0].metadata_json = "next\n".to_owned());
            client.send(get("/v1.0/metadata"));
            assert_eq!(client.read_response().text(), "next\n");
            plane.settle();
        }
        plane.assert_runs();
    }

    fn state_that_breaks_a_rule_is_refused_and_the_last_one_stays(engine: Choice) {
        let app = ServedApp::echoing();
        let mut plane = Plane::on(engine).app("checkout", Some(app.address())).start();
        let version = plane.send_state(|s| {
            s.apps.push(s.apps[0].clone());
            s.apps[0].metadata_json = "never\n".to_owned();
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
            s.apps[0].metadata_json = "better\n".to_owned();
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

    fn frames_that_are_none_close_the_link_and_harm_nobody(engine: Choice) {
        let other_protocol = {
            let mut frame = wire::encode(&ToDataPlane::Drain).unwrap();
            frame[4] = 0xee;
            frame
        };
        for (case, bytes) in [
            ("too long", u32::MAX.to_le_bytes().to_vec()),
            ("too short", vec![1, 0, 0, 0, 1]),
            ("another protocol", other_protocol),
            ("rubbish", vec![6, 0, 0, 0, 1, 0, 0xff, 0xff, 0xff, 0xff]),
        ] {
            let app = App::listen();
            let mut plane = Plane::on(engine)
                .app("checkout", Some(app.address()))
                .edit(|s| s.on_control_lost = OnControlLost::Serve)
                .start();
            let mut client = plane.client();
            client.send(get(X));
            let mut upstream = app.accept();
            upstream.read_request();
            plane.link.send_bytes(&bytes, &[]);
            plane.link.assert_closed();
            upstream.send(OK);
            assert_eq!(client.read_response().text(), "ok", "{case}");
            let hello = plane.relink();
            assert!(matches!(hello, FromDataPlane::Hello { .. }), "{case}: {hello:?}");
            plane.publish(|_| {});
        }
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
        let FromDataPlane::Stats { query, counters } = plane.link.receive() else {
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
        plane.link = Link::nowhere();
        plane.relink();
        plane.publish(|s| {
            s.version = Version(1);
            s.apps[0].metadata_json = "next\n".to_owned();
        });
        let mut client = plane.client();
        client.send(get("/v1.0/metadata"));
        assert_eq!(client.read_response().text(), "next\n");
    }

    fn second_control_is_turned_away(engine: Choice) {
        let mut plane = Plane::on(engine).app("checkout", None).start();
        let mut second = plane.second_link();
        second.assert_closed();
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
