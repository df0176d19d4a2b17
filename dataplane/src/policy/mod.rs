//! What the policies of an app decide about a call: bytes and outcomes in, decisions out.
//!
//! Pure like everything between head and route: time and randomness come in as values, and what is
//! decided here is done in [`crate::relay`].

#![forbid(unsafe_code)]

pub(crate) mod resiliency;
