//! The options of a component, each as the value that it must be.

#![forbid(unsafe_code)]

use super::Reader;
use crate::{
    config::duration,
    yaml::{Key, Node, Place, Value},
};
use std::time::Duration;

/// The options of one component. Each is taken once; what is left over is not known.
pub(super) struct Options<'a> {
    pub(super) component: &'a str,
    pub(super) place: Place,
    pub(super) entries: Vec<&'a (Key, Node)>,
}

impl<'a> Options<'a> {
    /// Names are compared without case, as daprd does.
    pub(super) fn take(&mut self, name: &str) -> Option<&'a Node> {
        let at = self.entries.iter().position(|(key, _)| key.text.eq_ignore_ascii_case(name))?;
        let (_, node) = self.entries.remove(at);
        (!node.is_null()).then_some(node)
    }
}

impl Reader {
    pub(super) fn flag(&mut self, options: &mut Options<'_>, name: &str) -> bool {
        let Some((text, place)) = self.text_at(options, name) else { return false };
        match text.to_ascii_lowercase().as_str() {
            "false" | "0" | "no" | "n" | "f" | "off" => false,
            "true" | "1" | "yes" | "y" | "t" | "on" => true,
            _ => {
                let component = options.component;
                let message = format!("{component}: {name} {text:?} is neither true nor false");
                self.problem(place, message);
                false
            }
        }
    }

    pub(super) fn required(&mut self, options: &mut Options<'_>, name: &str) -> Option<String> {
        let count = self.problems.len();
        let text = self.text(options, name).filter(|text| !text.is_empty());
        if text.is_none() && self.problems.len() == count {
            self.problem(options.place, format_args!("{}: {name} is missing", options.component));
        }
        text
    }

    pub(super) fn text(&mut self, options: &mut Options<'_>, name: &str) -> Option<String> {
        self.text_at(options, name).map(|(text, _)| text)
    }

    pub(super) fn text_at(
        &mut self,
        options: &mut Options<'_>,
        name: &str,
    ) -> Option<(String, Place)> {
        let node = options.take(name)?;
        let text = node.text().map(|text| (text.to_owned(), node.place));
        if text.is_none() {
            let message = format!(
                "{}: {name} must be a single value, not {}",
                options.component,
                node.kind()
            );
            self.problem(node.place, message);
        }
        text
    }

    /// A list, or one text with commas.
    pub(super) fn texts(&mut self, node: &Node, what: &str) -> Vec<(String, Place)> {
        match &node.value {
            Value::Text(text) => {
                let texts = text.split(',').map(str::trim).filter(|text| !text.is_empty());
                texts.map(|text| (text.to_owned(), node.place)).collect()
            }
            Value::Sequence(nodes) => {
                let mut texts = Vec::new();
                for node in nodes {
                    match node.text() {
                        Some(text) => texts.push((text.to_owned(), node.place)),
                        None => self.problem(
                            node.place,
                            format_args!("{what}: expected a text, found {}", node.kind()),
                        ),
                    }
                }
                texts
            }
            _ => {
                self.problem(
                    node.place,
                    format_args!("{what} must be a list, not {}", node.kind()),
                );
                Vec::new()
            }
        }
    }

    /// A Go duration, or seconds.
    pub(super) fn duration(
        &mut self,
        options: &mut Options<'_>,
        name: &str,
        default: Duration,
    ) -> Duration {
        let Some((text, place)) = self.text_at(options, name) else { return default };
        if let Ok(seconds) = text.parse::<u32>() {
            return Duration::from_secs(seconds.into());
        }
        match duration::parse(&text) {
            Ok(duration) => duration,
            Err(e) => {
                self.problem(place, format_args!("{}: {name}: {e}", options.component));
                default
            }
        }
    }

    pub(super) fn seconds(
        &mut self,
        options: &mut Options<'_>,
        name: &str,
        default: Duration,
    ) -> Duration {
        let duration = self.duration(options, name, default);
        if duration.subsec_nanos() != 0 {
            let message = format!("{}: {name} must be whole seconds", options.component);
            self.problem(options.place, message);
        }
        duration
    }
}
