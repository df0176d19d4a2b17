//! Decides a call: where it goes, under which verb and path, which lines go and which come.
//!
//! Three ways lead to an app: our app calls one that this data plane serves, our app calls one
//! behind another sidecar, another sidecar calls our app. Pure: a head, a view and the exchange's
//! notes in, a [`Plan`] out.

#![forbid(unsafe_code)]

use super::{
    pipeline,
    view::{AppView, NamedEndpoint, View},
};
use crate::{
    clock::Instant,
    connection::{Exchange, External},
    dapr::{
        escape::decode_path,
        external::{BaseUrl, Host},
        headers::{write_callee, write_destination},
        method::{decode_from_peer, encode_for_peer, verb},
        target::{Named, split_id},
    },
    error::{Cause, Hop},
    gate::Pass,
    http::{Field, FieldSet, Framing, Method, RequestHead, respell},
    policy::{
        access::{Access, Caller, Proof, write_identity},
        pipeline::{NOWHERE, RateLimits, Subject, Surroundings},
    },
    route::{self, Destination, Name, RouteError},
    upstream::EndpointKey,
};
use snapshot::{App, Route, policy::TRUST_DOMAIN_DEFAULT};
use std::{net::SocketAddr, sync::Arc};

pub(super) struct Plan<'v> {
    pub(super) to: To<'v>,
    /// Lines of the client that are not passed on.
    pub(super) drop: FieldSet,
}

