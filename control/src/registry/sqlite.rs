//! daprd's `nameresolution.sqlite`: one table in a database file that the sidecars of a host share.
//!
//! A row counts for `updateInterval` after its last renewal. The file's directory is watched, so
//! that a new row is seen when it is written; only its running out needs a timer. SQLite blocks, so
//! each statement runs on a thread of the runtime's blocking pool, never on the one that serves the
//! data plane.

#![forbid(unsafe_code)]

use super::{
    Entry, News, Registrar, Registration, Registry, RegistryError, Revision, Row, Sink, Watch,
    inotify::{DirectoryWatch, Wake, directory_of},
    steps::Steps,
};
use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior, params};
use snapshot::{Address, AppId, InstanceId, Namespace};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    ops::RangeInclusive,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{sync::watch, task::JoinHandle, time::Instant};

/// daprd's options, with its defaults.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    /// The database file.
    pub(crate) path: PathBuf,
    /// An SQL identifier, as is the next.
    pub(crate) table: String,
    pub(crate) metadata_table: String,
    /// Whole seconds, and at least a second more than `timeout`.
    pub(crate) update_interval: Duration,
    pub(crate) timeout: Duration,
    pub(crate) busy_timeout: Duration,
    pub(crate) cleanup_interval: Duration,
    pub(crate) is_wal: bool,
}

#[derive(Clone)]
pub(crate) struct SqliteRegistry {
    settings: Settings,
    /// daprd leaves the namespace of its rows empty and ignores it: a row counts in the reader's
    /// own.
    namespace: Namespace,
}

impl SqliteRegistry {
    pub(crate) const fn new(settings: Settings, namespace: Namespace) -> Self {
        Self { settings, namespace }
    }
}

impl Registry for SqliteRegistry {
    type Watch = SqliteWatch;

    fn watch(&self) -> Result<SqliteWatch, RegistryError> {
        let directory = DirectoryWatch::start(&directory_of(&self.settings.path), Wake::OnWrite)?;
        let reader = Reader {
            settings: self.settings.clone(),
            namespace: self.namespace.clone(),
            database: None,
            last: Hosts::default(),
            steps: Steps::new(self.settings.update_interval),
            oldest: 0,
        };
        Ok(SqliteWatch { reader: Some(reader), directory })
    }
}

impl Registrar for SqliteRegistry {
    fn register(&self, entry: &Entry, news: &Sink) -> Result<Box<dyn Registration>, RegistryError> {
        let (entries, receiver) = watch::channel(entry.clone());
        let writer = Writer { settings: self.settings.clone(), database: None };
        let task = tokio::spawn(renew(writer, receiver, news.clone()));
        Ok(Box::new(SqliteRegistration { entries, task }))
    }
}

/// The database, opened, with the tables in place.
struct Database {
    connection: Connection,
    /// Which file it is, since a name can get another one.
    file: Option<(u64, u64)>,
}

impl Database {
    fn open(settings: &Settings) -> rusqlite::Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = Connection::open_with_flags(&settings.path, flags)?;
        connection.busy_timeout(settings.busy_timeout)?;
        let journal = if settings.is_wal { "WAL" } else { "DELETE" };
        connection.pragma_update_and_check(None, "journal_mode", journal, |_| Ok(()))?;
        // A few rows need no more; the default is 2 MB per connection.
        connection.pragma_update(None, "cache_size", CACHE_KIB_NEGATIVE)?;
        migrate(&mut connection, settings)?;
        let file = file_at(&settings.path);
        Ok(Self { connection, file })
    }

    /// An old file whose name was taken away still answers, but nobody else reads it.
    fn is_named(&self, path: &Path) -> bool {
        self.file.is_some() && self.file == file_at(path)
    }
}

