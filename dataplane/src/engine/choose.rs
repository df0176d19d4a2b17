//! Which backend, and why: asked once at start, before the workers make their engines.
//!
//! io_uring is taken only after real bytes went through a ring of its own in this very process:
//! kernels, sandboxes and limits refuse it in ways that no version number tells. Each refusal
//! becomes words with a remedy.

#![forbid(unsafe_code)]

use super::{
    Backend, Chunk, Engine, EngineError, EpollEngine, Event, SocketKey, UringEngine,
    uring::TaskMode,
};
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
    system::uname,
};
use std::{fs, time::Duration};

/// What the operator asked for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Choice {
    #[default]
    Auto,
    Epoll,
    Uring,
}

/// The answer, with its reason for the log and the metrics.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Selected {
    pub backend: Backend,
    pub reason: String,
}

/// io_uring was asked for by name and does not work here.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{reason}; it was asked for by name, so epoll does not take its place")]
pub struct Unusable {
    pub reason: String,
}

/// Decides for this process.
///
/// # Errors
/// When io_uring was asked for and does not work.
pub fn probe(choice: Choice) -> Result<Selected, Unusable> {
    if choice == Choice::Epoll {
        let reason = "asked for".to_owned();
        return Ok(Selected { backend: Backend::Epoll, reason });
    }
    match (try_uring(), choice) {
        (Ok(reason), _) => Ok(Selected { backend: Backend::Uring, reason }),
        (Err(reason), Choice::Uring) => Err(Unusable { reason }),
        (Err(reason), _) => Ok(Selected { backend: Backend::Epoll, reason }),
    }
}

/// Makes an io_uring engine for the calling thread, which alone may drive it.
///
/// # Errors
/// When the kernel refuses.
pub fn uring() -> Result<UringEngine, EngineError> {
    UringEngine::new()
}

/// Makes an epoll engine.
///
/// # Errors
/// When descriptors or memory are short.
pub fn epoll() -> Result<EpollEngine, EngineError> {
    EpollEngine::new()
}

fn try_uring() -> Result<String, String> {
    let mut engine = UringEngine::new().map_err(|error| explain(&error, disabled_by_sysctl()))?;
    test_itself(&mut engine).map_err(|stage| format!("io_uring fails its self-test: {stage}"))?;
    let mode = match engine.task_mode() {
        TaskMode::Cooperative => "COOP_TASKRUN",
        TaskMode::Deferred => "DEFER_TASKRUN",
    };
    let kernel = uname().release().to_string_lossy().into_owned();
    Ok(format!("io_uring with {mode} passed its self-test, kernel {kernel}"))
}

/// Why there is no ring, and what to do about it.
fn explain(error: &EngineError, disabled: bool) -> String {
    let what = match error.error {
        Errno::PERM | Errno::ACCESS if disabled => {
            "it is switched off (sysctl kernel.io_uring_disabled); set that to 0 to use it"
        }
        Errno::PERM | Errno::ACCESS => {
            "a seccomp profile or security module refuses it, as those of Docker and containerd do; \
             allow io_uring_setup, io_uring_enter and io_uring_register to use it"
        }
        Errno::NOSYS => "the kernel lacks it; it needs 6.1 or newer",
        Errno::INVAL => "the kernel is older than 6.0",
        Errno::NOMEM => {
            "memory may not be locked for it; raise the limit (ulimit -l, LimitMEMLOCK=)"
        }
        Errno::MFILE | Errno::NFILE => "descriptors are short; raise the limit (ulimit -n)",
        _ => "the kernel refuses it",
    };
    format!("io_uring is not usable: {what} ({error})")
}

fn disabled_by_sysctl() -> bool {
    fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
        .is_ok_and(|value| matches!(value.trim(), "1" | "2"))
}

/// Sends real bytes through the engine: a message, more than a socket holds, a FIN, and a receive
/// that is cancelled.
///
/// # Errors
/// What did not work.
fn test_itself(engine: &mut impl Engine) -> Result<(), String> {
    let mut bench = Bench::new(engine).map_err(|error| format!("socketpair: {error}"))?;
    let (left, right) = (bench.left, bench.right);
    bench.engine.receive_start(right);
    bench.engine.send(left, Chunk::from_static(b"ping"));
    bench.run("receive of a message", |seen| seen.received == b"ping" && seen.sent == 4)?;

    let long: Vec<u8> = (0..=255).cycle().take(LONG_BYTES).collect();
    bench.engine.send(left, Chunk::from_vec(long.clone(), 0));
    bench.engine.shutdown_write(left);
    bench.run("a send that a socket cannot hold, with its FIN", |seen| {
        seen.sent == LONG_BYTES && seen.received == long && seen.closed
    })?;

    bench.engine.receive_start(left);
    bench.engine.receive_stop(left);
    bench.engine.send(right, Chunk::from_static(b"pong"));
    bench.run("send after the peer's FIN", |seen| seen.sent == 4)?;
    bench.engine.receive_start(left);
    bench.run("receive after a cancelled one", |seen| seen.received == b"pong")?;

    bench.engine.close(left);
    bench.engine.close(right);
    if bench.engine.buffers().leased_buffers() > 0 {
        return Err("a buffer did not come back".to_owned());
    }
    Ok(())
}

