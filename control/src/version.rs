//! Which version this is, in Dapr's terms and in our own.

#![forbid(unsafe_code)]

/// The daprd whose behaviour this version matches. SDKs and tools read it, and expect Dapr's
/// numbering.
pub(crate) const DAPR: &str = "1.18.3";

/// Ringcar's own.
pub(crate) const RINGCAR: &str = env!("CARGO_PKG_VERSION");

/// The commit this was built from, where the build says so.
pub(crate) const COMMIT: &str = match option_env!("RINGCAR_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};
