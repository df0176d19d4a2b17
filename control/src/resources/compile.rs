//! What holds for the calls of one app: all Resiliency resources in its scope, put together.
//!
//! A later resource replaces what an earlier one says under the same name. Policies that are called
//! after daprd's defaults hold for targets that no resource names.

#![forbid(unsafe_code)]

use super::resiliency::{METHODS_DEFAULT, Named, Resiliency, Target};
use crate::config::{
    closest,
    file::{FilePlace, Problem, Weight},
};
use snapshot::policy::resiliency::{self as policy, Breaker, Names, Policy, Retry, Source};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// All that is in scope.
#[derive(Default)]
struct Merged<'r> {
    timeouts: BTreeMap<&'r str, Duration>,
    retries: BTreeMap<&'r str, Retry>,
    breakers: BTreeMap<&'r str, &'r Breaker>,
    /// With the file that says so.
    targets: BTreeMap<&'r str, (&'r Target, &'r Arc<str>)>,
    sources: Vec<Arc<Source>>,
    problems: Vec<Problem>,
}

/// `None`: calls are carried as without any resource.
///
/// # Errors
/// The names of policies that there are not.
pub(super) fn compile(
    resources: &[Resiliency],
    app_id: &str,
) -> Result<Option<Arc<policy::Resiliency>>, Vec<Problem>> {
    let mut merged = Merged::default();
    merged.retries.insert(BUILT_IN, Retry::BUILT_IN);
    let in_scope = |r: &&Resiliency| r.scopes.is_empty() || r.scopes.iter().any(|id| id == app_id);
    for resource in resources.iter().filter(in_scope) {
        merged.add(resource);
    }
    let sources = std::mem::take(&mut merged.sources);
    let mut compiled =
        policy::Resiliency { default: merged.usual(), sources, ..Default::default() };
    for (name, (target, path)) in std::mem::take(&mut merged.targets) {
        let policy = merged.target(target, path);
        compiled.targets.insert(name.into(), Arc::new(policy));
    }
    match merged.problems.is_empty() {
        true => Ok((!compiled.is_empty()).then(|| Arc::new(compiled))),
        false => Err(merged.problems),
    }
}

impl<'r> Merged<'r> {
    fn add(&mut self, resource: &'r Resiliency) {
        self.sources.push(Arc::clone(&resource.source));
        self.timeouts.extend(resource.timeouts.iter().map(|(name, time)| (&**name, *time)));
        self.breakers.extend(resource.breakers.iter().map(|(name, breaker)| (&**name, breaker)));
        for (name, retry) in &resource.retries {
            let mut retry = retry.clone();
            if name == BUILT_IN {
                let least = Retry::BUILT_IN.count_max;
                // Also one without end, since daprd compares -1.
                retry.count_max = retry.count_max.max(least);
            }
            self.retries.insert(name, retry);
        }
        let targets = resource.targets.iter();
        self.targets.extend(targets.map(|(name, target)| (&**name, (target, &resource.path))));
    }

    /// For targets without an entry of their own; daprd's built-in retry belongs to it.
    fn usual(&self) -> Option<Arc<Policy>> {
        let named =
            |kind: &str| [format!("DefaultApp{kind}Policy"), format!("Default{kind}Policy")];
        let first = |kind: &str, has: &dyn Fn(&str) -> bool| {
            named(kind).into_iter().find(|name| has(name)).unwrap_or_default()
        };
        let timeout = first("Timeout", &|name| self.timeouts.contains_key(name));
        let retry = first("Retry", &|name| self.retries.contains_key(name));
        let breaker = first("CircuitBreaker", &|name| self.breakers.contains_key(name));
        let policy = Policy {
            timeout: self.timeouts.get(&*timeout).copied().filter(|time| !time.is_zero()),
            retry: self.retries.get(&*retry).cloned(),
            breaker: self.breakers.get(&*breaker).map(|b| with_methods(b, METHODS_DEFAULT)),
            built_in: self.retries.get(BUILT_IN).cloned(),
            names: Names { timeout: timeout.into(), retry: retry.into(), breaker: breaker.into() },
        };
        let says_nothing = Policy { built_in: Some(Retry::BUILT_IN), ..Policy::default() };
        (policy != says_nothing).then(|| Arc::new(policy))
    }

    fn target(&mut self, target: &Target, path: &Arc<str>) -> Policy {
        let Target { timeout, retry, breaker, breakers_max } = target;
        let name = |named: &Option<Named>| {
            named.as_ref().map(|named| named.name.as_str().into()).unwrap_or_default()
        };
        let names = Names { timeout: name(timeout), retry: name(retry), breaker: name(breaker) };
        let time = find(&self.timeouts, timeout, "timeout", path, &mut self.problems).copied();
        let retry = find(&self.retries, retry, "retry", path, &mut self.problems).cloned();
        let kind = "circuit breaker";
        let breaker = find(&self.breakers, breaker, kind, path, &mut self.problems)
            .map(|breaker| with_methods(breaker, *breakers_max));
        let timeout = time.filter(|time| !time.is_zero());
        Policy { timeout, retry, breaker, built_in: None, names }
    }
}

fn with_methods(breaker: &Breaker, methods_max: u32) -> Breaker {
    Breaker { methods_max, ..breaker.clone() }
}

fn find<'m, T>(
    policies: &'m BTreeMap<&str, T>,
    named: &Option<Named>,
    kind: &str,
    path: &Arc<str>,
    problems: &mut Vec<Problem>,
) -> Option<&'m T> {
    let Named { name, key, place } = named.as_ref()?;
    let found = policies.get(&**name);
    if found.is_none() {
        let known: Vec<String> = policies.keys().map(|name| (*name).to_owned()).collect();
        problems.push(Problem {
            place: FilePlace::new(Arc::clone(path), Some(*place)),
            key: key.clone(),
            message: format!("there is no {kind} policy {name:?}"),
            suggestion: closest(name, &known).map(|name| format!("is it {name:?}?")),
            weight: Weight::Refused,
        });
    }
    found
}

const BUILT_IN: &str = "DaprBuiltInServiceRetries";
