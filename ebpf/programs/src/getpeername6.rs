//! cgroup/getpeername6: as for IPv4, and `::1` stays `::1`.

use crate::{connect4::ALLOWED, getpeername4::find_asked};
use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use core::ptr::write_volatile;

#[cgroup_sock_addr(getpeername6)]
pub fn ringcar_getpeername6(context: SockAddrContext) -> i32 {
    let address = context.sock_addr;
    if let Some(asked) = find_asked(address) {
        let [a, b, c, d] = asked.ip.0;
        // SAFETY: fields of the program's own context; volatile, since the verifier takes only
        // accesses of a field's own width.
        unsafe {
            write_volatile(&raw mut (*address).user_ip6[0], a);
            write_volatile(&raw mut (*address).user_ip6[1], b);
            write_volatile(&raw mut (*address).user_ip6[2], c);
            write_volatile(&raw mut (*address).user_ip6[3], d);
            write_volatile(&raw mut (*address).user_port, u32::from(asked.port.to_be()));
        }
    }
    ALLOWED
}
