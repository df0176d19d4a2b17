//! Bytes past TCP between an app and the data plane: when a message may go straight to the other
//! socket, and when it must not. Pure; the kernel runs exactly this.
//!
//! ```text
//!   Fresh ──first message, by TCP──► Drained? ──all read──► Straight ──window full──► Drained?
//!     │                                 │                      │
//!     └── bytes we did not count ───────┴──► Never ◄── nobody there
//! ```
//! A reader takes what came straight before what came by TCP. So a direction may leave Straight at
//! any time, and return only when every byte it ever sent has been read.

/// The two sockets of one connection have the same ticket, which no other connection ever has: the
/// cookie of the socket that dialled.
pub type Ticket = u64;

/// One end of a connection, as the map of sockets knows it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct End {
    pub ticket: Ticket,
    /// [`Side`]
    pub side: u64,
}

const _: () = assert!(size_of::<End>() == 16, "the layout of a map's key");

#[repr(u64)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    App = 1,
    DataPlane = 2,
}

impl Side {
    #[inline(always)]
    pub const fn other(self) -> Self {
        match self {
            Self::App => Self::DataPlane,
            Self::DataPlane => Self::App,
        }
    }
}

/// A port on loopback whose connections are accelerated.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Hop {
    pub app: u64,
    /// The [`Side`] that listens.
    pub listener: u64,
}

const _: () = assert!(size_of::<Hop>() == 16, "the layout of a map's value");

/// As a party: whatever this cgroup dials, the data plane dials.
pub const DATA_PLANE: u64 = u64::MAX;

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Acceleration {
    /// Cookie of the network namespace where the data plane is.
    pub netns: u64,
    /// Bytes that may be on their way past TCP, per direction of a connection; 0: none are.
    pub window_bytes: u64,
}

const _: () = assert!(size_of::<Acceleration>() == 16, "the layout of a map's value");

/// What a message's way is decided by, kept at the socket that sends.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Direction {
    pub ticket: Ticket,
    /// Given to the kernel, whichever way they went. At least what arrived: of a send that failed
    /// half way all bytes are counted, which only makes this direction more careful.
    pub sent: u64,
    /// Of those, the reader is known to have taken so many.
    pub taken: u64,
    /// Sequence number of the first byte that TCP sends here.
    pub first: u32,
    /// Messages: sent here, and heard of the other direction.
    pub spoken: u32,
    pub heard: u32,
    /// [`Mode`]
    pub mode: u16,
    /// [`Side`] of this socket.
    pub side: u16,
    /// 1: TCP has transmitted more than was counted, or something twice.
    pub doubt: u16,
    pub reserved: [u16; 3],
}

const _: () = assert!(size_of::<Direction>() == 48, "the layout of a map's value");

#[repr(u16)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// Past TCP.
    Straight = 0,
    /// By TCP for good.
    Never = 1,
    /// By TCP, until all is read if the reader tells.
    Drained = 2,
    /// The app's socket dialled. Bytes may have been given to it before it was connected (fast
    /// open, or another thread), so TCP goes first and counts.
    Fresh = 3,
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way {
    Straight,
    /// Straight again, since all was read.
    Resumed,
    Tcp,
    /// By TCP from now on: more than the window would be unread.
    Window,
    /// By TCP from now on: the app has not answered for a window's worth of bytes.
    Budget,
}

impl Direction {
    /// Of a socket that is connected now.
    #[inline(always)]
    pub const fn new(ticket: Ticket, side: Side, has_dialed: bool) -> Self {
        let mode = match (side, has_dialed) {
            (Side::App, true) => Mode::Fresh,
            _ => Mode::Straight,
        };
        Self {
            ticket,
            sent: 0,
            taken: 0,
            first: 0,
            spoken: 0,
            heard: 0,
            mode: mode as u16,
            side: side as u16,
            doubt: 0,
            reserved: [0; 3],
        }
    }

    /// Of a socket that is not accelerated any more.
    #[inline(always)]
    pub const fn of_nobody() -> Self {
        let mut direction = Self::new(0, Side::App, true);
        direction.mode = Mode::Never as u16;
        direction
    }

    /// No socket has this cookie.
    #[inline(always)]
    pub const fn is_nobodys(&self) -> bool {
        self.ticket == 0
    }

