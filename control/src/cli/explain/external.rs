//! Calls that lead out of Dapr: to a URL in place of an app id, or to an HTTPEndpoint by its name.

#![forbid(unsafe_code)]

use super::{Call, Caller, Explanation, outgoing, policy, text};
use crate::knowledge::{KnownApp, KnownServer};
use dataplane::{
    dapr::{
        CallNotes,
        external::{BaseUrl, Host},
        target::{self, Named},
    },
    limits::CONNECT_TIMEOUT,
};
use std::{io, net::SocketAddr};
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};

pub(super) struct External<'c> {
    call: &'c Call,
    notes: CallNotes,
    own: Option<KnownApp>,
    /// `None`: called by its URL.
    server: Option<KnownServer>,
}

impl<'c> External<'c> {
    /// `None` where the call is to an app. An endpoint's name wins over an app of the same id.
    pub(super) async fn find(call: &'c Call, caller: &Caller) -> Option<Self> {
        let notes = call.interpret()?;
        let own = caller.known().await;
        let servers = own.iter().flat_map(|own| &own.http_endpoints);
        let server = servers.into_iter().find(|server| server.name.as_bytes() == &*notes.target);
        let server = server.cloned();
        let namespace = caller.entry.namespace.as_str();
        let is_url = matches!(target::split_id(&notes.target, namespace), Ok(Named::External(_)));
        (is_url || server.is_some()).then_some(Self { call, notes, own, server })
    }

    pub(super) async fn explain(&self, caller: &Caller, explanation: &mut Explanation) {
        let url = match &self.server {
            Some(server) => server.base_url.clone(),
            None => text(&self.notes.target),
        };
        explanation.add("server", self.words(&url));
        explanation.add("access", "nobody's is asked, and no other sidecar is on the way");
        let base = match BaseUrl::parse(url.as_bytes()) {
            Ok(base) => base,
            Err(error) => {
                return explanation.add("answer", format!("500: parse {url:?}: {error}"));
            }
        };
        let (verb, method) = match outgoing(&self.call.verb, &self.notes.method) {
            Ok(outgoing) => outgoing,
            Err(reason) => return explanation.add("answer", format!("500: {reason}")),
        };
        explanation.add("method", format!("{:?}", text(&method)));
        for (words, is_reached) in look(&base).await {
            explanation.is_delivered |= is_reached;
            explanation.add("endpoint", words);
        }
        policy::add_resiliency(self.own.as_ref(), caller, &self.notes.target, explanation).await;
        let (mut scratch, mut path) = (Vec::new(), Vec::new());
        // It was found encodable before.
        if base.write_path(&method, &mut scratch, &mut path).is_ok() {
            let path = super::request_target(&path, &self.notes.query);
            explanation.add("dialled", format!("{verb} {path} at {}", base.authority));
        }
    }

    fn words(&self, url: &str) -> String {
        let Some(KnownServer { name, headers, .. }) = &self.server else {
            return format!("{url}, by its URL: nothing of Dapr goes there but the app's token");
        };
        let headers = match headers.is_empty() {
            true => "no headers of its own".to_owned(),
            false => format!("sets {}", headers.join(", ")),
        };
        format!("{url}, by the HTTPEndpoint {name:?}: {headers}")
    }
}

/// Each address in the order in which it is tried, with what connecting to it comes to.
async fn look(base: &BaseUrl<'_>) -> Vec<(String, bool)> {
    let addresses: io::Result<Vec<SocketAddr>> = match base.host {
        Host::Address(ip) => Ok(vec![SocketAddr::new(ip, base.port)]),
        Host::Name(name) => lookup_host((name, base.port)).await.map(Iterator::collect),
    };
    let addresses = match addresses {
        Ok(addresses) => addresses,
        Err(e) => return vec![(format!("none: {} is not found: {e}", base.authority), false)],
    };
    let mut found = Vec::new();
    for address in addresses {
        let (state, is_reached) = match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await
        {
            Ok(Ok(_)) => ("it listens".to_owned(), true),
            Ok(Err(e)) => (e.to_string(), false),
            Err(_) => (format!("no answer within {CONNECT_TIMEOUT:?}"), false),
        };
        found.push((format!("{address}: {state}"), is_reached));
    }
    found
}
