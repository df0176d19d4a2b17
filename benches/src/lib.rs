//! What the yardstick relays share: their command line.
//!
//! Each relay carries bytes between one client connection and one upstream connection, on one
//! thread, and knows nothing of HTTP: the floor that a proxy is measured against.

#![forbid(unsafe_code)]

pub mod memory;

use clap::Parser;
use loadtests::address;
use snapshot::Address;

/// A bare byte relay. The first line it prints is the address it listens on; SIGTERM ends it.
#[derive(Parser)]
pub struct Arguments {
    /// Where to listen: 127.0.0.1:0 or unix:/path.
    #[arg(long, value_parser = address::parse)]
    pub listen: Address,
    /// Where each connection goes: 127.0.0.1:8080 or unix:/path.
    #[arg(long, value_parser = address::parse)]
    pub upstream: Address,
}

/// Tells whoever started the relay that it can be called, and where.
pub fn announce(bound: &Address) {
    println!("{}", address::spell(bound));
}

/// What the relays that copy receive into at once. Below it the cost per byte grows, above it
/// little is gained.
pub const COPY_BYTES: usize = 64 * 1024;
