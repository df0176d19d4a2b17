//! Asks an app how it is, for as long as it is served: `--enable-app-health-check`.
//!
//! Calls of an app that is not healthy are refused by the data plane; what is told it is only the
//! change. An app begins unhealthy and is healthy with its first good answer; so many failures in a
//! row make it unhealthy again.

#![forbid(unsafe_code)]

use crate::{config::HealthCheck, http_client, probe_counts::ProbeCounts};
use hyper::{Method, body::Bytes};
use snapshot::Address;
use std::{collections::HashMap, sync::Arc};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval_at},
};

/// The probes of all apps that are checked.
pub(crate) struct HealthChecks {
    tasks: JoinSet<()>,
    running: HashMap<u32, tokio::task::AbortHandle>,
    said: mpsc::Receiver<Verdict>,
    say: mpsc::Sender<Verdict>,
    probing: Arc<Semaphore>,
    pub(crate) counts: ProbeCounts,
}

/// The app of this number is otherwise than it was.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) app: u32,
    pub(crate) is_healthy: bool,
}

/// What is known of one app.
#[derive(Debug)]
struct Health {
    is_healthy: bool,
    /// In a row.
    failures: u32,
    threshold: u32,
}

impl Default for HealthChecks {
    fn default() -> Self {
        let (say, said) = mpsc::channel(VERDICTS_MAX);
        let probing = Arc::new(Semaphore::new(PROBES_AT_ONCE));
        let (tasks, running) = (JoinSet::new(), HashMap::new());
        Self { tasks, running, said, say, probing, counts: ProbeCounts::default() }
    }
}

impl HealthChecks {
    /// Probes the app from now on, at once and then in its interval. `is_healthy`: as the data
    /// plane has it. With `bounds_ms` the probes are counted.
    pub(crate) fn start(
        &mut self,
        app: u32,
        address: Address,
        check: HealthCheck,
        is_healthy: bool,
        bounds_ms: Option<&[u32]>,
    ) {
        self.stop(app);
        if let Some(bounds_ms) = bounds_ms {
            self.counts.measure(app, bounds_ms);
        }
        let health = Health { is_healthy, failures: 0, threshold: check.threshold };
        let (say, probing) = (self.say.clone(), Arc::clone(&self.probing));
        let counts = self.counts.clone();
        let task =
            async move { watch(app, &address, &check, health, &say, &probing, &counts).await };
        self.running.insert(app, self.tasks.spawn(task));
    }

    pub(crate) fn stop(&mut self, app: u32) {
        if let Some(task) = self.running.remove(&app) {
            task.abort();
        }
        self.counts.forget(app);
        // Those that were stopped are forgotten with the next one.
        while self.tasks.try_join_next().is_some() {}
    }

    /// Ready when an app is otherwise than it was.
    pub(crate) async fn next(&mut self) -> Verdict {
        loop {
            let verdict = self.said.recv().await.expect("it has a sender of its own");
            // One that was stopped may have spoken before.
            if self.running.contains_key(&verdict.app) {
                return verdict;
            }
        }
    }
}

async fn watch(
    app: u32,
    address: &Address,
    check: &HealthCheck,
    mut health: Health,
    say: &mpsc::Sender<Verdict>,
    probing: &Semaphore,
    counts: &ProbeCounts,
) {
    let mut ticks = interval_at(Instant::now(), check.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let _place = probing.acquire().await;
        // On the heap: an exchange takes some 20 KiB, and an app that only waits shall not.
        let asked = Instant::now();
        let status = Box::pin(probe(address, check)).await;
        counts.record(app, status, asked.elapsed());
        let is_good = matches!(status, Some(200..=299));
        if let Some(is_healthy) = health.on_probe(is_good)
            && say.send(Verdict { app, is_healthy }).await.is_err()
        {
            return;
        }
    }
}

/// daprd: a GET without token, good with any 2xx in time. `None`: there is no answer.
async fn probe(address: &Address, check: &HealthCheck) -> Option<u16> {
    let request = http_client::request(Method::GET, &check.path, Bytes::new()).ok()?;
    let answer = http_client::call(address, request, check.timeout).await;
    Some(answer.ok()?.status().as_u16())
}

impl Health {
    /// Whether the app is healthy, when that has changed.
    fn on_probe(&mut self, is_good: bool) -> Option<bool> {
        if is_good {
            self.failures = 0;
        } else {
            self.failures = self.failures.saturating_add(1);
        }
        let is_healthy = is_good || (self.is_healthy && self.failures < self.threshold);
        let is_news = is_healthy != self.is_healthy;
        self.is_healthy = is_healthy;
        is_news.then_some(is_healthy)
    }
}

/// Of many apps so many are asked at once; the others wait, and so probe less often.
const PROBES_AT_ONCE: usize = 64;

/// Changes that wait to be told; who finds no room waits with its next probe.
const VERDICTS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_make_it_unhealthy_and_one_good_answer_healthy() {
        let mut health = Health { is_healthy: false, failures: 0, threshold: 3 };
        for (case, probes, want) in [
            ("not before it has said so", "-", None),
            ("the first good answer", "+", Some(true)),
            ("still", "++", None),
            ("not yet", "--", None),
            ("a good one between counts", "+--", None),
            ("three in a row", "-", Some(false)),
            ("more of them are no news", "----", None),
            ("and back", "+", Some(true)),
        ] {
            let outcomes = probes.chars().map(|probe| health.on_probe(probe == '+'));
            assert_eq!(outcomes.flatten().last(), want, "{case}");
        }
    }
}
