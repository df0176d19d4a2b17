//! Values kept at a socket. They go with it, so nothing has to clean up after a connection.

use aya_ebpf::{
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    btf_maps::SkStorage,
    helpers::generated::bpf_sk_storage_get,
};
use core::ptr::null_mut;

/// The value of `map` at this socket, if it has one.
#[inline(always)]
pub fn find<T>(map: &'static SkStorage<T>, socket: *mut bpf_sock) -> Option<*mut T> {
    get(map, socket, 0)
}

/// The value of `map` at this socket, zeros at first; `None` when there is no room.
#[inline(always)]
pub fn find_or_create<T>(map: &'static SkStorage<T>, socket: *mut bpf_sock) -> Option<*mut T> {
    get(map, socket, u64::from(BPF_SK_STORAGE_GET_F_CREATE))
}

#[inline(always)]
fn get<T>(map: &'static SkStorage<T>, socket: *mut bpf_sock, flags: u64) -> Option<*mut T> {
    if socket.is_null() {
        return None;
    }
    let map = core::ptr::from_ref(map).cast_mut().cast();
    // SAFETY: `socket` came from this program's context, which the verifier has checked, and is not
    // null; the map's values are `T`.
    let value = unsafe { bpf_sk_storage_get(map, socket.cast(), null_mut(), flags) };
    (!value.is_null()).then(|| value.cast())
}
