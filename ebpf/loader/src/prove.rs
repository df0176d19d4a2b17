//! The self-test of acceleration: real bytes through the programs, order and content checked, past
//! every point at which a direction changes its way.
//!
//! Both sides of the connection are this process's own, once as the app and once as the data plane.

use crate::{Accelerator, KernelError};
use ebpf_common::{
    IDENTITY_LEVEL,
    accelerate::{DATA_PLANE, Hop, Pace, Side, TICKET_NAME, Ticket, WINDOW_BYTES, slot_of, word},
};
use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd},
    time::{Duration, Instant},
};

/// Why nothing is accelerated on this machine.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    #[error("{0}")]
    Kernel(#[from] KernelError),
    #[error("{step}: {error}")]
    Socket { step: &'static str, error: io::Error },
    #[error("{step}: byte {at} is not the one that was sent")]
    Content { step: &'static str, at: u64 },
    #[error("{step}: the kernel counts {count} of {wanted} {}", .pace.name())]
    Count { step: &'static str, pace: Pace, count: u64, wanted: u64 },
    #[error("a socket that is to be accelerated has no ticket")]
    NoTicket,
}

impl Accelerator {
    /// Whether this kernel does as the rules rely on. `cgroup` is that of this process. Ports and
    /// parties that were set are gone afterwards.
    ///
    /// # Errors
    /// What it did instead.
    pub fn prove(&mut self, cgroup: u64) -> Result<(), Failed> {
        self.set_window(WINDOW as u64)?;
        let result = [Side::App, Side::DataPlane]
            .into_iter()
            .try_for_each(|listener| self.prove_one(cgroup, listener));
        self.set_window(WINDOW_BYTES)?;
        self.set(&BTreeMap::new(), &BTreeMap::new())?;
        result
    }

    fn prove_one(&mut self, cgroup: u64, listener: Side) -> Result<(), Failed> {
        let failed = |error| Failed::Socket { step: "connecting", error };
        let listening = TcpListener::bind("127.0.0.1:0").map_err(failed)?;
        let address = listening.local_addr().map_err(failed)?;
        let hop = Hop { app: PROBE, listener: listener as u64 };
        let dialer = if listener == Side::App { DATA_PLANE } else { PROBE };
        self.set(&[(address.port(), hop)].into(), &[(cgroup, dialer)].into())?;
        let dialed = TcpStream::connect(address).map_err(failed)?;
        let (accepted, _) = listening.accept().map_err(failed)?;
        let (app, plane) =
            if listener == Side::App { (accepted, dialed) } else { (dialed, accepted) };
        let ticket = ticket(&plane).ok_or(Failed::NoTicket)?;
        let mut pair = Pair::new(self, app, plane, ticket).map_err(failed)?;
        pair.talk()?;
        pair.fill_window()?;
        pair.fill_budget()?;
        pair.end()
    }
}

struct Pair<'a> {
    kernel: &'a mut Accelerator,
    app: TcpStream,
    plane: TcpStream,
    ticket: Ticket,
    to_plane: Stream,
    to_app: Stream,
}

/// Bytes of one direction, each of which is told by its place.
#[derive(Default)]
struct Stream {
    sent: u64,
    read: u64,
}

impl<'a> Pair<'a> {
    fn new(
        kernel: &'a mut Accelerator,
        app: TcpStream,
        plane: TcpStream,
        ticket: Ticket,
    ) -> io::Result<Self> {
        for socket in [&app, &plane] {
            socket.set_nonblocking(true)?;
            socket.set_nodelay(true)?;
        }
        let (to_plane, to_app) = (Stream::default(), Stream::default());
        Ok(Self { kernel, app, plane, ticket, to_plane, to_app })
    }

    fn talk(&mut self) -> Result<(), Failed> {
        const STEP: &str = "messages back and forth";
        let before = self.kernel.count(Pace::Messages)?;
        for round in 0..ROUNDS {
            let bytes = 1 + round * 997;
            self.to_plane.send(&self.app, bytes, STEP)?;
            self.read_as_plane(STEP)?;
            self.to_app.send(&self.plane, bytes, STEP)?;
            self.to_app.read_all(&self.app, STEP)?;
        }
        // An app that dialled begins by TCP.
        self.expect(Pace::Messages, before, 2 * ROUNDS - 1, STEP)
    }

    fn fill_window(&mut self) -> Result<(), Failed> {
        const STEP: &str = "more than a window from the app";
        let before = self.kernel.count(Pace::Window)?;
        let resumed = self.kernel.count(Pace::Resumed)?;
        let whole = WINDOW;
        self.to_plane.send(&self.app, whole, STEP)?;
        self.to_plane.send(&self.app, PIECE, STEP)?;
        self.expect(Pace::Window, before, 1, STEP)?;
        self.read_as_plane(STEP)?;
        self.to_plane.send(&self.app, PIECE, "straight again")?;
        self.expect(Pace::Resumed, resumed, 1, "straight again")?;
        self.read_as_plane("straight again")
    }

    fn fill_budget(&mut self) -> Result<(), Failed> {
        const STEP: &str = "more than a window to the app";
        let before = self.kernel.count(Pace::Budget)?;
        let whole = WINDOW;
        self.to_app.send(&self.plane, whole, STEP)?;
        self.to_app.send(&self.plane, PIECE, STEP)?;
        self.expect(Pace::Budget, before, 1, STEP)?;
        self.to_app.read_all(&self.app, STEP)
    }

    fn end(mut self) -> Result<(), Failed> {
        const STEP: &str = "the end of a stream";
        let failed = |error| Failed::Socket { step: STEP, error };
        self.app.shutdown(Shutdown::Write).map_err(failed)?;
        read_end(&self.plane).map_err(failed)?;
        self.to_app.send(&self.plane, PIECE, STEP)?;
        drop(self.plane);
        self.to_app.read_all(&self.app, STEP)?;
        read_end(&self.app).map_err(failed)
    }

    fn read_as_plane(&mut self, step: &'static str) -> Result<(), Failed> {
        self.to_plane.read_all(&self.plane, step)?;
        let word = word(self.ticket, self.to_plane.read);
        let failed = |e| KernelError::Map { map: "TAKEN", reason: crate::error::text(&e) };
        Ok(self.kernel.taken.set(slot_of(self.ticket), word, 0).map_err(failed)?)
    }

    fn expect(
        &self,
        pace: Pace,
        before: u64,
        wanted: usize,
        step: &'static str,
    ) -> Result<(), Failed> {
        let (count, wanted) = (self.kernel.count(pace)? - before, wanted as u64);
        if count >= wanted { Ok(()) } else { Err(Failed::Count { step, pace, count, wanted }) }
    }
}

impl Stream {
    /// As one message.
    fn send(
        &mut self,
        mut from: &TcpStream,
        bytes: usize,
        step: &'static str,
    ) -> Result<(), Failed> {
        let message: Vec<u8> = (self.sent..).take(bytes).map(byte_at).collect();
        let mut rest = &message[..];
        let deadline = Instant::now() + PATIENCE;
        while !rest.is_empty() {
            match from.write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(e) => wait(e, deadline).map_err(|error| Failed::Socket { step, error })?,
            }
        }
        self.sent += bytes as u64;
        Ok(())
    }

    fn read_all(&mut self, mut to: &TcpStream, step: &'static str) -> Result<(), Failed> {
        let mut buffer = vec![0; PIECE];
        let deadline = Instant::now() + PATIENCE;
        while self.read < self.sent {
            let count = match to.read(&mut buffer) {
                Ok(0) => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                Err(e) => wait(e, deadline).map(|()| 0),
                count => count,
            }
            .map_err(|error| Failed::Socket { step, error })?;
            let mut places = (self.read..).zip(&buffer[..count]);
            if let Some((at, _)) = places.find(|(at, byte)| byte_at(*at) != **byte) {
                return Err(Failed::Content { step, at });
            }
            self.read += count as u64;
        }
        Ok(())
    }
}

/// No two stretches of a stream are alike for longer than a few bytes.
const fn byte_at(at: u64) -> u8 {
    (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32).to_be_bytes()[7]
}

fn read_end(mut socket: &TcpStream) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match socket.read(&mut [0]) {
            Ok(0) => return Ok(()),
            Ok(_) => return Err(io::Error::other("bytes that nobody sent")),
            Err(e) => wait(e, deadline)?,
        }
    }
}

