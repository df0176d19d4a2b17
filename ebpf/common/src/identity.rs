//! Who dialled: from a cgroup to an app, and from a connect to the socket that accepts it.

use crate::Endpoint;

/// What a registered cgroup is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Member {
    /// The app's name as a number; see [`crate::RuleKey`].
    pub app: u64,
    /// [`Role`]
    pub role: u16,
    /// Where its API is, on 127.0.0.1; 0: it is not steered.
    pub api_port: u16,
    /// [`Capture`]
    pub capture: u16,
    pub reserved: u16,
}

const _: () = assert!(size_of::<Member>() == 16, "the layout of a map's value");

#[repr(u16)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    App = 1,
    /// Whatever it dials is what it was asked to carry: neither steered nor judged.
    DataPlane = 2,
}

/// What becomes of an app's connects to an address that stands for another app.
#[repr(u16)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Capture {
    #[default]
    Off = 0,
    /// They go where they asked to go, and are counted.
    Shadow = 1,
    /// They are calls of that app, by the caller's own API.
    On = 2,
}

/// The kernel's answer to the question who dialled.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Identity {
    /// Id of the registered cgroup, which is its inode; ids of cgroups are not given twice.
    pub cgroup: u64,
    pub app: u64,
    pub pid: u32,
    /// Number of the [`Name`] that the dialled address stands for; 0: it stands for itself.
    pub target: u32,
}

const _: () = assert!(size_of::<Identity>() == 24, "the layout that getsockopt gives");

/// Kept at the socket that dials, for as long as it lives.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Dialed {
    pub identity: Identity,
    /// What the app asked for.
    pub asked: Endpoint,
    /// 1 while `identity` is to be handed over.
    pub is_identified: u16,
    /// Port on 127.0.0.1 where it was sent instead; 0: it went where it asked to go.
    pub sent_to: u16,
}

const _: () = assert!(size_of::<Dialed>() == 48, "the layout of a map's value");

/// A connection between its SYN and its last ACK, as the side that dials names it. No two sockets
/// of a network namespace have the same four at a time.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Flow {
    pub netns: u64,
    pub local: Endpoint,
    pub remote: Endpoint,
}

const _: () = assert!(size_of::<Flow>() == 48, "the layout of a map's key");

/// An app as callers name it, `id` or `id.namespace`, padded with zeros.
#[repr(C)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Name {
    words: [u64; NAME_WORDS],
}

/// Of a [`Name`]; longer than any name that a resolver would take for one label and its domain.
pub const NAME_BYTES_MAX: usize = 127;

const NAME_WORDS: usize = 16;

const _: () = assert!(size_of::<Name>() == 128, "the layout of a map's value");
const _: () = assert!(NAME_BYTES_MAX < size_of::<Name>(), "a zero ends it");

impl Name {
    /// `None` for a name that is empty, too long, or has a zero in it.
    pub fn new(name: &[u8]) -> Option<Self> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains(&0) {
            return None;
        }
        let mut words = [0; NAME_WORDS];
        for (index, byte) in name.iter().enumerate() {
            words[index / 8] |= u64::from_ne_bytes(place(*byte, index % 8));
        }
        Some(Self { words })
    }

    /// As it lies in memory.
    pub const fn words(&self) -> &[u64; NAME_WORDS] {
        &self.words
    }

    /// The bytes before the first zero, written into `room`.
    pub fn read<'r>(&self, room: &'r mut [u8; 128]) -> &'r [u8] {
        for (chunk, word) in room.chunks_exact_mut(8).zip(self.words) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        let end = room.iter().position(|byte| *byte == 0).unwrap_or(room.len());
        &room[..end]
    }

    /// What [`Identity::target`] calls it: never 0. FNV-1a, so that a number means the same name
    /// whoever gave it and whenever; control refuses two names with the same.
    pub fn number(name: &[u8]) -> u32 {
        let hash = name.iter().fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
        });
        if hash == 0 { 1 } else { hash }
    }
}

impl Default for Name {
    fn default() -> Self {
        Self { words: [0; NAME_WORDS] }
    }
}

fn place(byte: u8, at: usize) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[at] = byte;
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_as_they_were() {
        let long = [b'x'; NAME_BYTES_MAX + 1];
        for (case, name) in [("empty", &b""[..]), ("too long", &long), ("a zero", b"a\0b")] {
            assert_eq!(Name::new(name), None, "{case}");
        }
        for name in [&b"a"[..], b"orders", b"orders.prod", b"12345678", &long[1..]] {
            let mut room = [7; 128];
            assert_eq!(Name::new(name).unwrap().read(&mut room), name);
            assert_ne!(Name::number(name), 0);
        }
        assert_ne!(Name::number(b"orders"), Name::number(b"orders.prod"));
    }
}
