//! What a completion belongs to, packed into the 64 bits the kernel hands back.

/// Slots of pairs are reused only after the last completion of all their operations, so a token
/// needs no generation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Token {
    Accept,
    Receive(Side),
    Send(Side),
}

/// One of the two sockets of a pair: the one that is read for `Receive`, written for `Send`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Side {
    pub(crate) pair: u32,
    pub(crate) end: usize,
}

impl Token {
    pub(crate) fn pack(self) -> u64 {
        let pack = |side: Side, kind: u64| {
            (u64::from(side.pair) << 32) | (u64::from(side.end == 1) << 8) | kind
        };
        match self {
            Self::Accept => 0,
            Self::Receive(side) => pack(side, 1),
            Self::Send(side) => pack(side, 2),
        }
    }

    pub(crate) fn unpack(bits: u64) -> Self {
        let pair = u32::try_from(bits >> 32).unwrap_or(u32::MAX);
        let side = Side { pair, end: usize::from(bits & 0x100 != 0) };
        match bits & 0xff {
            0 => Self::Accept,
            1 => Self::Receive(side),
            _ => Self::Send(side),
        }
    }
}

impl Side {
    pub(crate) fn other(self) -> Self {
        Self { end: 1 - self.end, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unpacks_what_was_packed() {
        for pair in [0, 1, u32::MAX] {
            for end in [0, 1] {
                let side = Side { pair, end };
                for token in [Token::Accept, Token::Receive(side), Token::Send(side)] {
                    assert_eq!(Token::unpack(token.pack()), token);
                }
            }
        }
    }
}
