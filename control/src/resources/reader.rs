//! What every kind of resource is read with: keys whatever their case, values with their places,
//! and all problems instead of the first one.

#![forbid(unsafe_code)]

use crate::{
    config::{
        closest, duration,
        file::{FilePlace, Problem, Weight},
    },
    yaml::{Key, Node, Place, Value},
};
use std::{sync::Arc, time::Duration};

pub(super) struct Reader {
    path: Arc<str>,
    pub(super) problems: Vec<Problem>,
}

/// A key that is known, and what stands there.
pub(super) struct Field<'n> {
    pub(super) name: &'static str,
    /// From the root of the document.
    pub(super) path: String,
    pub(super) node: &'n Node,
}

impl Reader {
    pub(super) fn new(path: &str) -> Self {
        Self { path: path.into(), problems: Vec::new() }
    }

    pub(super) fn place(&self, place: Place) -> FilePlace {
        FilePlace::new(Arc::clone(&self.path), Some(place))
    }

    pub(super) fn refuse(&mut self, place: Place, key: &str, message: impl Into<String>) {
        self.problem(place, key, message.into(), None, Weight::Refused);
    }

    pub(super) fn ignore(&mut self, place: Place, key: &str, message: impl Into<String>) {
        self.problem(place, key, message.into(), None, Weight::Ignored);
    }

    fn problem(
        &mut self,
        place: Place,
        key: &str,
        message: String,
        suggestion: Option<String>,
        weight: Weight,
    ) {
        let place = self.place(place);
        self.problems.push(Problem { place, key: key.to_owned(), message, suggestion, weight });
    }

    /// The known keys of a mapping that say anything. Of the others daprd says nothing; here a
    /// misspelt one is named.
    pub(super) fn fields<'n>(
        &mut self,
        node: &'n Node,
        path: &str,
        known: &[&'static str],
    ) -> Vec<Field<'n>> {
        let mut found: Vec<Field<'n>> = Vec::new();
        for (key, node) in self.entries(node, path) {
            let path = join(path, &key.text);
            let Some(name) = known.iter().find(|name| name.eq_ignore_ascii_case(&key.text)) else {
                let names: Vec<String> = known.iter().map(|name| (*name).to_owned()).collect();
                let meant = closest(&key.text, &names).map(|name| format!("is it {name:?}?"));
                let message = "there is no such key; it is ignored, as with daprd".to_owned();
                self.problem(key.place, &path, message, meant, Weight::Ignored);
                continue;
            };
            if found.iter().any(|field| field.name == *name) {
                self.refuse(key.place, &path, "stands here a second time, in another spelling");
            } else if !node.is_null() {
                found.push(Field { name, path, node });
            }
        }
        found
    }

    /// The keys of a mapping, whose names are free.
    pub(super) fn entries<'n>(&mut self, node: &'n Node, path: &str) -> &'n [(Key, Node)] {
        match &node.value {
            Value::Map(entries) => entries,
            Value::Null => &[],
            _ => {
                let message = format!("must be a mapping, not {}", node.kind());
                self.refuse(node.place, path, message);
                &[]
            }
        }
    }

    pub(super) fn text<'n>(&mut self, field: &Field<'n>) -> Option<&'n str> {
        let text = field.node.text();
        if text.is_none() {
            let message = format!("must be a single value, not {}", field.node.kind());
            self.refuse(field.node.place, &field.path, message);
        }
        text
    }

    pub(super) fn texts(&mut self, field: &Field<'_>) -> Vec<String> {
        match &field.node.value {
            Value::Sequence(nodes) if nodes.iter().all(|node| node.text().is_some()) => {
                nodes.iter().filter_map(|node| node.text().map(str::to_owned)).collect()
            }
            _ => {
                self.refuse(field.node.place, &field.path, "must be a list of names");
                Vec::new()
            }
        }
    }

    /// What is in a list.
    pub(super) fn items<'n>(&mut self, field: &Field<'n>) -> &'n [Node] {
        match &field.node.value {
            Value::Sequence(nodes) => nodes,
            Value::Null => &[],
            _ => {
                let message = format!("must be a list, not {}", field.node.kind());
                self.refuse(field.node.place, &field.path, message);
                &[]
            }
        }
    }

    pub(super) fn number<N: std::str::FromStr>(
        &mut self,
        field: &Field<'_>,
        what: &str,
    ) -> Option<N> {
        let text = self.text(field)?;
        let number = text.parse().ok();
        if number.is_none() {
            let message = format!("{text:?} is no {what}");
            self.refuse(field.node.place, &field.path, message);
        }
        number
    }

    /// Go's notation, or a bare number of milliseconds.
    pub(super) fn duration(&mut self, field: &Field<'_>) -> Option<Duration> {
        let text = self.text(field)?;
        if let Ok(ms) = text.parse::<u64>() {
            return Some(Duration::from_millis(ms));
        }
        match duration::parse(text) {
            Ok(time) => Some(time),
            Err(e) => {
                self.refuse(field.node.place, &field.path, e.to_string());
                None
            }
        }
    }
}

pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}
