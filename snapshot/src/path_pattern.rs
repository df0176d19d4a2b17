//! Patterns of paths, in the language of Go 1.22's `ServeMux`: `/orders/{id}`, `/files/{path...}`,
//! `/exactly/{$}`, and `/below/`, which stands for everything below it.
//!
//! A pattern that exists is valid: whoever has one can match with it and need not check it.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Longest pattern, and most segments of one. A route in a program has fewer.
const PATTERN_BYTES_MAX: usize = 512;
const PATTERN_SEGMENTS_MAX: usize = 32;

#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PathPattern {
    text: String,
    segments: Vec<Segment>,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Segment {
    /// `{$}`: the path ends here, with a slash.
    End,
    Literal(Box<str>),
    /// `{name...}` or a slash at the end: all that follows, or nothing.
    Rest,
    /// `{name}`: one segment that is not empty.
    Wildcard,
}

#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PatternError {
    #[error("a pattern begins with a slash")]
    NoSlash,
    #[error("a pattern has at most {PATTERN_BYTES_MAX} bytes")]
    TooLong,
    #[error("a pattern has at most {PATTERN_SEGMENTS_MAX} segments")]
    TooManySegments,
    #[error("{0:?}: a wildcard is a whole segment, such as {{id}}")]
    PartOfSegment(String),
    #[error("{0:?}: what is between the braces is no name")]
    BadName(String),
    #[error("{0:?} names two wildcards")]
    NameTwice(String),
    #[error("{0:?} must be the last segment")]
    NotLast(String),
    #[error("an empty segment matches no path, for slashes are merged first")]
    EmptySegment,
}

impl PathPattern {
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.len() > PATTERN_BYTES_MAX {
            return Err(PatternError::TooLong);
        }
        let path = text.strip_prefix('/').ok_or(PatternError::NoSlash)?;
        let parts: Vec<&str> = path.split('/').collect();
        if parts.len() > PATTERN_SEGMENTS_MAX {
            return Err(PatternError::TooManySegments);
        }
        let last = parts.len() - 1;
        let mut names = Vec::new();
        let mut segments = Vec::with_capacity(parts.len());
        for (index, part) in parts.into_iter().enumerate() {
            let segment = match part {
                "" if index == last => Segment::Rest,
                "" => return Err(PatternError::EmptySegment),
                part => parse_segment(part, &mut names)?,
            };
            if index != last && matches!(segment, Segment::End | Segment::Rest) {
                return Err(PatternError::NotLast(part.to_owned()));
            }
            segments.push(segment);
        }
        Ok(Self { text: text.to_owned(), segments })
    }

    /// As it was written; it is a label so.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }
}

fn parse_segment<'a>(part: &'a str, names: &mut Vec<&'a str>) -> Result<Segment, PatternError> {
    if !part.contains(['{', '}']) {
        return Ok(Segment::Literal(part.into()));
    }
    let inner = part.strip_prefix('{').and_then(|part| part.strip_suffix('}'));
    let inner = inner.ok_or_else(|| PatternError::PartOfSegment(part.to_owned()))?;
    if inner.contains(['{', '}']) {
        return Err(PatternError::PartOfSegment(part.to_owned()));
    }
    if inner == "$" {
        return Ok(Segment::End);
    }
    let (name, segment) = match inner.strip_suffix("...") {
        Some(name) => (name, Segment::Rest),
        None => (inner, Segment::Wildcard),
    };
    let is_letter = |c: char| c == '_' || c.is_alphabetic();
    let is_name =
        name.starts_with(is_letter) && name.chars().all(|c| is_letter(c) || c.is_numeric());
    if !is_name {
        return Err(PatternError::BadName(part.to_owned()));
    }
    if names.contains(&name) {
        return Err(PatternError::NameTwice(name.to_owned()));
    }
    names.push(name);
    Ok(segment)
}

impl TryFrom<String> for PathPattern {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, PatternError> {
        Self::parse(&text)
    }
}

impl From<PathPattern> for String {
    fn from(pattern: PathPattern) -> Self {
        pattern.text
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_go_refuses() {
        for (text, want) in [
            ("", PatternError::NoSlash),
            ("orders", PatternError::NoSlash),
            ("GET /orders", PatternError::NoSlash),
            ("/a//b", PatternError::EmptySegment),
            ("/a/{id", PatternError::PartOfSegment("{id".into())),
            ("/a/x{id}", PatternError::PartOfSegment("x{id}".into())),
            ("/a/{id}x", PatternError::PartOfSegment("{id}x".into())),
            ("/a/{{id}}", PatternError::PartOfSegment("{{id}}".into())),
            ("/a/{}", PatternError::BadName("{}".into())),
            ("/a/{1d}", PatternError::BadName("{1d}".into())),
            ("/a/{a-b}", PatternError::BadName("{a-b}".into())),
            ("/a/{...}", PatternError::BadName("{...}".into())),
            ("/{id}/{id}", PatternError::NameTwice("id".into())),
            ("/{path...}/b", PatternError::NotLast("{path...}".into())),
            ("/{$}/b", PatternError::NotLast("{$}".into())),
        ] {
            assert_eq!(PathPattern::parse(text), Err(want), "{text:?}");
        }
        let long = format!("/{}", "a".repeat(PATTERN_BYTES_MAX));
        assert_eq!(PathPattern::parse(&long), Err(PatternError::TooLong));
        let deep = "/a".repeat(PATTERN_SEGMENTS_MAX + 1);
        assert_eq!(PathPattern::parse(&deep), Err(PatternError::TooManySegments));
    }

    #[test]
    fn reads_segments() {
        let literal = |text: &str| Segment::Literal(text.into());
        for (text, want) in [
            ("/", vec![Segment::Rest]),
            ("/{$}", vec![Segment::End]),
            ("/orders", vec![literal("orders")]),
            ("/orders/", vec![literal("orders"), Segment::Rest]),
            ("/orders/{id}", vec![literal("orders"), Segment::Wildcard]),
            ("/f/{rest...}", vec![literal("f"), Segment::Rest]),
            ("/a/{x}/b/{$}", vec![literal("a"), Segment::Wildcard, literal("b"), Segment::End]),
        ] {
            assert_eq!(PathPattern::parse(text).unwrap().segments(), want, "{text}");
        }
    }
}
