//! Unmodified clients of one machine at one `localhost:3500`, steered, identified and policed by
//! programs in the kernel. Needs root and cgroup v2; where they are missing the tests say so and
//! pass.

#![forbid(unsafe_code)]

use crate::support::{
    App, DEADLINE, Place, Process, eventually, free_port, skipped, status_of, try_call,
};
use ebpf_loader::probe::{self, Ability};
use rustix::process::Signal;
use sha2::Digest;
use std::{
    fs,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

/// Control groups of the test's own, where the programs are attached and nowhere else.
pub(crate) struct Groups {
    pub(crate) root: PathBuf,
    pub(crate) name: String,
    /// What the names of all programs of this place end with.
    of_place: String,
}

impl Groups {
    pub(crate) fn new(place: &Place) -> Option<Self> {
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
            Ok(()) => {
                let run = place.path().join("run");
                let hash = sha2::Sha256::digest(run.as_os_str().as_bytes());
                let hash: String = hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
                Some(Self { root, name, of_place: format!("-{hash}") })
            }
            Err(e) => skip(&format!("{}: {e}", root.display())),
        }
    }

    /// The command in a group, which is made for it.
    pub(crate) fn command(&self, group: &str, program: &Command) -> Command {
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
        self.node_with(place, apps, &[])
    }

    pub(crate) fn node_with(&self, place: &Place, apps: &str, more: &[&str]) -> Process {
        let file = self.write(place, apps);
        let arguments = [&["node", "--config", file.to_str().unwrap()], more].concat();
        let ringcar = place.ringcar(&arguments);
        Process::start(self.command("node", &ringcar).current_dir(place.path()))
    }

    /// What an unmodified client in this group gets: curl's exit code, and its output.
    pub(crate) fn curl(&self, group: &str, url: &str) -> (i32, String) {
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

    /// The same of a sidecar, which has its app's name and its place's runtime directory's.
    fn is_attached_to(&self, place: &Place, app: &str) -> bool {
        let status = place.finish(&["ebpf", "status", "-o", "json"]).output;
        let rows: serde_json::Value = serde_json::from_str(&status).unwrap();
        let names = rows.as_array().unwrap().iter().map(|row| row["node"].as_str().unwrap());
        let of_ours =
            |name: &&str| name.starts_with(&format!("{app}-")) && name.ends_with(&self.of_place);
        names.filter(of_ours).count() == 1
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        let pinned = fs::read_dir("/sys/fs/bpf/ringcar").into_iter().flatten().flatten();
        let is_ours = |path: &PathBuf| {
            path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(&self.of_place))
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
    let mut follower = place.start(&["deny-log", "--follow", "-o", "json"]);
    let (code, text) = groups.curl("orders", &format!("http://127.0.0.1:{}/x", checkout.port));
    assert_eq!(code, 7, "{text}");
    let finished = place.finish(&["deny-log", "-o", "json"]);
    let rows: serde_json::Value = serde_json::from_str(&finished.output).unwrap();
    let last = rows.as_array().unwrap().last().unwrap();
    assert_eq!(last["caller"], "default/orders", "{last}");
    assert_eq!(last["callee"], "default/checkout", "{last}");
    assert_eq!(last["command"], "curl", "{last}");
    assert_eq!(last["reason"], "direct connections are denied", "{last}");
    let row = follower.wait_for("direct connections are denied");
    assert_eq!(serde_json::from_str::<serde_json::Value>(&row).unwrap(), *last);
    drop(follower);
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
    let page = free_port();
    let file = groups.write(&place, &apps);
    let text = fs::read_to_string(&file).unwrap();
    let metrics = format!("metrics-port: {page}");
    fs::write(&file, text.replace("enable-metrics: false", &metrics)).unwrap();
    let ringcar = place.ringcar(&["node", "--config", file.to_str().unwrap()]);
    let mut node = Process::start(groups.command("node", &ringcar).current_dir(place.path()));
    node.wait_for("Node ");
    let direct = format!("http://localhost:{}/a/b?c=d", checkout.port);
    eventually("orders comes through", || groups.curl("orders", &direct).1 == "/a/b?c=d ");
    let head = checkout.request_for("/a/b?c=d").to_ascii_lowercase();
    assert!(head.contains("dapr-caller-app-id: orders"), "as if it had come by invoke: {head}");
    assert!(head.contains("dapr-callee-app-id: checkout"), "{head}");

    // What a client says of itself is neither believed nor counted.
    let mut forger = Command::new("curl");
    forger.args(["--silent", "--max-time", "10", "-H", "dapr-caller-app-id: forged", &direct]);
    let output = groups.command("orders", &forger).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "/a/b?c=d ");
    let head = checkout.request_for("/a/b?c=d").to_ascii_lowercase();
    assert!(head.contains("dapr-caller-app-id: orders") && !head.contains("forged"), "{head}");
    let told = try_call(page, "GET /metrics", &[], "").unwrap().body;
    let received = |line: &&str| {
        line.starts_with("dapr_runtime_service_invocation_req_recv_total{")
            && line.contains("src_app_id=\"orders\"")
            && line.ends_with(" 2")
    };
    assert_eq!(told.lines().filter(received).count(), 1, "{told}");
    assert!(!told.contains("forged"), "{told}");

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

/// Programs that know nothing of a sidecar, and a hosts file that gives them names.
#[test]
fn whoever_knows_of_no_sidecar_is_taken_for_a_caller() {
    let place = Place::new();
    let Some(groups) = Groups::new(&place) else { return };
    let (checkout, hosts) = (App::start(), place.path().join("hosts"));
    let stands = App::start();
    fs::write(&hosts, "127.0.0.1 localhost\n").unwrap();
    let apps = |capture: &str| {
        format!(
            "- {{id: orders, cgroup: /{0}/orders, capture: {capture}}}\n\
             - {{id: plain, cgroup: /{0}/plain}}\n\
             - {{id: checkout, cgroup: /{0}/checkout, address: {1}, direct: deny}}\n",
            groups.name, checkout.port
        )
    };
    for group in ["orders", "plain", "checkout"] {
        fs::create_dir(groups.root.join(group)).unwrap();
    }
    let page = free_port();
    let node_keys = format!(
        "capture-hosts: {}\ncapture-names: ['checkout=127.0.0.1:{}']\nmetrics-port: {page}\n",
        hosts.display(),
        stands.port
    );
    let write = |capture: &str| {
        let file = groups.write(&place, &apps(capture));
        let text = fs::read_to_string(&file).unwrap();
        let text = text.replace("enable-metrics: false\n", &node_keys);
        fs::write(&file, text).unwrap();
        file
    };
    let file = write("shadow");
    let ringcar = place.ringcar(&["node", "--config", file.to_str().unwrap()]);
    let mut node = Process::start(groups.command("node", &ringcar).current_dir(place.path()));
    node.wait_for("Node ");
    eventually("orders is identified", || groups.curl("orders", METADATA).0 == 0);
    let finished = |group: &str, arguments: &[&str]| {
        let mut program = Command::new("unshare");
        let mount = format!("mount --bind {} /etc/hosts && exec \"$@\"", hosts.display());
        program.args(["--mount", "sh", "-c", &mount, "sh"]).args(arguments);
        let output = groups.command(group, &program).output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code().unwrap(), text)
    };
    let curl = ["curl", "--silent", "--show-error", "--max-time", "10"];

    // A shadow goes where it went, and is seen.
    let direct = format!("http://127.0.0.1:{}/direct", stands.port);
    assert_eq!(groups.curl("orders", &direct), (0, "/direct ".to_owned()));
    let head = stands.request_for("/direct").to_ascii_lowercase();
    assert!(!head.contains("dapr"), "{head}");
    let pairs = || {
        let answer = try_call(page, "GET /metrics", &[], "").unwrap();
        let lines = answer.body.lines().filter(|line| line.contains("ringcar_direct_connects"));
        lines.map(|line| format!("{line}\n")).collect::<String>()
    };
    let shadowed = "caller=\"default/orders\",callee=\"checkout\",end=\"shadowed\"} 1";
    assert!(pairs().contains(shadowed), "{}", pairs());
    assert!(!fs::read_to_string(&hosts).unwrap().contains("checkout"), "no name for a shadow");

    write("on");
    let reload = place.finish(&["node", "reload"]);
    assert_eq!(reload.code, 0, "{}", reload.output);
    // By the address that stands for it, and by names, with whatever port.
    for url in [
        format!("http://127.0.0.1:{}/a/b?c=d", stands.port),
        "http://checkout/a/b?c=d".to_owned(),
        "http://checkout:8080/a/b?c=d".to_owned(),
        "http://checkout.default/a/b?c=d".to_owned(),
    ] {
        let request =
            [&curl[..], &["--data", "some body", "-H", "dapr-app-id: nobody", &url]].concat();
        assert_eq!(finished("orders", &request), (0, "/a/b?c=d some body".to_owned()), "{url}");
        let head = checkout.request_for("/a/b?c=d").to_ascii_lowercase();
        assert!(head.starts_with("post "), "{head}");
        assert!(head.contains("dapr-caller-app-id: orders"), "by the kernel's word: {head}");
        let host = format!("host: 127.0.0.1:{}", checkout.port);
        assert!(head.contains(&host), "as in every call, where the app is: {head}");
        assert!(!head.contains("nobody"), "what it says plays no part: {head}");
    }
    let script = "import http.client\nc = http.client.HTTPConnection('checkout', timeout=10)\n\
                  for n in range(3):\n    c.request('PUT', f'/n/{n}', body=b'x' * 100000)\n    \
                  r = c.getresponse()\n    t = r.read()\n    \
                  assert (r.status, len(t)) == (200, 100005), (r.status, t[:99])\n\
                  print(c.sock.getpeername()[1])\n";
    assert_eq!(finished("orders", &["python3", "-c", script]), (0, "80\n".to_owned()));
    assert!(pairs().contains("end=\"captured\""), "{}", pairs());
    // Not by others, whether or not they have a sidecar; and round it there is no way still.
    checkout.take_calls();
    finished("plain", &[&curl[..4], &["1", "http://checkout/x"]].concat());
    assert_eq!(checkout.take_calls(), 0);
    let direct = format!("http://127.0.0.1:{}/x", checkout.port);
    assert_eq!(groups.curl("orders", &direct).0, 7);

    node.signal(Signal::TERM);
    assert_eq!(node.wait().code, 0);
    let bare = "127.0.0.1 localhost\n";
    assert_eq!(fs::read_to_string(&hosts).unwrap(), bare, "nothing is left");

    // When both processes were killed, names and programs are there for whoever cleans up.
    let mut node = Process::start(groups.command("node", &ringcar).current_dir(place.path()));
    node.wait_for("Node ");
    eventually("orders is served", || groups.curl("orders", METADATA).0 == 0);
    assert_ne!(fs::read_to_string(&hosts).unwrap(), bare);
    let plane = place.data_planes()[0];
    node.kill();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(plane.cast_signed()).unwrap(),
        Signal::KILL,
    )
    .unwrap();
    assert!(groups.is_attached(&place));
    let file = hosts.to_str().unwrap();
    let done = place.finish(&["ebpf", "uninstall", "--node", &groups.name, "--hosts", file]);
    assert_eq!(done.code, 0, "{}", done.output);
    assert!(!groups.is_attached(&place));
    assert_eq!(fs::read_to_string(&hosts).unwrap(), bare, "names go with the programs");
}

