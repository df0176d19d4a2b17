//! The link's socket: frames with descriptors beside them.
//!
//! Descriptors come with the first byte of their frame, and one read never takes the descriptors of
//! two frames (the kernel ends a read of a stream socket behind the bytes that brought some). So
//! those of one read belong to the frame that holds the last byte of it, whatever becomes of that
//! frame.

#![forbid(unsafe_code)]

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, IoSlice, IoSliceMut},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg, sockopt,
    },
};
use serde::Serialize;
use snapshot::{
    handover,
    wire::{self, SOCKETS_MAX, ToDataPlane, WireError},
};
use std::{
    collections::VecDeque,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

const READ_BYTES: usize = 64 * 1024;

pub(super) struct LinkSocket {
    socket: OwnedFd,
    bytes: Vec<u8>,
    /// Bytes that were taken off the front of `bytes` since the link began.
    taken: u64,
    received: VecDeque<Received>,
}

/// The descriptors of one read.
struct Received {
    /// Bytes of the link up to the end of that read.
    end: u64,
    descriptors: Vec<OwnedFd>,
}

/// Who is at the other end, as the kernel saw it connect (SO_PEERCRED).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Peer {
    pub pid: i32,
    pub uid: u32,
}

#[derive(Debug)]
pub(super) enum LinkError {
    Closed,
    Broken(String),
}

/// What [`LinkSocket::next_frame`] found.
pub(super) enum Frame {
    Message {
        message: ToDataPlane,
        sockets: Vec<OwnedFd>,
    },
    /// Of a control that may be of another version.
    Handover(handover::Request),
    /// It was passed over, with its descriptors.
    Unreadable(WireError),
}

