//! A load client for one target: closed loop, or open loop at a rate, with every answer checked.
//!
//! Prints one JSON object: throughput, latency percentiles, and what watched processes spent per
//! request.

#![forbid(unsafe_code)]

mod arguments;
mod connection;
mod idle;
mod report;
mod run;
mod schedule;

use anyhow::Result;
use clap::Parser;
use loadtests::socket;

fn main() -> Result<()> {
    let arguments = arguments::Arguments::parse();
    socket::raise_descriptor_limit();
    let plan = arguments.plan()?;
    let idle = idle::open(&plan)?;
    let outcome = run::run(&plan)?;
    let report = report::Report::new(&plan, &outcome, idle.len())?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}
