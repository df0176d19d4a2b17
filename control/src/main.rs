//! The `ringcar` executable.

#![forbid(unsafe_code)]

fn main() {}
