//! How soon a change of one app among very many is in force on every worker, and what each app
//! costs.
//!
//! Starts a data plane, tells it a state over its real link as control does, then changes one route
//! at a time and waits for each to be live on all workers. `delta-live --apps 1000000 --workers 2
//! --deltas 2000`, built with `--release`.

#![forbid(unsafe_code)]

use anyhow::{Context, bail, ensure};
use clap::Parser;
use dataplane::{Options, engine::Choice};
use snapshot::{
    Address, AppId, Change, Delta, Endpoint, InstanceId, Namespace, OnControlLost, Route, Snapshot,
    State, Version,
    wire::{self, FromDataPlane, ToDataPlane},
};
use std::{
    io::{Read, Write},
    num::NonZeroUsize,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    process::Command,
    time::{Duration, Instant},
};

#[derive(Parser)]
struct Arguments {
    /// Apps with a route.
    #[arg(long, default_value_t = 1_000_000)]
    apps: u32,
    /// Changes that are measured.
    #[arg(long, default_value_t = 2000)]
    deltas: u32,
    #[arg(long, default_value_t = NonZeroUsize::new(2).expect("two is not zero"))]
    workers: NonZeroUsize,
    /// Be the data plane; its link is standard input.
    #[arg(long, hide = true)]
    serve: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if arguments.serve {
        return serve(&arguments);
    }
    measure_table(&arguments)?;
    measure_link(&arguments)
}

/// What the table alone takes. The state it is built from becomes the table; its lists are freed.
fn measure_table(arguments: &Arguments) -> anyhow::Result<()> {
    let before = resident_bytes("self")?;
    let state = state(arguments.apps);
    let texts: usize = state.routes.iter().map(text_bytes).sum();
    let started = Instant::now();
    let snapshot = Snapshot::build(state).map_err(|errors| anyhow::anyhow!("{errors:?}"))?;
    let built = started.elapsed();
    let held = resident_bytes("self")?.saturating_sub(before);
    let started = Instant::now();
    ensure!(snapshot.route_count() == arguments.apps as usize, "every app has a route");
    drop(snapshot);
    println!("| table of {} apps | |\n|---|---|", arguments.apps);
    println!("| resident bytes per app | {} |", held / arguments.apps as usize);
    println!("| of these its id, namespace and instance | {} |", texts / arguments.apps as usize);
    println!("| building it, ms | {:.0} |", built.as_secs_f64() * 1e3);
    println!("| freeing it, ms | {:.0} |", started.elapsed().as_secs_f64() * 1e3);
    Ok(())
}

