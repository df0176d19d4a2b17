//! Ringcar's data plane: one worker per core, each with its own ring, connections, pools and counters.
//!
//! A request flows `listener → connection → http → dapr → route → upstream → relay → telemetry`, and each is a
//! directory here. `http`, `dapr` and `route` are pure: bytes, time and a snapshot in, decisions out.

pub mod clock;
pub mod engine;
pub mod http;
pub mod dapr;
pub mod error;
pub mod limits;
pub mod route;
