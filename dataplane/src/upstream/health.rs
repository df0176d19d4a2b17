//! What a worker knows about one endpoint of an app: how busy it is with us, how soon it answers,
//! whether it works.
//!
//! Pure, and told everything: requests that begin and end, answers, failures, the time. It is kept
//! per app and endpoint, not per address, since one address may serve several apps, of which one
//! can be slow, or have moved away.
//!
//! ```text
//!        EJECTION_FAILURES in a row, or misdirected          its time is over: one request
//!   In ────────────────────────────────────────────► Out ─────────────────────────────────► Probed
//!   ▲                                                 ▲                                        │
//!   │ an answer, from Out too                         └──────────── fails, or is lost ─────────┤
//!   └────────────────────────────────────────────────────────────────────────────── an answer ─┘
//! ```

#![forbid(unsafe_code)]

use crate::{
    clock::Instant,
    limits::{
        EJECTION_FAILURES, EJECTION_MAX, EJECTION_MIN, LATENCY_DECAY, LATENCY_FLOOR, LATENCY_NOISE,
        PROBE_TIMEOUT,
    },
};
use snapshot::{
    Address,
    wire::{self, Score},
};
use std::time::Duration;

#[derive(Debug, Default)]
pub(crate) struct Health {
    /// Requests that hold a connection to it, up to the last byte of their answers; tunnels, too.
    outstanding: u32,
    latency: Option<Latency>,
    /// Of the last answer.
    sample: Option<Duration>,
    /// Since the last answer.
    failure_count: u32,
    standing: Standing,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Standing {
    #[default]
    In,
    /// Left alone until then; `span` is how long that was, before the jitter.
    Out { until: Instant, span: Duration },
    /// One request has been let through to see.
    Probed { until: Instant, span: Duration },
}

/// How a request ended without an answer of the app.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Failure {
    /// It could not be reached, or broke the connection.
    Broken,
    /// Another app lives there now. That does not pass by itself, so it counts at once.
    Misdirected,
}

impl Health {
    pub(crate) fn is_in(&self) -> bool {
        self.standing == Standing::In
    }