fn measure_link(arguments: &Arguments) -> anyhow::Result<()> {
    let directory = std::env::temp_dir().join(format!("delta-live-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let path = directory.join("link");
    let listener = UnixListener::bind(&path)?;
    let stream = UnixStream::connect(&path)?;
    std::fs::remove_dir_all(&directory)?;
    let mut data_plane = Command::new(std::env::current_exe()?)
        .arg("--serve")
        .args(["--workers", &arguments.workers.to_string()])
        .stdin(OwnedFd::from(listener))
        .spawn()?;
    let mut link = Link { stream, bytes: Vec::new() };
    ensure!(matches!(link.receive()?, FromDataPlane::Hello { .. }), "first on every link");
    let before = resident_bytes(&data_plane.id().to_string())?;

    let messages = wire::state_messages(state(arguments.apps), &[]);
    let started = Instant::now();
    for message in &messages {
        link.send(message)?;
    }
    link.await_live(Version(1))?;
    let whole = started.elapsed();
    drop(messages);
    let held = resident_bytes(&data_plane.id().to_string())?.saturating_sub(before);

    let mut times = Vec::new();
    for step in 0..arguments.deltas {
        let (base, version) = (Version(u64::from(step) + 1), Version(u64::from(step) + 2));
        // Far apart, so that no two in a row change the same part of the table.
        let number = step.wrapping_mul(2_654_435_761) % arguments.apps;
        let changes = vec![Change::Route(route(number, step + 1))];
        let delta = ToDataPlane::Delta { delta: Delta { base, version, changes }, sockets: vec![] };
        let started = Instant::now();
        link.send(&delta)?;
        link.await_live(version)?;
        times.push(started.elapsed());
    }
    link.send(&ToDataPlane::Exit)?;
    ensure!(data_plane.wait()?.success(), "the data plane failed");
    report(arguments, whole, times);
    println!("\n| data plane | bytes |\n|---|---|");
    println!("| resident per app, all workers | {} |", held / arguments.apps as usize);
    Ok(())
}

/// The data plane, in a process of its own so that nothing else is counted.
fn serve(arguments: &Arguments) -> anyhow::Result<()> {
    let link = std::io::stdin().as_fd().try_clone_to_owned()?;
    let options = Options { link, workers: Some(arguments.workers), engine: Choice::Auto };
    Ok(dataplane::run(options)?)
}

fn report(arguments: &Arguments, whole: Duration, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| times.get((times.len() - 1) * percent / 100);
    let Arguments { apps, workers, .. } = arguments;
    println!("\n| live on {workers} workers, {apps} apps | ms |\n|---|---|");
    println!("| the whole state | {:.0} |", whole.as_secs_f64() * 1e3);
    for (name, percent) in [("median", 50), ("p99", 99), ("slowest", 100)] {
        let time = at(percent).copied().unwrap_or_default();
        println!(
            "| one app changed, {name} of {} | {:.3} |",
            times.len(),
            time.as_secs_f64() * 1e3
        );
    }
}

/// Control's end of the link.
struct Link {
    stream: UnixStream,
    bytes: Vec<u8>,
}

impl Link {
    fn send(&mut self, message: &ToDataPlane) -> anyhow::Result<()> {
        Ok(self.stream.write_all(&wire::encode(message)?)?)
    }

    fn receive(&mut self) -> anyhow::Result<FromDataPlane> {
        loop {
            if let Some((message, taken)) = wire::decode(&self.bytes)? {
                self.bytes.drain(..taken);
                return Ok(message);
            }
            let mut piece = [0; 4096];
            let count = self.stream.read(&mut piece).context("no word from the data plane")?;
            ensure!(count > 0, "the data plane closed the link");
            self.bytes.extend_from_slice(&piece[..count]);
        }
    }

    fn await_live(&mut self, wanted: Version) -> anyhow::Result<()> {
        loop {
            match self.receive()? {
                FromDataPlane::Live { version } if version == wanted => return Ok(()),
                FromDataPlane::Live { .. } | FromDataPlane::Log { .. } => {}
                other => bail!("not live, but {other:?}"),
            }
        }
    }
}

fn state(apps: u32) -> State {
    State {
        version: Version(1),
        apps: Vec::new(),
        routes: (0..apps).map(|number| route(number, 0)).collect(),
        listeners: Vec::new(),
        on_control_lost: OnControlLost::Exit,
    }
}

/// On another machine, as most of a million apps are.
fn route(number: u32, generation: u32) -> Route {
    let [_, b, c, d] = number.to_be_bytes();
    Route {
        id: AppId::new(&format!("checkout-{number}")).expect("a sound id"),
        namespace: Namespace::default(),
        endpoints: [Endpoint {
            instance: InstanceId(format!("{number}-{generation}").into()),
            address: Address::Tcp(([10, b, c, d], 50_002).into()),
            zone: None,
        }]
        .into(),
    }
}

fn text_bytes(route: &Route) -> usize {
    let instances = route.endpoints.iter().map(|endpoint| endpoint.instance.0.len());
    route.id.as_str().len() + route.namespace.as_str().len() + instances.sum::<usize>()
}

fn resident_bytes(pid: &str) -> anyhow::Result<usize> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm"))?;
    let pages: usize = text.split(' ').nth(1).context("statm has a second field")?.parse()?;
    Ok(pages * rustix::param::page_size())
}
