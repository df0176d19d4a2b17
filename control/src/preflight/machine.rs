//! Kernel, engine and clock.

#![forbid(unsafe_code)]

use super::Finding;
use dataplane::engine::{self, Backend, Choice, Selected};
use std::fs;

pub(super) fn kernel() -> Finding {
    judge_kernel(&rustix::system::uname().release().to_string_lossy())
}

fn judge_kernel(release: &str) -> Finding {
    const CHECK: &str = "kernel";
    match version(release) {
        Some(version) if version >= DEFERRED_SINCE => Finding::ok(CHECK, release),
        Some(version) if version >= COOPERATIVE_SINCE => {
            Finding::warning(CHECK, release, "6.1 or newer runs io_uring with less CPU")
        }
        Some(_) => Finding::warning(
            CHECK,
            release,
            "calls are carried with epoll; 6.1 or newer has the io_uring that Ringcar uses",
        ),
        None => Finding::warning(CHECK, release, "this is no version of Linux that is known"),
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Sends real bytes through a ring of this process, as the data plane does when it starts.
pub(super) fn engine(choice: Choice) -> Finding {
    judge_engine(choice, engine::probe(choice))
}

fn judge_engine(choice: Choice, selected: Result<Selected, engine::Unusable>) -> Finding {
    const CHECK: &str = "io_uring";
    match selected {
        Ok(Selected { backend: Backend::Uring, reason }) => Finding::ok(CHECK, reason),
        Ok(Selected { backend: Backend::Epoll, reason }) if choice == Choice::Epoll => {
            Finding::ok(CHECK, format!("not used: epoll was {reason}"))
        }
        Ok(Selected { backend: Backend::Epoll, reason }) => {
            Finding::warning(CHECK, reason, "epoll takes its place, at a few percent more CPU")
        }
        Err(e) => Finding::failure(CHECK, e.to_string(), "unset RINGCAR_ENGINE to use epoll"),
    }
}

pub(super) fn clock() -> Finding {
    judge_clock(fs::read_to_string(CLOCK_SOURCE).ok().as_deref().map(str::trim))
}

/// Each turn of a worker reads the clock; from these it is read without a call into the kernel.
fn judge_clock(source: Option<&str>) -> Finding {
    const CHECK: &str = "clock source";
    match source {
        Some(source) if FAST_CLOCKS.contains(&source) => Finding::ok(CHECK, source),
        Some(source) => Finding::warning(
            CHECK,
            source,
            "reading it takes a system call; boot with a faster one where the machine has one \
             (clocksource=tsc)",
        ),
        None => Finding::warning(CHECK, "unknown", format!("make {CLOCK_SOURCE} readable")),
    }
}

/// `IORING_SETUP_DEFER_TASKRUN`.
const DEFERRED_SINCE: (u32, u32) = (6, 1);

/// Multishot receive.
const COOPERATIVE_SINCE: (u32, u32) = (6, 0);

const CLOCK_SOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";

/// Those with a vDSO path.
const FAST_CLOCKS: [&str; 5] =
    ["arch_sys_counter", "hyperv_clocksource_tsc_page", "kvm-clock", "riscv_clocksource", "tsc"];

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn judges_kernels() {
        for (release, want) in [
            ("", State::Warning),
            ("FreeBSD", State::Warning),
            ("5.15.0-91-generic", State::Warning),
            ("6.0.19", State::Warning),
            ("6.1.0-18-amd64", State::Ok),
            ("6.10.3", State::Ok),
            ("7.0-rc1", State::Ok),
        ] {
            assert_eq!(judge_kernel(release).state, want, "{release}");
        }
    }

    #[test]
    fn judges_engines() {
        let selected = |backend| Ok(Selected { backend, reason: "why".to_owned() });
        for (choice, result, want) in [
            (Choice::Uring, Err(engine::Unusable { reason: "why".to_owned() }), State::Failure),
            (Choice::Auto, selected(Backend::Epoll), State::Warning),
            (Choice::Epoll, selected(Backend::Epoll), State::Ok),
            (Choice::Auto, selected(Backend::Uring), State::Ok),
        ] {
            let finding = judge_engine(choice, result);
            assert_eq!(finding.state, want, "{choice:?}");
            assert!(finding.found.contains("why"), "{finding:?}");
        }
    }

    #[test]
    fn judges_clocks() {
        for (source, want) in [
            (None, State::Warning),
            (Some("acpi_pm"), State::Warning),
            (Some("tsc"), State::Ok),
            (Some("kvm-clock"), State::Ok),
        ] {
            assert_eq!(judge_clock(source).state, want, "{source:?}");
        }
    }
}
