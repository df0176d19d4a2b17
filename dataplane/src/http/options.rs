//! The `Connection` field: what its sender wants of this connection, and which lines concern only
//! it.
//!
//! RFC 9110 §7.6.1: an intermediary removes the lines that `Connection` names, in both directions.

#![forbid(unsafe_code)]

use super::{
    field::Field,
    head::{HeadError, Line, Lines, Version, trim},
};
use crate::limits::CONNECTION_OPTIONS_MAX;

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Options {
    close: bool,
    keep_alive: bool,
    pub(super) upgrade: bool,
}

impl Options {
    /// Reads all `Connection` lines and marks the lines that they name.
    #[inline]
    pub(super) fn read(lines: &mut Lines, head: &[u8]) -> Result<Self, HeadError> {
        if lines.has(Field::Connection) { Self::read_all(lines, head) } else { Ok(Self::default()) }
    }

    fn read_all(lines: &mut Lines, head: &[u8]) -> Result<Self, HeadError> {
        let mut options = Self::default();
        let mut count = 0;
        for index in 0..lines.as_slice().len() {
            let line = lines.as_slice()[index];
            if line.field != Field::Connection {
                continue;
            }
            for option in line.value.of(head).split(|byte| *byte == b',') {
                count += 1;
                if count > CONNECTION_OPTIONS_MAX {
                    return Err(HeadError::TooManyOptions);
                }
                let option = trim(option);
                if !options.note(option) {
                    lines.nominate(option);
                }
                nominate(lines.as_mut_slice(), head, option);
            }
        }
        Ok(options)
    }

    /// False: it is the name of a field.
    fn note(&mut self, option: &[u8]) -> bool {
        if option.eq_ignore_ascii_case(b"close") {
            self.close = true;
        } else if option.eq_ignore_ascii_case(b"keep-alive") {
            self.keep_alive = true;
        } else if option.eq_ignore_ascii_case(b"upgrade") {
            self.upgrade = true;
        } else {
            return option.is_empty();
        }
        true
    }

    /// RFC 9112 §9.3: `close` wins; otherwise 1.1 stays, 1.0 stays if asked to.
    pub(super) fn keeps_alive(self, version: Version) -> bool {
        !self.close && (version == Version::Http11 || self.keep_alive)
    }
}

fn nominate(lines: &mut [Line], head: &[u8], option: &[u8]) {
    for line in lines {
        let is_fixed =
            matches!(line.field, Field::ContentLength | Field::Host | Field::TransferEncoding);
        if line.name.len() == option.len()
            && !is_fixed
            && line.name.of(head).eq_ignore_ascii_case(option)
        {
            line.nominated = true;
        }
    }
}
