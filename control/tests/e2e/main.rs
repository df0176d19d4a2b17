//! The built executable, as its users start it: real processes, real sockets, a registry of their
//! own per test.
//!
//! Nothing waits for a time to pass: every wait is for an event, with a deadline.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "helpers of tests, outside of what clippy takes for tests")]

mod acceleration;
mod access;
mod adoption;
mod app_care;
mod bad_input;
mod balance;
mod chaos;
mod check;
mod command_line;
mod configuration;
mod dns;
mod explain;
mod grpc_port;
mod http_endpoints;
mod machines;
mod node;
mod pipelines;
mod registries;
mod renewal;
mod resources;
mod run;
mod run_file;
mod secrets;
mod shutdown;
mod sidecar;
mod steering;
mod support;
mod survival;
mod telemetry;
mod tracing;
mod unix_sockets;
mod websocket;
