//! What steering by eBPF needs. It is optional, so what is missing is never a failure.

#![forbid(unsafe_code)]

use super::Finding;
use std::{fs, path::Path};

pub(super) fn findings() -> [Finding; 3] {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    [
        judge_types(Path::new(TYPES).exists()),
        judge_mounts(&mounts),
        judge_capabilities(effective(&status)),
    ]
}

fn judge_types(are_there: bool) -> Finding {
    const CHECK: &str = "ebpf types";
    if are_there {
        return Finding::ok(CHECK, TYPES);
    }
    let remedy = format!("{WITHOUT}; it needs a kernel built with CONFIG_DEBUG_INFO_BTF");
    Finding::warning(CHECK, format!("there is no {TYPES}"), remedy)
}

fn judge_mounts(mounts: &str) -> Finding {
    const CHECK: &str = "ebpf file system";
    let mut lines = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    match lines.find(|fields| fields.get(2) == Some(&"bpf")) {
        Some(fields) => Finding::ok(CHECK, *fields.get(1).unwrap_or(&"")),
        None => Finding::warning(
            CHECK,
            "no bpf file system is mounted",
            format!("{WITHOUT}; mount -t bpf bpf /sys/fs/bpf"),
        ),
    }
}

/// Effective capabilities, from the text of /proc/self/status.
fn effective(status: &str) -> u64 {
    let hex = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    hex.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or_default()
}

fn judge_capabilities(effective: u64) -> Finding {
    const CHECK: &str = "ebpf capabilities";
    let has = |capability: u32| effective >> capability & 1 == 1;
    let has_bpf = has(CAP_BPF) || has(CAP_SYS_ADMIN);
    match (has_bpf, has(CAP_NET_ADMIN)) {
        (true, true) => Finding::ok(CHECK, "CAP_BPF and CAP_NET_ADMIN"),
        (has_bpf, has_net) => {
            let missing = match (has_bpf, has_net) {
                (true, _) => "CAP_NET_ADMIN is missing",
                (false, true) => "CAP_BPF is missing",
                (false, false) => "CAP_BPF and CAP_NET_ADMIN are missing",
            };
            let remedy = format!("{WITHOUT}; give both to the control process alone");
            Finding::warning(CHECK, missing, remedy)
        }
    }
}

const TYPES: &str = "/sys/kernel/btf/vmlinux";

const WITHOUT: &str = "apps must call their sidecar by its port, steering being off";

/// capabilities(7), by number.
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_BPF: u32 = 39;

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn judges_capabilities_by_their_numbers() {
        for (case, status, want) in [
            ("no status", "", State::Warning),
            ("none", "CapEff:\t0000000000000000\n", State::Warning),
            ("CAP_BPF alone", "CapEff:\t0000008000000000\n", State::Warning),
            ("CAP_NET_ADMIN alone", "CapEff:\t0000000000001000\n", State::Warning),
            ("both", "Name:\tx\nCapEff:\t0000008000001000\n", State::Ok),
            ("root", "CapEff:\t000001ffffffffff\n", State::Ok),
            ("before CAP_BPF", "CapEff:\t0000000000201000\n", State::Ok),
        ] {
            assert_eq!(judge_capabilities(effective(status)).state, want, "{case}");
        }
    }

    #[test]
    fn finds_the_file_system_by_its_type() {
        assert_eq!(judge_mounts("").state, State::Warning);
        assert_eq!(judge_mounts("bpf /mnt tmpfs rw 0 0\n").state, State::Warning);
        let mounts = "proc /proc proc rw 0 0\nnone /sys/fs/bpf bpf rw 0 0\n";
        assert_eq!(judge_mounts(mounts), Finding::ok("ebpf file system", "/sys/fs/bpf"));
        assert_eq!(judge_types(false).state, State::Warning);
    }
}
