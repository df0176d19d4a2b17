//! Several chunks as one message: the vector that a gathered send points to.
//!
//! Boxed, since the header points into its own slices; filled once, then left alone until the
//! send's completion.

#![forbid(unsafe_code)]

use crate::{engine::Chunk, limits::GATHER_SLICES};
use std::ptr::null_mut;

pub(super) struct Gather {
    slices: [libc::iovec; GATHER_SLICES],
    header: Option<libc::msghdr>,
}

impl Gather {
    pub(super) fn new() -> Box<Self> {
        let empty = libc::iovec { iov_base: null_mut(), iov_len: 0 };
        Box::new(Self { slices: [empty; GATHER_SLICES], header: None })
    }

    /// Points to the given chunks, as many as there is room for.
    pub(super) fn fill<'a>(self: &mut Box<Self>, chunks: impl Iterator<Item = &'a Chunk>) {
        let mut count = 0;
        for (slice, chunk) in self.slices.iter_mut().zip(chunks) {
            // The kernel only reads through this pointer; `iovec` knows no other kind.
            *slice =
                libc::iovec { iov_base: chunk.as_ptr().cast_mut().cast(), iov_len: chunk.len() };
            count += 1;
        }
        self.header = Some(libc::msghdr {
            msg_name: null_mut(),
            msg_namelen: 0,
            msg_iov: self.slices.as_mut_ptr(),
            msg_iovlen: count,
            msg_control: null_mut(),
            msg_controllen: 0,
            msg_flags: 0,
        });
    }

    /// What a send points to; valid where this box is.
    pub(super) fn header(&self) -> *const libc::msghdr {
        self.header.as_ref().map_or(std::ptr::null(), std::ptr::from_ref)
    }
}