    /// Whether the next request may be its probe.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        match self.standing {
            Standing::In => false,
            Standing::Out { until, .. } | Standing::Probed { until, .. } => until <= now,
        }
    }

    /// The next request is its probe.
    pub(crate) fn probe(&mut self, now: Instant) {
        debug_assert!(self.is_due(now), "a probe comes when the time is over");
        if let Standing::Out { span, .. } | Standing::Probed { span, .. } = self.standing {
            self.standing = Standing::Probed { until: now + PROBE_TIMEOUT, span };
        }
    }

    /// For operators.
    pub(crate) fn score(&self, worker: u32, address: &Address, now: Instant) -> Score {
        let nanos = self.latency.map(|latency| latency.at(now));
        Score {
            worker,
            address: address.clone(),
            outstanding: self.outstanding,
            latency: nanos.map(|nanos| Duration::from_secs_f64(nanos / 1e9)),
            standing: match self.standing {
                Standing::In => wire::Standing::In,
                Standing::Out { until, .. } => wire::Standing::Out(until.since(now)),
                Standing::Probed { .. } => wire::Standing::Probed,
            },
        }
    }

    #[cfg(test)]
    pub(crate) fn outstanding(&self) -> u32 {
        self.outstanding
    }

    pub(crate) fn begin(&mut self) {
        self.outstanding += 1;
    }

    /// A probe that ended without a word, because its client left, leaves the way free for the next
    /// one.
    pub(crate) fn end(&mut self, now: Instant) {
        debug_assert!(self.outstanding > 0, "what ends has begun");
        self.outstanding = self.outstanding.saturating_sub(1);
        if let Standing::Probed { span, .. } = self.standing
            && self.outstanding == 0
        {
            self.standing = Standing::Out { until: now, span };
        }
    }

    /// The head of an answer came, `latency` after the request was sent. True: it is readmitted.
    pub(crate) fn on_answer(&mut self, latency: Duration, now: Instant) -> bool {
        self.measure(latency, now);
        self.failure_count = 0;
        let was_out = !self.is_in();
        self.standing = Standing::In;
        was_out
    }

    /// True: it is ejected. `jitter` is any random number, so that the workers of many machines do
    /// not all come back at once.
    pub(crate) fn on_failure(&mut self, failure: Failure, now: Instant, jitter: u64) -> bool {
        self.failure_count = self.failure_count.saturating_add(1);
        let span = match self.standing {
            Standing::In if failure == Failure::Misdirected => EJECTION_MIN,
            Standing::In if self.failure_count >= EJECTION_FAILURES => EJECTION_MIN,
            // What fails now was under way when it was ejected.
            Standing::In | Standing::Out { .. } => return false,
            Standing::Probed { span, .. } => (2 * span).min(EJECTION_MAX),
        };
        let was_in = self.is_in();
        self.standing = Standing::Out { until: now + shorten(span, jitter), span };
        was_in
    }

    /// Of two answers in a row the quicker one counts: a lone slow one is a pause of a scheduler or
    /// a collector, or an app that just woke up, and would drive the calls away for as long as it
    /// is remembered.
    fn measure(&mut self, latency: Duration, now: Instant) {
        let Some(previous) = self.sample.replace(latency) else { return };
        let nanos = nanos_of(latency.min(previous));
        self.latency = Some(match self.latency {
            Some(before) => before.followed_by(nanos, now),
            None => Latency { nanos, at: now },
        });
    }

    /// Whether a request is likely answered sooner here than there: requests under way times
    /// latency, where the latencies differ so much that it means something.
    ///
    /// An endpoint of which nothing is known is taken to be as quick as the other one. So a new
    /// instance gets its share at once, and no more than that. linkerd's seed of 30 ms would keep
    /// it idle beside instances that answer in one, and flood it beside slower ones.
    pub(crate) fn is_better_than(&self, other: &Self, now: Instant) -> bool {
        let (here, there) = match (&self.latency, &other.latency) {
            (Some(here), Some(there)) => (here.at(now), there.at(now)),
            _ => (1.0, 1.0),
        };
        if here.max(there) <= LATENCY_NOISE * here.min(there) {
            return self.outstanding < other.outstanding;
        }
        self.load() * here < other.load() * there
    }

    /// With the request that looks for a place.
    fn load(&self) -> f64 {
        f64::from(self.outstanding.saturating_add(1))
    }
}

/// An average that forgets with time and rises at once (linkerd's and finagle's "peak EWMA").
#[derive(Clone, Copy, Debug)]
struct Latency {
    nanos: f64,
    /// Of the last sample.
    at: Instant,
}

impl Latency {
    fn followed_by(self, sample: f64, now: Instant) -> Self {
        let kept = kept_after(now.since(self.at));
        let nanos =
            if sample >= self.nanos { sample } else { self.nanos * kept + sample * (1.0 - kept) };
        Self { nanos, at: now }
    }

    /// An endpoint that is not called becomes worth another try.
    fn at(self, now: Instant) -> f64 {
        (self.nanos * kept_after(now.since(self.at))).max(nanos_of(LATENCY_FLOOR))
    }
}

/// The weight of what was known this long ago.
fn kept_after(elapsed: Duration) -> f64 {
    (-elapsed.as_secs_f64() / LATENCY_DECAY.as_secs_f64()).exp()
}

fn nanos_of(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e9
}

