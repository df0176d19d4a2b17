//! What requests must pass, compiled once when an app is adopted and decided per request; and how
//! calls are tried again.
//!
//! Pure: bytes, outcomes, time and randomness come in as values, and what is decided here is done
//! in [`crate::relay`]. The rules are daprd 1.18's. Whatever cannot be told for certain is refused,
//! never let through.

#![forbid(unsafe_code)]

pub mod access;
pub mod cors;
mod operations;
pub mod pipeline;
pub(crate) mod resiliency;
pub mod token;
