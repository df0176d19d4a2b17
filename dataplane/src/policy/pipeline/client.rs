//! From whom a request comes, as far as a limit must tell clients apart.
//!
//! `X-Forwarded-For` and `X-Real-IP` are what the client says, and it may say anything: daprd's
//! limit believes it all the same, and so does this one.

#![forbid(unsafe_code)]

use std::net::Ipv6Addr;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Client<'a> {
    /// The first line of this name.
    pub forwarded_for: Option<&'a [u8]>,
    pub real_ip: Option<&'a [u8]>,
    /// The other end of the connection with its port; `@` of a Unix socket. `None` where the
    /// request is the sidecar's own.
    pub address: Option<&'a [u8]>,
}

/// Under which clients without any address are counted.
pub(crate) const NOWHERE: &[u8] = b"0.0.0.0";

impl Client<'_> {
    pub(super) fn is_unknown(&self) -> bool {
        self.ip().is_empty()
    }

    /// What the lines of an answer tell of it.
    pub(super) fn forwarded_line(&self) -> &[u8] {
        match self.forwarded_for {
            _ if self.is_unknown() => NOWHERE,
            Some(text) if !text.trim_ascii().is_empty() => text,
            _ => b"",
        }
    }

    /// Appends what it is counted by: an address, or the network of one of IPv6.
    pub(super) fn write_key(&self, out: &mut Vec<u8>) {
        let ip = match self.ip() {
            b"" => NOWHERE,
            ip => ip,
        };
        // What has a dot before any colon is IPv4; Go decides so, too.
        let first = ip.iter().find(|byte| matches!(byte, b'.' | b':'));
        let address = first.filter(|byte| **byte == b':').and_then(|_| str::from_utf8(ip).ok());
        match address.and_then(|text| text.parse::<Ipv6Addr>().ok()) {
            Some(address) => {
                let network = address.to_bits() & NETWORK_MASK;
                out.extend_from_slice(&network.to_be_bytes());
            }
            None => out.extend_from_slice(ip),
        }
    }

    fn ip(&self) -> &[u8] {
        if let Some(list) = self.forwarded_for.filter(|list| !list.is_empty()) {
            let last = list.rsplit(|byte| *byte == b',').next().unwrap_or_default();
            return last.trim_ascii();
        }
        if let Some(ip) = self.real_ip.filter(|ip| !ip.is_empty()) {
            return ip;
        }
        host_of(self.address.unwrap_or_default())
    }
}

/// Of `10.0.0.7:80`, `[::1]:80` or anything else, which stays as it is.
fn host_of(address: &[u8]) -> &[u8] {
    let Some(colon) = memchr::memrchr(b':', address) else { return address };
    match &address[..colon] {
        [b'[', host @ .., b']'] => host,
        host if memchr::memchr(b':', host).is_none() => host,
        _ => address,
    }
}

/// One subscriber has a whole /64.
const NETWORK_MASK: u128 = !0 << 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_told_apart_by_the_nearest_address_that_is_named() {
        for (case, forwarded_for, real_ip, address, want) in [
            ("nobody", None, None, None, "0.0.0.0"),
            ("the connection", None, None, Some("10.0.0.7:80"), "10.0.0.7"),
            ("a Unix socket", None, None, Some("@"), "@"),
            ("a proxy says so", None, Some("10.0.0.8"), Some("10.0.0.7:80"), "10.0.0.8"),
            ("the last of the way", Some("10.0.0.1, 10.0.0.9 "), Some("x"), None, "10.0.0.9"),
            ("an empty line", Some(""), Some(""), Some("10.0.0.7:80"), "10.0.0.7"),
            ("nonsense is somebody", Some("nobody"), None, None, "nobody"),
            ("an empty place in the list", Some("10.0.0.1,"), None, None, "0.0.0.0"),
        ] {
            let client = Client {
                forwarded_for: forwarded_for.map(str::as_bytes),
                real_ip: real_ip.map(str::as_bytes),
                address: address.map(str::as_bytes),
            };
            let mut key = Vec::new();
            client.write_key(&mut key);
            assert_eq!(String::from_utf8_lossy(&key), want, "{case}");
        }
    }

    #[test]
    fn one_network_of_ipv6_is_one_client() {
        let key = |address: &str| {
            let client = Client { address: Some(address.as_bytes()), ..Client::default() };
            let mut key = Vec::new();
            client.write_key(&mut key);
            key
        };
        assert_eq!(key("[2001:db8::1]:80"), key("[2001:db8::ffff:1]:81"));
        assert_ne!(key("[2001:db8::1]:80"), key("[2001:db8:0:1::1]:80"));
    }
}
