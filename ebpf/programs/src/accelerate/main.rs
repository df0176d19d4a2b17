//! Programs that let bytes between an app and the data plane go past TCP: an object of its own, so
//! that a node that accelerates nothing has none of it in the kernel.
//!
//! ```text
//!   sock_ops.rs    which connections; both ends into SOCKETS      sk_msg.rs    each message's way
//!   getsockopt.rs  the data plane's key to what it tells          maps.rs
//! ```
//! The rules of the way are `ebpf-common::accelerate`'s. No byte may overtake another, so whatever
//! is in doubt goes by TCP; a socket leaves the map by being closed, never otherwise, since its
//! unread bytes would go with it.

#![no_std]
#![no_main]

mod getsockopt;
mod maps;
mod sk_msg;
mod sock_ops;
#[path = "../storage.rs"]
mod storage;

/// Nothing here panics: the compiler has removed every path to this, or the verifier refuses it.
#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The helpers used here are given to programs under a licence that is compatible with the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
