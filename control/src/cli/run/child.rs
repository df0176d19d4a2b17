//! A process that `run` started, in a process group of its own: how it is signalled and how it
//! ended.
//!
//! The group is the unit: `npm start` and `sh -c` leave the app to a grandchild, and a terminal's
//! Ctrl-C should reach app and sidecar through `run` only, in the right order.

#![forbid(unsafe_code)]

use super::output::{self, Output, Sink};
use crate::signals::Signal;
use rustix::process::{Pid, kill_process_group};
use std::{
    io,
    os::unix::process::ExitStatusExt,
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::{
    process::{Child, Command},
    task::JoinHandle,
};

pub(super) struct Group {
    child: Child,
    relays: Vec<JoinHandle<()>>,
    status: Option<ExitStatus>,
}

impl Group {
    /// # Errors
    /// When the command cannot be started.
    pub(super) fn start(command: &mut Command, output: &Output) -> io::Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let stdout =
            child.stdout.take().map(|pipe| output::relay(pipe, output.clone(), Sink::Stdout));
        let stderr =
            child.stderr.take().map(|pipe| output::relay(pipe, output.clone(), Sink::Stderr));
        Ok(Self { child, relays: stdout.into_iter().chain(stderr).collect(), status: None })
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Ready when the process has ended, and then again and again.
    ///
    /// # Errors
    /// When the kernel cannot tell.
    pub(super) async fn ended(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await?;
        self.status = Some(status);
        Ok(status)
    }

    /// Signals the group as long as its leader is there: its id is then nobody else's.
    pub(super) fn signal(&self, signal: rustix::process::Signal) {
        let leader =
            self.child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        if let Some(leader) = leader {
            // It may end this very moment.
            let _ = kill_process_group(leader, signal);
        }
    }

    /// Ends the group: asks, waits, and then does not ask. `None` when not even that is known to
    /// have worked.
    pub(super) async fn end(&mut self, signal: Signal, patience: Duration) -> Option<ExitStatus> {
        self.signal(signal.number());
        if let Ok(Ok(status)) = tokio::time::timeout(patience, self.ended()).await {
            return Some(status);
        }
        self.signal(rustix::process::Signal::KILL);
        self.ended().await.ok()
    }

    /// Waits for the last lines. A grandchild that lives on keeps the pipe open, and is not waited
    /// for.
    pub(super) async fn finish_output(self) {
        let all = async {
            for relay in self.relays {
                let _ = relay.await;
            }
        };
        let _ = tokio::time::timeout(OUTPUT_TIMEOUT, all).await;
    }
}

/// As shells have it: 128 and the signal's number for a process that a signal ended.
pub(super) fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

const OUTPUT_TIMEOUT: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_dir::TestDir;

    fn run(script: &str, test: impl AsyncFnOnce(&mut Group)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut command = Command::new("sh");
            let mut group = Group::start(command.args(["-c", script]), &Output::default()).unwrap();
            tokio::time::timeout(Duration::from_secs(60), test(&mut group)).await.expect("in time");
        });
    }

    #[test]
    fn codes_are_those_of_a_shell() {
        for (script, want) in
            [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -15 $$", 143)]
        {
            run(script, async |group| {
                let status = group.ended().await.unwrap();
                assert_eq!(code(status), want, "{script}");
            });
        }
    }

    #[test]
    fn a_group_that_does_not_listen_is_killed_whole() {
        let temp = TestDir::new();
        let deaf = temp.path().join("deaf");
        let script = format!("trap '' TERM; : > {}; sleep 60", deaf.display());
        run(&script, async |group| {
            while !deaf.exists() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let status = group.end(Signal::Terminate, Duration::from_millis(50)).await.unwrap();
            assert_eq!(code(status), 137);
        });
    }

    #[test]
    fn a_signal_reaches_grandchildren() {
        run("sh -c 'sleep 60; exit 0'; exit 5", async |group| {
            let status = group.end(Signal::Terminate, Duration::from_secs(3)).await.unwrap();
            assert_eq!(code(status), 143);
        });
    }
}
