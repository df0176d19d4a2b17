//! daprd's `nameresolution.sqlite`: one table in a database file that the sidecars of a host share.
//!
//! A row counts for `updateInterval` after its last renewal. The file's directory is watched, so
//! that a new row is seen when it is written; only its running out needs a timer. SQLite blocks, so
//! each statement runs on a thread of the runtime's blocking pool, never on the one that serves the
//! data plane.

#![forbid(unsafe_code)]

mod database;
mod reader;
mod registration;

use super::{
    Entry, News, Registrar, Registration, Registry, RegistryError, Row, Sink, Watch,
    inotify::{DirectoryWatch, Wake, directory_of},
};
use reader::Reader;
use registration::SqliteRegistration;
use snapshot::Namespace;
use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::time::Instant;

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
        let reader = Reader::new(self.settings.clone(), self.namespace.clone());
        Ok(SqliteWatch { reader: Some(reader), directory })
    }
}

impl Registrar for SqliteRegistry {
    fn register(&self, entry: &Entry, news: &Sink) -> Result<Box<dyn Registration>, RegistryError> {
        Ok(Box::new(SqliteRegistration::start(self.settings.clone(), entry, news)))
    }
}

pub(crate) struct SqliteWatch {
    /// `None` while a thread of the blocking pool has it.
    reader: Option<Reader>,
    directory: DirectoryWatch,
}

impl Watch for SqliteWatch {
    fn rows(&self) -> Vec<Arc<Row>> {
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

fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// SQLite has no unsigned numbers.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Least time between two reads of the table.
const READ_PAUSE_MIN: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::{database::Database, registration::clean_up, *};
    use crate::test_dir::TestDir;
    use rusqlite::params;
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
        Reader::new(settings.clone(), Namespace::default())
    }

    fn ids(rows: &[Arc<Row>]) -> Vec<&str> {
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
