//! All registries of a sidecar as one: their tasks, their health, our entries in them, and one
//! table out of all of theirs.
//!
//! What is known of an app stays known while its registry is away, and while one goes that is not
//! wanted any more.

#![forbid(unsafe_code)]

use super::{
    Entry, News, Registrar, Registration, Registry, RegistryError, Settings, Sink, Watch,
    dns::{DnsRegistry, Question},
    etcd::EtcdRegistry,
    file::FileRegistry,
    local::LocalRegistry,
    merge::merge,
    own::Own,
    remembered::Remembered,
    source::{Health, Rank, Source},
    sqlite::SqliteRegistry,
};
use crate::{log::Log, runtime_dir::RuntimeDir};
use snapshot::{
    AppId, InstanceId, Namespace, Route,
    wire::{Counter, CounterKind},
};
use std::{
    collections::{BTreeMap, VecDeque},
    os::fd::OwnedFd,
    sync::Arc,
    time::Duration,
};
use tokio::{sync::mpsc, task::JoinHandle, time::Instant};

pub(crate) struct Registries {
    pub(super) settings: Settings,
    pub(super) own: Own,
    /// In the order of their say.
    pub(super) sources: Vec<Source>,
    /// Names of sources above this one are free.
    pub(super) last_source: usize,
    remembered: Remembered,
    sender: mpsc::Sender<(usize, News)>,
    news: mpsc::Receiver<(usize, News)>,
    pub(super) changes: VecDeque<Change>,
    /// What is served here changed, and with it whom the tables may name.
    pub(super) is_stale: bool,
    /// Something was heard since this was last looked at.
    pub(super) is_news: bool,
    /// Entries that are being taken back.
    pub(super) ending: Vec<JoinHandle<()>>,
    log: Log,
}

/// What [`Registries::next`] found.
#[derive(Debug, PartialEq)]
pub(crate) enum Change {
    Routes(Vec<Route>),
    /// The question with this number was answered; the routes before this are the answer.
    Resolved(u64),
    /// Registries that were left have nothing more to say.
    Settled,
}

impl Registries {
    /// Starts to watch all of them, for those who are about to be served. `held` is what the data
    /// plane of an earlier control calls. Must be called within the runtime the sidecar runs on.
    ///
    /// # Errors
    /// When one of them can never work as it is configured.
    pub(crate) fn start(
        settings: &Settings,
        dir: &RuntimeDir,
        entries: &[&Entry],
        held: Vec<Route>,
        log: &Log,
    ) -> Result<Self, RegistryError> {
        let mut all = Self::empty(entries, log);
        all.remembered = Remembered::new(&held, dir);
        let local = LocalRegistry::new(dir.clone());
        let registrar = Box::new(LocalRegistry::new(dir.clone()));
        let local = all.watch("local", Rank::Discovered, &local, Some(registrar))?;
        let new = all.watch_changed(&Settings::default(), settings, entries)?;
        all.settings = settings.clone();
        all.take_in(std::iter::once(local).chain(new).collect());
        all.forget_when_read();
        Ok(all)
    }

    /// Starts to watch the registries that are configured, and otherwise than before.
    ///
    /// # Errors
    /// When one of them can never work as it is configured; then none is watched.
    pub(super) fn watch_changed(
        &mut self,
        before: &Settings,
        settings: &Settings,
        entries: &[&Entry],
    ) -> Result<Vec<Source>, RegistryError> {
        let mut new = Vec::new();
        if let Some(file) = changed(&before.file, &settings.file) {
            new.push(self.watch("file", Rank::Written, &FileRegistry::new(file), None)?);
        }
        if let Some(sqlite) = changed(&before.sqlite, &settings.sqlite) {
            let namespace = entries.first().map(|entry| entry.namespace.clone());
            let namespace = namespace.unwrap_or_default();
            let registry = SqliteRegistry::new(sqlite, namespace);
            let registrar = Box::new(registry.clone());
            new.push(self.watch("sqlite", Rank::Discovered, &registry, Some(registrar))?);
        }
        if let Some(etcd) = changed(&before.etcd, &settings.etcd) {
            let registry = EtcdRegistry::new(etcd)?;
            let registrar = Box::new(registry.clone());
            new.push(self.watch("etcd", Rank::Discovered, &registry, Some(registrar))?);
        }
        if let Some(dns) = changed(&before.dns, &settings.dns) {
            let (questions, receiver) = mpsc::channel(QUESTIONS_MAX);
            let own_port = entries.iter().find_map(|entry| entry.remote_peer);
            let own_port = own_port.map_or(0, |address| address.port());
            let registry = DnsRegistry::new(dns, own_port, receiver)?;
            let mut source = self.watch("dns", Rank::Named, &registry, None)?;
            source.questions = Some(questions);
            new.push(source);
        }
        Ok(new)
    }

