//! A part of a Configuration file with a reader of its own: its mappings, lists and texts, each
//! problem with place and key.
//!
//! daprd ignores a key that it does not know, and so does this, with a word about what was meant.

#![forbid(unsafe_code)]

use super::{
    closest,
    file::{FilePlace, Problem, Weight},
};
use crate::yaml::{Node, Place, Value};
use std::sync::Arc;

pub(super) struct Section<'a> {
    path: &'a Arc<str>,
    pub(super) problems: &'a mut Vec<Problem>,
}

impl<'a> Section<'a> {
    pub(super) const fn new(path: &'a Arc<str>, problems: &'a mut Vec<Problem>) -> Self {
        Self { path, problems }
    }

    pub(super) fn place(&self, place: Place) -> FilePlace {
        FilePlace::new(Arc::clone(self.path), Some(place))
    }

    pub(super) fn refuse(&mut self, place: Place, key: &str, message: impl Into<String>) {
        self.problem(place, key, message.into(), Weight::Refused);
    }

    /// It is done as daprd does it, and probably not as it was meant.
    pub(super) fn doubt(&mut self, place: Place, key: &str, message: impl Into<String>) {
        self.problem(place, key, message.into(), Weight::Ignored);
    }

    fn problem(&mut self, place: Place, key: &str, message: String, weight: Weight) {
        let (place, key) = (self.place(place), key.to_owned());
        self.problems.push(Problem { place, key, message, suggestion: None, weight });
    }

    /// The known keys of a mapping in the order of the file, without those that stand for nothing.
    pub(super) fn entries<'n>(
        &mut self,
        node: &'n Node,
        key: &str,
        known: &[&'static str],
    ) -> Vec<(&'static str, &'n Node)> {
        let entries = match &node.value {
            Value::Map(entries) => entries,
            Value::Null => return Vec::new(),
            _ => {
                self.refuse(node.place, key, format!("must be a mapping, not {}", node.kind()));
                return Vec::new();
            }
        };
        let mut found = Vec::new();
        for (name, child) in entries {
            match known.iter().find(|known| **known == name.text) {
                Some(_) if child.is_null() => {}
                Some(known) => found.push((*known, child)),
                None => {
                    let message = "there is no such key; it is ignored, as with daprd";
                    self.doubt(name.place, &format!("{key}.{}", name.text), message);
                    let names: Vec<String> = known.iter().map(ToString::to_string).collect();
                    let meant = closest(&name.text, &names);
                    if let Some(problem) = self.problems.last_mut() {
                        problem.suggestion = meant.map(|name| format!("is it {name:?}?"));
                    }
                }
            }
        }
        found
    }

    pub(super) fn items<'n>(&mut self, node: &'n Node, key: &str) -> &'n [Node] {
        match &node.value {
            Value::Sequence(items) => items,
            Value::Null => &[],
            _ => {
                self.refuse(node.place, key, format!("must be a list, not {}", node.kind()));
                &[]
            }
        }
    }

    /// Empty for nothing, as daprd reads it.
    pub(super) fn text(&mut self, node: &Node, key: &str) -> String {
        match &node.value {
            Value::Text(text) => text.clone(),
            Value::Null => String::new(),
            _ => {
                self.refuse(
                    node.place,
                    key,
                    format!("must be a single value, not {}", node.kind()),
                );
                String::new()
            }
        }
    }
}
