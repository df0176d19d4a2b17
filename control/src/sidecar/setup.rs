//! From a configuration to a sidecar that can run: data plane adopted or none there, sockets bound,
//! registry watched, first state made.
//!
//! Sockets come first: what fails most often fails before anything else has been started, and
//! before an adopted data plane was told anything.

#![forbid(unsafe_code)]

use super::{Sidecar, Stage, scrapes::Scrapes, sockets::Sockets};
use crate::{
    admin::{
        metadata::{AppConnection, Metadata},
        page,
    },
    adopt::{self, AdoptError, Adopted},
    app_channel::AppChannel,
    claim::{Claim, ClaimError, PlaneName},
    config::{AppPlace, Config},
    host, instance,
    listen::{self, Bound, ListenError},
    log::Log,
    peer_port,
    publish::Publisher,
    registry::{self, Entry, Identity, Registries, RegistryError, local::LocalRegistry},
    runtime_dir::{RuntimeDir, RuntimeDirError},
    supervisor::{Program, Supervisor},
    version,
};
use snapshot::{
    Address, App, AppHealth, AppProtocol, Balance, InstanceId, ListenerKind, OnControlLost, Origin,
    Version,
};
use std::{
    collections::VecDeque,
    fs, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs},
    path::{Path, PathBuf},
};
use tokio::time::Instant;