/// Both ends are this thread's, so what is not there yet is on its way.
fn wait(error: io::Error, deadline: Instant) -> io::Result<()> {
    let is_worth_it =
        matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted);
    if !is_worth_it || Instant::now() > deadline {
        return Err(error);
    }
    std::thread::yield_now();
    Ok(())
}

/// Of a socket that is accelerated.
pub fn ticket(socket: impl AsFd) -> Option<Ticket> {
    let mut ticket: Ticket = 0;
    let mut bytes = libc::socklen_t::try_from(size_of::<Ticket>()).ok()?;
    // SAFETY: `ticket` is eight bytes, as `bytes` says, and both outlive the call; the descriptor
    // is borrowed for the whole call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            IDENTITY_LEVEL,
            TICKET_NAME,
            (&raw mut ticket).cast(),
            &raw mut bytes,
        )
    };
    (result == 0 && bytes as usize == size_of::<Ticket>()).then_some(ticket)
}

/// No app's number.
const PROBE: u64 = DATA_PLANE - 1;

const ROUNDS: usize = 16;

/// Smaller than what is used: a start should not wait for megabytes.
const WINDOW: usize = 64 * 1024;

/// Fits into what a socket takes at once.
const PIECE: usize = 16 * 1024;

/// The machine may be busy; a byte that is lost does not come later either.
const PATIENCE: Duration = Duration::from_secs(5);