fn file_at(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

/// Makes the tables as daprd does, with its mark that it was done, so that either may come first.
fn migrate(connection: &mut Connection, settings: &Settings) -> rusqlite::Result<()> {
    let Settings { table, metadata_table, .. } = settings;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute(
        &format!(
            "CREATE TABLE IF NOT EXISTS {metadata_table} (key TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL)"
        ),
        [],
    )?;
    let done: Option<String> = transaction
        .query_row(
            &format!("SELECT value FROM {metadata_table} WHERE key = 'nr-migrations'"),
            [],
            |row| row.get(0),
        )
        .optional()?;
    if done.is_none() {
        transaction.execute_batch(&format!(
            "CREATE TABLE {table} (
                registration_id TEXT NOT NULL PRIMARY KEY,
                address TEXT NOT NULL,
                app_id TEXT NOT NULL,
                namespace TEXT NOT NULL,
                last_update INTEGER NOT NULL
            );
            CREATE UNIQUE INDEX {table}_address_idx ON {table} (address);
            CREATE INDEX {table}_last_update_idx ON {table} (last_update);
            INSERT INTO {metadata_table} (key, value) VALUES ('nr-migrations', '1');"
        ))?;
    }
    transaction.commit()
}

/// What a look at the table found.
#[derive(Clone, Debug, Default)]
struct Hosts {
    /// By registration.
    rows: BTreeMap<String, Host>,
    /// When a clean-up was last noted.
    cleanup: Option<String>,
    skipped: Skipped,
}

#[derive(Clone, Debug, PartialEq)]
struct Host {
    row: Row,
    /// Seconds since 1970.
    last_update: u64,
}

/// Rows that cannot be used.
#[derive(Clone, Debug, Default, PartialEq)]
struct Skipped {
    count: u64,
    first: Option<String>,
}

struct Reader {
    settings: Settings,
    namespace: Namespace,
    database: Option<Database>,
    last: Hosts,
    steps: Steps,
    /// Times before this one did not count when the table was last read.
    oldest: u64,
}

impl Reader {
    /// The live rows, and what is worth a line in the log.
    fn read(&mut self) -> rusqlite::Result<(Vec<Row>, Option<String>)> {
        self.read_at(seconds_now(), Instant::now())
    }

    /// By what the two clocks show: the wall clock, in which times are written, may be set.
    fn read_at(&mut self, wall: u64, now: Instant) -> rusqlite::Result<(Vec<Row>, Option<String>)> {
        let mut database = match self.database.take() {
            Some(database) if database.is_named(&self.settings.path) => database,
            _ => Database::open(&self.settings)?,
        };
        let recent = self.steps.recent(wall, now);
        let mut hosts = select(&mut database.connection, &self.settings, &self.namespace, &recent)?;
        self.keep_cleaned_up(&mut hosts, &recent);
        self.oldest = *recent.start();
        let is_news = hosts.skipped.count > 0 && hosts.skipped != self.last.skipped;
        let complaint = is_news.then(|| hosts.skipped.to_string());
        self.database = Some(database);
        self.last = hosts;
        Ok((self.last.rows.values().map(|host| host.row.clone()).collect(), complaint))
    }

    /// daprd's clean-up deletes the rows that are *younger* than the interval, that is, all that
    /// are alive; their owners write them anew when they next renew. A row that went with a
    /// clean-up was not taken back.
    fn keep_cleaned_up(&self, hosts: &mut Hosts, recent: &RangeInclusive<u64>) {
        if hosts.cleanup == self.last.cleanup {
            return;
        }
        let mut is_kept = false;
        for (registration, host) in &self.last.rows {
            let is_alive = recent.contains(&host.last_update);
            let is_back = hosts.rows.contains_key(registration)
                || hosts.rows.values().any(|h| h.row.address == host.row.address);
            if is_alive && !is_back {
                hosts.rows.insert(registration.clone(), host.clone());
                is_kept = true;
            }
        }
        if is_kept {
            // The old mark stays until the owners came back, so that the next read keeps the rows
            // too.
            hosts.cleanup.clone_from(&self.last.cleanup);
        }
    }

