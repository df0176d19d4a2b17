//! The network of the simulation: byte streams in memory that behave as Linux TCP does where it
//! hurts.
//!
//! A direction holds a bounded number of bytes. Closing with unread bytes, or sending to a closed
//! end, is a reset, and a reset takes along whatever had not yet left the sender. What arrived
//! before a reset can still be read.

#![forbid(unsafe_code)]

use super::random::Random;
use rustix::io::Errno;
use std::collections::VecDeque;

/// One end of a stream: side 0 connected, side 1 was connected to.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct End {
    stream: usize,
    side: usize,
}

impl End {
    pub(super) const fn other(self) -> Self {
        Self { stream: self.stream, side: 1 - self.side }
    }
}

/// Where one can connect to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Place(pub(super) usize);

pub(super) enum Read {
    Broken(Errno),
    Bytes(Vec<u8>),
    Fin,
    Nothing,
}

pub(super) enum Connecting {
    Done,
    Failed(Errno),
    Pending,
}

pub(super) struct Net {
    streams: Vec<Stream>,
    ports: Vec<Port>,
    random: Random,
    /// What the capacity of each direction is drawn from.
    capacities: &'static [usize],
    /// Counts everything that happens; the world is quiet while it stands still.
    pub(super) motion: u64,
}

struct Port {
    is_open: bool,
    is_calm: bool,
    queue: VecDeque<End>,
}

struct Stream {
    place: Place,
    phase: Phase,
    /// The network does nothing to it that a calm network would not do.
    is_calm: bool,
    capacity: usize,
    halves: [Half; 2],
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    Connecting,
    /// Nobody answers.
    Hanging,
    Open,
}

/// A stream as one of its ends sees it.
#[derive(Default)]
struct Half {
    /// Arrived, not read yet.
    inbox: VecDeque<u8>,
    /// Behind `inbox` comes the other end's FIN.
    fin: bool,
    /// This end has sent FIN.
    shut: bool,
    /// This end's descriptor is gone.
    closed: bool,
    broken: Option<Errno>,
}

impl Net {
    pub(super) fn new(random: Random, capacities: &'static [usize]) -> Self {
        Self { streams: Vec::new(), ports: Vec::new(), random, capacities, motion: 0 }
    }

    pub(super) fn open(&mut self, is_calm: bool) -> Place {
        self.ports.push(Port { is_open: true, is_calm, queue: VecDeque::new() });
        Place(self.ports.len() - 1)
    }

    pub(super) fn is_calm(&self, place: Place) -> bool {
        self.ports[place.0].is_calm
    }

    /// Nobody accepts there any more; who waited is reset.
    pub(super) fn shut_place(&mut self, place: Place) {
        self.ports[place.0].is_open = false;
        for end in std::mem::take(&mut self.ports[place.0].queue) {
            self.reset(end);
        }
    }

    /// How it went is asked of [`Self::poll_connect`].
    pub(super) fn connect(&mut self, place: Place, is_calm: bool) -> End {
        let is_calm = is_calm && self.ports[place.0].is_calm;
        let hangs = !is_calm && self.random.chance(4);
        self.streams.push(Stream {
            place,
            phase: if hangs { Phase::Hanging } else { Phase::Connecting },
            is_calm,
            capacity: self.random.pick(self.capacities),
            halves: Default::default(),
        });
        self.motion += 1;
        End { stream: self.streams.len() - 1, side: 0 }
    }

    pub(super) fn poll_connect(&mut self, end: End) -> Connecting {
        let stream = &mut self.streams[end.stream];
        match stream.phase {
            Phase::Hanging => return Connecting::Pending,
            Phase::Open => return Connecting::Done,
            Phase::Connecting => {}
        }
        self.motion += 1;
        let port = &mut self.ports[stream.place.0];
        if !port.is_open || (!stream.is_calm && self.random.chance(10)) {
            stream.halves[end.side].broken = Some(Errno::CONNREFUSED);
            return Connecting::Failed(Errno::CONNREFUSED);
        }
        stream.phase = Phase::Open;
        port.queue.push_back(end.other());
        Connecting::Done
    }

