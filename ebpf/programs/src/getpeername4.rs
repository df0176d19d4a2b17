//! cgroup/getpeername4: a redirected app sees the peer that it asked for.

use crate::{connect4::ALLOWED, maps::DIALED, storage};
use aya_ebpf::{bindings::bpf_sock_addr, macros::cgroup_sock_addr, programs::SockAddrContext};
use core::ptr::write_volatile;
use ebpf_common::Endpoint;

#[cgroup_sock_addr(getpeername4)]
pub fn ringcar_getpeername4(context: SockAddrContext) -> i32 {
    let address = context.sock_addr;
    if let Some(asked) = find_asked(address) {
        // SAFETY: fields of the program's own context; volatile, since the verifier takes only
        // accesses of a field's own width.
        unsafe {
            write_volatile(&raw mut (*address).user_ip4, asked.ip.0[3]);
            write_volatile(&raw mut (*address).user_port, u32::from(asked.port.to_be()));
        }
    }
    ALLOWED
}

/// What this socket asked for, if it got something else.
#[inline(always)]
pub fn find_asked(address: *mut bpf_sock_addr) -> Option<Endpoint> {
    // SAFETY: a field of the program's own context.
    let socket = unsafe { (*address).__bindgen_anon_1.sk };
    let dialed = storage::find(&DIALED, socket)?;
    // SAFETY: the value is this socket's; getpeername holds its lock.
    let (sent_to, asked) = unsafe { ((*dialed).sent_to, (*dialed).asked) };
    (sent_to != 0).then_some(asked)
}