/// By up to a quarter.
fn shorten(span: Duration, jitter: u64) -> Duration {
    const STEPS: u32 = 1024;
    let step = u32::try_from(jitter % u64::from(STEPS)).expect("the remainder is below STEPS");
    span - span / 4 * step / STEPS
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant::from_nanos(1_000_000_000_000);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn after(ms: u64) -> Instant {
        START + Duration::from_millis(ms)
    }

    fn fail(health: &mut Health, count: u32, now: Instant) -> Vec<bool> {
        (0..count).map(|_| health.on_failure(Failure::Broken, now, 0)).collect()
    }

    /// Ejected at `START`, to be probed a second later.
    fn ejected() -> Health {
        let mut health = Health::default();
        assert!(health.on_failure(Failure::Misdirected, START, 0));
        health
    }

    #[test]
    fn is_told_as_it_counts() {
        let address = Address::Unix("/x".into());
        let mut health = Health::default();
        let score = |health: &Health, at: u64| health.score(3, &address, after(at));
        let new = score(&health, 0);
        assert_eq!((new.worker, new.outstanding, new.latency), (3, 0, None));
        assert_eq!(new.standing, wire::Standing::In);
        health.begin();
        health.on_answer(ms(20), START);
        health.on_answer(ms(20), START);
        health.on_failure(Failure::Misdirected, START, 0);
        let out = score(&health, 400);
        assert_eq!((out.outstanding, out.standing), (1, wire::Standing::Out(ms(600))));
        assert!(out.latency.is_some_and(|latency| latency > ms(15) && latency <= ms(20)));
        assert_eq!(score(&health, 2000).standing, wire::Standing::Out(Duration::ZERO));
        health.probe(after(2000));
        assert_eq!(score(&health, 2000).standing, wire::Standing::Probed);
    }

    #[test]
    fn failures_in_a_row_eject() {
        let mut health = Health::default();
        assert_eq!(fail(&mut health, 4, START), [false; 4]);
        assert!(!health.on_answer(ms(1), START), "it was not out");
        assert_eq!(fail(&mut health, 4, START), [false; 4], "the answer between them counts");
        assert!(health.is_in());
        assert_eq!(fail(&mut health, 1, START), [true]);
        assert!(!health.is_in());
        assert_eq!(fail(&mut health, 60, START), [false; 60], "it is ejected once");
        assert!(!health.is_due(after(999)));
        assert!(health.is_due(after(1000)), "and for no longer than a second");
    }

    #[test]
    fn a_misdirected_request_ejects_at_once() {
        assert!(!ejected().is_in());
    }

    #[test]
    fn each_failed_probe_doubles_the_time_up_to_the_longest() {
        let mut health = ejected();
        let (mut now, mut spans) = (START, Vec::new());
        for _ in 0..8 {
            let span = (0..).find(|s| health.is_due(now + Duration::from_secs(*s))).unwrap();
            spans.push(span);
            now = now + Duration::from_secs(span);
            health.probe(now);
            assert!(!health.is_due(now), "one probe at a time");
            assert!(!health.on_failure(Failure::Broken, now, 0), "it is out already");
        }
        assert_eq!(spans, [1, 2, 4, 8, 16, 30, 30, 30]);
    }

    #[test]
    fn an_answer_readmits_and_clears_the_record() {
        for probed in [true, false] {
            let mut health = ejected();
            if probed {
                health.probe(after(1000));
            }
            assert!(health.on_answer(ms(1), after(1000)), "probed {probed}");
            assert!(health.is_in());
            assert_eq!(fail(&mut health, 5, after(2000)), [false, false, false, false, true]);
            assert!(health.is_due(after(3000)), "the first time out is a short one again");
        }
    }

    #[test]
    fn a_probe_that_ends_without_a_word_is_followed_by_another() {
        let mut health = ejected();
        health.begin();
        health.probe(after(1000));
        health.begin();
        health.end(after(1100));
        assert!(!health.is_due(after(1100)), "it may be an older request that ended");
        health.end(after(1200));
        assert!(health.is_due(after(1200)));
        health.probe(after(1200));
        assert!(!health.is_due(after(1200) + (PROBE_TIMEOUT - ms(1))));
        assert!(health.is_due(after(1200) + PROBE_TIMEOUT), "one that never began is lost, too");
    }

    #[test]
    fn an_end_after_the_outcome_changes_nothing() {
        let mut health = ejected();
        health.probe(after(1000));
        health.begin();
        health.on_failure(Failure::Broken, after(1000), 0);
        health.end(after(1000));
        assert!(!health.is_due(after(2999)));
        assert!(health.is_due(after(3000)));
    }

    #[test]
    fn jitter_shortens_by_up_to_a_quarter() {
        for jitter in [0, 1, 511, 1023, 1024, u64::MAX] {
            let span = shorten(EJECTION_MAX, jitter);
            assert!(span <= EJECTION_MAX && span > EJECTION_MAX * 3 / 4, "{jitter}: {span:?}");
        }
        assert_eq!(shorten(EJECTION_MIN, 512), ms(875));
    }

    /// An endpoint with so many requests under way and this latency, measured so many milliseconds
    /// before `after(0)`.
    fn endpoint(outstanding: u32, latency: Option<(u64, u64)>) -> Health {
        let now = Instant::from_nanos(START.as_nanos());
        let latency = latency.map(|(latency, ago)| Latency {
            nanos: nanos_of(ms(latency)),
            at: Instant::from_nanos(now.as_nanos() - ago * 1_000_000),
        });
        Health { outstanding, latency, ..Health::default() }
    }

    #[test]
    fn the_better_one_is_the_one_that_answers_sooner() {
        for (case, here, there, want) in [
            ("equal", endpoint(0, Some((5, 0))), endpoint(0, Some((5, 0))), false),
            ("slower", endpoint(0, Some((11, 0))), endpoint(0, Some((5, 0))), false),
            ("quicker", endpoint(0, Some((5, 0))), endpoint(0, Some((11, 0))), true),
            ("hardly quicker", endpoint(0, Some((5, 0))), endpoint(0, Some((10, 0))), false),
            ("hardly slower, idle", endpoint(0, Some((10, 0))), endpoint(1, Some((5, 0))), true),
            ("busier", endpoint(1, Some((5, 0))), endpoint(0, Some((5, 0))), false),
            ("busier, but quicker", endpoint(1, Some((5, 0))), endpoint(0, Some((11, 0))), true),
            ("slower, long ago", endpoint(0, Some((50, 30_000))), endpoint(0, Some((5, 0))), true),
            ("slower, of late", endpoint(0, Some((50, 20_000))), endpoint(0, Some((5, 0))), false),
            ("both below the floor", endpoint(0, Some((0, 0))), endpoint(0, Some((1, 0))), false),
            ("new, the other idle", endpoint(0, None), endpoint(0, Some((1, 0))), false),
            ("new, the other busy", endpoint(0, None), endpoint(1, Some((1, 0))), true),
            ("the other new and busy", endpoint(0, Some((900, 0))), endpoint(1, None), true),
            ("both new", endpoint(0, None), endpoint(0, None), false),
        ] {
            assert_eq!(here.is_better_than(&there, START), want, "{case}");
        }
    }

    #[test]
    fn latency_rises_at_once_and_falls_with_time() {
        let estimate = |samples: &[(u64, u64)], at: u64| {
            let mut health = Health::default();
            for (latency, at) in samples {
                health.on_answer(ms(*latency), after(*at));
            }
            health.latency.map(|latency| (latency.at(after(at)) / 1e5).round() / 10.0)
        };
        for (case, samples, at, want) in [
            ("one tells nothing", &[(400, 0)][..], 0, None),
            ("the quicker of the first two", &[(400, 0), (20, 0)], 0, Some(20.0)),
            ("a lone peak tells nothing", &[(20, 0), (20, 0), (400, 1), (20, 1)], 1, Some(20.0)),
            ("two count whole", &[(20, 0), (20, 0), (400, 1), (300, 1)], 1, Some(300.0)),
            (
                "a low one at the same time not at all",
                &[(400, 0), (400, 0), (20, 0)],
                0,
                Some(400.0),
            ),
            (
                "a low one later by its weight",
                &[(400, 0), (400, 0), (20, 10_000)],
                10_000,
                Some(159.8),
            ),
            ("without samples it fades", &[(400, 0), (400, 0)], 10_000, Some(147.2)),
            ("down to the floor", &[(400, 0), (400, 0)], 1_000_000, Some(1.0)),
        ] {
            assert_eq!(estimate(samples, at), want, "{case}");
        }
    }
}
