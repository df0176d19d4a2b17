//! From daprd's flags and environment to what the sidecar does: every value checked, every problem
//! named.
//!
//! Nothing in this file opens a socket or a file; what comes out is valid, or is an error with
//! daprd's words.

#![forbid(unsafe_code)]

mod access;
mod api;
mod app_care;
mod app_place;
pub(crate) mod duration;
pub(crate) mod file;
pub(crate) mod file_kind;
pub(crate) mod flags;
pub(crate) mod keys;
pub(crate) mod name_resolution;
pub(crate) mod otel_variables;
pub(crate) mod pipeline;
pub(crate) mod quantity;
mod schema;
mod section;
pub(crate) mod telemetry;
pub(crate) mod token;
pub(crate) mod tracing;
pub(crate) mod zone;

pub(crate) use schema::closest;

pub(crate) use app_care::{AppCare, HealthCheck};
pub(crate) use app_place::{AppPlace, AppPlaceError};

use crate::{
    log::{Format, Level},
    registry::Settings,
    resources::InScope,
    steering::{AppSteering, NodeSteering, settings::Key as Steer},
};
use flags::Values;
use snapshot::{
    AppId, Balance, IdError, Namespace, Outbound,
    policy::{
        AccessPolicy, AllowedOrigins, ApiRules, Guards, Network, NetworkError,
        resiliency::Resiliency,
    },
};
use std::{
    ops::{Deref, DerefMut},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

/// What a sidecar does.
///
/// A node has one of these for each of its apps, so what its apps mostly have in common lies in
/// [`Common`], which they share and which reads as if it were here. Whoever changes something of it
/// has a copy from then on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    pub(crate) app_id: AppId,
    pub(crate) namespace: Namespace,
    pub(crate) app: Option<AppPlace>,
    /// As it was given; an app on a Unix socket needs none.
    pub(crate) app_port: u16,
    pub(crate) http_port: u16,
    pub(crate) grpc_port: u16,
    /// What requests must pass; see [`Config::take`] for what files add.
    pub(crate) guards: Arc<Guards>,
    /// Policies of its calls. Files alone name them.
    pub(crate) resiliency: Option<Arc<Resiliency>>,
    /// What else resources say of it.
    pub(crate) in_scope: Arc<InScope>,
    /// What the kernel does for it, on a node.
    pub(crate) steering: Arc<AppSteering>,
    pub(crate) common: Arc<Common>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Common {
    pub(crate) protocol: String,
    pub(crate) care: AppCare,
    /// A body that is too large is answered 500, not 413.
    pub(crate) strict_status: bool,
    /// Empty: every interface.
    pub(crate) listen_hosts: Vec<String>,
    pub(crate) unix_socket_directory: Option<PathBuf>,
    pub(crate) public: Option<HostPort>,
    pub(crate) body_bytes_max: Option<u64>,
    pub(crate) read_buffer_bytes: u32,
    /// Of the app's sidecar; of a node, for all of its apps.
    pub(crate) process: Arc<Process>,
    /// Whether to ask the app for its `/dapr/config` once it listens.
    pub(crate) asks_app_config: bool,
    /// What requests go through, as files name it; resources say what that is.
    pub(crate) pipelines: Arc<pipeline::PipelineSpecs>,
    /// Whose word counts when they call over TCP.
    pub(crate) trusted_networks: Vec<Network>,
    pub(crate) host_ip: Option<String>,
    /// Where sidecars of other machines call, when a registry tells them; port 0 is one of our own
    /// choice.
    pub(crate) peer: HostPort,
    /// Where this sidecar runs, as far as anybody said.
    pub(crate) zone: Option<zone::Zone>,
    /// How calls are spread over the instances of the app they go to.
    pub(crate) balance: Balance,
    /// Beside the local one. Files alone name them.
    pub(crate) registries: Arc<Settings>,
    /// The directories that resources come from.
    pub(crate) resources: Vec<PathBuf>,
    /// What of its calls flags and environment want told, and how the files want it.
    pub(crate) tells_metrics: bool,
    pub(crate) logs_calls: bool,
    pub(crate) otel: Arc<otel_variables::Variables>,
    pub(crate) telemetry: Arc<telemetry::Options>,
    /// Of a sidecar, where its flags say anything of it.
    pub(crate) steers: Option<Arc<NodeSteering>>,
    /// For the log: what was asked for and is not done.
    pub(crate) warnings: Vec<String>,
}

impl Deref for Config {
    type Target = Common;

    fn deref(&self) -> &Common {
        &self.common
    }
}

impl DerefMut for Config {
    fn deref_mut(&mut self) -> &mut Common {
        Arc::make_mut(&mut self.common)
    }
}

/// What holds for the processes, whoever they serve.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Process {
    pub(crate) log: LogChoice,
    pub(crate) metrics: Option<HostPort>,
    pub(crate) graceful_timeout: Duration,
    pub(crate) block_duration: Option<Duration>,
    /// How long the data plane serves on when control dies and none comes back; zero: not at all.
    pub(crate) keep_data_plane: Duration,
}

