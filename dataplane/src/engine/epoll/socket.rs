//! One socket of the epoll backend: what is known of its readiness, and the calls that use it.

#![forbid(unsafe_code)]

use super::super::{
    BufferPool, Chunk, Event, Operation, SocketKey, credit::Credit, pool::Slot, queue::SendQueue,
};
use crate::limits::{BUFFER_BYTES, FLUSH_BYTES_MAX, GATHER_SLICES, HEADROOM_BYTES, RECEIVE_SLICES};
use arrayvec::ArrayVec;
use rustix::{
    event::epoll::EventFlags,
    io::{self, Errno, IoSlice, IoSliceMut},
    net::{
        RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags, recv, recvmsg, send,
        sendmsg,
    },
};
use std::os::fd::OwnedFd;

pub(super) struct Socket {
    pub(super) fd: OwnedFd,
    pub(super) connecting: bool,
    pub(super) receive: Receive,
    /// Told of what is received, if it comes past TCP.
    pub(super) credit: Option<Box<Credit>>,
    /// There may be something to receive: no receive came back empty since the last edge.
    readable: bool,
    /// The peer is done or gone, so a receive that is not full still needs the next one, which says
    /// so.
    hung_up: bool,
    /// Stands in `ready` or `starved`.
    pub(super) queued: bool,
    /// Buffers the next receive offers; doubles while they come back full.
    slices: usize,
    pub(super) queue: SendQueue,
    /// Stands in `dirty`.
    pub(super) dirty: bool,
    /// The kernel took less than was offered; waits for an edge.
    pub(super) blocked: bool,
    pub(super) watches_writable: bool,
    pub(super) relaxed: bool,
    pub(super) shutdown_wanted: bool,
    pub(super) send_failed: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Receive {
    /// FIN or an error came; nothing follows.
    Ended,
    Off,
    On,
}

/// What one flush achieved.
pub(super) struct Flushed {
    pub(super) sent: usize,
    /// Why it ended early: `AGAIN` when the socket is full.
    pub(super) error: Option<Errno>,
}

impl Socket {
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            connecting: false,
            receive: Receive::Off,
            credit: None,
            readable: false,
            hung_up: false,
            queued: false,
            slices: 1,
            queue: SendQueue::default(),
            dirty: false,
            blocked: false,
            watches_writable: false,
            relaxed: false,
            shutdown_wanted: false,
            send_failed: false,
        }
    }

    pub(super) fn on_readable(&mut self, flags: EventFlags) {
        let hung_up = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        self.hung_up |= hung_up;
        self.readable |= hung_up || flags.contains(EventFlags::IN);
    }

    pub(super) fn may_receive(&self) -> bool {
        self.receive == Receive::On && self.readable && !self.queued && !self.connecting
    }

    pub(super) fn fail_sending(&mut self) {
        self.send_failed = true;
        self.shutdown_wanted = false;
        self.blocked = false;
        self.queue.clear();
    }

    /// Sends what is queued until the kernel takes less than offered, or enough for one turn.
    pub(super) fn send_queued(&mut self) -> Flushed {
        let mut sent = 0;
        while !self.queue.is_empty() && sent < FLUSH_BYTES_MAX {
            let offered = self.queue.first(GATHER_SLICES).map(|chunk| chunk.len()).sum();
            match self.send_once() {
                Ok(count) => {
                    self.queue.consume(count);
                    sent += count;
                    if count < offered {
                        return Flushed { sent, error: Some(Errno::AGAIN) };
                    }
                }
                Err(Errno::INTR) => {}
                Err(error) => return Flushed { sent, error: Some(error) },
            }
        }
        Flushed { sent, error: None }
    }

    fn send_once(&self) -> io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        if let Some(chunk) = self.queue.only() {
            return send(&self.fd, chunk, flags);
        }
        let chunks = self.queue.first(GATHER_SLICES);
        let slices: ArrayVec<IoSlice<'_>, GATHER_SLICES> =
            chunks.map(|chunk| IoSlice::new(chunk)).collect();
        sendmsg(&self.fd, &slices, &mut SendAncillaryBuffer::default(), flags)
    }

    /// Receives once and tells what came.
    ///
    /// # Errors
    /// `NOBUFS` when no buffer is free; the socket is still readable then.
    pub(super) fn receive_once(
        &mut self,
        buffers: &BufferPool,
        key: SocketKey,
        events: &mut Vec<Event>,
    ) -> Result<(), Errno> {
        let mut slots: ArrayVec<Slot, RECEIVE_SLICES> =
            (0..self.slices).map_while(|_| buffers.take_receive()).collect();
        if slots.is_empty() {
            return Err(Errno::NOBUFS);
        }
        match self.receive_into(&mut slots) {
            Ok(0) => {
                self.receive = Receive::Ended;
                events.push(Event::ReceiveClosed { socket: key });
            }
            Ok(count) => {
                if let Some(credit) = &mut self.credit {
                    credit.took(count);
                }
                let room = slots.len() * BUFFER_BYTES;
                self.readable = self.hung_up || count == room;
                self.slices = if count == room { (2 * self.slices).min(RECEIVE_SLICES) } else { 1 };
                push_received(slots, count, key, events);
            }
            Err(Errno::AGAIN) => self.readable = false,
            Err(Errno::INTR) => {}
            Err(error) => {
                self.receive = Receive::Ended;
                events.push(Event::Failed { socket: key, operation: Operation::Receive, error });
            }
        }
        Ok(())
    }

    fn receive_into(&self, slots: &mut [Slot]) -> io::Result<usize> {
        let flags = RecvFlags::DONTWAIT;
        if let [slot] = slots {
            return recv(&self.fd, room(slot), flags).map(|(count, _)| count);
        }
        let mut slices: ArrayVec<IoSliceMut<'_>, RECEIVE_SLICES> =
            slots.iter_mut().map(|slot| IoSliceMut::new(room(slot))).collect();
        recvmsg(&self.fd, &mut slices, &mut RecvAncillaryBuffer::default(), flags)
            .map(|message| message.bytes)
    }
}

fn room(slot: &mut Slot) -> &mut [u8] {
    slot.unique_bytes_mut(HEADROOM_BYTES..HEADROOM_BYTES + BUFFER_BYTES)
        .expect("a slot that was just taken has one share")
}

fn push_received(
    slots: ArrayVec<Slot, RECEIVE_SLICES>,
    count: usize,
    key: SocketKey,
    events: &mut Vec<Event>,
) {
    let mut left = count;
    for slot in slots {
        let bytes = left.min(BUFFER_BYTES);
        if bytes == 0 {
            break;
        }
        left -= bytes;
        events.push(Event::Received { socket: key, chunk: Chunk::received(slot, bytes) });
    }
}