    /// Knows nobody, and nobody knows it.
    pub(crate) fn idle(log: &Log) -> Self {
        Self::empty(&[], log)
    }

    fn empty(entries: &[&Entry], log: &Log) -> Self {
        let mut own = Own::default();
        entries.iter().for_each(|entry| own.add(entry));
        let (sender, news) = mpsc::channel(NEWS_MAX);
        Self {
            settings: Settings::default(),
            own,
            sources: Vec::new(),
            last_source: 0,
            remembered: Remembered::default(),
            sender,
            news,
            changes: VecDeque::new(),
            is_stale: false,
            is_news: false,
            ending: Vec::new(),
            log: log.scoped("dapr.runtime.registry"),
        }
    }

    fn watch<R: Registry>(
        &mut self,
        name: &'static str,
        rank: Rank,
        registry: &R,
        registrar: Option<Box<dyn Registrar>>,
    ) -> Result<Source, RegistryError> {
        let watch = registry.watch()?;
        self.last_source += 1;
        let mut source = Source::new(name, rank, &watch, registrar);
        source.id = self.last_source;
        // Aborted when the source is dropped, so also when another one cannot be had.
        source.watch = Some(tokio::spawn(watch.run(self.sink(source.id))).abort_handle());
        Ok(source)
    }

    /// They have their say from now on, each in its place.
    pub(super) fn take_in(&mut self, new: Vec<Source>) {
        self.sources.extend(new);
        // The nearest first, and of two of one kind the newer one.
        let order = |source: &Source| {
            let place = ["file", "local", "sqlite", "etcd", "dns"];
            (place.iter().position(|name| *name == source.name), std::cmp::Reverse(source.id))
        };
        self.sources.sort_by_key(order);
    }

    pub(super) fn sender(&self) -> mpsc::Sender<(usize, News)> {
        self.sender.clone()
    }

    fn sink(&self, source: usize) -> Sink {
        Sink { source, sender: self.sender.clone() }
    }

    /// Where the apps other than our own can be called, by what is known now.
    pub(crate) fn routes(&self) -> Vec<Route> {
        let tables = self.sources.iter().map(|source| (source.rank, &source.rows[..]));
        merge(tables.chain([(Rank::Discovered, self.remembered.rows())]), &self.own)
    }

    /// Tells all registries that take entries of an app that is served here. One they know already
    /// is replaced.
    ///
    /// # Errors
    /// The first registry that cannot be written; all are tried.
    pub(crate) fn register(&mut self, entry: &Entry) -> Result<(), RegistryError> {
        self.own.add(entry);
        self.is_stale = true;
        let mut result = Ok(());
        let sender = self.sender.clone();
        for source in self.sources.iter_mut().filter(|source| !source.is_leaving()) {
            let sink = Sink { source: source.id, sender: sender.clone() };
            result = result.and(source.register(entry, &sink));
        }
        result
    }

    /// What keeps the entry known on this machine while control is away.
    pub(crate) fn hold(&self, instance: &InstanceId) -> Option<Arc<OwnedFd>> {
        let mut registrations = self.sources.iter().filter_map(|s| s.registrations.get(instance));
        registrations.find_map(|registration| registration.hold())
    }

