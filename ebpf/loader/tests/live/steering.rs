//! Where connects go.

use crate::support::*;
use ebpf_loader::common::{Counter, PlaceKind, WhenDead};

#[test]
fn two_apps_share_one_sidecar_address() {
    let Some(room) = room("two_apps_share_one_sidecar_address") else { return };
    let (orders, checkout) = (room.group("orders"), room.group("checkout"));
    let nested = room.group("checkout/worker");
    let mut plane = Agent::start(&room.group("plane"));
    let (orders_api, checkout_api) = (plane.listen("127.0.0.1"), plane.listen("127.0.0.1"));
    let mut kernel = room.kernel();
    set_members(
        &mut kernel,
        [(&*orders, member(ORDERS, orders_api)), (&*checkout, member(CHECKOUT, checkout_api))],
    );
    kernel.attach().unwrap();

    for (group, owner, app, api) in [
        (&orders, &orders, ORDERS, orders_api),
        (&checkout, &checkout, CHECKOUT, checkout_api),
        (&nested, &checkout, CHECKOUT, checkout_api),
    ] {
        let mut agent = Agent::start(group);
        for (host, seen) in [
            ("127.0.0.1", "127.0.0.1 3500"),
            ("::1", "::1 3500"),
            ("::ffff:127.0.0.1", "::ffff:127.0.0.1 3500"),
            ("127.0.0.9", "127.0.0.9 3500"),
        ] {
            assert_eq!(agent.ask(&format!("connect {host} 3500")), seen, "the app's view");
            let want = told(id(owner), app, agent.pid());
            assert_eq!(plane.ask(&format!("accept {api}")), want, "{host}: the kernel's word");
        }
    }
    assert_eq!(kernel.tables.counter(Counter::Steered).unwrap(), 12);
    assert_eq!(kernel.tables.counter(Counter::Identified).unwrap(), 12);
    kernel.detach().unwrap();
}

#[test]
fn leaves_everything_else_alone() {
    let Some(room) = room("leaves_everything_else_alone") else { return };
    let orders = room.group("orders");
    let mut plane = Agent::start(&room.group("plane"));
    let (api, other) = (plane.listen("127.0.0.1"), plane.listen("127.0.0.1"));
    let mut kernel = room.kernel();
    set_members(&mut kernel, [(&*orders, member(ORDERS, api))]);
    kernel.attach().unwrap();

    let mut stranger = Agent::start(&room.group("stranger"));
    assert_eq!(stranger.ask("connect 127.0.0.1 3500"), "ECONNREFUSED", "not an app");
    let mut agent = Agent::start(&orders);
    assert_eq!(agent.ask(&format!("connect 127.0.0.1 {other}")), format!("127.0.0.1 {other}"));
    assert_eq!(plane.ask(&format!("accept {other}")), "nobody", "nothing to tell");
    assert_eq!(agent.ask("udp 127.0.0.1 3500"), "127.0.0.1 3500");
    assert_eq!(kernel.tables.counter(Counter::Steered).unwrap(), 0);

    // A socket that was steered and goes elsewhere then is not taken for what it was.
    let twice = format!("reconnect 127.0.0.1 3500 127.0.0.1 {other}");
    assert_eq!(agent.ask(&twice), format!("127.0.0.1 {other}"));
    assert_eq!(plane.ask(&format!("accept {other}")), "nobody");
    kernel.detach().unwrap();
}

#[test]
fn fails_as_told_without_a_data_plane() {
    for (when_dead, want, events) in
        [(WhenDead::Closed, "ECONNREFUSED", 1), (WhenDead::Open, "127.0.0.1 3500", 0)]
    {
        let Some(room) = room("fails_as_told_without_a_data_plane") else { return };
        let orders = room.group("orders");
        let mut plane = Agent::start(&room.group("plane"));
        let api = plane.listen("127.0.0.1");
        let mut other = Agent::start(&room.group("other"));
        let own: u16 = other.ask("listen 127.0.0.1 0").parse().unwrap();
        let mut start = room.start();
        start.when_dead = when_dead;
        // Somebody else listens where the sidecar is expected.
        start.sidecar_port = own;
        let mut kernel = ebpf_loader::Kernel::start(&start).unwrap();
        set_members(&mut kernel, [(&*orders, member(ORDERS, api))]);
        kernel.attach().unwrap();
        plane.ask(&format!("close {api}"));
        let mut agent = Agent::start(&orders);
        let answer = agent.ask(&format!("connect 127.0.0.1 {own}"));
        assert_eq!(answer, want.replace("3500", &own.to_string()), "{when_dead:?}");
        assert_eq!(kernel.tables.counter(Counter::PlaneDead).unwrap(), 1);
        assert_eq!(std::iter::from_fn(|| kernel.events.take()).count(), events, "{when_dead:?}");
        kernel.detach().unwrap();
    }
}

#[test]
fn the_data_plane_goes_where_it_wants() {
    let Some(room) = room("the_data_plane_goes_where_it_wants") else { return };
    let plane_group = room.group("plane");
    let mut plane = Agent::start(&plane_group);
    let mut app = Agent::start(&room.group("orders"));
    let (port, inbound) = (app.listen("127.0.0.1"), plane.listen("127.0.0.1"));
    let mut kernel = room.kernel();
    let role = ebpf_loader::common::Role::DataPlane as u16;
    set_members(
        &mut kernel,
        [(&*plane_group, ebpf_loader::common::Member { role, ..Default::default() })],
    );
    set_places(&mut kernel, [(any(port), place(ORDERS, PlaceKind::App, inbound))]);
    let rule = ebpf_loader::Rule {
        caller: ebpf_loader::common::ANYBODY,
        callee: ORDERS,
        action: ebpf_loader::common::Action::Redirect,
    };
    kernel.rules.set([rule]).unwrap();
    kernel.attach().unwrap();
    assert_eq!(plane.ask(&format!("connect 127.0.0.1 {port}")), format!("127.0.0.1 {port}"));
    assert_eq!(app.ask(&format!("accept {port}")), "nobody", "it reached the app itself");

    let mut stranger = Agent::start(&room.group("stranger"));
    assert_eq!(stranger.ask(&format!("connect 127.0.0.1 {port}")), format!("127.0.0.1 {port}"));
    let want = told(0, 0, stranger.pid());
    assert_eq!(plane.ask(&format!("accept {inbound}")), want, "a stranger, redirected");
    kernel.detach().unwrap();
}
