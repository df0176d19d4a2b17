//! cgroup/getsockopt: tells the holder of an accepted socket who dialled it, and which app the
//! dialled address stands for.
//!
//! Whoever holds the socket may ask; the answer was put there by `sock_ops` before accept could
//! return it, and nothing but the kernel writes it.

use crate::{
    maps::{NAMES, PEERS},
    storage,
};
use aya_ebpf::{bindings::bpf_sockopt, macros::cgroup_sockopt, programs::SockoptContext};
use core::ptr::{read_volatile, write_volatile};
use ebpf_common::{IDENTITY_LEVEL, IDENTITY_NAME, Identity, Name, TARGET_NAME};

#[cgroup_sockopt(getsockopt)]
pub fn ringcar_getsockopt(context: SockoptContext) -> i32 {
    let option = context.sockopt;
    // SAFETY: fields of the program's own context; volatile, since the verifier takes only accesses
    // of a field's own width.
    let (level, name) = unsafe {
        (read_volatile(&raw const (*option).level), read_volatile(&raw const (*option).optname))
    };
    if level != IDENTITY_LEVEL {
        return UNTOUCHED;
    }
    match name {
        IDENTITY_NAME => tell_identity(option),
        TARGET_NAME => tell_target(option),
        _ => {}
    }
    UNTOUCHED
}

#[inline(always)]
fn tell_identity(option: *mut bpf_sockopt) {
    let Some(identity) = find_peer(option) else { return };
    let Some(value) = room::<Identity>(option) else { return };
    // SAFETY: the bounds were compared in `room`, which is what the verifier asks for; the socket's
    // value is written once, before accept.
    unsafe {
        (*value).cgroup = (*identity).cgroup;
        (*value).app = (*identity).app;
        (*value).pid = (*identity).pid;
        (*value).target = (*identity).target;
    }
    answer(option, size_of::<Identity>());
}

#[inline(always)]
fn tell_target(option: *mut bpf_sockopt) {
    let Some(identity) = find_peer(option) else { return };
    // SAFETY: the value is at the socket, and written once, before accept; the name's stays
    // readable until the program ends (RCU).
    let Some(name) = (unsafe { NAMES.get((*identity).target) }) else { return };
    let Some(value) = room::<Name>(option) else { return };
    let value = value.cast::<u64>();
    let words = name.words();
    let mut index = 0;
    while index < words.len() {
        // SAFETY: the bounds were compared in `room`, and a name is as many words.
        unsafe { write_volatile(value.add(index), words[index]) };
        index += 1;
    }
    answer(option, size_of::<Name>());
}

#[inline(always)]
fn find_peer(option: *mut bpf_sockopt) -> Option<*mut Identity> {
    // SAFETY: a field of the program's own context.
    storage::find(&PEERS, unsafe { (*option).__bindgen_anon_1.sk })
}

/// Where the answer goes, if there is room for a whole one.
#[inline(always)]
fn room<T>(option: *mut bpf_sockopt) -> Option<*mut T> {
    // SAFETY: fields of the program's own context.
    let (value, end) = unsafe {
        (
            (*option).__bindgen_anon_2.optval.cast::<T>(),
            (*option).__bindgen_anon_3.optval_end as usize,
        )
    };
    (value as usize + size_of::<T>() <= end).then_some(value)
}

#[inline(always)]
fn answer(option: *mut bpf_sockopt, bytes: usize) {
    // SAFETY: as above. Volatile, or the two are merged into one store, which the verifier refuses.
    unsafe {
        write_volatile(&raw mut (*option).optlen, bytes as i32);
        write_volatile(&raw mut (*option).retval, 0);
    }
}

/// What the kernel, or this program, has answered stays.
const UNTOUCHED: i32 = 1;
