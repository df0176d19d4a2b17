//! What a worker tells of its work: counters, series of metrics, calls for the log, spans.
//!
//! The relay says what happens to an exchange, through the `on_*` methods of [`Telemetry`] and
//! [`Observed`]; what is told of that is decided here. One writer per number; readers on other
//! threads may be a moment behind.
//!
//! ```text
//! calls.rs      an exchange's way: asked, planned, tried, answered, over
//! memo.rs       labels that are at hand
//! notes.rs      what is counted and logged of it
//! observed.rs   what is remembered of it until then
//! paths.rs      which label a path has
//! policies.rs   what is counted of policies
//! series.rs     numbers by labels; expose.rs: all workers' as metrics
//! spans.rs      which trace it belongs to, and what is recorded of that
//! journal.rs    records on their way to the link
//! ```

#![forbid(unsafe_code)]

mod app;
mod baggage;
mod calls;
mod counters;
mod expose;
mod histogram;
mod ids;
mod journal;
mod memo;
mod names;
mod notes;
mod observed;
mod paths;
mod policies;
mod probe;
mod record;
mod series;
mod spans;
mod trace;

pub(crate) use baggage::BaggageError;
pub(crate) use calls::{Outcome, Planned, Seen};
pub(crate) use counters::{Counters, Description, Kind};
pub(crate) use expose::expose;
pub(crate) use journal::Journal;
pub(crate) use observed::{Observed, Side};
pub(crate) use policies::Activation;
pub use probe::Probe;
pub(crate) use record::{ApiCall, Asked, Span, SpanKind};
pub(crate) use series::Series;

use crate::{adoption::Difference, clock::Instant};
use app::{AppTelemetry, Bounds};
use ids::Ids;
use memchr::memmem::Finder;
use memo::Memo;
use names::{NameId, Names};
use notes::record;
use series::{Family, Labels, Place, SeriesTable};
use snapshot::{Apps, Snapshot};
use std::{rc::Rc, sync::Arc};

/// Boxes kept for the next exchanges.
const SPARE_MAX: usize = 64;

pub(crate) struct Telemetry {
    /// By slot.
    apps: Vec<Option<Rc<AppTelemetry>>>,
    bounds: Bounds,
    names: Names,
    /// Labels of paths as they come in.
    paths: Memo<Seeing>,
    /// Labels of methods, by the app that is called.
    methods: Memo<paths::Label>,
    /// Names of apps that are called.
    targets: Memo<NameId>,
    series: SeriesTable,
    counters: Arc<Counters>,
    journal: Arc<Journal>,
    ids: Ids,
    #[expect(clippy::vec_box, reason = "the boxes are what is kept")]
    spare: Vec<Box<Observed>>,
    /// Answered in this turn; their time ends with it.
    answered: Vec<Answered>,
    /// Routes of calls that no pattern matches.
    outbound_route: NameId,
    inbound_route: NameId,
    finders: Finders,
    scratch: Vec<u8>,
    merged: Vec<u8>,
    overflow: Overflow,
    has_news: bool,
}

/// Whether the log knows that labels have no room.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Overflow {
    None,
    New,
    Told,
}

/// Made once: making one costs more than a search in a path.
struct Finders {
    healthz: Finder<'static>,
    slashes: Finder<'static>,
}

impl Default for Finders {
    fn default() -> Self {
        Self { healthz: Finder::new("/healthz"), slashes: Finder::new("//") }
    }
}

/// What a path says.
#[derive(Clone, Copy, Debug, Default)]
struct Seeing {
    label: paths::Label,
    is_health_check: bool,
}

/// By its series' labels: to hold on to the series would cost two locked instructions a call.
struct Answered {
    slot: usize,
    labels: Labels,
    began: Instant,
    waited_ns: u64,
}

