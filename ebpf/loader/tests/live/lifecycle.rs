//! Who brought the programs may leave, and come back.

use crate::support::*;
use aya::{
    maps::{HashMap, Map, MapData, MapInfo, loaded_maps},
    programs::{ProgramInfo, loaded_programs},
};
use ebpf_loader::{
    Build, Kernel, Rule,
    common::{ANYBODY, Action, Counter, Endpoint, EventKind, Ip, PlaceKind},
    pins,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::{Duration, Instant},
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
    assert_eq!(
        (pinned[0].name.as_str(), pinned[0].maps.len()),
        ("test", ebpf_loader::common::MAPS.len())
    );
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

/// A later layout goes on with the maps that it has in common with the one before, and with the
/// connections that were dialled under it.
#[test]
fn another_layout_takes_over_what_is_alike() {
    let Some(room) = room("another_layout_takes_over_what_is_alike") else { return };
    let orders = room.group("orders");
    let mut plane = Agent::start(&room.group("plane"));
    let [api, held, last] = [0; 3].map(|_| plane.listen("127.0.0.1"));
    let mut kernel = room.kernel();
    let deny = rule(ANYBODY, CHECKOUT, Action::Deny);
    set_members(&mut kernel, [(&*orders, member(ORDERS, held))]);
    set_places(&mut kernel, [(any(api), place(CHECKOUT, PlaceKind::App, 0))]);
    kernel.rules.set([deny]).unwrap();
    kernel.attach().unwrap();
    // Dialled under the old programs, and asked for under the new ones.
    let mut agent = Agent::start(&orders);
    assert_eq!(agent.ask("connect 127.0.0.1 3500"), "127.0.0.1 3500");
    assert_eq!(agent.ask(&format!("connect 127.0.0.1 {api}")), "EPERM");
    assert!(kernel.tables.counter(Counter::Connects).unwrap() > 0);
    set_members(&mut kernel, [(&*orders, member(ORDERS, api))]);
    drop(kernel);

    plane.ask(&format!("serve {api}"));
    let mut dialer = Agent::start(&orders);
    dialer.say("storm 127.0.0.1 3500 5000");
    let storm = std::thread::spawn(move || dialer.answer());
    let maps = ebpf_loader::common::MAPS;
    for later in 1..=3 {
        let layout = ebpf_loader::common::LAYOUT + later;
        // What is counted, and how, is another one's in each.
        let since =
            maps.map(|(name, since)| (name, if name == "COUNTERS" { layout } else { since }));
        let build = Build { layout, maps: Vec::leak(since.to_vec()), ..Build::THIS };
        let mut kernel = Kernel::start_build(&room.start(), build).unwrap();
        assert!(!kernel.is_adopted());
        assert_eq!(kernel.tables.counter(Counter::Connects).unwrap(), 0, "made anew");
        set_members(&mut kernel, [(&*orders, member(ORDERS, api))]);
        kernel.attach().unwrap();
        let pinned = pins::list(&room.file_system);
        assert_eq!(
            (pinned[0].links.len(), pinned[0].maps.len()),
            (1, maps.len()),
            "nothing is left"
        );
        assert!(kernel.rules.set([deny]).unwrap(), "in force, by whoever's word");
    }
    assert_eq!(storm.join().unwrap(), "none", "there is no moment without programs");
    let told = format!("{} {ORDERS} {}", id(&orders), agent.pid());
    assert_eq!(plane.ask(&format!("accept {held}")), told, "who dialled before is known still");
    let came = plane.ask(&format!("came {api}"));
    assert!(came.starts_with(&format!("{} {ORDERS}: ", id(&orders))), "{came}");
    assert!(!came.contains(','), "each one was known: {came}");

    // Back to this build, whose maps are not those of a layout that it does not know.
    let mut kernel = room.kernel();
    set_members(&mut kernel, [(&*orders, member(ORDERS, last))]);
    kernel.attach().unwrap();
    assert_eq!(agent.ask("connect 127.0.0.1 3500"), "127.0.0.1 3500");
    assert_eq!(plane.ask(&format!("accept {last}")), told);
    assert_eq!(pins::list(&room.file_system)[0].maps.len(), maps.len());
    kernel.detach().unwrap();
    assert_eq!(pins::list(&room.file_system), []);
}

/// As `bpftool map list` and `bpftool prog list` would see it.
#[test]
fn nothing_is_left_in_the_kernel() {
    let Some(room) = room("nothing_is_left_in_the_kernel") else { return };
    let orders = room.group("orders");
    let mut plane = Agent::start(&room.group("plane"));
    let api = plane.listen("127.0.0.1");
    let mut kernel = room.kernel();
    set_members(&mut kernel, [(&*orders, member(ORDERS, api))]);
    kernel.attach().unwrap();
    let mut agent = Agent::start(&orders);
    agent.ask("connect 127.0.0.1 3500");
    let directory = pins::Pins::new(&room.file_system, "test").directory();
    let maps = directory.join(format!("maps-v{}", ebpf_loader::common::LAYOUT));
    let files = std::fs::read_dir(maps).unwrap().map(|file| file.unwrap().path());
    let ids: BTreeSet<u32> = files.map(|pin| MapInfo::from_pin(pin).unwrap().id()).collect();
    assert_eq!(ids.len(), ebpf_loader::common::MAPS.len());
    let maps_left = || loaded_maps().flatten().filter(|map| ids.contains(&map.id())).count();
    let uses_ours = |program: &ProgramInfo| {
        let used = program.map_ids().ok().flatten().unwrap_or_default();
        used.iter().any(|id| ids.contains(id))
    };
    let programs_left = || loaded_programs().flatten().filter(uses_ours).count();
    assert_eq!((maps_left(), programs_left()), (ids.len(), 6));
    kernel.detach().unwrap();
    // A connection that was steered lives on, and holds nothing; what is freed is freed when no
    // program can be running any more.
    let deadline = Instant::now() + Duration::from_secs(10);
    while (maps_left(), programs_left()) != (0, 0) {
        assert!(Instant::now() < deadline, "{} maps, {} programs", maps_left(), programs_left());
        std::thread::yield_now();
    }
    assert_eq!(agent.ask("connect 127.0.0.1 3500"), "ECONNREFUSED");
}

#[test]
fn ten_thousand_apps_have_room_and_leave_none_behind() {
    let name = "ten_thousand_apps_have_room_and_leave_none_behind";
    let Some(room) = room(name) else { return };
    let mut plane = Agent::start(&room.group("plane"));
    let apis: Vec<u16> = (0..SAMPLE).map(|_| plane.listen("127.0.0.1")).collect();
    let groups: Vec<_> = (0..SAMPLE).map(|n| room.group(&format!("app-{n}"))).collect();
    let mut kernel = Kernel::start(&room.start()).unwrap();
    let mut members: BTreeMap<_, _> =
        (0..APPS).map(|n| (1_000_000_000 + n, member(n + 1, 1))).collect();
    let sample = groups.iter().zip(&apis).zip(APPS..);
    members.extend(sample.map(|((group, api), n)| (id(group), member(n + 1, *api))));
    kernel.tables.set_members(&members).unwrap();
    let ports = 10_000..30_000_u16;
    let places = ports.map(|port| (any(port), place(u64::from(port), PlaceKind::App, 0)));
    kernel.tables.set_places(&places.collect()).unwrap();
    let address =
        |n: u64| Endpoint::new(Ip::v4((0xf052_0000 + u32::try_from(n).unwrap()).to_be()), 0);
    let names = (0..2 * APPS).map(|n| (address(n), format!("app-{n}.default")));
    kernel.tables.set_virtuals(&names.collect()).unwrap();
    let rules = (0..10 * APPS).map(|n| rule(n % APPS + 1, n / APPS + 1, Action::Deny));
    for _ in 0..2 {
        kernel.rules.set(rules.clone()).unwrap();
        kernel.rules.set([]).unwrap();
    }
    kernel.attach().unwrap();
    for (n, (group, api)) in (APPS..).zip(groups.iter().zip(&apis)) {
        let mut agent = Agent::start(group);
        assert_eq!(agent.ask("connect 127.0.0.1 3500"), "127.0.0.1 3500");
        let told = format!("{} {} {}", id(group), n + 1, agent.pid());
        assert_eq!(plane.ask(&format!("accept {api}")), told, "each one is who it is");
    }
    kernel.tables.set_members(&BTreeMap::new()).unwrap();
    kernel.tables.set_places(&BTreeMap::new()).unwrap();
    kernel.tables.set_virtuals(&BTreeMap::new()).unwrap();
    kernel.rules.set([rule(1, 2, Action::Deny)]).unwrap();
    kernel.rules.set([]).unwrap();
    drop(kernel);
    let directory = pins::Pins::new(&room.file_system, "test").directory();
    let maps = directory.join(format!("maps-v{}", ebpf_loader::common::LAYOUT));
    // One rule of the generation before may stay until the next change.
    for (map, most) in
        [("MEMBERS", 0), ("PLACES", 0), ("VIRTUALS", 0), ("NAMES", 0), ("FLOWS", 0), ("RULES", 1)]
    {
        assert!(entry_count(&maps.join(map)) <= most, "{map}");
    }
    assert!(pins::Pins::new(&room.file_system, "test").remove().unwrap());
}

/// Of a hash with whatever keys, as the kernel counts its memory: a walk over the keys.
fn entry_count(pin: &Path) -> usize {
    let data = MapData::from_pin(pin).unwrap();
    let key_bytes = data.info().unwrap().key_size();
    match key_bytes {
        4 => keys::<[u8; 4]>(data),
        8 => keys::<[u8; 8]>(data),
        20 => keys::<[u8; 20]>(data),
        24 => keys::<[u8; 24]>(data),
        48 => keys::<[u8; 48]>(data),
        other => panic!("no table has keys of {other} bytes"),
    }
}

fn keys<K: aya::Pod>(data: MapData) -> usize {
    let bytes = data.info().unwrap().value_size();
    let map = Map::HashMap(data);
    match bytes {
        4 => HashMap::<_, K, [u8; 4]>::try_from(map).unwrap().keys().count(),
        16 => HashMap::<_, K, [u8; 16]>::try_from(map).unwrap().keys().count(),
        24 => HashMap::<_, K, [u8; 24]>::try_from(map).unwrap().keys().count(),
        128 => HashMap::<_, K, [u8; 128]>::try_from(map).unwrap().keys().count(),
        other => panic!("no table has values of {other} bytes"),
    }
}

const fn rule(caller: u64, callee: u64, action: Action) -> Rule {
    Rule { caller, callee, action }
}

const APPS: u64 = 10_000;
const SAMPLE: usize = 8;
