//! Calls of servers outside of Dapr: the host's name is looked up while the request waits, and its
//! addresses are tried one after the other, as Go's dialler does.

#![forbid(unsafe_code)]

use super::{Relay, hosts::Lookup};
use crate::{
    connection::{ConnectionKey, State},
    dapr::external::{BaseUrl, LookupError},
    engine::Engine,
    error::Cause,
    limits::CONNECT_TIMEOUT,
    upstream::EndpointKey,
};
use snapshot::Address;
use std::net::{IpAddr, SocketAddr};

impl<E: Engine> Relay<E> {
    /// The next of the target's addresses; `None` when there is none left, or none yet.
    pub(super) fn next_address(&mut self, key: ConnectionKey) -> Option<EndpointKey> {
        if self.endpoints.is_crowded() {
            self.forget_endpoints();
        }
        let exchange = &mut self.connections.find_mut(key)?.exchange;
        let address = exchange.external.as_mut()?.addresses.pop()?;
        let endpoint = self.endpoints.intern(&Address::Tcp(address));
        exchange.endpoint = Some(endpoint);
        Some(endpoint)
    }

    /// Sends what is pending to the next address. False: there is none.
    pub(super) fn try_next_address(&mut self, key: ConnectionKey) -> bool {
        let Some(endpoint) = self.next_address(key) else { return false };
        self.release_upstream(key);
        self.attempt(key, endpoint);
        true
    }

    /// The call waits until the name of its target's host is known.
    pub(super) fn look_up_host(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.find_mut(key) else { return };
        connection.state = State::AwaitingHost;
        let Some(external) = &connection.exchange.external else { return };
        let Ok(base) = BaseUrl::parse(&external.base) else {
            debug_assert!(false, "the plan has parsed it");
            return;
        };
        let name = base.host_name().to_ascii_lowercase();
        match self.hosts.look_up(&name, key, self.now) {
            Lookup::Found(addresses) => self.go_to_host(key, &addresses),
            Lookup::Full => self.fail(key, Cause::Lookup(LookupError::Busy)),
            Lookup::Asked => self.set_deadline(key, Some(CONNECT_TIMEOUT)),
            Lookup::Ask => {
                self.host_questions.push(name.into());
                self.set_deadline(key, Some(CONNECT_TIMEOUT));
            }
        }
    }

    /// What became of a name in [`Relay::host_questions`].
    pub(crate) fn on_host(&mut self, name: &str, found: &Result<Vec<IpAddr>, LookupError>) {
        for key in self.hosts.on_answer(name, found, self.now) {
            let waits = self.connections.find(key).map(|c| &c.state) == Some(&State::AwaitingHost);
            match found {
                // Its client may have left, or it has waited too long.
                _ if !waits => {}
                Ok(addresses) => self.go_to_host(key, addresses),
                Err(error) => self.fail(key, Cause::Lookup(*error)),
            }
        }
        self.settle();
    }

    fn go_to_host(&mut self, key: ConnectionKey, addresses: &[IpAddr]) {
        let Some(connection) = self.connections.find_mut(key) else { return };
        let Some(external) = &mut connection.exchange.external else { return };
        let port = external.port;
        external.addresses.clear();
        external.addresses.extend(addresses.iter().rev().map(|ip| SocketAddr::new(*ip, port)));
        match self.next_address(key) {
            Some(endpoint) => self.attempt(key, endpoint),
            None => self.fail(key, Cause::Lookup(LookupError::NoSuchHost)),
        }
    }
}
