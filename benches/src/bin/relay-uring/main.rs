//! Yardstick: the best byte relay on io_uring that we know, written straight on the `io-uring`
//! crate.
//!
//! DEFER_TASKRUN, multishot accept and receive into a provided-buffer ring, all queued slices of a
//! connection gathered in one send, at most one system call a turn. What Ringcar's data plane costs
//! is told as a ratio to this.

mod buffers;
mod pair;
mod relay;
mod token;

use anyhow::Result;
use benches::{Arguments, announce};
use clap::Parser;
use loadtests::socket;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    socket::raise_descriptor_limit();
    let (listener, bound) = socket::listen(&arguments.listen)?;
    announce(&bound);
    relay::run(&listener, &bound, arguments.upstream)
}
