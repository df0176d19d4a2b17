//! Ringcar's programs in the kernel: which app dials, where it is sent, and what it may not.
//!
//! One file per program; `connect.rs` holds what the two that judge a connect share. Decisions and
//! layouts are `ebpf-common`'s, which is tested on the host. Every loop is bounded by a constant,
//! every lookup that finds nothing leaves the connect as it is or refuses it, as the settings say.

#![no_std]
#![no_main]

mod connect;
mod connect4;
mod connect6;
mod getpeername4;
mod getpeername6;
mod getsockopt;
mod maps;
mod sock_ops;
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
