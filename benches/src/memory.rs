//! An engine that is made of memory: each connection is a client that asks again as soon as it is
//! answered, or an app that answers as soon as it is asked.
//!
//! What a worker does with it is the same from run to run, to the instruction. Events come as the
//! io_uring engine brings them: a send is told of with what came in answer to it.

#![forbid(unsafe_code)]

use dataplane::engine::{
    Backend, BufferPool, Chunk, Engine, EngineError, Event, ListenerKey, SocketKey, Waker,
};
use rustix::io::Errno;
use snapshot::Address;
use std::{os::fd::OwnedFd, time::Duration};

pub struct MemoryEngine {
    buffers: BufferPool,
    waker: Waker,
    sockets: Vec<Socket>,
    /// Connections that have not come yet.
    arriving: Vec<OwnedFd>,
    listener: Option<ListenerKey>,
    pending: Vec<Event>,
    request: Vec<u8>,
    answer: Vec<u8>,
    /// Messages that left, by who gets them.
    pub requests: usize,
    pub answers: usize,
    /// The last message that left to an app, and to a client.
    pub last_request: Vec<u8>,
    pub last_answer: Vec<u8>,
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Role {
    App,
    Client,
}

struct Socket {
    role: Role,
    queue: Vec<Chunk>,
    queued_bytes: usize,
    /// It has something to say.
    speaks: bool,
}

impl MemoryEngine {
    /// Each of `clients` will send `request`, and the app `answer`.
    ///
    /// # Errors
    /// When memory or descriptors are short.
    pub fn new(clients: Vec<OwnedFd>, request: &[u8], answer: &[u8]) -> Result<Self, Errno> {
        Ok(Self {
            buffers: BufferPool::new()?,
            waker: Waker::new()?,
            sockets: Vec::new(),
            arriving: clients,
            listener: None,
            pending: Vec::new(),
            request: request.to_vec(),
            answer: answer.to_vec(),
            requests: 0,
            answers: 0,
            last_request: Vec::new(),
            last_answer: Vec::new(),
        })
    }

    fn insert(&mut self, role: Role, speaks: bool) -> SocketKey {
        let index = u32::try_from(self.sockets.len()).expect("a bench has few sockets");
        self.sockets.push(Socket { role, queue: Vec::new(), queued_bytes: 0, speaks });
        SocketKey { index, generation: 0 }
    }

    fn socket(&mut self, key: SocketKey) -> &mut Socket {
        &mut self.sockets[key.index as usize]
    }

    /// What was sent has arrived, and who got it has something to say.
    fn deliver(&mut self, index: usize, events: &mut Vec<Event>) {
        let socket = &mut self.sockets[index];
        if socket.queue.is_empty() {
            return;
        }
        let (count, last) = match socket.role {
            Role::App => (&mut self.requests, &mut self.last_request),
            Role::Client => (&mut self.answers, &mut self.last_answer),
        };
        *count += 1;
        last.clear();
        for chunk in socket.queue.drain(..) {
            last.extend_from_slice(&chunk);
        }
        socket.speaks = true;
        let bytes = std::mem::take(&mut socket.queued_bytes);
        events.push(Event::Sent { socket: key_of(index), bytes });
    }

    fn hear(&mut self, index: usize, events: &mut Vec<Event>) {
        let socket = &mut self.sockets[index];
        if !std::mem::take(&mut socket.speaks) {
            return;
        }
        let mut writer = self.buffers.writer();
        writer.put(match socket.role {
            Role::App => &self.answer,
            Role::Client => &self.request,
        });
        events.push(Event::Received { socket: key_of(index), chunk: writer.finish() });
    }
}

impl Engine for MemoryEngine {
    fn backend(&self) -> Backend {
        Backend::Uring
    }

    fn buffers(&self) -> &BufferPool {
        &self.buffers
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }

    fn listen(&mut self, _: OwnedFd) -> ListenerKey {
        let key = ListenerKey { index: 0, generation: 0 };
        self.listener = Some(key);
        key
    }

    fn accept_resume(&mut self, _: ListenerKey) {}

    fn unlisten(&mut self, _: ListenerKey) {}

    fn adopt(&mut self, _: OwnedFd) -> SocketKey {
        self.insert(Role::Client, true)
    }

    fn connect(&mut self, _: &Address) -> Result<SocketKey, Errno> {
        let socket = self.insert(Role::App, false);
        self.pending.push(Event::Connected { socket });
        Ok(socket)
    }

    fn receive_start(&mut self, _: SocketKey) {}

    fn receive_stop(&mut self, _: SocketKey) {}

    fn send(&mut self, key: SocketKey, chunk: Chunk) {
        let socket = self.socket(key);
        if !chunk.is_empty() {
            socket.queued_bytes += chunk.len();
            socket.queue.push(chunk);
        }
    }

    fn send_queued_bytes(&self, key: SocketKey) -> usize {
        self.sockets[key.index as usize].queued_bytes
    }

    fn relax_sent(&mut self, _: SocketKey, _: bool) {}

    fn shutdown_write(&mut self, _: SocketKey) {}

    fn close(&mut self, key: SocketKey) {
        panic!("nobody has a reason to close {key:?}");
    }

    fn reset(&mut self, key: SocketKey) {
        panic!("nobody has a reason to reset {key:?}");
    }

    // Out of line, so that a profile can tell it from the worker.
    #[inline(never)]
    fn turn(&mut self, _: Option<Duration>, events: &mut Vec<Event>) -> Result<(), EngineError> {
        events.append(&mut self.pending);
        if let Some(listener) = self.listener {
            let accepted = |socket| Event::Accepted { listener, socket };
            events.extend(self.arriving.drain(..).map(accepted));
        }
        for index in 0..self.sockets.len() {
            self.deliver(index, events);
        }
        for index in 0..self.sockets.len() {
            self.hear(index, events);
        }
        Ok(())
    }
}

fn key_of(index: usize) -> SocketKey {
    let index = u32::try_from(index).expect("a bench has few sockets");
    SocketKey { index, generation: 0 }
}