    /// When the first row runs out, as far as that can be known: the clock may be set.
    fn next_expiry(&self) -> Option<Duration> {
        let interval = self.settings.update_interval.as_secs();
        let first = self.last.rows.values().map(|host| host.last_update).min()?;
        Some(Duration::from_secs((first + 1).saturating_sub(self.oldest).clamp(1, interval)))
    }
}

impl std::fmt::Display for Skipped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let first = self.first.as_deref().unwrap_or_default();
        write!(
            f,
            "{} rows name no app at an address and are skipped; the first: {first}",
            self.count
        )
    }
}

fn select(
    connection: &mut Connection,
    settings: &Settings,
    namespace: &Namespace,
    recent: &RangeInclusive<u64>,
) -> rusqlite::Result<Hosts> {
    let Settings { table, metadata_table, .. } = settings;
    // One transaction, so that rows and mark belong to the same moment.
    let transaction = connection.transaction()?;
    let mut hosts = Hosts {
        cleanup: transaction
            .query_row(
                &format!("SELECT value FROM {metadata_table} WHERE key = 'nr-last-cleanup'"),
                [],
                |row| row.get(0),
            )
            .optional()?,
        ..Hosts::default()
    };
    let sql = format!(
        "SELECT registration_id, address, app_id, last_update FROM {table} WHERE last_update BETWEEN ?1 AND ?2"
    );
    let mut statement = transaction.prepare(&sql)?;
    let mut rows = statement.query(params![signed(*recent.start()), signed(*recent.end())])?;
    while let Some(row) = rows.next()? {
        let registration: String = row.get(0)?;
        let (address, id): (String, String) = (row.get(1)?, row.get(2)?);
        let last_update = u64::try_from(row.get::<_, i64>(3)?).unwrap_or_default();
        match parse(&registration, &id, &address, namespace) {
            Ok(row) if hosts.rows.len() < ROWS_MAX => {
                let revision = Revision::Host { renewed: last_update };
                let host = Host { row: Row { revision, ..row }, last_update };
                hosts.rows.insert(registration, host);
            }
            Ok(_) => hosts.skipped.add(|| format!("there are more than {ROWS_MAX}")),
            Err(reason) => hosts.skipped.add(|| reason),
        }
    }
    Ok(hosts)
}

impl Skipped {
    fn add(&mut self, reason: impl FnOnce() -> String) {
        self.count += 1;
        self.first.get_or_insert_with(reason);
    }
}

fn parse(
    registration: &str,
    id: &str,
    address: &str,
    namespace: &Namespace,
) -> Result<Row, String> {
    let socket: SocketAddr = address.parse().map_err(|_| format!("address {address:?}"))?;
    Ok(Row {
        id: AppId::new(id).map_err(|e| format!("app_id {id:?}: {e}"))?,
        namespace: namespace.clone(),
        instance: InstanceId(registration.into()),
        address: Address::Tcp(socket),
        revision: Revision::None,
        zone: None,
    })
}

fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// SQLite has no unsigned numbers.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(crate) struct SqliteWatch {
    /// `None` while a thread of the blocking pool has it.
    reader: Option<Reader>,
    directory: DirectoryWatch,
}

impl Watch for SqliteWatch {
    fn rows(&self) -> Vec<Row> {
        Vec::new()
    }

    async fn run(mut self, news: Sink) {
        loop {
            let Some(mut reader) = self.reader.take() else { return };
            let read = tokio::task::spawn_blocking(move || {
                let result = reader.read();
                (reader, result)
            });
            let Ok((reader, result)) = read.await else { return };
            let pause = match result {
                Ok((rows, complaint)) => {
                    if let Some(complaint) = complaint {
                        news.tell(News::Complaint(complaint)).await;
                    }
                    news.tell(News::Rows(rows)).await;
                    reader.next_expiry()
                }
                Err(e) => {
                    let path = reader.settings.path.display();
                    news.tell(News::Away(format!("{path}: {e}"))).await;
                    Some(RETRY_PAUSE)
                }
            };
            self.reader = Some(reader);
            if !self.wait(pause, &news).await {
                return;
            }
        }
    }
}

