//! Against a real etcd on loopback, behind a door that can be shut as a network partition shuts it.

#![forbid(unsafe_code)]

use super::{client::Change, *};
use crate::{
    http_client,
    test_dir::TestDir,
    test_program::{self, TestProgram},
};
use hyper::{Method, body::Bytes};
use rustix::process::Signal;
use snapshot::Address;
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc::Receiver},
    task::{JoinHandle, JoinSet},
};

struct Etcd {
    temp: TestDir,
    binary: PathBuf,
    port: u16,
    peer_port: u16,
    extra: Vec<String>,
    program: Option<TestProgram>,
}

impl Etcd {
    /// Not started; `None` where there is none.
    fn prepare() -> Option<Self> {
        let binary = test_program::find("etcd", "etcd-server")?;
        let (port, peer_port) = (test_program::free_port(), test_program::free_port());
        Some(Self {
            temp: TestDir::new(),
            binary,
            port,
            peer_port,
            extra: Vec::new(),
            program: None,
        })
    }

    async fn started() -> Option<Self> {
        let mut etcd = Self::prepare()?;
        etcd.start().await;
        Some(etcd)
    }

    fn scheme(&self) -> &'static str {
        if self.extra.is_empty() { "http" } else { "https" }
    }

    async fn start(&mut self) {
        let client = format!("{}://127.0.0.1:{}", self.scheme(), self.port);
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let mut arguments: Vec<String> = [
            ("--data-dir", self.temp.path().join("data").to_str().unwrap()),
            ("--listen-client-urls", &client),
            ("--advertise-client-urls", &client),
            ("--listen-peer-urls", &peer),
            ("--initial-advertise-peer-urls", &peer),
            ("--initial-cluster", &format!("default={peer}")),
        ]
        .iter()
        .flat_map(|(flag, value)| [(*flag).to_owned(), (*value).to_owned()])
        .collect();
        arguments.extend(self.extra.clone());
        self.program = Some(TestProgram::start(&self.binary, &arguments));
        let deadline = Instant::now() + DEADLINE;
        while !self.is_ready().await {
            assert!(Instant::now() < deadline, "etcd does not start");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A connection says little: until there is a leader every call waits or fails.
    async fn is_ready(&self) -> bool {
        match self.scheme() {
            "https" => TcpStream::connect(self.address()).await.is_ok(),
            _ => self.try_post("/v3/kv/range", serde_json::json!({"key": "AA=="})).await.is_some(),
        }
    }

    fn stop(&mut self) {
        self.program.take().unwrap().kill();
    }

    fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    async fn try_post(&self, path: &str, body: serde_json::Value) -> Option<serde_json::Value> {
        let body = Bytes::from(body.to_string());
        let request = http_client::request(Method::POST, path, body).unwrap();
        let address = Address::Tcp(self.address());
        let response = http_client::call(&address, request, DEADLINE).await.ok()?;
        let is_success = response.status().is_success();
        serde_json::from_slice(response.body()).ok().filter(|_| is_success)
    }

    async fn post(&self, path: &str, body: serde_json::Value) -> serde_json::Value {
        self.try_post(path, body).await.unwrap_or_else(|| panic!("{path} failed"))
    }

    async fn lease_count(&self) -> usize {
        let answer = self.post("/v3/lease/leases", serde_json::json!({})).await;
        answer["leases"].as_array().map_or(0, Vec::len)
    }

    fn settings(&self) -> Settings {
        Settings {
            endpoints: vec![format!("{}://127.0.0.1:{}", self.scheme(), self.port)],
            prefix: "/ringcar/apps/".into(),
            lease_ttl: Duration::from_secs(2),
            user: None,
            tls: Tls::default(),
        }
    }
}

const DEADLINE: Duration = Duration::from_secs(60);

fn entry(id: &str, instance: &str) -> Entry {
    let mut entry = Entry::sample(id, instance);
    let port = 1000 + u16::try_from(instance.len()).unwrap();
    entry.remote_peer = Some(([10, 0, 0, 1], port).into());
    entry
}

struct Watched {
    news: Receiver<(usize, News)>,
    sink: Sink,
    complaints: Vec<String>,
    away: Vec<String>,
    /// Every table that was told, as ids.
    tables: Vec<Vec<String>>,
}

impl Watched {
    fn start(settings: &Settings) -> Self {
        let (sink, news) = Sink::pair();
        let registry = EtcdRegistry::new(settings.clone()).unwrap();
        tokio::spawn(registry.watch().unwrap().run(sink.clone()));
        Self { news, sink, complaints: Vec::new(), away: Vec::new(), tables: Vec::new() }
    }

    async fn next(&mut self) -> Option<Vec<String>> {
        let next = tokio::time::timeout(DEADLINE, self.news.recv()).await;
        let (_, news) = next.unwrap_or_else(|_| panic!("no news; {:?}", self.tables)).unwrap();
        match news {
            News::Away(reason) => self.away.push(reason),
            News::Complaint(text) => self.complaints.push(text),
            News::Rows(rows) => {
                let ids: Vec<String> = rows.iter().map(|row| row.id.to_string()).collect();
                self.tables.push(ids.clone());
                return Some(ids);
            }
            News::Back | News::Resolved(_) => {}
        }
        None
    }

    async fn until(&mut self, want: &[&str]) {
        while self.next().await.is_none_or(|ids| ids != want) {}
    }

    async fn until_away(&mut self) {
        let count = self.away.len();
        while self.away.len() == count {
            self.next().await;
        }
    }

    fn register(&self, settings: &Settings, entry: &Entry) -> Box<dyn Registration> {
        EtcdRegistry::new(settings.clone()).unwrap().register(entry, &self.sink).unwrap()
    }
}

/// Writes a value that no lease holds.
async fn put(settings: &Settings, key: &str, value: impl Into<Vec<u8>>) {
    let client = Client::connect(settings).await.unwrap();
    put_with(&client, key, value.into(), 0).await;
}

async fn put_with(client: &Client, key: &str, value: Vec<u8>, lease: i64) {
    let put = Change::Put { key: key.into(), value, lease };
    client.change(&[put]).await.unwrap();
}

#[tokio::test]
async fn rows_come_change_and_go() {
    let Some(etcd) = Etcd::started().await else { return };
    let settings = etcd.settings();
    let mut watched = Watched::start(&settings);
    watched.until(&[]).await;
    let mut first = watched.register(&settings, &entry("a", "1"));
    watched.until(&["a"]).await;
    let second = watched.register(&settings, &entry("b", "1"));
    watched.until(&["a", "b"]).await;
    let mut moved = entry("a", "1");
    moved.remote_peer = Some(([10, 0, 0, 2], 7).into());
    first.update(&moved).unwrap();
    watched.until(&["a", "b"]).await;
    // Longer than a lease: it is kept alive.
    let renewed = tokio::time::timeout(Duration::from_secs(3), watched.until(&[])).await;
    assert!(renewed.is_err(), "{:?}", watched.tables);
    second.end().unwrap().await.unwrap();
    watched.until(&["a"]).await;
    drop(first);
    watched.until(&[]).await;
    assert!(watched.away.is_empty() && watched.complaints.is_empty(), "{:?}", watched.away);
}

#[tokio::test]
async fn the_row_of_a_killed_sidecar_goes_with_its_lease() {
    let Some(etcd) = Etcd::started().await else { return };
    let settings = etcd.settings();
    let mut watched = Watched::start(&settings);
    // A runtime that ends with its tasks where they stand says as little goodbye as a killed
    // process.
    let doomed =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let registration = {
        let _inside = doomed.enter();
        watched.register(&settings, &entry("a", "1"))
    };
    watched.until(&["a"]).await;
    doomed.shutdown_background();
    watched.until(&[]).await;
    drop(registration);
}

#[tokio::test]
async fn a_registry_that_is_away_at_first_is_told_once_and_found_later() {
    let Some(mut etcd) = Etcd::prepare() else { return };
    let settings = etcd.settings();
    let mut watched = Watched::start(&settings);
    let _ours = watched.register(&settings, &entry("a", "1"));
    watched.until_away().await;
    assert!(watched.away[0].contains("cannot connect to http://127.0.0.1:"), "{:?}", watched.away);
    assert!(watched.away[0].contains("refused"), "{:?}", watched.away);
    etcd.start().await;
    watched.until(&["a"]).await;
    assert_eq!(watched.complaints, [""; 0]);
}

#[tokio::test]
async fn a_restart_loses_nothing_and_takes_nobody_away() {
    let Some(mut etcd) = Etcd::started().await else { return };
    let settings = etcd.settings();
    let mut watched = Watched::start(&settings);
    let _ours = watched.register(&settings, &entry("a", "1"));
    watched.until(&["a"]).await;
    let told = watched.tables.len();
    etcd.stop();
    watched.until_away().await;
    etcd.start().await;
    let _second = watched.register(&settings, &entry("b", "1"));
    watched.until(&["a", "b"]).await;
    assert!(
        watched.tables[told..].iter().all(|ids| ids.contains(&"a".to_owned())),
        "{:?}",
        watched.tables
    );
    assert_eq!(watched.complaints, [""; 0], "the watch went on where it stopped");
}

#[tokio::test]
async fn a_server_that_stands_still_is_away_until_it_goes_on() {
    let Some(etcd) = Etcd::started().await else { return };
    let settings = etcd.settings();
    let mut watched = Watched::start(&settings);
    watched.until(&[]).await;
    etcd.program.as_ref().unwrap().signal(Signal::STOP);
    watched.until_away().await;
    etcd.program.as_ref().unwrap().signal(Signal::CONT);
    let _ours = watched.register(&settings, &entry("a", "1"));
    watched.until(&["a"]).await;
}

#[tokio::test]
async fn another_history_behind_the_same_address_is_read_anew() {
    let Some(mut etcd) = Etcd::started().await else { return };
    let settings = etcd.settings();
    let mut watched = Watched::start(&settings);
    let row = row::emit(&entry("a", "1")).unwrap();
    put(&settings, "/ringcar/apps/default/a/1", row).await;
    watched.until(&["a"]).await;
    etcd.stop();
    std::fs::remove_dir_all(etcd.temp.path().join("data")).unwrap();
    etcd.start().await;
    // Nobody had time to come back yet.
    let told = watched.tables.len();
    let returned = watched.register(&settings, &entry("b", "1"));
    watched.until(&["b", "a"]).await;
    assert!(watched.complaints[0].contains("reading all rows again"), "{:?}", watched.complaints);
    let is_known = |ids: &Vec<String>| ids.contains(&"a".to_owned());
    assert!(watched.tables[told..].iter().all(is_known), "{:?}", watched.tables);
    watched.until(&["b"]).await;
    drop(returned);
    watched.until(&[]).await;
}

#[tokio::test]
async fn another_history_that_is_further_on_is_not_taken_for_the_same() {
    let Some(mut etcd) = Etcd::started().await else { return };
    let settings = etcd.settings();
    let value = |id: &str| row::emit(&entry(id, "1")).unwrap();
    let client = Client::connect(&settings).await.unwrap();
    let lease = client.grant(DEADLINE).await.unwrap();
    put_with(&client, "/ringcar/apps/default/a/1", value("a"), lease).await;
    put_with(&client, "/ringcar/apps/default/b/1", value("b"), lease).await;
    let mut door = Door { port: 0, shut: Arc::default(), task: None };
    door.open(etcd.address()).await;
    let through =
        Settings { endpoints: vec![format!("http://127.0.0.1:{}", door.port)], ..settings };
    let mut watched = Watched::start(&through);
    watched.until(&["a", "b"]).await;
    door.shut().await;
    watched.until_away().await;
    etcd.stop();
    std::fs::remove_dir_all(etcd.temp.path().join("data")).unwrap();
    etcd.start().await;
    // The cluster has the same name, since that is made of its addresses.
    let client = Client::connect(&etcd.settings()).await.unwrap();
    let lease = client.grant(DEADLINE).await.unwrap();
    for _ in 0..5 {
        put_with(&client, "/ringcar/apps/default/b/1", value("b"), lease).await;
    }
    door.open(etcd.address()).await;
    watched.until(&["b"]).await;
    assert!(watched.complaints[0].contains("reading all rows again"), "{:?}", watched.complaints);
    door.shut().await;
}

#[tokio::test]
async fn many_apps_have_one_lease_and_each_its_row() {
    // More than one change takes, twice.
    const APPS: usize = 250;
    let Some(mut etcd) = Etcd::started().await else { return };
    let settings = etcd.settings();
    let mut watched = Watched::start(&settings);
    watched.until(&[]).await;
    let registry = EtcdRegistry::new(settings.clone()).unwrap();
    let ids: Vec<String> = (0..APPS).map(|n| format!("app-{n:03}")).collect();
    let mut registrations: Vec<_> =
        ids.iter().map(|id| registry.register(&entry(id, "1"), &watched.sink).unwrap()).collect();
    let mut wanted: Vec<&str> = ids.iter().map(String::as_str).collect();
    watched.until(&wanted).await;
    assert_eq!(etcd.lease_count().await, 1);
    let told = watched.tables.len();
    registrations.remove(7).end().unwrap().await.unwrap();
    wanted.remove(7);
    watched.until(&wanted).await;
    assert_eq!(watched.tables.len(), told + 1, "none of the others went");

    // A lease that is lost brings all rows back under another one.
    let leases = etcd.post("/v3/lease/leases", serde_json::json!({})).await;
    etcd.post("/v3/lease/revoke", serde_json::json!({"ID": leases["leases"][0]["ID"]})).await;
    watched.until(&[]).await;
    watched.until(&wanted).await;
    assert_eq!(etcd.lease_count().await, 1);
    // So does a row that somebody deleted, with the next connection.
    let key = row::key("/ringcar/apps/", &entry("app-000", "1"));
    etcd.post("/v3/kv/deleterange", serde_json::json!({"key": prost_base64(&key)})).await;
    watched.until(&wanted[1..]).await;
    etcd.stop();
    etcd.start().await;
    watched.until(&wanted).await;
    let added = registry.register(&entry("b", "1"), &watched.sink).unwrap();
    wanted.push("b");
    watched.until(&wanted).await;
    assert_eq!(etcd.lease_count().await, 1);

    drop(added);
    let ends: Vec<_> = registrations.into_iter().filter_map(Registration::end).collect();
    for end in ends {
        end.await.unwrap();
    }
    assert_eq!(etcd.lease_count().await, 0, "it goes with the last row");
    watched.until(&[]).await;
    // And one that comes after that has a lease again.
    let _again = registry.register(&entry("a", "1"), &watched.sink).unwrap();
    watched.until(&["a"]).await;
    assert_eq!(etcd.lease_count().await, 1);
}

/// Lets connections through to etcd, or cuts them and takes no new ones.
struct Door {
    port: u16,
    shut: Arc<Notify>,
    task: Option<JoinHandle<()>>,
}

impl Door {
    async fn open(&mut self, to: SocketAddr) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).await.unwrap();
        self.port = listener.local_addr().unwrap().port();
        let shut = Arc::clone(&self.shut);
        self.task = Some(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    () = shut.notified() => return,
                    Ok((mut downstream, _)) = listener.accept() => {
                        connections.spawn(async move {
                            let Ok(mut upstream) = TcpStream::connect(to).await else { return };
                            let streams = (&mut downstream, &mut upstream);
                            let _ = tokio::io::copy_bidirectional(streams.0, streams.1).await;
                        });
                    }
                }
            }
        }));
    }

    async fn shut(&mut self) {
        self.shut.notify_one();
        self.task.take().unwrap().await.unwrap();
    }
}

