//! Addresses that stand for apps.

use crate::support::*;
use ebpf_loader::common::{ANYBODY, Action, Capture, Counter, Endpoint, Member, PlaceKind};
use std::collections::BTreeMap;

const CAPTURED: Member =
    Member { app: ORDERS, role: 1, api_port: 0, capture: Capture::On as u16, reserved: 0 };

fn names(names: &[(&str, u16, &str)]) -> BTreeMap<Endpoint, String> {
    names
        .iter()
        .map(|(at, port, name)| (Endpoint::new(ip(at), *port), (*name).to_owned()))
        .collect()
}

#[test]
fn an_address_is_the_app_it_stands_for() {
    let Some(room) = room("an_address_is_the_app_it_stands_for") else { return };
    let orders = room.group("orders");
    let mut plane = Agent::start(&room.group("plane"));
    let api = plane.listen("127.0.0.1");
    let mut kernel = room.kernel();
    set_members(&mut kernel, [(&*orders, Member { api_port: api, ..CAPTURED })]);
    let wanted = names(&[
        ("240.82.0.1", 0, "checkout"),
        ("240.82.0.2", 0, "checkout.prod"),
        ("10.9.8.7", 80, "stock"),
        ("fd00::7", 80, "billing"),
        ("127.7.7.7", 0, "local"),
    ]);
    kernel.tables.set_virtuals(&wanted).unwrap();
    assert_eq!(kernel.tables.virtuals(), wanted);
    kernel.attach().unwrap();
    let mut agent = Agent::start(&orders);
    for (host, port, name) in [
        ("240.82.0.1", 80, "checkout"),
        ("240.82.0.1", 8080, "checkout"),
        ("240.82.0.2", 80, "checkout.prod"),
        ("::ffff:240.82.0.2", 80, "checkout.prod"),
        ("10.9.8.7", 80, "stock"),
        ("fd00::7", 80, "billing"),
        // More than an address of loopback, where the sidecar would be found otherwise.
        ("127.7.7.7", 3500, "local"),
    ] {
        let seen = agent.ask(&format!("connect {host} {port}"));
        assert_eq!(seen, format!("{host} {port}"), "the app's view");
        let told = format!("{} {ORDERS} {} {name}", id(&orders), agent.pid());
        assert_eq!(plane.ask(&format!("accept {api}")), told, "{host} {port}");
    }
    assert_eq!(kernel.tables.counter(Counter::Captured).unwrap(), 7);
    // Its sidecar is where it was, and stands for nobody.
    agent.ask("connect 127.0.0.1 3500");
    let told = format!("{} {ORDERS} {}", id(&orders), agent.pid());
    assert_eq!(plane.ask(&format!("accept {api}")), told);

    // A name that goes takes its address with it, and what was dialled before keeps its own.
    agent.ask("connect 240.82.0.2 80");
    kernel.tables.set_virtuals(&names(&[("240.82.0.1", 0, "checkout")])).unwrap();
    let told = plane.ask(&format!("accept {api}"));
    assert!(!told.ends_with("checkout"), "a name that is gone is not another one: {told}");
    drop(kernel);
    let kernel = room.kernel();
    assert_eq!(kernel.tables.virtuals(), names(&[("240.82.0.1", 0, "checkout")]));
    kernel.detach().unwrap();
}

#[test]
fn only_those_who_are_to_be_are_captured_and_shadows_are_only_counted() {
    let name = "only_those_who_are_to_be_are_captured_and_shadows_are_only_counted";
    let Some(room) = room(name) else { return };
    let (orders, shadow) = (room.group("orders"), room.group("shadow"));
    let mut plane = Agent::start(&room.group("plane"));
    let mut app = Agent::start(&room.group("checkout"));
    let (api, port) = (plane.listen("127.0.0.1"), app.listen("127.0.0.1"));
    let mut kernel = room.kernel();
    let shadowed = Member { api_port: api, app: 77, capture: Capture::Shadow as u16, ..CAPTURED };
    set_members(&mut kernel, [(&*orders, member(ORDERS, api)), (&*shadow, shadowed)]);
    set_places(&mut kernel, [(any(port), place(CHECKOUT, PlaceKind::App, 0))]);
    kernel.tables.set_virtuals(&names(&[("127.0.0.1", port, "checkout")])).unwrap();
    kernel.attach().unwrap();
    for (case, group) in
        [("not asked for", &orders), ("shadow", &shadow), ("a stranger", &room.group("stranger"))]
    {
        let mut agent = Agent::start(group);
        assert_eq!(agent.ask(&format!("connect 127.0.0.1 {port}")), format!("127.0.0.1 {port}"));
        assert_eq!(
            app.ask(&format!("accept {port}")),
            "nobody",
            "{case}: it reached the app itself"
        );
    }
    let pairs = kernel.tables.pairs();
    let shadows: Vec<_> = pairs.iter().filter(|pair| pair.count.shadowed > 0).collect();
    assert_eq!(shadows.len(), 1, "{pairs:?}");
    assert_eq!((shadows[0].caller, shadows[0].count.shadowed), (77, 1));
    assert_eq!(shadows[0].callee, u64::from(ebpf_loader::common::Name::number(b"checkout")));

    // A shadow is denied what it would be denied without one, and a captured call is no connection
    // that goes round the sidecar.
    let deny = ebpf_loader::Rule { caller: ANYBODY, callee: CHECKOUT, action: Action::Deny };
    kernel.rules.set([deny]).unwrap();
    let mut agent = Agent::start(&shadow);
    assert_eq!(agent.ask(&format!("connect 127.0.0.1 {port}")), "EPERM");
    set_members(&mut kernel, [(&*shadow, Member { api_port: api, ..CAPTURED })]);
    assert_eq!(agent.ask(&format!("connect 127.0.0.1 {port}")), format!("127.0.0.1 {port}"));
    assert!(plane.ask(&format!("accept {api}")).ends_with(" checkout"));
    kernel.detach().unwrap();
}