impl SqliteWatch {
    /// Until there is something to read; `false`: nobody listens any more.
    async fn wait(&mut self, pause: Option<Duration>, news: &Sink) -> bool {
        let read_at = Instant::now();
        let expiry = async {
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = news.closed() => return false,
            () = expiry => return true,
            changed = self.directory.changed() => {
                if let Err(e) = changed {
                    news.tell(News::Away(format!("cannot watch: {e}"))).await;
                    return false;
                }
            }
        }
        // Every sidecar of the host renews its row all the time; together they cost a few reads a
        // second at most.
        tokio::time::sleep_until(read_at + READ_PAUSE_MIN).await;
        true
    }
}

struct SqliteRegistration {
    entries: watch::Sender<Entry>,
    task: JoinHandle<()>,
}

impl Registration for SqliteRegistration {
    fn update(&mut self, entry: &Entry) -> Result<(), RegistryError> {
        self.entries.send_replace(entry.clone());
        Ok(())
    }

    fn end(self: Box<Self>) -> Option<JoinHandle<()>> {
        // Without a sender the task takes the row back and ends.
        Some(self.task)
    }
}

struct Writer {
    settings: Settings,
    database: Option<Database>,
}

impl Writer {
    fn with_database<T>(
        &mut self,
        act: impl FnOnce(&mut Connection, &Settings) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let mut database = match self.database.take() {
            Some(database) if database.is_named(&self.settings.path) => database,
            _ => Database::open(&self.settings)?,
        };
        let result = act(&mut database.connection, &self.settings)?;
        self.database = Some(database);
        Ok(result)
    }

    /// Writes the row, new or again: REPLACE also takes over what a predecessor left at the same
    /// address.
    fn write(&mut self, entry: &Entry) -> rusqlite::Result<()> {
        let Some(address) = entry.remote_peer else { return Ok(()) };
        self.with_database(|connection, settings| {
            connection.execute(
                &format!(
                    "REPLACE INTO {} (registration_id, address, app_id, namespace, last_update)
                    VALUES (?1, ?2, ?3, '', ?4)",
                    settings.table
                ),
                params![
                    &*entry.instance.0,
                    address.to_string(),
                    entry.id.as_str(),
                    signed(seconds_now())
                ],
            )?;
            clean_up(connection, settings)
        })
    }

    fn remove(&mut self, entry: &Entry) -> rusqlite::Result<()> {
        self.with_database(|connection, settings| {
            let sql = format!("DELETE FROM {} WHERE registration_id = ?1", settings.table);
            connection.execute(&sql, params![&*entry.instance.0]).map(|_| ())
        })
    }
}

/// Deletes what ran out, as daprd means to, once per interval for all sidecars of the host.
fn clean_up(connection: &mut Connection, settings: &Settings) -> rusqlite::Result<()> {
    let Settings { table, metadata_table, .. } = settings;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let is_due = transaction.execute(
        &format!(
            "INSERT INTO {metadata_table} (key, value) VALUES ('nr-last-cleanup', CURRENT_TIMESTAMP)
            ON CONFLICT (key) DO UPDATE SET value = CURRENT_TIMESTAMP
            WHERE unixepoch(CURRENT_TIMESTAMP) - unixepoch(value) > ?1"
        ),
        params![signed(settings.cleanup_interval.as_secs())],
    )? > 0;
    if is_due {
        transaction.execute(
            &format!("DELETE FROM {table} WHERE ?1 - last_update >= ?2"),
            params![signed(seconds_now()), signed(settings.update_interval.as_secs())],
        )?;
    }
    transaction.commit()
}

