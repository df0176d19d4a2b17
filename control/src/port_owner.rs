//! Who listens on a port, from /proc, so that "address already in use" names the culprit.
//!
//! Best effort: the sockets of other users' processes can be seen, but not whose they are.

#![forbid(unsafe_code)]

use std::fs;

/// The process that listens on this TCP port: `process 4711 (python3)`.
pub(crate) fn find(port: u16) -> Option<String> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let inodes: Vec<String> = tables
        .into_iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|table| listening_inodes(&table, port))
        .collect();
    let pid = pids().find(|pid| holds_any(pid, &inodes))?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("process {pid} ({})", name.trim_end()))
}

/// Inodes of the sockets that listen on a port, from the text of /proc/net/tcp.
fn listening_inodes(table: &str, port: u16) -> Vec<String> {
    let parse = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let local = fields.nth(1)?;
        let state = fields.nth(1)?;
        let inode = fields.nth(5)?;
        let (_, local_port) = local.rsplit_once(':')?;
        let is_it = u16::from_str_radix(local_port, 16).ok()? == port && state == STATE_LISTEN;
        is_it.then(|| inode.to_owned())
    };
    table.lines().skip(1).filter_map(parse).collect()
}

fn pids() -> impl Iterator<Item = String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
}

fn holds_any(pid: &str, inodes: &[String]) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let targets = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
    targets.filter_map(|target| target.into_os_string().into_string().ok()).any(|target| {
        let inode = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
        inode.is_some_and(|inode| inodes.iter().any(|wanted| wanted == inode))
    })
}

/// `TCP_LISTEN` as /proc writes it.
const STATE_LISTEN: &str = "0A";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_table() {
        // Fields as in proc(5): number, local and remote address, state, five without meaning here,
        // inode.
        let table = "sl local rem st queue tr retrnsmt uid timeout inode\n\
            0: 0100007F:0DAC 00000000:0000 0A 0:0 00:0 0 1000 0 111 1 0\n\
            1: 0100007F:0DAC 0100007F:9999 01 0:0 00:0 0 1000 0 222 1 0\n\
            2: 00000000000000000000000000000000:0DAD 0:0 0A 0:0 00:0 0 0 0 333 1\n\
            cut off";
        for (case, port, want) in [
            ("listener, not its connection", 3500, &["111"][..]),
            ("IPv6", 3501, &["333"]),
            ("none", 3502, &[]),
        ] {
            assert_eq!(listening_inodes(table, port), want, "{case}");
        }
    }
}