pub(super) enum To<'v> {
    App(EndpointKey),
    /// [`Exchange::external`]; what is known of its name, if it was called by one.
    External(Option<&'v NamedEndpoint>),
    Peer(&'v Route),
    /// To an app that is not to be called now, and may be later.
    Unhealthy,
    /// To a peer that control may find, or that a later attempt may.
    Unknown(Name),
}

/// Who calls an app of ours.
#[derive(Clone, Copy)]
enum From {
    Itself,
    /// Another app of this data plane.
    Neighbour,
    Peer,
    /// A process of no app.
    Stranger,
}

/// All that a plan is made from. `lines` receives what is added to the head.
pub(super) struct Planner<'a, 'v> {
    pub(super) exchange: &'a mut Exchange,
    pub(super) head: &'a RequestHead,
    /// The bytes in which `head` lies.
    pub(super) bytes: &'a [u8],
    pub(super) view: &'v View,
    /// Whose sidecar was called.
    pub(super) app: usize,
    /// What the connection proves of whoever calls over it.
    pub(super) proof: Proof,
    /// Control can be asked for apps that are not known.
    pub(super) has_resolver: bool,
    /// What a pipeline is asked with.
    pub(super) subject: &'a mut Subject,
    pub(super) rate_limits: &'a RateLimits,
    pub(super) now: Instant,
    pub(super) lines: &'a mut Vec<u8>,
}

impl<'v> Planner<'_, 'v> {
    /// Our app calls; the target's name and method are in the exchange's notes.
    pub(super) fn plan_call_out(mut self) -> Result<Plan<'v>, Cause> {
        let own = &self.view.snapshot.apps[self.app];
        self.lines.clear();
        self.exchange.request_bytes_max = own.body_bytes_max;
        self.exchange.notes.normalise().map_err(Cause::Method)?;
        let drop = match &self.view.app(self.app).guards.api_token {
            // It was for us, and we have looked at it.
            Some(_) => FieldSet::of(&[Field::DaprApiToken]),
            None => FieldSet::default(),
        };
        let target = &self.exchange.notes.target;
        if let Some(endpoint) = self.view.app(self.app).find_endpoint(target) {
            return self.plan_external(Some(endpoint), drop);
        }
        let named = split_id(target, own.namespace.as_str()).map_err(Cause::InvalidId)?;
        let Named::App { id, namespace } = named else { return self.plan_external(None, drop) };
        let found = match route::find(&self.view.snapshot, self.app, id, namespace) {
            Ok(found) => found,
            Err(RouteError::NotFound) => {
                let may_be_found = self.has_resolver || retries(own, target);
                let name = Name::parse(id, namespace).filter(|_| may_be_found);
                return self.plan_unknown(name.ok_or(Cause::NotFound)?, drop);
            }
        };
        match found {
            Destination::Local { index, .. } if index == self.app => {
                self.exchange.hop = Hop::SelfCall;
                self.plan_app(index, From::Itself, drop.union(OWN_APP))
            }
            // One hop instead of two, but the same to both apps: the callee sees who calls.
            Destination::Local { index, app } => {
                self.exchange.hop = Hop::InboundFromPeer;
                self.introduce();
                write_callee(app.id.as_str(), self.lines);
                self.plan_app(index, From::Neighbour, drop.union(NEIGHBOUR))
            }
            Destination::Remote { route } => self.plan_peer(route, drop),
        }
    }

    /// A plain request to our app, sent here by the kernel, who says which app `caller` is: the
    /// same to the callee as if that one had called by its own API.
    pub(super) fn plan_call_in(mut self, caller: Option<u32>) -> Result<Plan<'v>, Cause> {
        let (index, snapshot) = (self.app, &self.view.snapshot);
        let callee = &snapshot.apps[index];
        self.lines.clear();
        self.exchange.hop = Hop::InboundFromPeer;
        self.exchange.request_bytes_max = callee.body_bytes_max;
        self.exchange.notes.target.extend_from_slice(callee.id.as_str().as_bytes());
        self.exchange.notes.normalise().map_err(Cause::Method)?;
        let caller = caller.map(|number| number as usize);
        let Some(caller) = caller.filter(|number| snapshot.apps.get(*number).is_some()) else {
            return self.plan_app(index, From::Stranger, NEIGHBOUR);
        };
        self.app = caller;
        self.introduce();
        write_callee(callee.id.as_str(), self.lines);
        self.plan_app(index, From::Neighbour, NEIGHBOUR)
    }

    /// Another sidecar calls. It names the app it means, for an address can have changed hands
    /// since it looked.
    pub(super) fn plan_call_from_peer(self) -> Result<Plan<'v>, Cause> {
        self.lines.clear();
        self.exchange.hop = Hop::InboundFromPeer;
        self.exchange.request_bytes_max = None;
        let target = self.head.lines.find(Field::DestinationAppId).ok_or(Cause::Misdirected)?;
        let notes = &mut self.exchange.notes;
        notes.clear();
        notes.target.extend_from_slice(target.value.of(self.bytes));
        let own = &self.view.snapshot.apps[self.app];
        let Ok(Named::App { id, namespace }) = split_id(&notes.target, own.namespace.as_str())
        else {
            return Err(Cause::Misdirected);
        };
        let found = route::find(&self.view.snapshot, self.app, id, namespace);
        let Ok(Destination::Local { index, .. }) = found else { return Err(Cause::Misdirected) };
        let (path, query) = split_query(self.head.target.of(self.bytes));
        decode_from_peer(path, &mut notes.method).map_err(|_| NOT_A_PEERS_PATH)?;
        notes.query.extend_from_slice(query);
        self.plan_app(index, From::Peer, FROM_PEER)
    }

    fn plan_app(mut self, index: usize, from: From, mut drop: FieldSet) -> Result<Plan<'v>, Cause> {
        let AppView { channel, gate, guards, .. } = self.view.app(index);
        let (endpoint, host) = channel.as_ref().ok_or(Cause::NoAppChannel)?;
        if let Some(access) = &guards.access {
            self.admit(index, access, from)?;
        }
        let is_healthy = self.view.snapshot.apps.get(index).is_none_or(is_healthy);
        if let Some(line) = &guards.app_token_line {
            drop = drop.with(&[Field::DaprApiToken]);
            self.lines.extend_from_slice(line);
        }
        self.exchange.endpoint = Some(*endpoint);
        if let Some(gate) = gate {
            self.exchange.pass = Pass::Wanted(Arc::clone(gate));
        }
        if let Some(observed) = &mut self.exchange.observed {
            observed.on_callee(index);
        }
        self.write_app_path()?;
        if is_healthy {
            self.pass_pipeline(index, from)?;
        }
        self.lines.extend_from_slice(host);
        self.finish(if is_healthy { To::App(*endpoint) } else { To::Unhealthy }, drop)
    }

    /// Asks the callee's access control, in the name that is proven. daprd asks it of calls from
    /// other sidecars alone, so an app may always call itself.
    fn admit(&mut self, index: usize, access: &Access, from: From) -> Result<(), Cause> {
        let (view, head, bytes) = (self.view, self.head, self.bytes);
        let caller = match from {
            From::Itself => return Ok(()),
            From::Neighbour => Some(own_name(&view.snapshot.apps[self.app])),
            From::Peer if access.believes(self.proof) => claimed_name(head, bytes),
            From::Peer | From::Stranger => None,
        };
        let exchange = &mut *self.exchange;
        exchange.method = verb_of(head.method, head.method_name.of(bytes))?;
        let (verb, method) = (exchange.method.name(), &exchange.notes.method);
        let verdict = access.decide(caller, method, Some(verb), &mut exchange.url_path);
        exchange.url_path.clear();
        if let Some(observed) = &mut exchange.observed {
            observed.on_verdict(index, caller, verdict);
        }
        if verdict.is_allowed {
            return Ok(());
        }
        write_identity(caller, &mut exchange.url_path);
        Err(Cause::Denied)
    }

    /// Nothing of Dapr goes with such a call: no caller, no way, no app id.
    /// But for the app's token, which goes wherever an app would be called.
    fn plan_external(
        mut self,
        endpoint: Option<&'v NamedEndpoint>,
        mut drop: FieldSet,
    ) -> Result<Plan<'v>, Cause> {
        let exchange = &mut *self.exchange;
        exchange.hop = Hop::External;
        let url = endpoint.map_or(&*exchange.notes.target, |endpoint| &*endpoint.base_url);
        let base = match BaseUrl::parse(url) {
            Ok(base) => base,
            Err(error) => {
                let base = url.into();
                exchange.external = Some(Box::new(External {
                    base,
                    addresses: Vec::new(),
                    is_named: false,
                    port: 0,
                }));
                return Err(Cause::BadUrl(error));
            }
        };
        let written = base.write_path(&exchange.notes.method, self.lines, &mut exchange.url_path);
        for part in ["Host: ", base.authority, "\r\n"] {
            self.lines.extend_from_slice(part.as_bytes());
        }
        let addresses = match base.host {
            Host::Address(address) => vec![SocketAddr::new(address, base.port)],
            Host::Name(_) => Vec::new(),
        };
        let origin = ["http://", base.authority].concat().into_bytes().into();
        let external =
            External { base: origin, is_named: addresses.is_empty(), addresses, port: base.port };
        exchange.external = Some(Box::new(external));
        push_query(exchange);
        written.map_err(Cause::Escape)?;
        self.pass_pipeline(self.app, From::Itself)?;
        if let Some(endpoint) = endpoint {
            self.lines.extend_from_slice(&endpoint.lines);
        }
        if let Some(line) = &self.view.app(self.app).guards.app_token_line {
            drop = drop.with(&[Field::DaprApiToken]);
            self.lines.extend_from_slice(line);
        }
        self.finish(To::External(endpoint), drop.union(OWN_APP))
    }

    fn plan_peer(mut self, route: &'v Route, drop: FieldSet) -> Result<Plan<'v>, Cause> {
        self.write_for_peer(route.id.as_str());
        self.finish(To::Peer(route), drop.union(TO_PEER))
    }

    /// What a peer is told does not depend on where it is.
    fn plan_unknown(mut self, name: Name, drop: FieldSet) -> Result<Plan<'v>, Cause> {
        self.write_for_peer(name.id.as_str());
        self.finish(To::Unknown(name), drop.union(TO_PEER))
    }

    fn write_for_peer(&mut self, id: &str) {
        self.exchange.hop = Hop::ToPeer;
        encode_for_peer(&self.exchange.notes.method, &mut self.exchange.url_path);
        push_query(self.exchange);
        for part in ["Host: ", id, "\r\n"] {
            self.lines.extend_from_slice(part.as_bytes());
        }
        self.introduce();
        self.lines.extend_from_slice(&self.view.app(self.app).guards.trust_domain_line);
        write_callee(id, self.lines);
        write_destination(&self.exchange.notes.target, self.lines);
    }

    /// What all calls have in common once they know where to go.
    fn finish(self, to: To<'v>, drop: FieldSet) -> Result<Plan<'v>, Cause> {
        let Self { exchange, head, bytes, lines, .. } = self;
        exchange.method = verb_of(head.method, head.method_name.of(bytes))?;
        if let (Framing::Length(length), Some(max)) = (head.framing, exchange.request_bytes_max)
            && length > max
        {
            return Err(Cause::BodyTooLarge);
        }
        exchange.wants_events = exchange.hop == Hop::InboundFromPeer && wants_events(head, bytes);
        if let Some(protocol) = head.upgrade {
            exchange.upgrade = true;
            lines.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: ");
            lines.extend_from_slice(protocol.of(bytes));
            lines.extend_from_slice(b"\r\n");
        }
        let respelled = respell(head.framing, &head.lines, bytes, lines);
        Ok(Plan { to, drop: drop.union(respelled) })
    }

    /// Adds who calls and through whom. What came before us on the way comes before our own.
    fn introduce(&mut self) {
        let forwarded =
            |line: &&crate::http::Line| line.field == Field::Forwarded && !line.nominated;
        for line in self.head.lines.iter().filter(forwarded) {
            let bytes = &self.bytes[line.name.start as usize..line.end as usize];
            self.lines.extend_from_slice(bytes);
        }
        self.lines.extend_from_slice(self.view.app(self.app).caller_lines.as_bytes());
    }

    /// The path that the app sees. Where there is none, the error names what was to become one.
    fn write_app_path(&mut self) -> Result<(), Cause> {
        let exchange = &mut *self.exchange;
        let written = exchange.notes.write_app_path(&mut exchange.url_path);
        if written.is_err() {
            exchange.url_path.push(b'/');
            exchange.url_path.extend_from_slice(&exchange.notes.method);
        }
        push_query(exchange);
        written.map_err(Cause::Escape)
    }
}