    /// Takes an app's entries back: callers turn elsewhere from now on.
    pub(crate) fn withdraw(&mut self, entry: &Entry) {
        self.own.remove(entry);
        self.is_stale = true;
        self.ending.retain(|task| !task.is_finished());
        let registrations =
            self.sources.iter_mut().filter_map(|s| s.registrations.remove(&entry.instance));
        self.ending.extend(registrations.filter_map(Registration::end));
    }

    /// Takes back the entries of all apps, which are served on for a while.
    pub(crate) fn withdraw_all(&mut self) {
        let registrations = self.sources.iter_mut().map(|s| std::mem::take(&mut s.registrations));
        let registrations = registrations.flat_map(BTreeMap::into_values);
        self.ending.extend(registrations.filter_map(Registration::end));
    }

    /// Waits until the entries are gone, but not for a registry that is away: what it has of us
    /// ends by itself.
    pub(crate) async fn end(&mut self) {
        self.withdraw_all();
        let deadline = Instant::now() + END_TIMEOUT;
        for task in self.ending.drain(..) {
            let _ = tokio::time::timeout_at(deadline, task).await;
        }
    }

    /// Whether any registry knows only what it is asked for.
    pub(crate) fn can_resolve(&self) -> bool {
        self.sources.iter().any(|source| source.questions.is_some() && !source.is_leaving())
    }

    /// Asks for an app nobody told of; [`Change::Resolved`] follows with the same number. `false`:
    /// there is nobody to ask, or too much is being asked already.
    pub(crate) fn resolve(
        &mut self,
        number: u64,
        id: AppId,
        namespace: Namespace,
        is_stale: bool,
    ) -> bool {
        let question = Question { number, id, namespace, is_stale };
        let is_asked = |source: &&mut Source| source.questions.is_some() && !source.is_leaving();
        let Some(source) = self.sources.iter_mut().find(is_asked) else { return false };
        let questions = source.questions.as_ref();
        let is_taken = questions.is_some_and(|questions| questions.try_send(question).is_ok());
        if is_taken {
            source.asked.insert(number);
        }
        is_taken
    }

    /// The next change. Dropping the future before it is ready loses nothing.
    pub(crate) async fn next(&mut self) -> Change {
        loop {
            self.settle();
            if let Some(change) = self.changes.pop_front() {
                return change;
            }
            if std::mem::take(&mut self.is_stale) {
                return Change::Routes(self.routes());
            }
            let leaves_at = self.sources.iter().filter_map(|source| source.leaves_at).min();
            let leaving = async {
                match leaves_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // `self.sender` keeps the channel open.
                Some(first) = self.news.recv() => self.on_batch(first),
                () = leaving => {}
                () = self.remembered.patience_ended() => self.is_stale = self.forget_when_read(),
            }
        }
    }

    /// What was remembered is over when every registry has said what it knows; `true` when that is
    /// now.
    fn forget_when_read(&mut self) -> bool {
        let is_patient = self.remembered.is_patient();
        let has_spoken =
            |source: &Source| source.is_read || (!is_patient && source.health == Health::Up);
        let is_over = !self.remembered.rows().is_empty() && self.sources.iter().all(has_spoken);
        if is_over {
            self.remembered.forget();
        }
        is_over
    }

    /// Takes what has gathered along with it, so that many changes at once are one state.
    fn on_batch(&mut self, first: (usize, News)) {
        self.is_news = true;
        let mut is_changed = false;
        let mut resolved = Vec::new();
        let mut next = Some(first);
        while let Some((id, news)) = next.take() {
            // What a source said that is gone meanwhile is of no interest.
            if let Some(index) = self.sources.iter().position(|source| source.id == id) {
                is_changed |= self.on_news(index, news, &mut resolved);
            }
            next = self.news.try_recv().ok();
        }
        if self.forget_when_read() || is_changed {
            let routes = self.routes();
            self.changes.push_back(Change::Routes(routes));
        }
        self.changes.extend(resolved);
    }

