//! The backend for kernels and sandboxes without io_uring.
//!
//! Sockets are watched edge-triggered, with one `epoll_ctl` in their life; sends are tried at once
//! in the turn and watched for room only when the kernel took less. The invariant: a socket that is
//! readable and wanted is in `ready` (or `starved`, while no buffer is free), so an edge is never
//! lost.

#![forbid(unsafe_code)]

mod socket;

use self::socket::{Receive, Socket};
use super::{
    Backend, BufferPool, Chunk, Credits, Engine, EngineError, Event, ListenerKey, Operation,
    SocketKey, Waker,
    slab::Slab,
    socket::{
        AcceptError, Connecting, accept_last, connect_tcp, connect_unix, judge_accept_error, open,
        prepare_listener, reset_on_close, shutdown_write,
    },
    token::{Kind, Token},
};
use crate::limits::{
    ACCEPTS_PER_TURN, BUFFERS_MAX, EVENTS_PER_TURN, REARM_BUFFERS_MIN, RECEIVE_SLICES,
};
use rustix::{
    event::{
        Timespec,
        epoll::{self, CreateFlags, EventData, EventFlags},
    },
    io::{Errno, ioctl_fionbio},
    net::{SocketFlags, accept_with, sockopt},
};
use snapshot::Address;
use std::{collections::VecDeque, mem, os::fd::OwnedFd, sync::Arc, time::Duration};

pub struct EpollEngine {
    epoll: OwnedFd,
    buffers: BufferPool,
    waker: Waker,
    sockets: Slab<Socket>,
    listeners: Slab<Listener>,
    /// Sockets with something to send or shut down.
    dirty: Vec<u32>,
    /// Sockets that are readable, wanted, and have a turn in this order.
    ready: VecDeque<u32>,
    /// Sockets that wait for a free buffer.
    starved: Vec<u32>,
    /// Listeners with connections to take, within one turn.
    accepting: Vec<ListenerKey>,
    /// Events of calls between turns.
    pending: VecDeque<Event>,
    readiness: Box<[epoll::Event]>,
    /// `None`: nothing is accelerated.
    credits: Option<Arc<Credits>>,
}

struct Listener {
    fd: OwnedFd,
}