impl Planner<'_, '_> {
    /// Asks the pipeline of the app at `index`, which stands in front of whatever is called in its
    /// place, with the path that would be called. Access control has judged the one that came.
    fn pass_pipeline(&mut self, index: usize, from: From) -> Result<(), Cause> {
        let Some(pipeline) = &self.view.app(index).guards.app_pipeline else { return Ok(()) };
        let (exchange, subject) = (&mut *self.exchange, &mut *self.subject);
        subject.clear();
        let (path, query) = split_query(&exchange.url_path);
        decode_path(path, &mut subject.path).map_err(Cause::Escape)?;
        subject.query.extend_from_slice(query);
        subject.uri.extend_from_slice(&exchange.url_path);
        let mut client = pipeline::client(self.head, self.bytes, None);
        let origin = &self.view.snapshot.apps[self.app].origin;
        if let (From::Neighbour, None, Some(ip)) = (from, client.forwarded_for, &origin.host_ip) {
            client.forwarded_for = Some(ip.as_bytes());
        }
        let is_named = client.forwarded_for.is_some();
        let (limits, now) = (self.rate_limits, self.now);
        let around = Surroundings { app: index, client, limits, now };
        let mut lines = Vec::new();
        let outcome = pipeline.pass(subject, &around, &mut lines);
        exchange.note_app_pipeline(&outcome, lines);
        if let Some(refusal) = outcome.refusal {
            return Err(Cause::Pipeline(refusal));
        }
        if outcome.is_from_nowhere && !is_named {
            for part in [&b"X-Forwarded-For: "[..], NOWHERE, b"\r\n"] {
                self.lines.extend_from_slice(part);
            }
        }
        if outcome.is_rewritten {
            exchange.url_path.clear();
            if !subject.uri.starts_with(b"/") {
                exchange.url_path.push(b'/');
            }
            exchange.url_path.extend_from_slice(&subject.uri);
        }
        Ok(())
    }
}

