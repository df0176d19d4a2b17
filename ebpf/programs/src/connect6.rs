//! cgroup/connect6: a connect by an IPv6 socket, also one that writes IPv4 the long way.
//!
//! The data plane takes what it is sent at 127.0.0.1, so that is where the socket goes, as
//! `::ffff:127.0.0.1`. A socket that is told to speak IPv6 only cannot; its connect fails with
//! ENETUNREACH.

use crate::{
    connect::{Verdict, on_connect},
    connect4::{ALLOWED, IPPROTO_TCP, REFUSED},
};
use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use core::ptr::{read_volatile, write_volatile};
use ebpf_common::{Endpoint, Ip};

#[cgroup_sock_addr(connect6)]
pub fn ringcar_connect6(context: SockAddrContext) -> i32 {
    let address = context.sock_addr;
    // SAFETY: fields of the program's own context; volatile, since the verifier takes only accesses
    // of a field's own width.
    let (protocol, port, words) = unsafe {
        (
            read_volatile(&raw const (*address).protocol),
            read_volatile(&raw const (*address).user_port),
            [
                read_volatile(&raw const (*address).user_ip6[0]),
                read_volatile(&raw const (*address).user_ip6[1]),
                read_volatile(&raw const (*address).user_ip6[2]),
                read_volatile(&raw const (*address).user_ip6[3]),
            ],
        )
    };
    if protocol != IPPROTO_TCP {
        return ALLOWED;
    }
    match on_connect(&context, Endpoint::new(Ip(words), u16::from_be(port as u16))) {
        Verdict::Leave => {}
        Verdict::Refuse => return REFUSED,
        Verdict::Rewrite { port } => {
            let [a, b, c, d] = Ip::LOOPBACK_V4.0;
            // SAFETY: as above.
            unsafe {
                write_volatile(&raw mut (*address).user_ip6[0], a);
                write_volatile(&raw mut (*address).user_ip6[1], b);
                write_volatile(&raw mut (*address).user_ip6[2], c);
                write_volatile(&raw mut (*address).user_ip6[3], d);
                write_volatile(&raw mut (*address).user_port, u32::from(port.to_be()));
            }
        }
    }
    ALLOWED
}
