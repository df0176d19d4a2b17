//! A level-triggered epoll loop in a few lines, for the tools and the epoll yardstick.

#![forbid(unsafe_code)]

use rustix::{
    buffer::spare_capacity,
    event::{Timespec, epoll},
    io,
};
use std::{
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

/// Events taken in one turn; enough that hundreds of connections are served with one wait.
const EVENTS_MAX: usize = 256;

pub struct Poll {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

/// What a descriptor is watched for. Errors and hang-ups always come, as both.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Interest {
    Nothing,
    Read,
    ReadWrite,
    Write,
}

#[derive(Clone, Copy, Debug)]
pub struct Ready {
    pub token: u64,
    pub readable: bool,
    pub writable: bool,
}

impl Interest {
    pub fn of(read: bool, write: bool) -> Self {
        match (read, write) {
            (false, false) => Self::Nothing,
            (false, true) => Self::Write,
            (true, false) => Self::Read,
            (true, true) => Self::ReadWrite,
        }
    }

    fn flags(self) -> epoll::EventFlags {
        match self {
            Self::Nothing => epoll::EventFlags::empty(),
            Self::Read => epoll::EventFlags::IN,
            Self::ReadWrite => epoll::EventFlags::IN | epoll::EventFlags::OUT,
            Self::Write => epoll::EventFlags::OUT,
        }
    }
}

impl Poll {
    /// # Errors
    /// When the process is out of descriptors.
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { epoll, events: Vec::with_capacity(EVENTS_MAX) })
    }

    /// # Errors
    /// When `source` is watched already.
    pub fn add(&self, source: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        epoll::add(&self.epoll, source, epoll::EventData::new_u64(token), interest.flags())
    }

    /// # Errors
    /// When `source` is not watched.
    pub fn modify(&self, source: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        epoll::modify(&self.epoll, source, epoll::EventData::new_u64(token), interest.flags())
    }

    /// Waits until something is ready or `timeout` is over, and appends what is ready. Closing a
    /// descriptor ends its watch, but not an event that this turn has appended already.
    ///
    /// # Errors
    /// Never for an interrupted wait, which is an empty turn.
    pub fn wait(&mut self, timeout: Option<Duration>, ready: &mut Vec<Ready>) -> io::Result<()> {
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), timeout.as_ref()) {
            Ok(_) | Err(io::Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        for event in &self.events {
            let flags = event.flags;
            let ended = flags.intersects(epoll::EventFlags::ERR | epoll::EventFlags::HUP);
            ready.push(Ready {
                token: event.data.u64(),
                readable: ended || flags.contains(epoll::EventFlags::IN),
                writable: ended || flags.contains(epoll::EventFlags::OUT),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Write, os::unix::net::UnixStream};

    #[test]
    fn tells_what_is_ready() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let mut poll = Poll::new().unwrap();
        poll.add(&far, 7, Interest::Read).unwrap();
        let mut ready = Vec::new();
        poll.wait(Some(Duration::ZERO), &mut ready).unwrap();
        assert!(ready.is_empty(), "nothing was sent: {ready:?}");

        near.write_all(b"x").unwrap();
        poll.wait(None, &mut ready).unwrap();
        assert_eq!(ready.len(), 1);
        assert!(ready[0].token == 7 && ready[0].readable && !ready[0].writable);

        poll.modify(&far, 8, Interest::Write).unwrap();
        ready.clear();
        poll.wait(None, &mut ready).unwrap();
        assert!(ready[0].token == 8 && ready[0].writable && !ready[0].readable);
    }
}
