//! What one app wants told of its calls, as a worker reads it: made once when the app is adopted.

#![forbid(unsafe_code)]

use super::{
    names::{NameId, Names},
    paths::Patterns,
    series::{Family, Series, Shape},
};
use snapshot::{
    ApiLog, App, Apps, Metrics, Telemetry as Wishes, Tracing, policy::resiliency::Source,
};
use std::{cell::OnceCell, sync::Arc};

#[derive(Debug)]
pub(super) struct AppTelemetry {
    pub(super) number: usize,
    pub(super) id: Arc<str>,
    pub(super) patterns: Patterns,
    wishes: Arc<Wishes>,
    /// The resource with its policies that daprd's metrics name.
    source: Option<Arc<Source>>,
    latency: Arc<[u64]>,
    name: OnceCell<NameId>,
    /// Of bodies: sent by clients, sent to them, received from the app.
    bytes: [OnceCell<Arc<Series>>; 3],
}

/// Buckets that are the same for all.
#[derive(Debug)]
pub(super) struct Bounds {
    bytes: Arc<[u64]>,
    added: Arc<[u64]>,
}

impl AppTelemetry {
    pub(super) fn new(app: &App) -> Self {
        let metrics = app.telemetry.metrics.as_ref();
        let bounds = metrics.map_or(&[][..], |metrics| &metrics.latency_bounds_ms);
        let patterns = metrics.map_or(&[][..], |metrics| &metrics.patterns);
        Self {
            number: app.number as usize,
            id: Arc::from(app.id.as_str()),
            patterns: Patterns::new(patterns),
            wishes: Arc::clone(&app.telemetry),
            source: source_of(app).cloned(),
            latency: bounds.iter().map(|bound| u64::from(*bound)).collect(),
            name: OnceCell::new(),
            bytes: Default::default(),
        }
    }

    /// Whether nothing that is told of it would change.
    pub(super) fn is_of(&self, app: &App) -> bool {
        self.number == app.number as usize
            && *self.id == *app.id.as_str()
            && self.wishes == app.telemetry
            && self.source.as_ref() == source_of(app)
    }

    /// Its id as a label of other apps.
    pub(super) fn name(&self, names: &mut Names) -> NameId {
        *self.name.get_or_init(|| names.intern(self.id.as_bytes()))
    }

    pub(super) fn kept(&self, family: Family) -> Option<&Arc<Series>> {
        self.bytes[place_of(family)].get()
    }

    pub(super) fn keep(&self, family: Family, series: Arc<Series>) -> &Arc<Series> {
        self.bytes[place_of(family)].get_or_init(|| series)
    }

    pub(super) fn slot(&self) -> usize {
        Apps::slot(self.number)
    }

    pub(super) fn metrics(&self) -> Option<&Metrics> {
        self.wishes.metrics.as_ref()
    }

    pub(super) fn api_log(&self) -> Option<ApiLog> {
        self.wishes.api_log
    }

    pub(super) fn tracing(&self) -> Option<Tracing> {
        self.wishes.tracing
    }

    /// Whether any of its hops may become a span.
    pub(super) fn records_spans(&self) -> bool {
        matches!(self.wishes.tracing, Some(Tracing::Recording(_)))
    }

    pub(super) fn is_silent(&self) -> bool {
        let Wishes { metrics, api_log, tracing } = &*self.wishes;
        metrics.is_none() && api_log.is_none() && tracing.is_none()
    }

    pub(super) fn shape<'a>(&'a self, bounds: &'a Bounds) -> Shape<'a> {
        Shape {
            slot: self.slot(),
            number: self.number,
            source: self.source.as_ref(),
            app: &self.id,
            latency: &self.latency,
            bytes: &bounds.bytes,
            added: &bounds.added,
            counts_responses: self.metrics().is_some_and(|metrics| metrics.has_raw_paths),
        }
    }
}

impl Default for Bounds {
    fn default() -> Self {
        Self { bytes: Arc::from(SIZE_BOUNDS), added: Arc::from(ADDED_BOUNDS_NS) }
    }
}

fn source_of(app: &App) -> Option<&Arc<Source>> {
    app.resiliency.as_ref()?.sources.last()
}

fn place_of(family: Family) -> usize {
    match family {
        Family::RequestBytes => 0,
        Family::ResponseBytes => 1,
        _ => 2,
    }
}

const KIB: u64 = 1024;

/// daprd's.
const SIZE_BOUNDS: [u64; 13] = [
    KIB,
    2 * KIB,
    4 * KIB,
    16 * KIB,
    64 * KIB,
    256 * KIB,
    KIB * KIB,
    4 * KIB * KIB,
    16 * KIB * KIB,
    64 * KIB * KIB,
    256 * KIB * KIB,
    KIB * KIB * KIB,
    4 * KIB * KIB * KIB,
];

const MICROSECOND: u64 = 1000;

/// From what a sidecar takes when all goes well to what nobody wants to see.
const ADDED_BOUNDS_NS: [u64; 16] = [
    5 * MICROSECOND,
    10 * MICROSECOND,
    20 * MICROSECOND,
    35 * MICROSECOND,
    50 * MICROSECOND,
    75 * MICROSECOND,
    100 * MICROSECOND,
    150 * MICROSECOND,
    250 * MICROSECOND,
    500 * MICROSECOND,
    1_000 * MICROSECOND,
    2_500 * MICROSECOND,
    5_000 * MICROSECOND,
    10_000 * MICROSECOND,
    50_000 * MICROSECOND,
    250_000 * MICROSECOND,
];
