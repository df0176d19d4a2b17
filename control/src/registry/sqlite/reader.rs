//! Which rows of the table count: those renewed not long ago, by a clock that may be set, and those
//! that a clean-up of daprd's took away while their owners live.

#![forbid(unsafe_code)]

use super::{Settings, database::Database, seconds_now, signed};
use crate::registry::{Revision, Row, steps::Steps};
use rusqlite::{Connection, OptionalExtension, params};
use snapshot::{Address, AppId, InstanceId, Namespace};
use std::{collections::BTreeMap, net::SocketAddr, ops::RangeInclusive, sync::Arc, time::Duration};
use tokio::time::Instant;

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
    row: Arc<Row>,
    /// Seconds since 1970.
    last_update: u64,
}

/// Rows that cannot be used.
#[derive(Clone, Debug, Default, PartialEq)]
struct Skipped {
    count: u64,
    first: Option<String>,
}

pub(super) struct Reader {
    pub(super) settings: Settings,
    namespace: Namespace,
    database: Option<Database>,
    last: Hosts,
    steps: Steps,
    /// Times before this one did not count when the table was last read.
    oldest: u64,
}

impl Reader {
    pub(super) fn new(settings: Settings, namespace: Namespace) -> Self {
        let steps = Steps::new(settings.update_interval);
        Self { settings, namespace, database: None, last: Hosts::default(), steps, oldest: 0 }
    }

    /// The live rows, and what is worth a line in the log.
    pub(super) fn read(&mut self) -> rusqlite::Result<(Vec<Arc<Row>>, Option<String>)> {
        self.read_at(seconds_now(), Instant::now())
    }

    /// By what the two clocks show: the wall clock, in which times are written, may be set.
    pub(super) fn read_at(
        &mut self,
        wall: u64,
        now: Instant,
    ) -> rusqlite::Result<(Vec<Arc<Row>>, Option<String>)> {
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
        Ok((self.last.rows.values().map(|host| Arc::clone(&host.row)).collect(), complaint))
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
    pub(super) fn next_expiry(&self) -> Option<Duration> {
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
                let host = Host { row: Arc::new(Row { revision, ..row }), last_update };
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

/// Hosts share a database on one machine.
const ROWS_MAX: usize = 10_000;
