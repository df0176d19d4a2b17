//! The io_uring backend: one enter a turn submits what is wanted and brings what happened.
//!
//! Receives are multishot into a ring of provided buffers, so an idle connection holds none and a FIN is seen at
//! once. Sends run inside the enter that submits them. Completions are read in two passes, sends first, so
//! that a `Sent` precedes what the peer answered. The invariant: everything the kernel may still touch (descriptor,
//! chunks, slices, address) stays where it is until `operations` of its socket is zero.

mod buffers;
mod gather;
mod op;
mod ring;
mod socket;

pub(super) use self::ring::TaskMode;

use self::{
    buffers::BufferRing,
    gather::Gather,
    op::SendMode,
    ring::Ring,
    socket::{Receive, Sending, Socket, Stage},
};
use super::{
    Backend, BufferPool, Chunk, Engine, EngineError, Event, ListenerKey, Operation, SocketKey,
    Waker,
    slab::Slab,
    socket::{
        AcceptError, Connecting, connect_unix, judge_accept_error, open, prepare_listener,
        reset_on_close, shutdown_write,
    },
    token::{Kind, Token},
};
use crate::limits::{
    EVENTS_PER_TURN, GATHER_SLICES, GATHERS_KEPT, QUIESCE_TIMEOUT, REARM_BUFFERS_MIN,
    SEND_BYTES_MAX,
};
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
    os::fd::{AsFd, FromRawFd, OwnedFd},
    path::Path,
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
        let ring = Ring::new().map_err(failed("io_uring_setup"))?;
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

/// Sending.
impl UringEngine {
    /// Offers what is queued to the kernel; true when its outcome should end the wait.
    fn flush_dirty(&mut self) -> bool {
        let mut urgent = false;
        for index in mem::take(&mut self.dirty) {
            let Some((generation, socket)) = self.sockets.at_mut(index) else { continue };
            socket.dirty = false;
            if socket.stage == Stage::Open && socket.sending == Sending::Idle {
                urgent |= self.offer(SocketKey { index, generation }, SendMode::Inline);
            }
        }
        urgent
    }

    /// Submits the front of the queue as one send, or what comes after the last one: the FIN.
    fn offer(&mut self, key: SocketKey, mode: SendMode) -> bool {
        let Some(socket) = self.sockets.find_mut(key.index, key.generation) else { return false };
        debug_assert_eq!(socket.sending, Sending::Idle, "one send at a time keeps bytes in order");
        if socket.queue.is_empty() {
            if mem::take(&mut socket.shutdown_wanted) {
                shutdown_write(&socket.fd);
            }
            return false;
        }
        let token = socket_token(Kind::Send, key);
        let (count, bytes) = measure(socket.queue.first(GATHER_SLICES).map(|chunk| chunk.len()));
        let entry = if count == 1 {
            let front = socket.queue.first(1).next().map_or(&[][..], |chunk| chunk);
            op::send(&socket.fd, &front[..bytes], mode, token)
        } else {
            let mut gather = self.gathers.pop().unwrap_or_else(Gather::new);
            gather.fill(socket.queue.first(count));
            let entry = op::send_gathered(&socket.fd, &gather, mode, token);
            socket.gather = Some(gather);
            entry
        };
        socket.offered = bytes;
        socket.operations += 1;
        self.operations += 1;
        socket.sending = match mode {
            SendMode::Inline => Sending::Inline,
            SendMode::Waiting => Sending::Waiting,
        };
        let whole = bytes == socket.queue.bytes();
        let urgent =
            mode == SendMode::Inline && !(socket.relaxed && whole && !socket.shutdown_wanted);
        if mode == SendMode::Inline {
            self.inline.push(key);
        }
        // SAFETY: the chunks stay in the queue, and the vector in `gather`, until `on_send` sees the completion or
        // `settle_inline` its absence; both are the only ones to take from them, and `operations` keeps the socket.
        unsafe { self.ring.push(entry) };
        urgent
    }

    /// A send completed: a waiting one, or an inline one that did not take all.
    fn on_send(&mut self, token: Token, completion: Completion) {
        let key = token_key(token);
        let Some(sending) = self.end_send(key) else { return };
        let Some(socket) = self.owned_mut(key) else { return self.finish_closing(key) };
        let offered = socket.offered;
        match completion.outcome() {
            Ok(count) if count > 0 => {
                self.on_sent(key, count);
                if sending == Sending::Inline && count < offered {
                    self.offer(key, SendMode::Waiting);
                }
            }
            // What the socket has no room for waits inside the kernel from now on. A waiting send does not say AGAIN.
            Ok(_) | Err(Errno::INTR) => {
                self.offer(key, SendMode::Waiting);
            }
            Err(Errno::AGAIN) if sending == Sending::Inline => {
                self.offer(key, SendMode::Waiting);
            }
            Err(error) => {
                socket.fail_sending();
                self.ready.push_back(failure(key, Operation::Send, error));
            }
        }
    }

