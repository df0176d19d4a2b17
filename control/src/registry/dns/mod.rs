//! Apps by name: an app id becomes a DNS name by a template, as in daprd's `kubernetes` and
//! `nameformat` resolvers.
//!
//! DNS has no list of apps and nothing to watch, so a name is looked up when somebody asks for its
//! app, and again when its records' time is over, until nobody has asked for it for an hour. Apps
//! named in the configuration are looked up from the start. A server that does not answer takes
//! nothing away; only an answer does.

#![forbid(unsafe_code)]

use super::{News, Registry, RegistryError, Revision, Row, Sink, Watch};
use crate::timestamp::Timestamp;
use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::ResponseCode,
        rr::{RData, RecordType},
    },
    system_conf,
};
use snapshot::{Address, AppId, InstanceId, Namespace};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    pub(crate) names: Names,
    /// Looked up before anybody asks.
    pub(crate) apps: Vec<(AppId, Namespace)>,
    /// Empty: those of `/etc/resolv.conf`.
    pub(crate) servers: Vec<SocketAddr>,
}

impl Settings {
    /// Those that are asked.
    ///
    /// # Errors
    /// When `/etc/resolv.conf` is to tell them, and cannot be read.
    pub(crate) fn servers(&self) -> Result<Vec<SocketAddr>, String> {
        if !self.servers.is_empty() {
            return Ok(self.servers.clone());
        }
        let (config, _) = system_conf::read_system_conf().map_err(|e| e.to_string())?;
        let servers: BTreeSet<SocketAddr> = config
            .name_servers()
            .iter()
            .flat_map(|server| server.connections.iter().map(|c| (server.ip, c.port).into()))
            .collect();
        Ok(servers.into_iter().collect())
    }
}

/// What stands for an app in DNS.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Names {
    /// A and AAAA records of a host; the port is in the template.
    Host { host: Template, port: Template },
    /// SRV records, which bring their ports along.
    Service { name: Template },
}

/// Text with places for what is known of an app.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Template(Vec<Piece>);

#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Id,
    Namespace,
    /// The caller's own peer port: daprd takes it that all sidecars use the same.
    Port,
    Text(String),
}

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum TemplateError {
    #[error("it is empty")]
    Empty,
    #[error(
        "{0:?} stands for nothing; there are {{id}} (or {{appid}}), {{namespace}} and {{port}}"
    )]
    Placeholder(String),
    #[error("a '{{' is not closed")]
    Unclosed,
    #[error("it must end with a port, as in {{id}}.example:3500")]
    NoPort,
    #[error("{0:?} is no port")]
    Port(String),
}

impl Template {
    /// # Errors
    /// When there is a placeholder that stands for nothing.
    pub(crate) fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            let (name, after) = after.split_once('}').ok_or(TemplateError::Unclosed)?;
            pieces.push(match name {
                "appid" | "id" => Piece::Id,
                "namespace" => Piece::Namespace,
                "port" => Piece::Port,
                _ => return Err(TemplateError::Placeholder(format!("{{{name}}}"))),
            });
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        if pieces.is_empty() { Err(TemplateError::Empty) } else { Ok(Self(pieces)) }
    }

    /// `host:port`, either of which may have placeholders.
    ///
    /// # Errors
    /// When it is not of that form.
    pub(crate) fn parse_host_port(text: &str) -> Result<(Self, Self), TemplateError> {
        let (host, port) = text.rsplit_once(':').ok_or(TemplateError::NoPort)?;
        let is_fixed = !port.contains('{');
        if is_fixed && !port.parse::<u16>().is_ok_and(|port| port != 0) {
            return Err(TemplateError::Port(port.to_owned()));
        }
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        Ok((Self::parse(host)?, Self::parse(port)?))
    }

    fn expand(&self, (id, namespace): &Name, port: u16) -> String {
        let mut text = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Id => text.push_str(id.as_str()),
                Piece::Namespace => text.push_str(namespace.as_str()),
                Piece::Port => text.push_str(&port.to_string()),
                Piece::Text(piece) => text.push_str(piece),
            }
        }
        text
    }
}

type Name = (AppId, Namespace);

/// Somebody needs an app that no table has.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) number: u64,
    pub(super) id: AppId,
    pub(super) namespace: Namespace,
    /// Another app was met at the address that this one had.
    pub(super) is_stale: bool,
}

pub(super) struct DnsRegistry {
    settings: Settings,
    lookup: Arc<Lookup>,
    /// Taken by the one watch there is.
    questions: std::sync::Mutex<Option<mpsc::Receiver<Question>>>,
}

struct Lookup {
    names: Names,
    own_port: u16,
    resolver: TokioResolver,
}