impl EpollEngine {
    pub fn new() -> Result<Self, EngineError> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(failed("epoll_create1"))?;
        let waker = Waker::new().map_err(failed("eventfd"))?;
        let token = Token { kind: Kind::Wake, index: 0, generation: 0 };
        epoll::add(&epoll, &waker, EventData::new_u64(token.pack()), EventFlags::IN)
            .map_err(failed("epoll_ctl"))?;
        Ok(Self {
            epoll,
            buffers: BufferPool::new().map_err(failed("mmap"))?,
            waker,
            sockets: Slab::new(),
            listeners: Slab::new(),
            dirty: Vec::new(),
            ready: VecDeque::new(),
            starved: Vec::new(),
            accepting: Vec::new(),
            pending: VecDeque::new(),
            readiness: vec![NO_EVENT; EVENTS_PER_TURN].into_boxed_slice(),
            credits: None,
        })
    }

    fn insert(&mut self, socket: Socket) -> SocketKey {
        let connecting = socket.connecting;
        let (index, generation) = self.sockets.insert(socket);
        let interest = if connecting { READABLE | EventFlags::OUT } else { READABLE };
        let data = socket_data(index, generation);
        if let Some(socket) = self.sockets.find_mut(index, generation)
            && let Err(error) = epoll::add(&self.epoll, &socket.fd, data, interest)
        {
            // Nothing would ever be heard of it: as good as a receive that failed.
            socket.receive = Receive::Ended;
            let key = SocketKey { index, generation };
            self.pending.push_back(failure(key, Operation::Receive, error));
        }
        SocketKey { index, generation }
    }

    fn socket_mut(&mut self, key: SocketKey) -> Option<&mut Socket> {
        self.sockets.find_mut(key.index, key.generation)
    }

    /// Tries all sends that were asked for; true when an event came that somebody may wait for.
    fn flush_dirty(&mut self, events: &mut Vec<Event>) -> bool {
        let mut urgent = false;
        let mut dirty = mem::take(&mut self.dirty);
        for index in dirty.drain(..) {
            if events.len() >= EVENTS_PER_TURN {
                self.dirty.push(index);
                urgent = true;
                continue;
            }
            urgent |= self.flush(index, events);
        }
        dirty.append(&mut self.dirty);
        self.dirty = dirty;
        urgent
    }

    fn flush(&mut self, index: u32, events: &mut Vec<Event>) -> bool {
        let Some((generation, socket)) = self.sockets.at_mut(index) else { return false };
        socket.dirty = false;
        if socket.connecting {
            return false;
        }
        let key = SocketKey { index, generation };
        let outcome = socket.send_queued();
        if outcome.sent > 0 {
            events.push(Event::Sent { socket: key, bytes: outcome.sent });
        }
        let mut urgent = outcome.sent > 0 && !(socket.relaxed && socket.queue.is_empty());
        match outcome.error {
            None if !socket.queue.is_empty() => {
                // The bound on one flush was reached, not the socket's: go on next turn.
                socket.dirty = true;
                self.dirty.push(index);
                urgent = true;
            }
            None => {}
            Some(Errno::AGAIN) => self.watch_writable(index, generation),
            Some(error) => {
                socket.fail_sending();
                events.push(failure(key, Operation::Send, error));
                urgent = true;
            }
        }
        if let Some((_, socket)) = self.sockets.at_mut(index)
            && socket.shutdown_wanted
            && socket.queue.is_empty()
        {
            socket.shutdown_wanted = false;
            shutdown_write(&socket.fd);
        }
        urgent
    }

    fn watch_writable(&mut self, index: u32, generation: u32) {
        let Some(socket) = self.sockets.find_mut(index, generation) else { return };
        socket.blocked = true;
        if self.buffers.are_scarce() {
            socket.queue.copy_out();
        }
        if !socket.watches_writable {
            socket.watches_writable = true;
            let data = socket_data(index, generation);
            // Cannot fail for a descriptor that is watched already.
            let _ = epoll::modify(&self.epoll, &socket.fd, data, READABLE | EventFlags::OUT);
        }
    }

    /// A Unix socket that is watched for room has an edge each time its peer reads, so it is not
    /// for longer than needed.
    fn unwatch_writable(&mut self, index: u32, generation: u32) {
        let Some(socket) = self.sockets.find_mut(index, generation) else { return };
        if socket.watches_writable && socket.queue.is_empty() {
            socket.watches_writable = false;
            let data = socket_data(index, generation);
            let _ = epoll::modify(&self.epoll, &socket.fd, data, READABLE);
        }
    }

    fn on_readiness(&mut self, token: Token, flags: EventFlags, events: &mut Vec<Event>) {
        match token.kind {
            Kind::Wake => {
                self.waker.drain();
                events.push(Event::Woken);
            }
            Kind::Accept => {
                let Token { index, generation, .. } = token;
                self.accepting.push(ListenerKey { index, generation });
            }
            _ => self.on_socket(token, flags, events),
        }
    }

    fn on_socket(&mut self, token: Token, flags: EventFlags, events: &mut Vec<Event>) {
        let Some(socket) = self.sockets.find_mut(token.index, token.generation) else { return };
        let has_room = flags.intersects(EventFlags::OUT | EventFlags::ERR | EventFlags::HUP);
        if socket.connecting {
            if on_connected(token, socket, events) {
                socket.credit = self.credits.as_ref().and_then(|credits| credits.of(&socket.fd));
                self.flush(token.index, events);
            }
        } else if socket.blocked && has_room {
            socket.blocked = false;
            self.flush(token.index, events);
            self.unwatch_writable(token.index, token.generation);
        }
        let Some(socket) = self.sockets.find_mut(token.index, token.generation) else { return };
        socket.on_readable(flags);
        if socket.may_receive() {
            socket.queued = true;
            self.ready.push_back(token.index);
        }
    }

    fn accept(&mut self, key: ListenerKey, events: &mut Vec<Event>) {
        // The listener is watched level-triggered: what is left over is told again.
        for _ in 0..ACCEPTS_PER_TURN.min(EVENTS_PER_TURN.saturating_sub(events.len())) {
            let Some(listener) = self.listeners.find_mut(key.index, key.generation) else { return };
            match accept_with(&listener.fd, SocketFlags::CLOEXEC) {
                Ok(socket) => events.push(Event::Accepted { listener: key, socket }),
                Err(Errno::AGAIN) => return,
                Err(error) if judge_accept_error(error) == AcceptError::Connection => {}
                Err(error) => {
                    let _ = epoll::delete(&self.epoll, &listener.fd);
                    events.push(Event::AcceptFailed { listener: key, error });
                    return;
                }
            }
        }
    }

    /// One receive for each socket that is ready, in turn, while there is room for events.
    fn receive_ready(&mut self, events: &mut Vec<Event>) {
        for _ in 0..self.ready.len() {
            if events.len() + RECEIVE_SLICES > EVENTS_PER_TURN {
                return;
            }
            let Some(index) = self.ready.pop_front() else { return };
            let Some((generation, socket)) = self.sockets.at_mut(index) else { continue };
            socket.queued = false;
            if !socket.may_receive() {
                continue;
            }
            let key = SocketKey { index, generation };
            if socket.receive_once(&self.buffers, key, events) == Err(Errno::NOBUFS) {
                socket.queued = true;
                self.starved.push(index);
            } else if socket.may_receive() {
                socket.queued = true;
                self.ready.push_back(index);
            }
        }
    }

    /// Waits until enough buffers are back that the starved do not take turns at starving.
    fn feed_starved(&mut self) {
        if !self.starved.is_empty() && self.buffers.free_buffers() >= REARM_BUFFERS_MIN {
            self.ready.extend(self.starved.drain(..));
        }
    }

    /// Returns how many of `readiness` are filled.
    fn wait(&mut self, timeout: Option<Duration>, most: usize) -> Result<usize, EngineError> {
        let timeout = timeout.map(round_up_to_millis);
        match epoll::wait(&self.epoll, &mut self.readiness[..most], timeout.as_ref()) {
            Ok(count) => Ok(count),
            Err(Errno::INTR) => Ok(0),
            Err(error) => Err(failed("epoll_wait")(error)),
        }
    }
}

