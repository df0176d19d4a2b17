//! Whether each registry of the configuration could be used from here: asked as a sidecar would ask
//! it, with nothing written.

#![forbid(unsafe_code)]

use super::{Finding, State};
use crate::registry::{Settings, dns, etcd, file, sqlite};
use rusqlite::{Connection, OpenFlags};
use rustix::fs::{Access, access};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    time::Duration,
};
use tokio::{net::UdpSocket, time::Instant};

pub(super) async fn findings(settings: &Settings) -> Vec<Finding> {
    let Settings { dns, etcd, file, sqlite } = settings;
    let mut findings = Vec::new();
    findings.extend(file.as_ref().map(of_file));
    if let Some(sqlite) = sqlite {
        findings.push(of_sqlite(sqlite).await);
    }
    if let Some(etcd) = etcd {
        findings.extend(of_etcd(etcd).await);
    }
    if let Some(dns) = dns {
        findings.extend(of_dns(dns).await);
    }
    findings
}

fn of_file(settings: &file::Settings) -> Finding {
    const CHECK: &str = "registry file";
    let shown = settings.path.display();
    if !settings.path.exists() {
        let remedy = "write it ([] is a list without apps); until then nobody is known from it";
        return Finding::warning(CHECK, format!("there is no {shown}"), remedy);
    }
    match file::check(&settings.path) {
        Ok(count) => Finding::ok(CHECK, format!("{shown} has {count} apps")),
        Err(problems) => Finding::failure(
            CHECK,
            problems.join("; "),
            format!("put it right; ringcar config check {shown} tells when it is"),
        ),
    }
}

async fn of_sqlite(settings: &sqlite::Settings) -> Finding {
    const CHECK: &str = "registry sqlite";
    let (shown, path) = (settings.path.display().to_string(), &settings.path);
    if !path.exists() {
        let directory = path.parent().filter(|parent| *parent != Path::new(""));
        let directory = directory.unwrap_or(Path::new("."));
        return if access(directory, Access::WRITE_OK | Access::EXEC_OK).is_ok() {
            Finding::ok(CHECK, format!("{shown}, to be made"))
        } else {
            let found = format!("{shown} cannot be made");
            Finding::failure(CHECK, found, "make its directory, writable for this user")
        };
    }
    let settings = settings.clone();
    let opened = tokio::task::spawn_blocking(move || row_count(&settings)).await;
    match opened {
        Ok(Ok(Some(count))) => Finding::ok(CHECK, format!("{shown} has {count} rows")),
        Ok(Ok(None)) => Finding::ok(CHECK, format!("{shown}, its tables to be made")),
        Ok(Err(e)) => Finding::failure(
            CHECK,
            format!("{shown}: {e}"),
            "name a database that this user may write, and that nobody keeps locked",
        ),
        Err(e) => Finding::warning(CHECK, format!("{shown}: {e}"), "try again"),
    }
}

/// Rows, `None` where there is no table yet. The lock that a writer needs is taken, and let go.
fn row_count(settings: &sqlite::Settings) -> rusqlite::Result<Option<u64>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(&settings.path, flags)?;
    connection.busy_timeout(settings.busy_timeout)?;
    let behavior = rusqlite::TransactionBehavior::Immediate;
    let transaction = connection.transaction_with_behavior(behavior)?;
    let is_there = transaction.query_row(
        "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = ?1",
        [&settings.table],
        |row| row.get::<_, i64>(0),
    )?;
    if is_there == 0 {
        return Ok(None);
    }
    let sql = format!("SELECT count(*) FROM {}", settings.table);
    let count: i64 = transaction.query_row(&sql, [], |row| row.get(0))?;
    Ok(Some(u64::try_from(count).unwrap_or_default()))
}

async fn of_etcd(settings: &etcd::Settings) -> Vec<Finding> {
    const CHECK: &str = "registry etcd";
    let mut findings = Vec::new();
    for endpoint in &settings.endpoints {
        findings.push(match etcd::examine(endpoint, settings).await {
            Ok(etcd::Examination { version, row_count, latency }) => {
                let words = match &settings.user {
                    Some((name, _)) => format!(" as {name}"),
                    None => String::new(),
                };
                let ms = latency.as_secs_f64() * 1e3;
                Finding::ok(
                    CHECK,
                    format!(
                        "{endpoint}: etcd {version}, {row_count} rows under {} readable{words}, \
                         {ms:.1} ms",
                        settings.prefix
                    ),
                )
            }
            Err(etcd::Obstacle { reason, remedy }) => {
                Finding::failure(CHECK, format!("{endpoint}: {reason}"), remedy)
            }
        });
    }
    one_is_enough(findings)
}

/// Of several servers one that answers is enough.
fn one_is_enough(mut findings: Vec<Finding>) -> Vec<Finding> {
    if findings.iter().any(|finding| finding.state == State::Ok) {
        let away = findings.iter_mut().filter(|finding| finding.state == State::Failure);
        away.for_each(|finding| finding.state = State::Warning);
    }
    findings
}

