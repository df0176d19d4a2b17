//! An engine made of memory: keeps the contract of [`crate::engine`] and otherwise does what is
//! least convenient.
//!
//! Receives come in pieces of any size, sends take any part of what is queued, sockets are served
//! in any order or not at all in a turn, receives that were stopped still bring something, and a
//! relaxed `Sent` is kept back until something else happens, as the real engines may.

#![forbid(unsafe_code)]

use super::{
    net::{Connecting, End, Net, Place, Read},
    random::Random,
};
use crate::{
    engine::{
        Backend, BufferPool, Chunk, Engine, EngineError, Event, ListenerKey, Operation, SocketKey,
        Waker,
    },
    limits::BUFFER_BYTES,
    slab::{Key, Slab},
};
use rustix::io::Errno;
use snapshot::Address;
use std::{
    cell::RefCell,
    collections::{HashMap, VecDeque},
    fs::File,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    rc::Rc,
    time::Duration,
};

/// Pieces that one socket receives in one turn at most.
const PIECES_PER_TURN: usize = 3;

/// Bytes that come at most although receiving was stopped.
pub(super) const LATE_BYTES_MAX: usize = PIECES_PER_TURN * BUFFER_BYTES;

pub(super) struct SimEngine {
    net: Rc<RefCell<Net>>,
    random: Random,
    buffers: BufferPool,
    waker: Waker,
    sockets: Slab<Socket>,
    listeners: Slab<Place>,
    /// What a descriptor that goes through the worker's hands stands for.
    tickets: HashMap<RawFd, Ticket>,
    /// Events of calls between turns.
    pending: Vec<Event>,
    /// Sent events that do not end a wait.
    held: Vec<Event>,
    /// Slots that nobody else gets.
    hoard: Vec<Chunk>,
    /// Percentage of sockets served in a turn; 100: all, whole.
    pub(super) eagerness: usize,
    /// Woken although nothing happened.
    pub(super) is_woken: bool,
}

enum Ticket {
    Place(Place),
    Stream(End),
}

struct Socket {
    end: End,
    is_connecting: bool,
    is_receiving: bool,
    receive_ended: bool,
    /// Pieces that still come although receiving was stopped.
    late_pieces: usize,
    queue: VecDeque<Chunk>,
    queued_bytes: usize,
    is_relaxed: bool,
    shutdown_wanted: bool,
    send_failed: bool,
}

impl SimEngine {
    pub(super) fn new(net: Rc<RefCell<Net>>, random: Random) -> Self {
        Self {
            net,
            random,
            buffers: BufferPool::new().expect("address space for buffers"),
            waker: Waker::new().expect("a descriptor for the waker"),
            sockets: Slab::default(),
            listeners: Slab::default(),
            tickets: HashMap::new(),
            pending: Vec::new(),
            held: Vec::new(),
            hoard: Vec::new(),
            eagerness: 100,
            is_woken: false,
        }
    }

    /// A descriptor that stands for a place to accept from.
    pub(super) fn descriptor_of(&mut self, place: Place) -> OwnedFd {
        self.ticket(Ticket::Place(place))
    }

    /// An accepted descriptor is dropped.
    pub(super) fn discard(&mut self, socket: &OwnedFd) {
        if let Some(Ticket::Stream(end)) = self.tickets.remove(&socket.as_raw_fd()) {
            self.net.borrow_mut().close(end);
        }
    }

    /// Takes all but `left` receive slots away, and gives those back that were taken before:
    /// whether there were any.
    pub(super) fn set_free_buffers(&mut self, left: usize) -> bool {
        let had_some = !self.hoard.is_empty();
        self.hoard.clear();
        while self.buffers.free_buffers() > left {
            let Some(slot) = self.buffers.receive_copy(b"") else { break };
            self.hoard.push(slot);
        }
        had_some
    }

    /// Slots that are lent, and not to ourselves.
    pub(super) fn leased_buffers(&self) -> usize {
        self.buffers.leased_buffers() - self.hoard.len()
    }

    pub(super) fn socket_count(&self) -> usize {
        self.sockets.len()
    }

    pub(super) fn is_relaxed(&self, key: SocketKey) -> bool {
        self.sockets.find(slab_key(key)).is_some_and(|socket| socket.is_relaxed)
    }

    fn ticket(&mut self, ticket: Ticket) -> OwnedFd {
        let fd = OwnedFd::from(File::open("/dev/null").expect("/dev/null is there"));
        self.tickets.insert(fd.as_raw_fd(), ticket);
        fd
    }

    fn insert(&mut self, end: End, is_connecting: bool) -> SocketKey {
        let socket = Socket {
            end,
            is_connecting,
            is_receiving: false,
            receive_ended: false,
            late_pieces: 0,
            queue: VecDeque::new(),
            queued_bytes: 0,
            is_relaxed: false,
            shutdown_wanted: false,
            send_failed: false,
        };
        socket_key(self.sockets.insert(socket))
    }

