//! This machine's own addresses, from the kernel's tables, and word of their changes. A connect to
//! any of them reaches an app that listens on all.

#![forbid(unsafe_code)]

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SocketFlags, SocketType, bind, netlink::SocketAddrNetlink, recv,
        socket_with,
    },
};
use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::OwnedFd,
};
use tokio::io::unix::AsyncFd;

/// Wakes when an interface gets or loses an address.
pub(super) struct AddressWatch {
    messages: AsyncFd<OwnedFd>,
}

impl AddressWatch {
    /// Must be called within the runtime.
    ///
    /// # Errors
    /// The kernel's.
    pub(super) fn start() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // The first of netlink's protocols, NETLINK_ROUTE.
        let messages = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        bind(&messages, &SocketAddrNetlink::new(0, IPV4_ADDRESSES | IPV6_ADDRESSES))?;
        #[expect(
            deprecated,
            reason = "its hazard is a type that changes its descriptor, which an OwnedFd does not; the successor is unsafe"
        )]
        let messages = AsyncFd::new(messages)?;
        Ok(Self { messages })
    }

    /// Dropping the future before it is ready loses nothing.
    pub(super) async fn changed(&self) {
        let Ok(mut ready) = self.messages.readable().await else {
            return std::future::pending().await;
        };
        // Cleared before they are taken: what comes later sets it again.
        ready.clear_ready();
        self.drain();
    }

    /// What the messages say, the tables say, too. ENOBUFS is what too many of them are.
    fn drain(&self) {
        let mut room = [0_u8; 4096];
        loop {
            match recv(self.messages.get_ref(), &mut room[..], RecvFlags::empty()) {
                Ok(_) | Err(Errno::INTR | Errno::NOBUFS) => {}
                Err(_) => return,
            }
        }
    }
}

/// RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR of linux/rtnetlink.h.
const IPV4_ADDRESSES: u32 = 0x10;
const IPV6_ADDRESSES: u32 = 0x100;

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
