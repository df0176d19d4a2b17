//! What `run` starts: from its flags to the sidecar's arguments and the app's environment.
//!
//! The flags and their translation are those of `dapr run` for one app.

#![forbid(unsafe_code)]

use super::output::Output;
use crate::instance;
use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

#[derive(Clone, Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    /// File with several apps to run, as a path of its own or of its directory
    #[arg(short = 'f', long, value_name = "PATH", exclusive = true)]
    pub(super) run_file: Option<PathBuf>,
    /// Name under which other apps call this one; drawn at random unless given
    #[arg(short, long)]
    app_id: Option<String>,
    /// Port the app listens on
    #[arg(short = 'p', long, default_value_t = -1, allow_negative_numbers = true)]
    app_port: i32,
    /// Port of the sidecar's HTTP API; a free one unless given
    #[arg(short = 'H', long, default_value_t = -1, allow_negative_numbers = true)]
    dapr_http_port: i32,
    /// Port of the sidecar's gRPC API; a free one unless given
    #[arg(short = 'G', long, default_value_t = -1, allow_negative_numbers = true)]
    dapr_grpc_port: i32,
    /// Port other daprds call
    #[arg(short = 'I', long, default_value_t = -1, allow_negative_numbers = true)]
    dapr_internal_grpc_port: i32,
    /// Port of the metrics page; a free one unless given
    #[arg(short = 'M', long, default_value_t = -1, allow_negative_numbers = true)]
    metrics_port: i32,
    /// Port of the profiling API
    #[arg(long, default_value_t = -1, allow_negative_numbers = true)]
    profile_port: i32,
    /// Serve the profiling API
    #[arg(long)]
    enable_profiling: bool,
    /// Protocol the app speaks: http, https, h2c, grpc, grpcs
    #[arg(short = 'P', long, default_value = "http")]
    app_protocol: String,
    /// Configuration file
    #[arg(short, long, value_name = "PATH")]
    config: Vec<String>,
    /// Directory of components and policies
    #[arg(short = 'd', long, visible_alias = "components-path", value_name = "PATH")]
    resources_path: Vec<String>,
    /// Calls the app takes at once; -1 is unlimited
    #[arg(long, allow_negative_numbers = true)]
    app_max_concurrency: Option<i64>,
    /// Largest request body, such as 4Mi
    #[arg(long)]
    max_body_size: Option<String>,
    /// Largest request head, such as 4Ki
    #[arg(long)]
    read_buffer_size: Option<String>,
    /// Old form of --max-body-size, in MB
    #[arg(long, allow_negative_numbers = true)]
    dapr_http_max_request_size: Option<i64>,
    /// Old form of --read-buffer-size, in KB
    #[arg(long, allow_negative_numbers = true)]
    dapr_http_read_buffer_size: Option<i64>,
    /// debug, info, warn, error or fatal
    #[arg(long, default_value = "info")]
    log_level: String,
    /// The sidecar's log lines as JSON
    #[arg(long)]
    log_as_json: bool,
    /// Directory for API sockets, instead of ports
    #[arg(short, long, value_name = "DIRECTORY")]
    unix_domain_socket: Option<PathBuf>,
    /// Probe the app's health
    #[arg(long)]
    enable_app_health_check: bool,
    /// Path of the probe
    #[arg(long)]
    app_health_check_path: Option<String>,
    /// Seconds between probes
    #[arg(long)]
    app_health_probe_interval: Option<u32>,
    /// Milliseconds a probe may take
    #[arg(long)]
    app_health_probe_timeout: Option<u32>,
    /// Failures until the app counts as unhealthy
    #[arg(long)]
    app_health_threshold: Option<u32>,
    /// Log every API call
    #[arg(long)]
    enable_api_logging: bool,
    /// Addresses of the APIs, comma-separated; empty: all
    #[arg(long)]
    dapr_listen_addresses: Option<String>,
    /// Host the app listens on, or unix:///path of its socket
    #[arg(long, default_value = "127.0.0.1")]
    app_channel_address: String,
    /// The app speaks TLS
    #[arg(long)]
    app_ssl: bool,
    /// Addresses of the placement service
    #[arg(long)]
    placement_host_address: Option<String>,
    /// Addresses of the scheduler
    #[arg(long)]
    scheduler_host_address: Option<String>,
    /// The app and its arguments
    #[arg(trailing_var_arg = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Arguments {
    /// As `dapr run`: what `dapr init` left holds where nothing else is given.
    pub(super) fn fill_in_home(&mut self, home: &Path) {
        for (given, name) in
            [(&mut self.config, "config.yaml"), (&mut self.resources_path, "components")]
        {
            let path = home.join(".dapr").join(name);
            if given.is_empty() && path.exists() {
                given.push(path.to_string_lossy().into_owned());
            }
        }
    }
}

