//! A range of IP addresses, written `10.0.0.0/8`; an address alone is a range of one.

use serde::{Deserialize, Serialize};
use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// IPv4 in its mapped form, so that it counts as the same on sockets of both families.
    first: Ipv6Addr,
    /// Leading bits that are the same in the whole range, of 128.
    prefix_bits: u8,
}

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is no range of addresses; write 10.0.0.0/8, 2001:db8::/32 or 10.0.0.7")]
pub struct NetworkError(String);

impl Network {
    pub fn contains(&self, address: IpAddr) -> bool {
        let difference = mapped(address).to_bits() ^ self.first.to_bits();
        difference.leading_zeros() >= u32::from(self.prefix_bits)
    }
}

const fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// Bits in front of an IPv4 address in its mapped form.
const MAPPED_BITS: u8 = 96;

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let refused = || NetworkError(text.to_owned());
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| refused())?;
        let (offset, all) = if address.is_ipv4() { (MAPPED_BITS, 32) } else { (0, 128) };
        let bits = match bits {
            Some(bits) => bits.parse().ok().filter(|bits| *bits <= all).ok_or_else(refused)?,
            None => all,
        };
        let network = Self { first: mapped(address), prefix_bits: offset + bits };
        // Bits behind the prefix mean that somebody miscounted.
        let host_bits = u128::MAX.checked_shr(u32::from(network.prefix_bits)).unwrap_or(0);
        match network.first.to_bits() & host_bits {
            0 => Ok(network),
            _ => Err(refused()),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first.to_ipv4_mapped() {
            Some(v4) if self.prefix_bits >= MAPPED_BITS => {
                write!(f, "{v4}/{}", self.prefix_bits - MAPPED_BITS)
            }
            _ => write!(f, "{}/{}", self.first, self.prefix_bits),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_no_range() {
        for text in ["", "10.0.0.0/", "10.0.0.0/33", "10.0.0.1/8", "::1/129", "ten", "10.0.0/8"] {
            let refusal = text.parse::<Network>().unwrap_err().to_string();
            assert!(refusal.starts_with(&format!("{text:?} is no range")), "{refusal}");
        }
    }

    #[test]
    fn contains_its_addresses_on_sockets_of_both_families() {
        for (network, address, want) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("10.0.0.0/8", "::a01:203", false),
            ("10.0.0.7", "10.0.0.7", true),
            ("10.0.0.7", "10.0.0.6", false),
            ("0.0.0.0/0", "192.0.2.1", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("::/0", "2001:db9::1", true),
        ] {
            let network: Network = network.parse().unwrap();
            assert_eq!(network.contains(address.parse().unwrap()), want, "{network} {address}");
            assert_eq!(network.to_string().parse(), Ok(network));
        }
    }
}
