//! A process of the test: its output line by line, its end, and its certain end when the test is
//! over.

#![forbid(unsafe_code)]

use rustix::process::{Pid, Signal, kill_process};
use std::{
    io::{BufRead, BufReader, Read},
    os::unix::process::ExitStatusExt,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

pub(crate) struct Process {
    child: Child,
    /// Started others, which would outlive it if it were killed.
    has_family: bool,
    lines: mpsc::Receiver<String>,
    seen: String,
}

pub(crate) struct Finished {
    /// 128 and the signal for one that a signal ended.
    pub(crate) code: i32,
    /// Standard output and error.
    pub(crate) output: String,
}

impl Process {
    #[track_caller]
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::channel();
        forward(child.stdout.take().unwrap(), sender.clone());
        forward(child.stderr.take().unwrap(), sender);
        let has_family = command.get_args().next().is_some_and(|argument| argument == "run");
        Self { child, has_family, lines, seen: String::new() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line that contains `text`, and returns it.
    #[track_caller]
    pub(crate) fn wait_for(&mut self, text: &str) -> String {
        self.wait_longer_for(super::DEADLINE, text)
    }

    #[track_caller]
    pub(crate) fn wait_longer_for(&mut self, time: Duration, text: &str) -> String {
        let deadline = Instant::now() + time;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.seen.push_str(&line);
                    self.seen.push('\n');
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(_) => panic!("no line with {text:?} in:\n{}", self.seen),
            }
        }
    }

    /// Waits for lines that contain these, in any order: what comes from several processes, or by
    /// standard output and error, has none.
    #[track_caller]
    pub(crate) fn wait_for_each<const N: usize>(&mut self, texts: [&str; N]) {
        let mut left = texts.to_vec();
        while !left.is_empty() {
            let line = self.wait_for("");
            left.retain(|text| !line.contains(text));
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// As a crash ends it: nobody is told, nothing is cleaned up.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    #[track_caller]
    pub(crate) fn wait(mut self) -> Finished {
        let mut status = None;
        // One that waits for what it needs gives up after as long as anything takes.
        super::eventually_in(2 * super::DEADLINE, "the process ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let status = status.unwrap();
        // Whoever inherited the pipes may keep them a little longer; what is of interest came
        // before.
        let deadline = Instant::now() + Duration::from_secs(1);
        let left = || deadline.saturating_duration_since(Instant::now());
        while let Ok(line) = self.lines.recv_timeout(left()) {
            self.seen.push_str(&line);
            self.seen.push('\n');
        }
        let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap();
        Finished { code, output: std::mem::take(&mut self.seen) }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.has_family && matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::TERM);
            let deadline = Instant::now() + super::DEADLINE;
            while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
                thread::sleep(Duration::from_millis(2));
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn forward(pipe: impl Read + Send + 'static, lines: mpsc::Sender<String>) {
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                return;
            }
        }
    });
}
