//! Everything at once: callers that never pause, while controls are killed, etcd is started again
//! and again, instances come and go, and rows of rubbish with them.
//!
//! Two machines, `here` and `there`, share an etcd and nothing else (runtime directories of their
//! own, peers over TCP). What is called, each from two sidecars of `here`:
//!
//! ```text
//!   near       one instance here
//!   steady     one instance there; its control is killed every 200 ms, and so is that of caller-1
//!   flapping   three instances, here and there, of which one at a time is down
//! ```
//! An instance is a sidecar with its app. It goes gently (SIGTERM to the sidecar, then the app
//! ends) or at once (kill -9 of control and data plane, then the app), by turns, and comes back;
//! the next one goes when both callers have called the one before. So every app has an instance
//! that works and that its callers know, at any time.
//!
//! A call has failed when it is answered with another status than 200 or with another body than the
//! app's, when it cannot connect, when its connection ends or breaks, and when there is no answer
//! for ten seconds. None may. Half of the calls of `near` and `steady` are POSTs, those of
//! `flapping` are GETs: a request that may not be repeated cannot outlive an instance that took it
//! and died.
//!
//! Ten seconds, or as many as RINGCAR_CHAOS_SECONDS says; `scripts/test` takes a minute.

#![forbid(unsafe_code)]

use crate::support::{
    DEADLINE, Etcd, Load, MortalApp, Place, Process, Server, eventually, free_port, status_of,
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    env, fs,
    io::Write,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

const CALLERS: [&str; 2] = ["caller-1", "caller-2"];
const APPS: [&str; 3] = ["near", "steady", "flapping"];

/// Between two kills of the same control.
const KILL_PAUSE: Duration = Duration::from_millis(200);

/// How long etcd is there, and then not.
const ETCD_UP: Duration = Duration::from_millis(2000);
const ETCD_DOWN: Duration = Duration::from_millis(700);

/// Between two changes of the rows that lead nowhere.
const ROWS_PAUSE: Duration = Duration::from_millis(150);

/// Of one machine's sidecars.
struct Machine {
    place: Place,
    config: String,
}

impl Machine {
    fn new(etcd: &Server) -> Self {
        let place = Place::new();
        let text = format!(
            "kind: Configuration\nspec:\n  nameResolution:\n    component: etcd\n    configuration: {{endpoints: '{}'}}\n",
            etcd.url()
        );
        let path = place.path().join("config.yaml");
        fs::write(&path, text).unwrap();
        Self { place, config: format!("--config={}", path.display()) }
    }

    fn sidecar(&self, port: u16, id: &str, app: Option<&MortalApp>, more: &[&str]) -> Process {
        let loopback = "--dapr-internal-grpc-listen-address=127.0.0.1";
        let mut flags = vec![&self.config[..], loopback];
        flags.extend(more);
        self.place.sidecar_at(port, id, app.map(|app| app.port), &flags)
    }
}

/// A sidecar and its app.
struct Instance<'a> {
    machine: &'a Machine,
    id: &'static str,
    port: u16,
    sidecar: Process,
    app: MortalApp,
}

impl<'a> Instance<'a> {
    fn start(machine: &'a Machine, id: &'static str) -> Self {
        let (port, app) = (free_port(), MortalApp::start());
        let mut sidecar = machine.sidecar(port, id, Some(&app), &[]);
        sidecar.wait_for("dapr initialized. Status: Running.");
        Self { machine, id, port, sidecar, app }
    }

    fn end_gently(self) {
        self.sidecar.signal(Signal::TERM);
        let finished = self.sidecar.wait();
        assert_eq!(finished.code, 0, "{}", finished.output);
    }

    fn kill(self) {
        let data_plane = data_plane_of(&self.sidecar);
        self.sidecar.kill();
        kill_process(Pid::from_raw(data_plane).unwrap(), Signal::KILL).unwrap();
    }

    /// The same sidecar with another control.
    fn next_control(self) -> Self {
        self.sidecar.kill();
        let sidecar = self.machine.sidecar(self.port, self.id, Some(&self.app), &[]);
        Self { sidecar, ..self }
    }

    fn is_called_by_all(&self) -> bool {
        CALLERS.iter().all(|caller| self.app.calls_of(caller) > 0)
    }
}

/// Of a control that started it.
fn data_plane_of(sidecar: &Process) -> i32 {
    let children = format!("/proc/{0}/task/{0}/children", sidecar.pid());
    fs::read_to_string(children).unwrap().trim().parse().unwrap()
}

/// Until it is enough, something happens again and again; returns how often it did.
fn again_and_again(is_enough: &AtomicBool, pause: Duration, mut happens: impl FnMut()) -> u64 {
    let mut count = 0;
    while !is_enough.load(Ordering::Relaxed) {
        thread::sleep(pause);
        happens();
        count += 1;
    }
    count
}

/// Instances go and come back, one at a time; returns how often, and what is wrong with the last.
fn flap(is_enough: &AtomicBool, instances: &mut Vec<Instance<'_>>) -> (u64, Option<String>) {
    let mut count: u64 = 0;
    while !is_enough.load(Ordering::Relaxed) {
        let goes = instances.remove(0);
        let machine = goes.machine;
        if count.is_multiple_of(2) {
            goes.end_gently()
        } else {
            goes.kill()
        }
        let comes = Instance::start(machine, "flapping");
        let since = Instant::now();
        while !comes.is_called_by_all() {
            if since.elapsed() > 2 * DEADLINE {
                return (count, Some(format!("instance {count} was not called by all")));
            }
            thread::sleep(Duration::from_millis(5));
        }
        instances.push(comes);
        count += 1;
    }
    (count, None)
}