impl DnsRegistry {
    /// # Errors
    /// When there is no name server to ask.
    pub(super) fn new(
        settings: Settings,
        own_port: u16,
        questions: mpsc::Receiver<Question>,
    ) -> Result<Self, RegistryError> {
        let resolver = resolver(&settings.servers)
            .map_err(|e| RegistryError::Settings { name: "dns", reason: e.to_string() })?;
        let lookup = Arc::new(Lookup { names: settings.names.clone(), own_port, resolver });
        Ok(Self { settings, lookup, questions: std::sync::Mutex::new(Some(questions)) })
    }
}

fn resolver(servers: &[SocketAddr]) -> Result<TokioResolver, NetError> {
    let mut builder = if servers.is_empty() {
        TokioResolver::builder_tokio()?
    } else {
        let servers = servers.iter().map(|server| {
            let connections =
                [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                    connection.port = server.port();
                    connection
                });
            NameServerConfig::new(server.ip(), true, connections.into())
        });
        let config = ResolverConfig::from_name_servers(servers.collect());
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    };
    let options = builder.options_mut();
    // What is kept is kept here, with its time; a second store would only make it older.
    options.cache_size = 0;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.timeout = QUERY_TIMEOUT;
    builder.build()
}

impl Registry for DnsRegistry {
    type Watch = DnsWatch;

    fn watch(&self) -> Result<DnsWatch, RegistryError> {
        let taken = self.questions.lock().ok().and_then(|mut questions| questions.take());
        let questions = taken.ok_or_else(|| RegistryError::Settings {
            name: "dns",
            reason: "it is watched already".to_owned(),
        })?;
        let mut known = BTreeMap::new();
        for name in &self.settings.apps {
            known.insert(name.clone(), Known::new(true));
        }
        let (lookup, lookups) = (Arc::clone(&self.lookup), JoinSet::new());
        Ok(DnsWatch { lookup, questions, known, lookups, has_complained: false })
    }
}

pub(crate) struct DnsWatch {
    lookup: Arc<Lookup>,
    questions: mpsc::Receiver<Question>,
    known: BTreeMap<Name, Known>,
    lookups: JoinSet<(Name, Answer)>,
    /// Somebody was told that there are too many names, and they still are.
    has_complained: bool,
}

/// What is known of a name.
struct Known {
    addresses: BTreeSet<SocketAddr>,
    /// When it is looked up again, or forgotten; `None` while it is being looked up.
    due: Option<Instant>,
    /// For how long the addresses are said to be true.
    until: Option<Timestamp>,
    /// When the last answer came.
    looked_up: Option<Instant>,
    /// Questions that wait for the answer.
    waiting: Vec<u64>,
    asked_at: Instant,
    /// In the configuration: never forgotten.
    is_configured: bool,
    failures: u32,
}

enum Answer {
    Addresses {
        addresses: BTreeSet<SocketAddr>,
        ttl: Duration,
    },
    /// There is no such name, or it has no records.
    Nothing {
        ttl: Duration,
    },
    Failed(String),
}

impl Known {
    fn new(is_configured: bool) -> Self {
        let now = Instant::now();
        Self {
            addresses: BTreeSet::new(),
            due: Some(now),
            until: None,
            looked_up: None,
            waiting: Vec::new(),
            asked_at: now,
            is_configured,
            failures: 0,
        }
    }

    /// Anybody may ask for any name; this one has been found to be an app's.
    fn is_app(&self) -> bool {
        self.is_configured || !self.addresses.is_empty()
    }

    /// What nobody asks for is forgotten with the end of its time: the next who does asks anew.
    fn is_wanted(&self, now: Instant) -> bool {
        self.is_configured
            || !self.waiting.is_empty()
            || (!self.addresses.is_empty() && now - self.asked_at < FORGET_AFTER)
    }

    /// When it may be looked up, with so many lookups under way.
    fn due(&self, lookups: usize) -> Option<Instant> {
        let most = if self.is_app() { LOOKUPS_MAX } else { NEW_LOOKUPS_MAX };
        self.due.filter(|_| lookups < most)
    }
}

impl Watch for DnsWatch {
    fn rows(&self) -> Vec<Arc<Row>> {
        Vec::new()
    }

