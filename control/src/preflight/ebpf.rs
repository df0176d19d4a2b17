//! What steering by eBPF needs. It is optional, so what is missing is never a failure.

#![forbid(unsafe_code)]

use super::{Finding, State};
use crate::steering;
use ebpf_loader::probe::{self, Ability};
use std::{fs, io, path::Path};

pub(super) fn findings() -> Vec<Finding> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let capabilities = judge_capabilities(effective(&status));
    let mut findings = vec![
        judge_types(Path::new(TYPES).exists()),
        judge_groups(&mounts),
        judge_mounts(&mounts),
        judge_lockdown(fs::read_to_string(LOCKDOWN).ok().as_deref()),
        judge_namespace(&ebpf_loader::netns_cookie()),
    ];
    // Without them nothing can be tried.
    if capabilities.state == State::Ok {
        findings.extend(probe::abilities().iter().filter_map(judge_ability));
        findings.push(judge_acceleration(steering::try_acceleration()));
    }
    findings.push(capabilities);
    findings
}

/// What is there needs no line.
fn judge_ability(ability: &Ability) -> Option<Finding> {
    const CHECK: &str = "ebpf programs";
    let Ability { name, since, state } = ability;
    match state {
        probe::State::There => None,
        probe::State::Missing => Some(Finding::warning(
            CHECK,
            format!("the kernel has no {name}"),
            format!("{WITHOUT}; Linux {since} brought them"),
        )),
        probe::State::Unknown(reason) => Some(Finding::warning(
            CHECK,
            format!("whether the kernel has {name} cannot be told: {reason}"),
            format!("{WITHOUT}; a kernel that is locked down refuses all of them"),
        )),
    }
}

/// Nobody needs it, so a kernel without it is worth a line and no more.
fn judge_acceleration(outcome: Result<(), String>) -> Finding {
    const CHECK: &str = "ebpf acceleration";
    match outcome {
        Ok(()) => Finding::ok(CHECK, "the self-test passed"),
        Err(reason) => Finding::warning(CHECK, reason, "leave accelerate off: all goes by TCP"),
    }
}

fn judge_types(are_there: bool) -> Finding {
    const CHECK: &str = "ebpf types";
    if are_there {
        return Finding::ok(CHECK, TYPES);
    }
    let remedy = format!("{WITHOUT}; it needs a kernel built with CONFIG_DEBUG_INFO_BTF");
    Finding::warning(CHECK, format!("there is no {TYPES}"), remedy)
}

/// Programs are attached to groups of the unified hierarchy, wherever it is mounted.
fn judge_groups(mounts: &str) -> Finding {
    const CHECK: &str = "ebpf cgroups";
    match mounted(mounts, "cgroup2") {
        Some(path) => Finding::ok(CHECK, path),
        None => Finding::warning(
            CHECK,
            "no cgroup2 file system is mounted",
            format!("{WITHOUT}; mount -t cgroup2 none /sys/fs/cgroup"),
        ),
    }
}

/// Where a file system of this type is, from the text of /proc/self/mounts.
fn mounted<'m>(mounts: &'m str, kind: &str) -> Option<&'m str> {
    let mut lines = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    lines.find(|fields| fields.get(2) == Some(&kind))?.get(1).copied()
}

/// From the text of the kernel's file, `[none] integrity confidentiality`; without the file there
/// is nothing that could be locked.
fn judge_lockdown(text: Option<&str>) -> Finding {
    const CHECK: &str = "ebpf lockdown";
    let chosen = text.and_then(|text| text.split_once('[')?.1.split_once(']'));
    match chosen.map_or("none", |(chosen, _)| chosen) {
        // Programs may then not read kernel memory, which those with types do.
        "confidentiality" => Finding::warning(
            CHECK,
            "the kernel is locked down for confidentiality",
            format!("{WITHOUT}; boot with lockdown=integrity or without"),
        ),
        chosen => Finding::ok(CHECK, chosen),
    }
}

/// Which namespace a connect is in, programs and control must be able to compare.
fn judge_namespace(cookie: &io::Result<u64>) -> Finding {
    const CHECK: &str = "ebpf namespaces";
    match cookie {
        Ok(_) => Finding::ok(CHECK, "SO_NETNS_COOKIE"),
        Err(e) => Finding::warning(
            CHECK,
            format!("the network namespace cannot be told: {e}"),
            format!("{WITHOUT}; it takes Linux 5.14"),
        ),
    }
}

fn judge_mounts(mounts: &str) -> Finding {
    const CHECK: &str = "ebpf file system";
    match mounted(mounts, "bpf") {
        Some(path) => Finding::ok(CHECK, path),
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

const LOCKDOWN: &str = "/sys/kernel/security/lockdown";

const TYPES: &str = "/sys/kernel/btf/vmlinux";

const WITHOUT: &str = "apps must call their sidecar by its port, steering being off";

/// capabilities(7), by number.
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_BPF: u32 = 39;

#[cfg(test)]
mod tests {
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
    fn judges_the_lockdown_that_is_chosen() {
        for (text, want) in [
            (None, State::Ok),
            (Some("[none] integrity confidentiality\n"), State::Ok),
            (Some("none [integrity] confidentiality\n"), State::Ok),
            (Some("none integrity [confidentiality]\n"), State::Warning),
        ] {
            assert_eq!(judge_lockdown(text).state, want, "{text:?}");
        }
        assert_eq!(judge_groups("").state, State::Warning);
        let mounts = "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(judge_groups(mounts).found, "/sys/fs/cgroup/unified");
    }

    #[test]
    fn what_a_kernel_lacks_is_a_warning() {
        let ability = |state| Ability { name: "event rings", since: "5.8", state };
        assert_eq!(judge_ability(&ability(probe::State::There)), None);
        let missing = judge_ability(&ability(probe::State::Missing)).unwrap();
        assert_eq!(missing.state, State::Warning);
        assert!(missing.found.contains("no event rings"), "{missing:?}");
        let unknown = probe::State::Unknown("refused".to_owned());
        let unknown = judge_ability(&ability(unknown)).unwrap();
        assert!(unknown.found.ends_with("refused"), "{unknown:?}");
    }

    #[test]
    fn finds_the_file_system_by_its_type() {
        assert_eq!(judge_mounts("").state, State::Warning);
        assert_eq!(judge_mounts("bpf /mnt tmpfs rw 0 0\n").state, State::Warning);
        let mounts = "proc /proc proc rw 0 0\nnone /sys/fs/bpf bpf rw 0 0\n";
        assert_eq!(judge_mounts(mounts), Finding::ok("ebpf file system", "/sys/fs/bpf"));
        assert_eq!(judge_types(false).state, State::Warning);
        let unknown = judge_namespace(&Err(io::ErrorKind::InvalidInput.into()));
        assert_eq!(unknown.state, State::Warning);
        assert_eq!(judge_namespace(&Ok(1)).state, State::Ok);
        assert_eq!(judge_acceleration(Ok(())).state, State::Ok);
        let failed = judge_acceleration(Err("no sk_msg".to_owned()));
        assert_eq!((failed.state, failed.found), (State::Warning, "no sk_msg".into()));
    }
}
