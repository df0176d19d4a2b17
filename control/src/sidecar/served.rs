//! One app that is served: from its configuration to its sockets, its registry entry, and what the
//! data plane is told of it.
//!
//! ```text
//!   New ──told──► Starting ──live: registered──► Looking ──app found──► Found ──live──► Ready
//! ```

#![forbid(unsafe_code)]

use super::sockets::{Bound, Pool, Sockets};
use crate::{
    admin::metadata::{AppConnection, AppHealthCheck, Metadata},
    app_channel::{AppChannel, Patience},
    config::{AppPlace, Config},
    host, instance,
    listen::{self, ListenError},
    log::Log,
    peer_port,
    registry::{Entry, Identity, local::LocalRegistry},
    runtime_dir::RuntimeDir,
    tracing::Way,
};
use snapshot::{
    APPS_MAX, Address, App, AppHealth, InstanceId, Listener, ListenerKind, Origin, SocketPath,
    Version, policy::Guards,
};
use std::{
    fs, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{sync::Notify, task::AbortHandle};

pub(super) struct Served {
    pub(super) config: Arc<Config>,
    pub(super) entry: Entry,
    pub(super) sockets: Vec<Bound>,
    pub(super) stage: Stage,
    /// `None`: the app is found, or there is none.
    pub(super) search: Option<Search>,
    pub(super) app_address: Option<Address>,
    /// Where its spans go.
    pub(super) spans: Way,
}

/// Of the app, while it is not known to listen.
pub(super) enum Search {
    /// Begins once the app is registered.
    Due { asks_config: bool },
    Running {
        task: AbortHandle,
        /// Rung when the kernel says that the app listens.
        bell: Arc<Notify>,
    },
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stage {
    /// No state says so yet.
    New,
    /// Callers are told of it when this version is live.
    Starting(Version),
    Looking,
    /// The version that says so.
    Found(Version),
    Ready,
}

impl Stage {
    pub(super) const fn is_registered(self) -> bool {
        matches!(self, Self::Looking | Self::Found(_) | Self::Ready)
    }

    /// For operators.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::New | Self::Starting(_) => "starting",
            Self::Looking => "waiting for the app",
            Self::Found(_) | Self::Ready => "ready",
        }
    }
}

