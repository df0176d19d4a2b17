//! A resource of kind Resiliency, read: its policies by name, and which targets they are for.
//!
//! What one resource says can be checked alone, except the names of policies, which may stand in
//! another one; see `compile.rs`.

#![forbid(unsafe_code)]

use super::{
    codes,
    reader::{Field, Reader},
    trip,
};
use crate::yaml::{Node, Place};
use snapshot::policy::{
    resiliency::{Breaker, Pause, Retry, Source, StatusSet},
    trip::Trip,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

#[derive(Clone, Debug, Default)]
pub(super) struct Resiliency {
    pub(super) path: Arc<str>,
    pub(super) source: Arc<Source>,
    /// The apps whose sidecars read it; empty: all.
    pub(super) scopes: Vec<String>,
    pub(super) timeouts: BTreeMap<String, Duration>,
    pub(super) retries: BTreeMap<String, Retry>,
    pub(super) breakers: BTreeMap<String, Breaker>,
    pub(super) targets: BTreeMap<String, Target>,
}

/// Which policies a target has, by their names.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) timeout: Option<Named>,
    pub(super) retry: Option<Named>,
    pub(super) breaker: Option<Named>,
    pub(super) breakers_max: u32,
}

/// A policy's name, and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub(super) name: String,
    pub(super) key: String,
    pub(super) place: Place,
}

/// Of `root`, whose kind is known.
pub(super) fn read(reader: &mut Reader, path: &str, root: &Node) -> Resiliency {
    let mut found = Resiliency { path: path.into(), ..Resiliency::default() };
    for field in reader.fields(root, "", &["apiVersion", "kind", "metadata", "scopes", "spec"]) {
        match field.name {
            "metadata" => found.source = Arc::new(source_of(root)),
            "scopes" => found.scopes = reader.texts(&field),
            "spec" => read_spec(reader, &field, &mut found),
            _ => {}
        }
    }
    found
}

fn source_of(root: &Node) -> Source {
    let text = |name| super::metadata(root, name).into();
    Source { name: text("name"), namespace: text("namespace") }
}

fn read_spec(reader: &mut Reader, spec: &Field<'_>, found: &mut Resiliency) {
    for field in reader.fields(spec.node, &spec.path, &["policies", "targets"]) {
        match field.name {
            "policies" => read_policies(reader, &field, found),
            _ => read_targets(reader, &field, found),
        }
    }
}

fn read_policies(reader: &mut Reader, policies: &Field<'_>, found: &mut Resiliency) {
    let known = ["timeouts", "retries", "circuitBreakers"];
    for kind in reader.fields(policies.node, &policies.path, &known) {
        for (key, node) in reader.entries(kind.node, &kind.path) {
            let path = format!("{}.{}", kind.path, key.text);
            let field = Field { name: kind.name, path, node };
            let name = key.text.clone();
            match kind.name {
                "timeouts" => {
                    if let Some(time) = reader.duration(&field) {
                        found.timeouts.insert(name, time);
                    }
                }
                "retries" => {
                    let retry = retry(reader, &field);
                    found.retries.insert(name, retry);
                }
                _ => {
                    let breaker = breaker(reader, &field);
                    found.breakers.insert(name, breaker);
                }
            }
        }
    }
}

fn retry(reader: &mut Reader, policy: &Field<'_>) -> Retry {
    let mut is_exponential = false;
    let (mut pause, mut longest) = (PAUSE_DEFAULT, PAUSE_MAX_DEFAULT);
    let (mut count_max, mut statuses) = (None, None);
    let known = ["policy", "duration", "maxInterval", "maxRetries", "matching"];
    for field in reader.fields(policy.node, &policy.path, &known) {
        match field.name {
            "policy" => match reader.text(&field) {
                Some("constant") | None => {}
                Some("exponential") => is_exponential = true,
                Some(other) => {
                    let message = format!("{other:?} is neither constant nor exponential");
                    reader.refuse(field.node.place, &field.path, message);
                }
            },
            "duration" => pause = reader.duration(&field).unwrap_or(pause),
            "maxInterval" => longest = reader.duration(&field).unwrap_or(longest),
            "maxRetries" => count_max = count(reader, &field),
            _ => statuses = matching(reader, &field),
        }
    }
    let shortest = if is_exponential { longest } else { pause };
    if count_max.is_none() && shortest < ENDLESS_PAUSE_MIN {
        let message = format!(
            "is tried again for ever and almost without a pause ({shortest:?}); give it a \
             maxRetries, or at least {ENDLESS_PAUSE_MIN:?} between two attempts"
        );
        reader.refuse(policy.node.place, &policy.path, message);
    }
    let pause = match is_exponential {
        true => Pause::Exponential { max: longest },
        false => Pause::Constant(pause),
    };
    Retry { pause, count_max, statuses }
}

