//! Texts that are labels, by number: paths, and ids of other apps.
//!
//! They come from strangers, so there are only so many of them; a text for which there is no room
//! has the number of all others. A text that is known costs one look-up and no allocation.

#![forbid(unsafe_code)]

use crate::limits::{METRIC_NAME_BYTES_MAX, METRIC_NAMES_MAX};
use foldhash::quality::RandomState;
use std::{collections::HashMap, sync::Arc};

#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub(crate) struct NameId(u16);

impl NameId {
    pub(crate) const EMPTY: Self = Self(0);
    pub(crate) const OTHERS: Self = Self(1);

    pub(crate) const fn bits(self) -> u64 {
        self.0 as u64
    }
}

/// Stands for every text for which there was no room. No path and no id looks like it.
pub(crate) const OTHERS: &str = "{other}";

#[derive(Debug)]
pub(crate) struct Names {
    numbers: HashMap<Box<[u8]>, NameId, RandomState>,
    texts: Vec<Arc<str>>,
}

impl Default for Names {
    fn default() -> Self {
        let texts = vec![Arc::from(""), Arc::from(OTHERS)];
        Self { numbers: HashMap::default(), texts }
    }
}

impl Names {
    /// Bytes that are no UTF-8 are told apart, and shown as replacement characters.
    pub(crate) fn intern(&mut self, text: &[u8]) -> NameId {
        if text.is_empty() {
            return NameId::EMPTY;
        }
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = u16::try_from(self.texts.len()).ok();
        let number = number.filter(|number| usize::from(*number) < METRIC_NAMES_MAX);
        let Some(number) = number.filter(|_| text.len() <= METRIC_NAME_BYTES_MAX) else {
            return NameId::OTHERS;
        };
        self.texts.push(String::from_utf8_lossy(text).into());
        self.numbers.insert(text.into(), NameId(number));
        NameId(number)
    }

    pub(crate) fn text(&self, name: NameId) -> &Arc<str> {
        &self.texts[usize::from(name.0)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_an_end_to_them() {
        let mut names = Names::default();
        assert_eq!(names.intern(b""), NameId::EMPTY);
        let first = names.intern(b"/a");
        for number in 0..METRIC_NAMES_MAX {
            names.intern(format!("/{number}").as_bytes());
        }
        assert_eq!(names.texts.len(), METRIC_NAMES_MAX);
        assert_eq!(names.intern(b"/one more"), NameId::OTHERS);
        assert_eq!(names.intern(b"/a"), first);
        assert_eq!(&**names.text(first), "/a");
        assert_eq!(&**names.text(NameId::OTHERS), OTHERS);
    }

    #[test]
    fn a_text_of_any_length_costs_no_more_than_one_of_the_longest() {
        let mut names = Names::default();
        let longest = vec![b'a'; METRIC_NAME_BYTES_MAX];
        assert_ne!(names.intern(&longest), NameId::OTHERS);
        assert_eq!(names.intern(&[longest, vec![b'a']].concat()), NameId::OTHERS);
    }

    #[test]
    fn bytes_that_are_no_text_become_one() {
        let mut names = Names::default();
        let name = names.intern(b"/\xff");
        assert_eq!(&**names.text(name), "/\u{fffd}");
    }
}