/// As far as its health checks know; without any, it is.
pub(super) fn is_healthy(app: &App) -> bool {
    app.channel.as_ref().is_none_or(|channel| channel.is_healthy)
}

/// What we call our own app towards its neighbours.
fn own_name(app: &App) -> Caller<'_> {
    let domain = app.guards.access.as_ref().map(|access| access.trust_domain.as_str());
    Caller {
        app_id: app.id.as_str(),
        namespace: app.namespace.as_str(),
        trust_domain: domain.unwrap_or(TRUST_DOMAIN_DEFAULT),
    }
}

/// What another sidecar calls its app. `None` unless it says so in one way only.
fn claimed_name<'a>(head: &RequestHead, bytes: &'a [u8]) -> Option<Caller<'a>> {
    let only = |field: Field| {
        let mut lines = head.lines.iter().filter(|line| line.field == field);
        let value = lines.next().map(|line| str::from_utf8(line.value.of(bytes)));
        if lines.next().is_some() { Some(None) } else { value.map(Result::ok) }
    };
    Some(Caller {
        app_id: only(Field::DaprCallerAppId)??,
        namespace: only(Field::DaprCallerNamespace)??,
        trust_domain: only(Field::RingcarTrustDomain).unwrap_or(Some(TRUST_DOMAIN_DEFAULT))?,
    })
}

