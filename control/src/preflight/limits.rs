//! What the process may use: descriptors, locked memory, CPU.

#![forbid(unsafe_code)]

use super::Finding;
use rustix::process::{Resource, getrlimit};
use std::{fs, path::Path};

pub(super) fn findings() -> [Finding; 3] {
    let descriptors = getrlimit(Resource::Nofile);
    let memory = getrlimit(Resource::Memlock);
    [judge_descriptors(descriptors.current), judge_memory(memory.current), cpu()]
}

/// `None` is unlimited.
fn judge_descriptors(soft: Option<u64>) -> Finding {
    const CHECK: &str = "descriptors";
    match soft {
        Some(soft) if soft < DESCRIPTORS_WANTED => Finding::warning(
            CHECK,
            format!("at most {soft}"),
            format!(
                "each connection takes one; raise the limit to {DESCRIPTORS_WANTED} for busy apps \
                 (ulimit -n, LimitNOFILE=)"
            ),
        ),
        Some(soft) => Finding::ok(CHECK, format!("at most {soft}")),
        None => Finding::ok(CHECK, "unlimited"),
    }
}

fn judge_memory(soft: Option<u64>) -> Finding {
    const CHECK: &str = "locked memory";
    match soft {
        Some(soft) if soft < LOCKED_BYTES_WANTED => Finding::warning(
            CHECK,
            format!("at most {soft} bytes"),
            "io_uring may not get its buffers; raise the limit to 8 MiB (ulimit -l, LimitMEMLOCK=)",
        ),
        Some(soft) => Finding::ok(CHECK, format!("at most {soft} bytes")),
        None => Finding::ok(CHECK, "unlimited"),
    }
}

fn cpu() -> Finding {
    let group = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = group.lines().find_map(|line| line.strip_prefix("0::"));
    let has_unified = Path::new(CGROUPS).join("cgroup.controllers").exists();
    match group {
        Some(group) if has_unified => {
            let quotas = quotas(Path::new(CGROUPS), group);
            judge_cpu(quotas.iter().filter_map(|text| quota(text)).reduce(f64::min))
        }
        _ => Finding::warning(
            "cpu",
            "there is no cgroup v2, so a quota cannot be told",
            "mount cgroup2 at /sys/fs/cgroup",
        ),
    }
}

/// The quotas of a group and of all it is in: the smallest one counts.
fn quotas(root: &Path, group: &str) -> Vec<String> {
    let group = root.join(group.trim_start_matches('/'));
    let within = group.ancestors().take_while(|path| path.starts_with(root));
    within.filter_map(|path| fs::read_to_string(path.join("cpu.max")).ok()).collect()
}

/// CPUs, from the text of `cpu.max`: microseconds, and of how many. `None` is unlimited.
fn quota(text: &str) -> Option<f64> {
    let mut numbers = text.split_ascii_whitespace().map(|word| word.parse::<f64>().ok());
    let (used, of) = (numbers.next()??, numbers.next()??);
    (of > 0.0).then_some(used / of)
}

fn judge_cpu(quota: Option<f64>) -> Finding {
    const CHECK: &str = "cpu";
    let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    match quota {
        Some(quota) if quota < 1.0 => Finding::warning(
            CHECK,
            format!("a quota of {quota:.2} CPUs"),
            "calls stand still whenever it is used up; give a whole CPU, or weights instead of a \
             quota (cpu.max, limits.cpu)",
        ),
        Some(quota) => Finding::ok(CHECK, format!("a quota of {quota:.2} CPUs of {count}")),
        None => Finding::ok(CHECK, format!("{count} CPUs, no quota")),
    }
}

const CGROUPS: &str = "/sys/fs/cgroup";

/// 10,000 idle connections, the upstreams of those that are not, and room.
const DESCRIPTORS_WANTED: u64 = 16_384;

/// What systemd and Debian give by default since 2020.
const LOCKED_BYTES_WANTED: u64 = 8 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;
    use crate::test_dir::TestDir;

    #[test]
    fn judges_limits() {
        assert_eq!(judge_descriptors(Some(1024)).state, State::Warning);
        assert_eq!(judge_descriptors(Some(DESCRIPTORS_WANTED)).state, State::Ok);
        assert_eq!(judge_descriptors(None).state, State::Ok);
        assert_eq!(judge_memory(Some(64 * 1024)).state, State::Warning);
        assert_eq!(judge_memory(None).state, State::Ok);
        assert_eq!(judge_cpu(Some(0.5)).state, State::Warning);
        assert_eq!(judge_cpu(Some(2.0)).state, State::Ok);
        assert_eq!(judge_cpu(None).state, State::Ok);
    }

    #[test]
    fn the_smallest_quota_counts() {
        for (text, want) in [
            ("", None),
            ("max 100000", None),
            ("50000 0", None),
            ("50000", None),
            ("50000 100000\n", Some(0.5)),
            ("200000 100000", Some(2.0)),
        ] {
            assert_eq!(quota(text), want, "{text:?}");
        }
        let temp = TestDir::new();
        let inner = temp.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        fs::write(inner.join("cpu.max"), "max 100000").unwrap();
        fs::write(temp.path().join("a/cpu.max"), "50000 100000").unwrap();
        assert_eq!(quotas(temp.path(), "/a/b"), ["max 100000", "50000 100000"]);
    }
}
