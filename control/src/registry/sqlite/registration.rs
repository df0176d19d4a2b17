//! Our own row: written, renewed for as long as the app is registered, and taken back. Whoever
//! renews cleans up after all sidecars of the host, when that is due.

#![forbid(unsafe_code)]

use super::{RETRY_PAUSE, Settings, database::Database, seconds_now, signed};
use crate::registry::{Entry, News, Registration, RegistryError, Sink};
use rusqlite::{Connection, TransactionBehavior, params};
use tokio::{sync::watch, task::JoinHandle};

pub(super) struct SqliteRegistration {
    entries: watch::Sender<Entry>,
    task: JoinHandle<()>,
}

impl SqliteRegistration {
    /// Must be called within the runtime.
    pub(super) fn start(settings: Settings, entry: &Entry, news: &Sink) -> Self {
        let (entries, receiver) = watch::channel(entry.clone());
        let writer = Writer { settings, database: None };
        Self { entries, task: tokio::spawn(renew(writer, receiver, news.clone())) }
    }
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

pub(super) struct Writer {
    pub(super) settings: Settings,
    pub(super) database: Option<Database>,
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
    pub(super) fn write(&mut self, entry: &Entry) -> rusqlite::Result<()> {
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
pub(super) fn clean_up(connection: &mut Connection, settings: &Settings) -> rusqlite::Result<()> {
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
