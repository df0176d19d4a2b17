//! Control's end of the link to a data plane: whole messages in, whole messages out, sockets beside
//! them.
//!
//! All state is in the `Link`, so every future here can be dropped at any point without losing a
//! byte. A data plane that does not read is bounded by `OUTPUT_BYTES_MAX`; the link then fails and
//! its owner starts anew.

#![forbid(unsafe_code)]

use rustix::{
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
    },
};
use snapshot::{
    handover,
    wire::{self, FromDataPlane, ToDataPlane, WireError},
};
use std::{
    collections::VecDeque,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};
use tokio::{io::Interest, net::UnixStream};

pub(crate) struct Link {
    stream: UnixStream,
    input: Vec<u8>,
    /// Came beside `input` and were not claimed by a message yet, in order.
    descriptors: VecDeque<OwnedFd>,
    output: VecDeque<Frame>,
    output_bytes: usize,
}

struct Frame {
    bytes: Vec<u8>,
    sent: usize,
    /// Go with the first byte.
    sockets: Vec<Arc<OwnedFd>>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("the data plane closed the link")]
    Closed,
    #[error("the data plane does not read: {0} bytes wait for it")]
    Full(usize),
    #[error("{wanted} sockets were announced, {came} came; raise the open files limit")]
    Descriptors { wanted: usize, came: usize },
    #[error("the link failed: {0}")]
    Io(#[from] io::Error),
    #[error("the link failed: {0}")]
    Wire(#[from] WireError),
}

impl Link {
    pub(crate) const fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            input: Vec::new(),
            descriptors: VecDeque::new(),
            output: VecDeque::new(),
            output_bytes: 0,
        }
    }

    /// Queues a message, with the sockets it names, and sends what can be sent now; [`Self::next`]
    /// sends the rest.
    ///
    /// # Errors
    /// When the link can no longer be used.
    pub(crate) fn send(
        &mut self,
        message: &ToDataPlane,
        sockets: Vec<Arc<OwnedFd>>,
    ) -> Result<(), LinkError> {
        debug_assert!(sockets.len() <= wire::SOCKETS_MAX, "the caller splits what is more");
        self.queue(wire::encode(message)?, sockets)
    }

    fn queue(&mut self, bytes: Vec<u8>, sockets: Vec<Arc<OwnedFd>>) -> Result<(), LinkError> {
        self.output_bytes += bytes.len();
        if self.output_bytes > OUTPUT_BYTES_MAX {
            return Err(LinkError::Full(self.output_bytes));
        }
        self.output.push_back(Frame { bytes, sent: 0, sockets });
        self.flush()
    }

    /// The next message. Dropping the future before it is ready loses nothing.
    ///
    /// # Errors
    /// When the link can no longer be used.
    pub(crate) async fn next(&mut self) -> Result<FromDataPlane, LinkError> {
        loop {
            if let Some((message, taken)) = wire::decode(&self.input)? {
                self.input.drain(..taken);
                return Ok(message);
            }
            self.exchange().await?;
        }
    }

    /// As [`Self::send`], to a data plane that may be of another version.
    ///
    /// # Errors
    /// When the link can no longer be used.
    pub(crate) fn request(&mut self, request: handover::Request) -> Result<(), LinkError> {
        self.queue(handover::encode(&request)?, Vec::new())
    }

    /// The next sockets that are handed over; whatever else a data plane of another version says is
    /// passed over. Dropping the future before it is ready loses nothing.
    ///
    /// # Errors
    /// When the link can no longer be used.
    pub(crate) async fn next_handover(&mut self) -> Result<handover::Sockets, LinkError> {
        loop {
            match handover::decode(&self.input)? {
                Some((message, taken)) => {
                    self.input.drain(..taken);
                    if let Some(message) = message {
                        return Ok(message);
                    }
                }
                None => self.exchange().await?,
            }
        }
    }

    /// Waits until something can be read or sent, and does so.
    async fn exchange(&mut self) -> Result<(), LinkError> {
        let is_waiting = !self.output.is_empty();
        let interest =
            if is_waiting { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        let ready = self.stream.ready(interest).await?;
        if ready.is_writable() {
            self.flush()?;
        }
        if ready.is_readable() {
            self.fill()?;
        }
        Ok(())
    }

    fn fill(&mut self) -> Result<(), LinkError> {
        let Self { stream, input, descriptors, .. } = self;
        let filled = input.len();
        input.resize(filled + READ_BYTES, 0);
        let result = stream.try_io(Interest::READABLE, || {
            receive(stream.as_fd(), &mut input[filled..], descriptors)
        });
        input.truncate(filled + result.as_ref().copied().unwrap_or(0));
        match result {
            Ok(0) => Err(LinkError::Closed),
            Ok(_) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// The descriptors that came with a message that names `count` of them.
    ///
    /// # Errors
    /// When fewer came.
    pub(crate) fn take_descriptors(&mut self, count: usize) -> Result<Vec<OwnedFd>, LinkError> {
        let came = self.descriptors.len();
        if came < count {
            return Err(LinkError::Descriptors { wanted: count, came });
        }
        Ok(self.descriptors.drain(..count).collect())
    }

    fn flush(&mut self) -> Result<(), LinkError> {
        while let Some(frame) = self.output.front_mut() {
            let stream = &self.stream;
            match stream.try_io(Interest::WRITABLE, || frame.send_some(stream.as_fd())) {
                Ok(count) => frame.on_sent(count),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e.into()),
            }
            if frame.sent == frame.bytes.len() {
                self.output_bytes -= frame.bytes.len();
                self.output.pop_front();
            }
        }
        Ok(())
    }
}

fn receive(
    stream: BorrowedFd<'_>,
    bytes: &mut [u8],
    descriptors: &mut VecDeque<OwnedFd>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(wire::SOCKETS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(bytes)];
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let message = recvmsg(stream, &mut slices, &mut ancillary, flags)?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(came) = message {
            descriptors.extend(came);
        }
    }
    if message.flags.contains(ReturnFlags::CTRUNC) {
        return Err(Errno::MFILE.into());
    }
    Ok(message.bytes)
}