    /// Whether the table changed.
    fn on_news(&mut self, index: usize, news: News, resolved: &mut Vec<Change>) -> bool {
        let mut is_changed = false;
        match news {
            News::Rows(rows) => {
                is_changed = self.sources[index].rows != rows;
                self.sources[index].rows = rows;
                self.sources[index].is_read = true;
                self.on_up(index);
            }
            News::Away(reason) => self.on_away(index, &reason),
            News::Back => self.on_up(index),
            News::Complaint(text) => {
                self.log.warning(format_args!("{}: {text}", self.sources[index].name));
            }
            News::Resolved(number) => {
                self.sources[index].asked.remove(&number);
                resolved.push(Change::Resolved(number));
            }
        }
        is_changed
    }

    fn on_away(&mut self, index: usize, reason: &str) {
        let source = &mut self.sources[index];
        let since = match source.health {
            Health::Away { .. } => return,
            Health::Starting { since } => since,
            Health::Up => Instant::now(),
        };
        source.health = Health::Away { since };
        if source.is_leaving() {
            return;
        }
        let name = source.name;
        self.log.error(format_args!("{name}: {reason}; the apps known so far stay reachable"));
    }

    fn on_up(&mut self, index: usize) {
        let source = &mut self.sources[index];
        if let Health::Away { since } = source.health {
            let seconds = since.elapsed().as_secs();
            self.log.info(format_args!("{}: is back after {seconds} s", source.name));
        }
        source.health = Health::Up;
        source.is_told = true;
    }

    /// For the metrics page. A table is as old as the moment at which it was last known to be true.
    pub(crate) fn counters(&self) -> Vec<Counter> {
        let sources = self.sources.iter().filter(|source| !source.is_leaving());
        let counters = sources.flat_map(|source| {
            let age = match source.health {
                Health::Away { since } | Health::Starting { since } => {
                    since.elapsed().as_secs_f64()
                }
                Health::Up => 0.0,
            };
            let up = if source.health == Health::Up { 1.0 } else { 0.0 };
            let rows = f64::from(u32::try_from(source.rows.len()).unwrap_or(u32::MAX));
            [
                ("ringcar_registry_up", up),
                ("ringcar_registry_table_age_seconds", age),
                ("ringcar_registry_rows", rows),
            ]
            .map(|(name, value)| gauge(name, source.name, value))
        });
        counters.collect()
    }
}

/// What is configured now, where it is not what was configured before.
fn changed<S: Clone + PartialEq>(before: &Option<S>, now: &Option<S>) -> Option<S> {
    if before == now { None } else { now.clone() }
}

fn gauge(name: &str, registry: &str, value: f64) -> Counter {
    Counter {
        name: name.to_owned(),
        labels: vec![("registry".to_owned(), registry.to_owned())],
        kind: CounterKind::Gauge,
        value,
    }
}

/// News that wait to be merged; a registry that has more waits itself.
pub(super) const NEWS_MAX: usize = 64;

/// Questions that wait to be looked at. The data plane has no more under way at a time, so none is
/// turned away for want of room here.
const QUESTIONS_MAX: usize = 1024;