impl LinkSocket {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket, bytes: Vec::new(), taken: 0, received: VecDeque::new() }
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(super) fn peer(&self) -> Result<Peer, Errno> {
        let credentials = sockopt::socket_peercred(&self.socket)?;
        Ok(Peer { pid: credentials.pid.as_raw_pid(), uid: credentials.uid.as_raw() })
    }

    /// Whether the other end is closed. What it said before may still be here.
    pub(super) fn is_hung_up(&self) -> bool {
        let mut fds = [PollFd::new(&self.socket, PollFlags::empty())];
        let polled = poll(&mut fds, Some(&Timespec::default()));
        polled.is_ok() && fds[0].revents().contains(PollFlags::HUP)
    }

    pub(super) fn send<M: Serialize>(&mut self, message: &M) -> Result<(), LinkError> {
        self.send_with(message, &[])
    }

    /// Blocks when control does not read; control is a process that only reads, and small.
    pub(super) fn send_with<M: Serialize>(
        &mut self,
        message: &M,
        sockets: &[BorrowedFd<'_>],
    ) -> Result<(), LinkError> {
        let frame = wire::encode(message).map_err(|e| LinkError::Broken(e.to_string()))?;
        self.send_frame(&frame, sockets)
    }

    pub(super) fn send_frame(
        &mut self,
        frame: &[u8],
        sockets: &[BorrowedFd<'_>],
    ) -> Result<(), LinkError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !sockets.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(sockets)) {
            return Err(LinkError::Broken("more sockets than one message can carry".to_owned()));
        }
        let mut rest = frame;
        while !rest.is_empty() {
            match sendmsg(&self.socket, &[IoSlice::new(rest)], &mut ancillary, SendFlags::NOSIGNAL)
            {
                Ok(count) => {
                    rest = &rest[count..];
                    // They went with the first byte.
                    ancillary.clear();
                }
                Err(Errno::INTR) => {}
                Err(_) => return Err(LinkError::Closed),
            }
        }
        Ok(())
    }

    /// Takes what is there; call when readable.
    pub(super) fn receive(&mut self) -> Result<(), LinkError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let filled = self.bytes.len();
        self.bytes.resize(filled + READ_BYTES, 0);
        let mut slices = [IoSliceMut::new(&mut self.bytes[filled..])];
        let received = recvmsg(
            &self.socket,
            &mut slices,
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
        );
        let count = received.as_ref().map_or(0, |message| message.bytes);
        self.bytes.truncate(filled + count);
        let message = match received {
            Ok(message) => message,
            Err(Errno::INTR | Errno::AGAIN) => return Ok(()),
            Err(_) => return Err(LinkError::Closed),
        };
        let end = self.taken + self.bytes.len() as u64;
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.received.push_back(Received { end, descriptors: descriptors.collect() });
            }
        }
        if message.flags.contains(ReturnFlags::CTRUNC) {
            return Err(LinkError::Broken(
                "descriptors were cut off; raise the open files limit".into(),
            ));
        }
        if message.bytes == 0 {
            return Err(LinkError::Closed);
        }
        Ok(())
    }

    /// The next frame that is here whole.
    ///
    /// # Errors
    /// When no frame can be found any more.
    pub(super) fn next_frame(&mut self) -> Result<Option<Frame>, WireError> {
        let Some(length) = wire::frame_bytes(&self.bytes)? else { return Ok(None) };
        let request = handover::decode(&self.bytes)?.and_then(|(request, _)| request);
        let decoded = wire::decode(&self.bytes);
        self.bytes.drain(..length);
        self.taken += length as u64;
        if self.bytes.is_empty() {
            self.bytes = Vec::new();
        }
        let sockets = self.take_descriptors();
        if let Some(request) = request {
            return Ok(Some(Frame::Handover(request)));
        }
        Ok(match decoded {
            Ok(message) => message.map(|(message, _)| Frame::Message { message, sockets }),
            Err(error) => Some(Frame::Unreadable(error)),
        })
    }

    /// Those of all that was taken up to here.
    fn take_descriptors(&mut self) -> Vec<OwnedFd> {
        let count = self.received.iter().take_while(|received| received.end <= self.taken).count();
        self.received.drain(..count).flat_map(|received| received.descriptors).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Write, net::TcpListener, os::unix::net::UnixStream};

    /// Sends as control does: descriptors with the first byte, the rest of the frame in whatever
    /// pieces.
    fn send(stream: &UnixStream, bytes: &[u8], sockets: &[BorrowedFd<'_>], first: usize) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(sockets.is_empty() || ancillary.push(SendAncillaryMessage::ScmRights(sockets)));
        let first = first.min(bytes.len());
        let sent =
            sendmsg(stream, &[IoSlice::new(&bytes[..first])], &mut ancillary, SendFlags::empty());
        assert_eq!(sent.unwrap(), first);
        let mut stream = stream;
        stream.write_all(&bytes[first..]).unwrap();
    }

    fn port(socket: BorrowedFd<'_>) -> u16 {
        let listener = TcpListener::from(socket.try_clone_to_owned().unwrap());
        listener.local_addr().unwrap().port()
    }

    #[test]
    fn descriptors_stay_with_their_frame_also_beside_one_that_is_none() {
        let good = wire::encode(&ToDataPlane::Drain).unwrap();
        let mut bad = good.clone();
        bad[4] = 0xee;
        for first in 1..=good.len() {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let mut link = LinkSocket::new(ours.into());
            let listeners: Vec<TcpListener> =
                (0..4).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
            let fds: Vec<BorrowedFd<'_>> = listeners.iter().map(AsFd::as_fd).collect();
            send(&theirs, &good, &[], first);
            send(&theirs, &bad, &fds[..1], first);
            send(&theirs, &good, &fds[1..3], first);
            send(&theirs, &good, &[], first);
            send(&theirs, &good, &fds[3..], first);
            drop(theirs);
            while link.receive().is_ok() {}
            let mut found = Vec::new();
            while let Some(frame) = link.next_frame().unwrap() {
                found.push(match frame {
                    Frame::Message { message, sockets } => {
                        assert_eq!(message, ToDataPlane::Drain);
                        sockets.iter().map(|socket| port(socket.as_fd())).collect()
                    }
                    Frame::Handover(request) => panic!("{request:?}"),
                    Frame::Unreadable(error) => {
                        assert_eq!(error, WireError::Protocol(0xee));
                        vec![0]
                    }
                });
            }
            let ports: Vec<u16> = fds.iter().map(|fd| port(*fd)).collect();
            let want: [&[u16]; 5] = [&[], &[0], &ports[1..3], &[], &ports[3..]];
            assert_eq!(found, want, "split after {first}");
        }
    }

    #[test]
    fn the_peer_of_a_socket_pair_is_this_process() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let peer = LinkSocket::new(ours.into()).peer().unwrap();
        assert_eq!(peer.pid, i32::try_from(std::process::id()).unwrap());
        assert_eq!(peer.uid, rustix::process::getuid().as_raw());
    }
}
