//! A machine of its own for one test, as far as sidecars can tell: a runtime directory, and free
//! ports.

#![forbid(unsafe_code)]

use super::{Process, free_port, try_call};
use rustix::{
    net::sockopt,
    process::{Pid, Signal, kill_process},
};
use std::{
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

pub(crate) struct Place {
    path: PathBuf,
}

impl Place {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ringcar-e2e-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self { path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The executable with these arguments, in this place.
    pub(crate) fn ringcar(&self, arguments: &[&str]) -> Command {
        self.executable(Path::new(env!("CARGO_BIN_EXE_ringcar")), arguments)
    }

    pub(crate) fn executable(&self, path: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(path);
        command.args(arguments).current_dir(&self.path);
        command.env("RINGCAR_RUNTIME_DIR", self.path.join("run"));
        for name in ["DAPR_API_TOKEN", "APP_API_TOKEN", "NAMESPACE", "DAPR_HOST_IP"] {
            command.env_remove(name);
        }
        command
    }

    #[track_caller]
    pub(crate) fn start(&self, arguments: &[&str]) -> Process {
        Process::start(&mut self.ringcar(arguments))
    }

    /// Runs a command to its end: its code, and all it said.
    #[track_caller]
    pub(crate) fn finish(&self, arguments: &[&str]) -> super::Finished {
        self.start(arguments).wait()
    }

    /// A sidecar that answers calls; with an app port, one whose app was found.
    #[track_caller]
    pub(crate) fn sidecar(&self, id: &str, app_port: Option<u16>, more: &[&str]) -> (Process, u16) {
        let (mut process, http_port) = self.start_sidecar(id, app_port, more);
        process.wait_for("dapr initialized. Status: Running.");
        (process, http_port)
    }

    #[track_caller]
    pub(crate) fn start_sidecar(
        &self,
        id: &str,
        app_port: Option<u16>,
        more: &[&str],
    ) -> (Process, u16) {
        let http_port = free_port();
        (self.sidecar_at(http_port, id, app_port, more), http_port)
    }

    /// A sidecar whose API has this port; the same again continues what a killed one left.
    #[track_caller]
    pub(crate) fn sidecar_at(
        &self,
        http_port: u16,
        id: &str,
        app_port: Option<u16>,
        more: &[&str],
    ) -> Process {
        let ports = [http_port.to_string(), app_port.unwrap_or(0).to_string()];
        let mut arguments = vec!["sidecar", "--app-id", id, "--dapr-http-port", &ports[0]];
        arguments.extend(["--app-port", &ports[1], "--dapr-listen-addresses", "127.0.0.1"]);
        if !more.iter().any(|argument| argument.starts_with("--metrics-port")) {
            arguments.push("--enable-metrics=false");
        }
        arguments.extend(more);
        self.start(&arguments)
    }

    /// Files of the registry: entries, or sockets.
    pub(crate) fn files(&self, kind: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path.join("run").join(kind)).into_iter().flatten();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

impl Place {
    /// Data planes that can be adopted, or are controlled.
    pub(crate) fn data_planes(&self) -> Vec<u32> {
        let sockets = fs::read_dir(self.path.join("run/dataplane")).into_iter().flatten();
        let sockets = sockets.map(|file| file.unwrap().path());
        let is_socket = |path: &PathBuf| path.extension().is_some_and(|e| e == "sock");
        let streams = sockets.filter(is_socket).filter_map(|path| UnixStream::connect(path).ok());
        let peers = streams.filter_map(|stream| sockopt::socket_peercred(stream).ok());
        peers.map(|peer| peer.pid.as_raw_nonzero().get().unsigned_abs()).collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A test that killed control leaves what control would have ended.
        for pid in self.data_planes().into_iter().filter(|pid| *pid != std::process::id()) {
            let pid = Pid::from_raw(pid.cast_signed()).unwrap();
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Gives a file this text as editors and deployments do it: whole, at once.
pub(crate) fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

/// Status of a GET, 0 while nobody answers.
pub(crate) fn status_of(port: u16, path: &str) -> u16 {
    match try_call(port, &format!("GET {path}"), &[], "") {
        Ok(answer) => answer.status,
        Err(_) => 0,
    }
}
