//! Control's end of the link, spoken as the contract says: frames of `snapshot::wire`, sockets as
//! SCM_RIGHTS beside the first byte of the frame that names them.

#![forbid(unsafe_code)]

use super::DEADLINE;
use rustix::{
    io::{Errno, IoSlice, IoSliceMut},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
    },
};
use snapshot::{
    handover,
    wire::{self, FromDataPlane, LogLevel, ToDataPlane},
};
use std::{
    io::Write,
    mem::MaybeUninit,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
};

pub(crate) struct Link {
    stream: UnixStream,
    /// Received and not yet read by the test, and the descriptors that came along.
    buffer: Vec<u8>,
    sockets: Vec<OwnedFd>,
}

impl Link {
    pub(crate) fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        Self::over(stream)
    }

    fn over(stream: UnixStream) -> Self {
        Self { stream, buffer: Vec::new(), sockets: Vec::new() }
    }

    /// A link to nobody; put in the place of a real one, it takes that one away.
    pub(crate) fn nowhere() -> Self {
        let (stream, _) = UnixStream::pair().unwrap();
        Self::over(stream)
    }

    pub(crate) fn send(&mut self, message: &ToDataPlane, sockets: &[BorrowedFd<'_>]) {
        self.send_bytes(&wire::encode(message).unwrap(), sockets);
    }

    /// Bytes as they are, well formed or not.
    pub(crate) fn send_bytes(&mut self, bytes: &[u8], sockets: &[BorrowedFd<'_>]) {
        let mut sent = 0;
        if !sockets.is_empty() {
            let mut space =
                vec![MaybeUninit::uninit(); SendAncillaryMessage::ScmRights(sockets).size()];
            let mut control = SendAncillaryBuffer::new(&mut space);
            assert!(control.push(SendAncillaryMessage::ScmRights(sockets)));
            let slices = [IoSlice::new(bytes)];
            sent = sendmsg(&self.stream, &slices, &mut control, SendFlags::NOSIGNAL).unwrap();
        }
        self.stream.write_all(&bytes[sent..]).unwrap();
    }

    /// The next message that is not a log line. Log lines go to the output of the test, which is
    /// shown when it fails.
    pub(crate) fn receive(&mut self) -> FromDataPlane {
        loop {
            match self.receive_any() {
                Some(FromDataPlane::Log { level, message }) => show_log(level, &message),
                Some(message) => return message,
                None => panic!("the data plane closed the link"),
            }
        }
    }

    /// The data plane says what it could not understand, and closes the link.
    pub(crate) fn assert_closed(&mut self) {
        while let Some(message) = self.receive_any() {
            match message {
                FromDataPlane::Log { level, message } => show_log(level, &message),
                FromDataPlane::Refused { problems, .. } => println!("refused: {problems:?}"),
                other => panic!("not the end of the link, but {other:?}"),
            }
        }
    }

    /// The next message, with the descriptors that came up to it.
    pub(crate) fn receive_with_sockets(&mut self) -> (FromDataPlane, Vec<OwnedFd>) {
        let message = self.receive();
        (message, std::mem::take(&mut self.sockets))
    }

    /// All sockets that are handed over to a control of any version.
    pub(crate) fn receive_handover(&mut self) -> Vec<(handover::Socket, OwnedFd)> {
        let mut names = Vec::new();
        loop {
            match handover::decode::<handover::Sockets>(&self.buffer).unwrap() {
                Some((message, length)) => {
                    self.buffer.drain(..length);
                    let Some(message) = message else { continue };
                    names.extend(message.sockets);
                    if message.is_last {
                        let sockets = std::mem::take(&mut self.sockets);
                        assert_eq!(names.len(), sockets.len());
                        return names.into_iter().zip(sockets).collect();
                    }
                }
                None => assert!(self.read_piece(), "the data plane closed the link"),
            }
        }
    }

    /// Waits for more bytes, and takes the descriptors beside them; `false` at the end of the link.
    fn read_piece(&mut self) -> bool {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(wire::SOCKETS_MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut piece = [0; 16 * 1024];
        let mut slices = [IoSliceMut::new(&mut piece)];
        let count = loop {
            match recvmsg(&self.stream, &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Ok(received) => break received.bytes,
                // A ring that this thread once had may still interrupt its waits.
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => break 0,
                Err(e) => panic!("no word from the data plane: {e}"),
            }
        };
        self.buffer.extend_from_slice(&piece[..count]);
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.sockets.extend(fds);
            }
        }
        count > 0
    }

    fn receive_any(&mut self) -> Option<FromDataPlane> {
        loop {
            if let Some((message, length)) = wire::decode(&self.buffer).unwrap() {
                self.buffer.drain(..length);
                return Some(message);
            }
            if !self.read_piece() {
                return None;
            }
        }
    }
}

fn show_log(level: LogLevel, message: &str) {
    println!("data plane, {level:?}: {message}");
}
