//! Which engine serves, and why.

#![forbid(unsafe_code)]

use super::{Backend, EngineError};

/// What the operator wants (`RINGCAR_ENGINE`).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Choice {
    #[default]
    Auto,
    Epoll,
    Uring,
}

/// What serves.
#[derive(Clone, Debug)]
pub struct Selected {
    pub backend: Backend,
    pub reason: String,
}

/// # Errors
/// When the wanted engine cannot work here.
pub fn probe(_: Choice) -> Result<Selected, EngineError> {
    Ok(Selected { backend: Backend::Epoll, reason: "the only engine of this build".into() })
}