    async fn run(mut self, news: Sink) {
        // Nothing is asked of the servers yet, and nothing is known to be wrong with them.
        news.tell(News::Back).await;
        loop {
            if self.forget_unwanted(Instant::now()) {
                news.tell(News::Rows(self.table())).await;
            }
            self.start_due();
            let lookups = self.lookups.len();
            let next_due = self.known.values().filter_map(|known| known.due(lookups)).min();
            let due = async {
                match next_due {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = news.closed() => return,
                Some(done) = self.lookups.join_next() => {
                    let Ok((name, answer)) = done else { continue };
                    self.on_answer(&name, answer, &news).await;
                }
                question = self.questions.recv() => match question {
                    Some(question) => self.on_question(question, &news).await,
                    None => return,
                },
                () = due => {}
            }
        }
    }
}

impl DnsWatch {
    /// Whether apps are among what is forgotten.
    fn forget_unwanted(&mut self, now: Instant) -> bool {
        let mut is_changed = false;
        self.known.retain(|_, known| {
            let stays = known.due.is_none_or(|due| due > now) || known.is_wanted(now);
            is_changed |= !stays && !known.addresses.is_empty();
            stays
        });
        is_changed
    }

    /// Apps first, and of new names those that have waited longest: names that somebody makes up
    /// must not keep the others from being looked up in time.
    fn start_due(&mut self) {
        let now = Instant::now();
        let is_due = |known: &Known| known.due.is_some_and(|due| due <= now);
        let mut due: Vec<_> = self.known.iter_mut().filter(|(_, known)| is_due(known)).collect();
        due.sort_by_key(|(_, known)| (!known.is_app(), known.due));
        for (name, known) in due {
            if known.due(self.lookups.len()).is_none() {
                return;
            }
            known.due = None;
            let (lookup, name) = (Arc::clone(&self.lookup), name.clone());
            self.lookups.spawn(async move {
                let answer = lookup.look_up(&name).await;
                (name, answer)
            });
        }
    }

    async fn on_question(&mut self, question: Question, news: &Sink) {
        let Question { number, id, namespace, is_stale } = question;
        let name = (id, namespace);
        let is_new = !self.known.contains_key(&name);
        if is_new && self.known.len() >= NAMES_MAX && !self.forget_one() {
            // Once, however many names somebody makes up.
            if !std::mem::replace(&mut self.has_complained, true) {
                let text = format!("{NAMES_MAX} names are known or asked for; more are not");
                news.tell(News::Complaint(text)).await;
            }
            news.tell(News::Resolved(number)).await;
            return;
        }
        self.has_complained &= self.known.len() >= NAMES_MAX;
        let known = self.known.entry(name).or_insert_with(|| Known::new(false));
        known.asked_at = Instant::now();
        // However often somebody says so, a name is looked up once in TTL_MIN.
        let may_look = known.looked_up.is_none_or(|at| at.elapsed() >= TTL_MIN);
        if is_stale && may_look && known.due.is_some() {
            known.due = Some(known.asked_at);
        }
        let is_fresh = known.due.is_some_and(|due| due > Instant::now());
        if is_fresh || known.waiting.len() >= WAITING_MAX {
            news.tell(News::Resolved(number)).await;
        } else {
            known.waiting.push(number);
        }
    }

    /// Makes room, at the cost of what is no app's name: that can be asked for again, and whoever
    /// makes names up has many.
    fn forget_one(&mut self) -> bool {
        let idle = self.known.iter().filter(|(_, known)| known.due.is_some() && !known.is_app());
        let idle = idle.filter(|(_, known)| known.waiting.is_empty());
        let oldest = idle.min_by_key(|(_, known)| known.asked_at).map(|(name, _)| name.clone());
        oldest.is_some_and(|name| self.known.remove(&name).is_some())
    }

    async fn on_answer(&mut self, name: &Name, answer: Answer, news: &Sink) {
        let Some(known) = self.known.get_mut(name) else { return };
        let mut is_changed = false;
        let (ttl, health) = match answer {
            Answer::Addresses { addresses, ttl } => {
                // If nothing else, the time for which they are true.
                is_changed = true;
                known.addresses = addresses;
                known.until = Some(Timestamp::now() + ttl);
                (ttl.clamp(TTL_MIN, TTL_MAX), News::Back)
            }
            Answer::Nothing { ttl } => {
                is_changed = !known.addresses.is_empty();
                known.addresses.clear();
                (ttl.clamp(TTL_MIN, NEGATIVE_TTL_MAX), News::Back)
            }
            Answer::Failed(reason) => {
                let pause = TTL_MIN * 2_u32.saturating_pow(known.failures.min(8));
                known.failures += 1;
                (pause.min(NEGATIVE_TTL_MAX), News::Away(reason))
            }
        };
        if matches!(health, News::Back) {
            known.failures = 0;
        }
        known.looked_up = Some(Instant::now());
        known.due = Some(Instant::now() + ttl);
        let waiting = std::mem::take(&mut known.waiting);
        news.tell(health).await;
        if is_changed {
            news.tell(News::Rows(self.table())).await;
        }
        for number in waiting {
            news.tell(News::Resolved(number)).await;
        }
    }