/// A place to listen; an empty host is every interface.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct HostPort {
    pub(crate) host: String,
    pub(crate) port: u16,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct LogChoice {
    pub(crate) format: Format,
    pub(crate) threshold: Level,
    pub(crate) file: Option<String>,
}

/// The environment, as a function so that tests need not change their own.
pub(crate) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("{0}")]
    AppId(#[from] IdError),
    #[error("NAMESPACE {0:?} is not a namespace: {1}")]
    Namespace(String, IdError),
    #[error("invalid value for '{flag}': {value}")]
    Value { flag: &'static str, value: String },
    #[error("invalid value for '{flag}': {reason}")]
    Quantity { flag: &'static str, reason: quantity::QuantityError },
    #[error("invalid value for '{flag}': {reason}")]
    Duration { flag: &'static str, reason: duration::DurationError },
    #[error("invalid value for '{flag}': {reason}")]
    Steering { flag: &'static str, reason: String },
    #[error("invalid value for 'zone': {0}")]
    Zone(zone::ZoneError),
    #[error("invalid value for 'balance': {0:?}; write p2c or round-robin")]
    Balance(String),
    #[error("invalid value for 'app-channel-address': {0}")]
    AppPlace(#[from] AppPlaceError),
    #[error("{name}: {reason}")]
    Variable { name: String, reason: String },
    #[error("error loading configuration: {}", list(.0))]
    Files(Vec<file::Problem>),
    #[error("error loading resources: {}", list(.0))]
    Resources(Vec<file::Problem>),
    #[error("the '{flag}' argument value {port} conflicts with 'app-port'")]
    PortConflict { flag: &'static str, port: u16 },
    #[error("invalid value for 'trusted-peer-networks': {0}")]
    Network(#[from] NetworkError),
    /// daprd's words.
    #[error(
        "value for 'health-check-probe-timeout' must be smaller than 'health-check-probe-interval'"
    )]
    ProbeTimeout,
}

fn list(problems: &[file::Problem]) -> String {
    let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

impl ConfigError {
    /// The flag whose value is wrong, wherever it came from.
    pub(crate) const fn flag(&self) -> Option<&'static str> {
        match self {
            Self::Value { flag, .. }
            | Self::Quantity { flag, .. }
            | Self::Duration { flag, .. }
            | Self::PortConflict { flag, .. }
            | Self::Steering { flag, .. } => Some(*flag),
            Self::AppId(_) => Some("app-id"),
            Self::Balance(_) => Some("balance"),
            Self::Zone(_) => Some("zone"),
            Self::ProbeTimeout => Some("app-health-probe-timeout"),
            Self::AppPlace(_) => Some("app-channel-address"),
            Self::Network(_) => Some("trusted-peer-networks"),
            Self::Files(_) | Self::Namespace(..) | Self::Resources(_) | Self::Variable { .. } => {
                None
            }
        }
    }
}

impl Config {
    /// # Errors
    /// The first problem, in daprd's words where daprd has any.
    pub(crate) fn from_flags(values: &Values, env: Environment<'_>) -> Result<Self, ConfigError> {
        Self::read(values, env, &|port, app_port| port == app_port)
    }

    /// As [`Self::from_flags`], for an app of a node, where 0 is any free port, and no port of the
    /// app's.
    ///
    /// # Errors
    /// The first problem.
    pub(crate) fn of_node(values: &Values, env: Environment<'_>) -> Result<Self, ConfigError> {
        let mut config = Self::read(values, env, &|port, app_port| port == app_port && port != 0)?;
        Arc::make_mut(&mut config.otel).name_no_service();
        Ok(config)
    }

    fn read(
        values: &Values,
        env: Environment<'_>,
        conflicts: &dyn Fn(u16, u16) -> bool,
    ) -> Result<Self, ConfigError> {
        let app_id = AppId::new(values.text("app-id"))?;
        let app_port = port(values, "app-port")?;
        let http_port = port(values, "dapr-http-port")?;
        let grpc_port = port(values, "dapr-grpc-port")?;
        for (flag, port) in [("dapr-http-port", http_port), ("dapr-grpc-port", grpc_port)] {
            if conflicts(port, app_port) {
                return Err(ConfigError::PortConflict { flag, port });
            }
        }
        Ok(Self {
            app_id,
            namespace: namespace(env)?,
            app: AppPlace::parse(values.text("app-channel-address"), app_port)?,
            app_port,
            http_port,
            grpc_port,
            guards: Arc::new(guards(values, env)?),
            resiliency: None,
            in_scope: Arc::default(),
            steering: Arc::new(app_steering(values)?),
            common: Arc::new(Common::read(values, env)?),
        })
    }

    /// What Configuration files say beside the values of keys.
    pub(crate) fn take(&mut self, files: file::Configuration) {
        self.warnings.extend(files.problems.iter().map(ToString::to_string));
        self.warnings.extend(files.notes);
        self.warnings.extend(files.names.warnings);
        self.registries = Arc::new(files.names.settings);
        self.telemetry = Arc::new(files.telemetry);
        let warning = self.telemetry.exporters.warning(&self.otel);
        self.warnings.extend(warning);
        self.pipelines = Arc::new(files.pipelines);
        self.guard(files.access.map(Arc::new), files.api.map(Arc::new));
    }

    /// With policies that may be those of other apps, too.
    pub(crate) fn guard(&mut self, access: Option<Arc<AccessPolicy>>, api: Option<Arc<ApiRules>>) {
        let guards = Arc::make_mut(&mut self.guards);
        let trusted = &self.common.trusted_networks;
        guards.access = access.map(|mut policy| {
            if policy.trusted_networks != *trusted {
                Arc::make_mut(&mut policy).trusted_networks.clone_from(trusted);
            }
            policy
        });
        guards.api = api;
    }

    /// Of a request. daprd's default is too small for a browser with cookies, and a value of one's
    /// own means what it means there, with what Go's server adds to `MaxHeaderBytes`.
    pub(crate) fn head_bytes_max(&self) -> u32 {
        match self.read_buffer_bytes {
            READ_BUFFER_BYTES_DEFAULT => HEAD_BYTES_MAX,
            bytes => bytes.saturating_add(HEAD_BYTES_SLOP),
        }
    }

    /// What the data plane is to tell of the app's calls.
    pub(crate) fn telemetry(&self) -> Arc<snapshot::Telemetry> {
        let Common { tells_metrics, logs_calls, .. } = *self.common;
        let wanted = telemetry::Wanted {
            metrics: tells_metrics,
            api_log: logs_calls,
            collector: self.telemetry.exporters.leaves_collector_to(&self.otel),
        };
        Arc::new(self.telemetry.compile(wanted))
    }

    /// How the data plane is to carry the app's calls out.
    pub(crate) fn outbound(&self) -> Arc<Outbound> {
        let http_endpoints = self.in_scope.http_endpoints.clone();
        Arc::new(Outbound { http_endpoints, says_too_large: !self.strict_status })
    }

    /// Whether calls to the app can be carried in this version.
    pub(crate) fn carries_protocol(&self) -> bool {
        self.protocol == "http"
    }
}

impl Common {
    fn read(values: &Values, env: Environment<'_>) -> Result<Self, ConfigError> {
        let log = log_choice(values)?;
        let protocol = protocol(values)?;
        let (otel, otel_problems) = otel_variables::Variables::read(env);
        Ok(Self {
            care: AppCare::from_flags(values)?,
            strict_status: values.is_set("strict-status"),
            listen_hosts: hosts(values.text("dapr-listen-addresses")),
            unix_socket_directory: non_empty(values.text("unix-domain-socket")).map(PathBuf::from),
            public: listener(values, "dapr-public-listen-address", "dapr-public-port")?,
            body_bytes_max: body_bytes_max(values)?,
            read_buffer_bytes: read_buffer_bytes(values)?,
            process: Arc::new(Process::read(log, values)?),
            asks_app_config: asks_app_config(values)?,
            pipelines: Arc::default(),
            trusted_networks: trusted_networks(values)?,
            peer: HostPort {
                host: values.text("dapr-internal-grpc-listen-address").to_owned(),
                port: port(values, "dapr-internal-grpc-port")?,
            },
            zone: zone(values)?,
            balance: balance(values)?,
            registries: Arc::default(),
            resources: Vec::new(),
            tells_metrics: values.is_set("enable-metrics"),
            logs_calls: values.is_set("enable-api-logging"),
            otel: Arc::new(otel),
            telemetry: Arc::default(),
            host_ip: env("DAPR_HOST_IP").filter(|ip| !ip.is_empty()),
            steers: steers(values)?,
            warnings: [warnings(values, &protocol)?, otel_problems].concat(),
            protocol,
        })
    }
}

impl Process {
    fn read(log: LogChoice, values: &Values) -> Result<Self, ConfigError> {
        let has_metrics = values.is_set("enable-metrics");
        let metrics = || listener(values, "metrics-listen-address", "metrics-port");
        Ok(Self {
            log,
            metrics: if has_metrics { metrics()? } else { None },
            graceful_timeout: graceful_timeout(values),
            block_duration: block_duration(values)?,
            keep_data_plane: keep_data_plane(values)?,
        })
    }
}

fn namespace(env: Environment<'_>) -> Result<Namespace, ConfigError> {
    match env("NAMESPACE").filter(|text| !text.is_empty()) {
        Some(text) => Namespace::new(&text).map_err(|reason| ConfigError::Namespace(text, reason)),
        None => Ok(Namespace::default()),
    }
}

fn log_choice(values: &Values) -> Result<LogChoice, ConfigError> {
    let format = if values.is_set("log-as-json") { Format::Json } else { Format::Text };
    let threshold =
        Level::parse(values.text("log-level")).ok_or_else(|| refused(values, "log-level"))?;
    let file = non_empty(values.text("log-file")).map(str::to_owned);
    Ok(LogChoice { format, threshold, file })
}

fn protocol(values: &Values) -> Result<String, ConfigError> {
    let protocol = values.text("app-protocol").to_ascii_lowercase();
    match protocol.as_str() {
        // daprd's older flag says of either that it is encrypted.
        "" | "http" if values.is_set("app-ssl") => Ok("https".to_owned()),
        "grpc" if values.is_set("app-ssl") => Ok("grpcs".to_owned()),
        "grpc" | "grpcs" | "h2c" | "http" | "https" => Ok(protocol),
        "" => Ok("http".to_owned()),
        _ => Err(refused(values, "app-protocol")),
    }
}

/// A port flag; empty is 0.
fn port(values: &Values, flag: &'static str) -> Result<u16, ConfigError> {
    match values.text(flag) {
        "" => Ok(0),
        text => text.parse().map_err(|_| refused(values, flag)),
    }
}

fn listener(
    values: &Values,
    host_flag: &'static str,
    port_flag: &'static str,
) -> Result<Option<HostPort>, ConfigError> {
    let port = port(values, port_flag)?;
    let host = values.text(host_flag).to_owned();
    let is_wanted = !values.text(port_flag).is_empty();
    Ok(is_wanted.then_some(HostPort { host, port }))
}

fn hosts(list: &str) -> Vec<String> {
    list.split(',').map(str::trim).filter(|host| !host.is_empty()).map(str::to_owned).collect()
}

fn body_bytes_max(values: &Values) -> Result<Option<u64>, ConfigError> {
    let bytes =
        quantity_or_old_form(values, "max-body-size", ("dapr-http-max-request-size", 1024 * 1024))?;
    Ok(match u64::try_from(bytes) {
        Ok(0) => None,
        Ok(bytes) => Some(bytes),
        Err(_) => Some(BODY_BYTES_MAX_DEFAULT),
    })
}

fn read_buffer_bytes(values: &Values) -> Result<u32, ConfigError> {
    const FLAG: &str = "read-buffer-size";
    match quantity_or_old_form(values, FLAG, ("dapr-http-read-buffer-size", 1024))? {
        bytes if bytes > 0 => u32::try_from(bytes).map_err(|_| refused(values, FLAG)),
        _ => Ok(READ_BUFFER_BYTES_DEFAULT),
    }
}

/// A quantity flag, unless only its old form with a fixed unit was given.
fn quantity_or_old_form(
    values: &Values,
    flag: &'static str,
    (old_flag, unit): (&'static str, i64),
) -> Result<i64, ConfigError> {
    if !values.is_given(flag) && values.is_given(old_flag) {
        let number = values.number(old_flag);
        return number
            .checked_mul(unit)
            .ok_or(ConfigError::Value { flag: old_flag, value: number.to_string() });
    }
    quantity::parse(values.text(flag)).map_err(|reason| ConfigError::Quantity { flag, reason })
}

fn graceful_timeout(values: &Values) -> Duration {
    let seconds = values.number("dapr-graceful-shutdown-seconds");
    u64::try_from(seconds).map_or(GRACEFUL_TIMEOUT_DEFAULT, Duration::from_secs)
}

fn block_duration(values: &Values) -> Result<Option<Duration>, ConfigError> {
    const FLAG: &str = "dapr-block-shutdown-duration";
    let parse =
        |text| duration::parse(text).map_err(|reason| ConfigError::Duration { flag: FLAG, reason });
    non_empty(values.text(FLAG)).map(parse).transpose()
}

fn zone(values: &Values) -> Result<Option<zone::Zone>, ConfigError> {
    non_empty(values.text("zone")).map(zone::parse).transpose().map_err(ConfigError::Zone)
}

fn balance(values: &Values) -> Result<Balance, ConfigError> {
    match values.text("balance") {
        "p2c" => Ok(Balance::PowerOfTwo),
        "round-robin" => Ok(Balance::RoundRobin),
        other => Err(ConfigError::Balance(other.to_owned())),
    }
}

fn keep_data_plane(values: &Values) -> Result<Duration, ConfigError> {
    const FLAG: &str = "keep-data-plane";
    duration::parse(values.text(FLAG))
        .map_err(|reason| ConfigError::Duration { flag: FLAG, reason })
}

fn app_steering(values: &Values) -> Result<AppSteering, ConfigError> {
    let mut steering = AppSteering::default();
    for (flag, key) in [
        ("app-cgroup", Steer::Cgroup),
        ("capture", Steer::Capture),
        ("direct", Steer::Direct),
        ("direct-allow", Steer::DirectAllow),
        ("direct-deny", Steer::DirectDeny),
    ] {
        let texts: Vec<String> = values.list(flag).into_iter().map(str::to_owned).collect();
        if values.is_given(flag) && !texts.is_empty() {
            let refused = |reason| ConfigError::Steering { flag, reason };
            steering.set(key, texts).map_err(refused)?;
        }
    }
    Ok(steering)
}

fn steers(values: &Values) -> Result<Option<Arc<NodeSteering>>, ConfigError> {
    let mut steering = NodeSteering::default();
    for (flag, key) in [
        ("capture-hosts", Steer::NodeCaptureHosts),
        ("capture-names", Steer::NodeCaptureNames),
        ("capture-range", Steer::NodeCaptureRange),
        ("steering", Steer::NodeMode),
        ("steering-cgroup", Steer::NodeCgroup),
        ("steering-port", Steer::NodePort),
        ("steering-without-data-plane", Steer::NodeWithoutDataPlane),
    ] {
        let text = values.list(flag).join(",");
        if values.is_given(flag) && !text.is_empty() {
            let refused = |reason| ConfigError::Steering { flag, reason };
            steering.set(key, &text).map_err(refused)?;
        }
    }
    Ok((steering != NodeSteering::default()).then(|| Arc::new(steering)))
}

fn asks_app_config(values: &Values) -> Result<bool, ConfigError> {
    let mut asks = true;
    for endpoint in values.list("disable-init-endpoints") {
        match endpoint {
            "config" => asks = false,
            "subscribe" => {}
            other => {
                let value = other.to_owned();
                return Err(ConfigError::Value { flag: "disable-init-endpoints", value });
            }
        }
    }
    Ok(asks)
}

fn guards(values: &Values, env: Environment<'_>) -> Result<Guards, ConfigError> {
    let origins: Vec<String> =
        values.text("allowed-origins").split(',').map(|origin| origin.trim().to_owned()).collect();
    let origins: Vec<String> = origins.into_iter().filter(|origin| !origin.is_empty()).collect();
    Ok(Guards {
        cors: (!origins.is_empty()).then(|| Arc::new(AllowedOrigins(origins))),
        api_token: token::of_variable(token::API_TOKEN, env)?,
        app_token: token::of_variable(token::APP_TOKEN, env)?,
        ..Guards::default()
    })
}

fn trusted_networks(values: &Values) -> Result<Vec<Network>, ConfigError> {
    let networks = values.list("trusted-peer-networks").into_iter();
    Ok(networks.map(|text| text.trim().parse()).collect::<Result<_, NetworkError>>()?)
}

fn warnings(values: &Values, protocol: &str) -> Result<Vec<String>, ConfigError> {
    let without_effect = values.without_effect().into_iter();
    let mut warnings: Vec<String> = without_effect
        .map(|flag| format!("--{flag} is accepted, but has no effect in this version"))
        .collect();
    let stray = values.stray_words().iter();
    warnings.extend(stray.map(|word| {
        format!("argument {word:?} belongs to no flag and is ignored; write --flag=value for bools")
    }));
    match values.text("mode") {
        "standalone" => {}
        "kubernetes" => warnings.extend(values.list("config").first().map(|name| {
            format!(
                "--mode kubernetes: --config {name} names a resource of the cluster, which this version \
                 does not read; apps are found by the names of their services"
            )
        })),
        _ => return Err(refused(values, "mode")),
    }
    if protocol != "http" {
        warnings.push(format!(
            "--app-protocol {protocol}: calls to the app are answered 500, since this sidecar carries \
             http alone; the app's own calls go out as ever"
        ));
    }
    Ok(warnings)
}

fn refused(values: &Values, flag: &'static str) -> ConfigError {
    ConfigError::Value { flag, value: values.text(flag).to_owned() }
}

fn non_empty(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// What `--max-body-size -1` means.
const BODY_BYTES_MAX_DEFAULT: u64 = 4 * 1024 * 1024;

/// What a `--read-buffer-size` of zero or less means.
const READ_BUFFER_BYTES_DEFAULT: u32 = 4096;

const HEAD_BYTES_SLOP: u32 = 4096;

/// The most a data plane takes.
const HEAD_BYTES_MAX: u32 = 64 * 1024;

/// What a negative `--dapr-graceful-shutdown-seconds` means.
const GRACEFUL_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn config_with(env: Environment<'_>, arguments: &[&str]) -> Result<Config, ConfigError> {
        let matches = flags::matches(arguments).unwrap();
        Config::from_flags(&Values::new(&matches, env)?, env)
    }

    fn config(arguments: &[&str]) -> Result<Config, ConfigError> {
        config_with(&|_| None, arguments)
    }

    #[test]
    fn refuses_in_the_words_of_daprd() {
        for (arguments, want) in [
            (&[][..], "parameter app-id cannot be empty"),
            (&["--app-id", "a.b"], "parameter app-id cannot contain dots"),
            (
                &["--app-id=a", "--app-port=3500"],
                "the 'dapr-http-port' argument value 3500 conflicts with 'app-port'",
            ),
            (
                &["--app-id=a", "--app-port=50001"],
                "the 'dapr-grpc-port' argument value 50001 conflicts with 'app-port'",
            ),
            (
                &["--app-id=a", "--dapr-http-port=0"],
                "the 'dapr-http-port' argument value 0 conflicts with 'app-port'",
            ),
            (&["--app-id=a", "--app-protocol=ftp"], "invalid value for 'app-protocol': ftp"),
            (&["--app-id=a", "--app-port=70000"], "invalid value for 'app-port': 70000"),
            (
                &["--app-id=a", "--app-channel-address=unix:app.sock"],
                "invalid value for 'app-channel-address': \"app.sock\" is not an absolute path; write \
                 unix:///path/to/socket",
            ),
            (
                &["--app-id=a", "--trusted-peer-networks=10.0.0.0/8,10.0.0.1/8"],
                "invalid value for 'trusted-peer-networks': \"10.0.0.1/8\" is no range of addresses; \
                 write 10.0.0.0/8, 2001:db8::/32 or 10.0.0.7",
            ),
            (&["--app-id=a", "--log-level=loud"], "invalid value for 'log-level': loud"),
            (&["--app-id=a", "--mode=node"], "invalid value for 'mode': node"),
            (
                &["--app-id=a", "--balance=random"],
                "invalid value for 'balance': \"random\"; write p2c or round-robin",
            ),
            (
                &["--app-id=a", "--zone=rack 7"],
                "invalid value for 'zone': it contains the character ' '; use printable characters without \
                 spaces",
            ),
            (
                &["--app-id=a", "--disable-init-endpoints=config,x"],
                "invalid value for 'disable-init-endpoints': x",
            ),
            (
                &["--app-id=a", "--max-body-size=4MB"],
                "invalid value for 'max-body-size': \"4MB\" is not a quantity; write a number with an optional \
                 unit, such as 4Mi, 500k or 1048576",
            ),
            (
                &["--app-id=a", "--dapr-block-shutdown-duration=5"],
                "invalid value for 'dapr-block-shutdown-duration': \"5\" is not a duration; write numbers with \
                 units, such as 500ms, 5s or 1m30s",
            ),
        ] {
            assert_eq!(config(arguments).unwrap_err().to_string(), want, "{arguments:?}");
        }
    }

    #[test]
    fn refuses_variables_that_mean_nothing() {
        let env = |name: &str| (name == "DAPR_API_TOKEN").then(|| "se\ncret".to_owned());
        let refusal = config_with(&env, &["--app-id=a"]).unwrap_err().to_string();
        assert!(refusal.starts_with("DAPR_API_TOKEN: it has"), "{refusal}");
        let env = |name: &str| (name == "NAMESPACE").then(|| "a.b".to_owned());
        assert!(matches!(
            config_with(&env, &["--app-id=a"]).unwrap_err(),
            ConfigError::Namespace(_, IdError::Dots)
        ));
    }

    #[test]
    fn has_the_defaults_of_daprd() {
        let config = config(&["--app-id", "orders"]).unwrap();
        assert_eq!(config.app, None);
        assert_eq!((config.http_port, config.grpc_port), (3500, 50001));
        assert_eq!(config.namespace, Namespace::default());
        assert_eq!(config.public, None);
        assert_eq!(config.process.metrics, Some(HostPort { host: "0.0.0.0".into(), port: 9090 }));
        assert_eq!(config.body_bytes_max, Some(4 << 20));
        assert_eq!(config.read_buffer_bytes, 4096);
        assert_eq!(config.process.graceful_timeout, Duration::from_secs(5));
        assert_eq!(config.process.block_duration, None);
        assert!(config.asks_app_config);
        assert!(config.listen_hosts.is_empty());
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    }

    #[test]
    fn takes_tokens_origins_and_policies_together() {
        let env = |name: &str| match name {
            "DAPR_API_TOKEN" => Some("of-api".to_owned()),
            "APP_API_TOKEN" => Some("of-app".to_owned()),
            _ => None,
        };
        let arguments = [
            "--app-id=a",
            "--allowed-origins=https://a, https://b,",
            "--trusted-peer-networks=10.0.0.0/8",
        ];
        let mut config = config_with(&env, &arguments).unwrap();
        let file = "spec: {accessControl: {defaultAction: deny}, api: {allowed: []}}";
        config.take(file::Configuration::parse("c.yaml", file));
        let guards = &config.guards;
        assert_eq!(guards.api_token.as_ref().map(snapshot::policy::Token::secret), Some("of-api"));
        assert_eq!(guards.app_token.as_ref().map(snapshot::policy::Token::secret), Some("of-app"));
        let origins = ["https://a".to_owned(), "https://b".to_owned()];
        assert_eq!(guards.cors.as_ref().unwrap().0, origins);
        let networks = &guards.access.as_ref().unwrap().trusted_networks;
        assert_eq!(networks[..], ["10.0.0.0/8".parse().unwrap()]);
        assert_eq!(guards.api.as_deref(), Some(&ApiRules::default()));
        assert!(!format!("{config:?}").contains("of-a"), "{config:?}");
    }

    #[test]
    fn reads_sizes_in_both_forms() {
        for (case, arguments, want) in [
            ("quantity", &["--max-body-size=1Ki"][..], Some(1024)),
            ("unlimited", &["--max-body-size=0"], None),
            ("-1 is the default", &["--max-body-size=-1"], Some(4 << 20)),
            ("old form", &["--dapr-http-max-request-size=8"], Some(8 << 20)),
            ("both", &["--dapr-http-max-request-size=8", "--max-body-size=1Ki"], Some(1024)),
        ] {
            let arguments: Vec<&str> = ["--app-id=a"].iter().chain(arguments).copied().collect();
            assert_eq!(config(&arguments).unwrap().body_bytes_max, want, "{case}");
        }
        let old = config(&["--app-id=a", "--dapr-http-read-buffer-size=8"]).unwrap();
        assert_eq!((old.read_buffer_bytes, old.head_bytes_max()), (8192, 12_288));
        assert_eq!(config(&["--app-id=a"]).unwrap().head_bytes_max(), 65_536);
        let small = config(&["--app-id=a", "--read-buffer-size=1Ki"]).unwrap();
        assert_eq!(small.head_bytes_max(), 5120);
    }

    #[test]
    fn reads_places_and_times() {
        let config = config(&[
            "--app-id=a",
            "--app-port=8080",
            "--dapr-listen-addresses=[::1], 127.0.0.1",
            "--dapr-public-port=3501",
            "--enable-metrics=false",
            "--dapr-graceful-shutdown-seconds=-3",
            "--dapr-block-shutdown-duration=1m",
            "--disable-init-endpoints=config",
        ])
        .unwrap();
        assert_eq!(config.app, Some(AppPlace::Tcp { host: "127.0.0.1".into(), port: 8080 }));
        assert_eq!(config.app_port, 8080);
        assert_eq!(config.listen_hosts, ["[::1]", "127.0.0.1"]);
        assert_eq!(config.public, Some(HostPort { host: String::new(), port: 3501 }));
        assert_eq!(config.process.metrics, None);
        assert_eq!(config.process.graceful_timeout, Duration::from_secs(5));
        assert_eq!(config.process.block_duration, Some(Duration::from_secs(60)));
        assert!(!config.asks_app_config);
    }

    #[test]
    fn warns_of_what_it_does_not_do() {
        for (case, arguments, want) in [
            ("flag of later", &["--enable-mtls"][..], "--enable-mtls is accepted"),
            ("stray word", &["--enable-metrics", "false"], "\"false\" belongs to no flag"),
            ("protocol", &["--app-protocol", "GRPC"], "--app-protocol grpc: calls to the app are"),
            ("encrypted", &["--app-ssl"], "--app-protocol https: calls to the app are"),
            ("both", &["--app-ssl", "--app-protocol=grpc"], "--app-protocol grpcs: calls to"),
            (
                "kubernetes",
                &["--mode", "kubernetes", "--config", "daprsystem"],
                "--config daprsystem names a resource of the cluster",
            ),
        ] {
            let arguments: Vec<&str> = ["--app-id=a"].iter().chain(arguments).copied().collect();
            let warnings = config(&arguments).unwrap().warnings.clone();
            assert_eq!(warnings.len(), 1, "{case}: {warnings:?}");
            assert!(warnings[0].contains(want), "{case}: {warnings:?}");
        }
    }
}