/// All that serving an app takes, with nothing of it in force.
pub(super) struct Prepared {
    pub(super) app: App,
    pub(super) entry: Entry,
    pub(super) sockets: Vec<Bound>,
    pub(super) search: Option<Search>,
    pub(super) app_address: Option<Address>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum AppError {
    #[error("cannot resolve app-channel-address {host:?}: {reason}")]
    AppHost { host: String, reason: io::Error },
    #[error("{0}")]
    Listen(#[from] ListenError),
    #[error("{0} stays with the app that has it, since that one cannot be served otherwise")]
    Kept(Address),
    /// daprd's words; the reasons are logged before.
    #[error("could not listen on any endpoint")]
    NoListener,
    #[error("cannot make {path}: {reason}")]
    SocketDirectory { path: PathBuf, reason: io::Error },
    #[error("a data plane serves {APPS_MAX} apps at the most")]
    TooMany,
}

/// What an app finds where it is to be served.
pub(super) struct Place<'a> {
    pub(super) dir: &'a RuntimeDir,
    pub(super) log: &'a Log,
    /// For ports that are in use.
    pub(super) patience: Duration,
    pub(super) metrics_port: u16,
    /// Of the node, if this is one.
    pub(super) node: Option<&'a Arc<str>>,
    /// Where operators ask.
    pub(super) control: Option<&'a Arc<Path>>,
    /// The same app as the last control described it, or as it is served until now.
    pub(super) before: Option<&'a App>,
}

/// # Errors
/// When something that was asked for cannot be had; the pool is as it was then.
pub(super) fn prepare(
    config: &Config,
    number: u32,
    pool: &mut Pool,
    place: &Place<'_>,
) -> Result<Prepared, AppError> {
    let app_address = app_address(config)?;
    let mut sockets = Sockets::new(pool, number);
    let mut entry = match gather(config, place, &mut sockets) {
        Ok(entry) => entry,
        Err(e) => {
            sockets.give_back();
            return Err(e);
        }
    };
    let sockets = sockets.finish();
    if let Some(earlier) = LocalRegistry::new(place.dir.clone()).find(&entry.instance) {
        entry.created = earlier.created;
    }
    let mut app = app(config, number, app_address.clone());
    let mut metadata = metadata(config);
    let asks_config = config.asks_app_config && config.carries_protocol();
    let mut search = app_address.is_some().then_some(Search::Due { asks_config });
    if let Some(before) = place.before {
        for (key, value) in &metadata.restore(&before.metadata_json) {
            entry.note(key, value);
        }
        let is_there = place_of(before) == place_of(&app);
        if is_there && config.care.health_check.is_some() {
            keep_verdict(before, &mut app);
        }
        if is_there && before.health.unready.is_empty() {
            // It was found before.
            app.health = before.health.clone();
            search = None;
        }
    }
    app.metadata_json = metadata.emit();
    Ok(Prepared { app, entry, sockets, search, app_address })
}

/// All sockets of the app; what is registered of it.
fn gather(
    config: &Config,
    place: &Place<'_>,
    sockets: &mut Sockets<'_>,
) -> Result<Entry, AppError> {
    let (instance, peer) = match sockets.take_peer(place.dir) {
        Some(found) => found,
        None => bind_peer(place.dir, sockets)?,
    };
    let api = bind_api(config, place, sockets)?;
    if let Some(public) = &config.public {
        take_tcp(ListenerKind::Public, &public.host, public.port, place, sockets)?;
    }
    if config.steering.wants_inbound() && config.carries_protocol() {
        take_tcp(ListenerKind::Inbound, "127.0.0.1", 0, place, sockets)?;
    }
    let (id, namespace) = (config.app_id.clone(), config.namespace.clone());
    let peer = Address::Unix(peer);
    let mut entry = Entry::new(Identity { id, namespace, instance, peer, api });
    entry.grpc_port = config.grpc_port;
    entry.app_port = config.app_port;
    entry.metrics_port = place.metrics_port;
    entry.node = place.node.cloned();
    entry.control = place.control.cloned();
    entry.body_bytes_max = config.body_bytes_max;
    entry.read_buffer_bytes = config.read_buffer_bytes;
    entry.zone.clone_from(&config.zone);
    entry.remote_peer = remote_peer(config, place, sockets)?;
    Ok(entry)
}

fn bind_peer(
    dir: &RuntimeDir,
    sockets: &mut Sockets<'_>,
) -> Result<(InstanceId, SocketPath), ListenError> {
    let instance = instance::draw();
    let path: SocketPath = dir.peer_socket(&instance).into();
    sockets.add(ListenerKind::Peer, listen::unix(&path)?, Address::Unix(path.clone()));
    Ok((instance, path))
}

/// Where clients of the app are listened for; places that cannot be had are left out.
pub(super) fn tcp_places(config: &Config) -> Vec<SocketAddr> {
    let every_interface = [String::new()];
    let hosts = match &config.listen_hosts[..] {
        _ if config.unix_socket_directory.is_some() => &[],
        [] => &every_interface[..],
        hosts => hosts,
    };
    let api = hosts.iter().map(|host| (host, config.http_port));
    let public = config.public.iter().map(|place| (&place.host, place.port));
    api.chain(public).filter_map(|(host, port)| listen::resolve(host, port).ok()).collect()
}

/// The socket that is there, or a new one.
fn take_tcp(
    kind: ListenerKind,
    host: &str,
    port: u16,
    place: &Place<'_>,
    sockets: &mut Sockets<'_>,
) -> Result<SocketAddr, ListenError> {
    if let Some(address) = sockets.take_tcp(kind, listen::resolve(host, port)?) {
        return Ok(address);
    }
    let bound = listen::tcp(host, port, place.patience, |reason| {
        place.log.warning(format_args!("{reason}; trying again for {:?}", place.patience));
    })?;
    sockets.add(kind, bound.socket, Address::Tcp(bound.address));
    Ok(bound.address)
}

/// With a registry that reaches beyond this machine, peers call over TCP too; what they are told.
fn remote_peer(
    config: &Config,
    place: &Place<'_>,
    sockets: &mut Sockets<'_>,
) -> Result<Option<SocketAddr>, ListenError> {
    if !config.registries.needs_tcp_peer() {
        return Ok(None);
    }
    let (host, port) = (&config.peer.host, config.peer.port);
    let wanted = listen::resolve(host, port)?;
    let bound = match (sockets.take_tcp(ListenerKind::Peer, wanted), port) {
        (Some(address), _) => address,
        (None, 0) => {
            let bound = peer_port::listen(host, config.app_id.as_str())?;
            sockets.add(ListenerKind::Peer, bound.socket, Address::Tcp(bound.address));
            bound.address
        }
        (None, _) => take_tcp(ListenerKind::Peer, host, port, place, sockets)?,
    };
    let address = peer_port::advertised(bound, config.host_ip.as_deref());
    place.log.info(format_args!(
        "Internal server is running on {bound}; other machines are told {address}"
    ));
    Ok(Some(address))
}

/// Binds the HTTP API; returns where a client on this machine reaches it.
fn bind_api(
    config: &Config,
    place: &Place<'_>,
    sockets: &mut Sockets<'_>,
) -> Result<Address, AppError> {
    let http_log = place.log.scoped("dapr.runtime.http");
    say_guards(&config.guards, &http_log);
    if let Some(directory) = &config.unix_socket_directory {
        fs::create_dir_all(directory)
            .map_err(|reason| AppError::SocketDirectory { path: directory.clone(), reason })?;
        let path = directory.join(format!("dapr-{}-http.socket", config.app_id));
        let path = SocketPath::from(path);
        if !sockets.take_unix(ListenerKind::Api, &path) {
            let socket = listen::unix_within(&path, place.patience)?;
            sockets.add(ListenerKind::Api, socket, Address::Unix(path.clone()));
        }
        http_log.info(format_args!("HTTP server is listening on {}", path.display()));
        return Ok(Address::Unix(path));
    }
    let every_interface = [String::new()];
    let hosts =
        if config.listen_hosts.is_empty() { &every_interface[..] } else { &config.listen_hosts };
    let mut first = None;
    for host in hosts {
        match take_tcp(ListenerKind::Api, host, config.http_port, place, sockets) {
            Ok(address) => {
                first.get_or_insert(address);
                http_log.info(format_args!("HTTP server listening on TCP address: {address}"));
            }
            Err(e) => http_log.error(e),
        }
    }
    let address = first.ok_or(AppError::NoListener)?;
    http_log.info(format_args!("HTTP server is running on port {}", address.port()));
    Ok(Address::Tcp(reachable(address)))
}

/// In daprd's words.
fn say_guards(guards: &Guards, log: &Log) {
    if guards.cors.is_some() {
        log.info("Enabled CORS HTTP middleware");
    }
    if guards.api_token.is_some() {
        log.info("Enabled token authentication on HTTP server");
    }
}

/// An address that stands for every interface is reached through the loopback one.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) if v6.ip().is_unspecified() && is_ipv6_only() => {
            (Ipv6Addr::LOCALHOST, address.port()).into()
        }
        _ if address.ip().is_unspecified() => (Ipv4Addr::LOCALHOST, address.port()).into(),
        _ => address,
    }
}

