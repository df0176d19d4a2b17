//! What a worker counts. One writer per counter; readers on other threads may be a moment behind.

#![forbid(unsafe_code)]

mod counters;

pub(crate) use counters::{Counters, Description, Kind};
