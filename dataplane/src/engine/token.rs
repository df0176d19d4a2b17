//! What the kernel hands back with an event, packed into its 64 bits of user data: which operation,
//! on whom.
//!
//! The generation lets a late event of a closed socket miss the next one at the same index.

#![forbid(unsafe_code)]

/// `kind | generation | index`, 4 + 28 + 32 bits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) index: u32,
    /// Below [`GENERATIONS`].
    pub(super) generation: u32,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Accept,
    /// An operation whose own outcome does not matter.
    Cancel,
    Connect,
    Receive,
    Send,
    /// All readiness of a socket, where the backend does not tell operations apart.
    Socket,
    Wake,
}

impl Token {
    pub(super) const fn pack(self) -> u64 {
        debug_assert!(self.generation < GENERATIONS);
        (self.kind as u64) << 60 | (self.generation as u64) << 32 | self.index as u64
    }

    /// `None` for bits that no token packs to.
    pub(super) fn unpack(bits: u64) -> Option<Self> {
        let kind = *Kind::ALL.get(usize::try_from(bits >> 60).ok()?)?;
        let generation = u32::try_from((bits >> 32) & u64::from(GENERATIONS - 1)).ok()?;
        let index = u32::try_from(bits & u64::from(u32::MAX)).ok()?;
        Some(Self { kind, index, generation })
    }
}

impl Kind {
    const ALL: [Self; 7] = [
        Self::Accept,
        Self::Cancel,
        Self::Connect,
        Self::Receive,
        Self::Send,
        Self::Socket,
        Self::Wake,
    ];
}

/// Generations wrap here.
pub(super) const GENERATIONS: u32 = 1 << 28;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unpacks_what_it_packed() {
        assert_eq!(Token::unpack(u64::MAX), None);
        assert_eq!(Token::unpack(7 << 60), None);
        for kind in Kind::ALL {
            for (index, generation) in [(0, 0), (1, 2), (u32::MAX, GENERATIONS - 1)] {
                let token = Token { kind, index, generation };
                assert_eq!(Token::unpack(token.pack()), Some(token));
            }
        }
    }
}
