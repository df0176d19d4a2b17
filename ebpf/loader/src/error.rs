//! What can go wrong between us and the kernel, told with its likely cause.

#![forbid(unsafe_code)]

use std::{io, path::PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    #[error("cannot read the programs: {0}; this executable is damaged")]
    Object(String),
    #[error("the kernel refuses program {program}: {reason}{}", hint(.reason))]
    Program { program: &'static str, reason: String },
    #[error("cannot attach {program} to {cgroup}: {reason}{}", hint(.reason))]
    Attach { program: &'static str, cgroup: PathBuf, reason: String },
    #[error("cannot make the maps: {reason}{}", hint(.reason))]
    Maps { reason: String },
    #[error("map {map}: {reason}")]
    Map { map: &'static str, reason: String },
    #[error("{path}: {reason}")]
    Pin { path: PathBuf, reason: io::Error },
    #[error(
        "there is no bpf file system at {path}, and it cannot be mounted ({reason}); \
         mount -t bpf bpf {path}"
    )]
    NoFileSystem { path: PathBuf, reason: io::Error },
    #[error("the network namespace cannot be told: {0}; it takes Linux 5.14")]
    Namespace(io::Error),
}

/// What usually is behind an error of the kernel.
fn hint(reason: &str) -> &'static str {
    if reason.contains("Operation not permitted") || reason.contains("os error 1)") {
        "; it takes CAP_BPF and CAP_NET_ADMIN, and a kernel that is not locked down"
    } else {
        ""
    }
}

/// An error and what is behind it, in one line.
pub(crate) fn text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    // A verifier's log has many lines; the first one says what happened.
    text.lines().next().unwrap_or_default().to_owned()
}