/// A negative number is as many as the client waits for.
fn count(reader: &mut Reader, field: &Field<'_>) -> Option<u32> {
    u32::try_from(reader.number::<i32>(field, "whole number")?).ok()
}

fn matching(reader: &mut Reader, matching: &Field<'_>) -> Option<StatusSet> {
    let mut statuses = None;
    for field in
        reader.fields(matching.node, &matching.path, &["httpStatusCodes", "gRPCStatusCodes"])
    {
        let is_http = field.name == "httpStatusCodes";
        let bounds = if is_http { 100..=599 } else { 0..=16 };
        let Some(text) = reader.text(&field).filter(|text| !text.is_empty()) else { continue };
        match codes::parse(text, &bounds) {
            Err(reason) => reader.refuse(field.node.place, &field.path, reason),
            Ok(ranges) if is_http => {
                let mut set = StatusSet::default();
                ranges.into_iter().flatten().for_each(|status| set.insert(status));
                statuses = Some(set);
            }
            Ok(_) => {}
        }
    }
    statuses
}

fn breaker(reader: &mut Reader, policy: &Field<'_>) -> Breaker {
    let mut breaker = Breaker {
        probes_max: 1,
        interval: None,
        open_time: OPEN_TIME_DEFAULT,
        trip: Trip::usual(),
        methods_max: METHODS_DEFAULT,
    };
    let known = ["maxRequests", "interval", "timeout", "trip"];
    for field in reader.fields(policy.node, &policy.path, &known) {
        match field.name {
            "maxRequests" => {
                let count = reader.number(&field, "whole number from 0");
                breaker.probes_max = count.unwrap_or(1).max(1);
            }
            "interval" => {
                breaker.interval = reader.duration(&field).filter(|time| !time.is_zero());
            }
            "timeout" => {
                let time = reader.duration(&field).filter(|time| !time.is_zero());
                breaker.open_time = time.unwrap_or(OPEN_TIME_DEFAULT);
            }
            _ => {
                let Some(text) = reader.text(&field) else { continue };
                match trip::compile(text) {
                    Ok(trip) => breaker.trip = trip,
                    Err(reason) => {
                        reader.refuse(field.node.place, &field.path, format!("{text:?} {reason}"));
                    }
                }
            }
        }
    }
    breaker
}

fn read_targets(reader: &mut Reader, targets: &Field<'_>, found: &mut Resiliency) {
    for field in reader.fields(targets.node, &targets.path, &["apps", "actors", "components"]) {
        if field.name != "apps" {
            let message = "is passed over: this sidecar carries service invocation only";
            reader.ignore(field.node.place, &field.path, message);
            continue;
        }
        for (key, node) in reader.entries(field.node, &field.path) {
            let path = format!("{}.{}", field.path, key.text);
            let target = target(reader, &Field { name: field.name, path, node });
            found.targets.insert(key.text.clone(), target);
        }
    }
}

fn target(reader: &mut Reader, target: &Field<'_>) -> Target {
    let mut found =
        Target { timeout: None, retry: None, breaker: None, breakers_max: METHODS_DEFAULT };
    let known = ["timeout", "retry", "circuitBreaker", "circuitBreakerCacheSize"];
    for field in reader.fields(target.node, &target.path, &known) {
        if field.name == "circuitBreakerCacheSize" {
            let Some(size) = reader.number(&field, "whole number from 0") else { continue };
            match size {
                0 => {}
                size if size <= METHODS_MAX => found.breakers_max = size,
                _ => {
                    let message = format!("is larger than {METHODS_MAX}");
                    reader.refuse(field.node.place, &field.path, message);
                }
            }
            continue;
        }
        let Some(name) = reader.text(&field).filter(|name| !name.is_empty()) else { continue };
        let (name, place) = (name.to_owned(), field.node.place);
        let named = Some(Named { name, key: field.path.clone(), place });
        match field.name {
            "timeout" => found.timeout = named,
            "retry" => found.retry = named,
            _ => found.breaker = named,
        }
    }
    found
}

// daprd's defaults.

const PAUSE_DEFAULT: Duration = Duration::from_secs(5);
const PAUSE_MAX_DEFAULT: Duration = Duration::from_secs(60);
const OPEN_TIME_DEFAULT: Duration = Duration::from_secs(60);
pub(super) const METHODS_DEFAULT: u32 = 100;

/// Each method of a target with a breaker of its own takes some 200 bytes.
const METHODS_MAX: u32 = 5000;

/// A retry without end that waits less would do nothing else.
const ENDLESS_PAUSE_MIN: Duration = Duration::from_millis(1);
