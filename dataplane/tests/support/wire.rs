//! One end of a connection, byte by byte: a client's towards the data plane, or an app's that the
//! data plane called.

#![forbid(unsafe_code)]

use super::{DEADLINE, Framing, Message, message::parse_line};
use rustix::io::Errno;
use snapshot::Address;
use socket2::{Domain, SockAddr, Socket, Type};
use std::{
    io::{ErrorKind, Read, Write},
    mem::MaybeUninit,
    net::Shutdown,
    time::Duration,
};

pub(crate) struct Wire {
    socket: Socket,
    /// Received and not yet read by the test.
    buffer: Vec<u8>,
}

/// How the other side ended the connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum End {
    Fin,
    Reset,
}

impl Wire {
    pub(crate) fn connect(address: &Address) -> Self {
        Self::try_connect(address).unwrap_or_else(|e| panic!("connect to {address}: {e}"))
    }

    pub(crate) fn try_connect(address: &Address) -> std::io::Result<Self> {
        let (domain, name) = match address {
            Address::Tcp(a) => (Domain::for_address(*a), SockAddr::from(*a)),
            Address::Unix(path) => (Domain::UNIX, SockAddr::unix(path)?),
        };
        let socket = Socket::new(domain, Type::STREAM, None)?;
        socket.connect(&name)?;
        Ok(Self::over(socket))
    }

    /// A connection that may never be accepted, and is not waited for.
    pub(crate) fn start_connect(address: &Address) -> Option<Self> {
        let Address::Tcp(address) = address else { return None };
        let socket = Socket::new(Domain::for_address(*address), Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        match socket.connect(&SockAddr::from(*address)) {
            Err(e) if e.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => None,
            _ => Some(Self { socket, buffer: Vec::new() }),
        }
    }

    /// A client that takes little at once.
    pub(crate) fn connect_narrow(address: &Address) -> Self {
        let Address::Tcp(address) = address else { panic!("only TCP has windows") };
        let socket = Socket::new(Domain::for_address(*address), Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.connect(&SockAddr::from(*address)).unwrap();
        Self::over(socket)
    }

    pub(crate) fn over(socket: Socket) -> Self {
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket.set_write_timeout(Some(DEADLINE)).unwrap();
        // Each piece of a scripted conversation leaves when it is written. Fails on a Unix socket,
        // which needs no asking.
        socket.set_tcp_nodelay(true).ok();
        Self { socket, buffer: Vec::new() }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        self.socket.write_all(bytes).unwrap_or_else(|e| panic!("send {} bytes: {e}", bytes.len()));
    }

    /// For peers that may already have ended the connection.
    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.socket.write_all(bytes.as_ref())
    }

    /// Writes what the socket takes within `patience`: how many bytes that was.
    pub(crate) fn send_until_full(&mut self, bytes: &[u8], patience: Duration) -> usize {
        self.socket.set_write_timeout(Some(patience)).unwrap();
        let mut sent = 0;
        while sent < bytes.len() {
            match self.socket.write(&bytes[sent..]) {
                Ok(count) => sent += count,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => panic!("send: {e}"),
            }
        }
        self.socket.set_write_timeout(Some(DEADLINE)).unwrap();
        sent
    }

    pub(crate) fn shutdown_write(&self) {
        self.socket.shutdown(Shutdown::Write).unwrap();
    }

    /// For peers that may already have ended the connection.
    pub(crate) fn try_shutdown_write(&self) {
        self.socket.shutdown(Shutdown::Write).ok();
    }

    /// Ends the connection with a reset.
    pub(crate) fn reset(self) {
        self.socket.set_linger(Some(Duration::ZERO)).unwrap();
    }

    /// In place of [`DEADLINE`].
    pub(crate) fn set_deadline(&self, deadline: Duration) {
        self.socket.set_read_timeout(Some(deadline)).unwrap();
    }

    /// A second owner of the same connection, for a thread that reads while this one writes.
    pub(crate) fn split(&self) -> Self {
        Self { socket: self.socket.try_clone().unwrap(), buffer: Vec::new() }
    }

    /// The next head. Panics when the connection ends before one is whole.
    pub(crate) fn read_head(&mut self) -> Message {
        let length = loop {
            if let Some(end) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break end + 4;
            }
            self.require("a head");
        };
        let head: Vec<u8> = self.buffer.drain(..length).collect();
        Message::parse_head(&head)
    }

    pub(crate) fn read_request(&mut self) -> Message {
        let head = self.read_head();
        let framing = head.request_framing();
        self.read_body(head, framing)
    }

    /// The answer to anything but HEAD, interim ones included.
    pub(crate) fn read_response(&mut self) -> Message {
        self.read_response_to("GET")
    }

    pub(crate) fn read_response_to(&mut self, method: &str) -> Message {
        let head = self.read_head();
        let framing = head.response_framing(method);
        let response = self.read_body(head, framing);
        if self.buffer.is_empty() {
            // A client that waits holds no memory: where memory is measured, it is the other
            // side's.
            self.buffer = Vec::new();
        }
        response
    }

    fn read_body(&mut self, mut message: Message, framing: Framing) -> Message {
        message.framing = framing;
        match framing {
            Framing::Empty => {}
            Framing::Length(length) => {
                message.body = self.read_bytes(length);
                message.raw.extend_from_slice(&message.body);
            }
            Framing::Chunked => self.read_chunks(&mut message),
            Framing::UntilClose => {
                let (bytes, end) = self.read_to_end();
                assert_eq!(end, End::Fin, "a body until close that ended in a reset: {message}");
                message.raw.extend_from_slice(&bytes);
                message.body = bytes;
            }
        }
        message
    }

