//! Several machines and a real etcd between them: namespaces of `scripts/netns`, each with a
//! network and a runtime directory of its own. etcd has a machine to itself, so that cutting a
//! cable cuts one off and leaves the others.

#![forbid(unsafe_code)]

use crate::support::{
    App, DEADLINE, Load, Machines, Place, Process, Server, eventually, eventually_in, free_port,
    get, status_of,
};
use rustix::process::Signal;
use std::{
    fs,
    time::{Duration, Instant},
};

/// Of the two with sidecars.
const HERE: u8 = 1;
const THERE: u8 = 2;
/// One more.
const YONDER: u8 = 3;
const STORE: u8 = 4;

struct World {
    machines: Machines,
    etcd: Server,
    places: [Place; 3],
    lease: &'static str,
}

/// A sidecar of one of them, with its app.
struct Member {
    sidecar: Process,
    port: u16,
    metrics: u16,
    _app: App,
}

impl World {
    fn start(lease: &'static str) -> Option<Self> {
        let machines = Machines::start(STORE)?;
        let mut etcd = machines.on(STORE, || Server::etcd_at(Machines::address(STORE)))?;
        machines.on(STORE, || etcd.start());
        Some(Self { machines, etcd, places: std::array::from_fn(|_| Place::new()), lease })
    }

    fn place(&self, machine: u8) -> &Place {
        &self.places[usize::from(machine) - 1]
    }

    fn sidecar(&self, machine: u8, id: &str) -> Member {
        let place = self.place(machine);
        let text = format!(
            "kind: Configuration\nspec:\n  nameResolution:\n    component: etcd\n    configuration: {{endpoints: '{}', leaseTTL: {}}}\n",
            self.etcd.url(),
            self.lease
        );
        let path = place.path().join("config.yaml");
        fs::write(&path, text).unwrap();
        self.machines.on(machine, || {
            let app = App::start();
            let metrics = free_port();
            let flags =
                [format!("--config={}", path.display()), format!("--metrics-port={metrics}")];
            let flags = flags.each_ref().map(String::as_str);
            let (sidecar, port) = place.sidecar(id, Some(app.port), &flags);
            Member { sidecar, port, metrics, _app: app }
        })
    }

    /// What a caller on this machine is answered.
    fn call(&self, machine: u8, from: &Member, id: &str) -> u16 {
        let (port, path) = (from.port, invoke(id));
        self.machines.on(machine, || status_of(port, &path))
    }

    fn is_unknown(&self, machine: u8, from: &Member, id: &str) -> bool {
        let port = from.port;
        let answer = self.machines.on(machine, || get(port, &invoke(id)));
        answer.status == 500 && answer.body.contains("couldn't find service")
    }

    #[track_caller]
    fn until_known(&self, machine: u8, from: &Member, id: &str) {
        eventually("the app is known", || self.call(machine, from, id) == 200);
    }

    fn load(&self, machine: u8, from: &Member, id: &str) -> Load {
        let port = from.port;
        self.machines.on(machine, || Load::start(port, id, true))
    }

    /// A gauge of the registry etcd.
    fn gauge(&self, machine: u8, of: &Member, name: &str) -> f64 {
        let port = of.metrics;
        let page = self.machines.on(machine, || get(port, "/")).body;
        let start = format!("ringcar_registry_{name}{{registry=\"etcd\"}} ");
        let line = page.lines().find_map(|line| line.strip_prefix(&start));
        line.unwrap_or_else(|| panic!("no {start} in {page}")).parse().unwrap()
    }

    fn row_count(&self) -> u64 {
        let etcd = &self.etcd;
        self.machines.on(STORE, || etcd.row_count())
    }

    /// All its processes at once, without a word to anybody.
    fn kill(&self, machine: u8, member: Member) {
        let data_planes = self.place(machine).data_planes();
        member.sidecar.kill();
        for pid in data_planes {
            let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
            rustix::process::kill_process(pid, Signal::KILL).unwrap();
        }
    }
}

fn invoke(id: &str) -> String {
    format!("/v1.0/invoke/{id}/method/x")
}

#[test]
fn machines_call_each_other_and_do_without_one_that_died() {
    let Some(world) = World::start("10s") else { return };
    let (alpha, beta) = (world.sidecar(HERE, "alpha"), world.sidecar(THERE, "beta"));
    let shared = [world.sidecar(THERE, "shared"), world.sidecar(YONDER, "shared")];
    world.until_known(HERE, &alpha, "beta");
    world.until_known(THERE, &beta, "alpha");
    world.until_known(HERE, &alpha, "shared");
    eventually("both instances are known", || world.gauge(HERE, &alpha, "rows") == 4.0);
    let load = world.load(HERE, &alpha, "shared");
    load.goes_on(100);

    // One of two machines dies: who calls does not notice, and its rows go with their leases.
    let [there, yonder] = shared;
    drop(beta.sidecar);
    world.kill(THERE, there);
    let killed = Instant::now();
    load.goes_on(100);
    eventually_in(2 * DEADLINE, "its rows are gone", || world.gauge(HERE, &alpha, "rows") == 2.0);
    println!("the rows of a dead machine were gone after {:?}", killed.elapsed());
    assert!(world.is_unknown(HERE, &alpha, "beta"));
    load.goes_on(100);

    // It comes back, and the other one says goodbye: at once, not with its lease.
    let _again = world.sidecar(THERE, "shared");
    eventually("it is known again", || world.gauge(HERE, &alpha, "rows") == 3.0);
    yonder.sidecar.signal(Signal::TERM);
    let told = Instant::now();
    assert_eq!(yonder.sidecar.wait().code, 0);
    eventually("its row is gone", || world.gauge(HERE, &alpha, "rows") == 2.0);
    assert!(told.elapsed() < Duration::from_secs(10), "no lease ended: {:?}", told.elapsed());
    load.goes_on(100);
    println!("{} calls", load.assert_none_failed());
}