/// Rows that lead nowhere come and go: a port where nobody listens, another app's, rubbish.
fn disturb(etcd: &Etcd, rows: &mut u64, strangers_port: u16) {
    let (key, port) = match *rows % 3 {
        0 => ("nobody", free_port()),
        1 => ("stranger", strangers_port),
        _ => ("rubbish", 0),
    };
    *rows += 1;
    let key = format!("/ringcar/apps/default/flapping/{key}");
    let value = format!(
        "{{\"format\":1,\"id\":\"flapping\",\"namespace\":\"default\",\"instance\":\"{}\",\"address\":\"127.0.0.1:{port}\"}}",
        key.rsplit('/').next().unwrap()
    );
    // etcd may be away.
    let _ = match (*rows / 3).is_multiple_of(2) {
        true => etcd.try_put(&key, &value),
        false => etcd.try_delete(&key),
    };
}

/// Where others call `near`, as its log says.
fn peer_port(log_line: &str) -> u16 {
    let told = log_line.split("other machines are told 127.0.0.1:").nth(1).unwrap();
    told.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}

#[test]
fn no_call_fails_whatever_dies() {
    let Some(mut etcd) = Server::etcd() else { return };
    let seconds = env::var("RINGCAR_CHAOS_SECONDS").ok().and_then(|text| text.parse().ok());
    let seconds: u64 = seconds.unwrap_or(10);
    etcd.start();
    eventually("etcd answers", || etcd.is_ready());
    let (here, there) = (Machine::new(&etcd), Machine::new(&etcd));

    let near_app = MortalApp::start();
    let near_port = free_port();
    let mut near = here.sidecar(near_port, "near", Some(&near_app), &[]);
    let strangers_port = peer_port(&near.wait_for("other machines are told"));
    near.wait_for("dapr initialized. Status: Running.");
    let steady = Instance::start(&there, "steady");
    let flapping = [&here, &there, &there].map(|machine| Instance::start(machine, "flapping"));
    let ports = [free_port(), free_port()];
    let mut callers = [0, 1].map(|n| here.sidecar(ports[n], CALLERS[n], None, &[]));
    for (caller, port) in callers.iter_mut().zip(ports) {
        caller.wait_for("dapr initialized. Status: Running.");
        for id in APPS {
            let path = format!("/v1.0/invoke/{id}/method/x");
            eventually("the app is known", || status_of(port, &path) == 200);
        }
    }
    let mut loads: Vec<Load> = Vec::new();
    for port in ports {
        loads.extend(APPS.map(|id| Load::start(port, id, true)));
        loads.push(Load::start(port, "flapping", false));
        loads.extend(["near", "steady"].map(|id| Load::posting(port, id)));
    }
    eventually("all instances are called", || flapping.iter().all(Instance::is_called_by_all));
    let [first_caller, _second_caller] = callers;
    let data_planes = [&first_caller, &steady.sidecar].map(data_plane_of);

    let mut flapping = Vec::from(flapping);

    let is_enough = &AtomicBool::new(false);
    let gateway = etcd.gateway();
    let (kills, restarts, flaps, rows, mut controls) = thread::scope(|scope| {
        let callers_kills = scope.spawn(|| {
            let mut control = Some(first_caller);
            let kills = again_and_again(is_enough, KILL_PAUSE, || {
                control.take().unwrap().kill();
                control = Some(here.sidecar(ports[0], CALLERS[0], None, &[]));
            });
            (kills, control.unwrap())
        });
        let callees_kills = scope.spawn(|| {
            let mut instance = Some(steady);
            let kills = again_and_again(is_enough, KILL_PAUSE, || {
                instance = instance.take().map(Instance::next_control);
            });
            (kills, instance.unwrap())
        });
        let flaps = scope.spawn(|| flap(is_enough, &mut flapping));
        let rows = scope.spawn(|| {
            let mut rows = 0;
            again_and_again(is_enough, ROWS_PAUSE, || disturb(&gateway, &mut rows, strangers_port))
        });
        let restarts = scope.spawn(|| {
            again_and_again(is_enough, ETCD_UP, || {
                etcd.stop();
                thread::sleep(ETCD_DOWN);
                etcd.start();
            })
        });
        thread::sleep(Duration::from_secs(seconds));
        is_enough.store(true, Ordering::Relaxed);
        let (flaps, restarts) = (flaps.join().unwrap(), restarts.join().unwrap());
        let (callers, callees) = (callers_kills.join().unwrap(), callees_kills.join().unwrap());
        let controls = (callers.1, callees.1);
        (callers.0 + callees.0, restarts, flaps, rows.join().unwrap(), controls)
    });
    let calls: usize = loads.into_iter().map(Load::assert_none_failed).sum();
    let line = format!(
        "chaos: {calls} calls in {seconds} s, none failed; {kills} controls killed, etcd restarted {restarts} times, \
         {} instances went and came, {rows} rows changed\n",
        flaps.0
    );
    let _ = std::io::stderr().write_all(line.as_bytes());
    assert!(calls as u64 > 100 * seconds, "too few calls");
    assert!(kills > 4 * seconds, "too few kills");
    assert!(restarts >= seconds / 5, "too few restarts");
    assert_eq!(flaps.1, None);
    assert!(flaps.0 >= seconds / 10, "too few instances went");
    assert!(rows > seconds, "too few rows");
    for control in [&mut controls.0, &mut controls.1.sidecar] {
        control.wait_for("dapr initialized. Status: Running.");
    }
    for data_plane in data_planes {
        assert!(fs::exists(format!("/proc/{data_plane}")).unwrap(), "it served all the time");
    }
}