/// An app that listens at every address of the machine is guarded at those that come later, too.
#[test]
fn an_address_that_the_machine_gets_is_known_at_once() {
    let place = Place::new();
    let Some(groups) = Groups::new(&place) else { return };
    let Some(mut address) = Address::pick() else {
        skipped("it takes ip, of iproute2");
        return;
    };
    let (port, group) = (free_port(), "checkout");
    fs::create_dir(groups.root.join(group)).unwrap();
    let apps = format!(
        "- {{id: checkout, cgroup: /{0}/checkout, address: {port}, direct: deny}}\n",
        groups.name
    );
    let mut node = groups.node(&place, &apps);
    node.wait_for("Node ");
    let mut server = Command::new("python3");
    server.args(["-m", "http.server", "--bind", "0.0.0.0", &port.to_string()]);
    let _server = Process::start(&mut groups.command(group, &server));
    node.wait_for("application discovered on port");
    let loopback = format!("http://127.0.0.1:{port}/");
    assert_eq!(groups.curl("stranger", &loopback).0, 7);
    address.add();
    let url = format!("http://{}:{port}/", address.ip);
    eventually("it is denied there, too", || {
        let (code, text) = groups.curl("stranger", &url);
        code == 7 && place.finish(&["deny-log"]).output.contains(&address.ip) || {
            assert!(code == 0 || code == 7, "{code}: {text}");
            false
        }
    });
    node.signal(Signal::TERM);
    assert_eq!(node.wait().code, 0);
}

