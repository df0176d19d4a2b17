//! The series of one worker's calls: which there are, and their numbers.
//!
//! A series is made when its labels come up for the first time, and told to the link thread, which
//! reads its numbers from then on. Recording in one that exists costs a look-up and a few stores.
//! When an app goes, so do its series: the link drops what the worker holds no more.

#![forbid(unsafe_code)]

use super::{
    counters::Tally,
    histogram::Histogram,
    names::{NameId, Names},
};
use crate::{http::Method, limits::METRIC_SERIES_MAX};
use foldhash::fast::RandomState;
use snapshot::policy::resiliency::Source;
use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

/// What a series counts; see `expose.rs` for the metrics that it shows as.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub(crate) enum Family {
    AccessAppAllowed,
    AccessAppBlocked,
    AccessGlobalAllowed,
    AccessGlobalBlocked,
    AddedInbound,
    AddedOutbound,
    AppliedBreaker,
    AppliedRetry,
    AppliedTimeout,
    Client,
    ErrorCode,
    InvokeAnswered,
    InvokeReceived,
    InvokeSent,
    InvokeTaken,
    MetBreaker,
    MetRetry,
    MetTimeout,
    ReceivedBytes,
    RequestBytes,
    ResponseBytes,
    Server,
}

const FAMILIES: usize = Family::Server as usize + 1;

/// The labels of a series beside its app's id. What does not apply is zero.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Labels {
    pub(super) family: Family,
    pub(super) verb: Verb,
    /// Of a policy's series the position of its breaker.
    pub(super) status: u16,
    /// A path, the other app's id or identity, the target of a policy, or an error code.
    pub(super) name: NameId,
}

impl Labels {
    pub(super) const fn of(family: Family, name: NameId) -> Self {
        Self { family, verb: Verb::NONE, status: 0, name }
    }

    pub(super) const fn with(self, verb: Verb, status: u16) -> Self {
        Self { verb, status, ..self }
    }

    /// A key that no other labels of this worker have.
    const fn key(self, slot: usize) -> u64 {
        debug_assert!(self.status < 1024 && self.verb.0 < 16);
        (self.family as u64) << 48
            | (slot as u64 & 0xffff) << 32
            | (self.verb.0 as u64) << 28
            | (self.status as u64) << 16
            | self.name.bits()
    }
}

const fn slot_of(key: u64) -> u64 {
    key >> 32 & 0xffff
}

/// A verb as a label.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Verb(u8);

impl Verb {
    pub(super) const NONE: Self = Self(0);

    pub(super) const fn of(method: Method) -> Self {
        Self(method as u8 + 1)
    }

    const fn text(self) -> &'static str {
        match self.0 {
            0 => "",
            1 => "CONNECT",
            2 => "DELETE",
            3 => "GET",
            4 => "HEAD",
            5 => "OPTIONS",
            6 => "PATCH",
            7 => "POST",
            8 => "PUT",
            9 => "TRACE",
            _ => "UNKNOWN",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) family: Family,
    /// Of the app.
    pub(crate) number: usize,
    pub(crate) app: Arc<str>,
    /// The resource with the app's policies.
    pub(crate) source: Option<Arc<Source>>,
    pub(crate) verb: &'static str,
    pub(crate) status: u16,
    pub(crate) name: Arc<str>,
    pub(crate) count: Tally,
    pub(crate) latency: Option<Histogram>,
    pub(crate) bytes: Option<Histogram>,
    /// daprd counts responses only where paths are labels.
    pub(crate) counts_responses: bool,
}

/// What an app's series have in common.
pub(super) struct Shape<'a> {
    pub(super) slot: usize,
    pub(super) number: usize,
    pub(super) app: &'a Arc<str>,
    pub(super) source: Option<&'a Arc<Source>>,
    pub(super) latency: &'a Arc<[u64]>,
    pub(super) bytes: &'a Arc<[u64]>,
    pub(super) added: &'a Arc<[u64]>,
    pub(super) counts_responses: bool,
}

#[derive(Default)]
pub(super) struct SeriesTable {
    series: HashMap<u64, Arc<Series>, RandomState>,
    /// The one of each family that was asked for last, with its key: calls are often like the one
    /// before.
    recent: [Option<(u64, Arc<Series>)>; FAMILIES],
    /// Not told to the link yet.
    fresh: Vec<Arc<Series>>,
}

/// Whether the labels have a series of their own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Place {
    Own,
    Overflow,
}

impl SeriesTable {
    /// The series with a place of its own that was asked for last of its kind, if it is this one.
    pub(super) fn find_recent(&self, slot: usize, labels: Labels) -> Option<&Arc<Series>> {
        let (key, series) = self.recent[labels.family as usize].as_ref()?;
        (*key == labels.key(slot)).then_some(series)
    }

    pub(super) fn is_recent(&self, slot: usize, labels: Labels) -> bool {
        self.find_recent(slot, labels).is_some()
    }

    /// The one that was asked for last of its kind.
    pub(super) fn recent(&self, family: Family) -> Option<&Arc<Series>> {
        self.recent[family as usize].as_ref().map(|(_, series)| series)
    }

