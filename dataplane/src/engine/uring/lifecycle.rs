//! How sockets come and go: connect, accept, close, and the end of the engine itself.
//!
//! A descriptor is closed when the kernel's last completion for it is in, never before: its number
//! could be another socket's by then, and its memory ours no more.

use super::{
    Completion, UringEngine, allow_waiting, failure, listener_token, op,
    socket::{Receive, Sending, Socket, Stage},
    socket_token, token_key,
};
use crate::{
    engine::{
        Event, ListenerKey, Operation, SocketKey,
        slab::Slab,
        socket::{AcceptError, Connecting, accept_last, connect_unix, judge_accept_error},
        token::{Kind, Token},
    },
    limits::QUIESCE_TIMEOUT,
};
use io_uring::cqueue;
use rustix::io::{Errno, ioctl_fionbio};
use socket2::SockAddr;
use std::{
    mem,
    os::fd::{FromRawFd, OwnedFd},
    path::Path,
    thread,
};

impl UringEngine {
    pub(super) fn connect_tcp(&mut self, fd: OwnedFd, address: SockAddr) -> SocketKey {
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
            // SAFETY: the address is boxed and stays with the socket until `on_connect` sees the
            // last completion.
            unsafe { self.ring.push(entry) };
        }
        key
    }

    pub(super) fn connect_unix(&mut self, fd: OwnedFd, path: &Path) -> SocketKey {
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

    pub(super) fn on_connect(
        &mut self,
        token: Token,
        completion: Completion,
        events: &mut Vec<Event>,
    ) {
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
        socket.credit = self.credits.as_ref().and_then(|credits| credits.of(&socket.fd));
        events.push(Event::Connected { socket: key });
        if socket.receive == Receive::Deferred {
            self.arm_receive(key);
        }
        self.mark_dirty(key);
    }

    pub(super) fn arm_accept(&mut self, key: ListenerKey) {
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

    pub(super) fn on_accept(
        &mut self,
        token: Token,
        completion: Completion,
        events: &mut Vec<Event>,
    ) {
        let key = ListenerKey { index: token.index, generation: token.generation };
        let outcome = completion.outcome().map(|_| {
            // SAFETY: a completed accept made this descriptor for us, and each completion is
            // handled once.
            unsafe { OwnedFd::from_raw_fd(completion.result) }
        });
        let Some(listener) = self.listeners.find_mut(key.index, key.generation) else { return };
        if completion.is_last() {
            listener.armed = false;
            self.operations -= 1;
        }
        let (armed, closing) = (listener.armed, listener.closing);
        match outcome {
            Ok(socket) => events.push(Event::Accepted { listener: key, socket }),
            Err(Errno::CANCELED) => {}
            // Another process has the listener, too, and has set O_NONBLOCK.
            Err(Errno::AGAIN) => allow_waiting(&listener.fd),
            Err(error) if closing || judge_accept_error(error) == AcceptError::Connection => {}
            Err(error) => {
                events.push(Event::AcceptFailed { listener: key, error });
                return;
            }
        }
        match (closing, armed) {
            (false, _) => self.arm_accept(key),
            (true, true) => {}
            (true, false) => self.finish_unlistening(key),
        }
    }

    /// The kernel accepts nothing for us any more.
    pub(super) fn finish_unlistening(&mut self, key: ListenerKey) {
        let Some(listener) = self.listeners.find(key.index, key.generation) else { return };
        let last = accept_last(&listener.fd);
        self.listeners.remove(key.index);
        let accepted = last.into_iter().map(|socket| Event::Accepted { listener: key, socket });
        self.ready.extend(accepted);
        self.ready.push_back(Event::Unlistened { listener: key });
    }

    /// Ends what the kernel still does for a socket that its owner gave up.
    pub(super) fn cancel_operations(&mut self, key: SocketKey) {
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

    pub(super) fn cancel(&mut self, token: Token) {
        // SAFETY: the entry points to no memory.
        unsafe { self.ring.push(op::cancel(token)) };
    }

    pub(super) fn finish_closing(&mut self, key: SocketKey) {
        let done = |socket: &Socket| socket.is_done();
        if self.sockets.find(key.index, key.generation).is_some_and(done) {
            self.sockets.remove(key.index);
        }
    }
}

impl Drop for UringEngine {
    /// Cancels everything and waits for the kernel to let go of our memory. Should that fail, the
    /// memory is leaked: a leak is harmless, a kernel that writes into freed memory is not.
    fn drop(&mut self) {
        for socket in self.sockets.values_mut() {
            socket.stage = Stage::Closing;
        }
        // SAFETY: the entry points to no memory.
        unsafe { self.ring.push(op::cancel_all()) };
        let mut idle = 0;
        while idle < QUIESCE_ROUNDS {
            // The kernel runs some twenty deferred completions an enter, so only rounds without any
            // count.
            idle = if self.backlog.is_empty() { idle + 1 } else { 0 };
            for completion in mem::take(&mut self.backlog) {
                self.forget(completion);
            }
            if self.operations == 0 {
                return;
            }
            if self.enter(Some(QUIESCE_TIMEOUT / QUIESCE_ROUNDS)).is_err() {
                break;
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
            // SAFETY: a completed accept made this descriptor for us, and each completion is
            // handled once.
            drop(unsafe { OwnedFd::from_raw_fd(completion.result) });
        }
        if token.kind != Kind::Cancel && completion.is_last() {
            self.operations -= 1;
        }
    }

    fn leak(&mut self) {
        debug_assert!(thread::panicking(), "the kernel lets go of what is cancelled");
        mem::forget(self.buffers.clone());
        mem::forget(mem::replace(&mut self.sockets, Slab::new()));
    }
}

/// Rounds that bring nothing before a dropped engine stops to wait for its operations.
const QUIESCE_ROUNDS: u32 = 20;
