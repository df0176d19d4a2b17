//! This machine's own addresses, from the kernel's tables. A connect to any of them reaches an app
//! that listens on all.

#![forbid(unsafe_code)]

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Those beyond loopback.
pub(super) fn own() -> Vec<IpAddr> {
    let v4 = fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let v6 = fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let all = of_fib_trie(&v4).into_iter().map(IpAddr::V4).chain(of_if_inet6(&v6).map(IpAddr::V6));
    let mut found: Vec<IpAddr> = all.filter(|ip| !ip.is_loopback()).collect();
    found.sort();
    found.dedup();
    found
}

/// An address stands on one line, and that it is the machine's own on the next.
fn of_fib_trie(text: &str) -> Vec<Ipv4Addr> {
    let mut last: Option<Ipv4Addr> = None;
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.trim_start();
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.trim().parse().ok();
        } else if line.starts_with("/32 host LOCAL") {
            found.extend(last);
        }
    }
    found
}

fn of_if_inet6(text: &str) -> impl Iterator<Item = Ipv6Addr> {
    let words = text.lines().filter_map(|line| line.split_ascii_whitespace().next());
    words.filter_map(|word| u128::from_str_radix(word, 16).ok()).map(Ipv6Addr::from_bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_read() {
        let trie = "Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     \
                    +-- 10.0.2.0/24 2 0 2\n        |-- 10.0.2.0\n           /24 link UNICAST\n        \
                    |-- 10.0.2.15\n           /32 host LOCAL\n        |-- 10.0.2.255\n           \
                    /32 link BROADCAST\n";
        assert_eq!(of_fib_trie(trie), [Ipv4Addr::new(10, 0, 2, 15)]);
        assert_eq!(of_fib_trie("/32 host LOCAL\n"), Vec::<Ipv4Addr>::new());
        let table = "00000000000000000000000000000001 01 80 10 80       lo\n\
                     fe80000000000000000000fffe000001 02 40 20 80     eth0\nx\n";
        let want: [Ipv6Addr; 2] = [Ipv6Addr::LOCALHOST, "fe80::ff:fe00:1".parse().unwrap()];
        assert_eq!(of_if_inet6(table).collect::<Vec<_>>(), want);
        assert!(own().iter().all(|ip| !ip.is_loopback()));
    }
}
