//! From a configuration to a sidecar that can run: sockets bound, registry watched, first state
//! made.
//!
//! Sockets come first: what fails most often fails before anything else has been started.

#![forbid(unsafe_code)]

use super::{Sidecar, Stage, scrapes::Scrapes};
use crate::{
    admin::{
        metadata::{AppConnection, Metadata},
        page,
    },
    app_channel::AppChannel,
    config::{AppPlace, Config},
    host, instance,
    listen::{self, Bound, ListenError},
    log::Log,
    peer_port,
    publish::Publisher,
    registry::{self, Entry, Identity, Registries, RegistryError},
    runtime_dir::{RuntimeDir, RuntimeDirError},
    supervisor::{Program, Supervisor},
    version,
};
use snapshot::{
    Address, App, AppHealth, AppProtocol, InstanceId, Listener, ListenerId, ListenerKind, Origin,
};
use std::{
    collections::VecDeque,
    fs, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs},
    os::fd::OwnedFd,
    path::PathBuf,
};
use tokio::time::Instant;

#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("cannot resolve app-channel-address {host:?}: {reason}")]
    AppHost { host: String, reason: io::Error },
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
pub(crate) fn prepare(config: &Config, log: &Log) -> Result<Sidecar, StartError> {
    let started = Instant::now();
    log.info(format_args!(
        "Starting Dapr Runtime -- version {} -- commit {}",
        version::DAPR,
        version::COMMIT
    ));
    log.info(format_args!("Log level set to: {}", config.log.threshold.name()));
    config.warnings.iter().for_each(|warning| log.warning(warning));
    let dir = RuntimeDir::locate()?;
    dir.create()?;
    let instance = instance::draw();
    let app_address = app_address(config)?;
    let mut sockets = Sockets::default();
    let api = bind_api(config, log, &mut sockets)?;
    let peer = dir.peer_socket(&instance);
    sockets.add(ListenerKind::Peer, listen::unix(&peer)?);
    sockets.files.push(peer.clone());
    if let Some(place) = &config.public {
        let bound = bind_tcp(&place.host, place.port, log)?;
        sockets.add(ListenerKind::Public, bound.socket);
    }
    let metrics = config.metrics.as_ref();
    let metrics = metrics.map(|place| bind_tcp(&place.host, place.port, log)).transpose()?;
    let mut entry = entry(config, instance.clone(), Address::Unix(peer), api, metrics.as_ref());
    entry.remote_peer = remote_peer(config, &config.registries, log, &mut sockets)?;
    let scrapes =
        metrics.map(|bound| page::serve(bound.socket)).transpose().map_err(StartError::Page)?;

    let registries = Registries::start(&config.registries, &dir, &entry, log)?;
    let routes = registries.routes();
    let mut publisher =
        Publisher::new(app(config, app_address.clone()), metadata(config), sockets.listeners);
    publisher.set_routes(routes.clone());
    let program = program(&dir, &instance);
    let supervisor = Supervisor::new(program, publisher.next_state(), sockets.bound, log.clone());
    Ok(Sidecar {
        log: log.clone(),
        started,
        publisher,
        supervisor,
        registries,
        entry,
        routes,
        app_channel: app_address.map(|address| app_channel(config, address, log)),
        app_ready: None,
        ready_version: None,
        scrapes: Scrapes::new(scrapes),
        reload: None,
        replies: VecDeque::new(),
        stage: Stage::Serving,
        block_duration: config.block_duration,
        graceful_timeout: config.graceful_timeout,
        files: sockets.files,
    })
}

/// Everything that is handed to the data plane.
#[derive(Default)]
struct Sockets {
    listeners: Vec<Listener>,
    bound: Vec<(ListenerId, OwnedFd)>,
    files: Vec<PathBuf>,
}

impl Sockets {
    fn add(&mut self, kind: ListenerKind, socket: OwnedFd) {
        let id = ListenerId(u32::try_from(self.bound.len()).unwrap_or(u32::MAX));
        self.listeners.push(Listener { id, kind, app: 0 });
        self.bound.push((id, socket));
    }
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
    let bound = match config.peer.port {
        0 => peer_port::listen(&config.peer.host, config.app_id.as_str())?,
        port => bind_tcp(&config.peer.host, port, log)?,
    };
    let address = peer_port::advertised(bound.address, config.host_ip.as_deref());
    log.info(format_args!(
        "Internal server is running on {}; other machines are told {address}",
        bound.address
    ));
    sockets.add(ListenerKind::Peer, bound.socket);
    Ok(Some(address))
}

/// Binds the HTTP API; returns where a client on this machine reaches it.
fn bind_api(config: &Config, log: &Log, sockets: &mut Sockets) -> Result<Address, StartError> {
    let http_log = log.scoped("dapr.runtime.http");
    if let Some(directory) = &config.unix_socket_directory {
        fs::create_dir_all(directory)
            .map_err(|reason| StartError::SocketDirectory { path: directory.clone(), reason })?;
        let path = directory.join(format!("dapr-{}-http.socket", config.app_id));
        sockets.add(ListenerKind::Api, listen::unix(&path)?);
        sockets.files.push(path.clone());
        http_log.info(format_args!("HTTP server is listening on {}", path.display()));
        return Ok(Address::Unix(path));
    }
    let every_interface = [String::new()];
    let hosts =
        if config.listen_hosts.is_empty() { &every_interface[..] } else { &config.listen_hosts };
    let mut first = None;
    for host in hosts {
        match bind_tcp(host, config.http_port, &http_log) {
            Ok(Bound { socket, address }) => {
                sockets.add(ListenerKind::Api, socket);
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
fn program(dir: &RuntimeDir, instance: &InstanceId) -> Program {
    Program {
        path: PathBuf::from("/proc/self/exe"),
        arguments: vec!["dataplane".into(), "--link-stdin".into()],
        link_socket: dir.link_socket(instance),
    }
}