    /// All inline sends of which no completion told otherwise have left whole.
    fn settle_inline(&mut self) {
        for key in mem::take(&mut self.inline) {
            let Some(socket) = self.sockets.find_mut(key.index, key.generation) else { continue };
            if socket.sending != Sending::Inline {
                continue;
            }
            let offered = socket.offered;
            self.end_send(key);
            if self.owned_mut(key).is_some() {
                self.on_sent(key, offered);
            } else {
                self.finish_closing(key);
            }
        }
    }

    /// The kernel has let go of the send's memory; returns how it was submitted.
    fn end_send(&mut self, key: SocketKey) -> Option<Sending> {
        let socket = self.sockets.find_mut(key.index, key.generation)?;
        if let Some(gather) = socket.gather.take()
            && self.gathers.len() < GATHERS_KEPT
        {
            self.gathers.push(gather);
        }
        socket.operations -= 1;
        self.operations -= 1;
        Some(mem::replace(&mut socket.sending, Sending::Idle))
    }

    fn on_sent(&mut self, key: SocketKey, count: usize) {
        let Some(socket) = self.owned_mut(key) else { return };
        socket.queue.consume(count);
        if !socket.queue.is_empty() || socket.shutdown_wanted {
            self.mark_dirty(key);
        }
        self.ready.push_back(Event::Sent { socket: key, bytes: count });
    }
}

/// Receiving.
impl UringEngine {
    fn arm_receive(&mut self, key: SocketKey) {
        let Some(socket) = self.sockets.find_mut(key.index, key.generation) else { return };
        socket.receive = Receive::Armed;
        socket.operations += 1;
        self.operations += 1;
        let entry = op::receive(&socket.fd, socket_token(Kind::Receive, key));
        // SAFETY: the entry points to no memory; buffers come from the registered ring.
        unsafe { self.ring.push(entry) };
    }

