//! What the heap holds and nobody uses, given back to the kernel.
//!
//! The C library returns free memory at the end of its heap by itself. What lies between things
//! that live on stays resident, and a change of a thousand apps leaves much of that.

/// Takes up to a millisecond, in which no other thread of the process gets memory: for processes
/// that carry no calls.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: `malloc_trim` has no rules for its caller. It takes the allocator's own locks and
    // touches no memory that is in use; nothing here reaches into the allocator beside it.
    unsafe {
        libc::malloc_trim(0);
    }
}