fn is_ipv6_only() -> bool {
    std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).is_err()
}

fn app_address(config: &Config) -> Result<Option<Address>, AppError> {
    let (host, port) = match &config.app {
        None => return Ok(None),
        Some(AppPlace::Tcp { host, port }) => (host, *port),
        Some(AppPlace::Unix(path)) => return Ok(Some(Address::Unix(path.clone().into()))),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let failed = |reason| AppError::AppHost { host: host.to_owned(), reason };
    let addresses = (host, port).to_socket_addrs().map_err(failed)?;
    let address = listen::prefer_ipv4(addresses).map(Address::Tcp);
    address.map(Some).ok_or_else(|| failed(io::Error::other("it has no address")))
}

fn app(config: &Config, number: u32, address: Option<Address>) -> App {
    // daprd's name for what waits for the app.
    let unready = if address.is_some() { vec!["runtime".to_owned()] } else { Vec::new() };
    let channel =
        address.filter(|_| config.carries_protocol()).map(|address| snapshot::AppChannel {
            concurrency_max: config.care.concurrency_max,
            is_healthy: config.care.health_check.is_none(),
            ..snapshot::AppChannel::http(address)
        });
    let host_ip =
        config.host_ip.clone().or_else(|| host::address().map(|address| address.to_string()));
    App {
        number,
        id: config.app_id.clone(),
        namespace: config.namespace.clone(),
        guards: Arc::clone(&config.guards),
        channel,
        origin: Origin { host_ip, host_name: host::name() },
        balance: config.balance,
        resiliency: config.resiliency.clone(),
        zone: config.zone.clone(),
        telemetry: config.telemetry(),
        body_bytes_max: config.body_bytes_max,
        head_bytes_max: config.head_bytes_max(),
        health: AppHealth { unready, outbound_ready: true },
        outbound: config.outbound(),
        metadata_json: "".into(),
    }
}

fn place_of(app: &App) -> Option<&Address> {
    app.channel.as_ref().map(|channel| &channel.address)
}

/// The next probe says otherwise if it is so.
fn keep_verdict(before: &App, app: &mut App) {
    if let (Some(before), Some(channel)) = (&before.channel, &mut app.channel) {
        channel.is_healthy = before.is_healthy;
    }
}

fn metadata(config: &Config) -> Metadata {
    let connection = config.app.as_ref().map(|place| AppConnection {
        port: config.app_port,
        protocol: config.protocol.clone(),
        channel_address: place.channel_address(),
        max_concurrency: config.care.concurrency_max,
        health: config.care.health_check.as_ref().map(AppHealthCheck::new),
    });
    let mut metadata = Metadata::new(config.app_id.as_str(), connection);
    metadata.set_resources(&config.in_scope);
    metadata
}

impl Served {
    pub(super) fn listeners(&self) -> Vec<Listener> {
        self.sockets.iter().map(|bound| bound.listener.clone()).collect()
    }

    /// Made only when it is looked for: of a thousand apps, what a search takes lies together and
    /// goes together. `hears`: the kernel tells when the app listens on loopback.
    pub(super) fn channel(
        &self,
        asks_config: bool,
        hears: bool,
        log: &Log,
        patience: &Patience,
    ) -> Option<Box<AppChannel>> {
        let Self { config, app_address, .. } = self;
        let address = app_address.clone()?;
        let is_loopback = matches!(&address, Address::Tcp(address) if address.ip().is_loopback());
        Some(Box::new(AppChannel {
            address,
            is_heard: hears && is_loopback,
            protocol: config.protocol.clone(),
            app_id: config.app_id.as_str().to_owned(),
            token: config.guards.app_token.clone(),
            asks_config,
            bell: Arc::default(),
            log: log.clone(),
            patience: patience.clone(),
        }))
    }

    /// Where calls to the app go, if that is a port.
    pub(super) fn port_address(&self) -> Option<SocketAddr> {
        match &self.app_address {
            Some(Address::Tcp(address)) if self.config.carries_protocol() => Some(*address),
            _ => None,
        }
    }

    /// Where the app is, for operators.
    pub(super) fn address(&self) -> String {
        match &self.config.app {
            None => String::new(),
            Some(AppPlace::Tcp { host, port }) => format!("{host}:{port}"),
            Some(AppPlace::Unix(path)) => format!("unix://{}", path.display()),
        }
    }
}

impl Prepared {
    pub(super) fn serve(self, config: Arc<Config>) -> (Served, App) {
        let Self { app, entry, sockets, search, app_address } = self;
        let stage = Stage::New;
        let spans = Way::default();
        (Served { config, entry, sockets, stage, search, app_address, spans }, app)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(Search::Running { task, .. }) = &self.search {
            task.abort();
        }
    }
}
