//! The `ringcar` executable: control, the commands that talk to it, and the data plane's process.
//!
//! Control is small and slow on purpose: it decides what is served where, and never sees a call.

#![forbid(unsafe_code)]

mod accept;
mod admin;
mod adopt;
mod app_channel;
mod app_health;
mod claim;
mod cli;
mod config;
mod grpc_port;
mod host;
mod http_client;
mod instance;
mod knowledge;
mod link;
mod listen;
mod log;
mod node;
mod open_files;
mod peer_port;
mod port_owner;
mod preflight;
mod probe_counts;
mod publish;
mod registry;
mod resources;
mod runtime_dir;
mod shared;
mod sidecar;
mod signals;
mod steering;
mod supervisor;
#[cfg(test)]
mod test_dir;
#[cfg(test)]
mod test_program;
mod timestamp;
mod tracing;
mod version;
mod yaml;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main(std::env::args_os())
}
