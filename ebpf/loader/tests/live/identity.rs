//! The kernel's word for who dialled cannot be had by another.

use crate::support::*;
use ebpf_loader::common::{Counter, EventKind, PlaceKind};

#[test]
fn another_apps_api_is_closed_and_its_own_is_open() {
    let Some(room) = room("another_apps_api_is_closed_and_its_own_is_open") else { return };
    let (orders, checkout) = (room.group("orders"), room.group("checkout"));
    let mut plane = Agent::start(&room.group("plane"));
    let api = plane.listen("127.0.0.1");
    let mut kernel = room.kernel();
    set_members(&mut kernel, [(&*orders, member(ORDERS, api)), (&*checkout, member(CHECKOUT, 0))]);
    set_places(&mut kernel, [(any(api), place(ORDERS, PlaceKind::Api, 0))]);
    kernel.attach().unwrap();

    let mut own = Agent::start(&orders);
    assert_eq!(own.ask(&format!("connect 127.0.0.1 {api}")), format!("127.0.0.1 {api}"));
    let want = told(id(&orders), ORDERS, own.pid());
    assert_eq!(plane.ask(&format!("accept {api}")), want, "also by its real port");

    for (case, group, app) in
        [("another app", checkout, CHECKOUT), ("a stranger", room.group("stranger"), 0)]
    {
        let mut agent = Agent::start(&group);
        assert_eq!(agent.ask(&format!("connect 127.0.0.1 {api}")), "EPERM", "{case}");
        let event = event(&mut kernel);
        assert_eq!(event.kind, EventKind::DeniedAtApi as u32, "{case}");
        assert_eq!((event.caller, event.callee), (app, ORDERS), "{case}");
        assert_eq!(event.endpoint.port, api, "{case}");
        assert!(is_pid(event.pid, agent.pid()), "{case}: {}", event.pid);
        assert!(event.comm.starts_with(b"python3"), "{case}: {:?}", event.comm);
    }
    kernel.detach().unwrap();
}

#[test]
fn who_moves_between_groups_is_who_it_is_when_it_dials() {
    let Some(room) = room("who_moves_between_groups_is_who_it_is_when_it_dials") else { return };
    let (orders, checkout) = (room.group("orders"), room.group("checkout"));
    let mut plane = Agent::start(&room.group("plane"));
    let (orders_api, checkout_api) = (plane.listen("127.0.0.1"), plane.listen("127.0.0.1"));
    let mut kernel = room.kernel();
    set_members(
        &mut kernel,
        [(&*orders, member(ORDERS, orders_api)), (&*checkout, member(CHECKOUT, checkout_api))],
    );
    kernel.attach().unwrap();

    let mut agent = Agent::start(&orders);
    agent.ask("connect 127.0.0.1 3500");
    // A child goes to the other group; what was dialled before stays what it was.
    let child = agent.ask(&format!("fork {}", checkout.display()));
    agent.ask("connect 127.0.0.1 3500");
    let before = told(id(&orders), ORDERS, agent.pid());
    assert_eq!(plane.ask(&format!("accept {orders_api}")), before);
    let after = told(id(&checkout), CHECKOUT, child.parse().unwrap());
    assert_eq!(plane.ask(&format!("accept {checkout_api}")), after);

    // Who has no right over the groups stays where it was put.
    let mut captive = Agent::start(&orders);
    captive.ask("become 65534");
    assert_eq!(captive.ask(&format!("move {}", checkout.display())), "EACCES");
    captive.ask("connect 127.0.0.1 3500");
    let want = told(id(&orders), ORDERS, captive.pid());
    assert_eq!(plane.ask(&format!("accept {orders_api}")), want);
    kernel.detach().unwrap();
}

#[test]
fn a_client_that_is_gone_is_still_known_and_its_port_is_nobodys_claim() {
    let name = "a_client_that_is_gone_is_still_known_and_its_port_is_nobodys_claim";
    let Some(room) = room(name) else { return };
    let (orders, checkout) = (room.group("orders"), room.group("checkout"));
    let mut plane = Agent::start(&room.group("plane"));
    let shared = plane.listen("127.0.0.1");
    let mut kernel = room.kernel();
    set_members(
        &mut kernel,
        [(&*orders, member(ORDERS, shared)), (&*checkout, member(CHECKOUT, shared))],
    );
    kernel.attach().unwrap();
    let mut first = Agent::start(&orders);
    let mut second = Agent::start(&checkout);
    let mut stranger = Agent::start(&room.group("stranger"));
    // One listener for both, so that only the kernel can tell them apart, and clients that are gone
    // before anybody looks, so that their ports are free for the next ones.
    for _ in 0..100 {
        first.ask("gone 127.0.0.1 3500");
        second.ask("gone 127.0.0.1 3500");
        stranger.ask(&format!("gone 127.0.0.1 {shared}"));
        let want = told(id(&orders), ORDERS, first.pid());
        assert_eq!(plane.ask(&format!("accept {shared}")), want);
        let want = told(id(&checkout), CHECKOUT, second.pid());
        assert_eq!(plane.ask(&format!("accept {shared}")), want);
        assert_eq!(plane.ask(&format!("accept {shared}")), "nobody");
    }
    assert_eq!(kernel.tables.counter(Counter::Identified).unwrap(), 200);
    assert_eq!(kernel.tables.counter(Counter::FlowsFull).unwrap(), 0);
    kernel.detach().unwrap();
}

/// Two apps together use more ports than there are, so ports come back to the other one; none may
/// ever be told as another.
#[test]
fn ports_that_come_back_are_told_right() {
    let Some(room) = room("ports_that_come_back_are_told_right") else { return };
    let (orders, checkout) = (room.group("orders"), room.group("checkout"));
    let mut plane = Agent::start(&room.group("plane"));
    let (orders_api, checkout_api) = (plane.listen("127.0.0.1"), plane.listen("127.0.0.1"));
    let mut kernel = room.kernel();
    set_members(
        &mut kernel,
        [(&*orders, member(ORDERS, orders_api)), (&*checkout, member(CHECKOUT, checkout_api))],
    );
    kernel.attach().unwrap();
    for api in [orders_api, checkout_api] {
        plane.ask(&format!("serve {api}"));
    }
    let mut dialers = [Agent::start(&orders), Agent::start(&checkout)];
    for dialer in &mut dialers {
        dialer.say(&format!("storm 127.0.0.1 3500 {STORM}"));
    }
    for dialer in &mut dialers {
        assert_eq!(dialer.answer(), "none", "refused by nobody");
    }
    for (group, app, api) in [(&orders, ORDERS, orders_api), (&checkout, CHECKOUT, checkout_api)] {
        let want = format!("{} {app}: {STORM}", id(group));
        let mut came = String::new();
        // The last ones may still be in the listener's queue.
        for _ in 0..100_000 {
            came = plane.ask(&format!("came {api}"));
            if came == want {
                break;
            }
        }
        assert_eq!(came, want);
    }
    assert_eq!(kernel.tables.counter(Counter::Identified).unwrap(), 2 * STORM);
    kernel.detach().unwrap();
}

/// More than there are ephemeral ports (28,232), for each of two.
const STORM: u64 = 20_000;
