//! A snapshot as one worker reads it: with the lines that every call of an app carries, ready to be copied.

#![forbid(unsafe_code)]

use crate::{
    dapr::headers::CallerLines,
    upstream::{EndpointKey, Endpoints},
};
use snapshot::{Address, App, Snapshot};
use std::{collections::HashSet, sync::Arc};

pub(crate) struct View {
    pub snapshot: Arc<Snapshot>,
    /// In the order of the snapshot's apps.
    pub apps: Vec<AppView>,
    addresses: HashSet<Address>,
}

pub(crate) struct AppView {
    /// What this app's sidecar adds to calls to other sidecars.
    pub caller_lines: CallerLines,
    /// Where the app listens, and the `Host` line of calls to it.
    pub channel: Option<(EndpointKey, Box<[u8]>)>,
}

impl View {
    pub(crate) fn new(snapshot: Arc<Snapshot>, endpoints: &mut Endpoints) -> Self {
        let apps = snapshot.apps.iter().map(|app| AppView::new(app, endpoints)).collect();
        let channels =
            snapshot.apps.iter().filter_map(|app| app.channel.as_ref()).map(|c| &c.address);
        let peers = snapshot.routes().flat_map(|route| &route.endpoints).map(|e| &e.address);
        let addresses = channels.chain(peers).cloned().collect();
        Self { snapshot, apps, addresses }
    }

    /// The number of an app that no snapshot has.
    pub(crate) const GONE: usize = usize::MAX;

    /// The number of the app with this one's name; [`Self::GONE`] when there is none.
    pub(crate) fn number_of(&self, app: &App) -> usize {
        let found = self.snapshot.find_app(app.id.as_str(), app.namespace.as_str());
        found.map_or(Self::GONE, |(number, _)| number)
    }

    /// Whether a call may still go to this address.
    pub(crate) fn knows(&self, address: &Address) -> bool {
        self.addresses.contains(address)
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
        Self { caller_lines: CallerLines::new(app), channel }
    }
}
