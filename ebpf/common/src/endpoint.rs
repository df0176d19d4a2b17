//! An address and a port, in one form for both families.
//!
//! IPv4 is written as IPv6 writes it (`::ffff:a.b.c.d`), so a client that asks for `127.0.0.1` by
//! either kind of socket is the same client. Words are as they lie in memory: network byte order.

/// Words in network byte order; IPv4 mapped into IPv6.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Ip(pub [u32; 4]);

impl Ip {
    /// In [`Endpoint`] of a place: whichever address of this machine.
    pub const ANY_LOCAL: Self = Self([0; 4]);
    pub const LOOPBACK_V4: Self = Self::v4(u32::from_be_bytes([127, 0, 0, 1]).to_be());
    pub const LOOPBACK_V6: Self = Self([0, 0, 0, 1_u32.to_be()]);

    pub const fn v4(word: u32) -> Self {
        Self([0, 0, MAPPED, word])
    }

    pub const fn from_octets(octets: [u8; 16]) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
        Self([
            u32::from_ne_bytes([a, b, c, d]),
            u32::from_ne_bytes([e, f, g, h]),
            u32::from_ne_bytes([i, j, k, l]),
            u32::from_ne_bytes([m, n, o, p]),
        ])
    }

    pub const fn octets(self) -> [u8; 16] {
        let [a, b, c, d] = self.0;
        let (a, b, c, d) = (a.to_ne_bytes(), b.to_ne_bytes(), c.to_ne_bytes(), d.to_ne_bytes());
        [
            a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1],
            d[2], d[3],
        ]
    }

    #[inline(always)]
    pub const fn is_v4(self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == MAPPED
    }

    /// 127.0.0.0/8 and ::1, and the unspecified address, which a connect takes for loopback.
    #[inline(always)]
    pub const fn is_loopback(self) -> bool {
        let [a, b, c, d] = self.0;
        if self.is_v4() {
            return d.to_ne_bytes()[0] == 127 || d == 0;
        }
        a == 0 && b == 0 && c == 0 && (d == 0 || d == 1_u32.to_be())
    }
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Endpoint {
    pub ip: Ip,
    /// Host byte order.
    pub port: u16,
    pub reserved: u16,
}

const _: () = assert!(size_of::<Endpoint>() == 20, "the layout of a map's key");

impl Endpoint {
    #[inline(always)]
    pub const fn new(ip: Ip, port: u16) -> Self {
        Self { ip, port, reserved: 0 }
    }
}

const MAPPED: u32 = 0xffff_u32.to_be();

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::{Ipv4Addr, Ipv6Addr};

    fn v4(address: Ipv4Addr) -> Ip {
        Ip::from_octets(address.to_ipv6_mapped().octets())
    }

    #[test]
    fn tells_loopback_from_the_rest() {
        for (case, ip, want) in [
            ("another host", v4(Ipv4Addr::new(10, 0, 0, 1)), false),
            ("127 at the wrong end", v4(Ipv4Addr::new(1, 0, 0, 127)), false),
            (
                "a host by IPv6",
                Ip::from_octets(Ipv6Addr::new(0xfd, 0, 0, 0, 0, 0, 0, 1).octets()),
                false,
            ),
            ("compatible, not mapped", Ip([0, 0, 0, 127_u32]), false),
            ("the loopback address", Ip::LOOPBACK_V4, true),
            ("another one of 127/8", v4(Ipv4Addr::new(127, 8, 9, 255)), true),
            ("::1", Ip::from_octets(Ipv6Addr::LOCALHOST.octets()), true),
            ("0.0.0.0", v4(Ipv4Addr::UNSPECIFIED), true),
            ("::", Ip::from_octets(Ipv6Addr::UNSPECIFIED.octets()), true),
        ] {
            assert_eq!(ip.is_loopback(), want, "{case}");
            assert_eq!(Ip::from_octets(ip.octets()), ip, "{case}");
        }
        assert_eq!(v4(Ipv4Addr::LOCALHOST), Ip::LOOPBACK_V4);
        assert_eq!(Ip::from_octets(Ipv6Addr::LOCALHOST.octets()), Ip::LOOPBACK_V6);
    }
}