    pub(super) fn accept(&mut self, place: Place) -> Option<End> {
        let end = self.ports[place.0].queue.pop_front()?;
        self.motion += 1;
        Some(end)
    }

    /// Takes as much as there is room for, or less; 0 when there is none.
    pub(super) fn write(&mut self, end: End, bytes: &[u8]) -> Result<usize, Errno> {
        let stream = &mut self.streams[end.stream];
        let [own, other] = halves(&mut stream.halves, end.side);
        assert!(!own.shut && !own.closed, "nothing is sent behind a FIN");
        if let Some(error) = own.broken {
            self.motion += 1;
            return Err(if error == Errno::CONNRESET { Errno::PIPE } else { error });
        }
        if other.closed {
            // These bytes provoke the reset; only the next ones notice.
            self.cut(end);
            return Ok(bytes.len());
        }
        let room = stream.capacity.saturating_sub(other.inbox.len()).min(bytes.len());
        if room == 0 {
            return Ok(0);
        }
        let count = if self.random.chance(60) { room } else { self.random.between(1, room) };
        other.inbox.extend(&bytes[..count]);
        self.motion += 1;
        Ok(count)
    }

    /// At most `bytes_max`, or fewer.
    pub(super) fn read(&mut self, end: End, bytes_max: usize) -> Read {
        let half = &mut self.streams[end.stream].halves[end.side];
        if half.inbox.is_empty() {
            return match half {
                Half { broken: Some(error), .. } => Read::Broken(*error),
                Half { fin: true, .. } => Read::Fin,
                _ => Read::Nothing,
            };
        }
        let there = half.inbox.len().min(bytes_max);
        let count = if self.random.chance(60) { there } else { self.random.between(1, there) };
        self.motion += 1;
        Read::Bytes(half.inbox.drain(..count).collect())
    }

    pub(super) fn shutdown(&mut self, end: End) {
        let [own, other] = halves(&mut self.streams[end.stream].halves, end.side);
        if !own.shut && own.broken.is_none() {
            own.shut = true;
            other.fin = true;
            self.motion += 1;
        }
    }

    pub(super) fn close(&mut self, end: End) {
        let [own, other] = halves(&mut self.streams[end.stream].halves, end.side);
        self.motion += 1;
        own.closed = true;
        let is_unread = !own.inbox.is_empty();
        own.inbox = VecDeque::new();
        if other.closed || own.broken.is_some() {
            return;
        }
        if is_unread {
            self.cut(end.other());
        } else {
            other.fin = true;
        }
    }

    pub(super) fn reset(&mut self, end: End) {
        let half = &mut self.streams[end.stream].halves[end.side];
        half.closed = true;
        half.inbox = VecDeque::new();
        self.motion += 1;
        self.cut(end.other());
    }

    /// A reset reaches `end`. Some of what was sent to it before never comes.
    fn cut(&mut self, end: End) {
        self.motion += 1;
        let half = &mut self.streams[end.stream].halves[end.side];
        if half.broken.is_none() && !half.closed {
            half.broken = Some(Errno::CONNRESET);
            if self.random.chance(50) && !half.inbox.is_empty() {
                let kept = self.random.below(half.inbox.len());
                half.inbox.truncate(kept);
            }
        }
    }

    /// Breaks some stream that need not be calm.
    pub(super) fn hurt_one(&mut self) {
        let open = |stream: &Stream| {
            !stream.is_calm && stream.phase == Phase::Open && !stream.halves[0].closed
        };
        let streams: Vec<usize> =
            (0..self.streams.len()).filter(|at| open(&self.streams[*at])).collect();
        if !streams.is_empty() {
            let stream = self.random.pick(&streams);
            self.cut(End { stream, side: 0 });
            self.cut(End { stream, side: 1 });
        }
    }
}

/// This side's half, then the other's.
fn halves(halves: &mut [Half; 2], side: usize) -> [&mut Half; 2] {
    let [first, second] = halves;
    if side == 0 { [first, second] } else { [second, first] }
}
