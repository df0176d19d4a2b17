//! Unmodified clients of one machine at one `localhost:3500`, steered, identified and policed by
//! programs in the kernel. Needs root and cgroup v2; where they are missing the tests say so and
//! pass.

#![forbid(unsafe_code)]

use crate::support::{
    App, DEADLINE, Place, Process, eventually, free_port, skipped, status_of, try_call,
};
use ebpf_loader::probe::{self, Ability};
use rustix::process::Signal;
use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

/// Control groups of the test's own, where the programs are attached and nowhere else.
struct Groups {
    root: PathBuf,
    name: String,
}

impl Groups {
    fn new(place: &Place) -> Option<Self> {
        let skip = |reason: &str| {
            skipped(reason);
            None
        };
        if !rustix::process::geteuid().is_root() {
            return skip("it takes root");
        }
        // As in most containers, whose root may not.
        for Ability { name, state, .. } in probe::abilities() {
            match state {
                probe::State::There => {}
                probe::State::Missing => return skip(&format!("the kernel has no {name}")),
                probe::State::Unknown(reason) => return skip(&format!("{name}: {reason}")),
            }
        }
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let mut lines = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let Some(mount) = lines.find(|fields| fields[2] == "cgroup2") else {
            return skip("there is no cgroup v2");
        };
        let name = place.path().file_name().unwrap().to_str().unwrap().to_owned();
        let root = Path::new(mount[1]).join(&name);
        match fs::create_dir(&root) {
            Ok(()) => Some(Self { root, name }),
            Err(e) => skip(&format!("{}: {e}", root.display())),
        }
    }

    /// The command in a group, which is made for it.
    fn command(&self, group: &str, program: &Command) -> Command {
        let directory = self.root.join(group);
        fs::create_dir_all(&directory).unwrap();
        let mut command = Command::new("sh");
        let script = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", directory.display());
        command.args(["-c", &script, "sh"]).arg(program.get_program()).args(program.get_args());
        command.envs(program.get_envs().filter_map(|(key, value)| Some((key, value?))));
        for (name, value) in program.get_envs() {
            if value.is_none() {
                command.env_remove(name);
            }
        }
        command
    }

    /// The node's file; gives its path.
    fn write(&self, place: &Place, apps: &str) -> PathBuf {
        let file = place.path().join("node.yaml");
        let text = format!(
            "name: {name}\nenable-metrics: false\nsteering: on\nsteering-cgroup: /{name}\n\
             defaults: {{listen-addresses: 127.0.0.1, http-port: 0}}\napps:\n{apps}",
            name = self.name,
        );
        fs::write(&file, text).unwrap();
        file
    }

    fn node(&self, place: &Place, apps: &str) -> Process {
        let file = self.write(place, apps);
        let ringcar = place.ringcar(&["node", "--config", file.to_str().unwrap()]);
        Process::start(self.command("node", &ringcar).current_dir(place.path()))
    }

    /// What an unmodified client in this group gets: curl's exit code, and its output.
    fn curl(&self, group: &str, url: &str) -> (i32, String) {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--max-time", "10", url]);
        let output = self.command(group, &curl).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    }

    /// As `ringcar ebpf status` tells it.
    fn is_attached(&self, place: &Place) -> bool {
        place.finish(&["ebpf", "status", "-o", "json"]).output.contains(&self.name)
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        let pinned = fs::read_dir("/sys/fs/bpf/ringcar").into_iter().flatten().flatten();
        let is_ours = |path: &PathBuf| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&self.name))
        };
        for pins in pinned.map(|entry| entry.path()).filter(is_ours) {
            let _ = fs::remove_dir_all(pins);
        }
        remove(&self.root);
    }
}

/// Their processes were ended, which the kernel takes a moment to notice.
fn remove(group: &Path) {
    for inner in fs::read_dir(group).into_iter().flatten().flatten() {
        if inner.path().is_dir() {
            remove(&inner.path());
        }
    }
    for _ in 0..1000 {
        if fs::remove_dir(group).is_ok() || !group.exists() {
            return;
        }
        std::thread::yield_now();
    }
}

fn api_port(place: &Place, id: &str) -> u16 {
    let rows = place.finish(&["node", "list", "-o", "json"]).output;
    let rows: serde_json::Value = serde_json::from_str(&rows).unwrap();
    let row = rows.as_array().unwrap().iter().find(|row| row["id"] == id).unwrap();
    row["api"].as_str().unwrap().rsplit(':').next().unwrap().parse().unwrap()
}

const METADATA: &str = "http://localhost:3500/v1.0/metadata";
const CHECKOUT: &str = "http://localhost:3500/v1.0/invoke/checkout/method/x";

