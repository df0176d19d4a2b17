//! Yardstick: a byte relay on epoll, level-triggered, receive and send by system call.
//!
//! One buffer for all connections; only what a socket did not take is kept, and its source is not
//! read meanwhile.

#![forbid(unsafe_code)]

use anyhow::Result;
use benches::{Arguments, COPY_BYTES, announce};
use clap::Parser;
use loadtests::{
    poll::{Interest, Poll, Ready},
    socket,
};
use snapshot::Address;
use socket2::Socket;
use std::{
    io::{self, Read, Write},
    net::Shutdown,
};

const LISTENER: u64 = u64::MAX;

/// One end of a pair, and what waits to be sent to it.
struct End {
    socket: Socket,
    waiting: Vec<u8>,
    /// FIN came from here.
    read_closed: bool,
    /// FIN went there.
    write_closed: bool,
    watched: Interest,
}

struct Pair {
    ends: [End; 2],
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    socket::raise_descriptor_limit();
    let (listener, bound) = socket::listen(&arguments.listen)?;
    listener.set_nonblocking(true)?;
    announce(&bound);

    let mut poll = Poll::new()?;
    poll.add(&listener, LISTENER, Interest::Read)?;
    let mut pairs: Vec<Option<Pair>> = Vec::new();
    let mut ready: Vec<Ready> = Vec::new();
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        ready.clear();
        poll.wait(None, &mut ready)?;
        for event in &ready {
            if event.token == LISTENER {
                accept(&listener, &bound, &arguments.upstream, &poll, &mut pairs)?;
                continue;
            }
            // Token: index of the pair, and the end in the lowest bit.
            let (index, end) = (usize::try_from(event.token >> 1)?, event.token & 1 == 1);
            // An earlier event of this turn may have closed the pair.
            let Some(pair) = pairs[index].as_mut() else { continue };
            match pair.on_ready(usize::from(end), *event, &mut buffer) {
                Ok(()) if pair.is_finished() => pairs[index] = None,
                Ok(()) => pair.watch(&poll, index)?,
                // A peer that reset takes its pair along.
                Err(_) => pairs[index] = None,
            }
        }
    }
}

fn accept(
    listener: &Socket,
    bound: &Address,
    upstream: &Address,
    poll: &Poll,
    pairs: &mut Vec<Option<Pair>>,
) -> Result<()> {
    loop {
        let client = match listener.accept() {
            Ok((client, _)) => client,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => return Err(error.into()),
        };
        socket::set_no_delay(&client, bound)?;
        let upstream = match socket::connect(upstream) {
            Ok(upstream) => upstream,
            Err(error) => {
                eprintln!("{error:#}");
                continue;
            }
        };
        let index = pairs.iter().position(Option::is_none).unwrap_or_else(|| {
            pairs.push(None);
            pairs.len() - 1
        });
        let pair = Pair { ends: [End::new(client)?, End::new(upstream)?] };
        for (end, token) in pair.ends.iter().zip(pair_tokens(index)) {
            poll.add(&end.socket, token, Interest::Read)?;
        }
        pairs[index] = Some(pair);
    }
}

fn pair_tokens(index: usize) -> [u64; 2] {
    [(index as u64) << 1, ((index as u64) << 1) | 1]
}

impl End {
    fn new(socket: Socket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            waiting: Vec::new(),
            read_closed: false,
            write_closed: false,
            watched: Interest::Read,
        })
    }

    /// Sends what waited; keeps what still does not fit.
    fn send_waiting(&mut self) -> io::Result<()> {
        while !self.waiting.is_empty() {
            match self.socket.write(&self.waiting) {
                Ok(count) => drop(self.waiting.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.socket.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.waiting.extend_from_slice(bytes);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Pair {
    fn on_ready(&mut self, end: usize, event: Ready, buffer: &mut [u8]) -> io::Result<()> {
        if event.writable && !self.ends[end].waiting.is_empty() {
            self.ends[end].send_waiting()?;
            self.pass_fin(1 - end)?;
        }
        let may_read = !self.ends[end].read_closed && self.ends[1 - end].waiting.is_empty();
        if event.readable && may_read {
            match self.ends[end].socket.read(buffer) {
                Ok(0) => self.ends[end].read_closed = true,
                Ok(count) => self.ends[1 - end].send(&buffer[..count])?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            self.pass_fin(end)?;
        }
        Ok(())
    }

    /// FIN follows the last byte.
    fn pass_fin(&mut self, from: usize) -> io::Result<()> {
        let read_closed = self.ends[from].read_closed;
        let to = &mut self.ends[1 - from];
        if read_closed && to.waiting.is_empty() && !to.write_closed {
            to.write_closed = true;
            to.socket.shutdown(Shutdown::Write)?;
        }
        Ok(())
    }

    fn is_finished(&self) -> bool {
        self.ends.iter().all(|end| end.write_closed)
    }

    fn watch(&mut self, poll: &Poll, index: usize) -> Result<()> {
        for (end, token) in pair_tokens(index).into_iter().enumerate() {
            let reads = !self.ends[end].read_closed && self.ends[1 - end].waiting.is_empty();
            let wanted = Interest::of(reads, !self.ends[end].waiting.is_empty());
            let end = &mut self.ends[end];
            if wanted != end.watched {
                poll.modify(&end.socket, token, wanted)?;
                end.watched = wanted;
            }
        }
        Ok(())
    }
}