    /// The series that these labels have, or share for want of room.
    pub(super) fn find(&self, slot: usize, labels: Labels) -> Option<&Series> {
        if let Some(series) = self.find_recent(slot, labels) {
            return Some(series);
        }
        let shared = Labels::of(labels.family, NameId::OTHERS);
        let series = self.series.get(&labels.key(slot));
        series.or_else(|| self.series.get(&shared.key(slot))).map(|series| &**series)
    }

    /// Beyond METRIC_SERIES_MAX what would be new goes into one series per kind and app.
    pub(super) fn series(
        &mut self,
        shape: &Shape<'_>,
        labels: Labels,
        names: &Names,
    ) -> (&Arc<Series>, Place) {
        let key = labels.key(shape.slot);
        let has_room = self.series.len() < METRIC_SERIES_MAX;
        let (labels, key, place) = if has_room || self.series.contains_key(&key) {
            (labels, key, Place::Own)
        } else {
            let labels = Labels::of(labels.family, NameId::OTHERS);
            (labels, labels.key(shape.slot), Place::Overflow)
        };
        let series = match self.series.entry(key) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let series = Arc::new(Series::new(shape, labels, names));
                self.fresh.push(Arc::clone(&series));
                entry.insert(series)
            }
        };
        if place == Place::Own && labels.name != NameId::OTHERS {
            self.recent[labels.family as usize] = Some((key, Arc::clone(series)));
        }
        (series, place)
    }

    /// Those of an app that is gone, or that is told otherwise from now on.
    pub(super) fn forget(&mut self, slot: usize) {
        self.series.retain(|key, _| slot_of(*key) != slot as u64);
        self.recent = Default::default();
    }

    /// The next one that the link does not know.
    pub(super) fn take_fresh(&mut self) -> Option<Arc<Series>> {
        self.fresh.pop()
    }

    pub(super) fn put_back(&mut self, series: Arc<Series>) {
        self.fresh.push(series);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.series.len()
    }
}

impl Series {
    fn new(shape: &Shape<'_>, labels: Labels, names: &Names) -> Self {
        use Family as F;
        let family = labels.family;
        let latency = match family {
            F::AddedInbound | F::AddedOutbound => Some(shape.added),
            F::Client | F::InvokeReceived | F::Server => Some(shape.latency),
            _ => None,
        };
        let bytes = match family {
            F::Client | F::ReceivedBytes | F::RequestBytes | F::ResponseBytes => Some(shape.bytes),
            _ => None,
        };
        Self {
            family,
            number: shape.number,
            app: Arc::clone(shape.app),
            source: shape.source.cloned(),
            verb: labels.verb.text(),
            status: labels.status,
            name: Arc::clone(names.text(labels.name)),
            count: Tally::default(),
            latency: latency.map(Histogram::new),
            bytes: bytes.map(Histogram::new),
            counts_responses: shape.counts_responses,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_bound_there_is_one_more_per_kind_and_app() {
        let bounds: Arc<[u64]> = Arc::from([1]);
        let app: Arc<str> = Arc::from("a");
        let shape = Shape {
            slot: 3,
            number: 3,
            app: &app,
            source: None,
            latency: &bounds,
            bytes: &bounds,
            added: &bounds,
            counts_responses: true,
        };
        let (mut table, mut names) = (SeriesTable::default(), Names::default());
        let mut labels_of = |number: usize| {
            let name = names.intern(format!("/{}", number / 1000).as_bytes());
            let status = u16::try_from(number % 1000).unwrap();
            Labels::of(Family::Server, name).with(Verb::of(Method::Get), status)
        };
        let own = labels_of(0);
        let all: Vec<Labels> = (0..METRIC_SERIES_MAX).map(&mut labels_of).collect();
        for labels in all {
            assert_eq!(table.series(&shape, labels, &names).1, Place::Own, "{labels:?}");
        }
        let more = Labels::of(Family::Client, NameId::EMPTY).with(Verb::of(Method::Get), 200);
        let (series, place) = table.series(&shape, more, &names);
        assert_eq!((&*series.name, series.verb, series.status), ("{other}", "", 0));
        assert_eq!(place, Place::Overflow);
        assert!(table.find_recent(3, more).is_none(), "what has no place of its own");
        assert!(table.find_recent(3, own).is_none(), "another one was asked for since");
        assert_eq!(table.series(&shape, own, &names).1, Place::Own);
        assert!(table.find_recent(3, own).is_some_and(|series| &*series.name == "/0"));
        assert!(table.find_recent(4, own).is_none(), "another app's");
        let name_of = |labels| table.find(3, labels).map(|series| &*series.name);
        assert_eq!((name_of(own), name_of(more)), (Some("/0"), Some("{other}")));
        assert!(table.find(4, own).is_none(), "another app's");
        assert_eq!(table.len(), METRIC_SERIES_MAX + 1);
        table.forget(4);
        assert_eq!(table.len(), METRIC_SERIES_MAX + 1);
        table.forget(3);
        assert_eq!(table.len(), 0);
        assert!(table.find_recent(3, own).is_none());
    }

    #[test]
    fn every_verb_has_its_name() {
        for (method, want) in [
            (Method::Connect, "CONNECT"),
            (Method::Get, "GET"),
            (Method::Post, "POST"),
            (Method::Trace, "TRACE"),
            (Method::Other, "UNKNOWN"),
        ] {
            assert_eq!(Verb::of(method).text(), want);
        }
        assert_eq!(Verb::NONE.text(), "");
    }
}
