//! Apps that are known by name only: looked up with the first call, followed from then on.

#![forbid(unsafe_code)]

use crate::{
    registries::{CALL, LOOPBACK, config, is_unknown},
    support::{
        App, Connection, DEADLINE, Place, Process, Server, eventually, free_port, get,
        has_descriptors,
    },
};
use rustix::process::Signal;
use std::{
    fmt::Write as _,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
};

/// A sidecar that looks apps up, and its ports: its API's, its metrics page's, and the one at which
/// it takes all other sidecars to be.
struct Caller {
    _place: Place,
    process: Process,
    api: u16,
    metrics: u16,
    peers: u16,
}

impl Caller {
    fn start(dns: &Server) -> Self {
        let (place, metrics, peers) = (Place::new(), free_port(), free_port());
        let lines = format!(
            "component: dns\nconfiguration: {{format: '{{id}}.example.:{peers}', servers: ['127.0.0.1:{}']}}",
            dns.port
        );
        // A label per path would make the metrics page grow with what clients make up, as daprd's.
        let few = place.path().join("few-series.yaml");
        let text = "kind: Configuration\nspec: {metrics: {http: {increasedCardinality: false}}}\n";
        std::fs::write(&few, text).unwrap();
        let few = format!("--config={}", few.display());
        let metrics_port = format!("--metrics-port={metrics}");
        let flags = [&config(&place, &lines), &few, LOOPBACK, &metrics_port];
        let (process, api) = place.sidecar("caller", None, &flags);
        Self { _place: place, process, api, metrics, peers }
    }

    /// A sidecar on a machine of its own, which others call at this address.
    fn callee(&self, dns: &Server, id: &str, address: &str) -> (Place, Process, App) {
        let (place, app) = (Place::new(), App::start());
        let lines = format!(
            "component: dns\nconfiguration: {{format: '{{id}}.example.:1', servers: ['127.0.0.1:{}']}}",
            dns.port
        );
        let flags = [
            &config(&place, &lines),
            &format!("--dapr-internal-grpc-listen-address={address}"),
            &format!("--dapr-internal-grpc-port={}", self.peers),
        ];
        let (process, _) = place.sidecar(id, Some(app.port), &flags.map(String::as_str));
        (place, process, app)
    }

    fn counter(&self, name: &str) -> f64 {
        let page = get(self.metrics, "/").body;
        let value = page.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        value.unwrap_or_else(|| panic!("no {name} in {page}")).parse().unwrap()
    }
}

#[test]
fn the_first_call_to_an_app_that_nobody_listed_works() {
    let Some(dns) = Server::dnsmasq("127.0.0.2 orders.example\n") else { return };
    let caller = Caller::start(&dns);
    let (_place, _orders, _app) = caller.callee(&dns, "orders", "127.0.0.2");
    let answer = get(caller.api, CALL);
    assert_eq!((answer.status, answer.body.trim_end()), (200, "/x"));
    let unknown = get(caller.api, "/v1.0/invoke/ghost/method/x");
    let want = r#"{"errorCode":"ERR_DIRECT_INVOKE","message":"failed to invoke, id: ghost, err: couldn't find service: ghost"}"#;
    assert_eq!((unknown.status, &*unknown.body), (500, want));
    assert_eq!(get(caller.api, CALL).status, 200);
    assert_eq!(caller.counter("ringcar_calls_parked_total"), 2.0);
    assert_eq!(caller.counter("ringcar_calls_unresolved_total"), 1.0);
}