    #[inline(always)]
    pub const fn is_apps(&self) -> bool {
        self.side == Side::App as u16
    }

    /// The other end, where messages go.
    #[inline(always)]
    pub const fn target(&self) -> End {
        let side = if self.is_apps() { Side::DataPlane } else { Side::App };
        End { ticket: self.ticket, side: side as u64 }
    }

    /// A message of `bytes` is about to be sent. `word` is what the other side tells: the data
    /// plane the bytes it has read, the app (by what its own socket does) how often it has sent.
    #[inline(always)]
    pub fn judge(&mut self, bytes: u64, word: u64, window: u64) -> Way {
        self.hear(word);
        let unread = self.sent.wrapping_sub(self.taken) & COUNT_MASK;
        self.sent = self.sent.wrapping_add(bytes) & COUNT_MASK;
        self.spoken = self.spoken.wrapping_add(1);
        if self.mode == Mode::Never as u16 {
            return Way::Tcp;
        }
        if self.mode == Mode::Fresh as u16 {
            self.mode = Mode::Drained as u16;
            return Way::Tcp;
        }
        let is_waiting = self.mode == Mode::Drained as u16;
        // An app does not tell what it has read, so nothing ever proves that it has read all.
        if is_waiting && (!self.is_apps() || unread != 0 || self.doubt != 0) {
            return Way::Tcp;
        }
        if unread + bytes > window {
            self.mode = Mode::Drained as u16;
            return match (is_waiting, self.is_apps()) {
                (true, _) => Way::Tcp,
                (false, true) => Way::Window,
                (false, false) => Way::Budget,
            };
        }
        self.mode = Mode::Straight as u16;
        if is_waiting { Way::Resumed } else { Way::Straight }
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "an app's count goes round with its word")]
    fn hear(&mut self, word: u64) {
        // Another connection's, which has the same slot.
        if word >> COUNT_BITS != generation_of(self.ticket) {
            return;
        }
        let count = word & COUNT_MASK;
        if self.is_apps() {
            self.taken = count;
        } else if count as u32 != self.heard {
            self.heard = count as u32;
            // What an app has not read by the time it speaks, it has begun to: a window more.
            if self.mode == Mode::Straight as u16 {
                self.taken = self.sent;
            }
        }
    }

    /// TCP is about to transmit a packet with `bytes` of payload; `next` is the sequence number up
    /// to which it has transmitted before. True when that begins to be in doubt.
    ///
    /// Bytes that were given to the socket before it was connected make the end of the last packet
    /// lie behind all that was counted, each time. So does a packet that is transmitted again, but
    /// only until the next one.
    #[inline(always)]
    pub fn on_transmit(&mut self, next: u32, bytes: u64) -> bool {
        let before = next.wrapping_sub(self.first) as u64;
        let was_in_doubt = self.doubt != 0;
        self.doubt = (before + bytes > self.sent) as u16;
        if self.sent > SEQUENCE_MAX && self.mode == Mode::Drained as u16 {
            self.mode = Mode::Never as u16;
        }
        self.doubt != 0 && !was_in_doubt
    }

    /// Whether uncounted bytes can no longer turn up: those before the socket was connected are the
    /// first ones.
    #[inline(always)]
    pub const fn is_settled(&self) -> bool {
        self.mode == Mode::Straight as u16 || self.mode == Mode::Never as u16
    }

    /// The other end is not in the map: all goes by TCP, for good.
    #[inline(always)]
    pub fn miss(&mut self) {
        self.mode = Mode::Never as u16;
    }
}

/// Of a direction that nobody reads, so much waits past TCP, and then what TCP's own buffers take,
/// which are about as large. With less, usual answers would not fit into it, and what goes by TCP
/// after all costs twice what it does on a socket without this.
pub const WINDOW_BYTES: u64 = 4 << 20;

/// Where a connection's words are.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "less than SLOTS")]
pub const fn slot_of(ticket: Ticket) -> u32 {
    (ticket % SLOTS as u64) as u32
}

#[inline(always)]
const fn generation_of(ticket: Ticket) -> u64 {
    (ticket / SLOTS as u64) & (u64::MAX >> COUNT_BITS)
}