impl Frame {
    fn send_some(&self, stream: BorrowedFd<'_>) -> io::Result<usize> {
        let sockets: Vec<BorrowedFd<'_>> = self.sockets.iter().map(|s| s.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(wire::SOCKETS_MAX))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !sockets.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&sockets)) {
            return Err(io::Error::other("more sockets than one message can carry"));
        }
        let bytes = [IoSlice::new(&self.bytes[self.sent..])];
        Ok(sendmsg(stream, &bytes, &mut ancillary, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?)
    }

    fn on_sent(&mut self, count: usize) {
        self.sent += count;
        // They went with the first byte; a second time would hand them over twice.
        self.sockets.clear();
    }
}

/// Bytes that may wait for a data plane that is busy: a state of the largest size, and what comes
/// after it.
const OUTPUT_BYTES_MAX: usize = 2 * wire::FRAME_BYTES_MAX;

const READ_BYTES: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use snapshot::{ListenerId, OnControlLost, State, Version};
    use std::{io::Write, net::TcpListener, os::unix::net::UnixStream as StdStream};

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test);
    }

    fn pair() -> (Link, StdStream) {
        let (ours, theirs) = StdStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        (Link::new(UnixStream::from_std(ours).unwrap()), theirs)
    }

    fn state(metadata: &str, sockets: Vec<ListenerId>) -> ToDataPlane {
        let app = snapshot::App {
            number: 0,
            id: snapshot::AppId::new("a").unwrap(),
            namespace: snapshot::Namespace::default(),
            guards: Default::default(),
            channel: None,
            origin: snapshot::Origin::default(),
            telemetry: std::sync::Arc::default(),
            balance: snapshot::Balance::default(),
            resiliency: None,
            zone: None,
            body_bytes_max: None,
            head_bytes_max: 8192,
            health: snapshot::AppHealth::default(),
            outbound: Default::default(),
            metadata_json: metadata.into(),
        };
        let state = State {
            version: Version(1),
            apps: vec![app],
            routes: vec![],
            listeners: vec![],
            on_control_lost: OnControlLost::Exit,
        };
        ToDataPlane::State { state, sockets, parts: 0 }
    }

    /// Reads once, as a data plane does: bytes, and the sockets beside them.
    fn receive(stream: &StdStream, bytes: &mut Vec<u8>) -> Vec<OwnedFd> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(wire::SOCKETS_MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut buffer = vec![0; 32 * 1024];
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let got = recvmsg(stream, &mut slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap();
        assert!(!got.flags.contains(ReturnFlags::CTRUNC));
        bytes.extend_from_slice(&buffer[..got.bytes]);
        let rights = ancillary.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
            _ => None,
        });
        rights.flatten().collect()
    }

    #[test]
    fn sockets_arrive_once_in_order_beside_a_message_in_many_pieces() {
        run(async {
            let (mut link, theirs) = pair();
            let listeners: Vec<TcpListener> =
                (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
            let ports: Vec<u16> =
                listeners.iter().map(|l| l.local_addr().unwrap().port()).collect();
            let sockets = listeners.into_iter().map(|l| Arc::new(OwnedFd::from(l))).collect();
            // Larger than a socket's send buffer, so that it takes several sends.
            let message = state(&"x".repeat(2 << 20), (0..3).map(ListenerId).collect());
            link.send(&message, sockets).unwrap();
            let reader = std::thread::spawn(move || {
                let (mut bytes, mut sockets) = (Vec::new(), Vec::new());
                loop {
                    sockets.extend(receive(&theirs, &mut bytes));
                    if let Some((got, _)) = wire::decode::<ToDataPlane>(&bytes).unwrap() {
                        (&theirs)
                            .write_all(&wire::encode(&FromDataPlane::Drained).unwrap())
                            .unwrap();
                        return (got, sockets);
                    }
                }
            });
            assert_eq!(link.next().await.unwrap(), FromDataPlane::Drained);
            assert_eq!(link.output_bytes, 0);
            let (got, sockets) = reader.join().unwrap();
            assert_eq!(got, message);
            let got_ports: Vec<u16> = sockets
                .into_iter()
                .map(|fd| TcpListener::from(fd).local_addr().unwrap().port())
                .collect();
            assert_eq!(got_ports, ports);
        });
    }

    #[test]
    fn messages_in_pieces_and_in_one_piece_are_told_apart() {
        run(async {
            let messages = [
                FromDataPlane::Live { version: Version(1) },
                FromDataPlane::Drained,
                FromDataPlane::Live { version: Version(2) },
            ];
            let bytes: Vec<u8> =
                messages.iter().flat_map(|message| wire::encode(message).unwrap()).collect();
            for step in [1, 2, 7, bytes.len()] {
                let (mut link, mut theirs) = pair();
                let mut pieces = bytes.chunks(step);
                for want in &messages {
                    loop {
                        tokio::select! {
                            biased;
                            got = link.next() => {
                                assert_eq!(&got.unwrap(), want, "steps of {step}");
                                break;
                            }
                            () = std::future::ready(()), if pieces.len() > 0 => {
                                theirs.write_all(pieces.next().unwrap()).unwrap();
                            }
                        }
                    }
                }
            }
        });
    }

    #[test]
    fn fails_when_the_other_end_is_gone_or_speaks_nonsense() {
        run(async {
            let (mut link, theirs) = pair();
            drop(theirs);
            assert!(matches!(link.next().await, Err(LinkError::Closed)));

            let (mut link, mut theirs) = pair();
            theirs.write_all(&[0xff; 8]).unwrap();
            assert!(matches!(link.next().await, Err(LinkError::Wire(WireError::TooLong(_)))));
        });
    }

    #[test]
    fn what_waits_for_a_peer_that_does_not_read_is_bounded() {
        run(async {
            let (mut link, _theirs) = pair();
            let message = state(&"x".repeat(wire::FRAME_BYTES_MAX / 2), vec![]);
            let sent = (0..8).take_while(|_| link.send(&message, vec![]).is_ok()).count();
            assert!((2..8).contains(&sent), "{sent} were taken");
        });
    }
}