#[test]
fn calls_go_on_while_etcd_is_started_again_or_gone_for_longer_than_a_lease() {
    let Some(mut world) = World::start("2s") else { return };
    let (alpha, _beta) = (world.sidecar(HERE, "alpha"), world.sidecar(THERE, "beta"));
    world.until_known(HERE, &alpha, "beta");
    let load = world.load(HERE, &alpha, "beta");
    for _ in 0..3 {
        world.etcd.stop();
        eventually("that is noticed", || world.gauge(HERE, &alpha, "up") == 0.0);
        load.goes_on(100);
        let World { machines, etcd, .. } = &mut world;
        machines.on(STORE, || etcd.start());
        eventually("it is back", || world.gauge(HERE, &alpha, "up") == 1.0);
    }
    // The watch goes on: what comes now is heard of.
    let _gamma = world.sidecar(THERE, "gamma");
    world.until_known(HERE, &alpha, "gamma");

    world.etcd.stop();
    eventually("longer than a lease", || world.gauge(HERE, &alpha, "table_age_seconds") > 3.0);
    assert_eq!(world.call(HERE, &alpha, "gamma"), 200);
    world.etcd.forget();
    let World { machines, etcd, .. } = &mut world;
    machines.on(STORE, || etcd.start());
    // Nothing is left of what was registered: all of it is registered again.
    eventually("it is back", || world.gauge(HERE, &alpha, "up") == 1.0);
    eventually("all rows are there", || world.row_count() == 3);
    eventually("they are known", || world.gauge(HERE, &alpha, "rows") == 3.0);
    assert_eq!(world.gauge(HERE, &alpha, "table_age_seconds"), 0.0);
    let fresh = world.sidecar(YONDER, "fresh");
    world.until_known(YONDER, &fresh, "beta");
    println!("{} calls", load.assert_none_failed());
}

#[test]
fn a_machine_that_was_cut_off_learns_what_it_missed() {
    let Some(world) = World::start("2s") else { return };
    let mut alpha = world.sidecar(HERE, "alpha");
    let _here = world.sidecar(HERE, "neighbour");
    let (beta, gamma) = (world.sidecar(THERE, "beta"), world.sidecar(THERE, "gamma"));
    world.until_known(HERE, &alpha, "beta");
    world.until_known(HERE, &alpha, "gamma");
    world.until_known(THERE, &beta, "alpha");
    let load = world.load(HERE, &alpha, "neighbour");

    world.machines.cut(HERE);
    // The others lose it with its lease; it keeps what it knew.
    eventually("it is gone for others", || world.gauge(THERE, &beta, "rows") == 2.0);
    assert!(world.is_unknown(THERE, &beta, "alpha"));
    gamma.sidecar.signal(Signal::TERM);
    assert_eq!(gamma.sidecar.wait().code, 0);
    let _delta = world.sidecar(THERE, "delta");
    world.until_known(THERE, &beta, "delta");
    world.machines.on(STORE, || world.etcd.compact());
    eventually_in(2 * DEADLINE, "it knows that it is cut off", || {
        world.gauge(HERE, &alpha, "up") == 0.0
    });
    assert!(!world.is_unknown(HERE, &alpha, "neighbour"));
    load.goes_on(100);

    world.machines.join(HERE);
    alpha.sidecar.wait_for("compacted");
    world.until_known(HERE, &alpha, "delta");
    assert!(world.is_unknown(HERE, &alpha, "gamma"));
    world.until_known(THERE, &beta, "alpha");
    println!("{} calls", load.assert_none_failed());
    alpha.sidecar.signal(Signal::TERM);
    let said = alpha.sidecar.wait().output;
    assert_eq!(said.matches("the apps known so far stay reachable").count(), 1, "{said}");
}

#[test]
fn an_engine_that_is_nowhere_to_be_found_keeps_nobody_from_serving() {
    let Some(world) = World::start("2s") else { return };
    world.machines.cut(HERE);
    let mut alpha = world.sidecar(HERE, "alpha");
    let _here = world.sidecar(HERE, "neighbour");
    world.until_known(HERE, &alpha, "neighbour");
    alpha.sidecar.wait_for("the apps known so far stay reachable");
    assert_eq!(world.gauge(HERE, &alpha, "up"), 0.0);
    let beta = world.sidecar(THERE, "beta");
    world.machines.join(HERE);
    eventually_in(2 * DEADLINE, "they meet", || world.call(HERE, &alpha, "beta") == 200);
    world.until_known(THERE, &beta, "alpha");
    alpha.sidecar.signal(Signal::TERM);
    let said = alpha.sidecar.wait().output;
    assert_eq!(said.matches("the apps known so far stay reachable").count(), 1, "{said}");
}
