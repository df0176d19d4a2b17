//! Receiving: one multishot operation a socket, ended by FIN, failure, want of buffers or a cancel.
//!
//! Each completion that carries a buffer gives it back to the engine, whatever else it says; its
//! chunk or nobody owns it.

use super::{
    Completion, UringEngine, failure, op,
    socket::{Receive, Stage},
    socket_token, token_key,
};
use crate::{
    engine::{
        Chunk, Event, Operation, SocketKey,
        token::{Kind, Token},
    },
    limits::REARM_BUFFERS_MIN,
};
use io_uring::cqueue;
use rustix::io::Errno;
use std::mem;

impl UringEngine {
    pub(super) fn arm_receive(&mut self, key: SocketKey) {
        let Some(socket) = self.sockets.find_mut(key.index, key.generation) else { return };
        socket.receive = Receive::Armed;
        socket.operations += 1;
        self.operations += 1;
        let entry = op::receive(&socket.fd, socket_token(Kind::Receive, key));
        // SAFETY: the entry points to no memory; buffers come from the registered ring.
        unsafe { self.ring.push(entry) };
    }

    pub(super) fn on_receive(
        &mut self,
        token: Token,
        completion: Completion,
        events: &mut Vec<Event>,
    ) {
        let key = token_key(token);
        // Taken in any case, so that a buffer nobody wants goes back.
        let slot = cqueue::buffer_select(completion.flags)
            .map(|id| self.buffer_ring.complete(&self.buffers, id));
        let Some(socket) = self.sockets.find_mut(key.index, key.generation) else { return };
        if completion.is_last() {
            socket.operations -= 1;
            self.operations -= 1;
        }
        if socket.stage == Stage::Closing {
            return self.finish_closing(key);
        }
        let outcome = completion.outcome();
        if let (Ok(count @ 1..), Some(slot)) = (outcome, slot) {
            if let Some(credit) = &mut socket.credit {
                credit.took(count);
            }
            events.push(Event::Received { socket: key, chunk: Chunk::received(slot, count) });
        }
        if completion.is_last() {
            self.on_receive_ended(key, outcome, events);
        }
    }

    pub(super) fn on_receive_ended(
        &mut self,
        key: SocketKey,
        outcome: Result<usize, Errno>,
        events: &mut Vec<Event>,
    ) {
        let Some(socket) = self.owned_mut(key) else { return };
        let wanted = matches!(socket.receive, Receive::Armed | Receive::Restarting);
        match outcome {
            Ok(0) => {
                socket.receive = Receive::Ended;
                events.push(Event::ReceiveClosed { socket: key });
            }
            Err(Errno::NOBUFS) if wanted => {
                socket.receive = Receive::Starved;
                self.starved.push(key);
            }
            // It ended by itself (a full completion ring, a signal) or was cancelled: not the
            // socket's end.
            Ok(_) | Err(Errno::CANCELED | Errno::INTR | Errno::NOBUFS) => {
                socket.receive = Receive::Off;
                if wanted {
                    self.arm_receive(key);
                }
            }
            Err(error) => {
                socket.receive = Receive::Ended;
                events.push(failure(key, Operation::Receive, error));
            }
        }
    }

    /// Gives the kernel fresh buffers, and arms those that found none once enough are free that
    /// they will not take turns at starving.
    pub(super) fn feed(&mut self) {
        self.buffer_ring.publish(&self.buffers);
        if self.starved.is_empty()
            || self.buffer_ring.is_empty()
            || self.buffers.free_buffers() < REARM_BUFFERS_MIN
        {
            return;
        }
        for key in mem::take(&mut self.starved) {
            if self.owned_mut(key).is_some_and(|socket| socket.receive == Receive::Starved) {
                self.arm_receive(key);
            }
        }
    }
}