    fn read_chunks(&mut self, message: &mut Message) {
        loop {
            let line = self.read_line();
            message.raw.extend_from_slice(line.as_bytes());
            message.raw.extend_from_slice(b"\r\n");
            let size = line.split(';').next().expect("split yields at least one");
            let size = usize::from_str_radix(size, 16).unwrap_or_else(|e| panic!("{line:?}: {e}"));
            if size == 0 {
                break;
            }
            let chunk = self.read_bytes(size + 2);
            assert_eq!(&chunk[size..], b"\r\n", "chunk data ends with its own CRLF");
            message.raw.extend_from_slice(&chunk);
            message.body.extend_from_slice(&chunk[..size]);
        }
        loop {
            let line = self.read_line();
            message.raw.extend_from_slice(line.as_bytes());
            message.raw.extend_from_slice(b"\r\n");
            if line.is_empty() {
                break;
            }
            message.trailers.push(parse_line(&line));
        }
    }

    /// Up to the next CRLF, which is dropped.
    fn read_line(&mut self) -> String {
        let length = loop {
            if let Some(end) = self.buffer.windows(2).position(|w| w == b"\r\n") {
                break end;
            }
            self.require("a line");
        };
        let line: Vec<u8> = self.buffer.drain(..length + 2).take(length).collect();
        String::from_utf8(line).expect("text")
    }

    pub(crate) fn read_bytes(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count {
            self.require("more bytes");
        }
        self.buffer.drain(..count).collect()
    }

    /// Reads and drops `count` bytes, however many those are.
    pub(crate) fn skip_bytes(&mut self, count: u64) {
        let mut left = count;
        loop {
            let held = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            self.buffer.drain(..held);
            left -= held as u64;
            if left == 0 {
                return;
            }
            self.require("more bytes");
        }
    }

    /// Everything up to the end, and what kind of end that was.
    pub(crate) fn read_to_end(&mut self) -> (Vec<u8>, End) {
        let end = loop {
            match self.receive() {
                Ok(0) => break End::Fin,
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::ConnectionReset => break End::Reset,
                Err(e) => panic!("no end of the connection: {e}; so far {}", self.so_far()),
            }
        };
        (std::mem::take(&mut self.buffer), end)
    }

    /// Everything that comes until the connection ends or falls silent for a moment. For answers
    /// that may come or not, where no later event could tell; passes only what the caller then
    /// checks.
    pub(crate) fn read_to_end_or_silence(&mut self) -> (Vec<u8>, Option<End>) {
        self.set_deadline(Duration::from_millis(50));
        let end = loop {
            match self.receive() {
                Ok(0) => break Some(End::Fin),
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::ConnectionReset => break Some(End::Reset),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break None,
                Err(e) => panic!("receive: {e}"),
            }
        };
        self.set_deadline(DEADLINE);
        (std::mem::take(&mut self.buffer), end)
    }

    /// The connection has ended, or ends now, without another byte.
    pub(crate) fn assert_ended(&mut self) -> End {
        let (bytes, end) = self.read_to_end();
        assert!(bytes.is_empty(), "bytes after the last message: {}", bytes.escape_ascii());
        end
    }

    /// Whether the connection ends within the deadline, whatever comes before.
    pub(crate) fn ends(&mut self) -> bool {
        loop {
            match self.receive() {
                Ok(0) => return true,
                Ok(_) => {}
                Err(e) => return e.kind() == ErrorKind::ConnectionReset,
            }
        }
    }

    /// Nothing came and the connection is open. Proves something only after an event that would
    /// have come later.
    pub(crate) fn assert_silent(&mut self) {
        self.socket.set_nonblocking(true).unwrap();
        let mut byte = [MaybeUninit::uninit()];
        let peeked = self.socket.peek(&mut byte);
        self.socket.set_nonblocking(false).unwrap();
        assert!(self.buffer.is_empty(), "not silent: {}", self.so_far());
        match peeked {
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Ok(0) => panic!("not silent: the connection has ended"),
            Ok(_) => panic!("not silent: a byte came"),
            Err(e) => panic!("not silent: {e}"),
        }
    }

    /// Waits without a deadline for the first byte of another message: whether one came.
    pub(crate) fn await_more(&mut self) -> bool {
        if !self.buffer.is_empty() {
            return true;
        }
        self.socket.set_read_timeout(None).unwrap();
        let received = self.receive();
        self.socket.set_read_timeout(Some(DEADLINE)).unwrap();
        received.is_ok_and(|count| count > 0)
    }

    /// Waits for one more piece.
    fn require(&mut self, what: &str) {
        match self.receive() {
            Ok(0) => panic!("connection ended before {what}; so far {}", self.so_far()),
            Ok(_) => {}
            Err(e) => panic!("no {what}: {e}; so far {}", self.so_far()),
        }
    }

    fn receive(&mut self) -> std::io::Result<usize> {
        let mut piece = [0; 64 * 1024];
        let count = loop {
            match self.socket.read(&mut piece) {
                // A ring that this thread once had may still interrupt its waits.
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                received => break received?,
            }
        };
        self.buffer.extend_from_slice(&piece[..count]);
        Ok(count)
    }

    fn so_far(&self) -> String {
        let shown = &self.buffer[..self.buffer.len().min(2000)];
        format!("{} bytes: {}", self.buffer.len(), shown.escape_ascii())
    }
}
