//! What a process costs: CPU time of all its threads, and resident memory, as `/proc` tells.

#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use std::fs;

/// CPU time of all threads that live, in nanoseconds: run time as the scheduler counts it, in the
/// kernel and outside of it. io_uring's own worker threads belong to the process and are counted
/// with it.
///
/// # Errors
/// When the process is gone or belongs to somebody else.
pub fn cpu_nanos(pid: u32) -> Result<u64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task"))
        .with_context(|| format!("process {pid} is not running"))?;
    let mut nanos = 0;
    for thread in threads {
        // A thread may end between listing and reading; what it used is lost then, as with top(1).
        if let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) {
            nanos += run_nanos(&text).context("/proc/PID/task/TID/schedstat is not as expected")?;
        }
    }
    Ok(nanos)
}

/// The first of schedstat's three numbers (Documentation/scheduler/sched-stats.rst).
fn run_nanos(schedstat: &str) -> Option<u64> {
    schedstat.split_ascii_whitespace().next()?.parse().ok()
}

/// # Errors
/// When the process is gone.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("process {pid} is not running"))?;
    resident_of(&status).with_context(|| format!("process {pid} has no VmRSS: is it a zombie?"))
}

fn resident_of(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        assert_eq!(run_nanos("123456 789 3\n"), Some(123_456));
        assert_eq!(run_nanos(""), None);
        assert_eq!(resident_of("Name:\tx\nVmRSS:\t    2048 kB\n"), Some(2 * 1024 * 1024));
        assert_eq!(resident_of("Name:\tx\n"), None);
    }

    #[test]
    fn counts_this_process() {
        let pid = std::process::id();
        let before = cpu_nanos(pid).unwrap();
        let mut sum = 0_u64;
        // Run time is accounted at the scheduler's tick at the latest.
        while cpu_nanos(pid).unwrap() < before + 1_000_000 {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(resident_bytes(pid).unwrap() > 100_000);
        assert!(cpu_nanos(u32::MAX).is_err());
    }
}