/// Keeps our row alive until the registration ends, then takes it back.
async fn renew(mut writer: Writer, mut entries: watch::Receiver<Entry>, news: Sink) {
    let pause = writer.settings.update_interval.saturating_sub(writer.settings.timeout);
    let mut last_complaint = None;
    loop {
        let entry = entries.borrow_and_update().clone();
        let (back, result) = blocking(writer, move |writer| writer.write(&entry)).await;
        writer = back;
        let complaint = result.err().map(|e| format!("cannot register: {e}"));
        if let Some(text) = complaint.clone().filter(|_| complaint != last_complaint) {
            news.tell(News::Complaint(text)).await;
        }
        let pause = if complaint.is_some() { RETRY_PAUSE } else { pause };
        last_complaint = complaint;
        if let Ok(Err(_)) = tokio::time::timeout(pause, entries.changed()).await {
            break;
        }
    }
    let entry = entries.borrow().clone();
    // What cannot be deleted runs out.
    let _ = blocking(writer, move |writer| writer.remove(&entry)).await;
}

async fn blocking(
    mut writer: Writer,
    act: impl FnOnce(&mut Writer) -> rusqlite::Result<()> + Send + 'static,
) -> (Writer, rusqlite::Result<()>) {
    let done = tokio::task::spawn_blocking(move || {
        let result = act(&mut writer);
        (writer, result)
    });
    done.await.expect("a statement does not panic")
}

/// As SQLite wants it: negative numbers are KiB.
const CACHE_KIB_NEGATIVE: i32 = -64;

/// Hosts share a database on one machine.
const ROWS_MAX: usize = 10_000;

