//! The component `sqlite`, with daprd's options.

#![forbid(unsafe_code)]

use super::{Reader, options::Options};
use crate::{registry::sqlite, yaml::Place};
use std::{path::PathBuf, time::Duration};

impl Reader {
    pub(super) fn sqlite(&mut self, options: &mut Options<'_>) -> Option<sqlite::Settings> {
        let connection = self.required(options, "connectionString");
        let table = self.identifier(options, "tableName", "hosts");
        let metadata_table = self.identifier(options, "metadataTableName", "metadata");
        let timeout = self.duration(options, "timeout", Duration::from_secs(1));
        let busy_timeout = self.duration(options, "busyTimeout", Duration::from_millis(800));
        let update_interval = self.seconds(options, "updateInterval", Duration::from_secs(5));
        if update_interval.saturating_sub(timeout) < Duration::from_secs(1) {
            self.problem(
                options.place,
                "sqlite: updateInterval must be at least 1s longer than timeout",
            );
        }
        let cleanup_interval = self.duration(options, "cleanupInterval", Duration::from_secs(3600));
        let is_wal = !self.flag(options, "disableWAL");
        let path = self.database_path(&connection?, options.place)?;
        Some(sqlite::Settings {
            path,
            table,
            metadata_table,
            update_interval,
            timeout,
            busy_timeout,
            cleanup_interval,
            is_wal,
        })
    }

    /// daprd takes a path or a `file:` URI whose parameters are for its driver.
    fn database_path(&mut self, connection: &str, place: Place) -> Option<PathBuf> {
        let path = connection.strip_prefix("file:").unwrap_or(connection);
        let (path, parameters) = path.split_once('?').unwrap_or((path, ""));
        let path = path.strip_prefix("//").unwrap_or(path);
        if path.is_empty() || path == ":memory:" || parameters.contains("mode=memory") {
            self.problem(place, "sqlite: connectionString names a database in memory, which no other sidecar could see; name a file");
            return None;
        }
        Some(path.into())
    }

    fn identifier(&mut self, options: &mut Options<'_>, name: &str, default: &str) -> String {
        let Some((text, place)) = self.text_at(options, name) else { return default.to_owned() };
        let is_sound = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !is_sound {
            let message = format!("{}: {name} {text:?} is no identifier", options.component);
            self.problem(place, message);
        }
        text
    }
}