impl Engine for EpollEngine {
    fn backend(&self) -> Backend {
        Backend::Epoll
    }

    fn accelerate(&mut self, credits: Arc<Credits>) {
        self.credits = Some(credits);
    }

    fn buffers(&self) -> &BufferPool {
        &self.buffers
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn listen(&mut self, listener: OwnedFd) -> ListenerKey {
        prepare_listener(&listener);
        // Another worker may share the queue and take the connection we were told of.
        let _ = ioctl_fionbio(&listener, true);
        let (index, generation) = self.listeners.insert(Listener { fd: listener });
        let key = ListenerKey { index, generation };
        self.accept_resume(key);
        key
    }

    fn accept_resume(&mut self, key: ListenerKey) {
        let Some(listener) = self.listeners.find(key.index, key.generation) else { return };
        let Listener { fd } = listener;
        let token = Token { kind: Kind::Accept, index: key.index, generation: key.generation };
        match epoll::add(&self.epoll, fd, EventData::new_u64(token.pack()), EventFlags::IN) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => self.pending.push_back(Event::AcceptFailed { listener: key, error }),
        }
    }

    fn unlisten(&mut self, key: ListenerKey) {
        let Some(listener) = self.listeners.find(key.index, key.generation) else { return };
        // A duplicate of the descriptor would keep it watched past our close.
        let _ = epoll::delete(&self.epoll, &listener.fd);
        let last = accept_last(&listener.fd);
        self.listeners.remove(key.index);
        self.pending.retain(
            |event| !matches!(event, Event::AcceptFailed { listener, .. } if *listener == key),
        );
        let accepted = last.into_iter().map(|socket| Event::Accepted { listener: key, socket });
        self.pending.extend(accepted);
        self.pending.push_back(Event::Unlistened { listener: key });
    }

    fn adopt(&mut self, socket: OwnedFd) -> SocketKey {
        let mut socket = Socket::new(socket);
        socket.credit = self.credits.as_ref().and_then(|credits| credits.of(&socket.fd));
        self.insert(socket)
    }

    fn connect(&mut self, address: &Address) -> Result<SocketKey, Errno> {
        let fd = open(address, SocketFlags::NONBLOCK)?;
        let progress = match address {
            Address::Tcp(address) => connect_tcp(&fd, address),
            Address::Unix(path) => connect_unix(&fd, path),
        };
        let mut socket = Socket::new(fd);
        socket.connecting = progress == Connecting::InProgress;
        socket.watches_writable = socket.connecting;
        if matches!(progress, Connecting::Failed(_)) {
            socket.receive = Receive::Ended;
            socket.fail_sending();
        }
        let key = self.insert(socket);
        match progress {
            Connecting::Connected => {
                if let Some(credits) = &self.credits
                    && let Some(socket) = self.sockets.find_mut(key.index, key.generation)
                {
                    socket.credit = credits.of(&socket.fd);
                }
                self.pending.push_back(Event::Connected { socket: key });
            }
            Connecting::Failed(error) => {
                self.pending.push_back(failure(key, Operation::Connect, error));
            }
            Connecting::InProgress => {}
        }
        Ok(key)
    }

    fn receive_start(&mut self, key: SocketKey) {
        let Some(socket) = self.socket_mut(key) else { return };
        if socket.receive == Receive::Off {
            socket.receive = Receive::On;
        }
        if socket.may_receive() {
            socket.queued = true;
            self.ready.push_back(key.index);
        }
    }

    fn receive_stop(&mut self, key: SocketKey) {
        if let Some(socket) = self.socket_mut(key)
            && socket.receive == Receive::On
        {
            socket.receive = Receive::Off;
        }
    }

