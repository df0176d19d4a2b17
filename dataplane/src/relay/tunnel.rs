//! After 101: bytes in both directions until both sides have closed, each direction on its own.

#![forbid(unsafe_code)]

use super::Relay;
use crate::{
    connection::{ConnectionKey, State},
    engine::{Chunk, Engine},
    limits::RELAY_HIGH_BYTES,
};

impl<E: Engine> Relay<E> {
    /// `early` came from upstream right behind its 101.
    pub(super) fn open_tunnel(&mut self, key: ConnectionKey, early: Chunk) {
        // What follows is no exchange any more.
        self.observe_end(key, None);
        let Some(connection) = self.connections.find_mut(key) else { return };
        connection.state = State::Tunnel;
        connection.deadline = None;
        self.counters.tunnels.add(1);
        // What the client sent ahead was kept as the start of a next request; it belongs to the new
        // protocol.
        let ahead = connection.input.take_all();
        self.tunnel_downstream(key, early);
        self.tunnel_upstream(key, ahead);
        self.resume_downstream(key);
        if self.connections.find(key).is_some_and(|connection| connection.read_closed) {
            self.tunnel_downstream_closed(key);
        }
    }

    pub(super) fn tunnel_upstream(&mut self, key: ConnectionKey, chunk: Chunk) {
        let Some(connection) = self.connections.find(key) else { return };
        let upstream = connection.exchange.upstream.and_then(|key| self.upstreams.find(key));
        let Some(upstream) = upstream else { return };
        let socket = upstream.socket;
        self.engine.send(socket, chunk);
        let queued = self.engine.send_queued_bytes(socket);
        if queued >= RELAY_HIGH_BYTES {
            self.pause_downstream_if_full(key, queued);
        }
        self.note_progress(key);
    }

    pub(super) fn tunnel_downstream(&mut self, key: ConnectionKey, chunk: Chunk) {
        let Some(connection) = self.connections.find(key) else { return };
        let (socket, upstream) = (connection.socket, connection.exchange.upstream);
        self.engine.send(socket, chunk);
        if let Some(upstream) = upstream {
            self.pause_upstream_if_full(upstream, socket);
        }
        self.note_progress(key);
    }

    pub(super) fn tunnel_downstream_closed(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.find(key) else { return };
        let Some(upstream) = connection.exchange.upstream else { return };
        let Some(upstream) = self.upstreams.find(upstream) else { return };
        let both = upstream.read_closed;
        self.engine.shutdown_write(upstream.socket);
        if both {
            self.end_tunnel(key);
        }
    }

    pub(super) fn tunnel_upstream_closed(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.find(key) else { return };
        let both = connection.read_closed;
        self.engine.shutdown_write(connection.socket);
        if both {
            self.end_tunnel(key);
        }
    }

    /// Both sides have said all; what is queued still leaves.
    fn end_tunnel(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.find_mut(key) else { return };
        let Some(upstream) = connection.exchange.upstream else { return };
        let queued =
            self.upstreams.find(upstream).map_or(0, |u| self.engine.send_queued_bytes(u.socket));
        // The upstream queue may be the longer one; the tunnel ends when it has gone, see
        // `on_sent`.
        if let Some(upstream) = self.upstreams.find(upstream) {
            self.engine.relax_sent(upstream.socket, false);
        }
        if queued == 0 {
            connection.exchange.upstream = None;
            self.close_upstream(upstream);
            self.close_after_flush(key, false);
        }
    }

    /// The last bytes towards upstream have left.
    pub(super) fn on_tunnel_flushed(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.find(key) else { return };
        let upstream = connection.exchange.upstream.and_then(|key| self.upstreams.find(key));
        let closed =
            connection.read_closed && upstream.is_some_and(|upstream| upstream.read_closed);
        if connection.state == State::Tunnel && closed {
            self.end_tunnel(key);
        }
    }

    /// One side broke: so must the other, visibly.
    pub(super) fn abandon_tunnel(&mut self, key: ConnectionKey) {
        self.release_upstream(key);
        self.reset_downstream(key);
    }
}
