//! How much memory a process holds, from /proc.

#![forbid(unsafe_code)]

/// Resident bytes; `None` for a process that is gone.
pub(crate) fn bytes(pid: u32) -> Option<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    let page_bytes = u64::try_from(rustix::param::page_size()).ok()?;
    Some(pages * page_bytes)
}

#[cfg(test)]
mod tests {
    #[test]
    fn knows_its_own_size() {
        assert!(super::bytes(std::process::id()).unwrap() > 100_000);
        assert_eq!(super::bytes(u32::MAX), None);
    }
}
