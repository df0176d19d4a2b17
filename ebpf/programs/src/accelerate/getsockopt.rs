//! cgroup/getsockopt: gives the data plane the ticket of its accelerated socket, by which it tells
//! what it has read. On a socket that is not accelerated there is no such option.

use crate::{maps::DIRECTIONS, storage};
use aya_ebpf::{macros::cgroup_sockopt, programs::SockoptContext};
use core::ptr::{read_volatile, write_volatile};
use ebpf_common::{
    IDENTITY_LEVEL,
    accelerate::{TICKET_NAME, Ticket},
};

#[cgroup_sockopt(getsockopt)]
pub fn ringcar_ticket(context: SockoptContext) -> i32 {
    let option = context.sockopt;
    // SAFETY: fields of the program's own context; volatile, since the verifier takes only accesses
    // of a field's own width.
    let (level, name) = unsafe {
        (read_volatile(&raw const (*option).level), read_volatile(&raw const (*option).optname))
    };
    if level != IDENTITY_LEVEL || name != TICKET_NAME {
        return UNTOUCHED;
    }
    // SAFETY: as above.
    let (socket, value, end) = unsafe {
        (
            (*option).__bindgen_anon_1.sk,
            (*option).__bindgen_anon_2.optval.cast::<Ticket>(),
            (*option).__bindgen_anon_3.optval_end as usize,
        )
    };
    let Some(direction) = storage::find(&DIRECTIONS, socket) else { return UNTOUCHED };
    if value as usize + size_of::<Ticket>() > end {
        return UNTOUCHED;
    }
    // SAFETY: the bounds were compared above, which is what the verifier asks for; the ticket is
    // written once, before anybody has the socket connected.
    unsafe {
        *value = (*direction).ticket;
        // Volatile, or the two are merged into one store, which the verifier refuses.
        write_volatile(&raw mut (*option).optlen, size_of::<Ticket>() as i32);
        write_volatile(&raw mut (*option).retval, 0);
    }
    UNTOUCHED
}

/// What the kernel, or another program, has answered stays.
const UNTOUCHED: i32 = 1;