struct Bench<'a, E> {
    engine: &'a mut E,
    left: SocketKey,
    right: SocketKey,
}

/// What came out of the engine during one step.
#[derive(Default)]
struct Seen {
    received: Vec<u8>,
    sent: usize,
    closed: bool,
}

impl<'a, E: Engine> Bench<'a, E> {
    fn new(engine: &'a mut E) -> Result<Self, Errno> {
        let flags = SocketFlags::CLOEXEC;
        let (left, right) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let (left, right) = (engine.adopt(left), engine.adopt(right));
        Ok(Self { engine, left, right })
    }

    /// Turns until `done`, or fails naming `step`.
    fn run(&mut self, step: &str, done: impl Fn(&Seen) -> bool) -> Result<(), String> {
        let mut seen = Seen::default();
        let mut events = Vec::new();
        let mut idle = 0;
        while idle < IDLE_TURNS_MAX {
            if done(&seen) {
                return Ok(());
            }
            idle += 1;
            self.engine
                .turn(Some(TURN_TIMEOUT), &mut events)
                .map_err(|error| format!("{step}: {error}"))?;
            for event in events.drain(..) {
                idle = 0;
                match event {
                    Event::Received { chunk, .. } => seen.received.extend_from_slice(&chunk),
                    Event::Sent { bytes, .. } => seen.sent += bytes,
                    Event::ReceiveClosed { .. } => seen.closed = true,
                    Event::Failed { error, .. } => return Err(format!("{step}: {error}")),
                    _ => {}
                }
            }
        }
        Err(format!("{step} did not come about"))
    }
}

/// More than a Unix socket takes at once (212,992 bytes by default).
const LONG_BYTES: usize = 1024 * 1024;

/// A test that works takes microseconds; one that does not must not hold up the start.
const TURN_TIMEOUT: Duration = Duration::from_millis(100);
const IDLE_TURNS_MAX: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn explains_refusals() {
        for (case, error, disabled, want) in [
            ("seccomp", Errno::PERM, false, "seccomp profile"),
            ("sysctl", Errno::PERM, true, "kernel.io_uring_disabled"),
            ("no such call", Errno::NOSYS, false, "6.1 or newer"),
            ("old flags", Errno::INVAL, false, "older than 6.0"),
            ("memlock", Errno::NOMEM, false, "LimitMEMLOCK"),
            ("descriptors", Errno::MFILE, false, "ulimit -n"),
            ("anything", Errno::IO, false, "refuses it (io_uring_setup"),
        ] {
            let error = EngineError { operation: "io_uring_setup", error };
            let words = explain(&error, disabled);
            assert!(words.contains(want), "{case}: {words}");
        }
    }

    #[test]
    fn epoll_passes_the_self_test() {
        test_itself(&mut epoll().unwrap()).unwrap();
    }

    #[test]
    fn uring_passes_the_self_test_without_deferred_tasks() {
        if uring().is_ok() {
            let mut engine = UringEngine::cooperative().unwrap();
            assert_eq!(engine.task_mode(), TaskMode::Cooperative);
            test_itself(&mut engine).unwrap();
        }
    }

    #[test]
    fn epoll_is_taken_when_asked_for() {
        let selected = probe(Choice::Epoll).unwrap();
        assert_eq!((selected.backend, &*selected.reason), (Backend::Epoll, "asked for"));
    }

    #[test]
    fn uring_is_taken_exactly_when_there_is_one() {
        let (asked, auto) = (probe(Choice::Uring), probe(Choice::Auto).unwrap());
        if uring().is_ok() {
            assert_eq!((auto.backend, Ok(&auto)), (Backend::Uring, asked.as_ref()));
            assert!(auto.reason.contains("passed its self-test"), "{}", auto.reason);
        } else {
            let Unusable { reason } = asked.unwrap_err();
            assert_eq!(auto, Selected { backend: Backend::Epoll, reason });
        }
    }
}
