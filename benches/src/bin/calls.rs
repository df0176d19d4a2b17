//! Calls through a worker that has no kernel below it: what Ringcar itself does for a call, and
//! nothing else. For `scripts/bench instructions`, which counts that.
//!
//! The same call as in `scripts/bench relay`: an app calls itself by its sidecar, over keep-alive
//! connections, with daprd's defaults of what is told.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
use benches::memory::MemoryEngine;
use clap::Parser;
use dataplane::WorkerProbe;
use snapshot::{
    Address, App, AppChannel, AppHealth, AppId, Balance, Listener, ListenerId, ListenerKind,
    Metrics, Namespace, OnControlLost, Origin, Snapshot, State, Telemetry, Tracing, Version,
};
use std::{fs::File, os::fd::OwnedFd, sync::Arc};

#[derive(Parser)]
struct Arguments {
    /// Calls to make, after as many that warm up.
    #[arg(long, default_value_t = 10_000)]
    calls: usize,
    #[arg(long, default_value_t = 8)]
    connections: usize,
    /// Nothing is told of the calls: no metrics, no trace context.
    #[arg(long)]
    silent: bool,
    /// Prints what the app and the client get.
    #[arg(long)]
    show: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let clients = (0..arguments.connections).map(|_| descriptor()).collect::<Result<_>>()?;
    let request = request();
    let engine = MemoryEngine::new(clients, request.as_bytes(), &answer())?;
    let snapshot = snapshot(arguments.silent)?;
    let mut probe = WorkerProbe::new(engine, snapshot, vec![descriptor()?]);
    make(&mut probe, arguments.calls)?;
    let turns = measured(&mut probe, arguments.calls)?;
    let engine = probe.engine();
    ensure!(engine.last_answer.starts_with(b"HTTP/1.1 200 Answer\r\n"), "the call is answered");
    println!("calls {} turns {turns}", arguments.calls);
    if arguments.show {
        println!("{}", engine.last_request.escape_ascii());
        println!("{}", engine.last_answer.escape_ascii());
    }
    Ok(())
}

/// Out of line and named, for it is where counting begins and ends.
#[inline(never)]
fn measured(probe: &mut WorkerProbe<MemoryEngine>, calls: usize) -> Result<usize> {
    make(probe, calls)
}

/// Returns how many turns it took.
fn make(probe: &mut WorkerProbe<MemoryEngine>, calls: usize) -> Result<usize> {
    let wanted = probe.engine().answers + calls;
    let mut turns = 0;
    while probe.engine().answers < wanted {
        probe.turn()?;
        turns += 1;
        ensure!(turns < 10 * (calls + 10), "calls come to an end");
    }
    Ok(turns)
}

/// Stands for a socket; nobody reads or writes it.
fn descriptor() -> Result<OwnedFd> {
    Ok(File::open("/dev/null").context("/dev/null")?.into())
}

fn request() -> String {
    let padding = "x".repeat(125);
    format!(
        "GET /v1.0/invoke/a/method/x HTTP/1.1\r\nHost: 127.0.0.1:3500\r\nX-Padding: {padding}\r\n\r\n"
    )
}

fn answer() -> Vec<u8> {
    let mut bytes =
        b"HTTP/1.1 200 Answer\r\nContent-Type: application/json\r\nContent-Length: 256\r\n\r\n"
            .to_vec();
    bytes.resize(bytes.len() + 256, b'x');
    bytes
}

fn snapshot(is_silent: bool) -> Result<Snapshot> {
    let bounds = vec![
        1, 2, 3, 4, 5, 6, 8, 10, 13, 16, 20, 25, 30, 40, 50, 65, 80, 100, 130, 160, 200, 250, 300,
        400, 500, 650, 800, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000,
    ];
    let metrics = Metrics {
        has_raw_paths: true,
        patterns: Vec::new(),
        excludes_verbs: false,
        counts_error_codes: false,
        latency_bounds_ms: bounds,
    };
    let told =
        Telemetry { metrics: Some(metrics), api_log: None, tracing: Some(Tracing::PassThrough) };
    let app = App {
        number: 0,
        id: AppId::new("a").context("an id")?,
        namespace: Namespace::default(),
        guards: Arc::default(),
        channel: Some(AppChannel::http(Address::Tcp("127.0.0.1:6001".parse()?))),
        origin: Origin::default(),
        telemetry: Arc::new(if is_silent { Telemetry::default() } else { told }),
        balance: Balance::default(),
        resiliency: None,
        zone: None,
        body_bytes_max: Some(16 * 1024 * 1024),
        head_bytes_max: 8192,
        health: AppHealth::default(),
        outbound: Arc::default(),
        metadata_json: "".into(),
    };
    let listener = Listener { id: ListenerId(0), kind: ListenerKind::Api, app: 0, caller: None };
    let state = State {
        version: Version(1),
        apps: vec![app],
        routes: Vec::new(),
        listeners: vec![listener],
        on_control_lost: OnControlLost::Exit,
    };
    Snapshot::build(state).map_err(|problems| anyhow::anyhow!("{problems:?}"))
}
