//! The way of spans to one destination: a bounded queue, batches, and patience with a collector
//! that is away.
//!
//! Whoever puts a span never waits. What finds no room, and what nobody takes for long, is dropped
//! and counted.

#![forbid(unsafe_code)]

use super::{
    send::{SendError, Sender},
    span::Told,
    totals::{Loss, Totals},
};
use crate::{config::tracing::Destination, log::Log};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout_at},
};

/// Dropped by the last app that uses it: what waits is then tried once, and that is all.
#[derive(Debug)]
pub(crate) struct Exporter {
    queue: mpsc::Sender<Told>,
    totals: Arc<Totals>,
    /// Closes with the queue, and says so at once.
    _open: watch::Sender<()>,
}

/// The other end.
pub(super) struct Task {
    queue: mpsc::Receiver<Told>,
    open: watch::Receiver<()>,
    sender: Sender,
    batch: Vec<Told>,
    totals: Arc<Totals>,
    log: Log,
    /// The log knows.
    is_troubled: bool,
}

pub(super) fn new(destination: Destination, totals: &Arc<Totals>, log: &Log) -> (Exporter, Task) {
    let (queue, waiting) = mpsc::channel(SPANS_WAITING_MAX);
    let (_open, open) = watch::channel(());
    let task = Task {
        queue: waiting,
        open,
        sender: Sender::new(destination),
        batch: Vec::new(),
        totals: Arc::clone(totals),
        log: log.scoped("dapr.runtime.tracing"),
        is_troubled: false,
    };
    (Exporter { queue, totals: Arc::clone(totals), _open }, task)
}

impl Exporter {
    pub(super) fn put(&self, span: Told) {
        if self.queue.try_send(span).is_err() {
            self.totals.lose(Loss::QueueFull, 1);
        }
    }
}

impl Task {
    pub(super) async fn run(mut self) {
        while self.gather().await {
            self.deliver().await;
            // An idle exporter holds nothing.
            self.batch = Vec::new();
        }
    }

    /// False: there will be no more.
    async fn gather(&mut self) -> bool {
        if self.queue.recv_many(&mut self.batch, BATCH_SPANS_MAX).await == 0 {
            return false;
        }
        let until = Instant::now() + BATCH_DELAY;
        while self.batch.len() < BATCH_SPANS_MAX {
            let room = BATCH_SPANS_MAX - self.batch.len();
            let more = self.queue.recv_many(&mut self.batch, room);
            if !matches!(timeout_at(until, more).await, Ok(1..)) {
                break;
            }
        }
        true
    }

    async fn deliver(&mut self) {
        let give_up = Instant::now() + PATIENCE;
        let mut pause = PAUSE_MIN;
        loop {
            let is_last = self.open.has_changed().is_err();
            let error = match self.sender.send(&self.batch).await {
                Ok(taken) => return self.on_taken(taken),
                Err(error) => error,
            };
            self.tell(&error);
            let next = Instant::now() + pause;
            match error {
                SendError::Refused(_) => return self.drop_batch(Loss::Refused),
                SendError::Unreachable(_) if is_last || next > give_up => {
                    return self.drop_batch(Loss::Unreachable);
                }
                SendError::Unreachable(_) => {}
            }
            tokio::select! {
                () = sleep_until(next) => {}
                // It only ever closes.
                _ = self.open.changed() => {}
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn on_taken(&mut self, taken: usize) {
        let protocol = self.sender.destination().protocol;
        self.totals.send(protocol, taken);
        let rejected = self.batch.len() - taken;
        self.totals.lose(Loss::Refused, rejected);
        if rejected > 0 {
            self.tell(&SendError::Refused(format!("{rejected} of {}", self.batch.len())));
        } else if std::mem::take(&mut self.is_troubled) {
            let place = &self.sender.destination().authority;
            self.log.info(format_args!("Spans are taken by {place} again"));
        }
    }

    fn drop_batch(&self, reason: Loss) {
        self.totals.lose(reason, self.batch.len());
    }

    /// Once, until it is over.
    fn tell(&mut self, error: &SendError) {
        if !std::mem::replace(&mut self.is_troubled, true) {
            let place = &self.sender.destination().authority;
            self.log.warning(format_args!(
                "Spans cannot be sent to {place}: {error}; calls go on, and spans are sent when they \
                 can be, or dropped (ringcar_spans_dropped_total)"
            ));
        }
    }
}

/// Spans that wait for one destination beside those of the batch under way: daprd's bound, and some
/// 2 MB at the most.
const SPANS_WAITING_MAX: usize = 2048;
/// Of one request; as daprd's.
const BATCH_SPANS_MAX: usize = 512;
/// How long a batch waits to become larger. daprd waits five seconds; one is soon enough for
/// whoever looks, and seldom enough for a collector.
const BATCH_DELAY: Duration = Duration::from_secs(1);

/// Between attempts: twice as long each time.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// For one batch, so that one that nobody can digest does not stand in the way for ever.
const PATIENCE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::tracing::Protocol,
        log::{Format, Level, Settings},
        tracing::span::tests::{call, told},
    };

    fn log() -> Log {
        let (app_id, instance) = Default::default();
        let file = Some("/dev/null".to_owned());
        let (format, threshold) = (Format::Text, Level::Info);
        Log::open(Settings { format, threshold, app_id, instance, file }).unwrap()
    }

    /// Nobody listens there.
    fn nowhere() -> Destination {
        Destination {
            protocol: Protocol::Zipkin,
            authority: "127.0.0.1:1".to_owned(),
            path: "/".to_owned(),
            headers: Vec::new(),
            timeout: Duration::from_secs(10),
        }
    }

    fn dropped(totals: &Totals, reason: &str) -> f64 {
        let counters = totals.counters();
        let found = counters.iter().find(|one| one.labels[0].1 == reason);
        found.unwrap().value
    }

    /// Time passes as fast as nobody needs it.
    fn run(test: impl Future<Output = ()>) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().start_paused(true).build().unwrap().block_on(test);
    }

    #[test]
    fn what_finds_no_room_is_dropped() {
        let totals = Arc::default();
        let (exporter, _task) = new(nowhere(), &totals, &log());
        for _ in 0..SPANS_WAITING_MAX + 5 {
            exporter.put(told(call(200)));
        }
        assert_eq!(dropped(&totals, "queue_full"), 5.0);
    }

    #[test]
    fn a_batch_that_nobody_takes_has_its_time() {
        run(async {
            let totals = Arc::default();
            let (exporter, task) = new(nowhere(), &totals, &log());
            let task = tokio::spawn(task.run());
            let began = Instant::now();
            for _ in 0..3 {
                exporter.put(told(call(200)));
            }
            while dropped(&totals, "unreachable") == 0.0 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            assert_eq!(dropped(&totals, "unreachable"), 3.0);
            let time = began.elapsed();
            assert!((PATIENCE - PAUSE_MAX..PATIENCE + PAUSE_MAX).contains(&time), "{time:?}");

            exporter.put(told(call(200)));
            let ended = Instant::now();
            drop(exporter);
            task.await.unwrap();
            assert_eq!(dropped(&totals, "unreachable"), 4.0, "tried once");
            assert!(ended.elapsed() < BATCH_DELAY, "nothing to wait for");
        });
    }
}
