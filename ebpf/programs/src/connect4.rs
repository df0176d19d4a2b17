//! cgroup/connect4: a connect by an IPv4 socket.

use crate::connect::{Verdict, on_connect};
use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use core::ptr::{read_volatile, write_volatile};
use ebpf_common::{Endpoint, Ip};

#[cgroup_sock_addr(connect4)]
pub fn ringcar_connect4(context: SockAddrContext) -> i32 {
    let address = context.sock_addr;
    // SAFETY: fields of the program's own context; volatile, since the verifier takes only accesses
    // of a field's own width.
    let (protocol, ip, port) = unsafe {
        (
            read_volatile(&raw const (*address).protocol),
            read_volatile(&raw const (*address).user_ip4),
            read_volatile(&raw const (*address).user_port),
        )
    };
    if protocol != IPPROTO_TCP {
        return ALLOWED;
    }
    match on_connect(&context, Endpoint::new(Ip::v4(ip), u16::from_be(port as u16))) {
        Verdict::Leave => {}
        Verdict::Refuse => return REFUSED,
        Verdict::Rewrite { port } => {
            // SAFETY: as above.
            unsafe {
                write_volatile(&raw mut (*address).user_ip4, Ip::LOOPBACK_V4.0[3]);
                write_volatile(&raw mut (*address).user_port, u32::from(port.to_be()));
            }
        }
    }
    ALLOWED
}

pub const IPPROTO_TCP: u32 = 6;
pub const ALLOWED: i32 = 1;
/// EPERM, unless the program has set another error.
pub const REFUSED: i32 = 0;