#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("{0}")]
    Adopt(#[from] AdoptError),
    #[error("cannot resolve app-channel-address {host:?}: {reason}")]
    AppHost { host: String, reason: io::Error },
    #[error("{0}")]
    Claim(#[from] ClaimError),
    #[error("{0}")]
    Listen(#[from] ListenError),
    /// daprd's words; the reasons are logged before.
    #[error("could not listen on any endpoint")]
    NoListener,
    #[error("{0}")]
    Registry(#[from] RegistryError),
    #[error("{0}")]
    RuntimeDir(#[from] RuntimeDirError),
    #[error("cannot serve the metrics page: {0}")]
    Page(io::Error),
    #[error("cannot make {path}: {reason}")]
    SocketDirectory { path: PathBuf, reason: io::Error },
}

/// Must be called within the runtime the sidecar will run on.
///
/// # Errors
/// When something that was asked for cannot be had.
pub(crate) async fn prepare(config: &Config, log: &Log) -> Result<Sidecar, StartError> {
    let started = Instant::now();
    announce(config, log);
    let dir = RuntimeDir::locate()?;
    dir.create()?;
    let app_address = app_address(config)?;
    let (claim, adopted) = claim_data_plane(config, &dir, log).await?;
    let mut sockets = adopted.as_deref().map_or_else(Sockets::default, Sockets::inherit);
    let inherited = sockets.take_peer(&dir);
    let (instance, peer) = match inherited {
        Some(place) => place,
        None => bind_peer(&dir, &mut sockets)?,
    };
    let api = bind_api(config, log, &mut sockets)?;
    if let Some(place) = &config.public {
        take_tcp(ListenerKind::Public, &place.host, place.port, log, &mut sockets)?;
    }
    let metrics = config.metrics.as_ref();
    let metrics = metrics.map(|place| bind_tcp(&place.host, place.port, log)).transpose()?;
    let mut entry = entry(config, instance.clone(), Address::Unix(peer), api, metrics.as_ref());
    entry.remote_peer = remote_peer(config, &config.registries, log, &mut sockets)?;
    let scrapes =
        metrics.map(|bound| page::serve(bound.socket)).transpose().map_err(StartError::Page)?;

    let registries = Registries::start(&config.registries, &dir, &entry, log)?;
    let routes = registries.routes();
    let mut app = app(config, app_address.clone());
    let mut metadata = metadata(config);
    let mut app_channel = app_address.map(|address| app_channel(config, address, log));
    if let Some(earlier) = LocalRegistry::new(dir).find(&entry.instance) {
        entry.created = earlier.created;
    }
    if let Some(held) = adopted.as_deref().and_then(|adopted| adopted.held.apps.first())
        && take_over(held, &mut app, &mut metadata, &mut entry) == Found::Before
    {
        app_channel = None;
    }
    let last = adopted.as_deref().map_or(Version::default(), |adopted| adopted.held.version);
    let (listeners, bound, files) = sockets.finish();
    let wish = on_control_lost(config);
    let mut publisher = Publisher::new(last, app, metadata, listeners, wish);
    publisher.set_routes(routes.clone());
    let program = program(claim.link_socket());
    let mut supervisor = Supervisor::new(program, publisher.next_state(), bound, log.clone());
    if let Some(adopted) = adopted {
        supervisor.adopt(*adopted);
    }
    Ok(Sidecar {
        claim,
        log: log.clone(),
        started,
        publisher,
        supervisor,
        registries,
        entry,
        routes,
        app_channel,
        app_ready: None,
        ready_version: None,
        scrapes: Scrapes::new(scrapes),
        reload: None,
        replies: VecDeque::new(),
        stage: Stage::Serving,
        block_duration: config.block_duration,
        graceful_timeout: config.graceful_timeout,
        files,
    })
}

/// daprd's first lines.
fn announce(config: &Config, log: &Log) {
    log.info(format_args!(
        "Starting Dapr Runtime -- version {} -- commit {}",
        version::DAPR,
        version::COMMIT
    ));
    log.info(format_args!("Log level set to: {}", config.log.threshold.name()));
    config.warnings.iter().for_each(|warning| log.warning(warning));
}

/// Whether the app was found to listen by the control before this one.
#[derive(Eq, PartialEq)]
enum Found {
    Before,
    NotYet,
}

/// Takes up what the data plane still knows of the app: what was noted of it, and its health.
fn take_over(held: &App, app: &mut App, metadata: &mut Metadata, entry: &mut Entry) -> Found {
    for (key, value) in &metadata.restore(&held.metadata_json) {
        entry.note(key, value);
    }
    if held.channel != app.channel || !held.health.unready.is_empty() {
        return Found::NotYet;
    }
    app.health = held.health.clone();
    Found::Before
}

/// The data plane that this sidecar is to control, and the one that runs already.
async fn claim_data_plane(
    config: &Config,
    dir: &RuntimeDir,
    log: &Log,
) -> Result<(Claim, Option<Box<Adopted>>), StartError> {
    let name = plane_name(config);
    let on_wait = |reason: &ClaimError| {
        log.warning(format_args!("{reason}; trying again for {:?}", listen::RETRY));
    };
    let claim = Claim::take(dir, &name, listen::RETRY, on_wait).await?;
    let adopted = adopt::adopt(claim.link_socket(), listen::RETRY, log).await?;
    if let Some(Adopted { introduction, held, .. }) = adopted.as_deref() {
        let (pid, version) = (introduction.pid, held.version.0);
        log.info(format_args!("Adopted the running data plane (process {pid}) at state {version}"));
    }
    Ok((claim, adopted))
}

/// An app may run twice, but not at the same place: whoever starts it there once more continues
/// what was there.
fn plane_name(config: &Config) -> PlaneName {
    let Config { app_id, namespace, http_port, listen_hosts, .. } = config;
    let label = app_id.as_str();
    let place = match &config.unix_socket_directory {
        Some(directory) => directory.display().to_string(),
        // Any port: no later one will be the same.
        None if *http_port == 0 => instance::draw().0.into(),
        None => format!("{}:{http_port}", listen_hosts.join(",")),
    };
    PlaneName::new(label, &format!("{namespace}/{label} at {place}"))
}

fn on_control_lost(config: &Config) -> OnControlLost {
    match config.keep_data_plane {
        time if time.is_zero() => OnControlLost::Exit,
        time => OnControlLost::ServeFor(time),
    }
}

fn bind_peer(
    dir: &RuntimeDir,
    sockets: &mut Sockets,
) -> Result<(InstanceId, PathBuf), ListenError> {
    let instance = instance::draw();
    let path = dir.peer_socket(&instance);
    sockets.add_unix(ListenerKind::Peer, listen::unix(&path)?, path.clone());
    Ok((instance, path))
}

/// The socket of the data plane that was adopted, or a new one.
fn take_tcp(
    kind: ListenerKind,
    host: &str,
    port: u16,
    log: &Log,
    sockets: &mut Sockets,
) -> Result<SocketAddr, ListenError> {
    if let Some(address) = sockets.take_tcp(kind, listen::resolve(host, port)?) {
        return Ok(address);
    }
    let Bound { socket, address } = bind_tcp(host, port, log)?;
    sockets.add(kind, socket);
    Ok(address)
}

fn bind_tcp(host: &str, port: u16, log: &Log) -> Result<Bound, ListenError> {
    listen::tcp(host, port, listen::RETRY, |reason| {
        log.warning(format_args!("{reason}; trying again for {:?}", listen::RETRY));
    })
}

/// With a registry that reaches beyond this machine, peers call over TCP too; what they are told.
fn remote_peer(
    config: &Config,
    settings: &registry::Settings,
    log: &Log,
    sockets: &mut Sockets,
) -> Result<Option<SocketAddr>, StartError> {
    if !settings.needs_tcp_peer() {
        return Ok(None);
    }
    let (host, port) = (&config.peer.host, config.peer.port);
    let wanted = listen::resolve(host, port)?;
    let bound = match (sockets.take_tcp(ListenerKind::Peer, wanted), port) {
        (Some(address), _) => address,
        (None, 0) => {
            let Bound { socket, address } = peer_port::listen(host, config.app_id.as_str())?;
            sockets.add(ListenerKind::Peer, socket);
            address
        }
        (None, _) => take_tcp(ListenerKind::Peer, host, port, log, sockets)?,
    };
    let address = peer_port::advertised(bound, config.host_ip.as_deref());
    log.info(format_args!(
        "Internal server is running on {bound}; other machines are told {address}"
    ));
    Ok(Some(address))
}

/// Binds the HTTP API; returns where a client on this machine reaches it.
fn bind_api(config: &Config, log: &Log, sockets: &mut Sockets) -> Result<Address, StartError> {
    let http_log = log.scoped("dapr.runtime.http");
    if let Some(directory) = &config.unix_socket_directory {
        fs::create_dir_all(directory)
            .map_err(|reason| StartError::SocketDirectory { path: directory.clone(), reason })?;
        let path = directory.join(format!("dapr-{}-http.socket", config.app_id));
        if !sockets.take_unix(ListenerKind::Api, &path) {
            sockets.add_unix(ListenerKind::Api, listen::unix(&path)?, path.clone());
        }
        http_log.info(format_args!("HTTP server is listening on {}", path.display()));
        return Ok(Address::Unix(path));
    }
    let every_interface = [String::new()];
    let hosts =
        if config.listen_hosts.is_empty() { &every_interface[..] } else { &config.listen_hosts };
    let mut first = None;
    for host in hosts {
        match take_tcp(ListenerKind::Api, host, config.http_port, &http_log, sockets) {
            Ok(address) => {
                first.get_or_insert(address);
                http_log.info(format_args!("HTTP server listening on TCP address: {address}"));
            }
            Err(e) => http_log.error(e),
        }
    }
    let address = first.ok_or(StartError::NoListener)?;
    http_log.info(format_args!("HTTP server is running on port {}", address.port()));
    log.info(format_args!(
        "The gRPC API is not part of this version: nothing listens on dapr-grpc-port {}",
        config.grpc_port
    ));
    Ok(Address::Tcp(reachable(address)))
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

fn app_address(config: &Config) -> Result<Option<Address>, StartError> {
    let (host, port) = match &config.app {
        None => return Ok(None),
        Some(AppPlace::Tcp { host, port }) => (host, *port),
        Some(AppPlace::Unix(path)) => return Ok(Some(Address::Unix(path.clone()))),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let failed = |reason| StartError::AppHost { host: host.to_owned(), reason };
    let addresses = (host, port).to_socket_addrs().map_err(failed)?;
    let address = listen::prefer_ipv4(addresses).map(Address::Tcp);
    address.map(Some).ok_or_else(|| failed(io::Error::other("it has no address")))
}

fn app(config: &Config, address: Option<Address>) -> App {
    let channel = address
        .clone()
        .filter(|_| config.carries_protocol())
        .map(|address| snapshot::AppChannel { address, protocol: AppProtocol::Http });
    let host_ip =
        config.host_ip.clone().or_else(|| host::address().map(|address| address.to_string()));
    // daprd's name for what waits for the app.
    let unready = if address.is_some() { vec!["runtime".to_owned()] } else { Vec::new() };
    App {
        number: 0,
        id: config.app_id.clone(),
        namespace: config.namespace.clone(),
        channel,
        origin: Origin { host_ip, host_name: host::name() },
        balance: Balance::default(),
        zone: None,
        body_bytes_max: config.body_bytes_max,
        head_bytes_max: config.head_bytes_max(),
        health: AppHealth { unready, outbound_ready: true },
        metadata_json: String::new(),
    }
}

fn metadata(config: &Config) -> Metadata {
    let connection = config.app.as_ref().map(|place| AppConnection {
        port: config.app_port,
        protocol: config.protocol.clone(),
        channel_address: place.channel_address(),
    });
    Metadata::new(config.app_id.as_str(), connection)
}

fn app_channel(config: &Config, address: Address, log: &Log) -> AppChannel {
    AppChannel {
        address,
        protocol: config.protocol.clone(),
        app_id: config.app_id.as_str().to_owned(),
        asks_config: config.asks_app_config && config.carries_protocol(),
        log: log.clone(),
    }
}

fn entry(
    config: &Config,
    instance: InstanceId,
    peer: Address,
    api: Address,
    metrics: Option<&Bound>,
) -> Entry {
    let (id, namespace) = (config.app_id.clone(), config.namespace.clone());
    let mut entry = Entry::new(Identity { id, namespace, instance, peer, api });
    entry.grpc_port = config.grpc_port;
    entry.app_port = config.app_port;
    entry.metrics_port = metrics.map_or(0, |bound| bound.address.port());
    entry.body_bytes_max = config.body_bytes_max;
    entry.read_buffer_bytes = config.read_buffer_bytes;
    entry
}

/// The same executable, even where its file was replaced meanwhile: both ends then speak the same
/// link protocol.
fn program(link_socket: &Path) -> Program {
    Program {
        path: PathBuf::from("/proc/self/exe"),
        arguments: vec!["dataplane".into(), "--link-stdin".into()],
        link_socket: link_socket.to_owned(),
    }
}