    fn table(&self) -> Vec<Arc<Row>> {
        let rows = self.known.iter().flat_map(|((id, namespace), known)| {
            known.addresses.iter().map(|address| Row {
                id: id.clone(),
                namespace: namespace.clone(),
                instance: InstanceId(address.to_string().into()),
                address: Address::Tcp(*address),
                revision: known.until.map_or(Revision::None, |until| Revision::Name { until }),
                zone: None,
            })
        });
        rows.map(Arc::new).collect()
    }
}

impl Lookup {
    async fn look_up(&self, name: &Name) -> Answer {
        match &self.names {
            Names::Host { host, port } => {
                let port = port.expand(name, self.own_port);
                let Ok(port) = port.parse::<u16>() else {
                    return Answer::Failed(format!("{}: {port:?} is no port", name.0));
                };
                self.host(&host.expand(name, self.own_port), port).await
            }
            Names::Service { name: template } => {
                self.service(&template.expand(name, self.own_port)).await
            }
        }
    }

    async fn host(&self, host: &str, port: u16) -> Answer {
        if let Ok(ip) = host.parse::<IpAddr>() {
            let addresses = BTreeSet::from([SocketAddr::new(ip, port)]);
            return Answer::Addresses { addresses, ttl: TTL_MAX };
        }
        let found = match self.resolver.lookup_ip(host).await {
            Ok(found) => found,
            Err(e) => return failure(host, &e),
        };
        let addresses =
            found.iter().take(ADDRESSES_MAX).map(|ip| SocketAddr::new(ip, port)).collect();
        let ttls = found.as_lookup().answers().iter().map(|record| record.ttl);
        Answer::Addresses { addresses, ttl: shortest(ttls) }
    }

    /// The targets of the best priority, each with its own port.
    async fn service(&self, service: &str) -> Answer {
        let found = match self.resolver.lookup(service, RecordType::SRV).await {
            Ok(found) => found,
            Err(e) => return failure(service, &e),
        };
        let records = found.answers().iter().filter_map(|record| match &record.data {
            RData::SRV(srv) => Some(srv),
            _ => None,
        });
        let best = records.clone().map(|srv| srv.priority).min();
        let targets = records.filter(|srv| Some(srv.priority) == best).take(ADDRESSES_MAX);
        let mut addresses = BTreeSet::new();
        let mut ttl = shortest(found.answers().iter().map(|record| record.ttl));
        for srv in targets {
            match self.host(&srv.target.to_utf8(), srv.port).await {
                Answer::Addresses { addresses: more, ttl: target_ttl } => {
                    addresses.extend(more);
                    ttl = ttl.min(target_ttl);
                }
                Answer::Nothing { ttl: target_ttl } => ttl = ttl.min(target_ttl),
                failed @ Answer::Failed(_) => return failed,
            }
        }
        if addresses.is_empty() {
            Answer::Nothing { ttl }
        } else {
            Answer::Addresses { addresses, ttl }
        }
    }
}

fn shortest(ttls: impl Iterator<Item = u32>) -> Duration {
    Duration::from_secs(u64::from(ttls.min().unwrap_or_default()))
}

fn failure(name: &str, error: &NetError) -> Answer {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none))
            if matches!(none.response_code, ResponseCode::NXDomain | ResponseCode::NoError) =>
        {
            let ttl =
                none.negative_ttl.map_or(NEGATIVE_TTL_MAX, |ttl| Duration::from_secs(ttl.into()));
            Answer::Nothing { ttl }
        }
        // What cannot be written as a name has no records.
        NetError::Proto(_) => Answer::Nothing { ttl: NEGATIVE_TTL_MAX },
        _ => Answer::Failed(format!("cannot look up {name}: {error}")),
    }
}

/// A name nobody has asked for is no longer kept fresh.
const FORGET_AFTER: Duration = Duration::from_secs(3600);

/// Records that live shorter are still not looked up more often.
const TTL_MIN: Duration = Duration::from_secs(1);

/// Records that live longer are still looked up again.
const TTL_MAX: Duration = Duration::from_secs(300);

/// How long an app that has no name stays unknown: a new one is callable this much later at most.
const NEGATIVE_TTL_MAX: Duration = Duration::from_secs(10);

const QUERY_TIMEOUT: Duration = Duration::from_secs(2);

/// Names kept.
const NAMES_MAX: usize = 1024;

/// Addresses of one name.
const ADDRESSES_MAX: usize = 256;

/// Lookups at once, and those among them of names that are not known to be an app's.
const LOOKUPS_MAX: usize = 32;
const NEW_LOOKUPS_MAX: usize = 24;

/// Questions that wait for one name.
const WAITING_MAX: usize = 64;

#[cfg(test)]
mod tests;
