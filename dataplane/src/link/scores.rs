//! What workers think of endpoints, gathered until all of them have answered.

#![forbid(unsafe_code)]

use crate::limits::SCORE_QUERIES_MAX;
use snapshot::wire::Score;
use std::collections::BTreeMap;

/// By query: how many workers are still to answer, and what the others said.
#[derive(Default)]
pub(super) struct Scores(BTreeMap<u64, (usize, Vec<Score>)>);

impl Scores {
    /// `false`: too much is asked at once, and the workers need not be disturbed.
    pub(super) fn begin(&mut self, query: u64, workers: usize) -> bool {
        let has_room = self.0.len() < SCORE_QUERIES_MAX;
        if has_room {
            self.0.insert(query, (workers, Vec::new()));
        }
        has_room
    }

    /// All that was said, once everybody has answered. An answer to a control that left is
    /// nobody's.
    pub(super) fn add(&mut self, query: u64, more: Vec<Score>) -> Option<Vec<Score>> {
        let (left, scores) = self.0.get_mut(&query)?;
        *left = left.saturating_sub(1);
        scores.extend(more);
        if *left > 0 {
            return None;
        }
        self.0.remove(&query).map(|(_, scores)| scores)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use snapshot::{Address, wire::Standing};

    #[test]
    fn an_answer_is_whole_and_questions_are_bounded() {
        let score = |worker: u32| Score {
            worker,
            address: Address::Unix("/x".into()),
            outstanding: 0,
            latency: None,
            standing: Standing::In,
        };
        let mut scores = Scores::default();
        assert_eq!(scores.add(7, vec![score(0)]), None, "nobody asked");
        assert!(scores.begin(7, 2));
        assert_eq!(scores.add(7, vec![score(0)]), None);
        assert_eq!(scores.add(7, vec![score(1)]).map(|scores| scores.len()), Some(2));
        assert_eq!(scores.add(7, vec![score(1)]), None, "it was answered");
        let taken = (0..1000).take_while(|query| scores.begin(*query, 1)).count();
        assert_eq!(taken, SCORE_QUERIES_MAX);
        assert_eq!(scores.add(0, Vec::new()), Some(Vec::new()));
        assert!(scores.begin(1000, 1), "there is room again");
    }
}
