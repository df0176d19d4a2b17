//! Whole data planes driven from one seed: relays on an engine made of memory, scripted clients and
//! apps, bad weather.
//!
//! A run is a function of its seed. Seeds that found something are kept in `seeds.txt` and replayed
//! by every run. `RINGCAR_SIM_SEED=7 cargo test -p ringcar-dataplane sim` replays one seed;
//! `RINGCAR_SIM_SEEDS=100000` sweeps so many, from `RINGCAR_SIM_FIRST` on.

#![forbid(unsafe_code)]

mod app;
mod client;
mod engine;
mod net;
mod plan;
mod policy;
mod random;
mod reader;
mod world;

use plan::Exchange;
pub(crate) use random::Random;
use std::panic::{AssertUnwindSafe, catch_unwind};
use world::{Rules, World};

/// Seeds of a usual run, beside those that are kept.
const SEEDS: u64 = 200;

/// Failed seeds told of in one run.
const FAILURES_TOLD: usize = 10;

/// Runs a failed seed once more, for its last events.
fn trace_of(seed: u64, rules: Rules, complaints: &[String]) -> String {
    let mut world = World::new(seed, true, rules);
    let again = complaints_of(&mut world);
    let mut lines: Vec<String> = world.book.trace.into();
    let is_open = |exchange: &&Exchange| exchange.started.is_some() && !exchange.is_done;
    lines.extend(world.book.exchanges.iter().filter(is_open).map(|open| format!("{open:?}")));
    lines.extend(complaints.iter().map(|complaint| format!("* {complaint}")));
    if again.as_deref() != Some(complaints) {
        lines.push(format!("* and the second run of this seed was another: {again:?}"));
    }
    lines.push(format!("replay: RINGCAR_SIM_SEED={seed} cargo test -p ringcar-dataplane sim"));
    lines.join("\n")
}

fn complaints_of(world: &mut World) -> Option<Vec<String>> {
    let ended = catch_unwind(AssertUnwindSafe(|| world.run()));
    let mut complaints = std::mem::take(&mut world.book.complaints);
    if let Err(panic) = ended {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text");
        complaints.push(format!("panic: {text}"));
    }
    (!complaints.is_empty()).then_some(complaints)
}

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{variable}={text}: {error}")))
}

fn kept_seeds() -> impl Iterator<Item = u64> {
    include_str!("seeds.txt")
        .lines()
        .filter_map(|line| line.split('#').next())
        .filter_map(|seed| seed.trim().parse().ok())
}

/// No byte is lost, invented or given to another, nothing leaks, nobody waits for ever.
#[test]
fn every_seed_holds() {
    run(Rules::None);
}

/// The same under timeouts, retries and circuit breakers.
#[test]
fn every_seed_holds_under_policies() {
    run(Rules::Policies);
}

fn run(rules: Rules) {
    let seeds: Vec<u64> = match number_from("RINGCAR_SIM_SEED") {
        Some(seed) => vec![seed],
        None => {
            let first = number_from("RINGCAR_SIM_FIRST").unwrap_or(1);
            let count = number_from("RINGCAR_SIM_SEEDS").unwrap_or(SEEDS);
            kept_seeds().chain(first..first + count).collect()
        }
    };
    let failed = seeds.iter().filter_map(|seed| {
        let complaints = complaints_of(&mut World::new(*seed, false, rules))?;
        Some((*seed, complaints))
    });
    let failed: Vec<(u64, Vec<String>)> = failed.take(FAILURES_TOLD).collect();
    let Some((seed, complaints)) = failed.first() else { return };
    let trace = trace_of(*seed, rules, complaints);
    for (seed, complaints) in &failed {
        println!("seed {seed}: {}", complaints[0]);
    }
    panic!("{} seeds failed; the first one's end:\n{trace}", failed.len());
}
