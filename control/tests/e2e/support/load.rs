//! Callers that go on calling, one call after the other, until they are told to stop.

#![forbid(unsafe_code)]

use super::Connection;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// One caller: how many calls there were, and those that failed.
pub(crate) struct Load {
    is_enough: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    caller: JoinHandle<Vec<String>>,
}

impl Load {
    /// Calls an app that answers with the path it was asked for, on one connection or on a new one
    /// for each call.
    pub(crate) fn start(port: u16, id: &str, keeps_connection: bool) -> Self {
        Self::with("GET", port, id, keeps_connection)
    }

    /// With requests that must not be sent twice.
    pub(crate) fn posting(port: u16, id: &str) -> Self {
        Self::with("POST", port, id, true)
    }

    fn with(verb: &'static str, port: u16, id: &str, keeps_connection: bool) -> Self {
        let (is_enough, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stop, counter) = (Arc::clone(&is_enough), Arc::clone(&count));
        let path = format!("/v1.0/invoke/{id}/method/x");
        let caller = thread::spawn(move || {
            let mut failures = Vec::new();
            let mut connection = None;
            let started = Instant::now();
            while !stop.load(Ordering::Relaxed) && failures.len() < FAILURES_MAX {
                let call = counter.fetch_add(1, Ordering::Relaxed);
                if let Err(reason) = attempt(&mut connection, port, verb, &path) {
                    connection = None;
                    failures.push(format!("call {call} after {:?}: {reason}", started.elapsed()));
                }
                if !keeps_connection {
                    connection = None;
                    thread::sleep(CONNECT_PAUSE);
                }
            }
            failures
        });
        Self { is_enough, count, caller }
    }

    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Returns when this many more calls were made.
    #[track_caller]
    pub(crate) fn goes_on(&self, calls: usize) {
        let until = self.count() + calls;
        super::eventually("calls go on", || self.count() >= until || self.caller.is_finished());
    }

    #[track_caller]
    pub(crate) fn assert_none_failed(self) -> usize {
        self.is_enough.store(true, Ordering::Relaxed);
        let failures = self.caller.join().unwrap();
        let count = self.count.load(Ordering::Relaxed);
        assert!(failures.is_empty(), "{} of {count}: {failures:#?}", failures.len());
        count
    }
}

fn attempt(
    connection: &mut Option<Connection>,
    port: u16,
    verb: &str,
    path: &str,
) -> Result<(), String> {
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(Connection::open(port).map_err(|e| format!("connect: {e}"))?),
    };
    match connection.call(verb, path) {
        Ok((200, body)) if body == "/x " => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

/// Enough to see what goes wrong.
const FAILURES_MAX: usize = 20;

/// Each connection that ends occupies a port for a minute.
const CONNECT_PAUSE: Duration = Duration::from_millis(2);