    fn socket_mut(&mut self, key: SocketKey) -> Option<&mut Socket> {
        self.sockets.find_mut(slab_key(key))
    }

    fn accept_all(&mut self, events: &mut Vec<Event>) {
        let listeners: Vec<(Key<Place>, Place)> = self
            .listeners
            .keys()
            .filter_map(|key| self.listeners.find(key).map(|place| (key, *place)))
            .collect();
        for (key, place) in listeners {
            while self.random.chance(self.eagerness.max(30)) {
                let Some(end) = self.net.borrow_mut().accept(place) else { break };
                let socket = self.ticket(Ticket::Stream(end));
                events.push(Event::Accepted { listener: listener_key(key), socket });
            }
        }
    }

    fn serve(&mut self, key: Key<Socket>, events: &mut Vec<Event>) {
        let is_eager = self.eagerness == 100;
        let Some(socket) = self.sockets.find_mut(key) else { return };
        let mut net = self.net.borrow_mut();
        let id = socket_key(key);
        if socket.is_connecting {
            match net.poll_connect(socket.end) {
                Connecting::Pending => return,
                Connecting::Done => {
                    socket.is_connecting = false;
                    events.push(Event::Connected { socket: id });
                }
                Connecting::Failed(error) => {
                    socket.is_connecting = false;
                    socket.fail_sending();
                    socket.receive_ended = true;
                    return events.push(failure(id, Operation::Connect, error));
                }
            }
            if !is_eager && self.random.chance(50) {
                return;
            }
        }
        if let Some(event) = socket.send(id, &mut net) {
            let relaxed = socket.is_relaxed && socket.queue.is_empty();
            let is_sent = matches!(event, Event::Sent { .. });
            if relaxed && is_sent { self.held.push(event) } else { events.push(event) }
        }
        if socket.shutdown_wanted && socket.queue.is_empty() && !socket.send_failed {
            socket.shutdown_wanted = false;
            net.shutdown(socket.end);
        }
        for _ in 0..PIECES_PER_TURN {
            let bytes_max = match self.random.below(4) {
                0 => self.random.between(1, 24),
                1 => self.random.between(1, BUFFER_BYTES),
                _ => BUFFER_BYTES,
            };
            let buffers = &self.buffers;
            let Some(event) = socket.receive(id, bytes_max, buffers, &mut net) else { break };
            events.push(event);
        }
        socket.late_pieces = 0;
    }
}

impl Socket {
    fn send(&mut self, id: SocketKey, net: &mut Net) -> Option<Event> {
        if self.queue.is_empty() {
            return None;
        }
        let mut sent = 0;
        while let Some(chunk) = self.queue.front_mut() {
            match net.write(self.end, chunk) {
                Ok(count) => {
                    sent += count;
                    self.queued_bytes -= count;
                    if count < chunk.len() {
                        chunk.advance(count);
                        break;
                    }
                    self.queue.pop_front();
                }
                Err(error) => {
                    self.fail_sending();
                    return Some(failure(id, Operation::Send, error));
                }
            }
        }
        (sent > 0).then_some(Event::Sent { socket: id, bytes: sent })
    }

    fn fail_sending(&mut self) {
        self.send_failed = true;
        self.shutdown_wanted = false;
        self.queue.clear();
        self.queued_bytes = 0;
    }

    fn receive(
        &mut self,
        id: SocketKey,
        bytes_max: usize,
        buffers: &BufferPool,
        net: &mut Net,
    ) -> Option<Event> {
        if self.receive_ended || (!self.is_receiving && self.late_pieces == 0) {
            return None;
        }
        if buffers.free_buffers() == 0 {
            return None;
        }
        self.late_pieces = self.late_pieces.saturating_sub(1);
        match net.read(self.end, bytes_max) {
            Read::Nothing => None,
            Read::Bytes(bytes) => {
                let chunk = buffers.receive_copy(&bytes).expect("a buffer is free");
                Some(Event::Received { socket: id, chunk })
            }
            Read::Fin => {
                self.receive_ended = true;
                net.motion += 1;
                Some(Event::ReceiveClosed { socket: id })
            }
            Read::Broken(error) => {
                self.receive_ended = true;
                net.motion += 1;
                Some(failure(id, Operation::Receive, error))
            }
        }
    }
}

impl Engine for SimEngine {
    fn backend(&self) -> Backend {
        Backend::Epoll
    }

