//! The link's socket: frames with descriptors beside them.

#![forbid(unsafe_code)]

use rustix::{
    io::{Errno, IoSliceMut},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, recvmsg, send,
    },
};
use serde::Serialize;
use snapshot::wire::{self, SOCKETS_MAX, ToDataPlane, WireError};
use std::{
    collections::VecDeque,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

const READ_BYTES: usize = 64 * 1024;

pub(super) struct LinkSocket {
    socket: OwnedFd,
    bytes: Vec<u8>,
    /// Descriptors that came and were not claimed by a message yet, in order.
    descriptors: VecDeque<OwnedFd>,
}

pub(super) enum LinkError {
    Closed,
    Broken(String),
}

impl LinkSocket {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket, bytes: Vec::new(), descriptors: VecDeque::new() }
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Blocks when control does not read; control is a process that only reads, and small.
    pub(super) fn send<M: Serialize>(&mut self, message: &M) -> Result<(), LinkError> {
        let frame = wire::encode(message).map_err(|e| LinkError::Broken(e.to_string()))?;
        let mut rest = &frame[..];
        while !rest.is_empty() {
            match send(&self.socket, rest, SendFlags::NOSIGNAL) {
                Ok(count) => rest = &rest[count..],
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
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
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

    pub(super) fn next_message(&mut self) -> Result<Option<ToDataPlane>, WireError> {
        let Some((message, used)) = wire::decode(&self.bytes)? else { return Ok(None) };
        self.bytes.drain(..used);
        if self.bytes.is_empty() {
            self.bytes = Vec::new();
        }
        Ok(Some(message))
    }

    /// The next `count` descriptors; `None` when fewer have come.
    pub(super) fn take_sockets(&mut self, count: usize) -> Option<Vec<OwnedFd>> {
        (self.descriptors.len() >= count).then(|| self.descriptors.drain(..count).collect())
    }
}
