//! Other registries while a sidecar runs: the new ones are watched first, and the old ones go when
//! they are not needed any more.
//!
//! ```text
//!   wanted ──renew──► leaving ──every app it knows is known to others, or SETTLE_TIMEOUT──► gone
//! ```
//! The rows of those that leave stay in the table until then, and so does our entry with them: a
//! caller finds an app that both know without a gap, and so do those who still read the old ones.

#![forbid(unsafe_code)]

use super::{
    Entry, RegistryError, Settings, Sink,
    registries::{Change, Registries},
    source::Source,
};
use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};
use tokio::time::Instant;

impl Registries {
    /// Follows these registries from now on, for the apps with these entries. Those that are
    /// `registered` with the old ones already are with the new ones, too.
    ///
    /// [`Change::Settled`] comes when the old ones are gone. Must be called within the runtime.
    ///
    /// # Errors
    /// When one of them can never work as it is configured; then all stay as they were.
    pub(crate) fn renew(
        &mut self,
        settings: &Settings,
        entries: &[&Entry],
        registered: &[&Entry],
    ) -> Result<(), RegistryError> {
        let before = self.settings.clone();
        let mut new = self.watch_changed(&before, settings, entries)?;
        let leaves_at = Instant::now() + SETTLE_TIMEOUT;
        let stays = |name: &str| match name {
            "dns" => before.dns == settings.dns,
            "etcd" => before.etcd == settings.etcd,
            "file" => before.file == settings.file,
            "sqlite" => before.sqlite == settings.sqlite,
            _ => true,
        };
        for source in &mut self.sources {
            if !source.is_leaving() && !stays(source.name) {
                source.leaves_at = Some(leaves_at);
            }
        }
        self.settings = settings.clone();
        let mut result = Ok(());
        for source in &mut new {
            let sink = Sink { source: source.id, sender: self.sender() };
            for entry in registered {
                result = result.and(source.register(entry, &sink));
            }
        }
        self.take_in(new);
        (self.is_stale, self.is_news) = (true, true);
        result
    }

    /// What is configured now.
    pub(crate) const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Lets those go that are not needed any more.
    pub(super) fn settle(&mut self) {
        if !self.sources.iter().any(Source::is_leaving) {
            return;
        }
        let is_covered = std::mem::take(&mut self.is_news) && self.is_covered();
        let now = Instant::now();
        let (gone, stay): (Vec<Source>, Vec<Source>) = std::mem::take(&mut self.sources)
            .into_iter()
            .partition(|source| source.leaves_at.is_some_and(|at| is_covered || at <= now));
        self.sources = stay;
        if gone.is_empty() {
            return;
        }
        let mut answers = Vec::new();
        for mut source in gone {
            // Whoever asked must not wait for an answer that will not come.
            answers.extend(std::mem::take(&mut source.asked).into_iter().map(Change::Resolved));
            let registrations: BTreeMap<_, _> = std::mem::take(&mut source.registrations);
            self.ending.retain(|task| !task.is_finished());
            self.ending.extend(registrations.into_values().filter_map(|entry| entry.end()));
        }
        let routes = self.routes();
        self.changes.push_back(Change::Routes(routes));
        self.changes.extend(answers);
        if !self.sources.iter().any(Source::is_leaving) {
            self.changes.push_back(Change::Settled);
        }
    }

    /// Whether the registries that stay know every app that those that leave do.
    fn is_covered(&self) -> bool {
        let rows = |is_leaving: bool| {
            let sources = self.sources.iter().filter(move |s| s.is_leaving() == is_leaving);
            sources.flat_map(|s| s.rows.iter().map(|row| (&row.id, &row.namespace)))
        };
        if !self.sources.iter().all(|source| source.is_leaving() || source.is_told) {
            return false;
        }
        let known: HashSet<_> = rows(false).collect();
        rows(true).all(|name| known.contains(&name))
    }
}

/// For how long a registry that was left counts for apps that no other one knows. Longer than it
/// takes to connect, and for the owners of these apps, whose registries are changed along with
/// ours, to be registered; much longer, and a registry that was left because it is wrong would be
/// obeyed for too long.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(5);