/// Time for registries to hear that we end.
const END_TIMEOUT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        log,
        registry::{Row, merge::tests::row},
        test_dir::TestDir,
    };
    use snapshot::{Address, Endpoint};

    /// Nothing is known of it before it tells.
    struct Sheet;

    impl Watch for Sheet {
        fn rows(&self) -> Vec<Arc<Row>> {
            Vec::new()
        }

        async fn run(self, _: Sink) {}
    }

    fn log_in(temp: &TestDir) -> Log {
        let settings = log::Settings {
            format: log::Format::Text,
            threshold: log::Level::Info,
            app_id: "own".into(),
            instance: String::new(),
            file: temp.path().join("log").to_str().map(str::to_owned),
        };
        Log::open(settings).unwrap()
    }

    fn route(id: &str, addresses: &[Address]) -> Route {
        let endpoint = |address: &Address| Endpoint {
            instance: InstanceId(address.to_string().into()),
            address: address.clone(),
            zone: None,
        };
        let endpoints = addresses.iter().map(endpoint).collect();
        Route { id: AppId::new(id).unwrap(), namespace: Namespace::default(), endpoints }
    }

    fn ids(routes: &[Route]) -> Vec<&str> {
        routes.iter().map(|route| route.id.as_str()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_known_counts_until_every_registry_has_spoken() {
        let temp = TestDir::new();
        let log = log_in(&temp);
        let dir = RuntimeDir::at(temp.path());
        let far = |port: u16| Address::Tcp(([10, 0, 0, 9], port).into());
        let near = Address::Unix(dir.peer_socket(&InstanceId("7-1".into())).into());
        let held = || {
            vec![
                route("far", &[far(1), near.clone()]),
                route("near", std::slice::from_ref(&near)),
                route("written", &[Address::Unix("/elsewhere".into())]),
            ]
        };
        let start = |names: &[&'static str]| {
            let mut all = Registries::empty(&[&Entry::sample("own", "0")], &log);
            all.remembered = Remembered::new(&held(), &dir);
            for (id, name) in names.iter().enumerate() {
                let mut source = Source::new(name, Rank::Discovered, &Sheet, None);
                source.id = id;
                all.sources.push(source);
            }
            all
        };

        let mut all = start(&["one", "two"]);
        assert_eq!(ids(&all.routes()), ["far", "written"], "entries of this machine are read");
        assert_eq!(all.routes()[0].endpoints.len(), 1);
        all.sink(0).tell(News::Rows(vec![row("a", "1", 11)])).await;
        all.sink(1).tell(News::Away("gone fishing".into())).await;
        let Change::Routes(routes) = all.next().await else { panic!("no routes") };
        assert_eq!(ids(&routes), ["a", "far", "written"], "the other one is away");
        tokio::time::sleep(Duration::from_secs(3600)).await;
        all.sink(1).tell(News::Rows(Vec::new())).await;
        let Change::Routes(routes) = all.next().await else { panic!("no routes") };
        assert_eq!(ids(&routes), ["a"], "now both have spoken");

        // One that can be read and tells no table is waited for, but not for ever.
        let mut all = start(&["one"]);
        all.sink(0).tell(News::Back).await;
        let began = Instant::now();
        let Change::Routes(routes) = all.next().await else { panic!("no routes") };
        assert_eq!((ids(&routes), began.elapsed().as_secs()), (Vec::new(), 10));
    }

    #[tokio::test]
    async fn an_away_registry_keeps_its_rows_and_grows_old() {
        let temp = TestDir::new();
        let log = log_in(&temp);
        let mut all = Registries::empty(&[&Entry::sample("own", "0")], &log);
        all.sources.push(Source::new("sheet", Rank::Discovered, &Sheet, None));
        let value = |all: &Registries, name: &str| {
            all.counters().into_iter().find(|counter| counter.name == name).unwrap().value
        };
        assert_eq!(value(&all, "ringcar_registry_up"), 0.0);
        let sink = all.sink(0);
        sink.tell(News::Rows(vec![row("a", "1", 11)])).await;
        let Change::Routes(routes) = all.next().await else { panic!("no routes") };
        assert_eq!(routes.len(), 1);
        assert_eq!(value(&all, "ringcar_registry_up"), 1.0);
        assert_eq!(value(&all, "ringcar_registry_table_age_seconds"), 0.0);
        sink.tell(News::Away("gone fishing".into())).await;
        sink.tell(News::Away("still fishing".into())).await;
        sink.tell(News::Resolved(7)).await;
        assert_eq!(all.next().await, Change::Resolved(7));
        assert_eq!(all.routes().len(), 1);
        assert_eq!(value(&all, "ringcar_registry_up"), 0.0);
        assert!(value(&all, "ringcar_registry_table_age_seconds") > 0.0);
        sink.tell(News::Back).await;
        sink.tell(News::Resolved(8)).await;
        assert_eq!(all.next().await, Change::Resolved(8));
        assert_eq!(value(&all, "ringcar_registry_up"), 1.0);
        let text = std::fs::read_to_string(temp.path().join("log")).unwrap();
        assert_eq!(text.matches("fishing").count(), 1, "{text}");
        assert!(text.contains("sheet: is back"), "{text}");
    }
}