/// A count as it stands in its slot. Two connections may have the same slot at a time; each knows
/// its own words by the generation in them, and goes on with what it knew where the other's stands.
#[inline(always)]
pub const fn word(ticket: Ticket, count: u64) -> u64 {
    generation_of(ticket) << COUNT_BITS | (count & COUNT_MASK)
}

/// Sequence numbers go round; whoever has not proven anything by then never will.
const SEQUENCE_MAX: u64 = 1 << 31;

/// Of a word. Counts go round at 1 TiB, of which a window is a millionth.
const COUNT_BITS: u32 = 40;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

/// Words of the data plane, and of apps: twice 512 KiB.
pub const SLOTS: usize = 65_536;

/// Ends of connections that are accelerated; whoever finds no room stays with TCP.
pub const ENDS_MAX: usize = 65_536;

/// Connections between the caller's half of the handshake and the callee's.
pub const HALF_OPEN_MAX: usize = 16_384;

/// Cgroups whose connections may be accelerated, and ports.
pub const PARTIES_MAX: usize = 32_768;
pub const HOPS_MAX: usize = 32_768;

/// `getsockopt(socket, IDENTITY_LEVEL, TICKET_NAME, …)` gives the data plane its socket's
/// [`Ticket`].
pub const TICKET_NAME: i32 = 2;

/// Indices of the counters; each CPU has its own.
#[repr(u32)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Pace {
    /// Connections whose both ends are in the map.
    Connections = 0,
    /// Past TCP.
    Messages,
    Bytes,
    /// Falls back to TCP, by reason; [`Self::Doubt`] keeps from leaving it.
    Miss,
    Window,
    Budget,
    Doubt,
    /// Past TCP again.
    Resumed,
    /// No room for one more.
    Full,
}

impl Pace {
    pub const ALL: [Self; 9] = [
        Self::Connections,
        Self::Messages,
        Self::Bytes,
        Self::Miss,
        Self::Window,
        Self::Budget,
        Self::Doubt,
        Self::Resumed,
        Self::Full,
    ];
    pub const COUNT: usize = Self::ALL.len();

    pub const fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Messages => "messages",
            Self::Bytes => "bytes",
            Self::Miss => "peer_missing",
            Self::Window => "window",
            Self::Budget => "unanswered",
            Self::Doubt => "in_doubt",
            Self::Resumed => "resumed",
            Self::Full => "no_room",
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::vec::Vec;

    /// Generation 3, slot 5.
    const TICKET: Ticket = 3 * SLOTS as u64 + 5;
    const WINDOW: u64 = 100;

    fn told(count: u64) -> u64 {
        word(TICKET, count)
    }

    fn ways(mut direction: Direction, messages: &[(u64, u64)]) -> Vec<Way> {
        messages.iter().map(|(bytes, word)| direction.judge(*bytes, *word, WINDOW)).collect()
    }

    #[test]
    fn an_app_goes_straight_while_the_data_plane_reads() {
        use Way::{Resumed, Straight, Tcp, Window};
        let accepted = Direction::new(TICKET, Side::App, false);
        let dialed = Direction::new(TICKET, Side::App, true);
        let other = |count| word(TICKET + SLOTS as u64, count);
        for (case, direction, messages, want) in [
            ("too long a message", accepted, &[(101, 0)][..], &[Window][..]),
            ("nobody reads", accepted, &[(60, 0), (60, 0), (1, 0)], &[Straight, Window, Tcp]),
            (
                "not all is read",
                accepted,
                &[(60, 0), (60, 0), (1, told(119)), (1, told(120))],
                &[Straight, Window, Tcp, Tcp],
            ),
            (
                "another's word",
                accepted,
                &[(60, 0), (60, other(60)), (1, other(120))],
                &[Straight, Window, Tcp],
            ),
            ("dialled, unread", dialed, &[(10, 0), (10, 0)], &[Tcp, Tcp]),
            ("all is read each time", accepted, &[(60, 0), (60, told(60))], &[Straight, Straight]),
            (
                "another's word in between",
                accepted,
                &[(60, 0), (30, told(60)), (30, other(7))],
                &[Straight, Straight, Straight],
            ),
            (
                "drained",
                accepted,
                &[(60, 0), (60, 0), (1, told(120)), (1, told(120))],
                &[Straight, Window, Resumed, Straight],
            ),
            (
                "dialled and read",
                dialed,
                &[(10, 0), (10, told(10)), (10, told(20))],
                &[Tcp, Resumed, Straight],
            ),
            (
                "drained, and too long again",
                accepted,
                &[(101, 0), (101, told(101)), (5, told(202))],
                &[Window, Tcp, Resumed],
            ),
        ] {
            assert_eq!(ways(direction, messages), want, "{case}");
        }
    }

