//! An app that answers everything at once with a body of a given size: the end of the path that is
//! measured.
//!
//! Single thread, answers sent from one constant buffer: it must never be what limits a
//! measurement.

#![forbid(unsafe_code)]

use anyhow::Result;
use clap::Parser;
use loadtests::{
    address,
    message::{Kind, MessageReader},
    poll::{Interest, Poll, Ready},
    socket,
};
use snapshot::Address;
use socket2::Socket;
use std::{
    collections::VecDeque,
    io::{self, Read, Write},
};

/// A fast HTTP/1.1 origin. The first line it prints is the address it listens on.
#[derive(Parser)]
struct Arguments {
    /// Where to listen: 127.0.0.1:0 or unix:/path.
    #[arg(long, value_parser = address::parse, default_value = "127.0.0.1:0")]
    listen: Address,
    /// Size of each answer's body.
    #[arg(long, default_value_t = 256)]
    body_bytes: usize,
    /// Status of each answer.
    #[arg(long, default_value_t = 200)]
    status: u16,
}

const LISTENER: u64 = u64::MAX;
const RECEIVE_BYTES: usize = 256 * 1024;

/// Both as they go out, made once.
struct Answers {
    usual: Answer,
    /// Tells a client that asked for it that the connection ends (RFC 9112 §9.6).
    last: Answer,
}

struct Answer {
    bytes: Vec<u8>,
    /// Where the body begins: all that an answer to HEAD has.
    head_bytes: usize,
}

struct Connection {
    socket: Socket,
    reader: MessageReader,
    /// Answers owed; the first may be sent in part.
    owed: VecDeque<Owed>,
    sent_bytes: usize,
    closes: bool,
    watched: Interest,
}

#[derive(Clone, Copy)]
struct Owed {
    is_last: bool,
    bytes: usize,
}

/// What became of a connection after its turn.
enum Turn {
    Closed,
    Kept,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    socket::raise_descriptor_limit();
    let (listener, bound) = socket::listen(&arguments.listen)?;
    listener.set_nonblocking(true)?;
    println!("{}", address::spell(&bound));
    serve(&listener, &bound, &Answers::new(&arguments))
}

fn serve(listener: &Socket, bound: &Address, answers: &Answers) -> Result<()> {
    let mut poll = Poll::new()?;
    poll.add(listener, LISTENER, Interest::Read)?;
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut ready: Vec<Ready> = Vec::new();
    let mut buffer = vec![0; RECEIVE_BYTES];
    loop {
        ready.clear();
        poll.wait(None, &mut ready)?;
        for event in &ready {
            if event.token == LISTENER {
                accept(listener, bound, &poll, &mut connections)?;
                continue;
            }
            let slot = usize::try_from(event.token)?;
            // An earlier event of this turn may have closed it.
            let Some(connection) = connections[slot].as_mut() else { continue };
            let turn = connection.on_ready(*event, answers, &mut buffer);
            match turn {
                Ok(Turn::Kept) => connection.watch(&poll, event.token)?,
                Ok(Turn::Closed) => connections[slot] = None,
                Err(error) => {
                    eprintln!("{error:#}");
                    connections[slot] = None;
                }
            }
        }
    }
}

fn accept(
    listener: &Socket,
    bound: &Address,
    poll: &Poll,
    connections: &mut Vec<Option<Connection>>,
) -> Result<()> {
    loop {
        let socket = match listener.accept() {
            Ok((socket, _)) => socket,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => return Err(error.into()),
        };
        socket.set_nonblocking(true)?;
        socket::set_no_delay(&socket, bound)?;
        let slot = connections.iter().position(Option::is_none).unwrap_or_else(|| {
            connections.push(None);
            connections.len() - 1
        });
        poll.add(&socket, slot as u64, Interest::Read)?;
        connections[slot] = Some(Connection::new(socket));
    }
}

impl Answers {
    fn new(arguments: &Arguments) -> Self {
        let last = Answer::new(arguments, "Connection: close\r\n");
        Self { usual: Answer::new(arguments, ""), last }
    }

    fn of(&self, is_last: bool) -> &Answer {
        if is_last { &self.last } else { &self.usual }
    }
}

impl Answer {
    /// The body is a JSON string where it is long enough for one, so that a proxy which reads it
    /// finds no fault.
    fn new(arguments: &Arguments, line: &str) -> Self {
        let mut body = vec![b'x'; arguments.body_bytes];
        if let [first, .., last] = body.as_mut_slice() {
            (*first, *last) = (b'"', b'"');
        }
        let mut bytes = format!(
            "HTTP/1.1 {} Answer\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{line}\r\n",
            arguments.status, arguments.body_bytes
        )
        .into_bytes();
        let head_bytes = bytes.len();
        bytes.append(&mut body);
        Self { bytes, head_bytes }
    }
}

impl Connection {
    fn new(socket: Socket) -> Self {
        Self {
            socket,
            reader: MessageReader::new(Kind::Request),
            owed: VecDeque::new(),
            sent_bytes: 0,
            closes: false,
            watched: Interest::Read,
        }
    }

    fn on_ready(&mut self, event: Ready, answers: &Answers, buffer: &mut [u8]) -> Result<Turn> {
        if event.readable && !self.closes && !self.receive(answers, buffer)? {
            return Ok(Turn::Closed);
        }
        match self.send(answers) {
            Ok(()) if self.closes && self.owed.is_empty() => Ok(Turn::Closed),
            Ok(()) => Ok(Turn::Kept),
            Err(error) if is_gone(&error) => Ok(Turn::Closed),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the client is still there.
    fn receive(&mut self, answers: &Answers, buffer: &mut [u8]) -> Result<bool> {
        let count = match self.socket.read(buffer) {
            Ok(0) => return Ok(false),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) if is_gone(&error) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            let progress = self.reader.feed(rest)?;
            rest = &rest[progress.used..];
            if let Some(message) = progress.complete {
                let answer = answers.of(message.closes);
                let to_head = message.is_head_request;
                let bytes = if to_head { answer.head_bytes } else { answer.bytes.len() };
                self.owed.push_back(Owed { is_last: message.closes, bytes });
                self.closes |= message.closes;
            }
        }
        Ok(true)
    }

    fn send(&mut self, answers: &Answers) -> io::Result<()> {
        while let Some(&Owed { is_last, bytes }) = self.owed.front() {
            let answer = answers.of(is_last);
            match self.socket.write(&answer.bytes[self.sent_bytes..bytes]) {
                Ok(count) => self.sent_bytes += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
            if self.sent_bytes == bytes {
                self.sent_bytes = 0;
                self.owed.pop_front();
            }
        }
        Ok(())
    }

    /// A client that does not read its answers is not read either.
    fn watch(&mut self, poll: &Poll, token: u64) -> Result<()> {
        let wanted = Interest::of(self.owed.is_empty(), !self.owed.is_empty());
        if wanted != self.watched {
            poll.modify(&self.socket, token, wanted)?;
            self.watched = wanted;
        }
        Ok(())
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}
