//! Ringcar's data plane: one worker per core, each with its own ring, connections, pools and
//! counters.
//!
//! A request flows `listener → connection → http → dapr → route → upstream → relay → telemetry`, and each is a
//! directory here. `http`, `dapr` and `route` are pure: bytes, time and a snapshot in, decisions
//! out.

mod adoption;
pub mod clock;
mod connection;
pub mod dapr;
mod draw;
pub mod engine;
pub mod error;
mod gate;
pub mod http;
pub mod limits;
mod link;
mod listener;
mod mailbox;
pub mod policy;
mod probe;
mod process;
mod relay;
mod resolver;
pub mod route;
#[cfg(test)]
mod sim;
mod slab;
pub mod telemetry;
mod timer;
mod upstream;
mod worker;

pub use probe::WorkerProbe;
pub use process::{Options, RunError, run};
