//! The directories, ports and sockets a sidecar of this configuration takes.

#![forbid(unsafe_code)]

use super::Finding;
use crate::{
    config::{AppPlace, Config, HostPort},
    listen::{self, ListenError},
    registry::local::LocalRegistry,
    runtime_dir::{RuntimeDir, RuntimeDirError},
};
use rustix::fs::{Access, access};
use std::{
    net::{TcpStream, ToSocketAddrs},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

pub(super) fn runtime_dir() -> Finding {
    judge_runtime_dir(RuntimeDir::locate())
}

fn judge_runtime_dir(dir: Result<RuntimeDir, RuntimeDirError>) -> Finding {
    const CHECK: &str = "runtime directory";
    let dir = match dir {
        Ok(dir) => dir,
        Err(e) => return Finding::failure(CHECK, e.to_string(), "see above"),
    };
    let path = dir.path();
    let shown = path.display();
    if path.exists() {
        return match dir.check() {
            Err(e) => Finding::failure(CHECK, e.to_string(), ELSEWHERE),
            Ok(()) if !is_writable(path) => {
                Finding::failure(CHECK, format!("{shown} cannot be written"), ELSEWHERE)
            }
            Ok(()) => Finding::ok(CHECK, format!("{shown}, for this user alone")),
        };
    }
    match path.ancestors().find(|parent| parent.exists()) {
        Some(parent) if is_writable(parent) => Finding::ok(CHECK, format!("{shown}, to be made")),
        _ => Finding::failure(CHECK, format!("{shown} cannot be made"), ELSEWHERE),
    }
}

fn is_writable(directory: &Path) -> bool {
    access(directory, Access::WRITE_OK | Access::EXEC_OK).is_ok()
}

pub(super) fn local_registry() -> Finding {
    const CHECK: &str = "registry local";
    let Ok(dir) = RuntimeDir::locate() else {
        return Finding::failure(CHECK, "it has no directory", ELSEWHERE);
    };
    match LocalRegistry::new(dir).read() {
        Ok(table) => Finding::ok(CHECK, format!("{} sidecars", table.len())),
        Err(e) => Finding::failure(CHECK, e.to_string(), ELSEWHERE),
    }
}

/// Every port or socket, bound and let go again.
pub(super) fn listeners(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    match &config.unix_socket_directory {
        Some(directory) => findings.push(api_socket(directory, config)),
        None => {
            let every_interface = [String::new()];
            let hosts = match &config.listen_hosts[..] {
                [] => &every_interface[..],
                hosts => hosts,
            };
            let place = |host: &String| HostPort { host: host.clone(), port: config.http_port };
            findings.extend(hosts.iter().map(|host| port("api port", &place(host))));
        }
    }
    findings.extend(config.public.iter().map(|place| port("public port", place)));
    findings
}

pub(super) fn metrics(config: &Config) -> Option<Finding> {
    config.process.metrics.as_ref().map(|place| port("metrics port", place))
}

fn port(check: &'static str, place: &HostPort) -> Finding {
    match listen::tcp(&place.host, place.port, Duration::ZERO, |_| {}) {
        Ok(bound) => Finding::ok(check, format!("{} is free", bound.address)),
        Err(e) => {
            let remedy = match &e {
                ListenError::Resolve { .. } => "give an address of this machine",
                _ => "end what holds it, or choose another port",
            };
            Finding::failure(check, e.to_string(), remedy)
        }
    }
}

fn api_socket(directory: &Path, config: &Config) -> Finding {
    const CHECK: &str = "api socket";
    let path = directory.join(format!("dapr-{}-http.socket", config.app_id));
    let shown = path.display();
    let parent = directory.ancestors().find(|parent| parent.exists());
    if !parent.is_some_and(is_writable) {
        let remedy = "name a directory this user may write";
        return Finding::failure(CHECK, format!("{shown} cannot be made"), remedy);
    }
    if socket2::SockAddr::unix(&path).is_err() {
        return Finding::failure(CHECK, format!("{shown} is too long"), "name a shorter directory");
    }
    if UnixStream::connect(&path).is_ok() {
        let remedy = "stop the sidecar that serves this app id there";
        return Finding::failure(CHECK, format!("{shown} is in use"), remedy);
    }
    Finding::ok(CHECK, format!("{shown} is free"))
}

/// An app may well be started after its sidecar.
pub(super) fn app(config: &Config) -> Option<Finding> {
    const CHECK: &str = "app";
    let (shown, listens) = match config.app.as_ref()? {
        AppPlace::Tcp { host, port } => {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let addresses = (host, *port).to_socket_addrs();
            let mut addresses = addresses.into_iter().flatten();
            let connects = |address| TcpStream::connect_timeout(&address, DIAL_TIMEOUT).is_ok();
            (format!("port {port} of {host}"), addresses.any(connects))
        }
        AppPlace::Unix(path) => (path.display().to_string(), UnixStream::connect(path).is_ok()),
    };
    Some(if listens {
        Finding::ok(CHECK, format!("listens on {shown}"))
    } else {
        let remedy = "/v1.0/healthz stays 500 until it does";
        Finding::warning(CHECK, format!("nothing listens on {shown}"), remedy)
    })
}

const ELSEWHERE: &str =
    "set RINGCAR_RUNTIME_DIR to a directory that this user alone may write, or make it so (0700)";

const DIAL_TIMEOUT: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;
    use crate::test_dir::TestDir;
    use std::{fs, net::TcpListener, os::unix::fs::PermissionsExt};

    #[test]
    fn looks_at_the_directory_without_making_it() {
        let temp = TestDir::new();
        let path = temp.path().join("a/b");
        let finding = || judge_runtime_dir(Ok(RuntimeDir::at(&path)));
        assert_eq!(finding().state, State::Ok);
        assert!(!path.exists());
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        let open = finding();
        assert_eq!(open.state, State::Failure);
        assert!(open.found.contains("mode 777"), "{open:?}");
        assert_eq!(judge_runtime_dir(Err(RuntimeDirError::NoPlace)).state, State::Failure);
        let nowhere = judge_runtime_dir(Ok(RuntimeDir::at(Path::new("/proc/self/none"))));
        assert_eq!(nowhere.state, State::Failure);
    }

    #[test]
    fn names_who_holds_a_port() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place =
            HostPort { host: "127.0.0.1".to_owned(), port: listener.local_addr().unwrap().port() };
        let taken = port("api port", &place);
        assert_eq!(taken.state, State::Failure);
        let owner = format!("held by process {} (", std::process::id());
        assert!(taken.found.contains(&owner), "{taken:?}");
        drop(listener);
        assert_eq!(port("api port", &place).state, State::Ok);
        let nowhere = HostPort { host: "no such host".to_owned(), port: 1 };
        assert_eq!(port("api port", &nowhere).state, State::Failure);
    }
}