    fn buffers(&self) -> &BufferPool {
        &self.buffers
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn listen(&mut self, listener: OwnedFd) -> ListenerKey {
        match self.tickets.remove(&listener.as_raw_fd()) {
            Some(Ticket::Place(place)) => listener_key(self.listeners.insert(place)),
            _ => panic!("only places are listened at"),
        }
    }

    fn accept_resume(&mut self, _: ListenerKey) {}

    fn unlisten(&mut self, key: ListenerKey) {
        let place = self.listeners.remove(Key::from_bits(bits(key.index, key.generation)));
        if let Some(place) = place {
            self.net.borrow_mut().shut_place(place);
            self.pending.push(Event::Unlistened { listener: key });
        }
    }

    fn adopt(&mut self, socket: OwnedFd) -> SocketKey {
        match self.tickets.remove(&socket.as_raw_fd()) {
            Some(Ticket::Stream(end)) => self.insert(end, false),
            _ => panic!("only accepted streams are adopted"),
        }
    }

    fn connect(&mut self, address: &Address) -> Result<SocketKey, Errno> {
        let place = place_of(address);
        let mut net = self.net.borrow_mut();
        if !net.is_calm(place) && self.random.chance(2) {
            return Err(Errno::MFILE);
        }
        let end = net.connect(place, true);
        drop(net);
        Ok(self.insert(end, true))
    }

    fn receive_start(&mut self, key: SocketKey) {
        if let Some(socket) = self.socket_mut(key) {
            socket.is_receiving = true;
        }
    }

    fn receive_stop(&mut self, key: SocketKey) {
        let late = if self.random.chance(30) { self.random.below(PIECES_PER_TURN) } else { 0 };
        if let Some(socket) = self.socket_mut(key)
            && socket.is_receiving
        {
            socket.is_receiving = false;
            socket.late_pieces = late;
        }
    }

    fn send(&mut self, key: SocketKey, chunk: Chunk) {
        let Some(socket) = self.socket_mut(key) else { return };
        if socket.send_failed || chunk.is_empty() {
            return;
        }
        socket.queued_bytes += chunk.len();
        socket.queue.push_back(chunk);
    }

    fn send_queued_bytes(&self, key: SocketKey) -> usize {
        self.sockets.find(slab_key(key)).map_or(0, |socket| socket.queued_bytes)
    }

    fn relax_sent(&mut self, key: SocketKey, relaxed: bool) {
        if let Some(socket) = self.socket_mut(key) {
            socket.is_relaxed = relaxed;
        }
    }

    fn shutdown_write(&mut self, key: SocketKey) {
        if let Some(socket) = self.socket_mut(key)
            && !socket.send_failed
        {
            socket.shutdown_wanted = true;
        }
    }

    fn close(&mut self, key: SocketKey) {
        if let Some(socket) = self.sockets.remove(slab_key(key)) {
            self.net.borrow_mut().close(socket.end);
            self.held.retain(|event| event.socket() != Some(key));
            self.pending.retain(|event| event.socket() != Some(key));
        }
    }

    fn reset(&mut self, key: SocketKey) {
        if let Some(socket) = self.sockets.find(slab_key(key)) {
            self.net.borrow_mut().reset(socket.end);
        }
        self.close(key);
    }

    /// Does not wait: no event means that the real one would be waiting still, unless `timeout` is
    /// zero.
    fn turn(
        &mut self,
        timeout: Option<Duration>,
        events: &mut Vec<Event>,
    ) -> Result<(), EngineError> {
        let mut happened = std::mem::take(&mut self.pending);
        if std::mem::take(&mut self.is_woken) {
            happened.push(Event::Woken);
        }
        self.accept_all(&mut happened);
        let mut keys: Vec<Key<Socket>> = self.sockets.keys().collect();
        self.random.shuffle(&mut keys);
        for key in keys {
            if self.random.chance(self.eagerness) {
                self.serve(key, &mut happened);
            }
        }
        if !happened.is_empty() || timeout == Some(Duration::ZERO) {
            // What was sent before comes before what was received since.
            events.append(&mut self.held);
        }
        events.append(&mut happened);
        Ok(())
    }
}

pub(super) fn address_of(place: Place) -> Address {
    Address::Unix(format!("/sim/{}", place.0).into())
}

fn place_of(address: &Address) -> Place {
    let Address::Unix(path) = address else { panic!("places have paths") };
    let number = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
    Place(number.expect("the path of a place ends in its number"))
}

const fn failure(socket: SocketKey, operation: Operation, error: Errno) -> Event {
    Event::Failed { socket, operation, error }
}

fn socket_key(key: Key<Socket>) -> SocketKey {
    let (index, generation) = halves(key.to_bits());
    SocketKey { index, generation }
}

fn listener_key(key: Key<Place>) -> ListenerKey {
    let (index, generation) = halves(key.to_bits());
    ListenerKey { index, generation }
}

fn slab_key(key: SocketKey) -> Key<Socket> {
    Key::from_bits(bits(key.index, key.generation))
}

fn bits(index: u32, generation: u32) -> u64 {
    (u64::from(generation) << 32) | u64::from(index)
}

#[expect(clippy::cast_possible_truncation, reason = "the two halves of the number")]
const fn halves(bits: u64) -> (u32, u32) {
    (bits as u32, (bits >> 32) as u32)
}
