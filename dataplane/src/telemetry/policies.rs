//! What is counted of policies: what access control decided, and which timeouts, retries and
//! circuit breakers a call had and met. daprd counts an access control at the callee, and
//! resiliency at the caller.

#![forbid(unsafe_code)]

use super::{
    Telemetry,
    observed::Observed,
    series::{Family, Labels, Verb},
};
use crate::policy::{
    access::{Caller, Level, Verdict},
    resiliency::{Move, Position},
};
use snapshot::policy::resiliency::Policy;
use std::rc::Rc;

/// What a policy did beside letting a call through.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Activation {
    Breaker(Move),
    Retry,
    Timeout,
}

/// Between the parts of an identity; no header line can carry it.
pub(super) const IDENTITY_SEPARATOR: char = '\0';

impl Observed {
    /// Access control of the app with this number was asked. Without a caller nobody is proven.
    pub(crate) fn on_verdict(&mut self, app: usize, caller: Option<Caller<'_>>, verdict: Verdict) {
        self.verdict = Some((app, verdict));
        self.identity.clear();
        if let Some(Caller { app_id, namespace, trust_domain }) = caller {
            let separator = [IDENTITY_SEPARATOR as u8];
            for part in [app_id.as_bytes(), &separator, trust_domain.as_bytes(), &separator] {
                self.identity.extend_from_slice(part);
            }
            self.identity.extend_from_slice(namespace.as_bytes());
        }
    }
}

impl Telemetry {
    /// Whatever became of the call: counts what access control said of it, if it was asked.
    #[inline]
    pub(crate) fn on_judged(&mut self, observed: &mut Observed) {
        if let Some((number, verdict)) = observed.verdict.take() {
            self.note_verdict(observed, number, verdict);
        }
    }

    fn note_verdict(&mut self, observed: &Observed, number: usize, verdict: Verdict) {
        let Some(app) = self.find(number).filter(|app| app.metrics().is_some()) else { return };
        let family = match (verdict.level, verdict.is_allowed) {
            (Level::App, true) => Family::AccessAppAllowed,
            (Level::App, false) => Family::AccessAppBlocked,
            (Level::Global, true) => Family::AccessGlobalAllowed,
            (Level::Global, false) => Family::AccessGlobalBlocked,
        };
        let name = self.names.intern(&observed.identity);
        self.count(&app, Labels::of(family, name));
    }

    /// The call has this policy. `position`: in which its breaker was asked. `target` is as the
    /// caller wrote it.
    pub(crate) fn on_policy(
        &mut self,
        observed: &Observed,
        target: &[u8],
        policy: &Policy,
        position: Option<Position>,
    ) {
        let has = [
            (Family::AppliedTimeout, policy.timeout.is_some(), None),
            (Family::AppliedRetry, policy.retry.is_some(), None),
            (Family::AppliedBreaker, policy.breaker.is_some(), position),
        ];
        for (family, _, position) in has.into_iter().filter(|(_, has, _)| *has) {
            self.count_policy(observed, family, target, position);
        }
    }

    pub(crate) fn on_activated(
        &mut self,
        observed: &mut Observed,
        target: &[u8],
        activation: Activation,
    ) {
        let (family, position) = match activation {
            Activation::Breaker(Move::Closed) => (Family::MetBreaker, Some(Position::Closed)),
            Activation::Breaker(Move::Opened) => (Family::MetBreaker, Some(Position::Open)),
            Activation::Retry => (Family::MetRetry, None),
            // daprd counts a call's first one alone.
            Activation::Timeout if std::mem::replace(&mut observed.has_timed_out, true) => return,
            Activation::Timeout => (Family::MetTimeout, None),
        };
        self.count_policy(observed, family, target, position);
    }

    fn count_policy(
        &mut self,
        observed: &Observed,
        family: Family,
        target: &[u8],
        position: Option<Position>,
    ) {
        let app = Rc::clone(&observed.app);
        if app.metrics().is_some() {
            let labels = Labels::of(family, self.names.intern(target));
            self.count(&app, labels.with(Verb::NONE, position.map_or(0, number_of)));
        }
    }
}

/// In the place of a status.
pub(super) const fn number_of(position: Position) -> u16 {
    match position {
        Position::Closed => 1,
        Position::HalfOpen => 2,
        Position::Open => 3,
    }
}

/// daprd's words for the positions, by [`number_of`].
pub(super) const POSITIONS: [&str; 4] = ["", "closed", "half-open", "open"];