    #[test]
    fn the_data_plane_goes_straight_while_the_app_answers() {
        use Way::{Budget, Straight, Tcp};
        let direction = Direction::new(TICKET, Side::DataPlane, true);
        for (case, messages, want) in [
            ("too long a message", &[(101, 0)][..], &[Budget][..]),
            ("no answer", &[(60, 0), (60, 0)], &[Straight, Budget]),
            (
                "an answer that comes too late",
                &[(60, 0), (60, 0), (1, told(1)), (1, told(2))],
                &[Straight, Budget, Tcp, Tcp],
            ),
            ("one answer twice", &[(60, told(1)), (60, told(1))], &[Straight, Budget]),
            ("answers", &[(60, 0), (60, told(1)), (60, told(2))], &[Straight, Straight, Straight]),
        ] {
            assert_eq!(ways(direction, messages), want, "{case}");
        }
    }

    #[test]
    fn who_missed_once_stays_with_tcp() {
        for side in [Side::App, Side::DataPlane] {
            let mut direction = Direction::new(TICKET, side, side == Side::DataPlane);
            assert_eq!(direction.judge(1, 0, WINDOW), Way::Straight);
            direction.miss();
            for count in 0..4 {
                assert_eq!(direction.judge(1, told(count), WINDOW), Way::Tcp);
            }
        }
    }

    #[test]
    fn bytes_that_nobody_counted_are_found() {
        const FIRST: u32 = u32::MAX - 2;
        let at = |bytes: u32| FIRST.wrapping_add(bytes);
        for (case, packets, want) in [
            ("before the first message", &[(0, 0, 3), (10, 3, 10)][..], true),
            ("with the first message", &[(10, 0, 13)], true),
            ("in pieces", &[(10, 0, 5), (0, 5, 8)], true),
            ("once more than was counted", &[(10, 0, 13), (10, 13, 10)], true),
            ("seen by an acknowledgement", &[(10, 13, 0)], true),
            ("a packet twice, at the end", &[(10, 0, 10), (0, 10, 10)], true),
            ("none", &[(10, 0, 10)], false),
            ("none, in pieces", &[(10, 0, 5), (0, 5, 5), (7, 10, 7)], false),
            ("a packet twice, and one more", &[(10, 0, 10), (0, 10, 10), (5, 10, 5)], false),
            ("a packet twice, and an answer", &[(10, 0, 10), (0, 10, 10), (0, 10, 0)], false),
        ] {
            let mut direction = Direction::new(TICKET, Side::App, true);
            direction.first = FIRST;
            for (counted, before, bytes) in packets {
                if *counted > 0 {
                    direction.judge(*counted, 0, WINDOW);
                }
                direction.on_transmit(at(*before), *bytes);
            }
            // Whatever is read: not straight again while in doubt.
            let way = direction.judge(1, told(direction.sent), WINDOW);
            assert_eq!(way, if want { Way::Tcp } else { Way::Resumed }, "{case}");
        }
    }

    #[test]
    fn who_proves_nothing_for_long_stays_with_tcp() {
        let mut direction = Direction::new(TICKET, Side::App, true);
        for _ in 0..3 {
            direction.judge(SEQUENCE_MAX / 2, 0, WINDOW);
            direction.on_transmit(0, 0);
        }
        assert_eq!(direction.judge(1, told(direction.sent), WINDOW), Way::Tcp);
        assert!(direction.is_settled());
    }

    #[test]
    fn counts_go_round() {
        let mut direction = Direction::new(TICKET, Side::App, false);
        direction.sent = COUNT_MASK - 1;
        direction.taken = COUNT_MASK - 1;
        assert_eq!(direction.judge(50, told(COUNT_MASK - 1), WINDOW), Way::Straight);
        assert_eq!(direction.sent, 48);
        assert_eq!(direction.judge(60, told(COUNT_MASK - 1), WINDOW), Way::Window);
        assert_eq!(direction.judge(60, told(108), WINDOW), Way::Resumed);
    }
}