/// An address on loopback that goes with the test.
struct Address {
    ip: String,
    is_added: bool,
}

impl Address {
    fn pick() -> Option<Self> {
        let is_there = Command::new("ip").arg("-V").output().is_ok_and(|run| run.status.success());
        let [_, _, b, c] = std::process::id().to_be_bytes();
        is_there.then(|| Self { ip: format!("10.213.{b}.{c}"), is_added: false })
    }

    fn add(&mut self) {
        self.is_added = self.change("add");
        assert!(self.is_added);
    }

    fn change(&self, verb: &str) -> bool {
        let address = format!("{}/32", self.ip);
        let run = Command::new("ip").args(["address", verb, &address, "dev", "lo"]).status();
        run.is_ok_and(|status| status.success())
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        if self.is_added {
            self.change("del");
        }
    }
}

/// One app and its own sidecar, with the kernel's word for when it listens and who calls.
#[test]
fn a_sidecar_hears_of_its_app_and_keeps_others_from_it() {
    let place = Place::new();
    let Some(groups) = Groups::new(&place) else { return };
    for group in ["orders", "stranger"] {
        fs::create_dir(groups.root.join(group)).unwrap();
    }
    let (api, port) = (free_port().to_string(), free_port());
    let (root, app) = (format!("/{}", groups.name), format!("/{}/orders", groups.name));
    let port_text = port.to_string();
    let arguments = [
        &["sidecar", "--app-id", "orders", "--dapr-http-port", &api, "--app-port", &port_text][..],
        &["--dapr-listen-addresses", "127.0.0.1", "--enable-metrics=false"],
        &["--steering", "on", "--steering-cgroup", &root, "--app-cgroup", &app],
        &["--direct", "deny", "--direct-allow", "*others*"],
        // An app that only listens would not answer.
        &["--disable-init-endpoints", "config"],
    ]
    .concat();
    let ringcar = place.ringcar(&arguments);
    let mut sidecar = Process::start(groups.command("sidecar", &ringcar).current_dir(place.path()));
    sidecar.wait_for("Attached the programs");
    sidecar.wait_for("waiting on port");
    // The app itself says how long its sidecar took to know, by the time it listens.
    let mut flips = Vec::new();
    for _ in 0..*FLIPS {
        let mut program = Command::new("python3");
        program.args(["-c", include_str!("support/listens.py"), &port_text, "3500"]);
        let output = groups.command("orders", &program).output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(output.status.success(), "{text}");
        flips.push(text.trim().parse::<f64>().unwrap());
        sidecar.wait_for("application discovered on port");
        sidecar.wait_for("does not listen any more");
    }
    flips.sort_by(f64::total_cmp);
    eprintln!("from listen() to ready, in ms: {flips:?}");
    // Nobody polls, or the least of them would be some 100 ms.
    assert!(flips[0] < 50.0, "{flips:?}");

    let mut server = Command::new("python3");
    server.args(["-m", "http.server", "--bind", "127.0.0.1", &port_text]);
    let server = Process::start(&mut groups.command("orders", &server));
    sidecar.wait_for("application discovered on port");
    // Its API is its own, at the address that all sidecars have; and others get to it all the same.
    let (code, text) = groups.curl("orders", METADATA);
    assert_eq!(code, 0, "{text}");
    let (code, text) = groups.curl("stranger", &format!("http://127.0.0.1:{api}/v1.0/metadata"));
    assert_eq!(code, 7, "another's API: {text}");
    let direct = format!("http://127.0.0.1:{port}/");
    assert_eq!(groups.curl("stranger", &direct).0, 0, "excepted");
    drop(server);
    assert!(groups.is_attached_to(&place, "orders"));
    sidecar.signal(Signal::TERM);
    let finished = sidecar.wait();
    assert_eq!(finished.code, 0, "{}", finished.output);
    assert!(!groups.is_attached_to(&place, "orders"));
}

