//! Apps that a node was told to serve no longer, and serves for a moment more: their names are
//! gone, and callers that have not heard of it are still answered.
//!
//! What would cross the end of a connection, or wait in a backlog, is lost otherwise. Any other
//! change of the set of apps ends the moment, for it may want the ports.

#![forbid(unsafe_code)]

use super::{FAREWELL, Sidecar, apps::name_of};
use crate::{
    config::Config,
    node::{admin::Answer, changes::Name},
};
use snapshot::wire::HoldId;
use std::{collections::BTreeMap, sync::Arc};
use tokio::time::Instant;

#[derive(Default)]
pub(super) struct Farewells {
    leaving: BTreeMap<Name, Farewell>,
}

struct Farewell {
    until: Instant,
    config: Arc<Config>,
    /// Who waits for the app to be gone.
    answer: Option<Answer>,
}

impl Farewells {
    pub(super) fn is_leaving(&self, name: &Name) -> bool {
        self.leaving.contains_key(name)
    }

    /// When the first of them is over.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.leaving.values().map(|farewell| farewell.until).min()
    }

    /// What is served although nobody wants it any more.
    pub(super) fn apps(&self) -> impl Iterator<Item = (&Name, &Arc<Config>)> {
        self.leaving.iter().map(|(name, farewell)| (name, &farewell.config))
    }

    fn take_over(&mut self, now: Instant) -> Vec<Answer> {
        let mut answers = Vec::new();
        self.leaving.retain(|_, farewell| {
            let is_over = farewell.until <= now;
            answers.extend(farewell.answer.take_if(|_| is_over));
            !is_over
        });
        answers
    }
}

impl Sidecar {
    /// The app is no longer wanted. It goes at once when nobody elsewhere can be calling it: those
    /// who know us serve as the measure of that.
    pub(super) fn bid_farewell(&mut self, name: &Name, answer: Option<Answer>) {
        let is_it = |config: &Config| name_of(config) == *name;
        let mut served = self.apps.iter().filter(|(_, served)| is_it(&served.config));
        let has_callers = self.supervisor.told().route_count() > 0;
        let Some((number, served)) = served.next().filter(|_| has_callers) else {
            return self.serve_wanted(answer);
        };
        self.registries.withdraw(&served.entry);
        self.supervisor.release(HoldId(*number));
        let config = Arc::clone(&served.config);
        let farewell = Farewell { until: Instant::now() + FAREWELL, config, answer };
        if let Some(node) = &mut self.node {
            node.farewells.leaving.insert(name.clone(), farewell);
        }
    }

    /// Those that have had their time are gone with the next state.
    pub(super) fn end_farewells(&mut self, now: Instant) {
        let Some(node) = &mut self.node else { return };
        let is_due = node.farewells.deadline().is_some_and(|until| until <= now);
        if !is_due {
            return;
        }
        let mut answers = node.farewells.take_over(now).into_iter();
        self.serve_wanted(answers.next());
        answers.for_each(|answer| self.answer_when_live(answer));
    }

    /// Something else is about to change.
    pub(super) fn cut_farewells_short(&mut self) {
        self.end_farewells(Instant::now() + FAREWELL);
    }

    fn serve_wanted(&mut self, answer: Option<Answer>) {
        let Some(node) = &mut self.node else { return };
        let wanted = node.wanted(&self.log);
        let outcome = self.serve(wanted);
        if let Some(answer) = answer {
            self.answer_at(outcome.version, answer);
        }
    }
}
