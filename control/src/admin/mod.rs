//! What control answers itself: the metadata document, and the metrics page.

#![forbid(unsafe_code)]

pub(crate) mod metadata;
pub(crate) mod metrics;
pub(crate) mod page;
pub(crate) mod process;
pub(crate) mod rules;
