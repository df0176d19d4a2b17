//! Who may connect to whom.

use crate::support::*;
use ebpf_loader::{
    Rule,
    common::{ANYBODY, Action, EventKind, PlaceKind, STRANGER},
};

fn rule(caller: u64, callee: u64, action: Action) -> Rule {
    Rule { caller, callee, action }
}

#[test]
fn connects_that_go_round_the_sidecar_meet_the_rules() {
    let Some(room) = room("connects_that_go_round_the_sidecar_meet_the_rules") else { return };
    let (orders, checkout) = (room.group("orders"), room.group("checkout"));
    let mut server = Agent::start(&checkout);
    let port: u16 = server.ask("listen 0.0.0.0 0").parse().unwrap();
    let mut kernel = room.kernel();
    set_members(&mut kernel, [(&*orders, member(ORDERS, 0)), (&*checkout, member(CHECKOUT, 0))]);
    set_places(&mut kernel, [(any(port), place(CHECKOUT, PlaceKind::App, 0))]);
    kernel.tables.set_local_ips([ip("192.0.2.1")]).unwrap();
    kernel.attach().unwrap();
    let mut caller = Agent::start(&orders);
    let mut own = Agent::start(&checkout);
    let mut stranger = Agent::start(&room.group("stranger"));
    for (case, rules, want_caller, want_stranger) in [
        ("none", vec![], true, true),
        ("anybody denied", vec![rule(ANYBODY, CHECKOUT, Action::Deny)], false, false),
        (
            "an exception",
            vec![rule(ANYBODY, CHECKOUT, Action::Deny), rule(ORDERS, CHECKOUT, Action::Allow)],
            true,
            false,
        ),
        ("strangers denied", vec![rule(STRANGER, CHECKOUT, Action::Deny)], true, false),
        ("of another callee", vec![rule(ANYBODY, ORDERS, Action::Deny)], true, true),
    ] {
        kernel.rules.set(rules).unwrap();
        for (who, agent, want) in [
            ("caller", &mut caller, want_caller),
            ("stranger", &mut stranger, want_stranger),
            ("own", &mut own, true),
        ] {
            for host in ["127.0.0.1", "127.3.3.3", "0.0.0.0", "::ffff:127.0.0.1"] {
                let answer = agent.ask(&format!("connect {host} {port}"));
                let passed = answer.ends_with(&format!(" {port}"));
                assert_eq!(passed, want, "{case}, {who} to {host}: {answer}");
                assert!(passed || answer == "EPERM", "{answer}");
            }
        }
    }
    // An address of the machine's own that is not loopback, and one that is somebody else's.
    kernel.rules.set([rule(ANYBODY, CHECKOUT, Action::Deny)]).unwrap();
    assert_eq!(caller.ask(&format!("connect 192.0.2.1 {port}")), "EPERM");
    kernel.tables.set_local_ips([]).unwrap();
    assert_ne!(caller.ask(&format!("connect 127.0.0.1 {port}")), "EACCES");
    kernel.detach().unwrap();
}

#[test]
fn denials_are_told_and_counted_by_pair() {
    let Some(room) = room("denials_are_told_and_counted_by_pair") else { return };
    let (orders, checkout) = (room.group("orders"), room.group("checkout"));
    let mut server = Agent::start(&checkout);
    let port = server.listen("127.0.0.1");
    let mut kernel = room.kernel();
    set_members(&mut kernel, [(&*orders, member(ORDERS, 0)), (&*checkout, member(CHECKOUT, 0))]);
    set_places(&mut kernel, [(any(port), place(CHECKOUT, PlaceKind::App, 0))]);
    kernel.attach().unwrap();
    let mut caller = Agent::start(&orders);
    caller.ask(&format!("connect 127.0.0.1 {port}"));
    kernel.rules.set([rule(ORDERS, CHECKOUT, Action::Deny)]).unwrap();
    for _ in 0..2 {
        assert_eq!(caller.ask(&format!("connect ::ffff:127.0.0.1 {port}")), "EPERM");
        let event = event(&mut kernel);
        assert_eq!(event.kind, EventKind::DeniedByRule as u32);
        assert_eq!((event.caller, event.callee), (ORDERS, CHECKOUT));
        assert_eq!((event.endpoint.ip, event.endpoint.port), (ip("127.0.0.1"), port));
        assert!(is_pid(event.pid, caller.pid()), "{}", event.pid);
    }
    let pairs = kernel.tables.pairs();
    assert_eq!(pairs.len(), 1, "{pairs:?}");
    assert_eq!((pairs[0].caller, pairs[0].callee), (ORDERS, CHECKOUT));
    assert_eq!((pairs[0].count.passed, pairs[0].count.denied), (1, 2));
    kernel.detach().unwrap();
}

