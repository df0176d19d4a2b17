//! A bare byte relay on the engine: what the trait itself costs, beside the hand-written
//! yardsticks.
//!
//! `relay [--engine uring|epoll] --listen ADDRESS --upstream ADDRESS`, where an address is
//! `127.0.0.1:0` or `unix:/path`; the first line it prints is the address it listens on. One
//! thread, one upstream connection for each accepted one, half-close both ways, back-pressure by
//! the marks of the real relay.

#![forbid(unsafe_code)]

use dataplane::{
    engine::{self, Engine, Event, ListenerKey, SocketKey},
    limits::{RELAY_HIGH_BYTES, RELAY_LOW_BYTES},
};
use snapshot::Address;
use std::{
    env,
    error::Error,
    net::TcpListener,
    os::{fd::OwnedFd, unix::net::UnixListener},
    process::ExitCode,
};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("relay: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let (mut backend, mut listen, mut upstream) = (String::from("uring"), None, None);
    let mut arguments = env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or(USAGE)?;
        match &*name {
            "--engine" => backend = value,
            "--listen" => listen = Some(parse(&value)?),
            "--upstream" => upstream = Some(parse(&value)?),
            _ => return Err(USAGE.into()),
        }
    }
    let listener = bind(&listen.ok_or(USAGE)?)?;
    let upstream = upstream.ok_or(USAGE)?;
    match &*backend {
        "epoll" => Relay::new(engine::epoll()?, upstream).run(listener),
        "uring" => Relay::new(engine::uring()?, upstream).run(listener),
        _ => Err(USAGE.into()),
    }
}

fn parse(text: &str) -> Result<Address, Box<dyn Error>> {
    Ok(match text.strip_prefix("unix:") {
        Some(path) => Address::Unix(path.into()),
        None => Address::Tcp(text.parse()?),
    })
}

/// Listens, and prints where.
fn bind(address: &Address) -> std::io::Result<OwnedFd> {
    Ok(match address {
        Address::Tcp(address) => {
            let listener = TcpListener::bind(address)?;
            println!("{}", listener.local_addr()?);
            listener.into()
        }
        Address::Unix(path) => {
            let listener = UnixListener::bind(path)?;
            println!("unix:{}", path.display());
            listener.into()
        }
    })
}

const USAGE: &str = "usage: relay [--engine uring|epoll] --listen ADDRESS --upstream ADDRESS";

struct Relay<E> {
    engine: E,
    upstream: Address,
    /// By the index of a socket's key.
    ends: Vec<Option<End>>,
}

/// One end of a relayed connection.
#[derive(Clone, Copy)]
struct End {
    key: SocketKey,
    peer: SocketKey,
    /// Its FIN was passed on.
    closed: bool,
    /// Not read, since `peer` takes no more.
    stopped: bool,
}

impl<E: Engine> Relay<E> {
    const fn new(engine: E, upstream: Address) -> Self {
        Self { engine, upstream, ends: Vec::new() }
    }

    fn run(mut self, listener: OwnedFd) -> Result<(), Box<dyn Error>> {
        let listener = self.engine.listen(listener);
        let mut events = Vec::new();
        loop {
            self.engine.turn(None, &mut events)?;
            for event in events.drain(..) {
                self.on_event(event, listener);
            }
        }
    }

    fn on_event(&mut self, event: Event, listener: ListenerKey) {
        match event {
            Event::Accepted { socket, .. } => self.on_accepted(socket),
            Event::AcceptFailed { .. } => self.engine.accept_resume(listener),
            Event::Received { socket, chunk } => {
                let Some(end) = self.find(socket) else { return };
                self.engine.send(end.peer, chunk);
                self.slow_down(socket);
            }
            Event::Sent { socket, .. } => self.speed_up(socket),
            Event::ReceiveClosed { socket } => self.on_closed(socket),
            Event::Failed { socket, .. } => self.end(socket),
            Event::Connected { .. } | Event::Unlistened { .. } | Event::Woken => {}
        }
    }

    fn on_accepted(&mut self, socket: OwnedFd) {
        let downstream = self.engine.adopt(socket);
        let Ok(upstream) = self.engine.connect(&self.upstream) else {
            return self.engine.reset(downstream);
        };
        for (key, peer) in [(downstream, upstream), (upstream, downstream)] {
            let index = key.index as usize;
            if self.ends.len() <= index {
                self.ends.resize(index + 1, None);
            }
            self.ends[index] = Some(End { key, peer, closed: false, stopped: false });
            self.engine.relax_sent(key, true);
            self.engine.receive_start(key);
        }
    }

    /// Reads no more from `source` while what it brought piles up.
    fn slow_down(&mut self, source: SocketKey) {
        let Some(end) = self.find(source) else { return };
        if !end.stopped && self.engine.send_queued_bytes(end.peer) >= RELAY_HIGH_BYTES {
            self.engine.receive_stop(source);
            self.engine.relax_sent(end.peer, false);
            self.set(source, |end| end.stopped = true);
        }
    }

    fn speed_up(&mut self, sink: SocketKey) {
        let Some(End { peer: source, .. }) = self.find(sink) else { return };
        let is_stopped = self.find(source).is_some_and(|end| end.stopped);
        if is_stopped && self.engine.send_queued_bytes(sink) <= RELAY_LOW_BYTES {
            self.engine.receive_start(source);
            self.engine.relax_sent(sink, true);
            self.set(source, |end| end.stopped = false);
        }
        if let Some(end) = self.find(sink) {
            self.end_when_done(end);
        }
    }

    fn on_closed(&mut self, key: SocketKey) {
        let Some(end) = self.find(key) else { return };
        self.set(key, |end| end.closed = true);
        self.engine.shutdown_write(end.peer);
        self.engine.relax_sent(end.peer, false);
        self.end_when_done(end);
    }

    /// Closes once both FINs were passed on and nothing is left to send.
    fn end_when_done(&mut self, end: End) {
        let [one, other] = [end.key, end.peer].map(|key| {
            self.find(key).is_some_and(|end| end.closed) && self.engine.send_queued_bytes(key) == 0
        });
        if one && other {
            self.end(end.key);
        }
    }

    fn end(&mut self, key: SocketKey) {
        let Some(end) = self.find(key) else { return };
        for key in [end.key, end.peer] {
            self.engine.close(key);
            self.ends[key.index as usize] = None;
        }
    }

    fn find(&self, key: SocketKey) -> Option<End> {
        self.ends.get(key.index as usize).copied().flatten().filter(|end| end.key == key)
    }

    fn set(&mut self, key: SocketKey, change: impl Fn(&mut End)) {
        if let Some(Some(end)) = self.ends.get_mut(key.index as usize) {
            change(end);
        }
    }
}
