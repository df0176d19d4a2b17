//! Against a real dnsmasq on loopback.

#![forbid(unsafe_code)]

use super::*;
use crate::{
    test_dir::TestDir,
    test_program::{self, TestProgram},
};
use rustix::process::Signal;
use std::{fs, net::Ipv4Addr, path::PathBuf};
use tokio::sync::mpsc::{Receiver, Sender};

#[test]
fn refuses_templates_that_say_nothing() {
    for (case, text, want) in [
        ("no port", "{id}.example", "it must end with a port"),
        ("port 0", "{id}:0", "\"0\" is no port"),
        ("no number", "{id}:http", "\"http\" is no port"),
        ("no host", ":80", "it is empty"),
        ("unknown", "{name}:80", "\"{name}\" stands for nothing"),
        ("unclosed", "{id:80", "a '{' is not closed"),
    ] {
        let text = Template::parse_host_port(text).expect_err(case).to_string();
        assert!(text.contains(want), "{case}: {text}");
    }
}

#[test]
fn fills_in_what_is_known_of_an_app() {
    let name = (AppId::new("{port}").unwrap(), Namespace::new("prod").unwrap());
    for (text, want) in [
        ("{id}-dapr.{namespace}.svc:{port}", "{port}-dapr.prod.svc 50002"),
        ("{appid}:80", "{port} 80"),
        ("[::1]:{port}", "::1 50002"),
    ] {
        let (host, port) = Template::parse_host_port(text).unwrap();
        assert_eq!(format!("{} {}", host.expand(&name, 50002), port.expand(&name, 50002)), want);
    }
}

struct Dnsmasq {
    temp: TestDir,
    binary: PathBuf,
    port: u16,
    program: Option<TestProgram>,
}

impl Dnsmasq {
    /// `hosts` are lines of an `/etc/hosts`, which a HUP signal makes it read again.
    async fn start(hosts: &str) -> Option<Self> {
        let binary = test_program::find("dnsmasq", "dnsmasq-base")?;
        let mut server =
            Self { temp: TestDir::new(), binary, port: test_program::free_port(), program: None };
        server.write(hosts);
        server.run().await;
        Some(server)
    }

    fn write(&self, hosts: &str) {
        fs::write(self.temp.path().join("hosts"), hosts).unwrap();
    }

    async fn run(&mut self) {
        let hosts = self.temp.path().join("hosts");
        let arguments = [
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--bind-interfaces",
            "--user=root",
            "--listen-address=127.0.0.1",
            "--pid-file=",
            "--local-ttl=1",
            "--local=/example/",
            "--srv-host=_dapr._tcp.orders.example,a.example,4001,0",
            "--srv-host=_dapr._tcp.orders.example,b.example,4002,0",
            "--srv-host=_dapr._tcp.orders.example,c.example,4003,9",
            &format!("--port={}", self.port),
            &format!("--addn-hosts={}", hosts.display()),
        ]
        .map(str::to_owned);
        self.program = Some(TestProgram::start(&self.binary, &arguments));
        // It listens on TCP as soon as it answers.
        let deadline = Instant::now() + DEADLINE;
        while tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await.is_err() {
            assert!(Instant::now() < deadline, "dnsmasq does not start");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn settings(&self, names: Names) -> Settings {
        let servers = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))];
        Settings { names, apps: Vec::new(), servers }
    }
}

const DEADLINE: Duration = Duration::from_secs(60);

struct Asked {
    questions: Sender<Question>,
    news: Receiver<(usize, News)>,
    rows: Vec<String>,
    away: usize,
}

impl Asked {
    fn start(settings: Settings) -> Self {
        let (questions, receiver) = mpsc::channel(16);
        let (sink, news) = Sink::pair();
        let registry = DnsRegistry::new(settings, 4000, receiver).unwrap();
        tokio::spawn(registry.watch().unwrap().run(sink));
        Self { questions, news, rows: Vec::new(), away: 0 }
    }

    async fn ask(&mut self, number: u64, id: &str) {
        let (id, namespace) = (AppId::new(id).unwrap(), Namespace::default());
        let is_stale = false;
        self.questions.send(Question { number, id, namespace, is_stale }).await.unwrap();
        while self.next().await != Some(number) {}
    }

    async fn next(&mut self) -> Option<u64> {
        let next = tokio::time::timeout(DEADLINE, self.news.recv()).await;
        match next.expect("news in time").unwrap().1 {
            News::Away(_) => self.away += 1,
            News::Resolved(number) => return Some(number),
            News::Rows(rows) => {
                self.rows = rows.iter().map(|row| format!("{} {}", row.id, row.address)).collect();
            }
            News::Back | News::Complaint(_) => {}
        }
        None
    }

