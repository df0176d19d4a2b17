//! One connection: a request out, its answer in, checked.

#![forbid(unsafe_code)]

use crate::arguments::Plan;
use anyhow::{Context, Result, bail};
use loadtests::{
    message::{Kind, Message, MessageReader},
    poll::{Interest, Poll},
    socket,
};
use socket2::Socket;
use std::{
    io::{self, Read, Write},
    time::Instant,
};

pub(crate) struct Connection {
    socket: Socket,
    reader: MessageReader,
    /// When the request that is under way was sent, or was due.
    started: Option<Instant>,
    sent_bytes: usize,
    watched: Interest,
}

/// What a readable socket brought.
#[derive(Debug)]
pub(crate) enum Received {
    Answer {
        started: Instant,
        closes: bool,
    },
    /// The server closed between two requests, as it may at any time.
    Closed,
    Nothing,
}

impl Connection {
    pub(crate) fn open(plan: &Plan, poll: &Poll, token: u64) -> Result<Self> {
        let socket = socket::connect(&plan.target)?;
        socket.set_nonblocking(true)?;
        poll.add(&socket, token, Interest::Read)?;
        let reader = MessageReader::new(Kind::Response { to_head: plan.to_head });
        Ok(Self { socket, reader, started: None, sent_bytes: 0, watched: Interest::Read })
    }

    pub(crate) fn start(&mut self, plan: &Plan, since: Instant) -> Result<()> {
        debug_assert!(self.started.is_none(), "requests are not pipelined");
        self.started = Some(since);
        self.sent_bytes = 0;
        self.send(plan)
    }

    /// Goes on with a request that did not fit the socket at once.
    pub(crate) fn send(&mut self, plan: &Plan) -> Result<()> {
        while self.started.is_some() && self.sent_bytes < plan.request.len() {
            match self.socket.write(&plan.request[self.sent_bytes..]) {
                Ok(count) => self.sent_bytes += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error).context("sending a request"),
            }
        }
        Ok(())
    }

    pub(crate) fn receive(&mut self, plan: &Plan, buffer: &mut [u8]) -> Result<Received> {
        let count = match self.socket.read(buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Ok(Received::Nothing);
            }
            Err(_) if self.started.is_none() => return Ok(Received::Closed),
            Err(error) => return Err(error).context("receiving an answer"),
        };
        if count == 0 {
            return match self.reader.on_close()? {
                Some(message) => self.on_answer(plan, message),
                None if self.started.is_none() => Ok(Received::Closed),
                None => bail!("the server closed instead of answering"),
            };
        }
        let mut rest = &buffer[..count];
        loop {
            let progress = self.reader.feed(rest)?;
            rest = &rest[progress.used..];
            match progress.complete {
                // An interim answer; the real one follows.
                Some(Message { status: 100..=199, .. }) if !rest.is_empty() => {}
                Some(Message { status: 100..=199, .. }) | None => return Ok(Received::Nothing),
                Some(_) if !rest.is_empty() => bail!("the server sent more than its answer"),
                Some(message) => return self.on_answer(plan, message),
            }
        }
    }

    fn on_answer(&mut self, plan: &Plan, message: Message) -> Result<Received> {
        let started = self.started.take().context("an answer that nobody asked for")?;
        if message.status != plan.expect_status {
            bail!("status {} instead of {}", message.status, plan.expect_status);
        }
        match plan.expect_bytes {
            Some(bytes) if bytes != message.body_bytes => {
                bail!("a body of {} bytes instead of {bytes}", message.body_bytes)
            }
            _ => Ok(Received::Answer { started, closes: message.closes }),
        }
    }

    pub(crate) fn watch(&mut self, plan: &Plan, poll: &Poll, token: u64) -> Result<()> {
        let sending = self.started.is_some() && self.sent_bytes < plan.request.len();
        let wanted = Interest::of(true, sending);
        if wanted != self.watched {
            poll.modify(&self.socket, token, wanted)?;
            self.watched = wanted;
        }
        Ok(())
    }
}
