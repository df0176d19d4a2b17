//! Calls without a pause, none of which may fail.

#![forbid(unsafe_code)]

use super::Connection;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

/// One call after the other until it is told to stop: how many there were, and those that failed.
pub(crate) struct Load {
    is_enough: Arc<AtomicBool>,
    caller: JoinHandle<(usize, Vec<String>)>,
}

impl Load {
    /// GETs of this path, whose answers must be this, on one connection or on a new one for each
    /// call.
    pub(crate) fn start(
        port: u16,
        path: &'static str,
        want: &'static str,
        keeps_connection: bool,
    ) -> Self {
        let is_enough = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&is_enough);
        let caller = thread::spawn(move || {
            let (mut count, mut failures) = (0, Vec::new());
            let mut connection = Connection::open(port).unwrap();
            while !stop.load(Ordering::Relaxed) {
                if !keeps_connection {
                    match Connection::open(port) {
                        Ok(opened) => connection = opened,
                        Err(e) => failures.push(format!("call {count}: connect: {e}")),
                    }
                }
                match connection.get(path) {
                    Ok((200, body)) if body == want => {}
                    other => failures.push(format!("call {count}: {other:?}")),
                }
                count += 1;
            }
            (count, failures)
        });
        Self { is_enough, caller }
    }

    #[track_caller]
    pub(crate) fn assert_none_failed(self) -> usize {
        self.is_enough.store(true, Ordering::Relaxed);
        let (count, failures) = self.caller.join().unwrap();
        assert!(failures.is_empty(), "{} of {count}: {failures:?}", failures.len());
        count
    }
}