/// Other kinds of sockets that end as TCP, and ways to connect that look otherwise.
#[test]
fn there_is_no_way_round_a_rule() {
    let Some(room) = room("there_is_no_way_round_a_rule") else { return };
    let (orders, checkout) = (room.group("orders"), room.group("checkout"));
    let mut server = Agent::start(&checkout);
    let port: u16 = server.ask("listen :: 0").parse().unwrap();
    let mut kernel = room.kernel();
    set_members(&mut kernel, [(&*orders, member(ORDERS, 0)), (&*checkout, member(CHECKOUT, 0))]);
    set_places(&mut kernel, [(any(port), place(CHECKOUT, PlaceKind::App, 0))]);
    let mut caller = Agent::start(&orders);
    kernel.attach().unwrap();
    assert_eq!(caller.ask(&format!("connect ::1 {port}")), format!("::1 {port}"), "without rules");
    kernel.rules.set([rule(ANYBODY, CHECKOUT, Action::Deny)]).unwrap();
    for (case, command, want) in [
        ("IPv6", format!("connect ::1 {port}"), "EPERM"),
        ("fast open", format!("fastopen 127.0.0.1 {port}"), "EPERM"),
        // Kernels without it refuse the socket.
        ("multipath", format!("connect 127.0.0.1 {port} 262"), "EPERM"),
        ("after another", format!("reconnect ::1 {port} ::1 {port}"), "EPERM"),
    ] {
        let answer = caller.ask(&command);
        let is_unknown = case == "multipath" && answer.starts_with("EPROTONOSUPPORT");
        assert!(is_unknown || answer == want, "{case}: {answer}");
    }
    kernel.detach().unwrap();
}

/// Rules change all the time while connects come; those about this pair are the same in every
/// generation, so no connect may ever meet another answer.
#[test]
fn a_change_of_rules_has_no_moment_without_them() {
    let Some(room) = room("a_change_of_rules_has_no_moment_without_them") else { return };
    let (orders, checkout) = (room.group("orders"), room.group("checkout"));
    let mut server = Agent::start(&checkout);
    let port = server.listen("127.0.0.1");
    let mut kernel = room.kernel();
    set_members(&mut kernel, [(&*orders, member(ORDERS, 0)), (&*checkout, member(CHECKOUT, 0))]);
    set_places(&mut kernel, [(any(port), place(CHECKOUT, PlaceKind::App, 0))]);
    let deny = rule(ORDERS, CHECKOUT, Action::Deny);
    kernel.rules.set([deny]).unwrap();
    kernel.attach().unwrap();
    let mut caller = Agent::start(&orders);
    caller.say(&format!("storm 127.0.0.1 {port} {}", *CONNECTS));
    let storm = std::thread::spawn(move || caller.answer());
    let mut changes = 0_u64;
    while !storm.is_finished() {
        changes += 1;
        // What changes is about others, and about everybody: were the pair's own rule missing for a
        // moment, its connects would pass.
        let others = (0..8).map(|n| rule(1000 + n, CHECKOUT + changes % 7, Action::Allow));
        kernel.rules.set(others.chain([deny, rule(ANYBODY, CHECKOUT, Action::Allow)])).unwrap();
        while kernel.events.take().is_some() {}
    }
    assert_eq!(storm.join().unwrap(), format!("EPERM={}", *CONNECTS));
    assert!(changes > 10, "{changes} changes are no test");
    kernel.detach().unwrap();
}

/// A million of them is `RINGCAR_TEST_CONNECTS=1000000`.
static CONNECTS: std::sync::LazyLock<u64> = std::sync::LazyLock::new(|| {
    std::env::var("RINGCAR_TEST_CONNECTS").ok().and_then(|n| n.parse().ok()).unwrap_or(50_000)
});