    async fn until(&mut self, want: &[&str]) {
        while self.rows != want {
            self.next().await;
        }
    }
}

fn host(template: &str) -> Names {
    let (host, port) = Template::parse_host_port(template).unwrap();
    Names::Host { host, port }
}

#[tokio::test]
async fn names_are_looked_up_when_asked_for_and_followed() {
    let hosts = "10.0.0.1 orders.example\n10.0.0.2 orders.example\nfd00::1 six.example\n";
    let Some(server) = Dnsmasq::start(hosts).await else { return };
    let mut asked = Asked::start(server.settings(host("{id}.example.:{port}")));
    asked.ask(1, "orders").await;
    assert_eq!(asked.rows, ["orders 10.0.0.1:4000", "orders 10.0.0.2:4000"]);
    asked.ask(2, "six").await;
    assert_eq!(asked.rows[2..], ["six [fd00::1]:4000"]);
    asked.ask(3, "nobody").await;
    asked
        .ask(
            4,
            "no_such_name_can_be_much_longer_than_sixty_three_characters_which_is_what_dns_takes",
        )
        .await;
    assert_eq!(asked.rows.len(), 3);
    server.write("10.0.0.3 orders.example\n");
    server.program.as_ref().unwrap().signal(Signal::HUP);
    asked.until(&["orders 10.0.0.3:4000"]).await;
    assert_eq!(asked.away, 0);
}

#[tokio::test]
async fn a_server_that_is_gone_takes_nobody_away() {
    let Some(mut server) = Dnsmasq::start("10.0.0.1 orders.example\n").await else { return };
    let mut settings = server.settings(host("{id}.example.:4000"));
    settings.apps = vec![(AppId::new("orders").unwrap(), Namespace::default())];
    let mut asked = Asked::start(settings);
    asked.until(&["orders 10.0.0.1:4000"]).await;
    server.program.take().unwrap().kill();
    while asked.away == 0 {
        asked.next().await;
    }
    assert_eq!(asked.rows, ["orders 10.0.0.1:4000"]);
    server.write("10.0.0.2 orders.example\n");
    server.run().await;
    asked.until(&["orders 10.0.0.2:4000"]).await;
}

#[tokio::test]
async fn services_bring_their_ports_and_only_the_best_count() {
    let hosts = "10.0.0.1 a.example\n10.0.0.2 b.example\n10.0.0.3 c.example\n";
    let Some(server) = Dnsmasq::start(hosts).await else { return };
    let name = Template::parse("_dapr._tcp.{id}.example.").unwrap();
    let mut asked = Asked::start(server.settings(Names::Service { name }));
    asked.ask(1, "orders").await;
    assert_eq!(asked.rows, ["orders 10.0.0.1:4001", "orders 10.0.0.2:4002"]);
    asked.ask(2, "nobody").await;
    assert_eq!(asked.rows.len(), 2);
}

#[tokio::test]
async fn an_address_needs_no_server() {
    let settings = Settings {
        names: host("127.0.0.7:80"),
        apps: Vec::new(),
        servers: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, test_program::free_port()))],
    };
    let mut asked = Asked::start(settings);
    asked.ask(1, "any").await;
    assert_eq!(asked.rows, ["any 127.0.0.7:80"]);
}

/// A watch that nobody runs, with a server that nobody answers at.
fn watch() -> DnsWatch {
    let (_, receiver) = mpsc::channel(1);
    let servers = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, test_program::free_port()))];
    let settings = Settings { names: host("{id}.example.:80"), apps: Vec::new(), servers };
    DnsRegistry::new(settings, 4000, receiver).unwrap().watch().unwrap()
}

fn name(id: &str) -> Name {
    (AppId::new(id).unwrap(), Namespace::default())
}

fn found(addresses: &[&str], ttl: u64) -> Answer {
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    Answer::Addresses { addresses, ttl: Duration::from_secs(ttl) }
}

/// All that was told until now, in words.
fn told(news: &mut Receiver<(usize, News)>) -> Vec<String> {
    let news = std::iter::from_fn(|| news.try_recv().ok());
    news.map(|(_, news)| match news {
        News::Away(_) => "away".to_owned(),
        News::Back => "back".to_owned(),
        News::Complaint(text) => text,
        News::Resolved(number) => format!("resolved {number}"),
        News::Rows(rows) => format!("{} rows", rows.len()),
    })
    .collect()
}

