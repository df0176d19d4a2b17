//! The database file: opened as daprd opens it, with tables that either of both may have made.

#![forbid(unsafe_code)]

use super::Settings;
use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior};
use std::{os::unix::fs::MetadataExt, path::Path};

/// The database, opened, with the tables in place.
pub(super) struct Database {
    pub(super) connection: Connection,
    /// Which file it is, since a name can get another one.
    file: Option<(u64, u64)>,
}

impl Database {
    pub(super) fn open(settings: &Settings) -> rusqlite::Result<Self> {
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
    pub(super) fn is_named(&self, path: &Path) -> bool {
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

/// As SQLite wants it: negative numbers are KiB.
const CACHE_KIB_NEGATIVE: i32 = -64;