#[test]
fn two_unmodified_apps_share_one_address_and_are_told_apart() {
    let place = Place::new();
    let Some(groups) = Groups::new(&place) else { return };
    let checkout = App::start();
    let apps = format!(
        "- {{id: orders, cgroup: /{0}/orders}}\n- {{id: checkout, cgroup: /{0}/checkout, address: {1}, \
         direct: deny}}\n",
        groups.name, checkout.port
    );
    for group in ["orders", "checkout", "stranger"] {
        fs::create_dir(groups.root.join(group)).unwrap();
    }
    let mut node = groups.node(&place, &apps);
    node.wait_for("Node ");
    eventually("orders is identified", || groups.curl("orders", METADATA).0 == 0);
    for id in ["orders", "checkout"] {
        let (code, metadata) = groups.curl(id, METADATA);
        assert_eq!(code, 0, "{metadata}");
        assert!(metadata.contains(&format!("\"id\":\"{id}\"")), "{metadata}");
        eventually("checkout is called", || groups.curl(id, CHECKOUT).1 == "/x ");
        let head = checkout.request_for("/x").to_ascii_lowercase();
        let caller = format!("dapr-caller-app-id: {id}");
        assert!(id == "checkout" || head.contains(&caller), "{head}");
    }

    // Who is no app finds no sidecar, and no way into another's, whatever it says of itself.
    let (code, text) = groups.curl("stranger", METADATA);
    assert_eq!(code, 7, "nobody listens at 3500: {text}");
    let orders_api = api_port(&place, "orders");
    let own_port = format!("http://127.0.0.1:{orders_api}/v1.0/metadata");
    assert_eq!(groups.curl("orders", &own_port).0, 0);
    for group in ["checkout", "stranger"] {
        let (code, text) = groups.curl(group, &own_port);
        assert_eq!(code, 7, "{group}: {text}");
    }
    // Beyond the programs' reach the kernel has no word for it, and the data plane wants one.
    let forged = ["dapr-caller-app-id: orders"];
    let answer = try_call(orders_api, "GET /v1.0/metadata", &forged, "");
    assert!(answer.is_err(), "{answer:?}");

    // Round the sidecar there is no way either, except for the data plane.
    let (code, text) = groups.curl("orders", &format!("http://127.0.0.1:{}/x", checkout.port));
    assert_eq!(code, 7, "{text}");
    let finished = place.finish(&["deny-log", "-o", "json"]);
    let rows: serde_json::Value = serde_json::from_str(&finished.output).unwrap();
    let last = rows.as_array().unwrap().last().unwrap();
    assert_eq!(last["caller"], "default/orders", "{last}");
    assert_eq!(last["callee"], "default/checkout", "{last}");
    assert_eq!(last["command"], "curl", "{last}");
    assert_eq!(last["reason"], "direct connections are denied", "{last}");
    assert_eq!(groups.curl("orders", CHECKOUT).1, "/x ", "by the sidecar there is");

    // A change of the file is in force when the command returns.
    let exceptions = [("direct: allow", 0), ("direct: deny", 7), ("direct-allow: orders", 0)];
    for (policy, want) in exceptions {
        groups.write(&place, &apps.replace("direct: deny", policy));
        let finished = place.finish(&["node", "reload"]);
        assert_eq!(finished.code, 0, "{}", finished.output);
        let (code, text) = groups.curl("orders", &format!("http://127.0.0.1:{}/x", checkout.port));
        assert_eq!(code, want, "{policy}: {text}");
    }

    // What loading took is given up.
    for pid in [node.pid(), place.data_planes()[0]] {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        for set in ["CapPrm:", "CapEff:", "CapBnd:"] {
            let line = status.lines().find_map(|line| line.strip_prefix(set)).unwrap();
            let held = u64::from_str_radix(line.trim(), 16).unwrap();
            assert_eq!(held & (1 << 12 | 1 << 21 | 1 << 39), 0, "{set} of process {pid}");
        }
    }

    assert!(groups.is_attached(&place));
    node.signal(Signal::TERM);
    let finished = node.wait();
    assert_eq!(finished.code, 0, "{}", finished.output);
    assert!(!groups.is_attached(&place), "a node that ends leaves nothing attached");
    let left = fs::read_dir(groups.root.join("node")).unwrap().flatten();
    let left: Vec<_> = left.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn what_goes_round_the_sidecar_is_taken_in_by_it() {
    let place = Place::new();
    let Some(groups) = Groups::new(&place) else {
        return;
    };
    for group in ["orders", "other", "checkout", "stranger"] {
        fs::create_dir(groups.root.join(group)).unwrap();
    }
    let checkout = App::start();
    let access = place.path().join("access.yaml");
    let text = "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: c}\nspec:\n  \
                accessControl:\n    defaultAction: deny\n    policies:\n    - {appId: orders, \
                defaultAction: allow, trustDomain: public, namespace: default}\n";
    fs::write(&access, text).unwrap();
    let apps = format!(
        "- {{id: orders, cgroup: /{0}/orders}}\n- {{id: other, cgroup: /{0}/other}}\n- {{id: checkout, \
         cgroup: /{0}/checkout, address: {1}, direct: redirect, configuration: [{2}]}}\n",
        groups.name,
        checkout.port,
        access.display()
    );
    let mut node = groups.node(&place, &apps);
    node.wait_for("Node ");
    let direct = format!("http://localhost:{}/a/b?c=d", checkout.port);
    eventually("orders comes through", || groups.curl("orders", &direct).1 == "/a/b?c=d ");
    let head = checkout.request_for("/a/b?c=d").to_ascii_lowercase();
    assert!(head.contains("dapr-caller-app-id: orders"), "as if it had come by invoke: {head}");
    assert!(head.contains("dapr-callee-app-id: checkout"), "{head}");

    for group in ["other", "stranger"] {
        let (code, text) = groups.curl(group, &direct);
        assert_eq!(code, 0, "{text}");
        assert!(text.contains("ERR_DIRECT_INVOKE"), "access control judges {group}: {text}");
        assert!(text.contains("PermissionDenied"), "access control judges {group}: {text}");
    }
    // Its own processes go straight to it.
    assert_eq!(groups.curl("checkout", &direct).1, "/a/b?c=d ");
    let head = checkout.request_for("/a/b?c=d").to_ascii_lowercase();
    assert!(!head.contains("dapr-caller-app-id"), "{head}");
    node.signal(Signal::TERM);
    assert_eq!(node.wait().code, 0);
}

/// Only an app that nobody looks for is found late, so it is looked for by the kernel's word alone.
#[test]
fn an_app_is_ready_when_it_listens_and_not_when_it_ceases() {
    let place = Place::new();
    let Some(groups) = Groups::new(&place) else { return };
    fs::create_dir(groups.root.join("orders")).unwrap();
    let port = free_port();
    let apps = format!("- {{id: orders, cgroup: /{}/orders, address: {port}}}\n", groups.name);
    let mut node = groups.node(&place, &apps);
    node.wait_for("Node ");
    let health = "http://localhost:3500/v1.0/healthz";
    let is_ready = || groups.curl("orders", &format!("{health}?x")).1.is_empty();
    eventually("the sidecar is there", || groups.curl("orders", health).0 == 0);
    for _ in 0..3 {
        assert!(!is_ready());
        let mut server = Command::new("python3");
        server.args(["-m", "http.server", "--bind", "127.0.0.1", &port.to_string()]);
        let server = Process::start(&mut groups.command("orders", &server));
        node.wait_for("application discovered on port");
        eventually("it is ready", is_ready);
        server.kill();
        node.wait_for("does not listen any more");
        eventually("it is not ready", || !is_ready());
    }
    node.signal(Signal::TERM);
    assert_eq!(node.wait().code, 0);
}

#[test]
fn control_may_die_and_come_back_and_be_told_to_let_go() {
    let place = Place::new();
    let Some(groups) = Groups::new(&place) else { return };
    let apps = format!("- {{id: orders, cgroup: /{}/orders}}\n", groups.name);
    fs::create_dir(groups.root.join("orders")).unwrap();
    let mut node = groups.node(&place, &apps);
    node.wait_for("Attached the programs");
    eventually("orders is identified", || groups.curl("orders", METADATA).0 == 0);
    let api = api_port(&place, "orders");
    node.kill();
    for _ in 0..3 {
        assert_eq!(groups.curl("orders", METADATA).0, 0, "programs and data plane serve on");
    }
    let mut node = groups.node(&place, &apps);
    node.wait_for("Took over the programs");
    node.wait_for("Node ");
    assert_eq!(groups.curl("orders", METADATA).0, 0);
    assert_eq!(api_port(&place, "orders"), api, "the data plane was adopted");

    // A group that is made anew has another id.
    let group = groups.root.join("orders");
    let before = fs::metadata(&group).unwrap().ino();
    remove(&group);
    fs::create_dir(&group).unwrap();
    assert_ne!(fs::metadata(&group).unwrap().ino(), before);
    eventually("the new group is known", || groups.curl("orders", METADATA).0 == 0);

    let finished = place.finish(&["node", "--detach"]);
    assert_eq!(finished.code, 0, "{}", finished.output);
    assert!(!groups.is_attached(&place));
    assert_eq!(groups.curl("orders", METADATA).0, 7, "nobody listens at 3500");
    assert_eq!(status_of(api, "/v1.0/metadata"), 200, "whoever reaches the API may use it");
    node.signal(Signal::TERM);
    assert_eq!(node.wait().code, 0);
}

/// Whoever is killed, each app reaches its own sidecar and no other, and none is refused: one of
/// the two processes always holds the sockets, and the programs hold out by themselves.
#[test]
fn either_process_may_be_killed_at_any_time() {
    let place = Place::new();
    let Some(groups) = Groups::new(&place) else {
        return;
    };
    let checkout = App::start();
    let apps = format!(
        "- {{id: orders, cgroup: /{0}/orders}}\n- {{id: checkout, cgroup: /{0}/checkout, address: {1}, \
         direct: deny}}\n",
        groups.name, checkout.port
    );
    for group in ["orders", "checkout", "stranger"] {
        fs::create_dir(groups.root.join(group)).unwrap();
    }
    let mut node = groups.node(&place, &apps);
    node.wait_for("Node ");
    eventually("orders is identified", || groups.curl("orders", METADATA).0 == 0);
    let direct = format!("http://127.0.0.1:{}/x", checkout.port);
    let mut node = Some(node);
    let is_over = AtomicBool::new(false);
    let calls = [AtomicUsize::new(0), AtomicUsize::new(0)];
    let are_enough = || calls.iter().all(|calls| calls.load(Ordering::Relaxed) > 10);
    std::thread::scope(|scope| {
        // Also when this thread fails, which would wait for the others else.
        let _end = OnDrop(|| is_over.store(true, Ordering::Relaxed));
        for (id, calls) in ["orders", "checkout"].into_iter().zip(&calls) {
            let (groups, is_over, direct) = (&groups, &is_over, &direct);
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    let (code, text) = groups.curl(id, METADATA);
                    // What was in flight is lost with the process that carried it.
                    let is_lost = matches!(code, 52 | 56);
                    assert!(code == 0 || is_lost, "{id}: {code}: {text}");
                    assert!(is_lost || text.contains(&format!("\"id\":\"{id}\"")), "{id}: {text}");
                    if id == "orders" {
                        let (code, text) = groups.curl(id, direct);
                        assert_eq!(code, 7, "denied, whoever lives: {text}");
                    }
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let seconds = std::env::var("RINGCAR_TEST_SECONDS").ok().and_then(|n| n.parse().ok());
        let until = Instant::now() + Duration::from_secs(seconds.unwrap_or(4));
        while Instant::now() < until || !are_enough() && Instant::now() < until + DEADLINE {
            let plane = place.data_planes()[0];
            let pid = rustix::process::Pid::from_raw(plane.cast_signed()).unwrap();
            rustix::process::kill_process(pid, Signal::KILL).unwrap();
            eventually("a data plane is there again", || {
                place.data_planes().first().is_some_and(|new| *new != plane)
                    && groups.curl("orders", METADATA).0 == 0
            });
            // The old one ends before the next begins.
            if let Some(old) = node.take() {
                old.kill();
            }
            node.insert(groups.node(&place, &apps)).wait_for("Node ");
        }
    });
    assert!(are_enough(), "{calls:?}");
    let node = node.unwrap();
    node.signal(Signal::TERM);
    assert_eq!(node.wait().code, 0);
}

/// Does something at the end of a block, however that comes about.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[test]
fn a_node_says_in_one_line_what_it_lacks() {
    let place = Place::new();
    let file = place.path().join("node.yaml");
    let text = "name: lacking\nenable-metrics: false\nsteering-cgroup: /no/such/group\n\
                defaults: {listen-addresses: 127.0.0.1, http-port: 0}\n\
                apps: [{id: orders, cgroup: /none}]\n";
    fs::write(&file, text).unwrap();
    let mut node = place.start(&["node", "--config", file.to_str().unwrap()]);
    let line = node.wait_for("Steering is off");
    assert!(line.contains("Apps must call their sidecar by its own port"), "{line}");
    node.wait_for("Node lacking serves 1 apps");
    let port = api_port(&place, "orders");
    assert_eq!(status_of(port, "/v1.0/metadata"), 200, "everything else works");
    node.signal(Signal::TERM);
    assert_eq!(node.wait().code, 0);

    fs::write(&file, text.replace("enable-metrics", "steering: on\nenable-metrics")).unwrap();
    let finished = place.finish(&["node", "--config", file.to_str().unwrap()]);
    assert_eq!(finished.code, 1);
    assert!(finished.output.contains("steering is to be on and cannot"), "{}", finished.output);
}
