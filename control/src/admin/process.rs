//! What Prometheus' clients tell of their process, of any process of ours: from /proc.

#![forbid(unsafe_code)]

use rustix::param::{clock_ticks_per_second, page_size};
use snapshot::wire::{Counter, CounterKind};
use std::fs;

/// Nothing of a process that is gone.
pub(crate) fn counters(process: &str, pid: u32) -> Vec<Counter> {
    let Some(stat) = Stat::read(pid) else { return Vec::new() };
    let is_counter = |name: &str| name.ends_with("_total");
    let counter = |(name, value): (&str, f64)| Counter {
        name: name.to_owned(),
        labels: vec![("process".to_owned(), process.to_owned())],
        kind: if is_counter(name) { CounterKind::Counter } else { CounterKind::Gauge },
        value,
    };
    let mut values = vec![
        ("process_cpu_seconds_total", stat.cpu_seconds),
        ("process_resident_memory_bytes", stat.resident_bytes),
        ("process_virtual_memory_bytes", stat.virtual_bytes),
    ];
    values.extend(start_seconds(stat.start_ticks).map(|t| ("process_start_time_seconds", t)));
    values.extend(open_files(pid).map(|count| ("process_open_fds", count)));
    values.extend(files_max(pid).map(|count| ("process_max_fds", count)));
    values.into_iter().map(counter).collect()
}

struct Stat {
    cpu_seconds: f64,
    start_ticks: f64,
    virtual_bytes: f64,
    resident_bytes: f64,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// proc_pid_stat(5). The name may contain anything, so fields are counted from its end.
    #[expect(clippy::cast_precision_loss, reason = "the page has no other numbers")]
    fn parse(text: &str) -> Option<Self> {
        let (_, fields) = text.rsplit_once(')')?;
        let fields: Vec<f64> = fields.split(' ').map(|f| f.parse().unwrap_or_default()).collect();
        // The state, behind a space, is field 3.
        let field = |number: usize| fields.get(number - 2).copied();
        Some(Self {
            cpu_seconds: (field(14)? + field(15)?) / clock_ticks_per_second() as f64,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_bytes: field(24)? * page_size() as f64,
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "the page has no other numbers")]
fn start_seconds(ticks: f64) -> Option<f64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let boot = text.lines().find_map(|line| line.strip_prefix("btime "))?;
    Some(boot.trim().parse::<f64>().ok()? + ticks / clock_ticks_per_second() as f64)
}

fn open_files(pid: u32) -> Option<f64> {
    let count = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count();
    u32::try_from(count).ok().map(f64::from)
}

fn files_max(pid: u32) -> Option<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_fields_behind_any_name() {
        let stat = Stat::parse(
            "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 1 0 300 4096 2 18446744073709551615 1",
        )
        .unwrap();
        let ticks = clock_ticks_per_second() as f64;
        assert_eq!((stat.cpu_seconds, stat.start_ticks), (200.0 / ticks, 300.0));
        assert_eq!((stat.virtual_bytes, stat.resident_bytes), (4096.0, 2.0 * page_size() as f64));
        assert!(Stat::parse("7 (a) S 1").is_none());
    }

    #[test]
    fn knows_its_own_process_and_none_that_is_gone() {
        let counters = counters("control", std::process::id());
        let find = |name| counters.iter().find(|counter| counter.name == name).unwrap().value;
        assert!(find("process_resident_memory_bytes") > 100_000.0);
        assert!(find("process_open_fds") >= 3.0 && find("process_max_fds") >= 3.0);
        assert!(find("process_start_time_seconds") > 1e9);
        assert!(super::counters("gone", u32::MAX).is_empty());
    }
}
