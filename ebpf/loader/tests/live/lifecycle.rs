//! Who brought the programs may leave, and come back.

use crate::support::*;
use ebpf_loader::{
    Kernel,
    common::{EventKind, PlaceKind},
    pins,
};

#[test]
fn programs_outlive_who_brought_them_and_are_taken_over() {
    let Some(room) = room("programs_outlive_who_brought_them_and_are_taken_over") else { return };
    let orders = room.group("orders");
    let mut plane = Agent::start(&room.group("plane"));
    let (api, next_api) = (plane.listen("127.0.0.1"), plane.listen("127.0.0.1"));
    let mut kernel = room.kernel();
    assert!(!kernel.is_adopted());
    set_members(&mut kernel, [(&*orders, member(ORDERS, api))]);
    kernel.attach().unwrap();
    drop(kernel);

    let mut agent = Agent::start(&orders);
    assert_eq!(agent.ask("connect 127.0.0.1 3500"), "127.0.0.1 3500");
    let want = told(id(&orders), ORDERS, agent.pid());
    assert_eq!(plane.ask(&format!("accept {api}")), want);

    let mut kernel = room.kernel();
    assert!(kernel.is_adopted());
    set_members(&mut kernel, [(&*orders, member(ORDERS, next_api))]);
    kernel.attach().unwrap();
    assert_eq!(agent.ask("connect 127.0.0.1 3500"), "127.0.0.1 3500");
    assert_eq!(plane.ask(&format!("accept {next_api}")), want);
    let pinned = pins::list(&room.file_system);
    assert_eq!(pinned.len(), 1);
    assert_eq!((pinned[0].name.as_str(), pinned[0].maps.len()), ("test", 12));
    assert_eq!(pinned[0].links.len(), 1);
    assert_eq!(pinned[0].links[0].1.len(), 6);

    assert!(pins::Pins::new(&room.file_system, "test").remove().unwrap());
    assert_eq!(pins::list(&room.file_system), []);
    assert!(!pins::Pins::new(&room.file_system, "test").remove().unwrap());
    assert_eq!(agent.ask("connect 127.0.0.1 3500"), "ECONNREFUSED", "nothing steers any more");
}

/// Another build's programs are told from ours by their directory's name alone.
#[test]
fn another_build_is_replaced_without_a_moment_unsteered() {
    let Some(room) = room("another_build_is_replaced_without_a_moment_unsteered") else { return };
    let orders = room.group("orders");
    let mut plane = Agent::start(&room.group("plane"));
    let api = plane.listen("127.0.0.1");
    let mut kernel = room.kernel();
    set_members(&mut kernel, [(&*orders, member(ORDERS, api))]);
    kernel.attach().unwrap();
    drop(kernel);
    let directory = pins::Pins::new(&room.file_system, "test").directory();
    let pinned = pins::list(&room.file_system);
    let ours = &pinned[0].links[0].0;
    std::fs::rename(directory.join(ours), directory.join("links-0-0")).unwrap();

    plane.ask(&format!("serve {api}"));
    let mut agent = Agent::start(&orders);
    agent.say("storm 127.0.0.1 3500 20000");
    let storm = std::thread::spawn(move || agent.answer());
    for _ in 0..3 {
        let mut kernel = room.kernel();
        assert!(!kernel.is_adopted());
        kernel.attach().unwrap();
        let pinned = pins::list(&room.file_system);
        assert_eq!(pinned[0].links.len(), 1, "the other build is taken off");
        let ours = directory.join(&pinned[0].links[0].0);
        std::fs::rename(ours, directory.join("links-0-0")).unwrap();
    }
    // Nobody listens at 3500 itself: a connect that is not steered is refused.
    assert_eq!(storm.join().unwrap(), "none");
    let came = plane.ask(&format!("came {api}"));
    assert!(came.starts_with(&format!("{} {ORDERS}: ", id(&orders))), "{came}");
    assert!(!came.contains(','), "each one was known: {came}");
    assert!(pins::Pins::new(&room.file_system, "test").remove().unwrap());
}

#[test]
fn listeners_of_apps_are_told() {
    let Some(room) = room("listeners_of_apps_are_told") else { return };
    let mut app = Agent::start(&room.group("orders"));
    // A port that was free a moment ago, and is not given to others by the kernel's choice soon.
    let port: u16 = app.ask("listen 127.0.0.1 0").parse().unwrap();
    app.ask(&format!("close {port}"));
    let mut kernel = room.kernel();
    set_places(&mut kernel, [(any(port), place(ORDERS, PlaceKind::App, 0))]);
    kernel.attach().unwrap();
    for _ in 0..3 {
        app.ask("listen 127.0.0.1 0");
        app.ask(&format!("listen 0.0.0.0 {port}"));
        let listening = event(&mut kernel);
        assert_eq!(listening.kind, EventKind::Listening as u32);
        assert_eq!((listening.callee, listening.endpoint.port), (ORDERS, port));
        app.ask(&format!("close {port}"));
        assert_eq!(event(&mut kernel).kind, EventKind::NotListening as u32);
    }
    // Death is a close, too.
    app.ask(&format!("listen 0.0.0.0 {port}"));
    assert_eq!(event(&mut kernel).kind, EventKind::Listening as u32);
    drop(app);
    assert_eq!(event(&mut kernel).kind, EventKind::NotListening as u32);
    kernel.detach().unwrap();
}

#[test]
fn ten_thousand_apps_have_room() {
    let Some(room) = room("ten_thousand_apps_have_room") else { return };
    let mut kernel = Kernel::start(&room.start()).unwrap();
    let members = (0..10_000).map(|n| (1_000_000_000 + n, member(n + 1, 1))).collect();
    kernel.tables.set_members(&members).unwrap();
    let ports = 10_000..30_000_u16;
    let places = ports.map(|port| (any(port), place(u64::from(port), PlaceKind::App, 0)));
    kernel.tables.set_places(&places.collect()).unwrap();
    let rules = (0..100_000).map(|n| ebpf_loader::Rule {
        caller: n % 10_000 + 1,
        callee: n / 10_000 + 1,
        action: ebpf_loader::common::Action::Deny,
    });
    for _ in 0..2 {
        kernel.rules.set(rules.clone()).unwrap();
        kernel.rules.set([]).unwrap();
    }
    kernel.attach().unwrap();
    kernel.detach().unwrap();
}
