//! The loop: one thread, all connections, until the time or the count is reached.

#![forbid(unsafe_code)]

use crate::{
    arguments::Plan,
    connection::{Connection, Received},
    schedule::Schedule,
};
use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use loadtests::{
    poll::{Interest, Poll, Ready},
    process,
};
use rustix::{
    event::Timespec,
    time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create,
        timerfd_settime,
    },
};
use std::{
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

/// Token of the timer; connections have their index.
const TIMER: u64 = u64::MAX;
const RECEIVE_BYTES: usize = 256 * 1024;
/// Latency of one request is counted up to here, in nanoseconds.
const LATENCY_NANOS_MAX: u64 = 60_000_000_000;
/// A target that only fails is not worth a measurement.
const ERRORS_MAX: u64 = 1000;
/// How often the end is checked for when nothing happens.
const PATIENCE: Duration = Duration::from_millis(100);

pub(crate) struct Outcome {
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    /// Connections that the server closed between requests and that were opened again.
    pub(crate) reconnects: u64,
    pub(crate) elapsed: Duration,
    pub(crate) latency: Histogram<u64>,
    /// Of each watched process, while it was measured.
    pub(crate) cpu_nanos: Vec<u64>,
}

struct Run<'a> {
    plan: &'a Plan,
    poll: Poll,
    connections: Vec<Connection>,
    /// Open loop: connections without a request.
    idle: Vec<usize>,
    schedule: Option<Schedule>,
    timer: OwnedFd,
    measuring: bool,
    outcome: Outcome,
}

pub(crate) fn run(plan: &Plan) -> Result<Outcome> {
    let mut run = Run::new(plan)?;
    for index in 0..plan.connections {
        let connection = Connection::open(plan, &run.poll, index as u64)?;
        run.connections.push(connection);
        run.next(index)?;
    }
    let start = Instant::now();
    run.turns_until(start + plan.warmup)?;
    let before = run.cpu_nanos()?;
    let start = run.start_measuring();
    run.turns_until(start + plan.duration)?;
    run.outcome.elapsed = start.elapsed();
    let after = run.cpu_nanos()?;
    run.outcome.cpu_nanos =
        before.iter().zip(after).map(|(before, after)| after - before).collect();
    Ok(run.outcome)
}

impl<'a> Run<'a> {
    fn new(plan: &'a Plan) -> Result<Self> {
        let poll = Poll::new()?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)?;
        poll.add(&timer, TIMER, Interest::Read)?;
        let latency = Histogram::new_with_bounds(1, LATENCY_NANOS_MAX, 3)?;
        Ok(Self {
            plan,
            poll,
            connections: Vec::with_capacity(plan.connections),
            idle: Vec::new(),
            schedule: plan.interval.map(|interval| Schedule::new(Instant::now(), interval)),
            timer,
            measuring: false,
            outcome: Outcome {
                requests: 0,
                errors: 0,
                first_error: None,
                reconnects: 0,
                elapsed: Duration::ZERO,
                latency,
                cpu_nanos: Vec::new(),
            },
        })
    }

    fn cpu_nanos(&self) -> Result<Vec<u64>> {
        self.plan.watched.iter().map(|pid| process::cpu_nanos(*pid)).collect()
    }

    fn start_measuring(&mut self) -> Instant {
        self.measuring = true;
        self.outcome.requests = 0;
        let start = Instant::now();
        if let Some(interval) = self.plan.interval {
            self.schedule = Some(Schedule::new(start, interval));
        }
        start
    }

    fn turns_until(&mut self, deadline: Instant) -> Result<()> {
        let mut buffer = vec![0; RECEIVE_BYTES];
        let mut ready: Vec<Ready> = Vec::new();
        loop {
            let now = Instant::now();
            let counted = self.measuring && self.outcome.requests >= self.plan.requests_max;
            if now >= deadline || counted {
                return Ok(());
            }
            self.start_due(now)?;
            ready.clear();
            let left = deadline.saturating_duration_since(now).min(PATIENCE);
            self.poll.wait(Some(left), &mut ready)?;
            for event in &ready {
                self.on_ready(*event, &mut buffer)?;
            }
        }
    }

    fn on_ready(&mut self, event: Ready, buffer: &mut [u8]) -> Result<()> {
        if event.token == TIMER {
            // The next turn starts what is due, and sets the timer anew: that clears it.
            return Ok(());
        }
        let index = usize::try_from(event.token)?;
        if let Err(error) = self.serve(index, event, buffer) {
            self.on_error(index, error)?;
        }
        self.connections[index].watch(self.plan, &self.poll, event.token)
    }

    fn serve(&mut self, index: usize, event: Ready, buffer: &mut [u8]) -> Result<()> {
        let connection = &mut self.connections[index];
        if event.writable {
            connection.send(self.plan)?;
        }
        if !event.readable {
            return Ok(());
        }
        match connection.receive(self.plan, buffer)? {
            Received::Answer { started, closes } => {
                self.record(started)?;
                if closes {
                    self.reopen(index)?;
                }
                self.next(index)
            }
            // An idle connection that was closed keeps its place among the idle ones.
            Received::Closed => self.reopen(index),
            Received::Nothing => Ok(()),
        }
    }

    fn record(&mut self, started: Instant) -> Result<()> {
        self.outcome.requests += 1;
        if self.measuring {
            let nanos = u64::try_from(started.elapsed().as_nanos())?.clamp(1, LATENCY_NANOS_MAX);
            self.outcome.latency.record(nanos)?;
        }
        Ok(())
    }

    /// The connection is free for its next request.
    fn next(&mut self, index: usize) -> Result<()> {
        let now = Instant::now();
        let since = match &mut self.schedule {
            None => now,
            Some(schedule) => match schedule.take_due(now) {
                Some(due) => due,
                None => {
                    self.idle.push(index);
                    return Ok(());
                }
            },
        };
        self.connections[index].start(self.plan, since)
    }

    /// Open loop: sends what is due on idle connections, and sets the timer for what is due next.
    fn start_due(&mut self, now: Instant) -> Result<()> {
        let Some(schedule) = &mut self.schedule else { return Ok(()) };
        while let Some(index) = self.idle.pop() {
            let Some(due) = schedule.take_due(now) else {
                self.idle.push(index);
                break;
            };
            let connection = &mut self.connections[index];
            if let Err(error) = connection.start(self.plan, due) {
                self.on_error(index, error)?;
                return Ok(());
            }
            connection.watch(self.plan, &self.poll, index as u64)?;
        }
        if self.idle.is_empty() {
            return Ok(());
        }
        // A timer of zero would be disarmed.
        let wait = schedule.next().saturating_duration_since(now).max(Duration::from_nanos(1));
        let value = Timespec::try_from(wait).context("--rate is too low")?;
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let timer = Itimerspec { it_interval: never, it_value: value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &timer)?;
        Ok(())
    }

    fn on_error(&mut self, index: usize, error: anyhow::Error) -> Result<()> {
        self.outcome.errors += 1;
        if self.outcome.errors >= ERRORS_MAX {
            bail!("{ERRORS_MAX} requests failed, the last one: {error:#}");
        }
        self.outcome.first_error.get_or_insert_with(|| format!("{error:#}"));
        self.reopen(index)?;
        // An idle connection that brought bytes nobody asked for still has its place among the idle
        // ones.
        if self.idle.contains(&index) { Ok(()) } else { self.next(index) }
    }

    fn reopen(&mut self, index: usize) -> Result<()> {
        self.outcome.reconnects += 1;
        self.connections[index] = Connection::open(self.plan, &self.poll, index as u64)?;
        Ok(())
    }
}