    fn on_receive(&mut self, token: Token, completion: Completion, events: &mut Vec<Event>) {
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
            events.push(Event::Received { socket: key, chunk: Chunk::received(slot, count) });
        }
        if completion.is_last() {
            self.on_receive_ended(key, outcome, events);
        }
    }

    fn on_receive_ended(
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
            // It ended by itself (a full completion ring, a signal) or was cancelled: not the socket's end.
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

    /// Gives the kernel fresh buffers, and arms those that found none once enough are free that they will not take turns
    /// at starving.
    fn feed(&mut self) {
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

/// Connecting, accepting, closing.
impl UringEngine {
    fn connect_tcp(&mut self, fd: OwnedFd, address: SockAddr) -> SocketKey {
        let mut socket = Socket::new(fd);
        socket.stage = Stage::Connecting;
        socket.operations = 1;
        self.operations += 1;
        let address = Box::new(address);
        let (index, generation) = self.sockets.insert(socket);
        let key = SocketKey { index, generation };
        if let Some(socket) = self.sockets.find_mut(index, generation) {
            let address = socket.address.insert(address);
            let entry = op::connect(&socket.fd, address, socket_token(Kind::Connect, key));
            // SAFETY: the address is boxed and stays with the socket until `on_connect` sees the last completion.
            unsafe { self.ring.push(entry) };
        }
        key
    }

    fn connect_unix(&mut self, fd: OwnedFd, path: &Path) -> SocketKey {
        let progress = connect_unix(&fd, path);
        // The ring waits where a call would block, but only for sockets that may.
        let _ = ioctl_fionbio(&fd, false);
        let mut socket = Socket::new(fd);
        if progress == Connecting::Connected {
            let key = self.insert(socket);
            self.ready.push_back(Event::Connected { socket: key });
            return key;
        }
        socket.fail();
        let key = self.insert(socket);
        let error = match progress {
            Connecting::Failed(error) => error,
            Connecting::Connected | Connecting::InProgress => Errno::INPROGRESS,
        };
        self.ready.push_back(failure(key, Operation::Connect, error));
        key
    }

    fn on_connect(&mut self, token: Token, completion: Completion, events: &mut Vec<Event>) {
        let key = token_key(token);
        let Some(socket) = self.sockets.find_mut(key.index, key.generation) else { return };
        socket.operations -= 1;
        self.operations -= 1;
        socket.address = None;
        if socket.stage == Stage::Closing {
            return self.finish_closing(key);
        }
        socket.stage = Stage::Open;
        if let Err(error) = completion.outcome() {
            socket.fail();
            events.push(failure(key, Operation::Connect, error));
            return;
        }
        events.push(Event::Connected { socket: key });
        if socket.receive == Receive::Deferred {
            self.arm_receive(key);
        }
        self.mark_dirty(key);
    }

    fn arm_accept(&mut self, key: ListenerKey) {
        let Some(listener) = self.listeners.find_mut(key.index, key.generation) else { return };
        if listener.armed || listener.closing {
            return;
        }
        listener.armed = true;
        self.operations += 1;
        let entry = op::accept(&listener.fd, listener_token(key));
        // SAFETY: the entry points to no memory: nobody asked for the peer's address.
        unsafe { self.ring.push(entry) };
    }

    fn on_accept(&mut self, token: Token, completion: Completion, events: &mut Vec<Event>) {
        let key = ListenerKey { index: token.index, generation: token.generation };
        let outcome = completion.outcome().map(|_| {
            // SAFETY: a completed accept made this descriptor for us, and each completion is handled once.
            unsafe { OwnedFd::from_raw_fd(completion.result) }
        });
        let Some(listener) = self.listeners.find_mut(key.index, key.generation) else { return };
        if completion.is_last() {
            listener.armed = false;
            self.operations -= 1;
        }
        if listener.closing {
            if !listener.armed {
                self.listeners.remove(key.index);
            }
            return;
        }
        match outcome {
            Ok(socket) => events.push(Event::Accepted { listener: key, socket }),
            Err(Errno::CANCELED) => {}
            Err(error) if judge_accept_error(error) == AcceptError::Connection => {}
            Err(error) => {
                events.push(Event::AcceptFailed { listener: key, error });
                return;
            }
        }
        self.arm_accept(key);
    }

    /// Ends what the kernel still does for a socket that its owner gave up.
    fn cancel_operations(&mut self, key: SocketKey) {
        let Some(socket) = self.sockets.find_mut(key.index, key.generation) else { return };
        let kinds = [
            (Kind::Connect, socket.address.is_some()),
            (Kind::Receive, socket.receive == Receive::Armed),
            (Kind::Send, socket.sending == Sending::Waiting),
        ];
        socket.receive = Receive::Ended;
        for (kind, running) in kinds {
            if running {
                self.cancel(socket_token(kind, key));
            }
        }
    }

    fn cancel(&mut self, token: Token) {
        // SAFETY: the entry points to no memory.
        unsafe { self.ring.push(op::cancel(token)) };
    }

    fn finish_closing(&mut self, key: SocketKey) {
        let done = |socket: &Socket| socket.is_done();
        if self.sockets.find(key.index, key.generation).is_some_and(done) {
            self.sockets.remove(key.index);
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
        for completion in fresh.drain(..) {
            match Token::unpack(completion.bits) {
                Some(token) if token.kind == Kind::Send => self.on_send(token, completion),
                _ => self.backlog.push_back(completion),
            }
        }
        self.fresh = fresh;
        Ok(())
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
            self.listeners.remove(key.index);
        }
    }

    fn adopt(&mut self, socket: OwnedFd) -> SocketKey {
        allow_waiting(&socket);
        self.insert(Socket::new(socket))
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
        let Some(socket) = self.owned_mut(key) else { return };
        if socket.send_failed || chunk.is_empty() {
            return;
        }
        socket.queue.push(chunk);
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
            if self.ring.is_submitted() && !self.ring.is_overflown() {
                self.settle_inline();
            }
        }
        let room = EVENTS_PER_TURN.saturating_sub(events.len());
        events.extend(self.ready.drain(..room.min(self.ready.len())));
        while events.len() < EVENTS_PER_TURN {
            let Some(completion) = self.backlog.pop_front() else { break };
            self.tell(completion, events);
        }
        Ok(())
    }
}

impl Drop for UringEngine {
    /// Cancels everything and waits for the kernel to let go of our memory. Should that fail, the memory is
    /// leaked: a leak is harmless, a kernel that writes into freed memory is not.
    fn drop(&mut self) {
        for socket in self.sockets.values_mut() {
            socket.stage = Stage::Closing;
        }
        // SAFETY: the entry points to no memory.
        unsafe { self.ring.push(op::cancel_all()) };
        for _ in 0..QUIESCE_ROUNDS {
            for completion in mem::take(&mut self.backlog) {
                self.forget(completion);
            }
            if self.operations == 0 {
                return;
            }
            if self.enter(Some(QUIESCE_TIMEOUT / QUIESCE_ROUNDS)).is_err() {
                break;
            }
            if self.ring.is_submitted() && !self.ring.is_overflown() {
                self.settle_inline();
            }
        }
        self.leak();
    }
}

impl UringEngine {
    /// Counts a completion that nobody will be told of.
    fn forget(&mut self, completion: Completion) {
        if let Some(id) = cqueue::buffer_select(completion.flags) {
            self.buffer_ring.complete(&self.buffers, id);
        }
        let Some(token) = Token::unpack(completion.bits) else { return };
        if token.kind == Kind::Accept && completion.result >= 0 {
            // SAFETY: a completed accept made this descriptor for us, and each completion is handled once.
            drop(unsafe { OwnedFd::from_raw_fd(completion.result) });
        }
        if token.kind != Kind::Cancel && completion.is_last() {
            self.operations -= 1;
        }
    }

    fn leak(&mut self) {
        mem::forget(self.buffers.clone());
        mem::forget(mem::replace(&mut self.sockets, Slab::new()));
    }
}

/// How many chunks one send takes, and how many bytes of them.
fn measure(lens: impl Iterator<Item = usize>) -> (usize, usize) {
    let mut total = (0, 0);
    for len in lens {
        if total.0 > 0 && total.1 + len > SEND_BYTES_MAX {
            break;
        }
        total = (total.0 + 1, total.1 + len.min(SEND_BYTES_MAX));
    }
    total
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

/// Rounds in which a dropped engine waits for its operations.
const QUIESCE_ROUNDS: u32 = 20;