    fn send(&mut self, key: SocketKey, chunk: Chunk) {
        let scarce = self.buffers.are_scarce();
        let Some(socket) = self.socket_mut(key) else { return };
        if socket.send_failed {
            return;
        }
        socket.queue.push(if scarce && socket.blocked { chunk.into_heap() } else { chunk });
        if !socket.dirty && !socket.blocked && !socket.queue.is_empty() {
            socket.dirty = true;
            self.dirty.push(key.index);
        }
    }

    fn send_queued_bytes(&self, key: SocketKey) -> usize {
        self.sockets.find(key.index, key.generation).map_or(0, |socket| socket.queue.bytes())
    }

    fn relax_sent(&mut self, key: SocketKey, relaxed: bool) {
        if let Some(socket) = self.socket_mut(key) {
            socket.relaxed = relaxed;
        }
    }

    fn shutdown_write(&mut self, key: SocketKey) {
        let Some(socket) = self.socket_mut(key) else { return };
        if socket.send_failed {
            return;
        }
        socket.shutdown_wanted = true;
        if !socket.dirty && !socket.blocked {
            socket.dirty = true;
            self.dirty.push(key.index);
        }
    }

    fn close(&mut self, key: SocketKey) {
        if self.socket_mut(key).is_some() {
            self.sockets.remove(key.index);
            self.pending.retain(|event| event.socket() != Some(key));
        }
    }

    fn reset(&mut self, key: SocketKey) {
        if let Some(socket) = self.socket_mut(key) {
            reset_on_close(&socket.fd);
        }
        self.close(key);
    }

    fn turn(
        &mut self,
        timeout: Option<Duration>,
        events: &mut Vec<Event>,
    ) -> Result<(), EngineError> {
        let room = EVENTS_PER_TURN.min(self.pending.len());
        events.extend(self.pending.drain(..room));
        let urgent = self.flush_dirty(events);
        self.feed_starved();
        let busy = urgent || room > 0 || !self.ready.is_empty();
        // A socket that is ready makes two events at most, and its edge cannot be asked for again.
        let most = EVENTS_PER_TURN.saturating_sub(events.len()) / 2;
        if most == 0 {
            return Ok(());
        }
        let count = self.wait(if busy { Some(Duration::ZERO) } else { timeout }, most)?;
        for at in 0..count {
            let epoll::Event { flags, data } = self.readiness[at];
            if let Some(token) = Token::unpack(data.u64()) {
                self.on_readiness(token, flags, events);
            }
        }
        for listener in mem::take(&mut self.accepting) {
            self.accept(listener, events);
        }
        self.receive_ready(events);
        Ok(())
    }
}

/// Tells how connecting ended; true when the socket is open now.
fn on_connected(token: Token, socket: &mut Socket, events: &mut Vec<Event>) -> bool {
    let key = SocketKey { index: token.index, generation: token.generation };
    socket.connecting = false;
    match sockopt::socket_error(&socket.fd).and_then(|outcome| outcome) {
        Ok(()) => {
            events.push(Event::Connected { socket: key });
            true
        }
        Err(error) => {
            socket.receive = Receive::Ended;
            socket.fail_sending();
            events.push(failure(key, Operation::Connect, error));
            false
        }
    }
}

const fn failure(socket: SocketKey, operation: Operation, error: Errno) -> Event {
    Event::Failed { socket, operation, error }
}

fn failed(operation: &'static str) -> impl Fn(Errno) -> EngineError {
    move |error| EngineError { operation, error }
}

fn socket_data(index: u32, generation: u32) -> EventData {
    EventData::new_u64(Token { kind: Kind::Socket, index, generation }.pack())
}

/// Whole milliseconds pass through `epoll_pwait`, which every sandbox allows; finer ones need
/// `epoll_pwait2`.
fn round_up_to_millis(timeout: Duration) -> Timespec {
    let millis = timeout.as_nanos().div_ceil(1_000_000);
    let millis = i64::try_from(millis).unwrap_or(i64::MAX).min(WAIT_MILLIS_MAX);
    Timespec { tv_sec: millis / 1000, tv_nsec: millis % 1000 * 1_000_000 }
}

/// What `epoll_pwait` can express, roughly: 12 days.
const WAIT_MILLIS_MAX: i64 = 1 << 30;

const NO_EVENT: epoll::Event =
    epoll::Event { flags: EventFlags::empty(), data: EventData::new_u64(0) };

/// RDHUP, so that a FIN that comes after a receive emptied the socket is an edge of its own.
const READABLE: EventFlags = EventFlags::IN.union(EventFlags::RDHUP).union(EventFlags::ET);

const _: () = assert!(REARM_BUFFERS_MIN <= BUFFERS_MAX as usize);
