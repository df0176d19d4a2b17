//! What requests must pass: compiled once when an app is adopted, decided per request. Pure.
//!
//! The rules are daprd 1.18's. Whatever cannot be told for certain is refused, never let through.

#![forbid(unsafe_code)]

pub mod access;
pub mod cors;
mod operations;
pub mod token;
