//! cgroup/getsockopt: tells the holder of an accepted socket who dialled it.
//!
//! Whoever holds the socket may ask; the answer was put there by `sock_ops` before accept could
//! return it, and nothing but the kernel writes it.

use crate::{maps::PEERS, storage};
use aya_ebpf::{macros::cgroup_sockopt, programs::SockoptContext};
use core::ptr::{read_volatile, write_volatile};
use ebpf_common::{IDENTITY_LEVEL, IDENTITY_NAME, Identity};

#[cgroup_sockopt(getsockopt)]
pub fn ringcar_getsockopt(context: SockoptContext) -> i32 {
    let option = context.sockopt;
    // SAFETY: fields of the program's own context; volatile, since the verifier takes only accesses
    // of a field's own width.
    let (level, name) = unsafe {
        (read_volatile(&raw const (*option).level), read_volatile(&raw const (*option).optname))
    };
    if level != IDENTITY_LEVEL || name != IDENTITY_NAME {
        return UNTOUCHED;
    }
    // SAFETY: as above.
    let (socket, value, end) = unsafe {
        (
            (*option).__bindgen_anon_1.sk,
            (*option).__bindgen_anon_2.optval.cast::<Identity>(),
            (*option).__bindgen_anon_3.optval_end as usize,
        )
    };
    let Some(identity) = storage::find(&PEERS, socket) else { return UNTOUCHED };
    if value as usize + size_of::<Identity>() > end {
        return UNTOUCHED;
    }
    // SAFETY: the bounds were compared above, which is what the verifier asks for; the socket's
    // value is written once, before accept.
    unsafe {
        (*value).cgroup = (*identity).cgroup;
        (*value).app = (*identity).app;
        (*value).pid = (*identity).pid;
        (*value).reserved = 0;
        // Volatile, or the two are merged into one store, which the verifier refuses.
        write_volatile(&raw mut (*option).optlen, size_of::<Identity>() as i32);
        write_volatile(&raw mut (*option).retval, 0);
    }
    UNTOUCHED
}

/// What the kernel, or this program, has answered stays.
const UNTOUCHED: i32 = 1;
