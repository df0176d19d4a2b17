//! What an app allows and how its calls are carried, as control tells it: one noun a file.
//!
//! Plain values, compared and coded like the rest of [`crate::App`]. An app without any of them is
//! served as if there were no policies at all.

#![forbid(unsafe_code)]

pub mod resiliency;
pub mod trip;