/// daprd 1.18 takes another way with these, on which an answer other than a success is lost.
fn wants_events(head: &RequestHead, bytes: &[u8]) -> bool {
    let accept = head.lines.find(Field::Accept).map(|line| line.value.of(bytes));
    accept.is_some_and(|value| value.eq_ignore_ascii_case(b"text/event-stream"))
}

/// Whether a policy of the app wants calls of this target tried again.
fn retries(app: &App, target: &[u8]) -> bool {
    let policy = app.resiliency.as_ref().and_then(|resiliency| resiliency.find(target));
    policy.is_some_and(|policy| policy.retry.is_some())
}

/// The query travels as it came; daprd drops a `?` with nothing behind it.
fn push_query(exchange: &mut Exchange) {
    if !exchange.notes.query.is_empty() {
        exchange.url_path.push(b'?');
        exchange.url_path.extend_from_slice(&exchange.notes.query);
    }
}

/// The verb the app is called with, after daprd's rules for those that HTTP does not know. `head`
/// would become one whose response has no body, unlike the client thinks.
fn verb_of(method: Method, name: &[u8]) -> Result<Method, Cause> {
    if !matches!(method, Method::Connect | Method::Other) {
        return Ok(method);
    }
    let verb = verb(name).ok_or(Cause::InvalidVerb)?;
    match Method::from_bytes(verb.as_bytes()) {
        Method::Head if method != Method::Head => Err(Cause::InvalidVerb),
        verb => Ok(verb),
    }
}

fn split_query(target: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memchr(b'?', target) {
        Some(at) => (&target[..at], &target[at + 1..]),
        None => (target, b""),
    }
}

const NOT_A_PEERS_PATH: Cause =
    Cause::BadRequest("the path is not in the form in which sidecars write it");

/// Never forwarded: RFC 9110 §7.6.1, and what is between two sidecars only.
const HOP: FieldSet = FieldSet::of(&[
    Field::Connection,
    Field::DestinationAppId,
    Field::HopByHop,
    Field::Host,
    Field::RingcarError,
    Field::RingcarTrustDomain,
    Field::Upgrade,
]);

/// A client does not get to say who it is, and its `dapr-app-id` has been understood.
const CLIENT: FieldSet = HOP.with(&[
    Field::DaprAppId,
    Field::DaprCalleeAppId,
    Field::DaprCallerAppId,
    Field::DaprCallerNamespace,
]);

/// [`Planner::introduce`] writes these anew, in front of ours.
const TO_PEER: FieldSet = CLIENT.with(&[Field::Forwarded]);

/// daprd 1.18 passes binary gRPC metadata to no HTTP app.
const OWN_APP: FieldSet = CLIENT.with(&[Field::BinarySuffixed]);
const NEIGHBOUR: FieldSet = TO_PEER.with(&[Field::BinarySuffixed]);

/// The caller's sidecar has put the caller's identity there.
const FROM_PEER: FieldSet = HOP.with(&[Field::BinarySuffixed]);