/// What goes round the sidecar of one app is taken in, and judged as if it had not.
#[test]
fn a_sidecar_takes_in_what_goes_round_it() {
    let place = Place::new();
    let Some(groups) = Groups::new(&place) else { return };
    for group in ["orders", "stranger"] {
        fs::create_dir(groups.root.join(group)).unwrap();
    }
    let app = App::start();
    let access = place.path().join("access.yaml");
    let text =
        "kind: Configuration\nmetadata: {name: c}\nspec: {accessControl: {defaultAction: allow}}\n";
    let write = |action: &str| fs::write(&access, text.replace("allow", action)).unwrap();
    write("allow");
    let (api, port) = (free_port().to_string(), app.port.to_string());
    let (root, group) = (format!("/{}", groups.name), format!("/{}/orders", groups.name));
    let arguments = [
        &["sidecar", "--app-id", "orders", "--dapr-http-port", &api, "--app-port", &port][..],
        &["--dapr-listen-addresses", "127.0.0.1", "--enable-metrics=false"],
        &["--steering", "on", "--steering-cgroup", &root, "--app-cgroup", &group],
        &["--direct", "redirect", "--config", access.to_str().unwrap()],
    ]
    .concat();
    let ringcar = place.ringcar(&arguments);
    let mut sidecar = Process::start(groups.command("sidecar", &ringcar).current_dir(place.path()));
    sidecar.wait_for("application discovered on port");
    let direct = format!("http://127.0.0.1:{port}/a/b?c=d");
    assert_eq!(groups.curl("stranger", &direct), (0, "/a/b?c=d ".to_owned()));
    let head = app.request_for("/a/b?c=d").to_ascii_lowercase();
    assert!(head.contains("traceparent: "), "it came through the sidecar: {head}");
    assert_eq!(groups.curl("orders", &direct), (0, "/a/b?c=d ".to_owned()));
    let head = app.request_for("/a/b?c=d").to_ascii_lowercase();
    assert!(!head.contains("traceparent"), "its own processes go straight: {head}");

    write("deny");
    eventually("strangers are refused", || {
        groups.curl("stranger", &direct).1.contains("PermissionDenied")
    });
    sidecar.signal(Signal::TERM);
    assert_eq!(sidecar.wait().code, 0);
    assert_eq!(groups.curl("stranger", &direct), (0, "/a/b?c=d ".to_owned()), "as before");
}