#[tokio::test]
async fn names_that_somebody_makes_up_push_out_no_app_and_nothing_grows() {
    let (mut watch, (sink, mut news)) = (watch(), Sink::pair());
    let ask = |number: u64, id: &str| {
        let (id, namespace) = name(id);
        Question { number, id, namespace, is_stale: false }
    };
    watch.on_question(ask(1, "orders"), &sink).await;
    watch.on_answer(&name("orders"), found(&["10.0.0.1:80"], 60), &sink).await;
    assert_eq!(told(&mut news), ["back", "1 rows", "resolved 1"]);
    // As many as there is room for, and the lookups that go with them.
    for number in 1..NAMES_MAX as u64 {
        watch.on_question(ask(number, &format!("made-up-{number}")), &sink).await;
    }
    watch.start_due();
    assert_eq!((watch.known.len(), watch.lookups.len()), (NAMES_MAX, NEW_LOOKUPS_MAX));
    assert!(told(&mut news).is_empty(), "each of them waits for its answer");
    for number in 2000..2003 {
        watch.on_question(ask(number, &format!("made-up-{number}")), &sink).await;
    }
    let complaint = format!("{NAMES_MAX} names are known or asked for; more are not");
    let want = [&complaint, "resolved 2000", "resolved 2001", "resolved 2002"];
    assert_eq!(told(&mut news), want, "a complaint is made once");
    // What an app's name has is looked up although all the others wait.
    watch.known.get_mut(&name("orders")).unwrap().due = Some(Instant::now());
    watch.start_due();
    assert_eq!(watch.lookups.len(), NEW_LOOKUPS_MAX + 1);
    assert_eq!(watch.known[&name("orders")].due, None);
    watch.on_answer(&name("orders"), found(&["10.0.0.1:80"], 60), &sink).await;
    // One that is known to be nobody's makes room, the app never does.
    for number in 1..NAMES_MAX as u64 {
        let nothing = Answer::Nothing { ttl: NEGATIVE_TTL_MAX };
        watch.on_answer(&name(&format!("made-up-{number}")), nothing, &sink).await;
        told(&mut news);
    }
    for number in 3000..3000 + 2 * NAMES_MAX as u64 {
        watch.on_question(ask(number, &format!("made-up-{number}")), &sink).await;
        let nothing = Answer::Nothing { ttl: NEGATIVE_TTL_MAX };
        watch.on_answer(&name(&format!("made-up-{number}")), nothing, &sink).await;
        assert_eq!(told(&mut news), ["back".to_owned(), format!("resolved {number}")]);
    }
    assert_eq!((watch.known.len(), watch.table().len()), (NAMES_MAX, 1));
}

#[tokio::test]
async fn an_app_that_nobody_asks_for_is_forgotten_and_said_to_be() {
    let (mut watch, (sink, mut news)) = (watch(), Sink::pair());
    for id in ["orders", "kept"] {
        watch.known.insert(name(id), Known::new(id == "kept"));
        watch.on_answer(&name(id), found(&["10.0.0.1:80"], 60), &sink).await;
    }
    told(&mut news);
    assert!(!watch.forget_unwanted(Instant::now()));
    let later = Instant::now() + FORGET_AFTER;
    assert!(watch.forget_unwanted(later), "those who have its address must hear of it");
    assert_eq!(watch.known.keys().cloned().collect::<Vec<_>>(), [name("kept")]);
    assert_eq!(watch.table().len(), 1);
}

#[tokio::test]
async fn an_address_that_is_somebody_elses_is_looked_up_anew_but_not_all_the_time() {
    let (mut watch, (sink, mut news)) = (watch(), Sink::pair());
    let (id, namespace) = name("orders");
    let ask = |number| {
        let (id, namespace) = (id.clone(), namespace.clone());
        Question { number, id, namespace, is_stale: true }
    };
    watch.on_question(ask(1), &sink).await;
    watch.on_answer(&name("orders"), found(&["10.0.0.1:80"], 60), &sink).await;
    assert_eq!(told(&mut news), ["back", "1 rows", "resolved 1"]);
    watch.on_question(ask(2), &sink).await;
    assert_eq!(told(&mut news), ["resolved 2"], "it has just been looked up");
    let known = watch.known.get_mut(&name("orders")).unwrap();
    known.looked_up = known.looked_up.and_then(|at| at.checked_sub(TTL_MIN));
    watch.on_question(ask(3), &sink).await;
    assert!(told(&mut news).is_empty(), "it waits");
    watch.start_due();
    assert_eq!(watch.lookups.len(), 1);
    watch.on_answer(&name("orders"), found(&["10.0.0.2:80"], 60), &sink).await;
    assert_eq!(told(&mut news), ["back", "1 rows", "resolved 3"]);
}