#[tokio::test]
async fn what_was_compacted_during_a_partition_is_read_anew() {
    let Some(etcd) = Etcd::started().await else { return };
    let direct = etcd.settings();
    let mut door = Door { port: 0, shut: Arc::default(), task: None };
    door.open(etcd.address()).await;
    let settings =
        Settings { endpoints: vec![format!("http://127.0.0.1:{}", door.port)], ..direct.clone() };
    let value = |id: &str| row::emit(&entry(id, "1")).unwrap();
    put(&direct, "/ringcar/apps/default/a/1", value("a")).await;
    put(&direct, "/ringcar/apps/default/b/1", value("b")).await;
    let mut watched = Watched::start(&settings);
    watched.until(&["a", "b"]).await;
    door.shut().await;
    watched.until_away().await;
    let key = |key: &str| prost_base64(format!("/ringcar/apps/default/{key}/1").as_bytes());
    etcd.post("/v3/kv/deleterange", serde_json::json!({"key": key("a")})).await;
    put(&direct, "/ringcar/apps/default/c/1", value("c")).await;
    let client = Client::connect(&direct).await.unwrap();
    let revision = client.range(RangeRequest { key: b"x".to_vec(), ..RangeRequest::default() });
    let revision = revision.await.unwrap().header.unwrap().revision;
    etcd.post(
        "/v3/kv/compaction",
        serde_json::json!({"revision": revision.to_string(), "physical": true}),
    )
    .await;
    door.open(etcd.address()).await;
    watched.until(&["b", "c"]).await;
    assert!(watched.complaints[0].contains("compacted"), "{:?}", watched.complaints);
    // And without compaction the gap is filled from where it began.
    let told = watched.complaints.len();
    door.shut().await;
    watched.until_away().await;
    put(&direct, "/ringcar/apps/default/d/1", value("d")).await;
    etcd.post("/v3/kv/deleterange", serde_json::json!({"key": key("b")})).await;
    door.open(etcd.address()).await;
    watched.until(&["c", "d"]).await;
    assert_eq!(watched.complaints.len(), told, "{:?}", watched.complaints);
    door.shut().await;
}

