//! Labels of texts that were lately seen, so that a path that comes again and again is not decoded,
//! searched and looked up each time: one short comparison instead.
//!
//! Each text has one place, which it takes from the text before it; what is not here is worked out
//! anew. So it may be forgotten at any time, and must be when apps or their options change.

#![forbid(unsafe_code)]

use crate::limits::{METRIC_MEMO_BYTES_MAX, METRIC_MEMO_TEXTS};

/// By the number of an app, of whose texts it is, and the text.
#[derive(Debug)]
pub(super) struct Memo<T> {
    places: Vec<Place<T>>,
}

#[derive(Clone, Debug, Default)]
struct Place<T> {
    owner: usize,
    /// Empty: nobody's place.
    text: Vec<u8>,
    value: T,
}

impl<T: Copy + Default> Default for Memo<T> {
    fn default() -> Self {
        Self { places: Vec::new() }
    }
}

impl<T: Copy + Default> Memo<T> {
    pub(super) fn find(&self, owner: usize, text: &[u8]) -> Option<T> {
        let place = self.places.get(index_of(owner, text))?;
        (place.owner == owner && !text.is_empty() && *place.text == *text).then_some(place.value)
    }

    pub(super) fn keep(&mut self, owner: usize, text: &[u8], value: T) {
        if text.len() > METRIC_MEMO_BYTES_MAX {
            return;
        }
        if self.places.is_empty() {
            // A worker that measures nothing has none.
            self.places.resize_with(METRIC_MEMO_TEXTS, Place::default);
        }
        let place = &mut self.places[index_of(owner, text)];
        (place.owner, place.value) = (owner, value);
        place.text.clear();
        place.text.extend_from_slice(text);
    }

    pub(super) fn forget_all(&mut self) {
        self.places.clear();
    }
}

/// Texts differ at their ends: in the method, or the id of a thing.
fn index_of(owner: usize, text: &[u8]) -> usize {
    let last = text.last_chunk().map_or(0, |end: &[u8; 8]| u64::from_le_bytes(*end));
    let first = text.first().copied().unwrap_or_default();
    let mixed = last ^ (text.len() as u64) << 32 ^ (owner as u64) << 48 ^ u64::from(first);
    let mixed = mixed.wrapping_mul(GOLDEN) >> (u64::BITS - METRIC_MEMO_TEXTS.ilog2());
    usize::try_from(mixed).expect("it is below the number of places")
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

const _: () = assert!(METRIC_MEMO_TEXTS.is_power_of_two());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_what_it_was_told_last_and_nothing_else() {
        let mut memo = Memo::default();
        assert_eq!(memo.find(0, b""), None::<u32>);
        for number in 0..1000_u32 {
            let text = format!("/orders/{number}");
            memo.keep(1, text.as_bytes(), number);
            assert_eq!(memo.find(1, text.as_bytes()), Some(number));
            assert_eq!(memo.find(2, text.as_bytes()), None, "another app's");
            assert_eq!(memo.find(1, &text.as_bytes()[1..]), None);
        }
        let found = (0..1000).filter(|number| {
            let found = memo.find(1, format!("/orders/{number}").as_bytes());
            assert!(found.is_none_or(|found| found == *number), "{number}: {found:?}");
            found.is_some()
        });
        assert!((1..=METRIC_MEMO_TEXTS).contains(&found.count()));
        assert_eq!(memo.places.len(), METRIC_MEMO_TEXTS);
        memo.forget_all();
        assert_eq!(memo.find(1, b"/orders/999"), None);
    }

    #[test]
    fn long_and_empty_texts_are_not_kept() {
        let mut memo = Memo::default();
        let long = vec![b'a'; METRIC_MEMO_BYTES_MAX + 1];
        memo.keep(0, &long, 1_u32);
        assert_eq!(memo.find(0, &long), None);
        memo.keep(0, b"", 1);
        assert_eq!(memo.find(0, b""), None);
    }
}