impl Telemetry {
    pub(crate) fn new(counters: Arc<Counters>, journal: Arc<Journal>, seed: u64) -> Self {
        let mut names = Names::default();
        Self {
            outbound_route: names.intern(b"/v1.0/invoke/{app_id}/method/{method...}"),
            inbound_route: names.intern(b"/{method...}"),
            finders: Finders::default(),
            apps: Vec::new(),
            bounds: Bounds::default(),
            names,
            paths: Memo::default(),
            methods: Memo::default(),
            targets: Memo::default(),
            series: SeriesTable::default(),
            counters,
            journal,
            ids: Ids::new(seed),
            spare: Vec::new(),
            answered: Vec::new(),
            scratch: Vec::new(),
            merged: Vec::new(),
            overflow: Overflow::None,
            has_news: false,
        }
    }

    /// Series of apps that are gone, or that are told otherwise now, end.
    pub(crate) fn adopt(&mut self, snapshot: &Snapshot, difference: &Difference) {
        for number in &difference.apps {
            let slot = Apps::slot(*number);
            if self.apps.len() <= slot {
                self.apps.resize(slot + 1, None);
            }
            let app = snapshot.apps.find_in_slot(slot);
            if let (Some(old), Some(new)) = (&self.apps[slot], app)
                && old.is_of(new)
            {
                continue;
            }
            self.series.forget(slot);
            // They hold on to the app of their last exchange.
            self.spare.clear();
            self.paths.forget_all();
            self.methods.forget_all();
            self.apps[slot] = app.map(|app| Rc::new(AppTelemetry::new(app)));
        }
    }

    fn find(&self, number: usize) -> Option<Rc<AppTelemetry>> {
        let app = self.apps.get(Apps::slot(number))?.as_ref()?;
        (app.number == number).then(|| Rc::clone(app))
    }

    fn series(&mut self, app: &AppTelemetry, labels: Labels) -> &Arc<Series> {
        if self.series.is_recent(app.slot(), labels) {
            return self.series.recent(labels.family).expect("it is there");
        }
        self.look_up(app, labels)
    }

    #[inline(never)]
    fn look_up(&mut self, app: &AppTelemetry, labels: Labels) -> &Arc<Series> {
        let shape = app.shape(&self.bounds);
        let (series, place) = self.series.series(&shape, labels, &self.names);
        if place == Place::Overflow || labels.name == NameId::OTHERS {
            self.counters.series_overflowed.add(1);
            if self.overflow == Overflow::None {
                self.overflow = Overflow::New;
            }
        }
        series
    }

    /// In a series that an app has once, and so keeps at hand.
    fn record_bytes(&mut self, app: &AppTelemetry, family: Family, bytes: u64) {
        let series = match app.kept(family) {
            Some(series) => series,
            None => {
                let series = Arc::clone(self.series(app, Labels::of(family, NameId::EMPTY)));
                app.keep(family, series)
            }
        };
        if let Some(histogram) = &series.bytes {
            histogram.record(bytes);
        }
    }

    fn count(&mut self, app: &AppTelemetry, labels: Labels) {
        if app.metrics().is_some() {
            self.series(app, labels).count.add(1);
        }
    }

    /// The turn is over: what it answered leaves now.
    pub(crate) fn end_turn(&mut self, now: Instant) {
        for Answered { slot, labels, began, waited_ns } in self.answered.drain(..) {
            let here_ns = now.nanos_since(began).saturating_sub(waited_ns);
            if let Some(series) = self.series.find(slot, labels) {
                record(&series.latency, here_ns);
            }
        }
    }

    pub(crate) fn has_answered(&self) -> bool {
        !self.answered.is_empty()
    }

    /// A series that the link thread does not know yet; what it has no room for comes back.
    pub(crate) fn tell_series(
        &mut self,
        mut tell: impl FnMut(Arc<Series>) -> Result<(), Arc<Series>>,
    ) {
        while let Some(series) = self.series.take_fresh() {
            if let Err(series) = tell(series) {
                return self.series.put_back(series);
            }
        }
    }

    /// Whether there are records that the link thread may not have been woken for.
    pub(crate) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.has_news)
    }

    /// Whether the log is to be told that labels have no room: once.
    pub(crate) fn take_overflow(&mut self) -> bool {
        let is_new = self.overflow == Overflow::New;
        if is_new {
            self.overflow = Overflow::Told;
        }
        is_new
    }
}