/// The gateway's JSON has bytes in base64.
fn prost_base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let number = chunk.iter().fold(0, |number, byte| number << 8 | usize::from(*byte))
            << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let is_there = place <= chunk.len();
            text.push(if is_there {
                char::from(ALPHABET[number >> (18 - 6 * place) & 63])
            } else {
                '='
            });
        }
    }
    text
}

#[tokio::test]
async fn ten_thousand_rows_of_rubbish_cost_one_line() {
    let Some(etcd) = Etcd::started().await else { return };
    let settings = etcd.settings();
    let client = Client::connect(&settings).await.unwrap();
    let rubbish = (0..10_000_u32).map(|n| Change::Put {
        key: format!("/ringcar/apps/{n:05}").into_bytes(),
        value: format!("{{\"rubbish\": {n}}}").into_bytes(),
        lease: 0,
    });
    for part in rubbish.collect::<Vec<_>>().chunks(client::CHANGES_MAX) {
        client.change(part).await.unwrap();
    }
    // Three of them do not fit one message together.
    for n in 0..4 {
        put(&settings, &format!("/ringcar/apps/large{n}"), vec![b'x'; 1_400_000]).await;
    }
    let mut watched = Watched::start(&settings);
    let _ours = watched.register(&settings, &entry("a", "1"));
    watched.until(&["a"]).await;
    put(&settings, "/ringcar/apps/more", "rubbish").await;
    let _second = watched.register(&settings, &entry("b", "1"));
    watched.until(&["a", "b"]).await;
    assert_eq!(watched.complaints.len(), 1, "{:?}", watched.complaints);
    let want = "10004 keys under /ringcar/apps/ are no rows and are skipped; the first: \"/ringcar/apps/00000\"";
    assert!(watched.complaints[0].starts_with(want), "{:?}", watched.complaints);
}

