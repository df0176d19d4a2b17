//! What a sidecar will find when it starts here: asked one by one, each answer with its remedy.
//!
//! Nothing is changed: ports are bound and let go, the directory is looked at and not made. A check
//! that cannot be made is a warning, since it says nothing about what it was to check.

#![forbid(unsafe_code)]

mod ebpf;
mod limits;
mod machine;
mod place;
mod registries;

use crate::config::Config;
use serde::Serialize;
use std::sync::Arc;

/// One line of the report.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Finding {
    pub(crate) check: &'static str,
    pub(crate) state: State,
    pub(crate) found: String,
    /// What to do about it; of failures and warnings only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) remedy: Option<String>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    Ok,
    /// It works, with less than could be had.
    Warning,
    /// It does not work.
    Failure,
}

impl State {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failure => "failure",
        }
    }
}

impl Finding {
    pub(crate) fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, state: State::Ok, found: found.into(), remedy: None }
    }

    pub(crate) fn warning(
        check: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let remedy = Some(remedy.into());
        Self { check, state: State::Warning, found: found.into(), remedy }
    }

    pub(crate) fn failure(
        check: &'static str,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { state: State::Failure, ..Self::warning(check, found, remedy) }
    }
}

/// What can be said about this machine and these configurations, in the order they are needed: the
/// first is that of the process, the others those of its apps.
pub(crate) async fn findings(
    base: &Config,
    apps: &[Arc<Config>],
    engine: dataplane::engine::Choice,
) -> Vec<Finding> {
    let mut findings = vec![machine::kernel(), machine::engine(engine), machine::clock()];
    findings.extend(limits::findings());
    findings.push(place::runtime_dir());
    findings.push(place::local_registry());
    findings.extend(registries::findings(&base.registries).await);
    findings.extend(place::metrics(base));
    for app in apps {
        findings.extend(place::listeners(app));
        findings.extend(place::app(app));
    }
    findings.extend(ebpf::findings());
    findings
}