/// Times that an app listens in the test; `RINGCAR_TEST_FLIPS=100` measures.
static FLIPS: std::sync::LazyLock<usize> = std::sync::LazyLock::new(|| {
    std::env::var("RINGCAR_TEST_FLIPS").ok().and_then(|n| n.parse().ok()).unwrap_or(5)
});

/// Ends the other threads also when this one fails.
fn kill_plane(place: &Place, serves: impl Fn() -> bool) {
    let plane = place.data_planes()[0];
    let pid = rustix::process::Pid::from_raw(plane.cast_signed()).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
    eventually("a data plane is there again", || {
        place.data_planes().first().is_some_and(|new| *new != plane) && serves()
    });
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
    let calls = [const { AtomicUsize::new(0) }; 2];
    let are_enough = || calls.iter().all(|calls| calls.load(Ordering::Relaxed) > 10);
    // Printed when the test fails, and enough to do the same again.
    let mut draw = std::process::id();
    eprintln!("drawn from {draw}");
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
        // On a busy machine it takes longer until there is something to judge.
        while Instant::now() < until || !are_enough() && Instant::now() < until + DEADLINE {
            draw = draw.wrapping_mul(0x0019_660d).wrapping_add(0x3c6e_f35f);
            let (kills_plane, kills_control) = [(true, false), (false, true), (true, true)]
                [usize::try_from(draw >> 16).unwrap() % 3];
            if kills_plane {
                kill_plane(&place, || groups.curl("orders", METADATA).0 == 0);
            }
            if kills_control {
                // The old one ends before the next begins.
                if let Some(old) = node.take() {
                    old.kill();
                }
                node.insert(groups.node(&place, &apps)).wait_for("Node ");
            }
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

#[test]
fn a_sidecar_polls_where_the_kernel_does_not_tell() {
    let place = Place::new();
    let asked = ["--app-cgroup", "/none", "--steering-cgroup", "/no/such/group"];
    let (http_port, app_port) = (free_port(), free_port());
    let mut sidecar = place.sidecar_at(http_port, "orders", Some(app_port), &asked);
    let line = sidecar.wait_for("Steering is off");
    assert!(line.contains("ports of apps are polled"), "{line}");
    sidecar.wait_for("waiting on port");
    let _app = App::start_on(app_port);
    sidecar.wait_for("dapr initialized. Status: Running.");
    assert_eq!(status_of(http_port, "/v1.0/metadata"), 200, "and its API is anybody's");
    sidecar.signal(Signal::TERM);
    assert_eq!(sidecar.wait().code, 0);

    let on = [&asked[..], &["--steering", "on"]].concat();
    let finished = place.sidecar_at(http_port, "orders", Some(app_port), &on).wait();
    assert_eq!(finished.code, 1);
    assert!(finished.output.contains("steering is to be on and cannot"), "{}", finished.output);
    for (flag, value, want) in [
        ("--steering", "maybe", "is none of auto, on and off"),
        ("--direct", "perhaps", "is none of allow, redirect and deny"),
        ("--app-cgroup", "orders", "is no path of a control group"),
        ("--capture-names", "a.b.c", "is neither an app id nor id.namespace"),
    ] {
        let finished = place.sidecar_at(http_port, "orders", None, &[flag, value]).wait();
        assert_eq!(finished.code, 1, "{flag}");
        // The log quotes what it quotes.
        let told = finished.output.replace('\\', "");
        let want = format!("invalid value for '{}': \"{value}\" {want}", &flag[2..]);
        assert!(told.contains(&want), "{want}: {told}");
    }
}