async fn of_dns(settings: &dns::Settings) -> Vec<Finding> {
    const CHECK: &str = "registry dns";
    let servers = match settings.servers() {
        Ok(servers) if servers.is_empty() => {
            let remedy = "name some in /etc/resolv.conf or in the option servers";
            return vec![Finding::failure(CHECK, "there are no name servers", remedy)];
        }
        Ok(servers) => servers,
        Err(reason) => {
            let remedy = "make /etc/resolv.conf readable, or name servers in the option servers";
            return vec![Finding::failure(CHECK, reason, remedy)];
        }
    };
    let mut findings = Vec::new();
    for server in servers {
        let asked = Instant::now();
        findings.push(match ask(server).await {
            Ok(()) => {
                let ms = asked.elapsed().as_secs_f64() * 1e3;
                Finding::ok(CHECK, format!("{server} answers, {ms:.1} ms"))
            }
            Err(e) => Finding::failure(
                CHECK,
                format!("{server} does not answer: {e}"),
                "start it, open the way to its UDP port, or name another one (servers)",
            ),
        });
    }
    one_is_enough(findings)
}

/// Whether anything comes back for a question. What it says does not matter: a server that refuses
/// to speak of the root may well know the apps.
async fn ask(server: SocketAddr) -> io::Result<()> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    let id = fastrand::u16(..).to_be_bytes();
    let mut answer = [0; DNS_HEADER_BYTES];
    for _ in 0..DNS_ATTEMPTS {
        socket.send(&[&id[..], &ROOT_QUESTION].concat()).await?;
        match tokio::time::timeout(DNS_TIMEOUT, socket.recv(&mut answer)).await {
            Ok(Ok(_)) if answer[..2] == id => return Ok(()),
            Ok(Ok(_)) | Err(_) => {}
            Ok(Err(e)) => return Err(e),
        }
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, format!("nothing came within {DNS_TIMEOUT:?}")))
}

const DNS_HEADER_BYTES: usize = 12;

/// RFC 1035 §4.1 after the id: recursion desired, one question, for the name servers of the root.
const ROOT_QUESTION: [u8; 15] = [1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];

const DNS_TIMEOUT: Duration = Duration::from_secs(1);
const DNS_ATTEMPTS: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_dir::TestDir;
    use std::fs;

    fn database(path: &Path) -> sqlite::Settings {
        sqlite::Settings {
            path: path.to_owned(),
            table: "hosts".into(),
            metadata_table: "metadata".into(),
            update_interval: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
            busy_timeout: Duration::from_millis(20),
            cleanup_interval: Duration::from_secs(3600),
            is_wal: false,
        }
    }

    #[tokio::test]
    async fn a_database_is_judged_without_being_made() {
        let temp = TestDir::new();
        let path = temp.path().join("hosts.db");
        let settings = database(&path);
        assert_eq!(of_sqlite(&settings).await.state, State::Ok);
        assert!(!path.exists());
        let absent = database(&temp.path().join("none/hosts.db"));
        assert_eq!(of_sqlite(&absent).await.state, State::Failure);

        let connection = Connection::open(&path).unwrap();
        connection.execute_batch("CREATE TABLE other (x); BEGIN IMMEDIATE").unwrap();
        let locked = of_sqlite(&settings).await;
        assert_eq!(locked.state, State::Failure);
        assert!(locked.found.contains("locked"), "{locked:?}");
        connection.execute_batch("ROLLBACK").unwrap();
        assert!(of_sqlite(&settings).await.found.ends_with("its tables to be made"));
        connection.execute_batch("CREATE TABLE hosts (x); INSERT INTO hosts VALUES (1)").unwrap();
        assert!(of_sqlite(&settings).await.found.ends_with("has 1 rows"));

        fs::write(&path, "this is no database, however long it may be").unwrap();
        assert_eq!(of_sqlite(&settings).await.state, State::Failure);
    }

    #[tokio::test]
    async fn a_name_server_must_answer_the_question_that_was_asked() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let answer = async {
            let mut question = [0; 512];
            let (count, from) = server.recv_from(&mut question).await.unwrap();
            assert_eq!(count, DNS_HEADER_BYTES + 5);
            let other = [question[0] ^ 1, question[1]];
            server.send_to(&other, from).await.unwrap();
            let (_, from) = server.recv_from(&mut question).await.unwrap();
            server.send_to(&question[..DNS_HEADER_BYTES], from).await.unwrap();
        };
        let (asked, ()) = tokio::join!(ask(address), answer);
        asked.unwrap();
        drop(server);
        assert!(ask(address).await.is_err(), "nobody is there");
    }

    #[tokio::test]
    async fn a_list_of_apps_must_be_sound() {
        let temp = TestDir::new();
        let path = temp.path().join("apps.yaml");
        let finding = || of_file(&file::Settings { path: path.clone() });
        assert_eq!(finding().state, State::Warning);
        fs::write(&path, "- {id: a.b, endpoints: ['10.0.0.1:1']}").unwrap();
        let broken = finding();
        assert_eq!(broken.state, State::Failure);
        assert!(broken.found.contains("apps.yaml:1:8: "), "{broken:?}");
        fs::write(&path, "- {id: a, endpoints: ['10.0.0.1:1', '10.0.0.2:1']}").unwrap();
        assert!(finding().found.ends_with("has 1 apps"));
    }
}
