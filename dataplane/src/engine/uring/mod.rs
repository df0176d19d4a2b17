//! The io_uring backend: one enter a turn submits what is wanted and brings what happened.
//!
//! Receives are multishot into a ring of provided buffers, so an idle connection holds none and a
//! FIN is seen at once. Sends run inside the enter that submits them. Completions are read in two
//! passes, sends first, so that a `Sent` precedes what the peer answered. The invariant: everything
//! the kernel may still touch (descriptor, chunks, slices, address) stays where it is until
//! `operations` of its socket is zero.

mod buffers;
mod gather;
mod lifecycle;
mod op;
mod receive;
mod ring;
mod send;
mod socket;

pub(super) use self::ring::TaskMode;

use self::{
    buffers::BufferRing,
    gather::Gather,
    ring::Ring,
    socket::{Receive, Sending, Socket, Stage},
};
use super::{
    Backend, BufferPool, Chunk, Credits, Engine, EngineError, Event, ListenerKey, Operation,
    SocketKey, Waker,
    slab::Slab,
    socket::{open, prepare_listener, reset_on_close},
    token::{Kind, Token},
};
use crate::limits::EVENTS_PER_TURN;
use io_uring::cqueue;
use rustix::{
    fs::{OFlags, fcntl_getfl},
    io::{Errno, ioctl_fionbio},
    net::SocketFlags,
};
use snapshot::Address;
use socket2::SockAddr;
use std::{
    collections::VecDeque,
    mem,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

pub struct UringEngine {
    ring: Ring,
    buffer_ring: BufferRing,
    buffers: BufferPool,
    waker: Waker,
    sockets: Slab<Socket>,
    listeners: Slab<Listener>,
    /// Operations of all sockets, listeners and the waker without their last completion.
    operations: usize,
    /// Sockets with something to send or shut down.
    dirty: Vec<u32>,
    /// Sends that have left if the enter brings no word of them.
    inline: Vec<SocketKey>,
    /// Sockets whose receive found no buffer.
    starved: Vec<SocketKey>,
    /// Completions read and not yet told, after sends were taken out.
    backlog: VecDeque<Completion>,
    /// Scratch for the completions of one enter.
    fresh: Vec<Completion>,
    /// Events that come before those of `backlog`.
    ready: VecDeque<Event>,
    /// Vectors of gathered sends, for reuse.
    #[expect(clippy::vec_box, reason = "the kernel has a vector's address, so it may not move")]
    gathers: Vec<Box<Gather>>,
    /// `None`: nothing is accelerated.
    credits: Option<Arc<Credits>>,
}

struct Listener {
    fd: OwnedFd,
    /// The kernel has its accept.
    armed: bool,
    closing: bool,
}

/// A completion, copied out of the ring.
#[derive(Clone, Copy, Debug)]
struct Completion {
    bits: u64,
    result: i32,
    flags: u32,
}

impl Completion {
    /// The one place where a negated errno becomes one.
    fn outcome(self) -> Result<usize, Errno> {
        usize::try_from(self.result)
            .map_err(|_| Errno::from_raw_os_error(self.result.saturating_neg()))
    }

    fn is_last(self) -> bool {
        !cqueue::more(self.flags)
    }
}

impl UringEngine {
    /// Makes the ring, for this thread: no other may drive the engine.
    ///
    /// # Errors
    /// When the kernel or a sandbox refuses; [`super::probe`] puts that into words.
    pub fn new() -> Result<Self, EngineError> {
        Self::on(Ring::new().map_err(failed("io_uring_setup"))?)
    }

    #[cfg(test)]
    pub(super) fn cooperative() -> Result<Self, EngineError> {
        Self::on(Ring::cooperative().map_err(failed("io_uring_setup"))?)
    }

    fn on(ring: Ring) -> Result<Self, EngineError> {
        if let Some(feature) = ring.missing_feature() {
            return Err(EngineError { operation: feature, error: Errno::NOSYS });
        }
        let buffer_ring =
            BufferRing::register(ring.submitter()).map_err(failed("IORING_REGISTER_PBUF_RING"))?;
        let mut engine = Self {
            ring,
            buffer_ring,
            buffers: BufferPool::new().map_err(failed("mmap"))?,
            waker: Waker::new().map_err(failed("eventfd"))?,
            sockets: Slab::new(),
            listeners: Slab::new(),
            operations: 0,
            dirty: Vec::new(),
            inline: Vec::new(),
            starved: Vec::new(),
            backlog: VecDeque::new(),
            fresh: Vec::new(),
            ready: VecDeque::new(),
            gathers: Vec::new(),
            credits: None,
        };
        engine.watch_waker();
        Ok(engine)
    }

    pub(super) const fn task_mode(&self) -> TaskMode {
        self.ring.mode()
    }

    fn insert(&mut self, socket: Socket) -> SocketKey {
        let (index, generation) = self.sockets.insert(socket);
        SocketKey { index, generation }
    }

    /// The socket, if its owner still has it.
    fn owned_mut(&mut self, key: SocketKey) -> Option<&mut Socket> {
        self.sockets
            .find_mut(key.index, key.generation)
            .filter(|socket| socket.stage != Stage::Closing)
    }

    fn watch_waker(&mut self) {
        let entry = op::watch(&self.waker, WAKE);
        self.operations += 1;
        // SAFETY: the entry points to no memory.
        unsafe { self.ring.push(entry) };
    }

    fn mark_dirty(&mut self, key: SocketKey) {
        if let Some(socket) = self.owned_mut(key)
            && !socket.dirty
        {
            socket.dirty = true;
            self.dirty.push(key.index);
        }
    }
}

/// One turn.
impl UringEngine {
    fn enter(&mut self, timeout: Option<Duration>) -> Result<(), EngineError> {
        self.ring.enter(timeout).map_err(failed("io_uring_enter"))?;
        let mut fresh = mem::take(&mut self.fresh);
        self.ring.drain(&mut fresh);
        while self.ring.is_overflown() {
            let before = fresh.len();
            self.ring.enter(Some(Duration::ZERO)).map_err(failed("io_uring_enter"))?;
            self.ring.drain(&mut fresh);
            if fresh.len() == before {
                break;
            }
        }
        // Asked before a send that did not fit is submitted anew.
        let is_settled = self.ring.is_submitted() && !self.ring.is_overflown();
        for completion in fresh.drain(..) {
            match Token::unpack(completion.bits) {
                Some(token) if token.kind == Kind::Send => self.on_send(token, completion),
                _ => self.backlog.push_back(completion),
            }
        }
        self.fresh = fresh;
        if is_settled {
            self.settle_inline();
        }
        Ok(())
    }

    fn tell_backlog(&mut self, events: &mut Vec<Event>) {
        let mut held = Vec::new();
        while events.len() < EVENTS_PER_TURN {
            let Some(completion) = self.backlog.pop_front() else { break };
            if self.precedes_its_send(completion) {
                held.push(completion);
            } else {
                self.tell(completion, events);
            }
        }
        held.into_iter().rev().for_each(|completion| self.backlog.push_front(completion));
    }

    /// Whether this is a receive of a socket whose last send may have left, of which the owner has
    /// not been told. Only where the kernel did not take all entries at once.
    fn precedes_its_send(&mut self, completion: Completion) -> bool {
        let token = Token::unpack(completion.bits);
        let Some(token) = token.filter(|token| token.kind == Kind::Receive) else { return false };
        !self.inline.is_empty()
            && self
                .owned_mut(token_key(token))
                .is_some_and(|socket| socket.sending == Sending::Inline)
    }

    fn tell_ready(&mut self, events: &mut Vec<Event>) {
        let room = EVENTS_PER_TURN.saturating_sub(events.len());
        events.extend(self.ready.drain(..room.min(self.ready.len())));
    }

    fn tell(&mut self, completion: Completion, events: &mut Vec<Event>) {
        let Some(token) = Token::unpack(completion.bits) else { return };
        match token.kind {
            Kind::Accept => self.on_accept(token, completion, events),
            Kind::Connect => self.on_connect(token, completion, events),
            Kind::Receive => self.on_receive(token, completion, events),
            Kind::Wake => {
                self.waker.drain();
                events.push(Event::Woken);
                if completion.is_last() {
                    self.operations -= 1;
                    self.watch_waker();
                }
            }
            Kind::Cancel | Kind::Send | Kind::Socket => {}
        }
    }
}

impl Engine for UringEngine {
    fn backend(&self) -> Backend {
        Backend::Uring
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
        allow_waiting(&listener);
        let listener = Listener { fd: listener, armed: false, closing: false };
        let (index, generation) = self.listeners.insert(listener);
        let key = ListenerKey { index, generation };
        self.arm_accept(key);
        key
    }

    fn accept_resume(&mut self, listener: ListenerKey) {
        self.arm_accept(listener);
    }

    fn unlisten(&mut self, key: ListenerKey) {
        let Some(listener) = self.listeners.find_mut(key.index, key.generation) else { return };
        if listener.closing {
            return;
        }
        listener.closing = true;
        if listener.armed {
            self.cancel(listener_token(key));
        } else {
            self.finish_unlistening(key);
        }
    }

    fn adopt(&mut self, socket: OwnedFd) -> SocketKey {
        allow_waiting(&socket);
        let mut socket = Socket::new(socket);
        socket.credit = self.credits.as_ref().and_then(|credits| credits.of(&socket.fd));
        self.insert(socket)
    }

    fn connect(&mut self, address: &Address) -> Result<SocketKey, Errno> {
        Ok(match address {
            Address::Tcp(to) => {
                let fd = open(address, SocketFlags::empty())?;
                self.connect_tcp(fd, SockAddr::from(*to))
            }
            Address::Unix(path) => {
                let fd = open(address, SocketFlags::NONBLOCK)?;
                self.connect_unix(fd, path)
            }
        })
    }

    fn receive_start(&mut self, key: SocketKey) {
        let Some(socket) = self.owned_mut(key) else { return };
        match socket.receive {
            Receive::Off if socket.stage == Stage::Connecting => {
                socket.receive = Receive::Deferred;
            }
            Receive::Off => self.arm_receive(key),
            Receive::Stopping => socket.receive = Receive::Restarting,
            Receive::Armed
            | Receive::Deferred
            | Receive::Ended
            | Receive::Restarting
            | Receive::Starved => {}
        }
    }

    fn receive_stop(&mut self, key: SocketKey) {
        let Some(socket) = self.owned_mut(key) else { return };
        match socket.receive {
            Receive::Armed => {
                socket.receive = Receive::Stopping;
                self.cancel(socket_token(Kind::Receive, key));
            }
            Receive::Restarting => socket.receive = Receive::Stopping,
            Receive::Deferred | Receive::Starved => socket.receive = Receive::Off,
            Receive::Ended | Receive::Off | Receive::Stopping => {}
        }
    }

    fn send(&mut self, key: SocketKey, chunk: Chunk) {
        let scarce = self.buffers.are_scarce();
        let Some(socket) = self.owned_mut(key) else { return };
        if socket.send_failed || chunk.is_empty() {
            return;
        }
        let waits = socket.sending == Sending::Waiting;
        socket.queue.push(if scarce && waits { chunk.into_heap() } else { chunk });
        self.mark_dirty(key);
    }

    fn send_queued_bytes(&self, key: SocketKey) -> usize {
        self.sockets.find(key.index, key.generation).map_or(0, |socket| socket.queue.bytes())
    }

    fn relax_sent(&mut self, key: SocketKey, relaxed: bool) {
        if let Some(socket) = self.owned_mut(key) {
            socket.relaxed = relaxed;
        }
    }

    fn shutdown_write(&mut self, key: SocketKey) {
        let Some(socket) = self.owned_mut(key) else { return };
        if !socket.send_failed {
            socket.shutdown_wanted = true;
            self.mark_dirty(key);
        }
    }

    fn close(&mut self, key: SocketKey) {
        let Some(socket) = self.owned_mut(key) else { return };
        socket.stage = Stage::Closing;
        self.ready.retain(|event| event.socket() != Some(key));
        self.cancel_operations(key);
        self.finish_closing(key);
    }

    fn reset(&mut self, key: SocketKey) {
        if let Some(socket) = self.owned_mut(key) {
            reset_on_close(&socket.fd);
        }
        self.close(key);
    }

    fn turn(
        &mut self,
        timeout: Option<Duration>,
        events: &mut Vec<Event>,
    ) -> Result<(), EngineError> {
        if self.backlog.len() < EVENTS_PER_TURN {
            let urgent = self.flush_dirty();
            self.feed();
            let wait = !urgent && self.backlog.is_empty() && self.ready.is_empty();
            self.enter(if wait { timeout } else { Some(Duration::ZERO) })?;
        }
        self.tell_ready(events);
        self.tell_backlog(events);
        self.tell_ready(events);
        Ok(())
    }
}

/// A non-blocking file fails with EAGAIN where the ring would wait for it.
fn allow_waiting(file: impl AsFd) {
    if fcntl_getfl(&file).is_ok_and(|flags| flags.contains(OFlags::NONBLOCK)) {
        let _ = ioctl_fionbio(&file, false);
    }
}

const fn failure(socket: SocketKey, operation: Operation, error: Errno) -> Event {
    Event::Failed { socket, operation, error }
}

fn failed(operation: &'static str) -> impl Fn(Errno) -> EngineError {
    move |error| EngineError { operation, error }
}

const fn socket_token(kind: Kind, key: SocketKey) -> Token {
    Token { kind, index: key.index, generation: key.generation }
}

const fn token_key(token: Token) -> SocketKey {
    SocketKey { index: token.index, generation: token.generation }
}

const fn listener_token(key: ListenerKey) -> Token {
    Token { kind: Kind::Accept, index: key.index, generation: key.generation }
}

const WAKE: Token = Token { kind: Kind::Wake, index: 0, generation: 0 };
