//! A snapshot as one worker reads it: with the lines that every call of an app carries, ready to be
//! copied.
//!
//! Kept, not made anew: adopting a snapshot looks at the apps that changed and at nothing else.

#![forbid(unsafe_code)]

use super::guards::Guards;
use crate::{
    adoption::Difference,
    dapr::headers::CallerLines,
    gate::Gate,
    http::{Field, FieldSet, is_token},
    upstream::{EndpointKey, Endpoints},
};
use snapshot::{Address, App, Apps, HttpEndpoint, Snapshot};
use std::{rc::Rc, sync::Arc};

#[derive(Clone)]
pub(crate) struct View {
    pub snapshot: Arc<Snapshot>,
    /// By slot; those of the snapshot's apps and no others.
    apps: Vec<Option<Rc<AppView>>>,
}

pub(crate) struct AppView {
    /// Servers outside of Dapr that this app calls by names, in the order of these.
    http_endpoints: Box<[NamedEndpoint]>,
    /// What this app's sidecar adds to calls to other sidecars.
    pub caller_lines: CallerLines,
    pub(super) guards: Guards,
    /// Where the app listens, and the `Host` line of calls to it.
    pub channel: Option<(EndpointKey, Box<[u8]>)>,
    /// Where its calls wait when it has enough of them.
    pub gate: Option<Arc<Gate>>,
}

/// An HTTPEndpoint resource.
pub(crate) struct NamedEndpoint {
    name: Box<[u8]>,
    pub base_url: Box<[u8]>,
    /// Of each call, whole lines.
    pub lines: Box<[u8]>,
    /// The names of these lines; the client's of these names go.
    pub overridden: Box<[Box<[u8]>]>,
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
            self.apps[slot] = app.map(|app| {
                let gate = difference.find_gate(app.number as usize);
                Rc::new(AppView::new(app, gate.cloned(), endpoints))
            });
        }
        self.snapshot = snapshot;
    }

    /// The number of an app that no snapshot has.
    pub(crate) const GONE: usize = usize::MAX;

    /// What belongs to the app of this number, which the caller has found in this view's snapshot.
    #[inline]
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
    fn new(app: &App, gate: Option<Arc<Gate>>, endpoints: &mut Endpoints) -> Self {
        let channel = app.channel.as_ref().map(|channel| {
            let host = match &channel.address {
                Address::Tcp(address) => format!("Host: {address}\r\n"),
                // A Unix socket has no authority; Go's clients name localhost.
                Address::Unix(_) => "Host: localhost\r\n".to_owned(),
            };
            (endpoints.intern(&channel.address), host.into_bytes().into())
        });
        let guards = Guards::new(app);
        let has_token = guards.app_token_line.is_some();
        let named = app.outbound.http_endpoints.iter();
        let mut http_endpoints: Box<[NamedEndpoint]> =
            named.map(|endpoint| NamedEndpoint::new(endpoint, has_token)).collect();
        http_endpoints.sort_by(|a, b| a.name.cmp(&b.name));
        Self { http_endpoints, caller_lines: CallerLines::new(app), guards, channel, gate }
    }

    pub(crate) fn find_endpoint(&self, name: &[u8]) -> Option<&NamedEndpoint> {
        let at = self.http_endpoints.binary_search_by(|endpoint| (*endpoint.name).cmp(name));
        at.ok().map(|at| &self.http_endpoints[at])
    }
}

impl NamedEndpoint {
    /// `has_token`: calls of it carry the app's token, and no other one.
    fn new(endpoint: &HttpEndpoint, has_token: bool) -> Self {
        let (mut lines, mut overridden) = (Vec::new(), Vec::new());
        let is_token = |name: &str| Field::from_name(name.as_bytes()) == Field::DaprApiToken;
        let headers = endpoint.headers.iter().filter(|(name, value)| is_passed(name, value));
        for (name, value) in headers.filter(|(name, _)| !(has_token && is_token(name))) {
            for part in [name, ": ", value, "\r\n"] {
                lines.extend_from_slice(part.as_bytes());
            }
            overridden.push(name.as_bytes().into());
        }
        Self {
            name: endpoint.name.as_bytes().into(),
            base_url: endpoint.base_url.as_bytes().into(),
            lines: lines.into(),
            overridden: overridden.into(),
        }
    }
}

/// What concerns the connection is ours to say, and nothing may end its line early.
fn is_passed(name: &str, value: &str) -> bool {
    is_token(name.as_bytes())
        && !KEPT_BACK.contains(Field::from_name(name.as_bytes()))
        && value.bytes().all(|byte| byte == b'\t' || !byte.is_ascii_control())
}

const KEPT_BACK: FieldSet = FieldSet::of(&[
    Field::Connection,
    Field::ContentLength,
    Field::Expect,
    Field::HopByHop,
    Field::Host,
    Field::TransferEncoding,
    Field::Upgrade,
]);
