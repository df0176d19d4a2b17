//! What this machine calls itself, for log lines and for the headers that tell a callee who called.

#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

pub(crate) fn name() -> Option<String> {
    let name = rustix::system::uname().nodename().to_str().ok()?.to_owned();
    (!name.is_empty()).then_some(name)
}

/// The address this host would call the world from: that of the route to a public address, as daprd
/// finds it. Connecting a UDP socket sends nothing.
pub(crate) fn address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(8, 8, 8, 8), 80)).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_unspecified()).then_some(address)
}
