//! Which keys a Configuration file may have, and what becomes of each.
//!
//! daprd 1.18 ignores a key it does not know without a word; here it is told what was meant. Keys
//! of daprd that this version does nothing with are known all the same.

#![forbid(unsafe_code)]

use super::keys::{self, KEYS, Key};

/// What becomes of a key.
#[derive(Clone, Copy, Debug)]
pub(super) enum Use {
    /// `spec.accessControl`, which has a reader of its own.
    Access,
    /// `spec.api`; as well.
    Api,
    /// It has keys below it.
    Branch,
    /// Whatever is below is read elsewhere, or means nothing to a sidecar.
    Free,
    Later,
    /// `spec.mtls.enabled`, which daprd's command line reads and daprd does not.
    Mtls,
    /// `spec.nameResolution`, which has a reader of its own.
    Names,
    /// `spec.httpPipeline` and the app's, which have a reader of their own.
    Pipeline,
    /// What is told of calls, which has a reader of its own.
    Telemetry,
    Unknown,
    /// The value of a key of the table.
    Value(&'static Key),
}

/// Beside the files' places of the table.
const SCHEMA: &[(&str, Use)] = &[
    ("apiVersion", Use::Free),
    ("kind", Use::Free),
    ("metadata", Use::Free),
    ("spec.accessControl", Use::Access),
    ("spec.api", Use::Api),
    ("spec.appHttpPipeline", Use::Pipeline),
    ("spec.components", Use::Later),
    ("spec.features", Use::Later),
    ("spec.httpPipeline", Use::Pipeline),
    ("spec.logging.apiLogging.obfuscateURLs", Use::Telemetry),
    ("spec.logging.apiLogging.omitHealthChecks", Use::Telemetry),
    ("spec.metric.http", Use::Telemetry),
    ("spec.metric.latencyDistributionBuckets", Use::Telemetry),
    ("spec.metric.recordErrorCodes", Use::Telemetry),
    ("spec.metric.rules", Use::Telemetry),
    ("spec.mtls.allowedClockSkew", Use::Later),
    ("spec.mtls.enabled", Use::Mtls),
    ("spec.mtls.tokenValidators", Use::Later),
    ("spec.mtls.workloadCertTTL", Use::Later),
    ("spec.nameResolution", Use::Names),
    ("spec.secrets", Use::Later),
    ("spec.tracing", Use::Telemetry),
    ("spec.wasm", Use::Later),
    ("spec.workflow", Use::Later),
];

pub(super) fn find(path: &str) -> Use {
    let path = path_in_table(path);
    if let Some((_, found)) = SCHEMA.iter().find(|(known, _)| *known == path) {
        return *found;
    }
    if let Some(key) = KEYS.iter().find(|key| key.file().is_some_and(|file| file == path)) {
        return Use::Value(key);
    }
    let is_branch =
        paths().any(|known| known.strip_prefix(&*path).is_some_and(|rest| rest.starts_with('.')));
    if is_branch { Use::Branch } else { Use::Unknown }
}

/// The known key beside an unknown one that was most probably meant.
pub(super) fn suggestion(path: &str) -> Option<String> {
    let (parent, name) = path.rsplit_once('.').unwrap_or(("", path));
    let parent = path_in_table(parent);
    let mut siblings: Vec<String> = paths()
        .filter_map(|known| {
            let below = match &*parent {
                "" => Some(&*known),
                parent => known.strip_prefix(parent).and_then(|rest| rest.strip_prefix('.')),
            };
            Some(below?.split('.').next()?.to_owned())
        })
        .collect();
    siblings.dedup();
    closest(name, &siblings)
}

/// The one of `known` that `word` was most probably meant to be.
pub(crate) fn closest(word: &str, known: &[String]) -> Option<String> {
    let plain = |text: &str| text.replace(['-', '_'], "").to_ascii_lowercase();
    let likeness = |other: &&String| strsim::jaro_winkler(&plain(word), &plain(other));
    let best = known.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)))?;
    (likeness(&best) >= LIKENESS_MIN).then(|| best.clone())
}

/// daprd reads `metrics` where `metric` says nothing.
fn path_in_table(path: &str) -> String {
    match path.strip_prefix("spec.metrics") {
        Some(rest) if rest.is_empty() || rest.starts_with('.') => format!("spec.metric{rest}"),
        _ => path.to_owned(),
    }
}

fn paths() -> impl Iterator<Item = String> {
    let schema = SCHEMA.iter().map(|(path, _)| (*path).to_owned());
    schema.chain(keys::KEYS.iter().filter_map(Key::file))
}

/// Below it a suggestion is more of a riddle than a help.
const LIKENESS_MIN: f64 = 0.8;