#[tokio::test]
async fn asks_for_a_password_where_there_is_one() {
    let Some(etcd) = Etcd::started().await else { return };
    let json = |text: &str| serde_json::from_str(text).unwrap();
    etcd.post("/v3/auth/user/add", json(r#"{"name":"root","password":"right"}"#)).await;
    etcd.post("/v3/auth/role/add", json(r#"{"name":"root"}"#)).await;
    etcd.post("/v3/auth/user/grant", json(r#"{"user":"root","role":"root"}"#)).await;
    etcd.post("/v3/auth/enable", json("{}")).await;
    let user = |password: &str| Some(("root".to_owned(), Password(password.to_owned())));
    for (case, user, want) in [
        ("none", None, "user name is empty"),
        ("wrong", user("wrong"), "authentication failed, invalid user ID or password"),
    ] {
        let mut watched = Watched::start(&Settings { user, ..etcd.settings() });
        watched.until_away().await;
        assert!(watched.away[0].contains(want), "{case}: {:?}", watched.away);
    }
    let settings = Settings { user: user("wrong"), ..etcd.settings() };
    let obstacle = examine(&settings.endpoints[0], &settings).await.unwrap_err();
    assert_eq!(obstacle.remedy, "put username and password right", "{}", obstacle.reason);
    let obstacle = examine(&settings.endpoints[0], &etcd.settings()).await.unwrap_err();
    assert!(obstacle.remedy.starts_with("give the user read and write"), "{obstacle:?}");
    let settings = Settings { user: user("right"), ..etcd.settings() };
    let examination = examine(&settings.endpoints[0], &settings).await.unwrap();
    assert!(examination.version.starts_with("3."), "{examination:?}");
    let mut watched = Watched::start(&settings);
    let _ours = watched.register(&settings, &entry("a", "1"));
    watched.until(&["a"]).await;
}

#[tokio::test]
async fn speaks_tls_to_a_server_it_can_check() {
    let Some(mut etcd) = Etcd::prepare() else { return };
    let Some(openssl) = test_program::find("openssl", "openssl") else { return };
    let dir = etcd.temp.path().to_owned();
    let (key, certificate) = (dir.join("key.pem"), dir.join("cert.pem"));
    make_certificate(&openssl, &key, &certificate);
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    etcd.extra = [
        ("--cert-file", path(&certificate)),
        ("--key-file", path(&key)),
        ("--trusted-ca-file", path(&certificate)),
    ]
    .into_iter()
    .flat_map(|(flag, value)| [flag.to_owned(), value])
    .chain(["--client-cert-auth".to_owned()])
    .collect();
    etcd.start().await;
    let mut stranger = Watched::start(&etcd.settings());
    stranger.until_away().await;
    assert!(stranger.away[0].contains("certificate"), "{:?}", stranger.away);
    let tls = Tls {
        ca: Some(certificate.clone()),
        identity: Some((certificate, key)),
        server_name: None,
    };
    let settings = Settings { tls, ..etcd.settings() };
    let mut watched = Watched::start(&settings);
    let _ours = watched.register(&settings, &entry("a", "1"));
    watched.until(&["a"]).await;
}

/// One that stands for itself, for server and client alike.
fn make_certificate(openssl: &Path, key: &Path, certificate: &Path) {
    let output = std::process::Command::new(openssl)
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-nodes", "-days", "2", "-subj", "/CN=etcd", "-addext"])
        .args([
            "subjectAltName=IP:127.0.0.1,DNS:localhost",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ])
        .args(["-addext", "extendedKeyUsage=serverAuth,clientAuth"])
        .arg("-keyout")
        .arg(key)
        .arg("-out")
        .arg(certificate)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn pauses_grow_to_a_bound_and_differ() {
    let mut pause = Pause::default();
    let pauses: Vec<Duration> = (0..40).map(|_| pause.next()).collect();
    assert!(pauses[0] <= PAUSE_MIN && pauses[0] >= PAUSE_MIN / 2, "{pauses:?}");
    assert!(pauses.iter().all(|pause| *pause <= PAUSE_MAX), "{pauses:?}");
    assert!(pauses[10..].iter().all(|pause| *pause >= PAUSE_MAX / 2), "{pauses:?}");
    assert!(pauses[10..].windows(2).any(|pair| pair[0] != pair[1]), "{pauses:?}");
}
