//! What measuring needs on both ends: addresses, sockets, an epoll loop, an HTTP length reader,
//! process accounting.
//!
//! Written apart from the data plane on purpose: a client that checks answers with the code under
//! test would share its mistakes.

#![forbid(unsafe_code)]

pub mod address;
pub mod message;
pub mod poll;
pub mod process;
pub mod socket;