const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Least time between two reads of the table.
const READ_PAUSE_MIN: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_dir::TestDir;
    use tokio::sync::mpsc::Receiver;

    fn settings(temp: &TestDir) -> Settings {
        Settings {
            path: temp.path().join("hosts.db"),
            table: "hosts".into(),
            metadata_table: "metadata".into(),
            update_interval: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
            busy_timeout: Duration::from_millis(800),
            cleanup_interval: Duration::from_secs(3600),
            is_wal: true,
        }
    }

    fn entry(id: &str, instance: &str, port: u16) -> Entry {
        let mut entry = Entry::sample(id, instance);
        entry.remote_peer = Some(([10, 0, 0, 1], port).into());
        entry
    }

    fn insert(database: &Database, registration: &str, id: &str, address: &str, age: u64) {
        insert_at(database, registration, id, address, seconds_now() - age);
    }

    fn insert_at(database: &Database, registration: &str, id: &str, address: &str, time: u64) {
        let sql = "REPLACE INTO hosts VALUES (?1, ?2, ?3, '', ?4)";
        let parameters = params![registration, address, id, signed(time)];
        database.connection.execute(sql, parameters).unwrap();
    }

    async fn rows(news: &mut Receiver<(usize, News)>, want: &[&str]) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let next = tokio::time::timeout_at(deadline, news.recv()).await;
            let (_, next) = next.unwrap_or_else(|_| panic!("no {want:?} in time")).unwrap();
            if let News::Rows(rows) = next {
                let mut got: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
                got.sort_unstable();
                if got == want {
                    return;
                }
            }
        }
    }

    fn reader(settings: &Settings) -> Reader {
        Reader {
            settings: settings.clone(),
            namespace: Namespace::default(),
            database: None,
            last: Hosts::default(),
            steps: Steps::new(settings.update_interval),
            oldest: 0,
        }
    }

    fn ids(rows: &[Row]) -> Vec<&str> {
        rows.iter().map(|row| row.id.as_str()).collect()
    }

    #[test]
    fn a_clock_that_is_set_takes_nobody_away_and_keeps_nobody() {
        for (case, step) in [("forward", 3600), ("back", -3600)] {
            let temp = TestDir::new();
            let settings = settings(&temp);
            let database = Database::open(&settings).unwrap();
            let mut reader = reader(&settings);
            let (wall, now) = (seconds_now(), Instant::now());
            let later = |seconds: u64| now + Duration::from_secs(seconds);
            reader.read_at(wall - 100, now).unwrap();
            insert_at(&database, "1", "alive", "10.0.0.1:1", wall);
            insert_at(&database, "2", "dead", "10.0.0.1:2", wall - 2);
            assert_eq!(ids(&reader.read_at(wall, later(100)).unwrap().0), ["alive", "dead"]);
            let set = wall.saturating_add_signed(step);
            let found = reader.read_at(set + 1, later(101)).unwrap().0;
            assert_eq!(ids(&found), ["alive", "dead"], "{case}: none had time to renew");
            // Who lives renews, by the clock as it is now.
            let sql = "UPDATE hosts SET last_update = ?1 WHERE app_id = 'alive'";
            database.connection.execute(sql, params![signed(set + 4)]).unwrap();
            let found = reader.read_at(set + 4, later(104)).unwrap().0;
            assert!(ids(&found).contains(&"alive"), "{case}: {found:?}");
            let found = reader.read_at(set + 6, later(106)).unwrap().0;
            assert_eq!(ids(&found), ["alive"], "{case}: an interval later");
        }
    }

    #[test]
    fn reads_the_rows_that_are_alive() {
        let temp = TestDir::new();
        let settings = settings(&temp);
        let database = Database::open(&settings).unwrap();
        let (wall, now) = (seconds_now(), Instant::now());
        insert_at(&database, "1", "fresh", "10.0.0.1:1", wall - 4);
        insert_at(&database, "2", "stale", "10.0.0.1:2", wall - 5);
        insert_at(&database, "3", "a.b", "10.0.0.1:3", wall);
        insert_at(&database, "4", "name", "host:4", wall);
        insert_at(&database, "5", "six", "[::1]:4", wall);
        let mut reader = reader(&settings);
        let (rows, complaint) = reader.read_at(wall, now).unwrap();
        assert_eq!(ids(&rows), ["fresh", "six"]);
        let complaint = complaint.unwrap();
        assert!(complaint.starts_with("2 rows name no app"), "{complaint}");
        assert_eq!(reader.read_at(wall, now).unwrap().1, None, "the same rubbish twice");
    }

    #[test]
    fn a_clean_up_of_living_rows_takes_nobody_away_but_a_goodbye_does() {
        let temp = TestDir::new();
        let settings = settings(&temp);
        let database = Database::open(&settings).unwrap();
        let (wall, now) = (seconds_now(), Instant::now());
        insert_at(&database, "1", "a", "10.0.0.1:1", wall - 1);
        insert_at(&database, "2", "b", "10.0.0.1:2", wall - 4);
        let mut reader = reader(&settings);
        let mut read = || reader.read_at(wall, now).unwrap().0;
        assert_eq!(read().len(), 2);
        // As daprd 1.18 writes it: the comparison is the wrong way round.
        database
            .connection
            .execute_batch(&format!(
                "INSERT INTO metadata VALUES ('nr-last-cleanup', CURRENT_TIMESTAMP);
                 DELETE FROM hosts WHERE {wall} - last_update < 5;",
            ))
            .unwrap();
        assert_eq!(ids(&read()), ["a", "b"]);
        assert_eq!(ids(&read()), ["a", "b"], "also when it is read again");
        insert_at(&database, "1", "a", "10.0.0.1:1", wall);
        insert_at(&database, "2", "b", "10.0.0.1:2", wall);
        assert_eq!(ids(&read()), ["a", "b"]);
        database.connection.execute("DELETE FROM hosts WHERE registration_id = '2'", []).unwrap();
        assert_eq!(ids(&read()), ["a"]);
    }

    #[test]
    fn makes_tables_that_daprd_takes_for_its_own() {
        let temp = TestDir::new();
        let settings = settings(&temp);
        drop(Database::open(&settings).unwrap());
        let database = Database::open(&settings).unwrap();
        let text = |sql: &str| -> String {
            database.connection.query_row(sql, [], |row| row.get(0)).unwrap()
        };
        assert_eq!(text("SELECT value FROM metadata WHERE key = 'nr-migrations'"), "1");
        assert_eq!(text("PRAGMA journal_mode"), "wal");
        assert_eq!(
            text("SELECT group_concat(name, ' ') FROM pragma_table_info('hosts')"),
            "registration_id address app_id namespace last_update"
        );
        insert(&database, "1", "a", "10.0.0.1:1", 0);
        insert(&database, "2", "b", "10.0.0.1:1", 0);
        assert_eq!(text("SELECT group_concat(app_id) FROM hosts"), "b", "addresses are unique");
    }

    #[test]
    fn cleans_up_what_ran_out_and_only_when_due() {
        let temp = TestDir::new();
        let settings = settings(&temp);
        let mut database = Database::open(&settings).unwrap();
        for _ in 0..2 {
            insert(&database, "1", "old", "10.0.0.1:1", 60);
            insert(&database, "2", "new", "10.0.0.1:2", 0);
            clean_up(&mut database.connection, &settings).unwrap();
        }
        let ids: String = database
            .connection
            .query_row(
                "SELECT group_concat(app_id) FROM (SELECT app_id FROM hosts ORDER BY app_id)",
                [],
                |row| row.get(0),
            )
            .unwrap();
        assert_eq!(ids, "new,old", "the second clean-up was not due");
    }

    #[tokio::test]
    async fn registers_renews_and_takes_back() {
        let temp = TestDir::new();
        let settings = settings(&temp);
        let registry = SqliteRegistry::new(settings.clone(), Namespace::default());
        let (sink, mut news) = Sink::pair();
        tokio::spawn(registry.watch().unwrap().run(sink.clone()));
        rows(&mut news, &[]).await;
        let first = registry.register(&entry("a", "1", 1), &sink).unwrap();
        let second = registry.register(&entry("b", "2", 2), &sink).unwrap();
        rows(&mut news, &["a", "b"]).await;
        first.end().unwrap().await.unwrap();
        rows(&mut news, &["b"]).await;
        let database = Database::open(&settings).unwrap();
        database.connection.execute("DELETE FROM hosts", []).unwrap();
        rows(&mut news, &[]).await;
        // Written anew at the next renewal.
        rows(&mut news, &["b"]).await;
        drop(second);
        rows(&mut news, &[]).await;
    }

    #[tokio::test]
    async fn a_row_that_is_not_renewed_runs_out_without_an_event() {
        let temp = TestDir::new();
        let settings = settings(&temp);
        let database = Database::open(&settings).unwrap();
        insert(&database, "1", "a", "10.0.0.1:1", 1);
        let registry = SqliteRegistry::new(settings, Namespace::default());
        let (sink, mut news) = Sink::pair();
        tokio::spawn(registry.watch().unwrap().run(sink));
        rows(&mut news, &["a"]).await;
        rows(&mut news, &[]).await;
    }

    #[tokio::test]
    async fn a_broken_database_is_away_until_it_is_whole() {
        let temp = TestDir::new();
        let settings = settings(&temp);
        std::fs::write(&settings.path, "this is no database, however long one looks at it")
            .unwrap();
        let registry = SqliteRegistry::new(settings.clone(), Namespace::default());
        let (sink, mut news) = Sink::pair();
        tokio::spawn(registry.watch().unwrap().run(sink));
        let told = news.recv().await.unwrap().1;
        assert!(matches!(&told, News::Away(text) if text.contains("not a database")), "{told:?}");
        std::fs::remove_file(&settings.path).unwrap();
        let database = Database::open(&settings).unwrap();
        insert(&database, "1", "a", "10.0.0.1:1", 0);
        rows(&mut news, &["a"]).await;
    }
}
