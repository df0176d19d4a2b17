//! The verbs of a route, as an answer names them in `Allow` lines.

#![forbid(unsafe_code)]

use std::fmt;

/// Of those that daprd's routes have.
#[derive(Clone, Copy, Default, Eq, PartialEq)]
pub struct Methods(u8);

const NAMES: [&str; 4] = ["DELETE", "GET", "POST", "PUT"];

impl Methods {
    pub fn of<'a>(names: impl IntoIterator<Item = &'a &'a str>) -> Self {
        let bit = |name: &&str| NAMES.iter().position(|known| *known == *name);
        Self(names.into_iter().filter_map(bit).fold(0, |bits, at| bits | 1 << at))
    }

    fn names(self) -> impl Iterator<Item = &'static str> {
        NAMES.into_iter().enumerate().filter(move |(at, _)| self.0 >> at & 1 == 1).map(|(_, n)| n)
    }

    /// Appends a line for each. Go's router (chi 5.2) writes them in no order of its own.
    pub fn write_lines(self, out: &mut Vec<u8>) {
        for name in self.names() {
            for part in ["Allow: ", name, "\r\n"] {
                out.extend_from_slice(part.as_bytes());
            }
        }
    }
}

impl fmt::Debug for Methods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Methods").field(&self.names().collect::<Vec<_>>().join(" ")).finish()
    }
}
