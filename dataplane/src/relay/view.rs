//! A snapshot as one worker reads it: with the lines that every call of an app carries, ready to be
//! copied.
//!
//! Kept, not made anew: adopting a snapshot looks at the apps that changed and at nothing else.

#![forbid(unsafe_code)]

use super::guards::Guards;
use crate::{
    adoption::Difference,
    dapr::headers::CallerLines,
    upstream::{EndpointKey, Endpoints},
};
use snapshot::{Address, App, Apps, Snapshot};
use std::{rc::Rc, sync::Arc};

#[derive(Clone)]
pub(crate) struct View {
    pub snapshot: Arc<Snapshot>,
    /// By slot; those of the snapshot's apps and no others.
    apps: Vec<Option<Rc<AppView>>>,
}

pub(crate) struct AppView {
    /// What this app's sidecar adds to calls to other sidecars.
    pub caller_lines: CallerLines,
    pub(super) guards: Guards,
    /// Where the app listens, and the `Host` line of calls to it.
    pub channel: Option<(EndpointKey, Box<[u8]>)>,
}

impl View {
    pub(crate) fn new(snapshot: Arc<Snapshot>, endpoints: &mut Endpoints) -> Self {
        let apps = snapshot.apps.iter().map(|app| app.number as usize).collect();
        let mut view = Self { snapshot: Arc::clone(&snapshot), apps: Vec::new() };
        view.adopt(snapshot, &Difference { apps, ..Difference::default() }, endpoints);
        view
    }

    pub(crate) fn adopt(
        &mut self,
        snapshot: Arc<Snapshot>,
        difference: &Difference,
        endpoints: &mut Endpoints,
    ) {
        for number in &difference.apps {
            let slot = Apps::slot(*number);
            // Its slot may have another tenant by now, who is in this list as well.
            let app = snapshot.apps.find_in_slot(slot);
            if self.apps.len() <= slot {
                self.apps.resize(slot + 1, None);
            }
            self.apps[slot] = app.map(|app| Rc::new(AppView::new(app, endpoints)));
        }
        self.snapshot = snapshot;
    }

    /// The number of an app that no snapshot has.
    pub(crate) const GONE: usize = usize::MAX;

    /// What belongs to the app of this number, which the caller has found in this view's snapshot.
    pub(crate) fn app(&self, number: usize) -> &AppView {
        debug_assert!(self.snapshot.apps.get(number).is_some());
        self.apps[Apps::slot(number)].as_deref().expect("each app of the snapshot has a view")
    }

    /// The endpoints that stay in use whether or not there are connections to them.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = EndpointKey> {
        let channels = self.apps.iter().flatten().filter_map(|app| app.channel.as_ref());
        channels.map(|(endpoint, _)| *endpoint)
    }
}

impl AppView {
    fn new(app: &App, endpoints: &mut Endpoints) -> Self {
        let channel = app.channel.as_ref().map(|channel| {
            let host = match &channel.address {
                Address::Tcp(address) => format!("Host: {address}\r\n"),
                // A Unix socket has no authority; Go's clients name localhost.
                Address::Unix(_) => "Host: localhost\r\n".to_owned(),
            };
            (endpoints.intern(&channel.address), host.into_bytes().into())
        });
        Self { caller_lines: CallerLines::new(app), guards: Guards::new(app), channel }
    }
}