#[test]
fn an_app_that_moves_is_followed_without_a_failed_call() {
    let Some(dns) = Server::dnsmasq("127.0.0.2 orders.example\n") else { return };
    let caller = Caller::start(&dns);
    let (_place, _orders, first) = caller.callee(&dns, "orders", "127.0.0.2");
    let (_other_place, _other_orders, second) = caller.callee(&dns, "orders", "127.0.0.3");
    let mut client = Connection::open(caller.api).unwrap();
    assert_eq!(client.get(CALL).unwrap().0, 200);
    assert!(first.has_request() && !second.has_request());
    dns.change_hosts("127.0.0.3 orders.example\n");
    eventually("it is called where it is now", || {
        assert_eq!(client.get(CALL).unwrap().0, 200);
        second.has_request()
    });
    while first.has_request() {}
    assert_eq!(client.get(CALL).unwrap().0, 200);
    assert!(!first.has_request(), "nobody is called at the old address");
    dns.change_hosts("");
    eventually("it is nowhere any more", || is_unknown(caller.api));
}

#[test]
fn a_thousand_calls_wait_for_one_answer() {
    if !has_descriptors(4096) {
        return;
    }
    let Some(dns) = Server::dnsmasq("127.0.0.2 orders.example\n") else { return };
    let caller = Caller::start(&dns);
    let (_place, _orders, _app) = caller.callee(&dns, "orders", "127.0.0.2");
    dns.signal(Signal::STOP);
    let mut clients: Vec<TcpStream> = (0..1000)
        .map(|_| {
            let mut client = TcpStream::connect(("127.0.0.1", caller.api)).unwrap();
            client.set_read_timeout(Some(DEADLINE)).unwrap();
            write!(client, "GET {CALL} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
            client
        })
        .collect();
    eventually("all wait", || caller.counter("ringcar_calls_parked_total") == 1000.0);
    dns.signal(Signal::CONT);
    for client in &mut clients {
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
    assert_eq!(caller.counter("ringcar_calls_unresolved_total"), 0.0);
}

/// One client that makes names up, as many as it likes, takes nobody else's app away and makes
/// nothing grow.
#[test]
fn names_that_somebody_makes_up_harm_nobody() {
    let Some(dns) = Server::dnsmasq("127.0.0.2 orders.example\n") else { return };
    let mut caller = Caller::start(&dns);
    let (_place, _orders, _app) = caller.callee(&dns, "orders", "127.0.0.2");
    assert_eq!(get(caller.api, CALL).status, 200);
    let resident = || resident_bytes(caller.process.pid());
    let before = resident();
    let liar = TcpStream::connect(("127.0.0.1", caller.api)).unwrap();
    liar.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut heads = String::new();
    for number in 0..3000 {
        let target = format!("/v1.0/invoke/made-up-{number}/method/x");
        write!(heads, "GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    }
    let mut sender = liar.try_clone().unwrap();
    let sending = std::thread::spawn(move || sender.write_all(heads.as_bytes()));
    let mut answers = 0;
    for line in BufReader::new(liar).lines() {
        // A body ends without a line end of its own.
        if !line.unwrap().contains("HTTP/1.1 500 ") {
            continue;
        }
        answers += 1;
        if answers % 100 == 0 {
            assert_eq!(get(caller.api, CALL).status, 200, "after {answers}");
        }
        if answers == 3000 {
            break;
        }
    }
    assert_eq!(answers, 3000);
    sending.join().unwrap().unwrap();
    assert_eq!(get(caller.api, CALL).status, 200);
    assert_eq!(caller.counter("ringcar_registry_rows{registry=\"dns\"}"), 1.0);
    let grown = resident().saturating_sub(before);
    assert!(grown < 4 << 20, "control grew by {grown} bytes");
    assert!(caller.process.is_running());
}

fn resident_bytes(pid: u32) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    let pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size() as u64
}

#[test]
fn a_control_that_dies_over_a_question_leaves_nobody_waiting() {
    let Some(dns) = Server::dnsmasq("127.0.0.2 orders.example\n") else { return };
    let caller = Caller::start(&dns);
    let (_place, _orders, _app) = caller.callee(&dns, "orders", "127.0.0.2");
    dns.signal(Signal::STOP);
    let mut client = TcpStream::connect(("127.0.0.1", caller.api)).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    write!(client, "GET {CALL} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    eventually("it waits", || caller.counter("ringcar_calls_parked_total") == 1.0);
    caller.process.kill();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("couldn't find service: orders"), "{answer}");
}