/// What is started, with every choice made.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) app_id: String,
    pub(super) http_port: u16,
    pub(super) grpc_port: u16,
    pub(super) metrics_port: u16,
    /// 0: the app takes no calls.
    pub(super) app_port: u16,
    pub(super) app_protocol: String,
    pub(super) app_channel_address: String,
    pub(super) unix_domain_socket: Option<PathBuf>,
    pub(super) sidecar_arguments: Vec<String>,
    /// Empty: the sidecar runs alone.
    pub(super) command: Vec<String>,
    pub(super) is_one_of_several: bool,
    pub(super) surroundings: Surroundings,
}

/// What flags do not say.
#[derive(Debug, Default)]
pub(super) struct Surroundings {
    /// Where the app runs; here, unless given.
    pub(super) directory: Option<PathBuf>,
    /// More for the app than every app finds there.
    pub(super) environment: Vec<(String, String)>,
    pub(super) app_output: Output,
    pub(super) sidecar_output: Output,
    /// More for the sidecar's metadata.
    pub(super) entries: Vec<(&'static str, String)>,
}

impl Surroundings {
    /// Of one app that has the terminal for itself.
    pub(super) fn of_terminal() -> Self {
        Self {
            app_output: Output::terminal("== APP == "),
            sidecar_output: Output::terminal("== DAPR == "),
            ..Self::default()
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum PlanError {
    #[error("{0} is no port")]
    Port(i32),
    #[error("cannot find a free port: {0}")]
    FreePort(io::Error),
}

impl Plan {
    /// # Errors
    /// When a port is out of range, or none is free.
    pub(super) fn new(
        arguments: &Arguments,
        surroundings: Surroundings,
        held: &mut Vec<TcpListener>,
    ) -> Result<Self, PlanError> {
        let wanted = [arguments.dapr_http_port, arguments.dapr_grpc_port, arguments.metrics_port];
        let [http_port, grpc_port, metrics_port] = choose_ports(wanted, held)?;
        let app_port = port(arguments.app_port)?.unwrap_or(0);
        let app_id = arguments.app_id.clone().unwrap_or_else(instance::silly_app_id);
        let mut plan = Self {
            app_id,
            http_port,
            grpc_port,
            metrics_port,
            app_port,
            app_protocol: arguments.app_protocol.clone(),
            app_channel_address: arguments.app_channel_address.clone(),
            unix_domain_socket: arguments.unix_domain_socket.clone(),
            sidecar_arguments: Vec::new(),
            command: arguments.command.clone(),
            is_one_of_several: false,
            surroundings,
        };
        plan.sidecar_arguments = sidecar_arguments(&plan, arguments)?;
        Ok(plan)
    }

    /// Which app a message is of, where there are several.
    pub(super) fn label(&self) -> String {
        if self.is_one_of_several { format!(" {}", self.app_id) } else { String::new() }
    }

    /// What the app finds in its environment.
    pub(super) fn environment(&self) -> Vec<(&'static str, String)> {
        let mut environment = vec![
            ("APP_ID", self.app_id.clone()),
            ("APP_CHANNEL_ADDRESS", self.app_channel_address.clone()),
            ("APP_PROTOCOL", self.app_protocol.clone()),
            ("DAPR_HTTP_PORT", self.http_port.to_string()),
            ("DAPR_GRPC_PORT", self.grpc_port.to_string()),
            ("DAPR_METRICS_PORT", self.metrics_port.to_string()),
        ];
        if self.app_port != 0 {
            environment.push(("APP_PORT", self.app_port.to_string()));
        }
        environment
    }
}

/// As `dapr run` words them: `--key value`, bools bare, and nothing for what was not asked for.
fn sidecar_arguments(plan: &Plan, given: &Arguments) -> Result<Vec<String>, PlanError> {
    let text = |value: &Option<String>| value.clone();
    let number = |value: Option<i64>| value.map(|number| number.to_string());
    // daprd reads zeros of these as its own defaults, and `dapr run` leaves them out.
    let positive =
        |value: Option<u32>| value.filter(|number| *number > 0).map(|number| number.to_string());
    let internal_port = port(given.dapr_internal_grpc_port)?.map(|port| port.to_string());
    let directory =
        given.unix_domain_socket.as_ref().map(|path| path.to_string_lossy().into_owned());
    let channel = Some(given.app_channel_address.clone()).filter(|host| host != "127.0.0.1");
    let list = |values: &[String]| (!values.is_empty()).then(|| values.join(","));
    let values = [
        ("--app-id", Some(plan.app_id.clone())),
        ("--dapr-http-port", Some(plan.http_port.to_string())),
        ("--dapr-grpc-port", Some(plan.grpc_port.to_string())),
        ("--dapr-internal-grpc-port", internal_port),
        ("--metrics-port", Some(plan.metrics_port.to_string())),
        ("--app-port", Some(plan.app_port.to_string())),
        ("--app-protocol", Some(given.app_protocol.clone())),
        ("--app-channel-address", channel),
        ("--log-level", Some(given.log_level.clone())),
        ("--config", list(&given.config)),
        ("--resources-path", list(&given.resources_path)),
        ("--app-max-concurrency", number(given.app_max_concurrency)),
        ("--max-body-size", text(&given.max_body_size)),
        ("--read-buffer-size", text(&given.read_buffer_size)),
        ("--dapr-http-max-request-size", number(given.dapr_http_max_request_size)),
        ("--dapr-http-read-buffer-size", number(given.dapr_http_read_buffer_size)),
        ("--unix-domain-socket", directory),
        ("--app-health-check-path", text(&given.app_health_check_path)),
        ("--app-health-probe-interval", positive(given.app_health_probe_interval)),
        ("--app-health-probe-timeout", positive(given.app_health_probe_timeout)),
        ("--app-health-threshold", positive(given.app_health_threshold)),
        ("--dapr-listen-addresses", text(&given.dapr_listen_addresses)),
        ("--placement-host-address", text(&given.placement_host_address)),
        ("--scheduler-host-address", text(&given.scheduler_host_address)),
        ("--profile-port", port(given.profile_port)?.map(|port| port.to_string())),
    ];
    let bools = [
        ("--enable-profiling", given.enable_profiling),
        ("--log-as-json", given.log_as_json),
        ("--enable-app-health-check", given.enable_app_health_check),
        ("--enable-api-logging", given.enable_api_logging),
        ("--app-ssl", given.app_ssl),
    ];
    let pairs = values.into_iter().filter_map(|(flag, value)| Some([flag.to_owned(), value?]));
    let bare = bools.into_iter().filter(|(_, is_set)| *is_set).map(|(flag, _)| flag.to_owned());
    Ok(pairs.flatten().chain(bare).collect())
}

/// `None`: to be chosen, or none at all.
fn port(given: i32) -> Result<Option<u16>, PlanError> {
    match given {
        -1 | 0 => Ok(None),
        _ => u16::try_from(given).map(Some).map_err(|_| PlanError::Port(given)),
    }
}

/// Fills in free ports. All are held until all are chosen, so that no two are the same.
fn choose_ports<const N: usize>(
    given: [i32; N],
    held: &mut Vec<TcpListener>,
) -> Result<[u16; N], PlanError> {
    let mut ports = [0; N];
    for (chosen, given) in ports.iter_mut().zip(given) {
        *chosen = match port(given)? {
            Some(port) => port,
            None => {
                let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
                let listener = TcpListener::bind(any).map_err(PlanError::FreePort)?;
                let port = listener.local_addr().map_err(PlanError::FreePort)?.port();
                held.push(listener);
                port
            }
        };
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_dir::TestDir;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn plan(arguments: &[&str]) -> Result<Plan, PlanError> {
        let arguments = ["run"].iter().chain(arguments);
        let arguments = Cli::try_parse_from(arguments).unwrap().arguments;
        Plan::new(&arguments, Surroundings::of_terminal(), &mut Vec::new())
    }

    fn value_of<'a>(plan: &'a Plan, flag: &str) -> Option<&'a str> {
        let index = plan.sidecar_arguments.iter().position(|argument| argument == flag)?;
        plan.sidecar_arguments.get(index + 1).map(String::as_str)
    }

    #[test]
    fn refuses_what_is_no_port() {
        assert!(matches!(plan(&["-p", "70000"]), Err(PlanError::Port(70000))));
        assert!(matches!(plan(&["-H", "-2"]), Err(PlanError::Port(-2))));
        assert!(Cli::try_parse_from(["run", "--no-such-flag", "x"]).is_err());
    }

    #[test]
    fn what_dapr_init_left_holds_where_nothing_is_given() {
        let temp = TestDir::new();
        let given = |line: &[&str]| {
            let words = ["run"].iter().chain(line);
            let mut arguments = Cli::try_parse_from(words).unwrap().arguments;
            arguments.fill_in_home(temp.path());
            let plan = Plan::new(&arguments, Surroundings::default(), &mut Vec::new()).unwrap();
            ["--config", "--resources-path"].map(|flag| value_of(&plan, flag).map(str::to_owned))
        };
        assert_eq!(given(&[]), [None, None], "nothing was left");
        std::fs::create_dir_all(temp.path().join(".dapr/components")).unwrap();
        std::fs::write(temp.path().join(".dapr/config.yaml"), "").unwrap();
        let left = ["config.yaml", "components"]
            .map(|name| Some(temp.path().join(".dapr").join(name).to_string_lossy().into_owned()));
        assert_eq!(given(&[]), left);
        let own = ["a.yaml", "b"].map(|name| Some(name.to_owned()));
        assert_eq!(given(&["-c", "a.yaml", "-d", "b"]), own);
    }

    #[test]
    fn fills_in_what_is_not_given() {
        let plan = plan(&[]).unwrap();
        snapshot::AppId::new(&plan.app_id).unwrap();
        let mut ports = [plan.http_port, plan.grpc_port, plan.metrics_port];
        ports.sort_unstable();
        assert!(ports[0] > 0 && ports[0] < ports[1] && ports[1] < ports[2], "{ports:?}");
        assert_eq!(value_of(&plan, "--app-port"), Some("0"));
        assert_eq!(value_of(&plan, "--dapr-http-port"), Some(&*plan.http_port.to_string()));
        assert_eq!(value_of(&plan, "--dapr-internal-grpc-port"), None);
        assert!(plan.environment().iter().all(|(name, _)| *name != "APP_PORT"));
        assert!(plan.command.is_empty());
    }

    #[test]
    fn translates_every_flag() {
        let plan = plan(&[
            "-a",
            "orders",
            "-p",
            "6001",
            "-H",
            "3601",
            "-G",
            "60001",
            "-M",
            "9191",
            "-P",
            "h2c",
            "-c",
            "c.yaml",
            "-d",
            "a",
            "--components-path",
            "b",
            "--app-max-concurrency",
            "-1",
            "--max-body-size",
            "1Mi",
            "-u",
            "/tmp/s",
            "--app-health-threshold",
            "0",
            "--app-health-probe-interval",
            "3",
            "--enable-api-logging",
            "--app-channel-address",
            "localhost",
            "--log-level",
            "debug",
            "python3",
            "app.py",
            "--fast",
        ])
        .unwrap();
        for (flag, want) in [
            ("--app-id", Some("orders")),
            ("--app-port", Some("6001")),
            ("--dapr-http-port", Some("3601")),
            ("--dapr-grpc-port", Some("60001")),
            ("--metrics-port", Some("9191")),
            ("--app-protocol", Some("h2c")),
            ("--config", Some("c.yaml")),
            ("--resources-path", Some("a,b")),
            ("--app-max-concurrency", Some("-1")),
            ("--max-body-size", Some("1Mi")),
            ("--unix-domain-socket", Some("/tmp/s")),
            ("--app-health-threshold", None),
            ("--app-health-probe-interval", Some("3")),
            ("--app-channel-address", Some("localhost")),
            ("--log-level", Some("debug")),
        ] {
            assert_eq!(value_of(&plan, flag), want, "{flag}");
        }
        assert!(plan.sidecar_arguments.contains(&"--enable-api-logging".to_owned()));
        assert!(!plan.sidecar_arguments.contains(&"--app-ssl".to_owned()));
        assert_eq!(plan.command, ["python3", "app.py", "--fast"]);
        let environment = plan.environment();
        for (name, want) in [
            ("APP_ID", "orders"),
            ("APP_PORT", "6001"),
            ("APP_CHANNEL_ADDRESS", "localhost"),
            ("APP_PROTOCOL", "h2c"),
            ("DAPR_HTTP_PORT", "3601"),
            ("DAPR_GRPC_PORT", "60001"),
            ("DAPR_METRICS_PORT", "9191"),
        ] {
            assert!(environment.contains(&(name, want.to_owned())), "{name}: {environment:?}");
        }
    }

    #[test]
    fn every_translated_flag_is_one_of_the_sidecar() {
        let plan = plan(&[
            "-a",
            "x",
            "-I",
            "5",
            "--profile-port",
            "7",
            "--enable-profiling",
            "--log-as-json",
            "--app-ssl",
            "--enable-app-health-check",
            "--app-health-check-path",
            "/h",
            "--app-health-probe-timeout",
            "1",
            "--placement-host-address",
            "p",
            "--scheduler-host-address",
            "s",
            "--read-buffer-size",
            "8Ki",
            "--dapr-http-max-request-size",
            "-1",
            "--dapr-http-read-buffer-size",
            "8",
            "--dapr-listen-addresses",
            "127.0.0.1",
            "-u",
            "/tmp",
            "-c",
            "c",
            "-d",
            "d",
            "--app-channel-address",
            "h",
            "--app-max-concurrency",
            "3",
            "--max-body-size",
            "1",
            "--enable-api-logging",
            "--app-health-probe-interval",
            "1",
            "--app-health-threshold",
            "1",
        ])
        .unwrap();
        let arguments: Vec<&str> = plan.sidecar_arguments.iter().map(String::as_str).collect();
        let matches = crate::config::flags::matches(&arguments).unwrap();
        let values = crate::config::flags::Values::new(&matches, &|_| None).unwrap();
        assert!(values.stray_words().is_empty(), "{:?}", values.stray_words());
    }
}
